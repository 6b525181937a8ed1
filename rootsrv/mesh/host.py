"""The distribution host: from a zone that was verified to one that all members answer (RFC 3258 §2.3 a–f)."""
# Theory of operation
# -------------------
#
#            it verified here        offered to          half of the roster's n are ready, and
#            and is staged           all members         95 % of those present or `offer` is over
#   RECEIVED ─────────────▶ VERIFIED ─────────▶ OFFERED ──────────────────────────────────▶ CANARY
#       ▲                      ▲                                                           │   │
#       │  a newer serial, from any state                                                  │   │ a canary signed done,
#       └───────── or ─────────┘                                     two canaries failed   │   ▼ and the soak is over
#                                                               VOID ◀─────────────────────┘ ORDERED
#                                                                                               │
#                                                                                               ▼
#                                     SETTLED: all present signed done, or T + max_delay is over
#
# T is the next multiple of align at least `offer` after the offer and `notice` after now.  A serial is voided once, and
# never after its order for all: a void that comes shortly before T would not reach everybody.
#
# Two or more hosts run and one leads; each runs this machine on what it sees, and only the leader's effects are sent.
# A leader that takes over finds the order of the one before on the board (`adopt`) and goes on from there.
#
# The machine is told what is seen and says what to write.  Nothing that it writes can do more than the member's bounds
# allow (member.py): at worst a zone is late.

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from rootsrv.mesh.orders import SetTime, Stage, Subject
from rootsrv.mesh.quorum import Done, failed_canaries
from rootsrv.mesh.roster import Roster, Timing
from rootsrv.wire.serial import serial_is_newer

READY_FRACTION = 0.95
"""Of those present."""


class Stand(enum.StrEnum):
    """Where the drawing above stands."""

    RECEIVED = "received"
    VERIFIED = "verified"
    OFFERED = "offered"
    CANARY = "canary"
    ORDERED = "ordered"
    SETTLED = "settled"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class WriteOffer:
    """Write the offer."""

    subject: Subject


@dataclass(frozen=True, slots=True)
class WriteOrder:
    """Write the order."""

    subject: Subject
    stage: Stage
    at: float
    reason: str
    canaries_at: float | None = None
    """Of an order for all: T of the canaries before it."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Somebody should look at this."""

    text: str


Effect = WriteOffer | WriteOrder | Alarm


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardView:
    """What the board shows."""

    ready: Mapping[str, Subject]
    """What members signed that they have staged."""

    done: Mapping[str, Done]
    present: frozenset[str]
    """Members whose status is there."""

    canaries_failed_before: frozenset[str] = frozenset()
    """Those that failed with the serial before."""


@dataclass
class Distribution:
    """One zone on its way to all members."""

    zone: str
    stand: Stand = Stand.SETTLED
    subject: Subject | None = None
    offered_at: float = math.inf
    """Seconds since 1970."""

    at: float = math.inf
    """T of the stage that stands."""

    soaked_at: float = math.inf
    reason: str = ""
    voided: set[Subject] = field(default_factory=set)
    _told: str = ""

    def received(self, serial: int) -> None:
        """A newer zone was transferred; nothing is known of it yet."""
        if self.stand in (Stand.SETTLED, Stand.VOID):
            self.stand, self.reason = Stand.RECEIVED, f"serial {serial}"

    def verified(self, subject: Subject) -> None:
        """It verified here and is staged.  What was under way with an older serial ends."""
        if self.subject is not None and not serial_is_newer(subject.serial, self.subject.serial):
            return
        self.stand, self.subject, self.reason, self._told = Stand.VERIFIED, subject, "", ""
        self.offered_at = self.at = self.soaked_at = math.inf

    def adopt(self, offered_at: float, order: SetTime | None) -> None:
        """Go on from what the leader before has written for this subject."""
        if self.subject is None or self.stand not in (Stand.VERIFIED, Stand.OFFERED):
            return
        self.stand, self.offered_at = Stand.OFFERED, min(self.offered_at, offered_at)
        if order is None or order.subject != self.subject:
            return
        match order.stage:
            case Stage.CANARY:
                self.stand, self.at = Stand.CANARY, order.at
            case Stage.ALL:
                self.stand, self.at = Stand.ORDERED, order.at
            case Stage.VOID:
                self.stand, self.reason = Stand.VOID, order.reason
                self.voided.add(order.subject)

    def advance(self, seen: BoardView, roster: Roster, now: float) -> list[Effect]:
        """What to write now (seconds since 1970); called at every turn, by the leader."""
        subject = self.subject
        if subject is None:
            return []
        match self.stand:
            case Stand.VERIFIED:
                self.stand, self.offered_at = Stand.OFFERED, now
                return [WriteOffer(subject)]
            case Stand.OFFERED:
                return self._offered(subject, seen, roster, now)
            case Stand.CANARY:
                return self._canary(subject, seen, roster, now)
            case Stand.ORDERED:
                self._ordered(subject, seen, roster.timing, now)
        return []

    def _offered(self, subject: Subject, seen: BoardView, roster: Roster, now: float) -> list[Effect]:
        listed = {each.name for each in roster.member}
        ready = {name for name, what in seen.ready.items() if what == subject and name in listed}
        ready |= {name for name, what in seen.done.items() if what.subject == subject and what.ok and name in listed}
        present = (seen.present & listed) | ready
        if 2 * len(ready) < len(listed):
            if now < self.offered_at + roster.timing.offer:
                return []
            return self._alarm(f"serial {subject.serial}: fewer than half of {len(listed)} members are ready")
        if len(ready) < READY_FRACTION * len(present) and now < self.offered_at + roster.timing.offer:
            return []
        self.stand = Stand.CANARY
        self.at = self._set_time(roster.timing, now)
        return [WriteOrder(subject, Stage.CANARY, self.at, f"{len(ready)} of {len(listed)} members are ready")]

    def _canary(self, subject: Subject, seen: BoardView, roster: Roster, now: float) -> list[Effect]:
        failed = failed_canaries(subject, roster, seen.done, seen.canaries_failed_before)
        if failed >= 2 and subject not in self.voided:
            self.voided.add(subject)
            self.stand, self.reason = Stand.VOID, f"{failed} canaries failed"
            return [WriteOrder(subject, Stage.VOID, 0.0, self.reason), Alarm(f"serial {subject.serial}: {self.reason}")]
        if now < self.at:
            return []
        done = {name for name in roster.canaries if name in seen.done and seen.done[name].subject == subject}
        good = {name for name in done if seen.done[name].ok}
        if self.soaked_at == math.inf and good:
            self.soaked_at = self.at + roster.timing.soak
        # With no canary that answers from it there is nothing to go by; the local rule is the end of waiting.
        if not good or now < self.soaked_at:
            return []
        canaries_at, timing = self.at, roster.timing
        self.stand, self.at = Stand.ORDERED, self._set_time(timing, now)
        if self.at > canaries_at + timing.max_delay:
            # Nobody would obey it; all count from the canaries' T, and go alone at one T.
            self.at = canaries_at + timing.lead + timing.wait
            return [Alarm(f"serial {subject.serial}: too late for an order, members go by the local rule")]
        return [WriteOrder(subject, Stage.ALL, self.at, f"{len(good)} canaries answer from it", canaries_at)]

    def _ordered(self, subject: Subject, seen: BoardView, timing: Timing, now: float) -> None:
        waiting = {name for name in seen.present if name not in seen.done or seen.done[name].subject != subject}
        if now >= self.at and (not waiting or now >= self.at + timing.max_delay):
            self.stand = Stand.SETTLED
            self.reason = f"{len(waiting)} members have not signed done" if waiting else ""

    def _set_time(self, timing: Timing, now: float) -> float:
        # The canaries do not wait for `offer` to pass: it bounds how long members are waited for (`_offered`).
        earliest = max(now + timing.notice, self.offered_at + timing.offer)
        return math.ceil(earliest / timing.align) * timing.align

    def _alarm(self, text: str) -> list[Effect]:
        if self._told == text:
            return []
        self._told = text
        return [Alarm(text)]
