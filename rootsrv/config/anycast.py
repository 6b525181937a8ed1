"""Configuration of the route: when the service prefixes are announced, and through which protocols of BIRD."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from rootsrv.config.checks import ConfigError, check_range

PROTOCOL_NAME = r"[A-Za-z0-9_.:-]{1,64}"
"""What BIRD takes as a name: bare ones are letters, digits and _; those in quotes may have dashes, dots and colons as
well (conf/cf-lex.l).  They go into commands in quotes."""


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
            ("stale_soft_seconds", 1, 172_800),
            ("stale_hard_seconds", self.stale_soft_seconds, 604_800),
            ("drain_fraction", 0, 0.5),
            ("drain_seconds", 1, 3600),
            ("stop_linger_seconds", 0, 300),
        ):
            check_range(f"anycast.{key}", getattr(self, key), lowest, highest)
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
        longest = {4: 30, 6: 126}[version]
        if prefix.version != version or prefix.prefixlen > longest:
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
                if not re.fullmatch(PROTOCOL_NAME, name):
                    raise ConfigError(f"anycast.{key}_v{version}: {name!r} is not a name of a BIRD protocol")
            if len(set(group)) != len(group):
                raise ConfigError(f"anycast.{key}_v{version}: a protocol is named twice")

    def anchor(self, version: int) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
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


def check_anycast(anycast: AnycastConfig, service_addresses: tuple[str, ...]) -> None:
    """Refuse prefixes that do not hold the service addresses: the route would lead to nothing."""
    addresses = [ipaddress.ip_address(each) for each in service_addresses]
    if not anycast.versions():
        raise ConfigError("anycast: prefix_v4, prefix_v6 or both are needed")
    for version in anycast.versions():
        anchor = anycast.anchor(version)
        assert anchor is not None
        if anchor.ip in addresses:
            raise ConfigError(f"anycast.anchor_v{version}: {anchor.ip} is a service address; it must be another one")
        if not any(each in anchor.network for each in addresses):
            raise ConfigError(f"anycast.prefix_v{version}: no service address lies in {anchor.network}")
