"""The shared page: the few numbers that all processes of an instance read and the only channel to the packet path.

Three kinds of files, each mapped for writing by one role only: `maintain` writes the head (which answer table is staged
and active, until when each zone may be answered from), the parent that serves writes its own part (how many workers,
blocked sources), each worker writes its own slot (what it has staged and serves, its counters) and nobody else's.
"""
# Over 400 lines: every word of the three files, and who may write it, is said in one place.
#
# Theory of operation
# -------------------
# Every field is one aligned 64-bit word in host order, written and read by a single store or load (CPython does so for
# memoryview.cast("Q")), so a reader sees the old or the new value and never a mixture.  There are no locks and no
# messages: a worker reads the head once per wake-up, and the switchover is the one store to ACTIVE.  Who has nothing
# else to wake up for can have itself told that something may have changed (changes.py).
#
#   page             the head: magic, version, staged generation, active generation, silenced, boot, per-zone deadlines
#   page.serving     of the parent that serves: magic, version, boot, worker counts, its heartbeat, identity; blocks,
#                    MAX_BLOCKS × 4: blocked source prefixes (admission/blocks.py)
#   page.worker-N    a slot of WORKER_WORDS: pid, heartbeat, staged, active, day; counters (counts.py names them); the
#                    same counters as they were when the day began; SKETCHES × unique-source registers, each labelled
#                    with its day and its key
#
# Workers read what strangers send.  So a worker holds no descriptor by which it could write anything but its own slot,
# and nobody believes a slot in what could do harm: a pid in it is for people to read and is never sent a signal.
#
# Generations number the answer tables: generation 17 is the file tables/17.table in the state directory; 0 means none.
# Deadlines are nanoseconds on CLOCK_BOOTTIME, which no clock step moves (design: two clocks).  0 = never
# granted: SERVFAIL.
# At a switchover ACTIVE is stored first and the new deadlines after it: the other way round would, for an instant,
# revive an expired zone.  (At the very first activation nothing is served yet, and the deadlines come first.)
# The counters outlive the worker that wrote them: a slot is reused by the worker that replaces it, which counts on; so
# does the next run of the instance, as long as the file is there.  The head is valid for one boot of the machine only.
# The files belong on a file system in memory (/run): written-back pages of a disk could stop a worker in mid-store.
# Their memory is had when they are made (posix_fallocate): a store into a hole of a full file system is a SIGBUS.
# Where even that cannot be had, the parent and its workers share memory without a name, which no other role sees:
# they answer, and what they count is lost.
# A head that is gone (somebody has emptied /run), or another one's: its keeper puts it back with all that it said, and
# who reads it follows.
# The day is counted in the slot itself so that statistics per UTC day are exact whenever a reader comes by: counts of
# today = counters − counters when the day began.  Registers of unique sources are of one day and one key
# (unique_sources.py); a new pair takes the place of the oldest, so that after a day's turn or a change of key a reader
# still finds what was there before.  Their label is taken away first and put there last: under a label there is never
# anything else.

import contextlib
import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rootsrv.page.changes import announce, watch
from rootsrv.process import log
from rootsrv.process.clocks import boot_id
from rootsrv.process.shared_memory import map_shared

MAGIC = 0x526F6F7450616765  # "RootPage"
VERSION = 5

WORKER_SLOTS = 64
KERNEL_SLOT = WORKER_SLOTS - 1
"""The slot that holds what the kernel answered: the owner of the fast path writes it (fastpath/accounting.py)."""

TLS_SLOT = WORKER_SLOTS - 2
"""The slot of the process that answers over TLS (rootsrv/dot): none of the workers that a switchover waits for."""

# Words of the head.
_MAGIC, _VERSION, _STAGED, _ACTIVE, _SILENCED, _BOOT, _ZONE_DEADLINES = 0, 1, 2, 3, 4, 5, 16
MAX_ZONES = 8
HEAD_WORDS = 512
"""A page of memory."""

_HEAD_SIZE = 8 * HEAD_WORDS
_HEAD_OCTETS = 8 * (_ZONE_DEADLINES + MAX_ZONES)

# Words of the part of the parent that serves; magic, version and boot are as in the head.
_WORKERS, _REPLACED, _BLOCK_COUNT, _BLOCK_CHANGES, _PARENT_HEARTBEAT, _IDENTITY = 7, 8, 9, 10, 11, 32
_CHANGES = slice(8 * _BLOCK_CHANGES, 8 * _BLOCK_CHANGES + 8)
_FIRST_BLOCK_WORD = 64
MAX_BLOCKS = 256
_BLOCK_WORDS = 4
_SERVING_SIZE = 8 * (_FIRST_BLOCK_WORD + MAX_BLOCKS * _BLOCK_WORDS)

# Words of a worker's slot that are not counters.
_PID, _HEARTBEAT, _WORKER_STAGED, _WORKER_ACTIVE, _DAY, _SLOT_VERSION, _LABELS = 0, 1, 2, 3, 4, 5, 6
FIRST_COUNTER_WORD = 16
COUNTER_WORDS = 2048

REGISTERS = 1 << 14
"""One-octet HyperLogLog registers of one estimate (unique_sources.py)."""

REGISTER_SETS = 3
"""IPv4, IPv6, IPv6 aggregated to /64, in this order."""

SKETCHES = 3
"""Of this day, of the one before, and of a key before this one."""

_FIRST_REGISTER_WORD = FIRST_COUNTER_WORD + 2 * COUNTER_WORDS
_SKETCH_WORDS = REGISTER_SETS * REGISTERS // 8
WORKER_WORDS = 23_040
"""180 KiB per worker, a whole number of memory pages."""

assert _LABELS + 2 * SKETCHES <= FIRST_COUNTER_WORD
assert WORKER_WORDS >= _FIRST_REGISTER_WORD + SKETCHES * _SKETCH_WORDS

_SLOT_SIZE = 8 * WORKER_WORDS

BlockWords = tuple[int, int, int, int]
"""A blocked source prefix: upper and lower half of an IPv6 address (IPv4 mapped), prefix length, until when
(CLOCK_BOOTTIME, nanoseconds)."""

_NO_SERVING = memoryview(bytes(_SERVING_SIZE)).cast("Q")
_NO_SLOT = memoryview(bytes(_SLOT_SIZE)).cast("Q")

_MODE = 0o640  # the other roles are in the group, whatever the umask is


class PageUnusable(Exception):
    """The shared page is absent, damaged or of another version."""


class Page:
    """The mapped shared page.

    `create` it once or `open` it; the roles that write have ways of their own: `keep_head`, `keep_serving`, and
    `from_descriptors` for a worker.
    """

    def __init__(self, path: Path, head: mmap.mmap, *, writes_serving: bool = False, makes: bool = False) -> None:
        """*writes_serving*: map the parent's part and the slots for writing; *makes*: make those that are not there."""
        self._path = path
        self._files = _files(path)
        self._head_file = _file(path)
        self._mapping = head
        self.words = memoryview(head).cast("Q")
        """Of the head."""

        self._writes_serving = writes_serving
        self._makes = makes
        self._serving: mmap.mmap | None = None
        self._serving_words = _NO_SERVING
        self._slots: dict[int, WorkerSlot] = {}
        self._descriptors: dict[str, int] = {}

    # ── making and mapping ──

    @classmethod
    def create(cls, path: Path) -> "Page":
        """Make all of a fresh page at *path*, in place of any other, and map it for writing."""
        for each in path.parent.glob(f"{path.name}.*"):
            if each.suffix == ".serving" or each.suffix.startswith(".worker-"):
                each.unlink()
        page = cls(path, _make(path, _HEAD_SIZE, _begin), writes_serving=True, makes=True)
        page._map_serving()
        return page

    @classmethod
    def open(cls, path: Path, *, writable: bool = True) -> "Page":
        """Map what there is of the page at *path*; PageUnusable if there is none of this version."""
        return cls(path, _map(path, _HEAD_SIZE, writable=writable), writes_serving=writable)

    @classmethod
    def open_or_create(cls, path: Path) -> "Page":
        """Map the page at *path* for writing or make it; after a reboot it is cleared and its counters are kept."""
        page = cls(path, _had(path), writes_serving=True, makes=True)
        page._map_serving()
        return page

    @classmethod
    def keep_head(cls, path: Path) -> "Page":
        """For the role *maintain*: the head for writing, made if it is not there; the rest for reading."""
        return cls(path, _had(path))

    @classmethod
    def keep_serving(cls, path: Path, *, may_make_head: bool) -> "Page":
        """For the role *serve*: all but the head for writing, made if it is not there.

        PageUnusable if there is no head of this boot, and *may_make_head* is false or it cannot be made.
        """
        if may_make_head:
            _had(path).close()
        page = cls(path, _map(path, _HEAD_SIZE, writable=False), writes_serving=True, makes=True)
        if tuple(page.words[_BOOT : _BOOT + 2]) != boot_words():
            raise PageUnusable(f"{path}: is of another boot of this machine")
        page._map_serving()
        return page

    @classmethod
    def from_descriptors(cls, head: int, serving: int, own: int, slot: int) -> "Page":
        """For worker number *slot*: the head and the parent's part for reading, its own slot (*own*) for writing.

        The descriptors stay open.  PageUnusable if they are of another version.
        """
        page = cls(Path("page"), _map_descriptor(head, _HEAD_SIZE, writable=False))
        page._adopt_serving(_map_descriptor(serving, _SERVING_SIZE, writable=False))
        page._slots = {number: WorkerSlot(_NO_SLOT) for number in range(WORKER_SLOTS)}
        page._slots[slot] = WorkerSlot(_map_without_descriptor(own, _SLOT_SIZE))
        return page

    def descriptors(self, slot: int) -> tuple[int, int, int]:
        """What `from_descriptors` wants of the parent that serves; they stay the page's."""
        if "head" not in self._descriptors:
            self._descriptors["head"] = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self.worker(slot)
        return self._descriptors["head"], self._descriptors["serving"], self._descriptors[f"worker-{slot}"]

    def is_current(self) -> bool:
        """Whether the files at its path are those that are mapped."""
        return self._serving is not None and self._files == _files(self._path)

    def lost_head(self) -> bool:
        """Whether another head, or none, is at its path: nobody else reads or writes the one that is mapped."""
        return self._head_file != _file(self._path)

    def follow(self) -> None:
        """For who reads the head: map what there is now.  PageUnusable, and all is as it was, if it is not one."""
        self._take_head(_map(self._path, _HEAD_SIZE, writable=False))

    def put_back(self) -> None:
        """For who keeps the head: have one at its path again, which says what this one said.  PageUnusable."""
        self._path.parent.mkdir(exist_ok=True, mode=0o755)
        said, mapping = self.words, _had(self._path)
        words = memoryview(mapping).cast("Q")
        for word in (*range(_ZONE_DEADLINES, _ZONE_DEADLINES + MAX_ZONES), _SILENCED, _STAGED, _ACTIVE):
            words[word] = said[word]
        self._take_head(mapping)

    def _take_head(self, mapping: mmap.mmap) -> None:
        self._head_file = _file(self._path)
        self._mapping, self.words = mapping, memoryview(mapping).cast("Q")
        if (descriptor := self._descriptors.pop("head", None)) is not None:
            os.close(descriptor)
        if not self._makes:  # the other parts may be others, too
            self._serving, self._serving_words = None, _NO_SERVING
            self._slots = {}
            self._files = _files(self._path)

    def _map_serving(self) -> None:
        path = self._path.with_name(f"{self._path.name}.serving")

        mapping, self._descriptors["serving"] = _map_or_make(path, _SERVING_SIZE, _begin_serving, for_reading=True)
        self._adopt_serving(mapping)
        words = self._serving_words
        if tuple(words[_BOOT : _BOOT + 2]) != boot_words():
            for word in (_WORKERS, _REPLACED, _BLOCK_COUNT, _BLOCK_CHANGES, _PARENT_HEARTBEAT):
                words[word] = 0
            words[_BOOT], words[_BOOT + 1] = boot_words()
        self._files = _files(self._path)

    def _adopt_serving(self, mapping: mmap.mmap) -> None:
        self._serving = mapping
        self._serving_words = memoryview(mapping).cast("Q")

    @property
    def _parts(self) -> memoryview:
        """The words of the parent's part; zeros while there is none."""
        if self._serving is None:
            path = self._path.with_name(f"{self._path.name}.serving")
            with contextlib.suppress(PageUnusable):
                self._adopt_serving(_map(path, _SERVING_SIZE, writable=self._writes_serving))
                self._files = _files(self._path)
        return self._serving_words

    # ── the head ──

    def head(self) -> bytes:
        """What a worker follows, as octets: equal to what was read before = nothing has changed."""
        serving = self._serving
        return self._mapping[:_HEAD_OCTETS] + (b"" if serving is None else serving[_CHANGES])

    def _store(self, word: int, value: int) -> None:
        if self.words[word] != value:
            self.words[word] = value
            announce(self._path)

    def watch(self) -> int:
        """A descriptor by which a process is told that head or blocks may have changed (changes.py); OSError."""
        return watch(self._path.parent)

    @property
    def identity(self) -> int:
        """A random number that tells these slots from others made anew in their place, whose counters start from 0."""
        return self._parts[_IDENTITY]

    @property
    def staged(self) -> int:
        """Generation that workers map ahead of the switchover; 0 = none."""
        return self.words[_STAGED]

    @staged.setter
    def staged(self, generation: int) -> None:
        self._store(_STAGED, generation)

    @property
    def active(self) -> int:
        """Generation that workers answer from; 0 = none yet.  Storing it is the switchover."""
        return self.words[_ACTIVE]

    @active.setter
    def active(self, generation: int) -> None:
        self._store(_ACTIVE, generation)

    @property
    def silenced(self) -> bool:
        """Whether the instance has ceased to answer (a switchover failed for good, D25)."""
        return bool(self.words[_SILENCED])

    @silenced.setter
    def silenced(self, value: bool) -> None:
        self._store(_SILENCED, int(value))

    @property
    def workers(self) -> int:
        """How many workers there should be: slots 0 … workers − 1 (written by the parent that serves)."""
        return self._parts[_WORKERS]

    @workers.setter
    def workers(self, value: int) -> None:
        self._parts[_WORKERS] = value

    @property
    def replaced(self) -> int:
        """How many workers were replaced since boot because they died or did not advance."""
        return self._parts[_REPLACED]

    @replaced.setter
    def replaced(self, value: int) -> None:
        self._parts[_REPLACED] = value

    def deadline(self, zone: int) -> int:
        """Until when zone number *zone* may be answered from: nanoseconds on CLOCK_BOOTTIME; 0 = not at all."""
        return self.words[_ZONE_DEADLINES + zone]

    def set_deadline(self, zone: int, boottime_ns: int) -> None:
        """Grant a lease on zone number *zone* until *boottime_ns* (CLOCK_BOOTTIME)."""
        self._store(_ZONE_DEADLINES + zone, boottime_ns)

    @property
    def block_changes(self) -> int:
        """Grows whenever the blocks change."""
        return self._parts[_BLOCK_CHANGES]

    def blocks(self) -> list[BlockWords]:
        """The blocked source prefixes (rootsrv/admission/blocks.py), ended ones too until they are removed."""
        found = []
        for number in range(min(self._parts[_BLOCK_COUNT], MAX_BLOCKS)):
            first = _FIRST_BLOCK_WORD + number * _BLOCK_WORDS
            upper, lower, size, until = self._parts[first : first + _BLOCK_WORDS]
            found.append((upper, lower, size, until))
        return found

    def set_blocks(self, blocks: Sequence[BlockWords]) -> None:
        """Replace all blocks, at most MAX_BLOCKS; who reads meanwhile sees fewer for an instant, never other ones."""
        self._parts[_BLOCK_COUNT] = 0
        for number, block in enumerate(blocks):
            first = _FIRST_BLOCK_WORD + number * _BLOCK_WORDS
            for word, value in enumerate(block):
                self._parts[first + word] = value
        self._parts[_BLOCK_COUNT] = len(blocks)
        self._parts[_BLOCK_CHANGES] += 1
        announce(self._path.with_name(f"{self._path.name}.serving"))

    @property
    def parent_heartbeat(self) -> int:
        """When the parent that serves last said that it is there, CLOCK_BOOTTIME, nanoseconds."""
        return self._parts[_PARENT_HEARTBEAT]

    @parent_heartbeat.setter
    def parent_heartbeat(self, boottime_ns: int) -> None:
        self._parts[_PARENT_HEARTBEAT] = boottime_ns

    # ── the slots ──

    def slots(self) -> "dict[int, WorkerSlot]":
        """The slots that somebody has made, by number."""
        prefix = f"{self._path.name}.worker-"
        numbers = {int(each.name[len(prefix) :]) for each in self._path.parent.glob(f"{prefix}*[0-9]")}
        return {number: self.worker(number) for number in sorted(numbers | self._slots.keys()) if number < WORKER_SLOTS}

    def worker(self, slot: int) -> "WorkerSlot":
        """The slot of worker number *slot* (0 … WORKER_SLOTS − 1): zeros, for reading, while nobody has made it."""
        if (found := self._slots.get(slot)) is not None:
            return found
        path = self._path.with_name(f"{self._path.name}.worker-{slot}")
        if self._makes:
            mapping, descriptor = _map_or_make(path, _SLOT_SIZE, _begin_slot, for_reading=False)
            self._descriptors[f"worker-{slot}"] = descriptor
        else:
            try:
                mapping = _map(path, _SLOT_SIZE, writable=self._writes_serving)
            except PageUnusable:
                return WorkerSlot(_NO_SLOT)
        made = self._slots[slot] = WorkerSlot(memoryview(mapping).cast("Q"))
        return made


def _file(path: Path) -> tuple[int, int] | None:
    """Which file is at *path*; None: none, or that cannot be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _files(path: Path) -> tuple[tuple[int, int], ...]:
    """Which files the head and the parent's part are."""
    parts = (path, path.with_name(f"{path.name}.serving"))
    return tuple(found for found in map(_file, parts) if found is not None)


def _begin(words: memoryview) -> None:
    words[_BOOT], words[_BOOT + 1] = boot_words()
    words[_MAGIC], words[_VERSION] = MAGIC, VERSION


def _begin_serving(words: memoryview) -> None:
    words[_IDENTITY] = int.from_bytes(os.urandom(8), "big")
    _begin(words)


def _begin_slot(words: memoryview) -> None:
    words[_SLOT_VERSION] = VERSION


def _had(path: Path) -> mmap.mmap:
    """The head at *path*, mapped for writing: of this boot, made if it is not there.  PageUnusable if it cannot be."""
    try:
        with path.with_suffix(".lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # roles start at the same time
            try:
                mapping = _map(path, _HEAD_SIZE, writable=True)
            except PageUnusable:
                return _make(path, _HEAD_SIZE, _begin)
    except OSError as error:
        raise PageUnusable(f"{error.filename or path}: {error.strerror}") from error
    words = memoryview(mapping).cast("Q")
    if tuple(words[_BOOT : _BOOT + 2]) != boot_words():
        for word in range(_STAGED, _ZONE_DEADLINES + MAX_ZONES):
            words[word] = 0
        _begin(words)
    return mapping


def _map(path: Path, size: int, *, writable: bool) -> mmap.mmap:
    """Map the part at *path*; PageUnusable if there is none of this version."""
    try:
        descriptor = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise PageUnusable(f"{path}: {error.strerror}") from error
    try:
        return _map_descriptor(descriptor, size, writable=writable)
    except PageUnusable as error:
        raise PageUnusable(f"{path}: {error}") from error
    finally:
        os.close(descriptor)


def _map_descriptor(descriptor: int, size: int, *, writable: bool) -> mmap.mmap:
    """Map a part; PageUnusable if it is of another version."""
    try:
        if (found := os.fstat(descriptor).st_size) != size:
            raise PageUnusable(f"{found} octets, expected {size}")
        if writable:
            os.posix_fallocate(descriptor, 0, size)
        mapping = mmap.mmap(descriptor, size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
    except OSError as error:
        raise PageUnusable(str(error.strerror)) from error
    words = memoryview(mapping).cast("Q")
    good = words[_SLOT_VERSION] == VERSION if size == _SLOT_SIZE else (words[0], words[1]) == (MAGIC, VERSION)
    if not good:
        raise PageUnusable(f"not a shared page of version {VERSION}")
    return mapping


def _make(path: Path, size: int, begin: Callable[[memoryview], None]) -> mmap.mmap:
    """Make a part at *path*, in place of any other, and map it; OSError if its memory cannot be had."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        os.fchmod(descriptor, _MODE)
        os.posix_fallocate(descriptor, 0, size)
        mapping = mmap.mmap(descriptor, size)
        begin(memoryview(mapping).cast("Q"))
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return mapping


def _map_or_make(
    path: Path, size: int, begin: Callable[[memoryview], None], *, for_reading: bool
) -> tuple[mmap.mmap, int]:
    """The part at *path*, mapped for writing, and a descriptor of it; one without a name if that is all to be had."""
    wanted = (os.O_RDONLY if for_reading else os.O_RDWR) | os.O_CLOEXEC
    try:
        try:
            mapping = _map(path, size, writable=True)
        except PageUnusable:
            mapping = _make(path, size, begin)
        return mapping, os.open(path, wanted)
    except OSError as error:
        log.alarm("shared page is not seen by other roles", file=path, reason=error.strerror)
    nameless = os.memfd_create(path.name, os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(nameless, 0, size)
        mapping = mmap.mmap(nameless, size)
        begin(memoryview(mapping).cast("Q"))
        return mapping, os.open(f"/proc/self/fd/{nameless}", wanted)
    finally:
        os.close(nameless)


def _map_without_descriptor(descriptor: int, size: int) -> memoryview:
    """Map a part for writing and keep no descriptor of it."""
    if (found := os.fstat(descriptor).st_size) != size:
        raise PageUnusable(f"{found} octets, expected {size}")
    try:
        return map_shared(descriptor, size).cast("Q")
    except OSError as error:
        raise PageUnusable(str(error.strerror)) from error


def covers(block: BlockWords, upper: int, lower: int) -> bool:
    """Whether *block* has the address with these two words in it, or the prefix that begins there and is no shorter."""
    shift = 128 - block[2]
    return (upper << 64 | lower) >> shift == (block[0] << 64 | block[1]) >> shift


def boot_words() -> tuple[int, int]:
    """This boot of the machine, as two words; zeros where the system does not tell."""
    digits = boot_id().replace("-", "") or "0" * 32
    return int(digits[:16], 16), int(digits[16:], 16)


class WorkerSlot:
    """What one worker says of itself."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def _get(self, word: int) -> int:
        return int(self._words[word])

    def _set(self, word: int, value: int) -> None:
        self._words[word] = value

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
        doc="Days since 1970-01-01 UTC that `day_start` belongs to.",
    )

    def _words_from(self, first: int, count: int) -> memoryview:
        return self._words[first : first + count]

    @property
    def counters(self) -> memoryview:
        """The slot's counter words, 64 bits each (counts.py gives them names)."""
        return self._words_from(FIRST_COUNTER_WORD, COUNTER_WORDS)

    @property
    def day_start(self) -> memoryview:
        """The counter words as they were when `day` began."""
        return self._words_from(FIRST_COUNTER_WORD + COUNTER_WORDS, COUNTER_WORDS)

    def registers(self, day: int, key_id: int) -> memoryview:
        """Unique-source registers of *day* under that key, as octets: REGISTER_SETS × REGISTERS.

        Only for who writes them: if there are none, the oldest ones make room.
        """
        labels = [self._label(place) for place in range(SKETCHES)]
        if (day, key_id) in labels:
            return self._sketch(labels.index((day, key_id)))
        place = labels.index(min(labels))
        self._set(_LABELS + 2 * place, 0)
        made = self._sketch(place)
        made[:] = bytes(len(made))
        self._set(_LABELS + 2 * place + 1, key_id)
        self._set(_LABELS + 2 * place, day)
        return made

    def sketches(self, day: int) -> dict[int, bytes]:
        """By key id: the unique-source registers of *day* that there are."""
        found = {}
        for place in range(SKETCHES):
            label = self._label(place)
            if label[0] != day:
                continue
            octets = bytes(self._sketch(place))
            if self._label(place) == label:  # else it has just become another's
                found[label[1]] = octets
        return found

    def _label(self, place: int) -> tuple[int, int]:
        """(day, key id); day 0: none yet."""
        return self._get(_LABELS + 2 * place), self._get(_LABELS + 2 * place + 1)

    def _sketch(self, place: int) -> memoryview:
        return self._words_from(_FIRST_REGISTER_WORD + place * _SKETCH_WORDS, _SKETCH_WORDS).cast("B")
