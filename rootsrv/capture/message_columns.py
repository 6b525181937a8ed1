"""What workers tell, into facts and packets by columns: of the messages that are as nearly all are."""
# Theory of operation
# -------------------
# messages.py takes one message apart at a time, in some nine microseconds, on a core that a worker may want.  Here all
# that were taken from a ring are looked at in the same steps, a tenth of that each.  A message that is not of the usual
# form is left to messages.py and pcap.py: what is here never says of anything that it is malformed, nor does it know
# more than one question, one OPT record and one option in it.  tests/capture/test_message_columns.py compares the two.

import itertools
from collections.abc import Callable, Iterator

import numpy
from numpy.typing import NDArray

from rootsrv.answer.question import HEADER_OCTETS
from rootsrv.capture import messages
from rootsrv.capture.facts import (
    CONTINUATION_AT,
    CONTINUATION_OCTETS,
    FACT_OCTETS,
    INLINE_OCTETS,
    Kind,
    OptBits,
)
from rootsrv.capture.messages import CLIENT_SUBNET, HERE, HERE_AT, CapturedMessage
from rootsrv.capture.rings import PACKET
from rootsrv.process.time_slice import give_way
from rootsrv.wire import edns

Integers = NDArray[numpy.intp]
Flags = NDArray[numpy.bool_]
Octets = NDArray[numpy.uint8]
Words = NDArray[numpy.uint64]

_WORDS = FACT_OCTETS // 8
_MOST = HERE + CONTINUATION_OCTETS
"""Octets of a message that has at most one continuation."""

_WIDTH = 192
"""Of a line with such a message, and some zeros behind it."""

_MOST_LABELS = 16
_AT_ONCE = 4096
"""Messages: what waits while a core is busy comes in pieces."""

_ROW = numpy.dtype(
    {
        "names": ["time", "family", "transport", "source_port", "port", "size", "sent", "flags", "counts", "rcode"],
        "formats": ["<u8", "u1", "u1", "<u2", "<u2", "<u2", "<u2", ">u2", ">u8", "u1"],
        "offsets": [0, 9, 10, 12, 14, 48, 50, 52, 54, 67],
        "itemsize": FACT_OCTETS,
    }
)
_NAME = numpy.frombuffer(
    b"".join((b"\0" + b"\xff" * min(size, INLINE_OCTETS)).ljust(56, b"\0") for size in range(256)), numpy.uint64
).reshape(256, 7)
"""By the size of a name: which octets of a row's last seven words are of it; the one before them is another field's."""


class _Told:
    """Messages in rows, as columns; those that have more than one continuation are cut."""

    def __init__(self, table: Octets) -> None:
        self.heads: Integers = numpy.flatnonzero(table[:, 8] != Kind.CONTINUATION)
        self.lines = table[self.heads] if len(self.heads) < len(table) else table
        self.fields = self.lines.view(_ROW).reshape(-1)
        self.sizes: Integers = self.fields["size"].astype(numpy.intp)
        give_way()
        octets = numpy.zeros((len(self.heads), _WIDTH), numpy.uint8)
        octets[:, :HERE] = self.lines[:, HERE_AT:]
        longer = numpy.flatnonzero(self.sizes > HERE)
        if len(longer):
            octets[longer, HERE:_MOST] = table[numpy.minimum(self.heads[longer] + 1, len(table) - 1), CONTINUATION_AT:]
        self.octets = octets
        self.starts: Integers = numpy.arange(len(self.heads)) * _WIDTH

    def two(self, at: Integers, which: Integers | slice = slice(None)) -> Integers:
        """The two octets that stand *at* that place of each message of *which*, as a number."""
        pieces: NDArray[numpy.uint16] = numpy.ndarray((self.octets.size - 1,), ">u2", self.octets.data, 0, (1,))
        found: Integers = pieces[self.starts[which] + at].astype(numpy.intp)
        return found

    def one(self, at: Integers, which: Integers | slice = slice(None)) -> Integers:
        """The octet that stands there."""
        found: Integers = self.octets.reshape(-1)[self.starts[which] + at].astype(numpy.intp)
        return found


def _name_ends(told: _Told) -> Integers:
    """Where the name that begins behind the header ends; 0: it does not, within a usual name's labels."""
    ends = numpy.zeros(len(told.heads), numpy.intp)
    left = numpy.flatnonzero((told.sizes > HEADER_OCTETS) & (told.sizes <= _MOST))
    at = numpy.full(len(left), HEADER_OCTETS)
    for _ in range(_MOST_LABELS):
        give_way()
        size = told.one(at, left)
        at += 1 + size
        over = size == 0
        ends[left[over]] = at[over]
        on = ~over & (size < 64) & (at < told.sizes[left])
        left, at = left[on], at[on]
        if not len(left):
            break
    return ends


def _options(told: _Told, at: Integers, which: Integers) -> tuple[Flags, Integers]:
    """Whether OPT's data from *at* on is nothing, or one option that is well-formed; and its OptBits."""
    size = told.two(at - 2, which)
    code, inner = told.two(at, which), told.two(at + 2, which)
    is_cookie = code == edns.COOKIE
    good = (inner + 4 == size) & (code != edns.ZONEVERSION)
    good &= ~is_cookie | (inner == 8) | (inner >= 16) & (inner <= 40)
    good |= size == 0
    bits = numpy.where(is_cookie, int(OptBits.COOKIE), 0)
    bits[code == CLIENT_SUBNET] = int(OptBits.CLIENT_SUBNET)
    bits[size == 0] = 0
    return good & (at + size == told.sizes[which]), bits


def _extended_rcodes(told: _Told) -> Integers:
    """The upper eight bits of the response's RCODE (messages.py has why)."""
    fields = told.fields
    flags, counts = fields["flags"], fields["counts"]
    lower = flags & 15
    found: Integers = (lower == 7).astype(numpy.intp)
    plain = (lower == 0) & (flags & 0x200 == 0)
    found[plain & (counts == 1 << 48 | 1)] = 1
    only_opt = plain & (counts == 1)
    found[only_opt] = fields["rcode"][only_opt]
    found[fields["sent"] == 0] = 0
    return found


def _in_pieces(rows: bytes) -> Iterator[bytes]:
    """*rows*, so many messages at a time."""
    heads = numpy.flatnonzero(numpy.frombuffer(rows, numpy.uint8)[8::FACT_OCTETS] != Kind.CONTINUATION)
    starts = [*(heads[::_AT_ONCE] * FACT_OCTETS).tolist(), len(rows)]
    for start, end in itertools.pairwise(starts):
        give_way()
        yield rows[start:end]


def facts(rows: bytes) -> bytes:
    """The facts in *rows*, whole messages as workers wrote them."""
    return b"".join(map(_facts, _in_pieces(rows)))


def packets(rows: bytes, rows_of: Callable[[CapturedMessage], bytes]) -> bytes:
    """The packets of *rows*, whole messages as workers wrote them.

    *rows_of*: those of a message that is not of the usual form.
    """
    return b"".join(_packets(piece, rows_of) for piece in _in_pieces(rows))


def _facts(rows: bytes) -> bytes:
    told = _Told(numpy.frombuffer(rows, numpy.uint8).reshape(-1, FACT_OCTETS))
    sizes, fields = told.sizes, told.fields
    header = told.octets[:, :HEADER_OCTETS].view(">u2").astype(numpy.uint64)
    additional = header[:, 5]
    ends = _name_ends(told)
    name_octets = ends - HEADER_OCTETS
    at = ends + 4
    good = (ends > 0) & (name_octets <= INLINE_OCTETS) & (header[:, 2] == 1)
    good &= (header[:, 3] == 0) & (header[:, 4] == 0) & ((additional == 1) | (additional == 0) & (at == sizes))
    opt_words = numpy.zeros(len(sizes), numpy.intp)  # OPT's size and bits, where a fact's fourth word has them
    which = numpy.flatnonzero(good & (additional == 1))
    if len(which):
        record = at[which]
        is_opt = (record + edns.OPT_OCTETS <= sizes[which]) & (told.one(record, which) == 0)
        is_opt &= (told.two(record + 1, which) == edns.TYPE_OPT) & (told.one(record + 6, which) == 0)
        whole, bits = _options(told, record + edns.OPT_OCTETS, which)
        good[which] = is_opt & whole
        bits |= int(OptBits.PRESENT)
        bits[told.one(record + 7, which) & 0x80 != 0] |= int(OptBits.DO)
        opt_words[which] = told.two(record + 3, which) << 16 | bits << 32
    give_way()
    made = numpy.empty((len(sizes), _WORDS), numpy.uint64)
    made[:, 0] = fields["time"]
    made[:, 1] = fields["family"].astype(numpy.intp) << 8 | fields["flags"].astype(numpy.intp) << 32
    made[:, 1] |= fields["sent"].astype(numpy.uint64) << numpy.uint64(48)
    made[:, 2] = header[:, 1] | header[:, 0] << numpy.uint64(16)
    made[:, 2] |= fields["port"].astype(numpy.uint64) << numpy.uint64(32)
    made[:, 2] |= fields["source_port"].astype(numpy.uint64) << numpy.uint64(48)
    made[:, 3] = told.two(ends) | opt_words | name_octets << 40
    made[:, 3] |= sizes.astype(numpy.uint64) << numpy.uint64(48)
    made[:, 4:8] = told.lines.view(numpy.uint64)[:, 2:6]
    made[:, 8] = fields["transport"].astype(numpy.intp) | _extended_rcodes(told) << 32 | 1 << 40
    made[:, 8] |= told.two(ends + 2).astype(numpy.uint64) << numpy.uint64(48)
    give_way()
    names = numpy.ascontiguousarray(told.octets[:, HEADER_OCTETS - 1 : HEADER_OCTETS + INLINE_OCTETS])
    made[:, 9:] = names.view(numpy.uint64) & _NAME[name_octets & 0xFF]
    made[:, 9] |= additional
    return _with_others(told, rows, good, made, lambda message: messages.fact_of(message).to_rows())


def _packets(rows: bytes, rows_of: Callable[[CapturedMessage], bytes]) -> bytes:
    told = _Told(numpy.frombuffer(rows, numpy.uint8).reshape(-1, FACT_OCTETS))
    good = (told.fields["transport"] == 0) & (told.sizes <= _MOST)
    made = numpy.zeros((len(good), 2 * FACT_OCTETS), numpy.uint8)
    made[:, :8] = told.lines[:, :8]
    made[:, 8] = PACKET
    lengths = numpy.empty(len(good), numpy.intp)
    for family, header in ((4, 20), (6, 40)):
        which = numpy.flatnonzero(told.fields["family"] == family)
        if not len(which):
            continue
        give_way()
        fields, lines = told.fields[which], told.lines[which]
        octets = numpy.zeros((len(which), header + 8 + _WIDTH), numpy.uint8)
        sizes = fields["size"].astype(numpy.intp) + 8
        lengths[which] = sizes + header
        if family == 4:
            octets[:, 0], octets[:, 9] = 0x45, 17
            octets[:, 12:16], octets[:, 16:20] = lines[:, 16:20], lines[:, 32:36]
            octets[:, 2:4] = _two_octets(sizes + header)
            total = octets[:, :20].view(">u2").sum(1, dtype=numpy.intp)
            octets[:, 10:12] = _two_octets(0xFFFF - total % 0xFFFF)
        else:
            octets[:, 0], octets[:, 6] = 0x60, 17
            octets[:, 4:6] = _two_octets(sizes)
            octets[:, 8:40] = lines[:, 16:48]
        for place, value in enumerate((fields["source_port"], fields["port"], sizes)):
            octets[:, header + 2 * place : header + 2 * place + 2] = _two_octets(value)
        octets[:, header + 8 :] = told.octets[which]
        give_way()
        made[which, 9] = family
        made[which, 16:FACT_OCTETS] = octets[:, :CONTINUATION_OCTETS]
        rest = octets[:, CONTINUATION_OCTETS : 2 * CONTINUATION_OCTETS]
        made[which, FACT_OCTETS + CONTINUATION_AT : FACT_OCTETS + CONTINUATION_AT + rest.shape[1]] = rest
    made.view("<u4")[:, 3] = lengths
    goes_on = lengths > CONTINUATION_OCTETS
    made[:, FACT_OCTETS : FACT_OCTETS + 8] = told.lines[:, :8]
    made[:, FACT_OCTETS + 8] = Kind.CONTINUATION
    return _with_others(told, rows, good, made.view(numpy.uint64), rows_of, goes_on)


def _two_octets(values: NDArray[numpy.integer]) -> Octets:
    return values.astype(">u2").view(numpy.uint8).reshape(-1, 2)


def _with_others(
    told: _Told,
    rows: bytes,
    good: Flags,
    made: Words,
    rows_of: Callable[[CapturedMessage], bytes],
    goes_on: Flags | None = None,
) -> bytes:
    """What was *made* of the messages that are *good*, and in their order what *rows_of* makes of the others.

    *goes_on*: which of them have a second row, where there are any.
    """
    give_way()
    lines = made.reshape(len(good), -1, _WORDS)
    counts = numpy.ones(len(good), numpy.intp) if goes_on is None else 1 + goes_on
    others: dict[int, bytes] = {}
    if not good.all():
        ends = numpy.append(told.heads[1:], len(rows) // FACT_OCTETS)
        for number in numpy.flatnonzero(~good).tolist():
            piece = rows[told.heads[number] * FACT_OCTETS : ends[number] * FACT_OCTETS]
            others[number] = b"".join(map(rows_of, messages.read(piece)))
            counts[number] = len(others[number]) // FACT_OCTETS
    elif goes_on is None or not goes_on.any():
        return lines[:, 0].tobytes()
    at = numpy.cumsum(counts) - counts
    table = numpy.empty((int(counts.sum()), _WORDS), numpy.uint64)
    table[at[good]] = lines[good, 0]
    if goes_on is not None:
        more = good & goes_on
        table[at[more] + 1] = lines[more, 1]
    for number, octets in others.items():
        table[at[number] : at[number] + counts[number]] = numpy.frombuffer(octets, numpy.uint64).reshape(-1, _WORDS)
    return table.tobytes()
