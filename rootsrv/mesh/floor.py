"""A token of the floor: until when a member may count on it."""
# Theory of operation
# -------------------
#            free slot taken by            one lifetime        each keepalive was answered, and the slot
#            one transaction               later               still has our create revision and our lease
#   NONE ─────────────────────▶ TAKEN ───────────────▶ COUNTS ───────────────────────────────────────────▶ COUNTS
#    ▲                           │                       │ the lease's time, counted from before the keepalive
#    ├───────────────────────────┴───────────────────────┤ was sent, less a margin; or the slot is not ours
#    └──────────────────────── released ─────────────────┘ any more, whatever the lease says
#
# k slots, one key each.  A slot is taken by `txn(create_revision(slot) == 0 → put with lease)`, so no two have it.
#
# A slot may be free because somebody deleted its key under a holder who is cut off and does not know: he counts on it
# until his time is over.  Nobody can tell that from a slot that was given back, so whoever takes one lets a whole
# lifetime pass before it counts.  Meanwhile the route is degraded, and what can wait, waits.
#
# It is not the lease that counts but the slot: a deleted key leaves its lease alive (etcd issue 14758), the next one
# would take the slot, and the one after him.  So every keepalive also reads the slot back.
#
# The engine counts the lease from when the keepalive arrived, we from before it was sent: ours ends first.  A member
# that was cut off announces again at `counts_until`, `margin` before the engine can give the token to another; so the
# number of those that are withdrawn never exceeds k.  Counted on CLOCK_BOOTTIME.

from collections.abc import Collection
from dataclasses import dataclass

MARGIN_FRACTION = 1 / 6
"""Of the lifetime: within it a route is announced again, and BIRD has been read back."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What the engine says of a slot of the floor."""

    create_revision: int
    lease: int


class Token:
    """One token, held or not.  Times are seconds on CLOCK_BOOTTIME."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.slot: int | None = None
        """Which of the k slots; None = none."""

        self.lease = 0
        self.counts_from = float("inf")
        self.counts_until = float("-inf")
        self._lifetime = 0.0
        self._mine = Slot(0, 0)

    @property
    def create_revision(self) -> int:
        """Of the slot that was taken."""
        return self._mine.create_revision

    def taken(self, slot: int, found: Slot, asked_at: float, answered_at: float, lifetime: float) -> None:
        """The transaction took *slot*, some time between *asked_at* and *answered_at*; so old is its lease at most."""
        self.slot, self.lease, self._mine, self._lifetime = slot, found.lease, found, lifetime
        self.counts_from = answered_at + lifetime
        self.counts_until = asked_at + lifetime * (1 - MARGIN_FRACTION)

    def kept(self, found: Slot | None, sent_at: float, ttl: float) -> bool:
        """A keepalive sent at *sent_at* was answered with *ttl*, the slot then read back: whether it is still ours."""
        if self.slot is None or found != self._mine or ttl <= 0:
            self.lost()
            return False
        until = sent_at + min(ttl, self._lifetime) * (1 - MARGIN_FRACTION)
        self.counts_until = max(self.counts_until, until)
        return True

    def lost(self) -> None:
        """It is not ours any more, or given back."""
        self.slot, self._mine = None, Slot(0, 0)
        self.counts_from, self.counts_until = float("inf"), float("-inf")

    def counts(self, now: float) -> bool:
        """Whether a withdrawal may rest on it at *now*."""
        return self.slot is not None and self.counts_from <= now < self.counts_until


def slots_to_try(k: int, taken: Collection[int], me: str, members: Collection[str]) -> list[int]:
    """Free slots in the order in which *me* should try them: members begin at different ones."""
    names = sorted(members)
    first = names.index(me) if me in names else 0
    free = [slot for slot in range(k) if slot not in taken]
    return [free[(first + turn) % len(free)] for turn in range(len(free))]
