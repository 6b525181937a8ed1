"""Going before ordinary processes (sched(7): SCHED_FIFO, SCHED_RR): whether this one does, and what of it does not."""

import contextlib
import os

_REAL_TIME = frozenset((os.SCHED_FIFO, os.SCHED_RR))


def goes_first() -> bool:
    """Whether the calling thread goes before all ordinary ones, and keeps its core until it has nothing to do."""
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in _REAL_TIME


def keep_to_this_thread() -> None:
    """Have what the calling thread starts be ordinary; where that is refused, all of it goes first."""
    policy = os.sched_getscheduler(0)
    if policy in _REAL_TIME:
        with contextlib.suppress(OSError):  # a unit with RestrictRealtime=yes
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_getparam(0))
