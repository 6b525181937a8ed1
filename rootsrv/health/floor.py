"""The floor on withdrawals: which causes withdraw at once, which need a token, and which only degrade (D31)."""
# Theory of operation
# -------------------
# In a mesh no more than k of a group may be withdrawn for a cause that can wait.  Every cause has a class:
#
#   HARD    what is answered is wrong, or nothing is: withdraw at once, wait for nobody
#   SOFT    degrade, and withdraw only with one of the k tokens (mesh/floor.py)
#   NEVER   what comes to all alike (a clock, a lease, a primary): degrade
#
# Without an engine nobody has a token, so what is soft only degrades: the loss of the engine withdraws nobody.
# `--force` of an operator is an order to do without.  Outside a mesh none of this applies.

from dataclasses import dataclass, replace
from enum import Enum

from rootsrv.health.evidence import Cause, Judgement, RoundVerdict


class Class(Enum):
    """What a cause does to a route in a mesh."""

    HARD = "hard"
    SOFT = "soft"
    NEVER = "never"
    NONE = "none"
    """It is no cause to withdraw."""


CLASSES: dict[Cause, Class] = {
    Cause.HEALTHY: Class.NONE,
    Cause.WRONG_DATA: Class.HARD,
    Cause.SWITCHOVER_FAILED: Class.HARD,
    Cause.SILENCED: Class.HARD,  # quorum before silence (mesh/quorum.py): whoever is silent has the proof
    Cause.NO_ZONE: Class.HARD,
    Cause.NO_WORKER: Class.HARD,
    Cause.NOT_ON_HOST: Class.HARD,
    Cause.FASTPATH_WRONG: Class.HARD,  # and not to be detached
    Cause.STOPPING: Class.HARD,  # nobody is there to answer any more; `rootsrv restart --when-token` asks before
    Cause.NO_ANSWER: Class.SOFT,
    Cause.CANNOT_TELL: Class.SOFT,
    Cause.OPERATOR: Class.SOFT,
    Cause.STALE: Class.NEVER,
    Cause.LEASE_OVER: Class.NEVER,
}


@dataclass(frozen=True, slots=True)
class Floor:
    """What a member of a mesh may do now."""

    token: bool = False
    """Whether it holds a token that counts."""

    why: str = "no token"
    """Why not, for the operator."""


def failed(judgement: Judgement) -> bool:
    """Whether it speaks against announcing."""
    return judgement.verdict in (RoundVerdict.FAIL, RoundVerdict.CEASE)


def soften(judgement: Judgement, floor: Floor) -> Judgement:
    """What is left of *judgement* in a mesh: what may not withdraw degrades instead."""
    withdraws: list[tuple[Cause, str]] = []
    degrades: list[str] = []
    if failed(judgement):
        for cause, text in zip(judgement.causes, judgement.reasons, strict=True):
            match CLASSES[cause]:
                case Class.HARD:
                    withdraws.append((cause, text))
                case Class.SOFT if floor.token:
                    withdraws.append((cause, text))
                case Class.SOFT:
                    degrades.append(f"{text} ({floor.why})")
                case _:
                    degrades.append(text)
    # A promise that ends with the lease would withdraw the route when it is over.
    softened = replace(judgement, lease_seconds=float("inf"), degrade=(*judgement.degrade, *degrades))
    if not degrades:
        return softened
    if not withdraws:
        return replace(softened, verdict=RoundVerdict.PASS, reasons=(), causes=())
    causes, reasons = zip(*withdraws, strict=True)
    return replace(softened, reasons=reasons, causes=causes, cause=causes[0])


def needs_token(judgement: Judgement) -> str:
    """For what a token would be needed: the first reason that is soft; empty if none is."""
    if not failed(judgement):
        return ""
    pairs = zip(judgement.causes, judgement.reasons, strict=True)
    return next((text for cause, text in pairs if CLASSES[cause] is Class.SOFT), "")
