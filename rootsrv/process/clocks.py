"""Both clocks of this machine, and whether the kernel holds the wall clock synchronised."""

import ctypes
from collections.abc import Callable
from pathlib import Path

from rootsrv.process import clock
from rootsrv.zone.lease import Reading, TrustedClock

_TIME_ERROR = 5
_STA_UNSYNC = 0x40
_MAXERROR_OFFSET = 24
_STATUS_OFFSET = 40  # of `status` in struct timex, 64-bit Linux
_TIMEX_OCTETS = 208

_LIBC = ctypes.CDLL(None)

Clocks = Callable[[], Reading]
"""Reads both clocks now."""


def kernel_says_synchronised() -> bool:
    """adjtimex(2): whether somebody disciplines the clock; False where it cannot be asked."""
    timex = ctypes.create_string_buffer(_TIMEX_OCTETS + 64)  # modes = 0: read only
    try:
        state = _LIBC.adjtimex(timex)
    except AttributeError:
        return False
    status = int.from_bytes(timex.raw[_STATUS_OFFSET : _STATUS_OFFSET + 4], "little")
    return 0 <= state < _TIME_ERROR and not status & _STA_UNSYNC


def greatest_error_seconds() -> float | None:
    """By how much the wall clock is wrong at most, as the kernel reckons (adjtimex(2), maxerror); None: not known."""
    if not kernel_says_synchronised():
        return None
    timex = ctypes.create_string_buffer(_TIMEX_OCTETS + 64)
    _LIBC.adjtimex(timex)
    return int.from_bytes(timex.raw[_MAXERROR_OFFSET : _MAXERROR_OFFSET + 8], "little") / 1e6


def clocks(source: str) -> Clocks:
    """*source* as in `[clock]`: "kernel" or "trusted"."""

    def read() -> Reading:
        by_kernel = source != "trusted"
        synchronised = not by_kernel or kernel_says_synchronised()
        return Reading(clock.validity_now(), clock.boottime_ns() / 1e9, synchronised, by_kernel)

    return read


class Timekeeper:
    """The time that is trusted, read from this machine's clocks."""

    def __init__(self, clocks: Clocks, not_before: float = 0.0, offset: float | None = None) -> None:
        """*not_before*: a moment (seconds since 1970) that is known to have passed; *offset* as of a TrustedClock."""
        self._clocks = clocks
        self.trusted = TrustedClock(clocks(), not_before, offset)

    def boottime(self) -> float:
        """CLOCK_BOOTTIME, seconds."""
        return self._clocks().boottime

    def now(self) -> float:
        """The time that is trusted, seconds since 1970."""
        return self.trusted.wall(self.boottime())

    def observe(self) -> None:
        """Take both clocks into account; called every second."""
        self.trusted.observe(self._clocks())


def boot_id() -> str:
    """Names this boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
