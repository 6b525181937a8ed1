"""A test clock for whole roles: an event loop whose time moves only while nobody has anything to do.

Sockets, child processes and threads are real, and take no time: the clock stands while one works, and leaps to the next
timer when none does.  `time.time`, `time.monotonic` and CLOCK_BOOTTIME are that clock for everybody in the process, so
that set times, leases and TSIG go by it; who forks has it too.
"""

import asyncio
import contextlib
import contextvars
import os
import selectors
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="")
"""Whose task it is that runs; tasks and callbacks have it of whoever made them."""

_BOOTED = 1_000_000.0


async def passes(seconds: float) -> None:
    """So much time, on the test clock: nobody waits for it."""
    await asyncio.sleep(seconds)


class _Selector(selectors.EpollSelector):
    """Waits for what works outside, and for nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed = 0.0
        self.working: Callable[[], bool] = lambda: False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        if timeout is None or self.working():
            return super().select(None)
        self.elapsed += timeout
        return []


class ClockworkLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self, began: float) -> None:
        """*began*: seconds since 1970."""
        self._clock = _Selector()
        self._clock.working = self.is_working
        self._began = began
        self._children: set[int] = set()
        self._threads = 0
        self.is_cut: Callable[[str, Any], bool] = lambda who, port: False
        """Whether no packet of somebody's to a port arrives."""

        super().__init__(self._clock)

    # The clocks.

    def time(self) -> float:
        """CLOCK_BOOTTIME and CLOCK_MONOTONIC."""
        return _BOOTED + self._clock.elapsed

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._began + self._clock.elapsed

    def leap(self, seconds: float) -> None:
        """Have so much time pass in which nobody does anything, as while a machine is suspended."""
        assert not self.is_working()
        self._clock.elapsed += seconds

    @contextlib.contextmanager
    def as_the_clock(self) -> Iterator[None]:
        """For the block everybody in this process goes by it."""
        real = time.clock_gettime_ns
        ours = {time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC}
        with (
            mock.patch("time.time", self.wall),
            mock.patch("time.monotonic", self.time),
            mock.patch("time.clock_gettime_ns", lambda clock: int(self.time() * 1e9) if clock in ours else real(clock)),
        ):
            yield

    # What works outside.

    def is_working(self) -> bool:
        """Whether a child process or a thread works for somebody here."""
        return bool(self._children or self._threads)

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """Children tell their result by a pipe (process/child.py)."""
        if isinstance(fd, int) and stat.S_ISFIFO(os.fstat(fd).st_mode):
            self._children.add(fd)
        super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        """See add_reader."""
        self._children.discard(fd)
        return super().remove_reader(fd)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Threads are counted."""
        self._threads += 1
        future = super().run_in_executor(executor, func, *args)

        def ended(_: Any) -> None:
            self._threads -= 1

        future.add_done_callback(ended)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        """A connection that is cut is never there, and nobody says so."""
        while port is not None and self.is_cut(WHO.get(), port):
            await passes(1.0)
        return await super().create_connection(protocol_factory, host, port, **more)
