"""What became of every query that was taken from a ring: the totals, and what no file has been told of yet."""
# A query that has been taken from a ring is *in hand* until it is in a file or counted as lost.  Each loss is in the
# file that was open when it became known, or in the next: until then it is *untold*.

import time
from dataclasses import dataclass, field

from rootsrv.capture import rings
from rootsrv.capture.hand import Hand
from rootsrv.process import log
from rootsrv.process.children import describe_error
from rootsrv.process.troubles import Troubles

FAILING_SECONDS = 60.0
"""For how long the status tells an exception that nobody expected."""

LOST_WHERE = ("kernel", "worker", "disk", "format", "writer", "interrupted")


@dataclass
class Totals:
    """Since the role was started."""

    items: int = 0
    lost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOST_WHERE, 0))
    passed_over: int = 0
    late: int = 0
    written_octets: int = 0
    clock_steps: int = 0


class Account:
    """Of one collector."""

    def __init__(self, hand: Hand, interrupted: rings.Counts) -> None:
        """*hand*: where the next role finds it; *interrupted*: what the one before this one had in hand."""
        self.hand = hand
        self._interrupted = interrupted
        self._errors = Troubles("capture lost queries to an error")
        self._failed: dict[str, tuple[float, str]] = {}
        self.totals = Totals()
        self.in_hand = 0
        """Queries taken from the rings that are neither in a file nor counted as lost."""

        self.untold = rings.Counts()
        """Queries lost and passed over of which no file has been told."""

    @property
    def failing(self) -> dict[str, str]:
        """Exceptions that nobody expected and that cost queries lately, by what they were lost to."""
        now = time.monotonic()
        return {f"capture {where}": what for where, (at, what) in self._failed.items() if now - at < FAILING_SECONDS}

    def take(self, ring: rings.Ring, items: int) -> None:
        """Take account of what was taken of *ring*, which may be written over now, and of what was lost there."""
        news = self.hand.take(ring, ring.taken, items)
        self.in_hand += items
        self.totals.lost[ring.where] += news.lost
        self.totals.passed_over += news.passed_over
        self.untold += news

    def correct(self, items: int) -> None:
        """So many more queries, or fewer, were taken than the rows seemed to tell of."""
        self.hand.correct(items)
        self.in_hand += items

    def written(self, items: int) -> rings.Counts:
        """*items* of what is in hand are in a file, and it is told what has not been told; what that file has now."""
        told, self.untold = self.untold, rings.Counts()
        self.totals.items += items
        self.in_hand -= items
        return rings.Counts(items, told.lost, told.passed_over)

    def left_out(self, items: int) -> None:
        """The format cannot keep *items* of those that were written, and its file tells of it."""
        self.totals.items -= items
        self.totals.lost["format"] += items

    def take_back(self, held: rings.Counts) -> None:
        """What a file *held* is not in it: its items are in hand again."""
        self.totals.items -= held.items
        self.in_hand += held.items
        self.untold += rings.Counts(0, held.lost, held.passed_over)  # of which it was to tell, too

    def lose(self, where: str, items: int) -> None:
        """*items* of what is in hand."""
        self.in_hand -= items
        self.totals.lost[where] += items
        self.untold += rings.Counts(0, items)

    def lose_written(self, where: str, counts: rings.Counts) -> None:
        """What had been written, or said so, is in no file: another one is told of it."""
        self.totals.items -= counts.items
        self.totals.lost[where] += counts.items
        self.untold += rings.Counts(0, counts.items + counts.lost, counts.passed_over)

    def tell_interrupted(self) -> None:
        """Count what a role that was killed had in hand as lost."""
        found, self._interrupted = self._interrupted, rings.Counts()
        if found != rings.Counts():
            log.alarm("capture lost what a role that was killed had in hand", queries=found.lost)
            self.totals.lost["interrupted"] += found.lost
            self.totals.passed_over += found.passed_over
            self.untold += found

    def forget(self) -> None:
        """There is no file that could be told what has not been told: it is in the totals alone."""
        self.hand.forget(self.untold)
        self.untold = rings.Counts()

    def tell_error(self, where: str, error: Exception, items: int) -> None:
        """An exception that nobody expected has cost *items*."""
        self._failed[where] = time.monotonic(), describe_error(error)
        self._errors.raised(error, where=where, queries=items)


def where_lost(error: Exception | None) -> str:
    """To what queries are lost when writing fails so: the disk, unless nobody expected it."""
    return "disk" if error is None or isinstance(error, OSError) else "writer"
