"""Rows of many rings in one order of time."""
# A ring's rows are in order, rings are not: a row of one may be older than one of another that was taken before.  So
# rows wait until they are HOLD_BACK old, and by then all that is as old has been taken.  A worker that was not let run
# for longer writes *late* rows: they keep their true time, come as soon as they are there, and are counted.
#
# A message's rows have one time and lie together in their ring; sorting is stable, so they stay together.

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rootsrv.capture.facts import Kind
from rootsrv.capture.rings import FURTHER_PACKET, ROW_OCTETS

try:
    import numpy
except ImportError:  # the extra rootsrv[capture] is not installed
    numpy = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rows = bytes | memoryview

HOLD_BACK_NS = 50_000_000

_TIME = struct.Struct("<Q")


def merge(waiting: Sequence[Rows], taken: Sequence[Rows], until: int) -> tuple[bytes, list[Rows]]:
    """Rows older than *until* (CLOCK_BOOTTIME, nanoseconds) in order of time, and those that go on waiting.

    *waiting*: what the last call returned as such; *taken*: rows of one ring each.  What waits is not copied.
    """
    ready: list[Rows] = []
    kept: list[Rows] = []
    for rows in (*waiting, *map(_in_order, taken)):
        end = before(rows, until)
        if end:
            ready.append(rows[:end])
        if end < len(rows):
            kept.append(memoryview(rows)[end:])
    return bytes(_in_order(b"".join(ready))), kept


def _in_order(rows: Rows) -> Rows:
    """*rows* by time; those of one time stay as they are."""
    if numpy is None:
        return b"".join(sorted(_each(bytes(rows)), key=_time_of))
    times = _times(rows)
    if not (times[1:] < times[:-1]).any():
        return rows
    table = numpy.frombuffer(rows, numpy.uint8).reshape(-1, ROW_OCTETS)
    return bytes(table[numpy.argsort(times, kind="stable")].tobytes())


def before(rows: Rows, at: int) -> int:
    """How many octets of *rows*, which are in order, are older than *at*."""
    if numpy is None:
        return sum(ROW_OCTETS for row in _each(bytes(rows)) if _time_of(row) < at)
    return int(numpy.searchsorted(_times(rows), numpy.uint64(max(0, at)))) * ROW_OCTETS


def portion(rows: bytes, octets: int) -> int:
    """How many octets of *rows* are so many, or a few more: with all rows of the last query."""
    end = max(ROW_OCTETS, octets - octets % ROW_OCTETS)
    while end < len(rows) and rows[end + 8] in (Kind.CONTINUATION, FURTHER_PACKET):
        end += ROW_OCTETS
    return min(end, len(rows))


def _times(rows: Rows) -> "NDArray[numpy.uint64]":
    return numpy.frombuffer(rows, "<u8")[:: ROW_OCTETS // 8]


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


def items(rows: Rows) -> int:
    """How many queries *rows* are about."""
    if numpy is not None and len(rows):
        kinds = numpy.frombuffer(rows, numpy.uint8)[8::ROW_OCTETS].tobytes()
    else:
        kinds = bytes(rows)[8::ROW_OCTETS]
    return len(kinds) - kinds.count(Kind.CONTINUATION) - kinds.count(FURTHER_PACKET)


def _each(rows: bytes) -> list[bytes]:
    return [rows[at : at + ROW_OCTETS] for at in range(0, len(rows), ROW_OCTETS)]


def _time_of(row: bytes) -> int:
    time: int = _TIME.unpack_from(row)[0]
    return time
