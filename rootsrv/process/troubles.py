"""What is wrong for a while: told when it begins and when it is over, and not each time that somebody meets it."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rootsrv.process import log
from rootsrv.process.children import describe_error

AGAIN_SECONDS = 3600.0
"""What still stands then is told again, with how often it was met: who comes to a log finds it there."""

AT_MOST = 256
"""Of one kind; the one that was met longest ago goes first."""


@dataclass(slots=True)
class _Standing:
    reason: str
    told_at: float
    unlogged: int = 0


class Troubles:
    """Troubles of one kind, each under a key of its own."""

    def __init__(self, what: str, over: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        """*what* the log says of it, and when it is *over*: nothing if that is empty."""
        self._what = what
        self._over = over
        self._clock = clock
        self._standing: OrderedDict[object, _Standing] = OrderedDict()

    def met(self, reason: object, *, key: object = None, **facts: Any) -> None:
        """Tell it with *reason* and *facts*, unless it stands under *key* for the same reason."""
        now, text = self._clock(), str(reason)
        found = self._standing.get(key)
        more: dict[str, Any] = {}
        if found is not None and found.reason == text:
            self._standing.move_to_end(key)
            if now - found.told_at < AGAIN_SECONDS:
                found.unlogged += 1
                return
            more["times"] = found.unlogged + 1
        self._standing[key] = _Standing(text, now)
        self._standing.move_to_end(key)
        if len(self._standing) > AT_MOST:
            self._standing.popitem(last=False)
        log.alarm(self._what, **facts, reason=text, **more)

    def raised(self, error: BaseException, **facts: Any) -> None:
        """Tell an exception that nobody expected: as long as one comes from there, whatever it says, it is the same."""
        place = place_of(error)
        # What it says may be a stranger's words, each time others.
        self.met(type(error).__name__, key=place, **facts, at=place, error=describe_error(error))

    def over(self, key: object = None, **facts: Any) -> None:
        """All is well under *key*; told if it was not."""
        if self._standing.pop(key, None) is not None and self._over:
            log.event(self._over, **facts)


def place_of(error: BaseException) -> str:
    """Where it was raised: file and line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
