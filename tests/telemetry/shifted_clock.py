"""A wall clock of a test's own for the processes of one instance: nobody waits for a midnight."""

import mmap
import struct
import subprocess
import time
from pathlib import Path

from tests.needs import require_tool

DAY_SECONDS = 86_400

# In place of the C library's: the wall clock is shifted by the seconds that a shared file says; other clocks are not.
_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile const double *shift_seconds;

__attribute__((constructor)) static void find(void)
{
	int file = open(getenv("CLOCK_SHIFT"), O_RDONLY);
	void *seen = mmap(0, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
	if (seen != MAP_FAILED)
		shift_seconds = seen;
	close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int failed = syscall(SYS_clock_gettime, clock, now);
	if (!failed && clock == CLOCK_REALTIME && shift_seconds) {
		double shift = *shift_seconds;
		now->tv_sec += (long)shift;
		now->tv_nsec += (long)((shift - (long)shift) * 1e9);
		if (now->tv_nsec >= 1000000000) {
			now->tv_nsec -= 1000000000;
			now->tv_sec++;
		}
	}
	return failed;
}
"""


class ShiftedClock:
    """The clock, and what starts a process that lives by it."""

    def __init__(self, directory: Path) -> None:
        source, library, shift = (directory / name for name in ("clock.c", "clock.so", "shift"))
        source.write_text(_SOURCE)
        shift.write_bytes(bytes(8))
        subprocess.run([require_tool("clang"), "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
        with shift.open("r+b") as file:
            self._shift = mmap.mmap(file.fileno(), 8)
        self.launcher = ("env", f"LD_PRELOAD={library}", f"CLOCK_SHIFT={shift}")
        # Later, never earlier: what was signed just now is valid then, too.
        self.midnight = (time.time() // DAY_SECONDS + 2) * DAY_SECONDS
        """The only midnight that comes, seconds since 1970 on this clock."""

    def set_before_midnight(self, seconds: float) -> None:
        """Let it be so long before `midnight` now (negative: after it)."""
        self._shift[:] = struct.pack("d", self.midnight - seconds - time.time())

    def now(self) -> float:
        """Seconds since 1970 on this clock."""
        (shift,) = struct.unpack("d", self._shift[:])
        return time.time() + float(shift)
