"""How long a process runs at a time beside others that want its core, as it asks of the kernel's scheduler."""
# Linux gives each of those who want a core a slice of time, some 3 ms, and lets who runs end his.  Since 6.12 a process
# may ask for a shorter one (sched(7), sched_setattr(2)): it then has the core sooner, as soon as it wakes up, and not
# more of it in all.  Who answers needs 0.2 ms at a time; without that he waits while a zone is verified and compiled on
# the core that he was on (bench/switchover.py).  An older kernel takes the wish and does nothing.

import ctypes
import os
import platform
import struct
import time

_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call."""

# struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period (linux/sched/types.h).
_ATTRIBUTES = struct.Struct("<IIQiIQQQ")


def ask_for(seconds: float) -> bool:
    """Have the calling thread, and those that it starts, run for *seconds* at a time; whether the kernel took that.

    The kernel keeps it between 0.1 ms and 100 ms.  Nothing is changed for who runs before all others, or behind them.
    """
    number = _SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wish = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, round(seconds * 1e9), 0, 0)
    refused: int = ctypes.CDLL(None).syscall(number, 0, ctypes.create_string_buffer(wish), 0)
    return not refused


PIECE_SECONDS = 0.0003
_had_since = [0.0]


def give_way() -> None:
    """Let another process have the core, if one wants it and this one has had it for PIECE_SECONDS.

    For who works for long at a time and can wait.  Who takes the core from him whose time is over is the kernel's tick,
    every 4 ms on most machines: so long another waits, however short a slice he has asked for.
    """
    if time.monotonic() - _had_since[0] >= PIECE_SECONDS:
        os.sched_yield()
        _had_since[0] = time.monotonic()
