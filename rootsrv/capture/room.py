"""How much a capture's files may take: the quota, what is to stay free, and what goes for it."""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

LEAST_FREE_OCTETS = 1 << 20
"""Below it nothing is begun: a file that ends needs room for what is beside it."""


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

    def octets(self) -> int:
        """What all files in it take."""
        return sum(size(each) for each in self._path.iterdir())

    def free_octets(self) -> int:
        """What is free on the file system, for us."""
        state = os.statvfs(self._path)
        return state.f_bavail * state.f_frsize

    def more_octets(self) -> int:
        """How much more may be written before the quota is reached, or what is to stay free; below 0: too much."""
        return min(self._quota - self.octets(), self.free_octets() - self._keep_free)

    def make(self, files: Callable[[], list[Path]], remove: Callable[[Path, str], bool]) -> bool:
        """Whether more may be written; the oldest *files* go for it, where that is wanted and all together are enough.

        *remove*: whether a file could be removed, for a reason.
        """
        missing = -self.more_octets()
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


def size(path: Path) -> int:
    """What a file takes, as is said of it; 0 for what is none."""
    with contextlib.suppress(OSError):
        state = path.lstat()
        return state.st_size if stat.S_ISREG(state.st_mode) else 0
    return 0
