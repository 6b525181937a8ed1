"""How long a capture's files stay: `retention_days`."""

import time
from collections.abc import Callable
from pathlib import Path

from rootsrv.process.clock import boottime_ns

STEADY_SECONDS = 600.0
"""So long a clock must not have been stepped before files go for their age."""

_STEP_SECONDS = 1.0


class Retention:
    """Of one directory."""

    def __init__(self, seconds: float) -> None:
        """*seconds*: how old a file may become; 0: as old as it likes."""
        self._seconds = seconds
        self._offset, self._steady_since = _clock_offset(), boottime_ns()
        """What the wall clock is ahead of the other one, and since when."""

    def apply(self, files: Callable[[], list[Path]], remove: Callable[[Path, str], bool]) -> None:
        """Let those *files* go that are older than they may become; raises what *files* raises.

        A clock that was stepped may be wrong, and what went for it is gone: not before it has been steady for a while.
        """
        if not self._seconds:
            return
        offset, now = _clock_offset(), boottime_ns()
        if abs(offset - self._offset) > _STEP_SECONDS:
            self._offset, self._steady_since = offset, now
        if now - self._steady_since < STEADY_SECONDS * 10**9:
            return
        limit = time.time() - self._seconds
        for each in files():
            if age(each)[0] < limit:
                remove(each, "older than retention_days")


def age(path: Path) -> tuple[float, str]:
    """By which files are put in order: of their last query, and of their name."""
    try:
        return path.stat().st_mtime, path.name
    except OSError:
        return 0.0, path.name


def _clock_offset() -> float:
    return time.time() - boottime_ns() / 1e9
