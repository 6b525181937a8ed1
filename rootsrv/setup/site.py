"""A site: everything that differs from box to box, checked as a whole.

Kept as `site.toml` beside the configuration: the answers of `rootsrv setup`, which makes the other files from them.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from rootsrv.config.checks import ConfigError
from rootsrv.setup import remembered

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAnswers:
    """The answers; ConfigError names the one that cannot be right."""

    name: str
    """How this instance calls itself: NSID, hostname.bind (RFC 4892, RFC 5001)."""

    admin_interface: str
    """Zones in, metrics and shell out; never a query (RFC 3258 §2.2)."""

    admin_addresses: tuple[str, ...]
    management: tuple[str, ...]
    """Prefixes that may reach the shell and the metrics."""

    service_interface: str
    """Queries in, responses out, and the session with the router."""

    link_addresses: tuple[str, ...]
    """Of this box on the link to the router."""

    routers: tuple[str, ...]
    """The other end of the link: neighbour of the BGP session and way out."""

    service_addresses: tuple[str, ...]
    """The shared unicast addresses."""

    prefixes: tuple[str, ...]
    """What is announced: one prefix for each IP version, with the service addresses in it."""

    local_as: int
    router_as: int
    session_password: str
    """Of the BGP session (RFC 2385)."""

    reach: Literal["global", "local"] = "global"
    """"local": for the neighbour's own network and nobody behind it (NO_EXPORT, RFC 1997)."""

    primaries: tuple[str, ...]
    """`ADDRESS` or `ADDRESS@KEY`, where /etc/rootsrv/keys/KEY has the TSIG secret in base64."""

    peers: tuple[str, ...] = ()
    """Addresses that fetch zones from here besides: open in the packet filter."""

    cookie_secret: str = ""
    """32 hexadecimal digits, the same on all instances of the service addresses."""

    sources_key: str = ""
    """32 hexadecimal digits, under which unique sources are counted: the same on all instances of the service."""

    mesh: str = ""
    """A file with the [mesh] section that `rootsrv mesh join` has printed; empty = no mesh."""

    def __post_init__(self) -> None:
        if not self.name or len(self.name.encode()) > 128:
            raise ConfigError("name: must have 1 to 128 octets")
        for key in ("admin_interface", "service_interface"):
            if not re.fullmatch(r"[^\s/\"'\\]{1,15}", getattr(self, key)):
                raise ConfigError(f"{key}: {getattr(self, key)!r} is not a name of an interface")
        if self.admin_interface == self.service_interface:
            raise ConfigError("service_interface: must be another one than admin_interface: the two sides never meet")
        for key in ("admin_addresses", "link_addresses", "routers", "service_addresses", "peers"):
            check_hosts(key, getattr(self, key))
        for key in ("management", "prefixes"):
            _networks(key, getattr(self, key))
        self._check_families()
        for key in ("local_as", "router_as"):
            if not 1 <= getattr(self, key) <= 4_294_967_294:
                raise ConfigError(f"{key}: must be an AS number, 1 to 4294967294, got {getattr(self, key)}")
        # It stands in quotes in BIRD's configuration, and is 80 octets at most in Linux (TCP_MD5SIG_MAXKEYLEN).
        if not re.fullmatch(r"[!#-\[\]-~]{1,80}", self.session_password):
            raise ConfigError("session_password: must be 1 to 80 ASCII characters without blank, quotes and backslash")
        check_primaries(self.primaries)
        for key in SECRETS:
            if getattr(self, key) and not re.fullmatch(r"[0-9a-fA-F]{32}", getattr(self, key)):
                raise ConfigError(f"{key}: must be 32 hexadecimal digits")

    def _check_families(self) -> None:
        """Each IP version that is served has a prefix, a link and a router; nothing is on both sides."""
        own = {*self.admin_addresses, *self.link_addresses}
        for address in self.service_addresses:
            if address in own:
                raise ConfigError(f"service_addresses: {address} is also an address of this box")
        if not self.service_addresses:
            raise ConfigError("service_addresses: at least one address is needed")
        if not self.management:
            raise ConfigError("management: must not be empty: nobody could get in any more")
        if not self.admin_addresses:
            raise ConfigError("admin_addresses: must not be empty")
        for version in (4, 6):
            served = of_version(version, self.service_addresses)
            announced = [each for each in self.prefixes if ipaddress.ip_network(each).version == version]
            if len(announced) != bool(served):
                wanted = "one is needed" if served else "no service address needs one"
                raise ConfigError(f"prefixes: {len(announced)} of IPv{version}, and {wanted}")
            if not served:
                continue
            for address in served:
                if ipaddress.ip_address(address) not in ipaddress.ip_network(announced[0]):
                    raise ConfigError(f"prefixes: {address} does not lie in {announced[0]}")
            for key in ("link_addresses", "routers"):
                if len(of_version(version, getattr(self, key))) != 1:
                    raise ConfigError(
                        f"{key}: one of IPv{version} is needed, as there is a service address of IPv{version}"
                    )

    def versions(self) -> tuple[int, ...]:
        """The IP versions that are served."""
        return tuple(version for version in (4, 6) if of_version(version, self.service_addresses))


def of_version(version: int, addresses: tuple[str, ...]) -> list[str]:
    """Those of *addresses* that are of IP *version*."""
    return [each for each in addresses if ipaddress.ip_address(each).version == version]


def check_primaries(values: tuple[str, ...]) -> None:
    """ConfigError unless each is `ADDRESS` or `ADDRESS@KEY`, and there is one."""
    if not values:
        raise ConfigError("primaries: at least one is needed, or zones come from files alone")
    for each in values:
        address, at, key = each.partition("@")
        check_hosts("primaries", (address,))
        if at and not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", key):
            raise ConfigError(f"primaries: {each!r}: {key!r} is not a name of a key")


def check_hosts(key: str, values: tuple[str, ...]) -> None:
    """ConfigError names *key* unless each of *values* is an address of one host, as it is written usually."""
    for each in values:
        try:
            address = ipaddress.ip_address(each)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
        if address.version == 6 and address.ipv4_mapped:
            raise ConfigError(f"{key}: {each}: write {address.ipv4_mapped}")
        if str(address) != each:
            raise ConfigError(f"{key}: {each}: write {address}")
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            raise ConfigError(f"{key}: {each} is not an address of one host")
    if len(set(values)) != len(values):
        raise ConfigError(f"{key}: one is there twice")


def _networks(key: str, values: tuple[str, ...]) -> None:
    for each in values:
        try:
            ipaddress.ip_network(each)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error


NUMBERS = ("local_as", "router_as")

SECRETS = ("cookie_secret", "sources_key")
"""Those that are made where nobody has one yet: 16 octets in hexadecimal digits."""


def to_text(site: SiteAnswers) -> str:
    """As `remembered.load` reads it."""
    title = "The answers of `rootsrv setup`, which has made rootsrv.toml, network.conf and bird.conf from them."
    return remembered.to_text(site, title)
