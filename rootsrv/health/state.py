"""Whether this site should attract traffic, for one IP version."""
# Theory of operation
# -------------------
#
#                                         `rise` passes in a row
#             pass                        and hold-down over
#   DOWN ──────────────▶ RISING ───────────────────────────────────────┐
#    ▲ ▲                   │                                           ▼
#    │ └──── fail, cease ──┘                       ┌────── stale ─── UP ◀──┐
#    │                                             ▼                 │ │   │
#    │                                         DEGRADED ── fresh ────┼─┘   │ pass
#    │   `fall` failures in a row, or cease        │                 │     │ (back to UP or DEGRADED)
#    ├────────────────────────────────── FALLING ◀─┴───── fail ──────┘     │
#    │                                      └──────────────────────────────┘
#    └── cease: from UP and DEGRADED at once
#
#   any ── operator: drain ──▶ DRAINED, announced with GRACEFUL_SHUTDOWN, until traffic fell or failures say otherwise
#                              DRAINED, withdrawn
#   any, withdrawn ── a token of the mesh's floor was lost ──▶ DEGRADED at once (health/floor.py)
#
#   any ── operator: withdraw ──▶ DRAINED, withdrawn at once
#   DRAINED ── operator: undrain ──▶ UP or DEGRADED if the route is still there, else DOWN
#
# Announced in UP, DEGRADED, FALLING and in the first half of DRAINED; withdrawn otherwise.  UNSURE (load) moves
# nothing: it is no failure, and it does not count towards `rise`.
#
# The hold-down runs from the last failure, not from the withdrawal: a service that fails every few seconds is
# withdrawn once and stays so.  It doubles with each withdrawal within flap_memory_seconds (RFC 4786 §4.4.1).
#
# The promise made to the routing system is a lease.  `promise` says how long it may be given for, from the instant of
# the last observation; it never outlives the root zone's own lease.  Whoever stops observing stops promising.
#
# All changes of state happen in `Health.observe`; nothing else in the program decides to announce or withdraw.

from dataclasses import dataclass
from enum import Enum

from rootsrv.health.evidence import Cause, Judgement, RoundVerdict


class State(Enum):
    """Where the drawing above stands."""

    DOWN = "down"
    RISING = "rising"
    UP = "up"
    DEGRADED = "degraded"
    FALLING = "falling"
    DRAINED = "drained"


class Announcement(Enum):
    """What the routing system should be told."""

    WITHDRAWN = "withdrawn"
    UP = "up"
    DEGRADED = "degraded"
    DRAINING = "draining"
    """Announced with GRACEFUL_SHUTDOWN (RFC 8326), so that neighbours prefer any other instance."""


class Wish(Enum):
    """What the operator asked for."""

    SERVE = "serve"
    DRAIN = "drain"
    WITHDRAW = "withdraw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Steadiness:
    """How steady the evidence must be; durations in seconds."""

    rise: int = 3
    fall: int = 2
    hold_down_seconds: float = 10.0
    hold_down_max_seconds: float = 600.0
    flap_memory_seconds: float = 1800.0
    lease_seconds: float = 3.0


@dataclass(frozen=True, slots=True)
class Change:
    """One transition, for the log and the operator."""

    old: State
    new: State
    before: Announcement
    announcement: Announcement
    reason: str


@dataclass(frozen=True, slots=True)
class Flaps:
    """What must outlive the process so that a restart does not shorten a hold-down."""

    withdrawals: int = 0
    """Withdrawals for a failure that still count."""

    quiet_since: float = float("-inf")
    """Time of the last failure."""

    announced_since: float | None = None


_ANNOUNCED = {
    State.UP: Announcement.UP,
    State.DEGRADED: Announcement.DEGRADED,
}

POSSIBLE_CHANGES: tuple[tuple[Announcement, Cause], ...] = (
    (Announcement.UP, Cause.HEALTHY),
    (Announcement.DEGRADED, Cause.STALE),
    (Announcement.DRAINING, Cause.OPERATOR),
    *((Announcement.WITHDRAWN, cause) for cause in Cause if cause is not Cause.HEALTHY),
)
"""To what an announcement can change, and why."""


class Health:
    """The state of one IP version's service prefix.  Times are seconds on one clock that never steps."""

    def __init__(self, limits: Steadiness, now: float, flaps: Flaps | None = None) -> None:
        self.limits = limits
        self.state = State.DOWN
        self.announcement = Announcement.WITHDRAWN
        self.since = now
        """When `state` last changed."""
        self.reason = "starting"
        """Why it is what it is."""
        self.changes = dict.fromkeys(POSSIBLE_CHANGES, 0)
        """How often the announcement became what it then was, and why; since this object was made."""
        self._cause = Cause.HEALTHY
        self.flaps = flaps or Flaps()
        self._passes = 0
        self._failures = 0
        self._promise_until = now

    def observe(
        self,
        judgement: Judgement,
        now: float,
        *,
        wish: Wish = Wish.SERVE,
        wish_reason: str = "",
        wish_cause: Cause = Cause.OPERATOR,
        drained: bool = False,
        must_announce: bool = False,
    ) -> Change | None:
        """Take one round's *judgement* and the operator's *wish*; *drained* = traffic fell enough to end a drain.

        *must_announce*: a withdrawal that rested on a token of a mesh's floor rests on nothing any more; what is
        withdrawn is announced at once, whatever the hold-down says, before another member has the token.

        Returns the change of state or of announcement, None where all stays as it was.
        """
        before = (self.state, self.announcement)
        failed = judgement.verdict in (RoundVerdict.FAIL, RoundVerdict.CEASE)
        self._passes = self._passes + 1 if judgement.verdict is RoundVerdict.PASS else 0 if failed else self._passes
        self._failures = (
            self._failures + 1 if failed else 0 if judgement.verdict is RoundVerdict.PASS else self._failures
        )
        if failed:
            self._flap(quiet_since=now)
        gone = judgement.verdict is RoundVerdict.CEASE or self._failures >= self.limits.fall

        self._cause = wish_cause
        if must_announce and self.announcement is Announcement.WITHDRAWN:
            self._flap(announced_since=now)
            self._announce(judgement)
        elif wish is not Wish.SERVE:
            self._drain(judgement, now, gone, drained or wish is Wish.WITHDRAW, wish_reason)
        elif self.state is State.DRAINED:
            self._undrain(judgement, gone, now)
        elif self.announcement is Announcement.WITHDRAWN:
            self._rise(judgement, failed, now)
        elif gone:
            self._withdraw(judgement, now)
        elif failed:
            self.state, self.reason = State.FALLING, judgement.reason
        elif self.state is not State.FALLING or judgement.verdict is RoundVerdict.PASS:
            self._announce(judgement)

        self._promise_until = now
        if self.announcement is not Announcement.WITHDRAWN:
            self._promise_until += max(0.0, min(self.limits.lease_seconds, judgement.lease_seconds))
        if (self.state, self.announcement) == before:
            return None
        self.since = now
        if self.announcement is not before[1]:
            self.changes[self.announcement, self._cause] += 1
        return Change(before[0], self.state, before[1], self.announcement, self.reason)

    @property
    def cause(self) -> Cause:
        """Why the announcement is what it is."""
        return self._cause

    def promise(self, now: float) -> float:
        """Seconds for which the route may be promised at *now*; 0 = it must not be."""
        return max(0.0, self._promise_until - now)

    def hold_down_left(self, now: float) -> float:
        """Seconds without failure still to pass before a withdrawn prefix may be announced."""
        if not self.flaps.withdrawals:
            return 0.0
        # 2.0 ** 1023 is the last power that a float holds; the maximum is reached long before.
        doubled = self.limits.hold_down_seconds * 2.0 ** min(self.flaps.withdrawals - 1, 64)
        return max(0.0, self.flaps.quiet_since + min(doubled, self.limits.hold_down_max_seconds) - now)

    def outlook(self, now: float) -> str:
        """What would happen next, in words for the operator."""
        limits = self.limits
        match self.state:
            case State.DOWN:
                return f"announced after {limits.rise} passes in a row{self._hold_down_text(now)}"
            case State.RISING:
                left = max(0, limits.rise - self._passes)
                return f"announced after {left} more passes{self._hold_down_text(now)}"
            case State.UP | State.DEGRADED:
                return f"withdrawn after {limits.fall} failures in a row, or at once for wrong or expired data"
            case State.FALLING:
                return f"withdrawn after {limits.fall - self._failures} more failures, back with the next pass"
        if self.announcement is Announcement.DRAINING:
            return "withdrawn when traffic has fallen; `rootsrv undrain` takes it back"
        return "stays withdrawn until `rootsrv undrain`"

    def _hold_down_text(self, now: float) -> str:
        left = self.hold_down_left(now)
        return f" and {left:.0f} s without failure" if left else ""

    def _rise(self, judgement: Judgement, failed: bool, now: float) -> None:
        if failed:
            self.state, self.reason = State.DOWN, judgement.reason
        elif judgement.verdict is RoundVerdict.PASS:
            if self._passes >= self.limits.rise and not self.hold_down_left(now):
                self._flap(announced_since=now)
                self._announce(judgement)
            elif self.state is not State.RISING:
                self.state, self.reason = State.RISING, "passing"

    def _announce(self, judgement: Judgement) -> None:
        self.state = State.DEGRADED if judgement.degrade else State.UP
        self.announcement = _ANNOUNCED[self.state]
        self.reason = judgement.reason or "passing"
        self._cause = Cause.STALE if judgement.degrade else Cause.HEALTHY

    def _withdraw(self, judgement: Judgement, now: float) -> None:
        since = self.flaps.announced_since
        steady = since is not None and now - since >= self.limits.flap_memory_seconds
        self._flap(withdrawals=1 if steady else self.flaps.withdrawals + 1, announced_since=None)
        self.state, self.announcement, self.reason = State.DOWN, Announcement.WITHDRAWN, judgement.reason
        self._cause = judgement.cause

    def _drain(self, judgement: Judgement, now: float, gone: bool, finish: bool, reason: str) -> None:
        announced = self.announcement is not Announcement.WITHDRAWN
        self.state = State.DRAINED
        if announced and gone:
            self._withdraw(judgement, now)
            self.state = State.DRAINED
        elif announced and finish:
            self._flap(announced_since=None)
            self.announcement, self.reason = Announcement.WITHDRAWN, reason
        elif announced:
            self.announcement, self.reason = Announcement.DRAINING, reason
        else:
            self.reason = reason

    def _undrain(self, judgement: Judgement, gone: bool, now: float) -> None:
        if self.announcement is Announcement.WITHDRAWN or gone:
            if self.announcement is not Announcement.WITHDRAWN:
                self._withdraw(judgement, now)
            self.state, self.reason, self._passes = State.DOWN, judgement.reason or "undrained", 0
        else:
            self._announce(judgement)

    def _flap(self, **changes: float | None) -> None:
        values = {name: getattr(self.flaps, name) for name in ("withdrawals", "quiet_since", "announced_since")}
        self.flaps = Flaps(**(values | changes))
