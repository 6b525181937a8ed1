"""How much a capture's files may take: the quota, what is to stay free, and what goes for it."""

import contextlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LEAST_FREE_OCTETS = 1 << 20
"""Below it nothing is begun: a file that ends needs room for what is beside it."""


LOOK_SECONDS = 1.0
"""How often somebody looks at most."""

_PAUSES = 50
"""So many times as long as a look takes passes between two: a month of files are 26,000 names, and take 80 ms."""


class DiskSpace(NamedTuple):
    """What somebody saw who looked."""

    used: int
    """What all files take."""

    free: int
    """What is free on the file system, for us."""

    more: int
    """How much more may be written before the quota is reached, or what is to stay free; below 0: too much."""


class Room:
    """Of one directory."""

    def __init__(self, path: Path, quota_octets: int, keep_free_octets: int, *, removes_oldest: bool) -> None:
        """*removes_oldest*: whether the oldest files go for new ones."""
        self._path = path
        self._quota = quota_octets
        self._keep_free = max(keep_free_octets, LEAST_FREE_OCTETS)
        self._removes_oldest = removes_oldest
        self.largest_octets = quota_octets // 4 if removes_oldest else quota_octets
        """With how many a file ends early: the oldest, which goes for a new one, shall not be all there is."""

        self._last: tuple[float, DiskSpace] | None = None
        self.pause_seconds = LOOK_SECONDS
        """How long to wait before the next look."""

    def octets(self) -> int:
        """What all files in it take."""
        with os.scandir(self._path) as found:
            return sum(map(_size_of_entry, found))

    def free_octets(self) -> int:
        """What is free on the file system, for us."""
        state = os.statvfs(self._path)
        return state.f_bavail * state.f_frsize

    def look(self) -> DiskSpace:
        """As it is now; raises OSError."""
        began = time.monotonic()
        used, free = self.octets(), self.free_octets()
        ended = time.monotonic()
        self.pause_seconds = max(LOOK_SECONDS, _PAUSES * (ended - began))
        seen = DiskSpace(used, free, min(self._quota - used, free - self._keep_free))
        self._last = ended, seen
        return seen

    def lately(self) -> DiskSpace:
        """As it was when somebody looked last, if that was not too long ago; raises OSError."""
        if self._last is None or time.monotonic() - self._last[0] >= self.pause_seconds:
            return self.look()
        return self._last[1]

    def make(self, files: Callable[[], list[Path]], remove: Callable[[Path, str], bool]) -> bool:
        """Whether more may be written; the oldest *files* go for it, where that is wanted and all together are enough.

        *remove*: whether a file could be removed, for a reason.
        """
        missing = -self.look().more
        if missing <= 0:
            return True
        found = files() if self._removes_oldest else []
        if sum(map(size, found)) < missing:  # it is others that take the room
            return False
        for each in found:
            # By what it is said to take: while somebody reads a file that is gone, nothing becomes free.
            octets = size(each)
            if remove(each, "the quota, or what is to stay free"):
                missing -= octets
            if missing <= 0:
                return True
        return False


def _size_of_entry(entry: "os.DirEntry[str]") -> int:
    with contextlib.suppress(OSError):
        state = entry.stat(follow_symlinks=False)
        return state.st_size if stat.S_ISREG(state.st_mode) else 0
    return 0


def size(path: Path) -> int:
    """What a file takes, as is said of it; 0 for what is none."""
    with contextlib.suppress(OSError):
        state = path.lstat()
        return state.st_size if stat.S_ISREG(state.st_mode) else 0
    return 0
