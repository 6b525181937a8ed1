"""The kinds of resolver that are known, by software and version."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rootsrv.resolvers import bind, knot_resolver, powerdns, unbound
from rootsrv.resolvers.wanted import ResolverSetup


@dataclass(frozen=True, slots=True)
class Software:
    """One kind of resolver."""

    title: str
    make: Callable[[ResolverSetup, str], str]
    """What is wanted and the directory for what the resolver keeps → its configuration."""

    file: Path
    """Where its package looks for the part, or is told to by one line."""

    storage: str
    """The directory in which its package lets it write."""

    then: str
    """What is left to do; {file} is where the part stands."""

    checked: bool = True
    """Whether the tests put it before the software itself, of that version."""

    def configuration(self, wanted: ResolverSetup) -> str:
        """The text; CannotConfigure says what the software cannot do."""
        return self.make(wanted, wanted.storage or self.storage)


_BIND_THEN = (
    'add to named.conf: include "{file}"; remove the zone "." of type hint (Debian: in named.conf.default-zones);'
    " named-checkconf && systemctl reload named"
)


def _opnsense(wanted: ResolverSetup, storage: str) -> str:
    return unbound.configuration(wanted, storage, certificates="/usr/local/etc/ssl/cert.pem")


def _pi_hole(wanted: ResolverSetup, storage: str) -> str:
    listening = "    interface: 127.0.0.1\n    port: 5335"
    return unbound.configuration(wanted, storage, server=listening)


SOFTWARE: Mapping[str, Software] = {
    "unbound": Software(
        "Unbound 1.17 … 1.26",
        unbound.configuration,
        Path("/etc/unbound/unbound.conf.d/rootsrv-root.conf"),
        "/var/lib/unbound",
        "unbound-checkconf && systemctl reload unbound",
    ),
    "bind": Software(
        "BIND 9.18, 9.20",
        bind.configuration,
        Path("/etc/bind/rootsrv-root.conf"),
        "/var/cache/bind",
        _BIND_THEN,
    ),
    "kresd": Software(
        "Knot Resolver 5",
        knot_resolver.configuration_5,
        Path("/etc/knot-resolver/rootsrv-root.conf"),
        "/var/cache/knot-resolver",
        "add to kresd.conf: dofile('{file}'); systemctl restart 'kresd@*'",
    ),
    "kresd6": Software(
        "Knot Resolver 6",
        knot_resolver.configuration_6,
        Path("/etc/knot-resolver/rootsrv-root.yaml"),
        "/var/cache/knot-resolver",
        "put it into config.yaml; kresctl validate /etc/knot-resolver/config.yaml && systemctl restart knot-resolver",
        checked=False,
    ),
    "pdns": Software(
        "PowerDNS Recursor 4.8",
        powerdns.configuration_4,
        Path("/etc/powerdns/rootsrv-root.lua"),
        "/var/lib/powerdns",
        "set lua-config-file={file} in recursor.conf or, where it names a file already (it takes one alone), add to"
        ' that: dofile("{file}"); systemctl restart pdns-recursor',
    ),
    "pdns5": Software(
        "PowerDNS Recursor 5",
        powerdns.configuration_5,
        Path("/etc/powerdns/recursor.d/rootsrv-root.yml"),
        "/var/lib/powerdns",
        "systemctl restart pdns-recursor",
    ),
    "opnsense": Software(
        "OPNsense's Unbound",
        _opnsense,
        Path("/usr/local/etc/unbound.opnsense.d/rootsrv-root.conf"),
        "/var/unbound",
        "configctl unbound check && configctl unbound restart",
        checked=False,
    ),
    "pihole": Software(
        "Pi-hole's Unbound",
        _pi_hole,
        Path("/etc/unbound/unbound.conf.d/rootsrv-root.conf"),
        "/var/lib/unbound",
        "unbound-checkconf && systemctl reload unbound",
        checked=False,
    ),
}
"""By the name that a command takes."""
