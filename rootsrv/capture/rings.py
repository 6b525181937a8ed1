"""Rings of capture rows in shared memory: one for each CPU and each worker, all read by the role capture."""
# Theory of operation
# -------------------
# A ring has one writer and one reader, who never wait for each other.  Both count rows since the ring was made:
#
#     read ─────────────────── seen ─────────── written
#       rows that may be taken       rows of late
#
# The writer stores rows and then `written`; where there is no room between `written` and `read` it counts the query as
# lost and goes on.  The reader takes what lies before `seen`, `written` as it was when it last looked, milliseconds
# ago: by then every processor sees the rows too, whatever order it stores in.  When it has done with them it stores
# `read`.  All numbers are in the memory itself: a reader that dies is followed by one that goes on where it was.
# `read` never goes back: the kernel keeps up to where it may write (`room_until`), and looks again when it gets there.
#
# A ring's head is two cache lines of words, the first half its writer's, the second its reader's (struct capture_ring
# in rootsrv/fastpath/bpf/shared.h; tests/capture compares them).  The CPUs' rings are a map of the BPF program, and
# count units in place of rows (units.py); a worker's is a piece of memory of its own, its size sealed, so that nobody
# can cut it short under the other.

import fcntl
import mmap
import os
import secrets
from dataclasses import dataclass
from typing import NamedTuple

from rootsrv.capture.facts import FACT_OCTETS

ROW_OCTETS = FACT_OCTETS
CHUNK_ROWS = 512
"""Workers' rings are a power of two times so many rows."""

UNIT_OCTETS = 16
CHUNK_UNITS = 4096
"""Rings are a power of two times so many units (CAPTURE_CHUNK_UNITS)."""

BEYOND_UNITS = 64
"""Behind a ring, for what a row has beyond its end (CAPTURE_BEYOND)."""

HEAD_OCTETS = 128
_HEAD_WORDS = HEAD_OCTETS // 8
WRITTEN, ITEMS, LOST, PASSED_OVER, ROOM_UNTIL = 0, 1, 2, 3, 4
READ, SHAPE, EVERY, WANTED, TOLD_LOST, TOLD_PASSED_OVER, IDENTITY = 8, 9, 10, 11, 12, 13, 14
"""Words of the head: the writer's, the reader's."""

OFF, FACTS, PACKETS = 0, 1, 2
"""What the rows shall hold (enum capture_shape); a worker writes messages for both."""

SOME = 256
"""Besides, in SHAPE: not of all queries, but of those that EVERY and WANTED say."""

_SHAPES = SOME - 1

IPV4, IPV6, UDP, TCP = 1, 2, 4, 8
"""Bits of WANTED (enum capture_wanted)."""

EVERYTHING = IPV4 | IPV6 | UDP | TCP

PACKET, MESSAGE = 3, 4
"""Kinds of rows besides those of facts.py: an IP packet; a message as a worker got it (messages.py)."""

FURTHER = 0x80
FURTHER_PACKET = FURTHER | PACKET
"""A packet that goes on with the query of the one before it, which is one query."""

MOST_LOST = 1 << 40
"""No ring loses more queries while nobody looks: at ten million a second that is a day."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Counts:
    """What the writer of a ring has counted since the ring was made: queries."""

    items: int = 0
    lost: int = 0
    passed_over: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.items + other.items, self.lost + other.lost, self.passed_over + other.passed_over)

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(self.items - other.items, self.lost - other.lost, self.passed_over - other.passed_over)


class Position(NamedTuple):
    """Up to where its reader has taken account of a ring: rows, and counts of its writer."""

    read: int
    told_lost: int
    told_passed_over: int


class Ring:
    """The reader's end of one ring."""

    def __init__(self, where: str, head: memoryview, rows: memoryview) -> None:
        """*where*: "kernel" or "worker", for statistics; *head*: HEAD_OCTETS, *rows*: a power of two of them."""
        self.where = where
        self._words = head.cast("Q") if head.format != "Q" else head
        self._rows = rows
        self._capacity = self._capacity_of(rows)
        self._seen = self._words[READ]
        self._damaged = 0
        self.taken = 0
        """Of what `take` returned last: how many rows of the ring that were, for `done`."""

    def want(self, shape: int, every: int = 1, wanted: int = EVERYTHING) -> None:
        """Have the writer write *shape* (OFF, FACTS, PACKETS): one query of *every*, of those that are *wanted*."""
        self._words[EVERY], self._words[WANTED] = every, wanted
        self._words[SHAPE] = shape | (SOME if shape != OFF and (every > 1 or wanted != EVERYTHING) else 0)

    @staticmethod
    def _capacity_of(rows: memoryview) -> int:
        return len(rows) // ROW_OCTETS

    @property
    def shape(self) -> int:
        """What is written into it now."""
        return self._words[SHAPE] & _SHAPES

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        return self._capacity

    @property
    def waiting(self) -> int:
        """Rows that have not been taken."""
        return min(self._words[WRITTEN] - self._words[READ], self._capacity)

    def take(self) -> list[memoryview]:
        """The rows that were complete at the last call, in at most two pieces; they stay there until `done`."""
        words, capacity = self._words, self._capacity
        self.taken = 0
        read, until, self._seen = words[READ], self._seen, words[WRITTEN]
        if not 0 <= self._seen - read <= capacity:
            # Nothing but a writer gone wrong stores such a number.  What was there before, when all was well, is taken;
            # what it wrote since is not to be believed, and how much that was nobody can tell.
            if read < until <= read + capacity:
                self._seen = until
            else:
                self._damaged += 1
                words[READ] = self._seen
                return []
        if not read < until <= self._seen:
            return []
        self.taken = until - read
        return self._pieces(read, until)

    def _pieces(self, read: int, until: int) -> list[memoryview]:
        """The rows from number *read* up to *until*."""
        start, end = read % self._capacity, until % self._capacity
        if start < end:
            return [self._rows[start * ROW_OCTETS : end * ROW_OCTETS]]
        pieces = [self._rows[start * ROW_OCTETS :], self._rows[: end * ROW_OCTETS]]
        return [each for each in pieces if each]

    def take_copy(self) -> bytes | memoryview:
        """What `take` returns, in one piece that is not the ring's."""
        return b"".join(self.take())

    def done(self, rows: int) -> None:
        """*rows* of those that were taken may be written over."""
        self._words[READ] += rows

    def skip(self) -> None:
        """Take no account of what is in it, and of what was lost until now."""
        self._words[READ] = self._seen = self._words[WRITTEN]
        self.news()

    @property
    def identity(self) -> int:
        """A number that no other ring has, as long as it is there."""
        if not self._words[IDENTITY]:
            self._words[IDENTITY] = secrets.randbits(63) | 1
        return self._words[IDENTITY]

    def after(self, rows: int) -> tuple[Position, Counts]:
        """Where it is when *rows* more are done and all that was lost is told of; and how many queries that is."""
        words = self._words
        lost, passed_over = words[LOST], words[PASSED_OVER]
        news = Counts(0, lost - words[TOLD_LOST], passed_over - words[TOLD_PASSED_OVER])
        if not (0 <= news.lost <= MOST_LOST and 0 <= news.passed_over <= MOST_LOST):
            # A writer gone wrong: what it says it lost is not believed.
            self._damaged += 1
            news = Counts()
        return Position(words[READ] + rows, lost, passed_over), news

    def can_be_at(self, position: Position) -> bool:
        """Whether a reader before this one can have meant *position*: between what it had read and what there is."""
        words = self._words
        return words[READ] <= position.read <= words[WRITTEN] <= words[READ] + self._capacity

    def move(self, position: Position) -> None:
        """Account was taken of all up to *position*: it may be written over."""
        self._words[TOLD_LOST], self._words[TOLD_PASSED_OVER] = position.told_lost, position.told_passed_over
        self._words[READ] = position.read
        self._seen = max(self._seen, position.read)

    def news(self) -> Counts:
        """What was lost and passed over since the last call, by whichever reader that was; without items."""
        position, found = self.after(0)
        self.move(position)
        return found

    def counts(self) -> Counts:
        """What the writer has counted."""
        return Counts(self._words[ITEMS], self._words[LOST], self._words[PASSED_OVER])

    @property
    def damaged(self) -> int:
        """How often what the writer said of its ring could not be."""
        return self._damaged


class KernelRing(Ring):
    """The reader's end of a CPU's ring: it counts units, and has rows of the usual kind made of them (units.py)."""

    @staticmethod
    def _capacity_of(rows: memoryview) -> int:
        return len(rows) // (UNIT_OCTETS + 1) - BEYOND_UNITS

    def _pieces(self, read: int, until: int) -> list[memoryview]:
        from rootsrv.capture import units  # with numpy, which who makes rings and counts does not need

        found = units.rows(self._rows, self._capacity, read, until - read)
        return [found] if found else []

    def take_copy(self) -> memoryview:
        for rows in self.take():
            return rows
        return memoryview(b"")


class RingWriter:
    """The writer's end of a worker's ring."""

    def __init__(self, descriptor: int) -> None:
        """*descriptor*: of `make_memory`; what is mapped stays when it is closed."""
        memory = memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size))
        self._words = memory[:HEAD_OCTETS].cast("Q")
        self._rows = memory[mmap.PAGESIZE :]
        self._capacity = len(self._rows) // ROW_OCTETS

    @property
    def shape(self) -> int:
        """OFF: there is nothing to write."""
        return self._words[SHAPE] & _SHAPES

    @property
    def counted(self) -> int:
        """Queries that are written, lost or passed over, since the ring was made."""
        return self._words[ITEMS] + self._words[LOST] + self._words[PASSED_OVER]

    def choose(self, count: int, needed: int) -> range:
        """Which of the next *count* queries shall be written, by number; *needed*: their bits of WANTED."""
        words = self._words
        if words[WANTED] & needed != needed:
            words[PASSED_OVER] += count
            return range(0)
        every = words[EVERY]
        if every <= 1:
            return range(count)
        first = -self.counted % every
        chosen = range(first, count, every)
        words[PASSED_OVER] += count - len(chosen)
        return chosen

    def lose(self, count: int) -> None:
        """Count queries that could not be written."""
        self._words[LOST] += count

    def append(self, messages: list[bytes]) -> None:
        """Write *messages*, each a whole number of rows, as far as there is room; the others are lost, and counted."""
        words, capacity = self._words, self._capacity
        written = words[WRITTEN]
        room = (capacity - (written - words[READ])) * ROW_OCTETS
        octets = b"".join(messages)
        fit = len(messages)
        if len(octets) > room:
            fit = size = 0
            for each in messages:
                if size + len(each) > room:
                    break
                size += len(each)
                fit += 1
            words[LOST] += len(messages) - fit
            octets = octets[:size]
        start = written % capacity * ROW_OCTETS
        until_end = len(self._rows) - start
        self._rows[start : start + len(octets)] = octets[:until_end]
        if len(octets) > until_end:
            self._rows[: len(octets) - until_end] = octets[until_end:]
        words[ITEMS] += fit
        words[WRITTEN] = written + len(octets) // ROW_OCTETS


def make_memory(rows: int) -> int:
    """The descriptor of memory for a worker's ring; OSError where there is not so much."""
    descriptor = os.memfd_create("rootsrv-capture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # Had at once: a store into a page that cannot be had later is a SIGBUS.
        os.posix_fallocate(descriptor, 0, mmap.PAGESIZE + rows * ROW_OCTETS)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_memory(descriptor: int) -> Ring:
    """The reader's end of a worker's ring; ValueError if it is none."""
    octets = os.fstat(descriptor).st_size - mmap.PAGESIZE
    rows = octets // ROW_OCTETS
    if octets < ROW_OCTETS * CHUNK_ROWS or rows & (rows - 1) or octets % ROW_OCTETS:
        raise ValueError(f"a ring of {octets} octets")
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("a ring whose size is not sealed")
    memory = memoryview(mmap.mmap(descriptor, octets + mmap.PAGESIZE))
    return Ring("worker", memory[:HEAD_OCTETS], memory[mmap.PAGESIZE :])


def unit_ring_octets(units: int) -> int:
    """What a ring of so many units takes, without its head: they, and an octet for each."""
    return (units + BEYOND_UNITS) * (UNIT_OCTETS + 1)


def open_map(descriptor: int, cpus: int, chunks: int) -> list[Ring]:
    """The rings of all CPUs, of so many *chunks* each, from the BPF program's map."""
    octets = HEAD_OCTETS + unit_ring_octets(chunks * CHUNK_UNITS)
    stride = -(-octets // 8) * 8
    memory = memoryview(mmap.mmap(descriptor, -(-cpus * stride // mmap.PAGESIZE) * mmap.PAGESIZE))
    return [
        KernelRing("kernel", memory[at : at + HEAD_OCTETS], memory[at + HEAD_OCTETS : at + octets])
        for at in range(0, cpus * stride, stride)
    ]
