"""One version of a zone from its delivery to service: what it is, where it came from, how and when."""
# Theory of operation
# -------------------
# The carrier grows and says nothing twice:
#
#   Transferred ────────▶ Delivery ────── accepted ──────▶ Version
#   (secondary/primary)   contents, Origin                 the delivery, and the lease that it is served on
#                            ▲                                │
#                            └─────────── again() ────────────┘
#                              what is in service, judged or compiled once more

from dataclasses import dataclass, field, replace

from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.lease import Lease


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version came from, how and when."""

    source: str
    how: str
    received_at: float
    """Seconds since 1970."""

    confirmed_boottime: float
    """When its source said that it is current, CLOCK_BOOTTIME, seconds."""

    primary: str = ""
    """The primary that delivered it; '' if it was none of them."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A version of a zone that might go into service."""

    contents: ZoneContents = field(repr=False)
    origin: Origin
    expire_seconds: int
    authenticated: bool
    """Whether its source is known by more than its address; else DNSSEC and ZONEMD have to verify all of it."""

    approved: bool = False
    """An operator wants it, plausible or not."""

    kept: bool = False
    """It is in the store already."""

    @property
    def serial(self) -> int:
        """The SOA serial."""
        return self.contents.serial


@dataclass
class Version:
    """A delivery that verified: in service or on its way there."""

    delivery: Delivery
    lease: Lease
    alarms: tuple[str, ...] = ()

    @property
    def contents(self) -> ZoneContents:
        """What was delivered."""
        return self.delivery.contents

    @property
    def serial(self) -> int:
        """The SOA serial."""
        return self.delivery.serial

    def again(self) -> Delivery:
        """What was delivered, as it was confirmed last: to be judged or compiled once more."""
        lease = self.lease
        origin = replace(
            self.delivery.origin,
            received_at=lease.confirmed_wall,
            confirmed_boottime=lease.confirmed_boottime,
            primary="",
        )
        return replace(
            self.delivery,
            origin=origin,
            expire_seconds=int(lease.duration_seconds),
            authenticated=True,
            approved=True,
            kept=True,
        )
