"""Configuration of the zone's way in and out: administrative interface, keys, primaries, peers, switchover, clock."""

import base64
import binascii
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from rootsrv.config.checks import ConfigError, check_addresses, check_range, plain_address, split_url, without_query
from rootsrv.wire import name as names
from rootsrv.wire.tsig import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminConfig:
    """`[admin]`: the administrative interface (RFC 3258 §2.2): NOTIFY and transfers, never on a service address."""

    addresses: tuple[str, ...] = ()
    """Where NOTIFY is taken and transfers are given; empty = nothing listens. Transfers in leave from the first."""

    port: int = 53
    tls_port: int = 853
    """For transfers over TLS (RFC 9103), if there is a certificate."""

    tls_certificate: str = ""
    """PEM chain for transfers over TLS, out and, to primaries that want one, in."""

    tls_key: str = ""
    tls_client_ca: str = ""
    """PEM: peers that show a certificate from here are known by its name (mutual TLS)."""

    max_connections: int = 100
    """TCP and TLS connections at a time, those that have not ended their handshake among them, as far as the limit of
    open files leaves 256 to everything else, and half of them from one prefix (/24, /56); over it one goes that has
    asked nothing yet, else the new one."""

    idle_seconds: float = 10.0
    transfers_per_peer: int = 4
    """To one peer at a time; over it SERVFAIL."""

    whole_zones_per_serial: int = 32
    """How often one peer may have the whole of one version; over it REFUSED.  0 = as often as it asks."""

    notify_mbit_per_second: float = 0.0
    """NOTIFYs to peers are spread so that the transfers they cause need no more than this; 0 = all at once."""

    def __post_init__(self) -> None:
        check_range("admin.notify_mbit_per_second", self.notify_mbit_per_second, 0, 1_000_000)
        check_addresses("admin.addresses", self.addresses)
        check_range("admin.port", self.port, 1, 65535)
        check_range("admin.tls_port", self.tls_port, 1, 65535)
        check_range("admin.max_connections", self.max_connections, 1, 10_000)
        check_range("admin.idle_seconds", self.idle_seconds, 0.1, 3600)
        check_range("admin.transfers_per_peer", self.transfers_per_peer, 1, 1000)
        check_range("admin.whole_zones_per_serial", self.whole_zones_per_serial, 0, 1_000_000)
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigError("admin.tls_key: tls_certificate and tls_key go together")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyConfig:
    """`[[key]]`: a TSIG key (RFC 8945)."""

    name: str
    algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"] = "hmac-sha256"
    secret: str = ""
    """Base64."""

    secret_file: str = ""
    """A file that holds the secret (base64) and that others cannot read."""

    def secret_octets(self) -> bytes:
        """The secret; ConfigError if it cannot be had."""
        text = self.secret
        if self.secret_file:
            path = Path(self.secret_file)
            try:
                if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
                    raise ConfigError(f"key.secret_file: {path} can be read or written by everybody")
                text = path.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"key.secret_file: {path}: {error.strerror}") from error
        try:
            octets = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ConfigError(f"key.secret: key {self.name}: not base64 ({error})") from error
        if len(octets) < 16:
            raise ConfigError(f"key.secret: key {self.name}: at least 16 octets, got {len(octets)}")
        return octets

    def tsig_key(self) -> Key:
        """The key as TSIG wants it; ConfigError if its secret cannot be had."""
        return Key.make(names.from_text(self.name), self.algorithm, self.secret_octets())

    def __post_init__(self) -> None:
        if bool(self.secret) == bool(self.secret_file):
            raise ConfigError(f"key.secret: key {self.name}: secret or secret_file, one of them")
        if self.secret:
            self.secret_octets()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryConfig:
    """`[[primary]]`: where zones come from.

    Without `key` and without TLS only for zones that DNSSEC and ZONEMD verify as a whole.
    """

    name: str
    address: str = ""
    port: int = 0
    """0 = 53, with TLS 853."""

    key: str = ""
    """Name of the TSIG key."""

    tls: Literal["no", "strict", "pinned"] = "no"
    """RFC 9103: "strict" checks certificate and host name, "pinned" the certificate's digest."""

    alpn: Literal["required", "optional"] = "required"
    """Whether it must select "dot" (RFC 9103 §7.1); some select nothing.

    "optional" only for zones that ZONEMD verifies; another protocol than "dot" is refused all the same.
    """

    tls_hostname: str = ""
    tls_ca: str = ""
    """PEM; empty = the system's."""

    tls_pin: str = ""
    """SHA-256 of the certificate (DER), 64 hexadecimal digits."""

    url: str = ""
    """https://… of the zone file, in place of address (and for one zone only). Redirects are not followed.

    A query (`?token=…`) is taken for a secret: neither log nor status shows it."""

    zones: tuple[str, ...] = (".",)
    notify_from: tuple[str, ...] = ()
    """Addresses, besides `address`, from which its NOTIFY comes."""

    def __post_init__(self) -> None:
        where = f"primary.{self.name}"
        if bool(self.address) == bool(self.url):
            raise ConfigError(f"{where}.address: address or url, one of them")
        if self.address:
            check_addresses(f"{where}.address", (self.address,))
        check_addresses(f"{where}.notify_from", self.notify_from)
        check_range(f"{where}.port", self.port, 0, 65535)
        if not self.zones:
            raise ConfigError(f"{where}.zones: at least one zone is needed")
        if self.url:
            parts, _ = split_url(f"{where}.url", self.url)
            if parts.scheme != "https" or not parts.hostname:
                raise ConfigError(f"{where}.url: must be https://…, got {without_query(self.url)!r}")
            if parts.username is not None:
                raise ConfigError(f"{where}.url: has a user name, which would not be sent")
            if len(self.zones) != 1:
                raise ConfigError(f"{where}.zones: a url gives one zone, got {len(self.zones)}")
            if self.key or self.tls != "no":
                raise ConfigError(f"{where}.url: key and tls are for transfers")
        if self.tls == "strict" and not self.tls_hostname:
            raise ConfigError(f'{where}.tls_hostname: is needed with tls = "strict"')
        if (self.tls == "pinned") != bool(self.tls_pin):
            raise ConfigError(f'{where}.tls_pin: goes with tls = "pinned"')
        if self.tls_pin and (len(self.tls_pin) != 64 or not all(c in "0123456789abcdefABCDEF" for c in self.tls_pin)):
            raise ConfigError(f"{where}.tls_pin: must be 64 hexadecimal digits")

    @property
    def authenticated(self) -> bool:
        """Whether we know who it is, by more than its address (D21)."""
        return bool(self.key or self.url) or self.tls != "no"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """`[[peer]]`: who may have zones from us, on the administrative interface only (D5)."""

    name: str
    address: str
    """Its requests come from here, and it gets NOTIFY here."""

    port: int = 53
    """For NOTIFY."""

    key: str = ""
    tls_name: str = ""
    """The name in its client certificate (mutual TLS), where there is no key."""

    alpn: Literal["required", "optional"] = "required"
    """Whether it must offer "dot" over TLS (RFC 9103 §7.1); Unbound offers nothing.

    "optional" only for zones that ZONEMD verifies; another protocol than "dot" is refused all the same.
    """

    zones: tuple[str, ...] = (".",)
    notify: bool = True

    def __post_init__(self) -> None:
        where = f"peer.{self.name}"
        check_addresses(f"{where}.address", (self.address,))
        check_range(f"{where}.port", self.port, 1, 65535)
        if not self.key and not self.tls_name:
            raise ConfigError(f"{where}.key: a key or tls_name is needed; an address alone proves nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshConfig:
    """`[refresh]`: bounds of asking and of transfers."""

    min_seconds: float = 60.0
    """SOA refresh and retry below this count as this."""

    max_seconds: float = 86_400.0
    backoff_seconds: float = 10.0
    """After a first failure of a primary; doubles with each in a row, up to SOA retry."""

    query_timeout_seconds: float = 5.0
    transfer_seconds: float = 300.0
    """The longest that one transfer may take."""

    stall_seconds: float = 10.0
    """The longest that a transfer may stand still."""

    max_octets: int = 16_000_000
    """Of a transfer. A root zone has 1.3 million on the wire, 2.2 million as a file."""

    max_records: int = 250_000

    def __post_init__(self) -> None:
        for key, lowest, highest in (
            ("min_seconds", 1, 3600),
            ("max_seconds", self.min_seconds, 604_800),
            ("backoff_seconds", 0.1, 3600),
            ("query_timeout_seconds", 0.1, 60),
            ("transfer_seconds", 1, 3600),
            ("stall_seconds", 0.1, 300),
            ("max_octets", 10_000, 1_000_000_000),
            ("max_records", 10, 250_000),
        ):
            check_range(f"refresh.{key}", getattr(self, key), lowest, highest)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldConfig:
    """`[hold]`: which updates wait for a human (D23), and what if nobody comes."""

    on_hold_timeout: Literal["accept", "keep"] = "accept"
    """When the zone in service gets too old: take the newest held zone, with an alarm, or keep what we have."""

    stale_hard_seconds: float = 172_800.0
    """How long a newer zone may be held before that (RSSAC047v2 §5.3 accepts any zone of the last 48 h)."""

    tlds_gone_percent: float = 5.0
    ds_gone_percent: float = 5.0
    tlds_without_address_percent: float = 5.0
    apex_ns_changed: int = 3
    """More than so many name servers of the apex came, went or changed addresses."""

    shrink_percent: float = 50.0
    signatures_left_seconds: float = 86_400.0

    def __post_init__(self) -> None:
        for key in ("tlds_gone_percent", "ds_gone_percent", "tlds_without_address_percent", "shrink_percent"):
            check_range(f"hold.{key}", getattr(self, key), 0, 100)
        check_range("hold.apex_ns_changed", self.apex_ns_changed, 0, 1000)
        check_range("hold.stale_hard_seconds", self.stale_hard_seconds, 1, 604_800)
        check_range("hold.signatures_left_seconds", self.signatures_left_seconds, 0, 604_800)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchoverConfig:
    """`[switchover]`: when a new zone goes into service (RFC 3258 §2.3), the same instant on every instance."""

    align_seconds: int = 60
    """At the next multiple of this in UTC; 0 = as soon as it is staged."""

    lead_seconds: float = 15.0
    """But at least so long after verification, so that every instance has it."""

    grace_seconds: float = 10.0
    """After the set time by which everything that answers must have switched."""

    stage_seconds: float = 30.0
    """Within which the workers must have mapped a staged table."""

    on_failed_switchover: Literal["silence", "keep"] = "silence"
    """When no worker can be brought to the new zone (RFC 3258 §4.1.2): cease to answer, or go on with the old one."""

    keep_versions: int = 8
    """Versions of each zone that are kept: the base of IXFR, in and out, and the way back in an emergency."""

    max_serve_seconds: float = 0.0
    """The operator's limit on a lease; 0 = none but SOA expire and signatures."""

    def __post_init__(self) -> None:
        check_range("switchover.align_seconds", self.align_seconds, 0, 3600)
        check_range("switchover.lead_seconds", self.lead_seconds, 0, 3600)
        check_range("switchover.grace_seconds", self.grace_seconds, 0.1, 600)
        check_range("switchover.stage_seconds", self.stage_seconds, 0.1, 600)
        check_range("switchover.keep_versions", self.keep_versions, 2, 1000)
        if self.max_serve_seconds:
            check_range("switchover.max_serve_seconds", self.max_serve_seconds, 3600, 31_536_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockConfig:
    """`[clock]`: whether the wall clock can be believed."""

    source: Literal["kernel", "trusted"] = "kernel"
    """"kernel": while adjtimex(2) says synchronised; "trusted": always (machines whose host keeps the time)."""

    clock_wait_seconds: float = 60.0
    """At start, until how long after the boot to wait for synchronisation before going on with an alarm."""

    def __post_init__(self) -> None:
        check_range("clock.clock_wait_seconds", self.clock_wait_seconds, 0, 3600)


class _Zone(Protocol):
    @property
    def validation(self) -> str: ...
    @property
    def zonemd(self) -> str: ...


def _verified_as_a_whole(zone: _Zone) -> bool:
    return zone.validation == "required" and zone.zonemd != "off"


def check_secondary(
    admin: AdminConfig,
    keys: tuple[KeyConfig, ...],
    primaries: tuple[PrimaryConfig, ...],
    peers: tuple[PeerConfig, ...],
    service_addresses: tuple[str, ...],
    zones: Mapping[str, _Zone],
) -> None:
    """What only all sections together can tell; ConfigError names the key."""
    service = {plain_address(each) for each in service_addresses}
    for address in admin.addresses:
        if plain_address(address) in service:
            raise ConfigError(
                f"admin.addresses: {address} is a service address; it must be another one (RFC 3258 §2.2)"
            )
    if peers and not admin.addresses:
        raise ConfigError("admin.addresses: is needed for transfers to a peer")
    key_names = {key.name for key in keys}
    for what, used in (
        ("key", [k.name for k in keys]),
        ("primary", [p.name for p in primaries]),
        ("peer", [p.name for p in peers]),
    ):
        if len(set(used)) != len(used):
            raise ConfigError(f"{what}.name: a name is used twice")
    users: list[tuple[str, PrimaryConfig | PeerConfig]] = [("primary", each) for each in primaries]
    users += [("peer", each) for each in peers]
    for what, user in users:
        if user.key and user.key not in key_names:
            raise ConfigError(f"{what}.{user.name}.key: there is no key {user.key!r}")
        for name in user.zones:
            if name not in zones:
                raise ConfigError(f"{what}.{user.name}.zones: {name!r} is not a configured zone")
            if user.alpn == "optional" and not _verified_as_a_whole(zones[name]):
                raise ConfigError(f"{what}.{user.name}.alpn: must be required, since ZONEMD does not verify {name}")
    for primary in primaries:
        for name in primary.zones:
            zone = zones[name]
            if not primary.authenticated and not _verified_as_a_whole(zone):
                raise ConfigError(
                    f"primary.{primary.name}.key: {name} is not verified as a whole, so its primary needs a key or TLS"
                )
