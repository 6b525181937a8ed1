"""The clocks: one judges validity of zones and leases, the others run timers.

For tests with genuine zones, which expire, `ROOTSRV_TEST_CLOCK=2025-09-20T12:00:00Z` in the environment starts the
clock that judges validity at that instant.  It never moves the clocks that run timers, cookies or statistics.  The
first process of an instance notes in the environment when it read the variable, so that its children share one clock.
"""

import os
import time

from rootsrv.zone import instant

VARIABLE = "ROOTSRV_TEST_CLOCK"


class ClockUnusable(ValueError):
    """ROOTSRV_TEST_CLOCK is not a UTC time such as 2025-09-20T12:00:00Z."""


def _offset() -> float:
    value = os.environ.get(VARIABLE, "")
    if not value:
        return 0.0
    start, _, noted = value.partition("@")
    try:
        began = instant.from_text(start)
        read_at = float(noted) if noted else time.time()
    except ValueError as error:
        raise ClockUnusable(f"{VARIABLE}={value!r}: must be a UTC time such as 2025-09-20T12:00:00Z") from error
    os.environ[VARIABLE] = f"{start}@{read_at!r}"
    return began - read_at


_test_offset: float | None = None


def test_offset_seconds() -> float:
    """How far the clock that judges validity is from the wall clock; 0 unless the test clock is set."""
    global _test_offset  # noqa: PLW0603 (read from the environment once per process)
    if _test_offset is None:
        _test_offset = _offset()
    return _test_offset


def validity_now() -> float:
    """Seconds since 1970 by the clock that judges whether signatures and leases are valid."""
    return time.time() + test_offset_seconds()


def boottime_ns() -> int:
    """Nanoseconds on CLOCK_BOOTTIME, which no clock step moves and which goes on in suspend."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boottime_deadline_ns(valid_until: float) -> int:
    """When, on CLOCK_BOOTTIME, the clock that judges validity will read *valid_until* (seconds since 1970)."""
    return max(0, boottime_ns() + int((valid_until - validity_now()) * 1e9))
