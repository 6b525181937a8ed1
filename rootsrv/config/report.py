"""Configuration of what people look at: metrics, status page, statistics, logs."""

import re
from dataclasses import dataclass
from typing import Literal

from rootsrv.config.checks import ConfigError, check_addresses, check_range, plain_address


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """`[report]`: metrics and status page over HTTP, RSSAC002 statistics."""

    addresses: tuple[str, ...] = ()
    """Where HTTP is answered; empty = on the admin addresses. Never a service address."""

    port: int = 9353
    """TCP port of `/` (status page) and `/metrics` (Prometheus)."""

    service: str = "x.root-servers.net"
    """`service` of the RSSAC002 files; its first label names them (x-root-20261121-load-time.yaml)."""

    contact: str = ""
    """Whom to call, shown on the status page."""

    statistics_directory: str = ""
    """Where the days' records and files are kept; empty = `statistics` in the state directory."""

    sources_key_file: str = ""
    """File with the secret that unique sources are hashed with, 32 hexadecimal digits (`openssl rand -hex 16`): the
    same at all instances whose statistics are merged.  Empty = one of this instance alone, `sources.key` in the state
    directory."""

    def __post_init__(self) -> None:
        check_addresses("report.addresses", self.addresses)
        check_range("report.port", self.port, 1, 65535)
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?", self.service):
            raise ConfigError(f"report.service: must be a host name in lower case, got {self.service!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """`[log]`: how lines on standard error look."""

    format: Literal["logfmt", "json"] = "logfmt"
    """"logfmt": time, event, key=value …; "json": one object per line."""


def refuse_served(key: str, addresses: tuple[str, ...], service_addresses: tuple[str, ...]) -> None:
    """Refuse to answer HTTP where DNS is served (D41)."""
    served = {plain_address(each) for each in service_addresses}
    for address in addresses:
        if plain_address(address) in served:
            raise ConfigError(f"{key}: {address} is a service address; it must be another one")
