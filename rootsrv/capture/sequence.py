"""Rows of many rings in one order of time."""
# A ring's rows are in order, rings are not: a row of one may be older than one of another that was taken before.  So
# rows wait until they are HOLD_BACK old, and by then all that is as old has been taken.  A worker that was not let run
# for longer writes *late* rows: they keep their true time, come as soon as they are there, and are counted.
#
# A message's rows have one time and lie together in their ring; sorting is stable, so they stay together.

import struct
from collections.abc import Sequence

from rootsrv.capture.facts import Kind
from rootsrv.capture.rings import ROW_OCTETS

try:
    import numpy
except ImportError:  # the extra rootsrv[capture] is not installed
    numpy = None  # type: ignore[assignment]

HOLD_BACK_NS = 50_000_000

_TIME = struct.Struct("<Q")


def merge(waiting: bytes, taken: Sequence[bytes], until: int) -> tuple[bytes, bytes]:
    """Rows older than *until* (CLOCK_BOOTTIME, nanoseconds) in order of time, and those that go on waiting.

    *waiting*: what the last call returned as such; *taken*: rows of one ring each.
    """
    octets = b"".join((waiting, *taken))
    if numpy is None:
        rows = sorted(_each(octets), key=_time_of)
        ready = sum(1 for row in rows if _time_of(row) < until)
        return b"".join(rows[:ready]), b"".join(rows[ready:])
    table = numpy.frombuffer(octets, numpy.uint8).reshape(-1, ROW_OCTETS)
    times = numpy.frombuffer(octets, "<u8")[:: ROW_OCTETS // 8]
    if (times[1:] < times[:-1]).any():
        order = numpy.argsort(times, kind="stable")
        table, times = table[order], times[order]
    ready = int(numpy.searchsorted(times, until))
    return table[:ready].tobytes(), table[ready:].tobytes()


def before(rows: bytes, at: int) -> int:
    """How many octets of *rows*, which are in order, are older than *at*."""
    if numpy is None:
        return sum(ROW_OCTETS for row in _each(rows) if _time_of(row) < at)
    times = numpy.frombuffer(rows, "<u8")[:: ROW_OCTETS // 8]
    return int(numpy.searchsorted(times, at)) * ROW_OCTETS


def first_time(rows: bytes) -> int:
    """Of the first row: CLOCK_BOOTTIME, nanoseconds."""
    time: int = _TIME.unpack_from(rows)[0]
    return time


def last_time(rows: bytes) -> int:
    """Of the last row."""
    time: int = _TIME.unpack_from(rows, len(rows) - ROW_OCTETS)[0]
    return time


def older(rows: bytes, time: int) -> int:
    """How many queries in *rows*, which are in order, are older than *time*: those that come late."""
    return items(rows[: before(rows, time)])


def has_columns() -> bool:
    """Whether numpy is there, without which everything takes several times as long."""
    return numpy is not None


def items(rows: bytes) -> int:
    """How many queries *rows* are about."""
    kinds = rows[8::ROW_OCTETS]
    return len(kinds) - kinds.count(Kind.CONTINUATION)


def _each(rows: bytes) -> list[bytes]:
    return [rows[at : at + ROW_OCTETS] for at in range(0, len(rows), ROW_OCTETS)]


def _time_of(row: bytes) -> int:
    time: int = _TIME.unpack_from(row)[0]
    return time
