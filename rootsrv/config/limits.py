"""Configuration of rate limits, and of what is sampled to see who floods."""

import ipaddress
from dataclasses import dataclass
from typing import Literal

from rootsrv.config.checks import ConfigError, check_range

Mode = Literal["off", "dry-run", "on"]

_LEVELS = 4
_MAX_EXEMPT = 1024  # the kernel has room for 4,096, of which service addresses take some
_LARGEST_COST = 4  # of one query (admission/limits.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """`[limits]`: how much one source may ask over UDP without a cookie before it is sent to TCP.

    RFC 7720 §3 wants every valid source answered: off until an operator says otherwise, and tried dry first
    (docs/under-attack.md).
    """

    mode: Mode = "off"
    """"dry-run": count what would be limited, and answer it; "on": answer it with TC."""

    rate: int = 500
    """Cost units a second for one IPv4 address or IPv6 /64.

    A referral costs 1, an nxdomain 2, DNSKEY or a response of 1,100 octets 4.
    """

    burst_seconds: float = 2.0
    """How long at that rate may come at once."""

    ipv4_multipliers: tuple[int, ...] = (1, 32, 256, 768)
    """What /32, /24, /20 and /18 may have, in multiples of `rate`."""

    ipv6_multipliers: tuple[int, ...] = (1, 4, 16, 256)
    """The same for /64, /56, /48 and /32."""

    connections: int = 200
    """New TCP connections a second from one IPv4 address or IPv6 /64, wider prefixes by the multipliers."""

    handshake_milliseconds: int = 50
    """Processor time a second that TLS handshakes from one IPv4 address or IPv6 /64 may take."""

    exempt: tuple[str, ...] = ()
    """Prefixes or addresses that are never limited nor shed: monitors.  Our own probes never are."""

    sample_every: int = 16
    """Look at one of so many UDP queries to know who floods (`rootsrv top`); 0 = not at all."""

    publish_prefixes: bool = False
    """Show the busiest source prefixes in metrics and on the status page too, not on the control socket alone."""

    def __post_init__(self) -> None:
        check_range("limits.rate", self.rate, 1, 10_000_000)
        check_range("limits.burst_seconds", self.burst_seconds, 0.05, 60)
        check_range("limits.connections", self.connections, 1, 1_000_000)
        check_range("limits.handshake_milliseconds", self.handshake_milliseconds, 1, 100_000)
        check_range("limits.sample_every", self.sample_every, 0, 1_000_000)
        if self.rate * self.burst_seconds < _LARGEST_COST:
            raise ConfigError(
                f"limits.burst_seconds: rate × burst_seconds must be at least {_LARGEST_COST}, which one large response"
                f" costs, got {self.rate * self.burst_seconds:g}"
            )
        if self.connections * self.burst_seconds < 1:
            raise ConfigError("limits.burst_seconds: connections × burst_seconds must be at least 1")
        for key in ("ipv4_multipliers", "ipv6_multipliers"):
            multipliers = getattr(self, key)
            if len(multipliers) != _LEVELS:
                raise ConfigError(f"limits.{key}: must be {_LEVELS} numbers, one for each prefix length")
            for each in multipliers:
                check_range(f"limits.{key}", each, 1, 1_000_000)
            if list(multipliers) != sorted(multipliers):
                raise ConfigError(f"limits.{key}: a wider prefix must not have less than one inside it")
        if len(self.exempt) > _MAX_EXEMPT:
            raise ConfigError(f"limits.exempt: at most {_MAX_EXEMPT}, got {len(self.exempt)}")
        for text in self.exempt:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ConfigError(f"limits.exempt: {error}") from error
