"""Whether a failed switchover may silence this member (D25 in a mesh)."""
# Theory of operation
# -------------------
# To fall silent is right when the failure is ours alone: the others answer.  So the proof has to come from them: at
# least half of the roster's members signed `done` for this serial.  Everything else is treated as a failure that many
# have alike, and then a stale answer is better than none anywhere:
#
#   the engine is gone, or the roster unknown          → not known                 → go on with the old zone, degraded
#   fewer than half signed `done`                      → perhaps nobody can switch → go on, degraded; ask again
#   more than k of the group signed the same failure   → common                    → go on, degraded
#   else                                               → local                     → silence
#
# A member that signed counts once; one that the roster does not list does not count.

from collections.abc import Mapping
from dataclasses import dataclass

from rootsrv.mesh.orders import Subject
from rootsrv.mesh.roster import Roster


@dataclass(frozen=True, slots=True)
class Done:
    """What a member signed of its switchover."""

    subject: Subject
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """Whether to fall silent, and why."""

    allowed: bool
    why: str


def may_fall_silent(subject: Subject, me: str, roster: Roster | None, done: Mapping[str, Done] | None) -> Silence:
    """Of a member that cannot switch to *subject*; *done* by member, None = the engine is gone."""
    if done is None:
        return Silence(False, "the engine is gone: whether others switched is not known")
    if roster is None or (member := roster.find(me)) is None:
        return Silence(False, "no roster lists this member: whether others switched is not known")
    listed = {each.name for each in roster.member}
    about = {name: each for name, each in done.items() if name in listed and name != me and each.subject == subject}
    switched = sum(each.ok for each in about.values())
    n, k = len(listed), roster.k_of(member.group)
    group = {each.name for each in roster.members_of(member.group)}
    failed = sum(not each.ok for name, each in about.items() if name in group)
    if failed >= k and failed:
        return Silence(False, f"{failed + 1} members fail alike, more than k = {k}: the cause is common")
    if 2 * switched < n:
        return Silence(False, f"{switched} of {n} members signed that they switched, fewer than half")
    return Silence(True, f"{switched} of {n} members switched: the failure is local")


def failed_canaries(subject: Subject, roster: Roster, done: Mapping[str, Done], failed_before: frozenset[str]) -> int:
    """Canaries that failed with *subject*; one of *failed_before* (with the serial before) does not count."""
    return sum(
        name in done and done[name].subject == subject and not done[name].ok for name in roster.canaries - failed_before
    )
