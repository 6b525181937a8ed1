"""The clocks as they were when an order was kept, and what follows of the wall clock that there is now."""
# Theory of operation
# -------------------
# A role that comes again compares.  In the same boot of the machine CLOCK_BOOTTIME has gone on: what the wall clock is
# ahead of that it was stepped by while nobody looked.  After another boot only this is known: it is not earlier than it
# was.  A machine without a clock of its own, or with an empty battery, may say any year until somebody sets it, and an
# order that is forgotten for that is hours of a collection that nobody can have again.  So a clock that is ahead of
# what is known, and which the kernel does not say is kept right, is doubted like one that was stepped (wall_clock.py).

from typing import Any, NamedTuple, Self

from rootsrv.process import clocks
from rootsrv.process.clock import boottime_ns


class ClocksBefore(NamedTuple):
    """Seconds: as the role believed, CLOCK_BOOTTIME, the wall clock; and of which boot of the machine."""

    believed: float
    boottime: float
    wall: float
    boot: str

    @classmethod
    def now(cls, believed: float, wall: float) -> Self:
        """What there is now, where *believed* is the time that it is and *wall* what the clock says."""
        return cls(believed, boottime_ns() / 1e9, wall, clocks.boot_id())

    @classmethod
    def of(cls, kept: Any) -> Self | None:
        """What JSON has made of one; None: nothing that could be one."""
        if not isinstance(kept, list) or len(kept) != len(cls._fields) or not isinstance(kept[-1], str):
            return None
        if any(type(each) not in (int, float) for each in kept[:-1]):
            return None
        return cls(*kept)

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the machine has not been started since."""
        return self.boot == clocks.boot_id() and self.boottime <= boottime_ns() / 1e9

    def step(self, wall: float) -> float:
        """By how much the clock, which says *wall*, was stepped since; 0 where nobody can tell."""
        if not self.is_of_this_boot:
            return 0.0
        return wall - self.wall - (boottime_ns() / 1e9 - self.boottime)

    @property
    def least(self) -> float:
        """What time it is at least."""
        return self.believed + (boottime_ns() / 1e9 - self.boottime if self.is_of_this_boot else 0.0)
