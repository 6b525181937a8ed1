"""Unbound's configuration (unbound.conf(5)); OPNsense's and Pi-hole's Unbound are the same program elsewhere."""
# Tried: Unbound knows no TSIG; without `zonemd-check` it takes a root whose glue was changed; `for-downstream: yes`
# breaks resolution; with a URL alone it loads all of it at each refresh; it takes NOTIFY from `allow-notify` only; it
# asks for the SOA from `outgoing-interface`, and transfers from whichever address the system takes.

import ipaddress

from rootsrv.resolvers.wanted import CannotConfigure, Publisher, ResolverSetup

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

_HEAD = "# Unbound: the root (RFC 8806), verified by ZONEMD.  The root servers are asked when the copy is over."

_HARDENED = """\
    # Validation is on where there is a trust anchor.  Names are not told to those who need not know (RFC 9156), and
    # what a signed zone says does not exist is not asked for again (RFC 8198).
    aggressive-nsec: yes
    qname-minimisation: yes
    harden-dnssec-stripped: yes
    harden-below-nxdomain: yes
"""

_SOURCE = (
    "# Transfers come from whichever address the system takes for the publisher (`ip route get ADDRESS`), whatever",
    "# outgoing-interface says; where the publisher knows this server by its addresses, it has to know that one.",
)


def configuration(wanted: ResolverSetup, storage: str, certificates: str = _CERTIFICATES, server: str = "") -> str:
    """The text; *server*: lines for `server:` of a whole one."""
    if wanted.url and not wanted.publishers:
        raise CannotConfigure("Unbound loads all of a url at each refresh: it needs a publisher beside it")
    over_tls = any(each.tls_name for each in (*wanted.publishers, *wanted.fallbacks))
    lines = [_HEAD, "server:"]
    if wanted.whole:
        lines += [f'    directory: "{storage}"', '    module-config: "validator iterator"']
        lines += [f'    auto-trust-anchor-file: "{storage}/root.key"', *server.splitlines()]
    lines += _HARDENED.splitlines()
    if over_tls:
        lines.append(f'    tls-cert-bundle: "{certificates}"')
    lines += [f'    local-zone: "{each}" static' for each in wanted.zones()]
    # Who may not ask at all is answered REFUSED to NOTIFY as well, before `allow-notify` is looked at (1.17).
    addresses = dict.fromkeys(ipaddress.ip_address(each.address) for each in wanted.publishers)
    lines += [
        f"    access-control: {each}/{each.max_prefixlen} refuse_non_local"
        for each in addresses
        if not each.is_loopback
    ]
    lines += _SOURCE if any(not each.is_loopback for each in addresses) else ()
    lines += _auth_zone(wanted, ".", "root", storage)
    if wanted.hosts:
        lines += _auth_zone(wanted, "root-servers.net.", "hosts", storage)
    if wanted.canary:
        lines += _auth_zone(wanted, wanted.canary, "canary", storage)
    return "\n".join(lines) + "\n"


def _auth_zone(wanted: ResolverSetup, zone: str, file: str, storage: str) -> list[str]:
    is_root, is_unsigned = zone == ".", file == "hosts"
    lines = ["auth-zone:", f'    name: "{zone}"']
    # Unsigned hosts come from whom TLS proves, and from nobody else.
    publishers = tuple(each for each in wanted.publishers if each.tls_name) if is_unsigned else wanted.publishers
    if not publishers:
        raise CannotConfigure("hosts: Unbound knows no TSIG, so root-servers.net needs TLS")
    lines += [f"    primary: {_place(each)}" for each in (*publishers, *(wanted.fallbacks if is_root else ()))]
    if wanted.url and is_root:
        lines.append(f'    url: "{wanted.url}"')
    lines += [f"    allow-notify: {each.address}" for each in publishers]
    lines += ["    fallback-enabled: yes", "    for-downstream: no", "    for-upstream: yes"]
    if is_root:
        lines += ["    zonemd-check: yes", "    zonemd-reject-absence: yes"]
    return [*lines, f'    zonefile: "{storage}/rootsrv-{file}.zone"']


def _place(publisher: Publisher) -> str:
    name = f"#{publisher.tls_name}" if publisher.tls_name else ""
    return f"{publisher.address}@{publisher.port}{name}"
