"""Configuration: TOML → frozen dataclasses; an error names the key.

Every section is a dataclass whose fields are the keys, with their defaults and, as docstrings, their meaning and unit.
`read` turns the parsed TOML into them generically: unknown keys, wrong types and bad values are `ConfigError`s that
begin with the dotted key.
"""

import dataclasses
import ipaddress
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from rootsrv.config.anycast import AnycastConfig, check_anycast
from rootsrv.config.capture import CaptureConfig
from rootsrv.config.checks import ConfigError
from rootsrv.config.checks import check_addresses as _check_addresses
from rootsrv.config.checks import check_range as _check_range
from rootsrv.config.dot import DotConfig, check_dot
from rootsrv.config.fastpath import FastPathConfig
from rootsrv.config.hyperlocal import HyperlocalConfig
from rootsrv.config.limits import LimitsConfig
from rootsrv.config.localroot import DistributeConfig, LocalRootConfig, check_localroot
from rootsrv.config.mesh import MeshConfig
from rootsrv.config.portal import PortalConfig
from rootsrv.config.report import LogConfig, ReportConfig, refuse_served
from rootsrv.config.typed import build
from rootsrv.config.zones import (
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

    real_time_priority: int = 0
    """With which workers go before ordinary processes (SCHED_FIFO; docs/install.md, "Capacity"); 0 = they do not.

    Below 50, which is what the kernel gives its threads of interrupts.
    """

    max_udp_response_octets: int = 1232
    """The largest UDP response, whatever a client offers (RFC 9715; 1232 = 1280 − 40 − 8 is never fragmented)."""

    user: str = ""
    """Account the workers and the role report run as; empty = stay as started."""

    tcp_max_connections: int = 8000
    """TCP connections per worker, as far as the limit of open files allows; over it one goes for another (D10)."""

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
        _check_range("service.workers", self.workers, 0, 62)  # slots of the shared page, without two
        _check_range("service.real_time_priority", self.real_time_priority, 0, 49)
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


_MAX_PREVIOUS_SECRETS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieConfig:
    """`[cookies]`: DNS cookies (RFC 7873, RFC 9018) with a secret shared by all instances of the service address."""

    secret: str = ""
    """32 hexadecimal digits (SipHash-2-4 key); empty = random at start: right for one instance only."""

    previous_secrets: tuple[str, ...] = ()
    """Secrets still accepted during a roll-over (RFC 9018 §5): at most three, as the kernel has room for."""

    require_server_cookie: bool = False
    """BADCOOKIE for UDP queries that carry a COOKIE without a valid server part (RFC 7873 §5.2.3)."""

    def __post_init__(self) -> None:
        if len(self.previous_secrets) > _MAX_PREVIOUS_SECRETS:
            raise ConfigError(
                f"cookies.previous_secrets: at most {_MAX_PREVIOUS_SECRETS}, got {len(self.previous_secrets)}"
            )
        given = [("secret", self.secret)] if self.secret else []
        for key, value in (*given, *(("previous_secrets", each) for each in self.previous_secrets)):
            if len(value) != 32 or not all(c in "0123456789abcdefABCDEF" for c in value):
                raise ConfigError(f"cookies.{key}: must be 32 hexadecimal digits")
        if self.previous_secrets and not self.secret:
            raise ConfigError("cookies.secret: is missing beside cookies.previous_secrets")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneConfig:
    """`[[zone]]`: a zone that is served."""

    name: str
    """Domain name: "." or that of the flat zone of the root's host names."""

    file: str = ""
    """Zone file to load at start (RFC 1035 §5)."""

    trust_anchors: str = ""
    """IANA's root-anchors.xml, or DS/DNSKEY records in presentation format."""

    zonemd: Literal["required", "if-supported", "off"] = "if-supported"
    validation: Literal["required", "none"] = "required"
    """"none": a zone of hosts, unsigned to this day, or a lab: signatures are not wanted (signed hosts that come all
    the same are checked by their own keys, with an alarm).  "required" for hosts: signed, by their trust_anchors."""

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
class Config:
    """All of a configuration file."""

    service: ServiceConfig = field(default_factory=ServiceConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    cookies: CookieConfig = field(default_factory=CookieConfig)
    zone: tuple[ZoneConfig, ...] = ()
    state: StateConfig = field(default_factory=StateConfig)
    anycast: AnycastConfig | None = None
    mesh: MeshConfig | None = None
    hyperlocal: HyperlocalConfig | None = None
    localroot: LocalRootConfig | None = None
    distribute: tuple[DistributeConfig, ...] = ()
    admin: AdminConfig = field(default_factory=AdminConfig)
    key: tuple[KeyConfig, ...] = ()
    primary: tuple[PrimaryConfig, ...] = ()
    peer: tuple[PeerConfig, ...] = ()
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    hold: HoldConfig = field(default_factory=HoldConfig)
    switchover: SwitchoverConfig = field(default_factory=SwitchoverConfig)
    clock: ClockConfig = field(default_factory=ClockConfig)
    fastpath: FastPathConfig = field(default_factory=FastPathConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    dot: DotConfig | None = None
    capture: CaptureConfig | None = None
    portal: PortalConfig | None = None
    report: ReportConfig = field(default_factory=ReportConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        _check_zones(self.zone)
        kept: dict[str, Any] = {each.name: each for each in self.zone}
        kept |= {each.name: each for each in self.distribute}
        check_secondary(self.admin, self.key, self.primary, self.peer, self.service.addresses, kept)
        check_localroot(
            self.localroot,
            self.distribute,
            {"service.addresses": self.service.addresses, "admin.addresses": self.admin.addresses},
            tuple(each.name for each in self.zone),
            tuple(name for each in self.primary for name in each.zones),
        )
        refuse_served("report.addresses", self.report.addresses, self.service.addresses)
        if self.dot is not None:
            check_dot(self.dot, self.service.port)
        if self.portal is not None:
            # On loopback is a proxy's way to it, beside what answers queries of this host.
            elsewhere = tuple(each for each in self.portal.addresses if not ipaddress.ip_address(each).is_loopback)
            refuse_served("portal.addresses", elsewhere, self.service.addresses)
        if self.anycast is not None:
            check_anycast(self.anycast, self.service.addresses)


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
        if zone.validation == "required" and not zone.trust_anchors:
            raise ConfigError(
                f'{where}.validation: must be "none", as {zone.name} is unsigned to this day,'
                " or trust_anchors must have its DS or DNSKEY"
            )
        if zone.validation == "none" and zone.trust_anchors:
            raise ConfigError(f'{where}.trust_anchors: with these validation must be "required"')


def load(path: Path) -> Config:
    """Read the TOML file at *path*, relative paths in it from its directory; ConfigError names the file or the key."""
    try:
        with path.open("rb") as stream:
            document = tomllib.load(stream)
    except FileNotFoundError as error:
        command = "rootsrv localroot setup" if path.name.startswith("localroot") else "rootsrv setup"
        raise ConfigError(f"{path}: {error.strerror}; `{command}` makes one, --config names another") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    config = _with_absolute_paths(read(document), path.absolute().parent)
    _check_own_directories(config)
    return config


def _check_own_directories(config: Config) -> None:
    """What a role makes its account's, with all that is in it, must not hold what is of others: "/", "/var"."""
    own = {"report.statistics_directory": config.report.statistics_directory}
    if config.capture is not None:
        own["capture.directory"] = config.capture.directory
    for key, directory in own.items():
        for other, held in (
            ("state.directory", config.state.directory),
            ("state.runtime_directory", config.state.runtime_directory),
        ):
            if Path(os.path.realpath(held)).is_relative_to(os.path.realpath(directory)):
                raise ConfigError(f"{key}: must be a directory of its own, and {other} is {directory}, or lies in it")


Section = TypeVar("Section")


def _with_absolute_paths(config: Config, base: Path) -> Config:
    def absolute(text: str) -> str:
        return str(base / text) if text else ""

    def of(section: Section, *names: str) -> Section:
        if section is None:
            return section
        paths: dict[str, Any] = {name: absolute(getattr(section, name)) for name in names}
        return cast(Section, dataclasses.replace(cast(Any, section), **paths))

    def at_least(section: Section, name: str, place: str) -> Section:
        """In the state directory, where nothing is said."""
        if section is None or getattr(section, name):
            return section
        there: dict[str, Any] = {name: str(Path(state.directory) / place)}
        return cast(Section, dataclasses.replace(cast(Any, section), **there))

    zones = tuple(of(zone, "file", "trust_anchors") for zone in config.zone)
    state = of(config.state, "directory", "runtime_directory")
    report = at_least(
        of(config.report, "statistics_directory", "sources_key_file"), "statistics_directory", "statistics"
    )
    capture = at_least(of(config.capture, "directory"), "directory", "capture")
    dot = of(config.dot, "certificate", "key")
    portal = of(config.portal, "tls_certificate", "tls_key", "password_file")
    mesh = of(config.mesh, "key", "roster", "tls_ca", "tls_certificate", "tls_key")
    localroot = at_least(
        of(config.localroot, "tls_certificate", "tls_key", "statistics_directory"), "statistics_directory", "statistics"
    )
    return dataclasses.replace(
        config,
        zone=zones,
        state=state,
        report=report,
        dot=dot,
        capture=capture,
        localroot=localroot,
        portal=portal,
        mesh=mesh,
    )


def read(document: dict[str, Any]) -> Config:
    """Build a Config from parsed TOML."""
    return build(Config, document)
