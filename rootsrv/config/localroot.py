"""`[localroot]` and `[[distribute]]`: zones for resolvers, by transfer and by https (docs/localroot.md)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rootsrv.config.checks import ConfigError, check_addresses, check_range, plain_address


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRootConfig:
    """`[localroot]`: the service that gives zones to resolvers; on addresses of its own, never on a service address."""

    name: str
    """Domain name of the service: in keys' names, in the publication list, on its pages."""

    addresses: tuple[str, ...]
    """Where transfers are given and from where NOTIFY leaves."""

    port: int = 53
    tls_port: int = 853
    https_port: int = 0
    """Where zones are given by https; 0 = not."""

    tls_certificate: str = ""
    """PEM chain, for transfers over TLS (RFC 9103) and for https; read again when the file changes."""

    tls_key: str = ""
    open: bool = True
    """Whether zones that ZONEMD verified are given without a key, too, at the limits `without_key_…`."""

    notify_port: int = 53
    """Where resolvers listen for NOTIFY."""

    mbit_per_second: float = 1000.0
    """What the transfers may take that NOTIFYs cause: so far apart are these; 0 = all at once."""

    max_connections: int = 2000
    """TCP and TLS connections at a time, as far as the limit of open files allows, half of them from one prefix."""

    https_connections: int = 500
    """Connections by https at a time."""

    idle_seconds: float = 10.0
    """How long a client may say or take nothing."""

    transfers_at_a_time: int = 200
    """Of all together; over it SERVFAIL."""

    transfers_per_server: int = 4
    transfers_per_prefix: int = 16
    """Into one prefix (/24, /56) at a time."""

    whole_zones_per_serial: int = 32
    """How often one server may have the whole of one version; over it REFUSED.  0 = as often as it asks."""

    without_key_at_a_time: int = 50
    """Of the transfers at a time, those that only an address stands for."""

    without_key_per_serial: int = 8
    """Whole zones of one version for one prefix without a key."""

    canary_zone: str = ""
    """A zone that the service makes and signs itself, with a new version every `canary_seconds` and when somebody who
    checks his resolver wants one; empty = none."""

    canary_seconds: float = 300.0

    statistics_directory: str = ""
    """Where the files of each day are written; empty = below the state directory."""

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.lower().rstrip("."):
            raise ConfigError(f"localroot.name: must be in lower case and without a dot at its end, got {self.name!r}")
        if not self.addresses:
            raise ConfigError("localroot.addresses: at least one address is needed")
        check_addresses("localroot.addresses", self.addresses)
        for key, lowest, highest in (
            ("port", 1, 65535),
            ("tls_port", 1, 65535),
            ("https_port", 0, 65535),
            ("notify_port", 1, 65535),
            ("mbit_per_second", 0, 1_000_000),
            ("max_connections", 1, 10_000),
            ("https_connections", 1, 10_000),
            ("idle_seconds", 0.1, 3600),
            ("transfers_at_a_time", 1, 10_000),
            ("transfers_per_server", 1, 1000),
            ("transfers_per_prefix", 1, 10_000),
            ("whole_zones_per_serial", 0, 1_000_000),
            ("without_key_at_a_time", 0, 10_000),
            ("without_key_per_serial", 1, 1_000_000),
            ("canary_seconds", 5, 86_400),
        ):
            check_range(f"localroot.{key}", getattr(self, key), lowest, highest)
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigError("localroot.tls_key: tls_certificate and tls_key go together")
        if self.https_port and not self.tls_certificate:
            raise ConfigError("localroot.tls_certificate: is needed for https")
        if self.https_port and self.https_port in {self.port, self.tls_port}:
            raise ConfigError(f"localroot.https_port: {self.https_port} is the port of transfers")
        if self.canary_zone and not is_zone_name(self.canary_zone):
            raise ConfigError(
                "localroot.canary_zone: must be in lower case, end with a dot and not be the root, got"
                f" {self.canary_zone!r}"
            )


def is_zone_name(text: str) -> bool:
    """Whether *text* is a name below the root as configurations have it: labels of letters, digits, - and _."""
    return bool(re.fullmatch(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+", text)) and len(text) <= 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributeConfig:
    """`[[distribute]]`: a zone that is verified, kept and given out, and that no service address ever answers."""

    name: str
    """Domain name; its primaries are those `[[primary]]` that name it."""

    owner: str = ""
    """Who is responsible for it, for people."""

    zonemd: Literal["required", "once-announced"] = "once-announced"
    """"once-announced": required from the first version on that had one; always where its source is not authentic."""

    max_octets: int = 16_000_000
    """Of a transfer; a larger one is refused."""

    max_records: int = 250_000

    @property
    def validation(self) -> str:
        """By the DS in its parent, always."""
        return "required"

    def __post_init__(self) -> None:
        where = f"distribute.{self.name}"
        if not self.name.endswith(".") or self.name != self.name.lower() or self.name == ".":
            raise ConfigError(
                f"distribute.name: must be in lower case, end with a dot and not be the root, got {self.name!r}"
            )
        check_range(f"{where}.max_octets", self.max_octets, 1000, 1_000_000_000)
        check_range(f"{where}.max_records", self.max_records, 10, 250_000)


def check_localroot(
    localroot: LocalRootConfig | None,
    distribute: tuple[DistributeConfig, ...],
    taken: Mapping[str, tuple[str, ...]],
    zones: tuple[str, ...],
    fetched: tuple[str, ...],
) -> None:
    """What only all sections together can tell; ConfigError names the key.

    *taken*: addresses of other sections by key; *zones*: those that are served; *fetched*: those that have a primary.
    """
    if localroot is None:
        if distribute:
            raise ConfigError("distribute: goes with [localroot]: nothing else gives such zones out")
        return
    for key, addresses in taken.items():
        others = {plain_address(each) for each in addresses}
        for address in localroot.addresses:
            if plain_address(address) in others:
                raise ConfigError(f"localroot.addresses: {address} is one of {key}; it must be another one")
    if localroot.canary_zone in (*zones, *fetched):
        raise ConfigError(f"localroot.canary_zone: {localroot.canary_zone} is somebody else's; it is made here")
    names = [each.name for each in distribute]
    for name in names:
        if name in zones:
            raise ConfigError(f"distribute.{name}: is a [[zone]], which is given out, too")
        if names.count(name) > 1:
            raise ConfigError(f"distribute.{name}: is named twice")
        if name == localroot.canary_zone:
            raise ConfigError(f"localroot.canary_zone: {name} is a [[distribute]]; it is made here, without a primary")
        if name not in fetched:
            raise ConfigError(f"distribute.{name}: no [[primary]] has it among its zones")
