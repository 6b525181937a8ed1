"""Tells who follows the shared page that it has changed: nobody has to look at it a hundred times a second."""
# A store into mapped memory tells nobody.  So whoever has stored touches the file behind it (`announce`), and who
# follows watches the directory (inotify(7)), by which he sees also a page that was put back at its path.  It is a hint
# and no more: what counts stands in the page, and whoever waits for the hint looks now and then without it.

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

_IN_ATTRIB, _IN_MOVED_TO, _IN_ONLYDIR = 0x4, 0x80, 0x0100_0000
_EVENTS_OCTETS = 4096


def announce(path: Path) -> None:
    """The part of the page at *path* has changed."""
    with contextlib.suppress(OSError):  # it is gone, or another's: then nobody who follows it can be told so
        os.utime(path)


def watch(directory: Path) -> int:
    """A descriptor for `Changes`, which another process may inherit; OSError if that cannot be had."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    mask = _IN_ATTRIB | _IN_MOVED_TO | _IN_ONLYDIR
    if descriptor >= 0 and library.inotify_add_watch(descriptor, os.fsencode(directory), mask) >= 0:
        return descriptor
    number = ctypes.get_errno()
    if descriptor >= 0:
        os.close(descriptor)
    raise OSError(number, os.strerror(number), str(directory))


class Changes:
    """Calls *changed* in the running loop after each change of a page, until closed."""

    def __init__(self, descriptor: int, changed: Callable[[], None]) -> None:
        """*descriptor*: of `watch`; it is closed with this."""
        self._descriptor = descriptor
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._readable)

    def close(self) -> None:
        """Tell nobody any more."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._descriptor, _EVENTS_OCTETS)) > _EVENTS_OCTETS // 2:
                pass
        self._changed()
