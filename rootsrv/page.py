"""The shared page: the few numbers that all processes of an instance read and the only channel to the packet path.

One file, mapped by everybody: `maintain` writes the head (which answer table is staged and active, until when each zone
may be answered from), each worker writes its own slot (what it has staged and serves, its counters) and nobody else's.
"""
# Theory of operation
# -------------------
# Every field is one aligned 64-bit word in host order, written and read by a single store or load (CPython does so for
# memoryview.cast("Q")), so a reader sees the old or the new value and never a mixture.  There are no locks and no
# messages: a worker reads the head once per wake-up, and the switchover is the one store to ACTIVE.
#
#   head     magic, version, staged generation, active generation, silenced, not-ready flags, per-zone deadlines
#   workers  WORKER_SLOTS × WORKER_WORDS: pid, heartbeat, staged, active, then counters
#
# Generations number the answer tables: generation 17 is the file tables/17.table in the state directory; 0 means none.
# Deadlines are nanoseconds on CLOCK_BOOTTIME, which no clock step moves (design: two clocks).
# The counters outlive the worker that wrote them: a slot is reused by the worker that replaces it, which counts on.

import mmap
import os
from pathlib import Path

MAGIC = 0x526F6F7450616765  # "RootPage"
VERSION = 1

HEAD_WORDS = 64
WORKER_SLOTS = 64
WORKER_WORDS = 8192
"""64 KiB per worker: identity, counters (server/counters.py says which) and, behind them, unique-source registers."""

# Words of the head.
_MAGIC, _VERSION, _STAGED, _ACTIVE, _SILENCED, _ZONE_DEADLINES = 0, 1, 2, 3, 4, 16
MAX_ZONES = 8

# Words of a worker's slot that are not counters.
_PID, _HEARTBEAT, _WORKER_STAGED, _WORKER_ACTIVE = 0, 1, 2, 3
FIRST_COUNTER_WORD = 16


class PageUnusable(Exception):
    """The shared page is absent, damaged or of another version."""


class Page:
    """The mapped shared page.  `create` it once, `open` it everywhere else."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self.words = memoryview(mapping).cast("Q")

    @classmethod
    def create(cls, path: Path) -> "Page":
        """Make a fresh page at *path*, in place of any other, and map it."""
        size = 8 * (HEAD_WORDS + WORKER_SLOTS * WORKER_WORDS)
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
        try:
            os.ftruncate(descriptor, size)
            page = cls(mmap.mmap(descriptor, size))
        finally:
            os.close(descriptor)
        page.words[_VERSION] = VERSION
        page.words[_MAGIC] = MAGIC
        temporary.rename(path)
        return page

    @classmethod
    def open(cls, path: Path) -> "Page":
        """Map the page at *path*; PageUnusable if there is none of this version."""
        size = 8 * (HEAD_WORDS + WORKER_SLOTS * WORKER_WORDS)
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError as error:
            raise PageUnusable(f"{path}: {error.strerror}") from error
        try:
            if os.fstat(descriptor).st_size != size:
                raise PageUnusable(f"{path}: {os.fstat(descriptor).st_size} octets, expected {size}")
            page = cls(mmap.mmap(descriptor, size))
        finally:
            os.close(descriptor)
        if page.words[_MAGIC] != MAGIC or page.words[_VERSION] != VERSION:
            raise PageUnusable(f"{path}: not a shared page of version {VERSION}")
        return page

    @property
    def staged(self) -> int:
        """Generation that workers map ahead of the switchover; 0 = none."""
        return self.words[_STAGED]

    @staged.setter
    def staged(self, generation: int) -> None:
        self.words[_STAGED] = generation

    @property
    def active(self) -> int:
        """Generation that workers answer from; 0 = none yet.  Storing it is the switchover."""
        return self.words[_ACTIVE]

    @active.setter
    def active(self, generation: int) -> None:
        self.words[_ACTIVE] = generation

    @property
    def silenced(self) -> bool:
        """Whether the instance has ceased to answer (a switchover failed for good, D25)."""
        return bool(self.words[_SILENCED])

    @silenced.setter
    def silenced(self, value: bool) -> None:
        self.words[_SILENCED] = int(value)

    def deadline(self, zone: int) -> int:
        """Until when zone number *zone* may be answered from: nanoseconds on CLOCK_BOOTTIME."""
        return self.words[_ZONE_DEADLINES + zone]

    def set_deadline(self, zone: int, boottime_ns: int) -> None:
        """Grant a lease on zone number *zone* until *boottime_ns* (CLOCK_BOOTTIME)."""
        self.words[_ZONE_DEADLINES + zone] = boottime_ns

    def worker(self, slot: int) -> "WorkerSlot":
        """The slot of worker number *slot* (0 … WORKER_SLOTS − 1)."""
        return WorkerSlot(self.words, HEAD_WORDS + slot * WORKER_WORDS)


class WorkerSlot:
    """What one worker says of itself."""

    def __init__(self, words: memoryview, first_word: int) -> None:
        self._words = words
        self._first = first_word

    def _get(self, word: int) -> int:
        return int(self._words[self._first + word])

    def _set(self, word: int, value: int) -> None:
        self._words[self._first + word] = value

    pid = property(
        lambda self: self._get(_PID), lambda self, value: self._set(_PID, value), doc="Process id; 0 = none."
    )
    heartbeat = property(
        lambda self: self._get(_HEARTBEAT),
        lambda self, value: self._set(_HEARTBEAT, value),
        doc="CLOCK_BOOTTIME nanoseconds of the last wake-up.",
    )
    staged = property(
        lambda self: self._get(_WORKER_STAGED),
        lambda self, value: self._set(_WORKER_STAGED, value),
        doc="Newest generation that this worker has mapped and could switch to.",
    )
    active = property(
        lambda self: self._get(_WORKER_ACTIVE),
        lambda self, value: self._set(_WORKER_ACTIVE, value),
        doc="Generation of this worker's latest response.",
    )

    @property
    def counters(self) -> memoryview:
        """The slot's counter words, 64 bits each (server/counters.py gives them names)."""
        return self._words[self._first + FIRST_COUNTER_WORD : self._first + WORKER_WORDS]
