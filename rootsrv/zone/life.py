"""The life of one zone in one place: what comes next, what waits, what is in service and until when it is answered."""
# Over 400 lines: it is one machine, whose states, laws and transitions are read together.
# Theory of operation
# -------------------
# One machine with three regions; each state holds what is true in it and nowhere else.
#
# What comes next, one version at a time:
#
#                 take                      accept                      activated
#     IDLE ─────────────────▶ JUDGED ────────────────▶ SCHEDULED ───────────────────▶ IDLE, and IN SERVICE
#      ▲                    (Delivery)                 (Version)                           │
#      │  rejected, held,       │    void, unwritten,      │     stayed: nobody had flipped │
#      └─ waiting ── let_go ────┴─── overtaken ── let_go ──┴────────────────────────────────┘
#
# What is answered from:
#
#                 recalled, activated                       distrust
#     NOTHING ────────────────────────▶ IN SERVICE ────────────────────────▶ DISTRUSTED
#     (floor)                         (Version, since) ◀── trust, activated ── (…, reason)
#
# How its lease stood when it was looked at last (`watch`, every second):
#
#                      the deadline has passed, or it is distrusted
#     RUNNING ─────────────────────────────────────────────────────▶ OVER (ask_again_at)
#        ▲ ◀─────────────────── renewed, trusted, another is in service ┘
#
# Beside them: the queue of what was delivered and nobody has looked at; what is held for a human; and what waits for
# another zone that it fits.
#
# Law 1  There is no way back: `floor`, the newest serial that was ever in service, rises with each `activated`.  Only
#        `stayed` takes that back, when what was activated has answered nobody.
# Law 2  What is distrusted has no time left, and what is over is not answered; both stay in service, so that
#        a confirmation is enough to answer from them again.
# Law 3  Nothing takes the place of what is in service on a lease that is worse (`lease_fault`).
#
# Nothing here reads a clock: `now` is CLOCK_BOOTTIME in seconds, the TrustedClock says what the wall clock would be.

import functools
from dataclasses import dataclass, replace

from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.delivery import Delivery, Version
from rootsrv.zone.lease import Lease, TrustedClock


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is being taken care of."""


@dataclass(frozen=True, slots=True)
class Judged:
    """This is being verified, judged, compiled and examined."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Scheduled:
    """This verified, and is staged or waits for its set time."""

    version: Version


@dataclass(frozen=True, slots=True)
class Unserved:
    """There is nothing to answer from."""

    floor: int | None = None
    """The newest serial that was ever in service; nothing older will be."""


@dataclass(frozen=True, slots=True)
class InService:
    """This is answered from until its lease is over."""

    version: Version
    since: float
    """CLOCK_BOOTTIME, seconds."""

    known_at: float | None = None
    """When its serial was heard of first, seconds since 1970; None = that is not known."""

    unjudged: str = ""
    """Why it could not be verified again; empty if it could."""


@dataclass(frozen=True, slots=True)
class Distrusted(InService):
    """This is kept, and must not be answered from although nothing else is there."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """The lease of what is in service runs, or there is none."""


@dataclass(frozen=True, slots=True)
class Over:
    """The lease of what is in service is over."""

    ask_again_at: float
    """When the primaries are asked again, whatever their timers say; CLOCK_BOOTTIME, seconds."""


Coming = Idle | Judged | Scheduled
Service = Unserved | InService


@dataclass(frozen=True, slots=True)
class Held:
    """A verified version that waits for a decision."""

    serial: int
    reasons: tuple[str, ...]
    source: str
    received_at: float
    """Seconds since 1970."""

    zonemd: str
    """Its digest, hexadecimal; empty if it has none."""


@dataclass(frozen=True, slots=True)
class Received:
    """The newest transfer, whatever became of it."""

    serial: int
    at: float
    """CLOCK_BOOTTIME, seconds."""


_REMEMBERED = 16
"""Serials of which it is kept in mind when they were heard of first."""


@dataclass(frozen=True, slots=True)
class Before:
    """What `activated` changes."""

    service: Service
    held: dict[int, Held]


@dataclass(frozen=True, slots=True)
class Watched:
    """What `watch` found."""

    over: str = ""
    """Why the lease is over, if it has just ended."""

    renewed: bool = False
    """It was over and is not any more."""

    ask: bool = False
    """All primaries are to be asked at once."""


class ZoneLife:
    """The machine drawn above, for one zone."""

    def __init__(self, clock: TrustedClock, max_serve_seconds: float = 0.0) -> None:
        """*max_serve_seconds*: the longest lease that is taken, whatever the zone says; 0 = as it says."""
        self.clock = clock
        self.max_serve_seconds = max_serve_seconds
        self.coming: Coming = Idle()
        self.service: Service = Unserved()
        self.lease_state: Running | Over = Running()
        self.queue: list[Delivery] = []
        """What was delivered and nobody has looked at, newest serial first."""

        self.held: dict[int, Held] = {}
        self.waiting: Delivery | None = None
        """A zone of hosts that fits no root yet."""

        self.received: Received | None = None
        self.known_since: float | None = None
        """Since when a newer serial than the one in service has been known; CLOCK_BOOTTIME, seconds."""

        self.heard_of: dict[int, float] = {}
        """When a serial was first named or received, seconds since 1970."""

        self.last_rejection = ""
        """Serial, source and reason of what did not get into service last; empty after a success."""

    # What is true now.

    @property
    def serving(self) -> Version | None:
        """What is in service."""
        return self.service.version if isinstance(self.service, InService) else None

    @property
    def scheduled(self) -> Version | None:
        """What is staged or waits for its set time."""
        return self.coming.version if isinstance(self.coming, Scheduled) else None

    @property
    def newest(self) -> Version | None:
        """What is scheduled, else what is in service."""
        return self.scheduled or self.serving

    @property
    def floor(self) -> int | None:
        """The newest serial that was ever in service; nothing older will be."""
        return self.service.floor if isinstance(self.service, Unserved) else self.service.version.serial

    @property
    def distrusted(self) -> str:
        """Why what is in service must not be answered from; empty if it may."""
        return self.service.reason if isinstance(self.service, Distrusted) else ""

    @property
    def unjudged(self) -> str:
        """Why what is in service could not be verified again; empty if it could."""
        return self.service.unjudged if isinstance(self.service, InService) else ""

    def is_served(self, serial: int) -> bool:
        """Whether *serial* is in service."""
        return self.serving is not None and self.serving.serial == serial

    def is_under_way(self, serial: int) -> bool:
        """Whether *serial* is being taken care of, or is next."""
        match self.coming:
            case Judged(delivery) if delivery.serial == serial:
                return True
            case Scheduled(version) if version.serial == serial:
                return True
        return any(each.serial == serial for each in self.queue)

    def known(self, named: int | None) -> int | None:
        """The newest serial that is known to exist; *named*: the newest that primaries name."""
        for serial in self.held:
            if named is None or serial_is_newer(serial, named):
                named = serial
        return named

    def note_known(self, named: int | None, now: float) -> None:
        """Keep `known_since` true."""
        known, serving = self.known(named), self.serving
        if known is not None:
            self.hear_of(known, self.clock.wall(now))
        behind = known is not None and (serving is None or serial_is_newer(known, serving.serial))
        if not behind:
            self.known_since = None
        elif self.known_since is None:
            self.known_since = now

    def hear_of(self, serial: int, wall_seconds: float) -> None:
        """*serial* exists: somebody named it, or it was received."""
        self.heard_of.setdefault(serial, wall_seconds)
        while len(self.heard_of) > _REMEMBERED:
            del self.heard_of[next(iter(self.heard_of))]

    # Leases.

    def deadline(self, now: float) -> float | None:
        """Until when (CLOCK_BOOTTIME, seconds) what is in service may be answered from; None = there is nothing."""
        match self.service:
            case Distrusted():
                return 0.0
            case InService(version):
                return version.lease.deadline(self.clock, now)
        return None

    def is_over(self, now: float) -> bool:
        """Whether something is in service that must not be answered from any more."""
        deadline = self.deadline(now)
        return deadline is not None and deadline <= now

    def _lease_of(self, delivery: Delivery, signatures_until: float | None) -> Lease:
        """The lease that *delivery* would be served on."""
        duration = self._bounded(float(min(delivery.expire_seconds, delivery.contents.soa.expire)))
        confirmed = delivery.origin.confirmed_boottime
        return Lease(delivery.serial, self.clock.wall(confirmed), confirmed, duration, signatures_until)

    def _bounded(self, duration: float) -> float:
        return min(duration, self.max_serve_seconds) if self.max_serve_seconds else duration

    def lease_fault(
        self, delivery: Delivery, now: float, refresh_seconds: float | None, signatures_until: float | None = None
    ) -> str:
        """Why *delivery* must not take the place of what is in service: its lease; empty if that is good enough.

        A zone is as genuine as its signatures, but how long it may be served can depend on what nobody signed: EXPIRE
        of a primary without key, the SOA of an unsigned zone.  So nothing goes into service on a lease that is over,
        or that is shorter than both what is left of the present one and one refresh.

        *refresh_seconds*: SOA refresh of a zone in service that is signed; None = as what is in service says.
        """
        serving = self.serving
        if serving is not None and serving.serial == delivery.serial:
            return ""
        new = self._lease_of(delivery, signatures_until).deadline(self.clock, now) - now
        if new <= 0:
            return "its lease is over (SOA expire, EXPIRE of the primary or the end of signatures)"
        if serving is None:
            return ""
        left = (self.deadline(now) or 0.0) - now
        if new < min(left, serving.contents.soa.refresh if refresh_seconds is None else refresh_seconds):
            return f"its lease would end in {new:.0f} s, that of {serving.serial} in {left:.0f} s"
        return ""

    def confirm(self, expire_seconds: int | None, now: float) -> bool:
        """A primary said that the newest version is current; whether that is the one in service."""
        newest = self.newest
        assert newest is not None
        duration = float(newest.contents.soa.expire)
        if expire_seconds is not None:
            duration = min(duration, float(expire_seconds))
        newest.lease = newest.lease.renewed(self.clock, now, self._bounded(duration))
        self.last_rejection = ""
        return newest is self.serving

    def watch(self, now: float, retry_seconds: float) -> Watched:
        """Look at the lease of what is in service: primaries are asked when it ends, and every *retry_seconds* then."""
        if not self.is_over(now):
            renewed = isinstance(self.lease_state, Over) and self.serving is not None
            if renewed:
                self.lease_state = Running()
            return Watched(renewed=renewed)
        ask, over = True, ""
        if isinstance(self.lease_state, Over):
            ask = now >= self.lease_state.ask_again_at
        else:
            over = self._why_over(now)
        if ask:
            self.lease_state = Over(now + retry_seconds)
        return Watched(over=over, ask=ask)

    def _why_over(self, now: float) -> str:
        assert self.serving is not None
        until = self.serving.lease.signatures_until
        if self.distrusted:
            return self.distrusted
        if until is not None and until <= self.clock.wall(now):
            return "its signatures have ended"
        return "no primary has confirmed it in time"

    # What happens.

    def receive(self, serial: int, now: float) -> None:
        """A transfer of *serial* is complete."""
        self.received = Received(serial, now)
        self.hear_of(serial, self.clock.wall(now))

    def queue_up(self, delivery: Delivery, at_most: int) -> None:
        """*delivery* came; the newest *at_most* wait."""
        self.queue = [each for each in self.queue if each.serial != delivery.serial]
        self.queue.append(delivery)
        self.queue.sort(key=_NEWEST_FIRST)
        del self.queue[at_most:]

    def take(self, delivery: Delivery) -> None:
        """*delivery* is being judged."""
        self.coming = Judged(delivery)

    def accept(self, delivery: Delivery, signatures_until: float | None, alarms: tuple[str, ...]) -> Version:
        """*delivery* verified and is on its way into service."""
        lease, serving = self._lease_of(delivery, signatures_until), self.serving
        if serving is not None and serving.serial == delivery.serial and delivery.kept and serving.lease.by_wall:
            lease = replace(serving.lease, signatures_until=signatures_until)
        version = Version(delivery, lease, alarms)
        self.coming = Scheduled(version)
        self.held.pop(delivery.serial, None)
        self.last_rejection = ""
        return version

    def let_go(self) -> None:
        """Nothing is being taken care of any more."""
        self.coming = Idle()

    def recall(
        self, version: Version, now: float, served_at: float | None = None, known_at: float | None = None
    ) -> None:
        """*version* was in service before a restart, since *served_at* (seconds since 1970) if that is known."""
        since = now if served_at is None else now - max(0.0, self.clock.wall(now) - served_at)
        self.service = InService(version, since, known_at)

    def recall_floor(self, serial: int) -> None:
        """*serial* was in service before a restart and cannot be had: nothing older will do."""
        self.service = Unserved(serial)

    def activated(self, now: float) -> Before:
        """What was scheduled is in service; what was before, for `stayed`."""
        assert isinstance(self.coming, Scheduled)
        before, version = Before(self.service, dict(self.held)), self.coming.version
        self.service, self.coming = InService(version, now, self.heard_of.get(version.serial)), Idle()
        self.held = {serial: each for serial, each in self.held.items() if serial_is_newer(serial, version.serial)}
        return before

    def stayed(self, before: Before) -> None:
        """What was activated has answered nobody: what was in service still is."""
        self.service, self.held, self.coming = before.service, before.held, Idle()

    def hold(self, held: Held) -> None:
        """A verified version waits for a decision."""
        self.held[held.serial] = held

    def decided(self, serial: int) -> Held:
        """*serial* is not held any more; KeyError if it was not."""
        return self.held.pop(serial)

    def distrust(self, reason: str) -> None:
        """What is in service must not be answered from."""
        assert isinstance(self.service, InService)
        was = self.service
        self.service = Distrusted(was.version, was.since, was.known_at, was.unjudged, reason)

    def trust(self) -> None:
        """What is in service may be answered from after all."""
        assert isinstance(self.service, InService)
        was = self.service
        self.service = InService(was.version, was.since, was.known_at, was.unjudged)
        self.last_rejection = ""

    def judged_again(self, unjudged: str = "") -> None:
        """What is in service was verified again, or could not be: *unjudged* says why."""
        assert isinstance(self.service, InService)
        self.service = replace(self.service, unjudged=unjudged)


def _newest_first(one: Delivery, other: Delivery) -> int:
    return -1 if serial_is_newer(one.serial, other.serial) else 1


_NEWEST_FIRST = functools.cmp_to_key(_newest_first)
