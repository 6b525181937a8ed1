"""When a member goes into service with a zone that it has verified and staged."""
# Theory of operation
# -------------------
# `decide` is the whole rule.  It is a function of what is known now, asked again at every turn, so that nothing has to
# be taken back: an order that comes late, a void, a clock that is lost only change what it says next.
#
#   rejected by an operator ────────────────────────────────────▶ NEVER
#   emergency, signed by an operator ───────────────────────────▶ its T
#   for canaries alone, signed by an operator: this is one ─────▶ its T
#   held (operator; two canaries that failed) ──────────────────▶ WAIT, until approved, over, or D23's timeout
#   order for all, within bounds ───────────────────────────────▶ its T
#   order for canaries, and this is one ────────────────────────▶ its T
#   anything else, or nothing at all ───────────────────────────▶ the local rule
#
# The local rule: the next multiple of `align` after readiness + `lead` + `wait`.  `wait` covers what the canaries need
# and their soak, so that without an engine all go at one T, or at the next multiple, and not before the canaries would
# have.  A void moves the readiness from which it counts to `void` after the first one; it cannot be moved twice.
#
# Bounds of an order: subject as staged here; T at most `max_delay` after readiness; our clock synchronised.  Without
# that the local rule counts on CLOCK_BOOTTIME alone, and the loss of NTP everywhere does not outrun the canaries.
#
# Members are ready at different times, a distribution host first of all.  Were an order for all measured from each
# one's readiness, some would obey one that others find too late, and a leader that dies would leave them with as many
# local Ts as there were readinesses.  So all count from the same: who is ready within `slack` of the leader's offer,
# from the offer; and from an order for canaries within bounds on, everybody from *its* T.  `slack` is what `max_delay`
# leaves, so that nobody goes earlier than the canaries' way needs; who is ready later than that counts from readiness.
# T in the past is the late member's case: it is ready now, so it goes now.
#
# D23's timeout (`too_old`) beats every hold: it is authentic, and too old is worse than strange.  A zone that two
# canaries failed with goes then in waves of k, since whatever broke them may break all.

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rootsrv.mesh.orders import Decision, OperatorVerdict, SetTime, Stage, Subject
from rootsrv.mesh.roster import Timing

VOID_MARGIN_SECONDS = 5.0
"""An order for all is not taken back later than so long before its T: not everybody would hear of it in time."""


@dataclass(frozen=True, slots=True)
class Now:
    """Both clocks; seconds."""

    wall: float
    """The time that is trusted, since 1970."""

    boottime: float
    synchronised: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """A zone that this member has verified, compiled, examined and staged."""

    subject: Subject
    since: float
    """CLOCK_BOOTTIME, seconds, of the first time that it was ready here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What this member knows that bears on a zone.  All of it was signed by who may say so."""

    timing: Timing = field(default_factory=Timing)
    canary: bool = False
    wave: int = 0
    """Which wave of k it belongs to."""

    orders: tuple[SetTime, ...] = ()
    """Those that count, in the order in which they were given (`admitted`)."""

    offers: Mapping[Subject, float] = field(default_factory=dict)
    """When a leader offered it; seconds since 1970."""

    verdicts: tuple[OperatorVerdict, ...] = ()
    canaries_failed: int = 0
    """Canaries that signed `failed` for it and did not fail with the one before."""

    too_old_since: float | None = None
    """CLOCK_BOOTTIME, seconds, since when D23's timeout has been over; None = it is not."""


class Action(enum.StrEnum):
    """What to do with a staged zone."""

    GO = "go"
    """At `Answer.at`."""

    WAIT = "wait"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rule says now."""

    action: Action
    at: float = math.inf
    """CLOCK_BOOTTIME, seconds; may be in the past."""

    why: str = ""


def decide(ready: Ready, known: Known, now: Now) -> Ruling:
    """What to do with the zone that is *ready*."""
    verdicts = [each for each in known.verdicts if each.subject == ready.subject]
    latest = max((each for each in verdicts if each.decision is not Decision.EMERGENCY), key=_sent, default=None)
    if latest is not None and latest.decision is Decision.REJECT:
        return Ruling(Action.NEVER, why=f"rejected by {latest.by}")
    emergency = max((v for v in verdicts if v.decision is Decision.EMERGENCY), key=_sent, default=None)
    if emergency is not None:
        return _at_once(emergency, "emergency", now)
    if latest is not None and latest.decision is Decision.CANARY and known.canary:
        return _at_once(latest, "canaries first", now)
    approved = latest is not None and latest.decision is Decision.APPROVE
    too_old = known.too_old_since is not None
    if not approved and not too_old:
        holds = latest is not None and latest.decision in (Decision.HOLD, Decision.CANARY)
        if latest is not None and holds and now.wall < latest.sent + known.timing.hold:
            return Ruling(Action.WAIT, why=f"held by {latest.by}")
        if known.canaries_failed >= 2 and not known.canary:
            return Ruling(Action.WAIT, why=f"held: {known.canaries_failed} canaries failed with it")
    if too_old and not approved and known.canaries_failed >= 2:
        assert known.too_old_since is not None
        # Each wave sees what became of the one before.
        turn = known.too_old_since + known.wave * (known.timing.soak + known.timing.align)
        return Ruling(Action.GO, _aligned(turn, known.timing, now), f"held too long: wave {known.wave}")
    return _by_order(ready, known, now, ignore_void=too_old or approved)


def _at_once(order: OperatorVerdict, why: str, now: Now) -> Ruling:
    if now.synchronised:
        return Ruling(Action.GO, _boottime(order.at, now), f"{why} by {order.by}")
    return Ruling(Action.GO, now.boottime, f"{why} by {order.by}, without a synchronised clock")


def _by_order(ready: Ready, known: Known, now: Now, *, ignore_void: bool) -> Ruling:
    orders = [each for each in known.orders if each.subject == ready.subject]
    latest = orders[-1] if orders else None
    voided = latest is not None and latest.stage is Stage.VOID and not ignore_void
    standing = _since_the_last_void(orders)
    base = ready.since
    if now.synchronised:
        offered = _offered(ready, known, now)
        base = _counted_from(standing, offered, known.timing, now)
        for each in reversed(_for_this_member(standing, known)):
            at = _boottime(each.at, now)
            if at <= (base if each.stage is Stage.ALL else offered) + known.timing.max_delay:
                return Ruling(Action.GO, at, f"order of {each.by} for {each.stage.value}")
    if voided:
        assert latest is not None
        base = ready.since + known.timing.void
        why = f"void by {latest.by}: local rule after it"
    elif latest is None:
        why = "local rule: no order" if base == ready.since else "local rule after the offer: no order"
    elif not now.synchronised:
        why = "local rule: the clock is not synchronised"
    elif base != ready.since:
        why = "local rule after offer or canaries: no order for this member within bounds"
    else:
        why = "local rule: no order for this member within bounds"
    return Ruling(Action.GO, _aligned(base + known.timing.lead + known.timing.wait, known.timing, now), why)


def _since_the_last_void(orders: list[SetTime]) -> list[SetTime]:
    last_void = max((number for number, each in enumerate(orders) if each.stage is Stage.VOID), default=-1)
    return orders[last_void + 1 :]


def _offered(ready: Ready, known: Known, now: Now) -> float:
    """When it was offered (CLOCK_BOOTTIME), if it was ready about then; else when it was ready."""
    at = known.offers.get(ready.subject)
    if at is not None and abs((offered := _boottime(at, now)) - ready.since) <= known.timing.slack:
        return offered
    return ready.since


def _counted_from(standing: list[SetTime], offered: float, timing: Timing, now: Now) -> float:
    """T of the canaries (CLOCK_BOOTTIME), of the latest order that says so within bounds; else *offered*."""
    for each in reversed(standing):
        at = each.at if each.stage is Stage.CANARY else each.canaries_at
        if at is not None and (there := _boottime(at, now)) <= offered + timing.max_delay:
            return there
    return offered


def _for_this_member(standing: list[SetTime], known: Known) -> list[SetTime]:
    """Those that this member is meant by; a canary has its own, if there is one."""
    canary = [each for each in standing if each.stage is Stage.CANARY] if known.canary else []
    return canary or [each for each in standing if each.stage is Stage.ALL]


def admitted(orders: Iterable[SetTime], new: SetTime, now: Now) -> tuple[SetTime, ...]:
    """*orders* with *new*, if that counts: a void comes too late shortly before the T of an order for all."""
    kept = tuple(orders)
    same = [each for each in kept if each.subject == new.subject]
    too_late = same and same[-1].stage is Stage.ALL and now.wall >= same[-1].at - VOID_MARGIN_SECONDS
    if new.stage is Stage.VOID and too_late:
        return kept
    # Of one zone only what bears on the latest serials is kept: a board that is written to for ever must not fill us.
    return (*kept[-15:], new)


def _aligned(boottime: float, timing: Timing, now: Now) -> float:
    """The next multiple of align after *boottime*; that itself while nobody says what time it is."""
    if not now.synchronised:
        return boottime
    wall = now.wall + (boottime - now.boottime)
    return _boottime(math.ceil(wall / timing.align) * timing.align, now)


def _boottime(wall: float, now: Now) -> float:
    return now.boottime + (wall - now.wall)


def _sent(verdict: OperatorVerdict) -> float:
    return verdict.sent
