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
#   head     magic, version, staged generation, active generation, silenced, boot, worker counts, per-zone deadlines;
#            identity
#   blocks   MAX_BLOCKS × 4, at the end: blocked source prefixes (admission/blocks.py), written by serve
#   workers  WORKER_SLOTS × WORKER_WORDS: pid, heartbeat, staged, active, day; counters (counts.py names them);
#            the same counters as they were when the day began; unique-source registers of this day and the one before
#
# Generations number the answer tables: generation 17 is the file tables/17.table in the state directory; 0 means none.
# Deadlines are nanoseconds on CLOCK_BOOTTIME, which no clock step moves (design: two clocks).  0 = never
# granted: SERVFAIL.
# At a switchover ACTIVE is stored first and the new deadlines after it: the other way round would, for an instant,
# revive an expired zone.  (At the very first activation nothing is served yet, and the deadlines come first.)
# The counters outlive the worker that wrote them: a slot is reused by the worker that replaces it, which counts on; so
# does the next run of the instance, as long as the file is there.  The head is valid for one boot of the machine only.
# The file belongs on a file system in memory (/run): written-back pages of a disk could stop a worker in mid-store.
# The day is counted in the slot itself so that statistics per UTC day are exact whenever a reader comes by: counts of
# today = counters − counters when the day began; the registers alternate by the parity of the day (days since 1970).

import fcntl
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

MAGIC = 0x526F6F7450616765  # "RootPage"
VERSION = 3

HEAD_WORDS = 64
WORKER_SLOTS = 64
KERNEL_SLOT = WORKER_SLOTS - 1
"""The slot in which the owner of the kernel fast path counts what the kernel answered; it is no worker's."""

KERNEL_SLOT = WORKER_SLOTS - 1
"""The slot that holds what the kernel answered: the owner of the fast path writes it (fastpath/accounting.py)."""

# Words of the head.
_MAGIC, _VERSION, _STAGED, _ACTIVE, _SILENCED, _BOOT, _WORKERS, _REPLACED, _ZONE_DEADLINES = 0, 1, 2, 3, 4, 5, 7, 8, 16
_BLOCK_COUNT, _BLOCK_CHANGES = 9, 10
MAX_ZONES = 8
_IDENTITY = 32
HEAD_OCTETS = 8 * (_ZONE_DEADLINES + MAX_ZONES)
"""What a worker compares at each wake-up to see whether anything changed."""

# Words of a worker's slot that are not counters.
_PID, _HEARTBEAT, _WORKER_STAGED, _WORKER_ACTIVE, _DAY = 0, 1, 2, 3, 4
FIRST_COUNTER_WORD = 16
COUNTER_WORDS = 2048

REGISTERS = 1 << 14
"""One-octet HyperLogLog registers of one estimate (unique_sources.py)."""

REGISTER_SETS = 3
"""IPv4, IPv6, IPv6 aggregated to /64, in this order."""

_FIRST_REGISTER_WORD = FIRST_COUNTER_WORD + 2 * COUNTER_WORDS
_DAY_REGISTER_WORDS = REGISTER_SETS * REGISTERS // 8
WORKER_WORDS = 16_896
"""132 KiB per worker, a whole number of memory pages; untouched slots take no memory."""

assert WORKER_WORDS >= _FIRST_REGISTER_WORD + 2 * _DAY_REGISTER_WORDS

MAX_BLOCKS = 256
_BLOCK_WORDS = 4
_FIRST_BLOCK_WORD = HEAD_WORDS + WORKER_SLOTS * WORKER_WORDS
_SIZE = 8 * (_FIRST_BLOCK_WORD + MAX_BLOCKS * _BLOCK_WORDS)

BlockWords = tuple[int, int, int, int]
"""A blocked source prefix: upper and lower half of an IPv6 address (IPv4 mapped), prefix length, until when
(CLOCK_BOOTTIME, nanoseconds)."""


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
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
        try:
            os.ftruncate(descriptor, _SIZE)
            page = cls(mmap.mmap(descriptor, _SIZE))
        finally:
            os.close(descriptor)
        page._begin_boot()
        page.words[_IDENTITY] = int.from_bytes(os.urandom(8), "big")
        page.words[_VERSION] = VERSION
        page.words[_MAGIC] = MAGIC
        temporary.rename(path)
        return page

    @classmethod
    def open(cls, path: Path, *, writable: bool = True) -> "Page":
        """Map the page at *path*; PageUnusable if there is none of this version."""
        try:
            descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        except OSError as error:
            raise PageUnusable(f"{path}: {error.strerror}") from error
        try:
            return cls.from_descriptor(descriptor, writable=writable)
        except PageUnusable as error:
            raise PageUnusable(f"{path}: {error}") from error
        finally:
            os.close(descriptor)

    @classmethod
    def from_descriptor(cls, descriptor: int, *, writable: bool = True) -> "Page":
        """Map the page that *descriptor* refers to, which stays open; PageUnusable if it is none of this version."""
        if (size := os.fstat(descriptor).st_size) != _SIZE:
            raise PageUnusable(f"{size} octets, expected {_SIZE}")
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        page = cls(mmap.mmap(descriptor, _SIZE, access=access))
        if page.words[_MAGIC] != MAGIC or page.words[_VERSION] != VERSION:
            raise PageUnusable(f"not a shared page of version {VERSION}")
        return page

    @classmethod
    def open_or_create(cls, path: Path) -> "Page":
        """Map the page at *path* or make it; after a reboot its head is cleared and its counters are kept."""
        with path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # roles start at the same time
            try:
                page = cls.open(path)
            except PageUnusable:
                return cls.create(path)
        if tuple(page.words[_BOOT : _BOOT + 2]) != _boot_id():
            page._begin_boot()
        return page

    def _begin_boot(self) -> None:
        for word in range(_STAGED, _ZONE_DEADLINES + MAX_ZONES):
            self.words[word] = 0
        self.words[_BOOT], self.words[_BOOT + 1] = _boot_id()

    def head(self) -> bytes:
        """The head as octets: equal to what was read before = nothing has changed."""
        return bytes(self._mapping[:HEAD_OCTETS])

    @property
    def identity(self) -> int:
        """A random number that tells this page from one made anew in its place, whose counters start from 0."""
        return self.words[_IDENTITY]

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

    @property
    def workers(self) -> int:
        """How many workers there should be: slots 0 … workers − 1 (written by the parent that serves)."""
        return self.words[_WORKERS]

    @workers.setter
    def workers(self, value: int) -> None:
        self.words[_WORKERS] = value

    @property
    def replaced(self) -> int:
        """How many workers were replaced since boot because they died or did not advance."""
        return self.words[_REPLACED]

    @replaced.setter
    def replaced(self, value: int) -> None:
        self.words[_REPLACED] = value

    def deadline(self, zone: int) -> int:
        """Until when zone number *zone* may be answered from: nanoseconds on CLOCK_BOOTTIME; 0 = not at all."""
        return self.words[_ZONE_DEADLINES + zone]

    def set_deadline(self, zone: int, boottime_ns: int) -> None:
        """Grant a lease on zone number *zone* until *boottime_ns* (CLOCK_BOOTTIME)."""
        self.words[_ZONE_DEADLINES + zone] = boottime_ns

    @property
    def block_changes(self) -> int:
        """Grows whenever the blocks change."""
        return self.words[_BLOCK_CHANGES]

    def blocks(self) -> list[BlockWords]:
        """The blocked source prefixes (rootsrv/admission/blocks.py), ended ones too until they are removed."""
        found = []
        for number in range(min(self.words[_BLOCK_COUNT], MAX_BLOCKS)):
            first = _FIRST_BLOCK_WORD + number * _BLOCK_WORDS
            upper, lower, size, until = self.words[first : first + _BLOCK_WORDS]
            found.append((upper, lower, size, until))
        return found

    def set_blocks(self, blocks: Sequence[BlockWords]) -> None:
        """Replace all blocks, at most MAX_BLOCKS; who reads meanwhile sees fewer for an instant, never other ones."""
        self.words[_BLOCK_COUNT] = 0
        for number, block in enumerate(blocks):
            first = _FIRST_BLOCK_WORD + number * _BLOCK_WORDS
            for word, value in enumerate(block):
                self.words[first + word] = value
        self.words[_BLOCK_COUNT] = len(blocks)
        self.words[_BLOCK_CHANGES] += 1

    def worker(self, slot: int) -> "WorkerSlot":
        """The slot of worker number *slot* (0 … WORKER_SLOTS − 1)."""
        return WorkerSlot(self.words, HEAD_WORDS + slot * WORKER_WORDS)


def _boot_id() -> tuple[int, int]:
    """This boot of the machine, as two words; zeros where the system does not tell."""
    try:
        digits = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        return int(digits[:16], 16), int(digits[16:], 16)
    except (OSError, ValueError):
        return 0, 0


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

    day = property(
        lambda self: self._get(_DAY),
        lambda self, value: self._set(_DAY, value),
        doc="Days since 1970-01-01 UTC that `day_start` and `registers` belong to.",
    )

    def _words_from(self, first: int, count: int) -> memoryview:
        return self._words[self._first + first : self._first + first + count]

    @property
    def counters(self) -> memoryview:
        """The slot's counter words, 64 bits each (counts.py gives them names)."""
        return self._words_from(FIRST_COUNTER_WORD, COUNTER_WORDS)

    @property
    def day_start(self) -> memoryview:
        """The counter words as they were when `day` began."""
        return self._words_from(FIRST_COUNTER_WORD + COUNTER_WORDS, COUNTER_WORDS)

    def registers(self, day: int) -> memoryview:
        """Unique-source registers of *day* or of the day before or after it, as octets: REGISTER_SETS × REGISTERS."""
        first = _FIRST_REGISTER_WORD + (day & 1) * _DAY_REGISTER_WORDS
        return self._words_from(first, _DAY_REGISTER_WORDS).cast("B")
