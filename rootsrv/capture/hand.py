"""What a role has in hand, kept where the next one finds it: what was taken from rings, and what of it is in a file."""
# Theory of operation
# -------------------
#
#     rings ── take ──▶ in hand ── settle ──▶ a file under its name, whose metadata count it, as there or as lost
#                          │
#                          └── forget ──▶ counted as lost, and there is no file more to tell of it
#
# Queries that were taken, less those that are settled, are in hand.  A role that is killed takes them with it; the
# next one counts them as lost (`interrupted`), and tells the first file of them that it writes.  They stay in hand
# until that file has its name: so they are in one file's metadata, however often a role is killed meanwhile.
#
# A step moves numbers in two places: in a ring and here, in the directory and here.  So before it is taken it is
# written down whole, with what the numbers will be, and then said to be valid; a role that finds one brings it to its
# end, which may be done any number of times.  Of a file it is the name that decides whether the step was taken.
#
# The memory is a file of the runtime directory, mapped: it outlives whoever is killed, not the machine; rings don't
# either.  Nothing in it is believed further than that a number of queries may be wrong: what cannot be is not told.

import contextlib
import mmap
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rootsrv.capture import open_files
from rootsrv.capture.open_files import OpenFiles
from rootsrv.capture.rings import MOST_LOST, Counts, Position, Ring
from rootsrv.process import log

NAME = "capture-hand"

_MAGIC = int.from_bytes(b"rootsrv1", "little")
_MOST_NAME_OCTETS = 255
_WORD = 1 << 64

# Words: whose it is; what was taken, what is settled; a step of taking, and one of settling, the flag last.
_WHOSE, _BORN = 0, 1
_TAKEN, _TAKEN_OVER = 2, 3
_ITEMS, _LOST, _OVER = 4, 5, 6
_RING, _READ, _TOLD_LOST, _TOLD_OVER, _NEXT_TAKEN, _NEXT_OVER, _IS_TAKING = range(8, 15)
_NEXT_ITEMS, _NEXT_LOST, _NEXT_PASSED, _NAME_OCTETS, _IS_SETTLING = range(16, 21)
_NAME_AT = 256


class Hand:
    """The account of what was taken and what is settled; taking is for one thread, settling for any."""

    def __init__(self, memory: memoryview, files: OpenFiles) -> None:
        """*memory*: a page, of zeros or one of these before; *files*: what of it is on its way to the disk."""
        self.files = files
        self._words = memory[:_NAME_AT].cast("Q")
        self._name = memory[_NAME_AT : _NAME_AT + _MOST_NAME_OCTETS]
        self._settling = threading.Lock()
        if self._words[_WHOSE] != _MAGIC:
            memory[:] = bytes(len(memory))
            self._words[_BORN] = secrets.randbits(63)
            self._words[_WHOSE] = _MAGIC

    @classmethod
    def open(cls, path: Path) -> "Hand":
        """The one at *path*; one of nobody else's where that cannot be, which is logged."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, mmap.PAGESIZE)
                os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)  # a page that cannot be had later is a SIGBUS
                memory = memoryview(mmap.mmap(descriptor, mmap.PAGESIZE))
                return cls(memory, OpenFiles.open(path.with_name(open_files.NAME)))
            finally:
                os.close(descriptor)
        except OSError as error:
            log.alarm(
                "capture's hand not kept", reason=error, costs="what a role that is killed had in hand is in no count"
            )
            return cls.in_memory()

    @classmethod
    def in_memory(cls) -> "Hand":
        """One that ends with the process."""
        return cls(memoryview(mmap.mmap(-1, mmap.PAGESIZE)), OpenFiles.in_memory())

    @property
    def born(self) -> int:
        """Which one it is: another one's counts are not comparable."""
        return self._words[_BORN]

    @property
    def settled(self) -> Counts:
        """What is in files under their names, or in no file and told."""
        words = self._words
        return Counts(words[_ITEMS], words[_LOST], words[_OVER])

    @property
    def held(self) -> Counts:
        """What was taken and is not settled, as lost."""
        words, settled = self._words, self.settled
        return Counts(
            0,
            (words[_TAKEN] - settled.items - settled.lost) % _WORD,
            (words[_TAKEN_OVER] - settled.passed_over) % _WORD,
        )

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, ring: Ring, rows: int, items: int) -> Counts:
        """*rows* of *ring*, which tell of *items*, are in hand, and what it has lost is heard of, which is returned."""
        position, news = ring.after(rows)
        if not rows and news == Counts():
            return news
        words = self._words
        taken = (words[_TAKEN] + items + news.lost) % _WORD
        over = (words[_TAKEN_OVER] + news.passed_over) % _WORD
        words[_RING] = ring.identity
        words[_READ], words[_TOLD_LOST], words[_TOLD_OVER] = position
        words[_NEXT_TAKEN], words[_NEXT_OVER] = taken, over
        words[_IS_TAKING] = 1
        ring.move(position)
        words[_TAKEN], words[_TAKEN_OVER] = taken, over
        words[_IS_TAKING] = 0
        return news

    def correct(self, items: int) -> None:
        """So many more queries, or fewer, were taken than the rows seemed to tell of."""
        if items:
            self._words[_TAKEN] = (self._words[_TAKEN] + items) % _WORD

    @contextlib.contextmanager
    def settling(self, name: str, counts: Counts) -> Iterator[None]:
        """The file of that *name*, with *counts*, gets it within; not if an exception says so."""
        with self._settling:
            self._prepare(name.encode(), counts)
            try:
                yield
            except BaseException:
                self._words[_IS_SETTLING] = 0
                raise
            self._settle()

    def forget(self, counts: Counts) -> None:
        """No file will be told of *counts*."""
        if counts != Counts():
            with self._settling:
                self._prepare(b"", counts)
                self._settle()

    def _prepare(self, name: bytes, counts: Counts) -> None:
        words, after = self._words, self.settled + counts
        words[_NEXT_ITEMS], words[_NEXT_LOST] = after.items % _WORD, after.lost % _WORD
        words[_NEXT_PASSED] = after.passed_over % _WORD
        self._name[: len(name)] = name
        words[_NAME_OCTETS] = len(name)
        words[_IS_SETTLING] = 1

    def _settle(self) -> None:
        words = self._words
        words[_ITEMS], words[_LOST], words[_OVER] = words[_NEXT_ITEMS], words[_NEXT_LOST], words[_NEXT_PASSED]
        words[_IS_SETTLING] = 0

    # ── after one that was killed ───────────────────────────────────────────────────────────────────────────────

    def end_settling(self, has_its_name: Callable[[str], bool]) -> None:
        """Bring the step of settling to its end that a role before this one had begun.

        *has_its_name*: whether there is a file of that name.
        """
        words = self._words
        if words[_IS_SETTLING]:
            name = bytes(self._name[: min(words[_NAME_OCTETS], _MOST_NAME_OCTETS)]).decode(errors="replace")
            if not name or has_its_name(name):
                self._settle()
            words[_IS_SETTLING] = 0

    def recover(self, has_its_name: Callable[[str], bool]) -> Counts:
        """What a role before this one had in hand when it was killed: as lost, and passed over.

        *has_its_name*: whether there is a file of that name.
        """
        self.end_settling(has_its_name)
        words = self._words
        if words[_IS_TAKING]:
            words[_TAKEN], words[_TAKEN_OVER] = words[_NEXT_TAKEN], words[_NEXT_OVER]
        found = self.held
        if found.lost > MOST_LOST or found.passed_over > MOST_LOST:
            log.alarm("capture's hand cannot be", queries=found.lost, passed_over=found.passed_over)
            for word in (_TAKEN, _TAKEN_OVER, _ITEMS, _LOST, _OVER):
                words[word] = 0
            words[_BORN] = secrets.randbits(63)
            return Counts()
        return found

    def resume(self, rings: Iterable[Ring]) -> None:
        """End the step of taking that a role before this one had begun, if one of *rings* is it."""
        words = self._words
        if words[_IS_TAKING]:
            position = Position(words[_READ], words[_TOLD_LOST], words[_TOLD_OVER])
            for ring in rings:
                if ring.identity == words[_RING] and ring.can_be_at(position):
                    ring.move(position)
            words[_IS_TAKING] = 0
