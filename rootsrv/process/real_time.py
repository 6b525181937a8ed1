"""Going before ordinary processes (sched(7): SCHED_FIFO, SCHED_RR): who does, what of it does not, and for how long."""
# Theory of operation
# -------------------
# Who goes before all ordinary processes can shut them out: those that judge this instance, take its route back and
# replace what hangs.  Three things keep that from happening, none of which trusts the others:
#
#   * it leaves its core by itself (server/leaving.py), and what it starts is ordinary;
#   * one that does not, because it hangs, is ended by the kernel: RLIMIT_RTTIME counts from one sleep to the next;
#   * Linux keeps some of each second for the others (rootsrv/doctor/real_time.py), unless that was switched off.
#
# The priority itself is no privilege that lasts: it is taken before the process gives up what it does not need, and
# then nobody in it may ask for another one.

import contextlib
import os
import resource

_REAL_TIME = frozenset((os.SCHED_FIFO, os.SCHED_RR))
_NAMES = {
    os.SCHED_OTHER: "ordinary", os.SCHED_BATCH: "batch", os.SCHED_IDLE: "idle", os.SCHED_FIFO: "fifo",
    os.SCHED_RR: "rr", 6: "deadline",
}  # fmt: skip

HOLD_SECONDS = 1
"""For how long a core may be held without a sleep, then the kernel ends the process (SIGXCPU); a turn is 1 ms, what is
answered before a worker stops half a second, and who does not advance is replaced after 1.5 s."""


def goes_first() -> bool:
    """Whether the calling thread goes before all ordinary ones, and keeps its core until it has nothing to do."""
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in _REAL_TIME


def take(priority: int) -> str:
    """Have the calling thread, and none that it starts, go first (SCHED_FIFO).  Why not; empty: it does."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        allowed = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
        return f"{error.strerror}; RLIMIT_RTPRIO is {allowed}"
    return ""


def keep_to_this_thread() -> None:
    """Have what the calling thread starts be ordinary; where that is refused, all of it goes first."""
    policy = os.sched_getscheduler(0)
    if policy in _REAL_TIME:
        with contextlib.suppress(OSError):  # a unit with RestrictRealtime=yes
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_getparam(0))


def confine() -> None:
    """Have the kernel end this process should a thread of it go first for HOLD_SECONDS without a sleep.

    Nothing of it can ask for a priority any more, unless as root.
    """
    with contextlib.suppress(OSError, ValueError):  # lower already
        resource.setrlimit(resource.RLIMIT_RTTIME, (HOLD_SECONDS * 1_000_000, 2 * HOLD_SECONDS * 1_000_000))
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))


def of(process: int) -> dict[str, str | int]:
    """`policy` and `priority` of the first thread of a process; empty where there is none."""
    try:
        policy = os.sched_getscheduler(process) & ~os.SCHED_RESET_ON_FORK
        return {"policy": _NAMES.get(policy, str(policy)), "priority": os.sched_getparam(process).sched_priority}
    except OSError:
        return {}


def is_real_time(policy: object) -> bool:
    """Whether *policy*, as `of` names it, goes before ordinary processes."""
    return policy in {_NAMES[each] for each in _REAL_TIME}
