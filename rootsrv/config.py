"""Configuration: TOML → frozen dataclasses; an error names the key.

Every section is a dataclass whose fields are the keys, with their defaults and, as docstrings, their meaning and unit.
`read` turns the parsed TOML into them generically: unknown keys, wrong types and bad values are `ConfigError`s that
begin with the dotted key.
"""

import dataclasses
import ipaddress
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rootsrv.config_checks import ConfigError
from rootsrv.config_checks import check_addresses as _check_addresses
from rootsrv.config_checks import check_range as _check_range
from rootsrv.config_secondary import (
    AdminConfig,
    ClockConfig,
    HoldConfig,
    KeyConfig,
    PeerConfig,
    PrimaryConfig,
    RefreshConfig,
    SwitchoverConfig,
    check_secondary,
)

__all__ = ["Config", "ConfigError", "load", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """`[service]`: where and how DNS is answered."""

    addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    """The shared unicast addresses; DNS is answered only here."""

    port: int = 53
    workers: int = 0
    """Worker processes; 0 = one per core."""

    max_udp_response_octets: int = 1232
    """The largest UDP response, whatever a client offers (RFC 9715; 1232 = 1280 − 40 − 8 is never fragmented)."""

    user: str = ""
    """Account the workers run as; empty = stay as started."""

    tcp_max_connections: int = 1000
    """TCP connections per worker; over it the one idle longest is closed (RFC 9210 §4)."""

    tcp_max_connections_per_client: int = 100
    """TCP connections per client address and worker."""

    tcp_idle_seconds: float = 10.0
    """Idle time after which a TCP connection is closed; also what EDNS keepalive announces (RFC 7828)."""

    def __post_init__(self) -> None:
        _check_addresses("service.addresses", self.addresses)
        for address in self.addresses:
            _check_unicast("service.addresses", address)
        if not self.addresses:
            raise ConfigError("service.addresses: at least one address is needed")
        _check_range("service.port", self.port, 1, 65535)
        _check_range("service.workers", self.workers, 0, 512)
        _check_range("service.max_udp_response_octets", self.max_udp_response_octets, 512, 4096)
        _check_range("service.tcp_max_connections", self.tcp_max_connections, 1, 1_000_000)
        _check_range("service.tcp_max_connections_per_client", self.tcp_max_connections_per_client, 1, 1_000_000)
        _check_range("service.tcp_idle_seconds", self.tcp_idle_seconds, 0.1, 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """`[identity]`: how this anycast instance names itself (RFC 4892, RFC 5001)."""

    nsid: str = ""
    """NSID, hostname.bind and id.server; empty = the host's name."""

    version: str = ""
    """version.bind and version.server; empty = refused."""

    def __post_init__(self) -> None:
        for key, value in (("identity.nsid", self.nsid), ("identity.version", self.version)):
            # 128: fits the smallest response beside the longest question, a COOKIE and the OPT record.
            if len(value.encode()) > 128:
                raise ConfigError(f"{key}: at most 128 octets, got {len(value.encode())}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieConfig:
    """`[cookies]`: DNS cookies (RFC 7873, RFC 9018) with a secret shared by all instances of the service address."""

    secret: str = ""
    """32 hexadecimal digits (SipHash-2-4 key); empty = random at start: right for one instance only."""

    previous_secrets: tuple[str, ...] = ()
    """Secrets still accepted during a roll-over (RFC 9018 §5)."""

    require_server_cookie: bool = False
    """BADCOOKIE for UDP queries that carry a COOKIE without a valid server part (RFC 7873 §5.2.3)."""

    def __post_init__(self) -> None:
        for key, value in (("secret", self.secret), *(("previous_secrets", s) for s in self.previous_secrets)):
            if value and (len(value) != 32 or not all(c in "0123456789abcdefABCDEF" for c in value)):
                raise ConfigError(f"cookies.{key}: must be 32 hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneConfig:
    """`[[zone]]`: a zone that is served."""

    name: str
    """Domain name: "." or that of the flat, unsigned zone of the root's host names."""

    file: str = ""
    """Zone file to load at start (RFC 1035 §5)."""

    trust_anchors: str = ""
    """IANA's root-anchors.xml, or DS/DNSKEY records in presentation format."""

    zonemd: Literal["required", "if-supported", "off"] = "if-supported"
    validation: Literal["required", "none"] = "required"
    """"none": unsigned by design, or a lab; neither signature nor RRSIG expiry counts."""

    private_root: bool = False
    """Accept a root of the same shape with its own host zone and anchor (D1)."""

    def __post_init__(self) -> None:
        if not self.name.endswith(".") or self.name != self.name.lower():
            raise ConfigError(f"zone.name: must be in lower case and end with a dot, got {self.name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    """`[state]`: what survives a restart."""

    directory: str = "/var/lib/rootsrv"
    """Answer tables, accepted zones, leases, journal."""

    runtime_directory: str = "/run/rootsrv"
    """The shared page and the Unix sockets of this run: a file system in memory."""

    def __post_init__(self) -> None:
        for key, value in (("directory", self.directory), ("runtime_directory", self.runtime_directory)):
            if not value:
                raise ConfigError(f"state.{key}: must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnycastConfig:
    """`[anycast]`: when the service prefixes are announced, and through which protocols of BIRD.

    A family without a prefix is served but not announced.  Times: with the defaults a dead service is withdrawn within
    `fall` × `probe_interval_seconds` + `probe_timeout_seconds` = 2.5 s, and a dead
    controller within `lease_seconds` + 1.
    """

    prefix_v4: str = ""
    """The IPv4 service prefix, as announced (192.0.2.0/24); empty = IPv4 is not announced."""

    prefix_v6: str = ""
    """The IPv6 service prefix, as announced (2001:db8::/48); empty = IPv6 is not announced."""

    anchor_v4: str = ""
    """Address that is held, with the length of the prefix, while the prefix is promised; empty = the prefix's first.

    BIRD's direct protocols make the route from it.  It is never a service address: those stay when the route goes.
    """

    anchor_v6: str = ""
    """Likewise for IPv6."""

    interface: str = "lo"
    """Interface of the anchors and of the service addresses: lo, or a dummy interface."""

    manage_addresses: bool = False
    """Put the service addresses (/32, /128) on the interface at start and remove at stop those that were put there."""

    bird_socket: str = "/run/bird/bird.ctl"
    """BIRD's control socket."""

    direct_v4: tuple[str, ...] = ("anycast4_up", "anycast4_degraded", "anycast4_drained")
    """BIRD's three direct protocols for IPv4, in rising preference: up, degraded, drained (deploy/bird)."""

    direct_v6: tuple[str, ...] = ("anycast6_up", "anycast6_degraded", "anycast6_drained")
    """Likewise for IPv6."""

    bgp_v4: tuple[str, ...] = ()
    """BIRD's BGP protocols that export the IPv4 prefix: what is announced is read back from them."""

    bgp_v6: tuple[str, ...] = ()
    """Likewise for IPv6."""

    probe_interval_seconds: float = 1.0
    """Time from one round of probes to the next."""

    probe_timeout_seconds: float = 0.5
    """How long a probe waits for its answer.  Local answers take well under a millisecond."""

    rise: int = 3
    """Passes in a row before a prefix is announced."""

    fall: int = 2
    """Rounds without answer in a row before it is withdrawn: one lost datagram does not move traffic."""

    lease_seconds: int = 3
    """How long the kernel keeps the anchor, and so the route, when nobody renews it."""

    hold_down_seconds: float = 10.0
    """Time without any failure before a prefix that was withdrawn for one is announced again (RFC 4786 §4.4.1)."""

    hold_down_max_seconds: float = 600.0
    """Each further withdrawal doubles the hold-down, up to this."""

    flap_memory_seconds: float = 1800.0
    """Time announced without a withdrawal after which the hold-down starts from its first value again."""

    stale_soft_seconds: float = 3900.0
    """A newer serial is known and not served for so long: degrade (RSSAC047v2 §5.4 looks for 65 min)."""

    stale_hard_seconds: float = 172_800.0
    """Likewise: withdraw (RSSAC047v2 §5.3 accepts any zone of the last 48 h)."""

    on_transport_dead: Literal["withdraw", "keep"] = "withdraw"
    """UDP or TCP does not answer (not for load) while the other does: a resolver that needs it gets no answer here."""

    on_stale_soft: Literal["degrade", "keep"] = "degrade"
    on_stale_hard: Literal["withdraw", "degrade"] = "withdraw"
    on_fastpath_wrong: Literal["detach", "withdraw"] = "detach"
    """The kernel's answers are wrong or absent while the workers' are right."""

    drain_fraction: float = 0.05
    """A drain withdraws when the query rate has fallen to this share of what it was at its start …"""

    drain_seconds: float = 60.0
    """… or after this time, whatever comes first (RFC 8326 §4.2 leaves it to the operator)."""

    stop_linger_seconds: float = 3.0
    """Time at stop between the withdrawal, once confirmed, and the end of service: routers need time to follow."""

    def __post_init__(self) -> None:
        for version in (4, 6):
            self._check_family(version)
        for key, lowest, highest in (
            ("probe_interval_seconds", 0.1, 5),
            ("probe_timeout_seconds", 0.05, 2),
            ("rise", 1, 100),
            ("fall", 1, 10),
            ("lease_seconds", 2, 30),
            ("hold_down_seconds", 1, 3600),
            ("hold_down_max_seconds", self.hold_down_seconds, 86_400),
            ("flap_memory_seconds", 60, 86_400),
            ("stale_soft_seconds", 600, 172_800),
            ("stale_hard_seconds", self.stale_soft_seconds, 604_800),
            ("drain_fraction", 0, 0.5),
            ("drain_seconds", 1, 3600),
            ("stop_linger_seconds", 0, 300),
        ):
            _check_range(f"anycast.{key}", getattr(self, key), lowest, highest)
        # A wrong answer is asked for again within 0.2 s, and a round must end before the next begins.
        if self.probe_timeout_seconds > 0.75 * self.probe_interval_seconds:
            raise ConfigError(
                f"anycast.probe_timeout_seconds: must be at most three quarters of probe_interval_seconds "
                f"({self.probe_interval_seconds}), got {self.probe_timeout_seconds}"
            )
        # One late renewal must not take the route away.
        if self.lease_seconds < 2 * self.probe_interval_seconds:
            raise ConfigError(
                f"anycast.lease_seconds: must be at least twice probe_interval_seconds "
                f"({self.probe_interval_seconds}), got {self.lease_seconds}"
            )

    def _check_family(self, version: int) -> None:
        text: str = getattr(self, f"prefix_v{version}")
        if not text:
            if getattr(self, f"anchor_v{version}"):
                raise ConfigError(f"anycast.anchor_v{version}: needs anycast.prefix_v{version}")
            return
        try:
            prefix = ipaddress.ip_network(text)
        except ValueError as error:
            raise ConfigError(f"anycast.prefix_v{version}: {error}") from error
        if prefix.version != version or prefix.prefixlen > prefix.max_prefixlen - 2:
            longest = prefix.max_prefixlen - 2
            raise ConfigError(f"anycast.prefix_v{version}: must be an IPv{version} prefix up to /{longest}, got {text}")
        try:
            anchor = self.anchor(version)
        except ValueError as error:
            raise ConfigError(f"anycast.anchor_v{version}: {error}") from error
        if anchor is None or anchor.network != prefix or (version == 4 and anchor.ip == prefix.network_address):
            raise ConfigError(f"anycast.anchor_v{version}: must be a host address in {prefix}, got {anchor}")
        names = getattr(self, f"direct_v{version}")
        if len(names) != 3:
            raise ConfigError(
                f"anycast.direct_v{version}: must name three protocols (up, degraded, drained), got {names}"
            )
        sessions = getattr(self, f"bgp_v{version}")
        if not sessions:
            raise ConfigError(f"anycast.bgp_v{version}: must name the BGP protocol that exports {prefix}")
        for key, group in (("direct", names), ("bgp", sessions)):
            for name in group:
                # BIRD's own rule for symbols; they go into commands unquoted.
                if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
                    raise ConfigError(f"anycast.{key}_v{version}: {name!r} is not a name of a BIRD protocol")
            if len(set(group)) != len(group):
                raise ConfigError(f"anycast.{key}_v{version}: a protocol is named twice")

    def anchor(self, version: int) -> "ipaddress.IPv4Interface | ipaddress.IPv6Interface | None":
        """The anchor of IPv*version*, with the length of its prefix; None where the family is not announced."""
        text: str = getattr(self, f"prefix_v{version}")
        if not text:
            return None
        prefix = ipaddress.ip_network(text)
        address = getattr(self, f"anchor_v{version}") or str(prefix.network_address + 1)
        return ipaddress.ip_interface(f"{ipaddress.ip_address(address)}/{prefix.prefixlen}")

    def versions(self) -> tuple[int, ...]:
        """The IP versions that are announced."""
        return tuple(version for version in (4, 6) if getattr(self, f"prefix_v{version}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of a configuration file."""

    service: ServiceConfig = field(default_factory=ServiceConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    cookies: CookieConfig = field(default_factory=CookieConfig)
    zone: tuple[ZoneConfig, ...] = ()
    state: StateConfig = field(default_factory=StateConfig)
    anycast: AnycastConfig | None = None
    admin: AdminConfig = field(default_factory=AdminConfig)
    key: tuple[KeyConfig, ...] = ()
    primary: tuple[PrimaryConfig, ...] = ()
    peer: tuple[PeerConfig, ...] = ()
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    hold: HoldConfig = field(default_factory=HoldConfig)
    switchover: SwitchoverConfig = field(default_factory=SwitchoverConfig)
    clock: ClockConfig = field(default_factory=ClockConfig)

    def __post_init__(self) -> None:
        _check_zones(self.zone)
        check_secondary(
            self.admin, self.key, self.primary, self.peer, self.service.addresses, {z.name: z for z in self.zone}
        )
        if self.anycast is not None:
            _check_anycast(self.anycast, self.service)


def _check_anycast(anycast: AnycastConfig, service: ServiceConfig) -> None:
    """Refuse prefixes that do not hold the service addresses: the route would lead to nothing."""
    addresses = [ipaddress.ip_address(each) for each in service.addresses]
    if not anycast.versions():
        raise ConfigError("anycast: prefix_v4, prefix_v6 or both are needed")
    for version in anycast.versions():
        anchor = anycast.anchor(version)
        assert anchor is not None
        if anchor.ip in addresses:
            raise ConfigError(f"anycast.anchor_v{version}: {anchor.ip} is a service address; it must be another one")
        if not any(each in anchor.network for each in addresses):
            raise ConfigError(f"anycast.prefix_v{version}: no service address lies in {anchor.network}")


def _check_unicast(key: str, text: str) -> None:
    """Refuse an address from which no response could leave: a wildcard, a multicast or an IPv4-mapped one."""
    address = ipaddress.ip_address(text)
    if address.is_unspecified:
        raise ConfigError(f"{key}: {text} is a wildcard; DNS is answered on the addresses named here, and only there")
    if address.is_multicast:
        raise ConfigError(f"{key}: {text} is a multicast address")
    if address.version == 6 and (address.ipv4_mapped or "%" in text):
        raise ConfigError(f"{key}: {text}: name the IPv4 address itself, and no IPv6 address with a scope")


HOST_ZONE = "root-servers.net."
"""The one zone besides the root that a root server has (RFC 2870 §2.5)."""


def _check_zones(zones: tuple[ZoneConfig, ...]) -> None:
    """Refuse all but a root and one flat zone of host names (D1)."""
    roots = [zone for zone in zones if zone.name == "."]
    if zones and not roots:
        raise ConfigError('zone: the root is missing (name = ".")')
    if len(roots) > 1:
        raise ConfigError("zone: the root is configured twice")
    if len(zones) > 2:
        raise ConfigError(f"zone: the root and one zone of its host names, got {len(zones)} zones (RFC 2870 §2.5)")
    for index, zone in enumerate(zones):
        where = f"zone[{index}]"
        if zone.name == ".":
            if zone.validation == "required" and zone.file and not zone.trust_anchors:
                raise ConfigError(f'{where}.trust_anchors: is missing (validation = "none" serves an unverified root)')
            if zone.validation == "none" and zone.zonemd == "required":
                raise ConfigError(f'{where}.zonemd: "required" contradicts validation = "none"')
            continue
        if zone.name != HOST_ZONE and not roots[0].private_root:
            raise ConfigError(
                f"{where}.name: only the root and {HOST_ZONE} are served, got {zone.name}"
                " (a root with private_root = true has its own host zone)"
            )
        if zone.validation == "required":
            raise ConfigError(f'{where}.validation: must be "none": a zone of host names is unsigned by design')
        if zone.trust_anchors:
            raise ConfigError(f"{where}.trust_anchors: {zone.name} is unsigned by design")


def load(path: Path) -> Config:
    """Read the TOML file at *path*, relative paths in it from its directory; ConfigError names the file or the key."""
    try:
        with path.open("rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return _with_absolute_paths(read(document), path.absolute().parent)


def _with_absolute_paths(config: Config, base: Path) -> Config:
    def absolute(text: str) -> str:
        return str(base / text) if text else ""

    zones = tuple(
        dataclasses.replace(zone, file=absolute(zone.file), trust_anchors=absolute(zone.trust_anchors))
        for zone in config.zone
    )
    state = dataclasses.replace(
        config.state,
        directory=absolute(config.state.directory),
        runtime_directory=absolute(config.state.runtime_directory),
    )
    return dataclasses.replace(config, zone=zones, state=state)


def read(document: dict[str, Any]) -> Config:
    """Build a Config from parsed TOML."""
    return _build(Config, document, "")


T = typing.TypeVar("T")


def _build(kind: type[T], table: dict[str, Any], prefix: str) -> T:
    """An instance of the dataclass *kind* from *table*, whose keys are called *prefix*.key in errors."""
    known = {each.name: each for each in dataclasses.fields(typing.cast(Any, kind))}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"{prefix}{key}: unknown key (known: {', '.join(sorted(known))})")
        values[key] = _convert(hints[key], value, prefix + key)
    for each in known.values():
        missing = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if missing and each.name not in values:
            raise ConfigError(f"{prefix}{each.name}: is missing")
    return kind(**values)


def _convert(hint: Any, value: Any, key: str) -> Any:
    """*value* as what *hint* asks for; ConfigError names *key*."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: must be a table, got {_toml_type(value)}")
        return _build(typing.cast(type, hint), value, key + ".")
    if origin is tuple:
        (item, _) = typing.get_args(hint)
        if not isinstance(value, list):
            raise ConfigError(f"{key}: must be an array, got {_toml_type(value)}")
        return tuple(_convert(item, each, f"{key}[{index}]") for index, each in enumerate(value))
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{key}: must be one of {', '.join(map(str, choices))}; got {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        (inner,) = (each for each in typing.get_args(hint) if each is not type(None))
        return _convert(inner, value, key)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{key}: must be {_TYPE_NAMES[hint]}, got {_toml_type(value)}")
    return value


_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def _toml_type(value: Any) -> str:
    names = {**_TYPE_NAMES, list: "an array", dict: "a table"}
    return f"{names.get(type(value), type(value).__name__)} ({value!r})"
