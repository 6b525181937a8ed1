"""The wall clock, as the collector follows it."""
# It is CLOCK_BOOTTIME and an offset that is read every turn.  Small steps of it, as of a clock that is kept in time,
# move nothing: a time is never before the one before it.  A larger one ends the file and begins another.  One that says
# that the capture's time is over is not believed before it has stood for a while: what was not captured for a clock
# that somebody had set wrong is gone.  So it is with one that a role finds when it starts, until the kernel says that
# somebody keeps it right (clocks_before.py): after a step that is no proof, at the start of a machine it is one.

import time
from collections.abc import Callable

from rootsrv.capture.retention import STEADY_SECONDS
from rootsrv.process import clocks
from rootsrv.process.clock import boottime_ns

STEP_NS = 500_000_000
"""A step of the wall clock from which on the file ends."""

NOISE_NS = 100_000
"""What lies between two readings of the two clocks is no movement of one of them."""

_SECOND = 10**9


class WallClock:
    """Nanoseconds since 1970."""

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns) -> None:
        """*wall_ns*: reads it."""
        self.now = wall_ns
        self.offset = self._trusted_offset = self._read()
        """From CLOCK_BOOTTIME to the wall clock: as it is, and as it was before it was stepped forward lately."""

        self._trusted_at = 0
        """When it is trusted again, CLOCK_BOOTTIME."""

        self._is_set_yet = True
        """Whether that is not until somebody keeps it right."""

    def begin(self) -> None:
        """Trust it as it is."""
        self.offset = self._trusted_offset = self._read()
        self._trusted_at, self._is_set_yet = 0, True

    def doubt(self, least: int) -> None:
        """Do not trust it for a while, if nobody keeps it right: all that is known is that it is *least* or later."""
        self._trusted_offset = min(self.offset, least - boottime_ns())
        self._trusted_at, self._is_set_yet = boottime_ns() + int(STEADY_SECONDS * _SECOND), False

    def adjust(self) -> int:
        """Take over how it was kept in time since; by how much it was moved."""
        fresh = self._read()
        if not NOISE_NS < abs(fresh - self.offset) < STEP_NS:
            return 0
        moved, self.offset = fresh - self.offset, fresh
        return moved

    def trusted(self, wall: int) -> int:
        """What of *wall*, the time that it is, is believed."""
        if not self._is_set_yet and clocks.kernel_says_synchronised():
            self._trusted_at, self._is_set_yet = 0, True
        return wall if boottime_ns() >= self._trusted_at else boottime_ns() + self._trusted_offset

    def step(self, wall: int) -> int:
        """By how much it has been stepped since `begin`, or since the last step was taken; 0: by nothing.

        *wall*: the time that it is.  `offset` stays as it was until somebody moves it by that.
        """
        offset = wall - boottime_ns()
        if abs(offset - self.offset) < STEP_NS:
            return 0
        if boottime_ns() >= self._trusted_at:
            self._trusted_offset = self.offset
        if not self._is_set_yet and offset < self.offset:
            self._trusted_at, self._is_set_yet = 0, True  # it was ahead, and somebody has set it
        elif offset > self._trusted_offset:
            self._trusted_at = boottime_ns() + int(STEADY_SECONDS * _SECOND)
        else:  # it is back, or was ahead until now
            self._trusted_at = 0
        return offset - self.offset

    def _read(self) -> int:
        return self.now() - boottime_ns()
