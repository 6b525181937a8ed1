"""How far the generator's core and the server's are apart: whether they have a cache in common.

A virtual machine has its cores wherever its host puts them, now in one complex with a common last cache and a
moment later in two.  What one core writes and the other reads then takes several times as long, a third to a half more
for each query that the kernel answers, and nothing in the machine says so.  A line of cache that goes to and fro does.

It has to be looked at while they are busy: a host that puts two idle cores together may put them apart as soon as both
have work.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cffi

from bench import c_source
from bench.bpf_object import CompilerMissing

NEAR_NS = 150.0
"""Round trips below are within one complex of cores: some 40 … 80 ns there, 300 and more between two (AMD EPYC)."""

PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_ROUNDS, _TIMES, _WITHIN_NS = 5_000, 5, 200_000_000
_WATCH_SECONDS, _WATCH_ROUNDS, _WATCH_WITHIN_NS, _MAX_SEEN = 0.25, 200, 2_000_000, 4096

_ffi: Any = cffi.FFI()
_ffi.cdef("""
double round_trip_ns(int first, int second, unsigned rounds, uint64_t within_ns);
void *watch_begin(int first, int second, unsigned rounds, uint64_t every_ns, uint64_t within_ns);
unsigned watch_end(void *, double *round_trips);
""")


@functools.cache
def _library() -> Any:
    return c_source.library("core_distance.c", _ffi)


def round_trip_ns(first: int, second: int) -> float | None:
    """How long a line of cache takes from core *first* to *second* and back, nanoseconds, the median of some.

    None: one and the same core, one that may not be used, no C compiler, or others have the cores.
    """
    if first == second:
        return None
    try:
        library = _library()
    except CompilerMissing:
        return None
    found = sorted(library.round_trip_ns(first, second, _ROUNDS, _WITHIN_NS) for _ in range(_TIMES))
    return found[_TIMES // 2] if found[0] > 0 else None


def are_near(round_trip: float | None) -> bool:
    """Whether cores of that round trip have a cache in common, as far as is known."""
    return round_trip is None or round_trip < NEAR_NS


def await_near(measure: Callable[[], float | None], patience: float = PATIENCE_SECONDS) -> float | None:
    """The round trip that *measure* finds when the cores are near, or, after *patience* seconds, whatever it is."""
    until = time.monotonic() + patience
    while True:
        found = measure()
        if are_near(found) or time.monotonic() >= until:
            return found
        time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def watched(first: int, second: int) -> Iterator[list[float]]:
    """A list that has, after the block, the round trips seen in it four times a second, whoever had the cores.

    A look takes some 60 us of both.  Empty: see `round_trip_ns`.
    """
    seen: list[float] = []
    watch = None
    if first != second:
        with contextlib.suppress(CompilerMissing):
            every = int(_WATCH_SECONDS * 1e9)
            watch = _library().watch_begin(first, second, _WATCH_ROUNDS, every, _WATCH_WITHIN_NS) or None
    try:
        yield seen
    finally:
        if watch is not None:
            found = _ffi.new("double[]", _MAX_SEEN)
            seen.extend(found[0 : _library().watch_end(watch, found)])


def near_share(seen: Sequence[float]) -> float | None:
    """For how much of the time the cores were near; None: not known."""
    return sum(map(are_near, seen)) / len(seen) if seen else None


def to_text(before: float | None, seen: Sequence[float]) -> str:
    """For a report."""
    if before is None and not seen:
        return "a line of cache from one core to the other and back: not measured"
    share, median = near_share(seen), sorted(seen)[len(seen) // 2] if seen else None
    said = "" if share is None else f", {median:.0f} ns meanwhile (median; near {share:.0%} of the time)"
    return f"a line of cache from one core to the other and back: {before or math.nan:.0f} ns before{said}"
