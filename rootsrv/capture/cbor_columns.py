"""CBOR (RFC 8949) by columns: many maps of integers, and many strings out of rows of facts, each in one step."""

from collections.abc import Sequence
from functools import lru_cache

import numpy
from numpy.typing import NDArray

from rootsrv.capture.facts import CONTINUATION_AT, CONTINUATION_OCTETS, FACT_OCTETS, INLINE_OCTETS
from rootsrv.capture.joining import joined
from rootsrv.process.time_slice import give_way

Octets = NDArray[numpy.uint8]
Integers = NDArray[numpy.intp]
Flags = NDArray[numpy.bool_]
Column = NDArray[numpy.unsignedinteger] | Integers

OCTETS_AT = FACT_OCTETS - INLINE_OCTETS
"""Where a fact's name or raw message begins in its row."""


def head(major: int, number: int) -> bytes:
    """The head of a CBOR item (RFC 8949 §3)."""
    if number < 24:
        return bytes([major << 5 | number])
    octets = next(width for width in (1, 2, 4, 8) if number < 1 << 8 * width)
    return bytes([major << 5 | 24 + octets.bit_length() - 1]) + number.to_bytes(octets)


Piece = bytes | memoryview
"""Of what is put together once, at the end: a block is half a megabyte."""


def array(count: int, items: Piece) -> list[Piece]:
    """An array of *count* items that are CBOR already, one after another; in pieces."""
    return [head(4, count), items]


@lru_cache(256)
def line(fields: tuple[tuple[int, int], ...]) -> tuple[Octets, "numpy.dtype[numpy.void]"]:
    """A map of unsigned integers as octets with zeros for the values, and where these are; *fields*: key, width."""
    octets = bytearray(head(5, len(fields)))
    names, formats, offsets = [], [], []
    for key, width in fields:
        octets += bytes([key, 24 + width.bit_length() - 1])
        names.append(str(key))
        formats.append(f">u{width}")
        offsets.append(len(octets))
        octets += bytes(width)
    layout = {"names": names, "formats": formats, "offsets": offsets, "itemsize": len(octets)}
    return numpy.frombuffer(bytes(octets), numpy.uint8), numpy.dtype(layout)  # type: ignore[call-overload]


def maps(count: int, columns: Sequence[tuple[int, "Column | int", "Flags | None"]]) -> memoryview:
    """*count* maps, one after another; a column is its key, its values, and which of them are there (None: all)."""
    widths = []
    for key, values, _ in columns:
        greatest = values if isinstance(values, int) else int(values.max(initial=0))
        widths.append((key, next(width for width in (1, 2, 4, 8) if greatest < 1 << 8 * width)))
    pattern, layout = line(tuple(widths))
    matrix = numpy.empty((count, len(pattern)), numpy.uint8)
    matrix[:] = pattern
    lines = matrix.view(layout).reshape(-1)
    there: Flags | None = None
    for (key, values, present), (_, width) in zip(columns, widths, strict=True):
        lines[str(key)] = values
        give_way()
        if present is None or present.all():
            continue
        if there is None:
            there = numpy.ones(matrix.shape, numpy.bool_)
        assert layout.fields is not None
        start = layout.fields[str(key)][1]
        there[:, start - 2 : start + width] &= present[:, None]
        matrix[:, 0] -= ~present
    written: Octets = matrix if there is None else matrix[there]
    return written.data


def continuations(sizes: Integers) -> Integers:
    """How many continuations follow rows with so many octets of name or raw message."""
    return numpy.maximum(0, -(-(sizes - INLINE_OCTETS) // CONTINUATION_OCTETS))


def spread(starts: Integers, counts: Integers) -> Integers:
    """starts[0], starts[0] + 1, … counts[0] of them, then from starts[1] on."""
    before = numpy.cumsum(counts) - counts
    return numpy.repeat(starts - before, counts) + numpy.arange(int(counts.sum()))


def strings(octets: Octets, heads: Integers, sizes: Integers, before: Octets) -> bytes:
    """Name or raw message of each of the facts at *heads*, with a line of *before* in front of each."""
    give_way()
    room, longest = before.shape[1], int(sizes.max())
    if longest <= INLINE_OCTETS:
        matrix = octets[heads, OCTETS_AT - room : OCTETS_AT + longest]
        matrix[:, :room] = before
        return joined(matrix, room + sizes).tobytes()
    counts = 1 + continuations(sizes)
    matrix = octets[spread(heads, counts), CONTINUATION_AT:]
    at = numpy.cumsum(counts) - counts
    own = OCTETS_AT - CONTINUATION_AT
    # A continuation's octets: what is left of the message, at most all of it.
    number = numpy.arange(len(matrix)) - numpy.repeat(at, counts)
    first = numpy.zeros(len(matrix), numpy.intp)
    last = numpy.repeat(sizes, counts) - INLINE_OCTETS - CONTINUATION_OCTETS * (number - 1)
    first[at], last[at] = own - room, own + numpy.minimum(sizes, INLINE_OCTETS)
    matrix[at, own - room : own] = before
    places = numpy.arange(matrix.shape[1])
    written: Octets = matrix[(places >= first[:, None]) & (places < last[:, None])]
    return written.tobytes()
