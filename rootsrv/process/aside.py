"""Work that holds the processor for tens of milliseconds, beside the event loop: in a thread."""
# The interpreter changes threads every 5 ms, so that long is what the loop waits at most (measured with a genuine root:
# 5 to 10 ms, where reading one in the loop held it for 150 and making its text for 90).  A collection of garbage does
# not change threads: the objects that a whole zone is made of set off one that takes 60 ms, so there is none meanwhile.
# What need not come back as Python objects is better done in a child (child.py), on another processor.

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_under_way = 0
_was_enabled = False


async def aside(work: Callable[[], T]) -> T:
    """The result of *work*, done in a thread; what it raises is raised here."""
    return await asyncio.to_thread(_without_collections, work)


def _without_collections(work: Callable[[], T]) -> T:
    with _no_collections():
        return work()


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    global _under_way, _was_enabled  # noqa: PLW0603  (so is the collector, of which there is one)
    with _lock:
        if not _under_way:
            _was_enabled = gc.isenabled()
            gc.disable()
        _under_way += 1
    try:
        yield
    finally:
        with _lock:
            _under_way -= 1
            if not _under_way and _was_enabled:
                gc.enable()
