"""What workers tell, into facts and packets by columns: of the messages that are as nearly all are."""
# Theory of operation
# -------------------
# messages.py takes one message apart at a time, in five to ten microseconds, on a core that a worker may want.  Here
# all that were taken from a ring are looked at in the same steps, a tenth of that each.  A message that is not of the
# usual form is left to messages.py and pcap.py: what is here knows no more than one question, one OPT record and
# _MOST_OPTIONS options in it, and says only of what is cut off in its question that it is malformed, or of a header
# that no query has.  tests/capture/test_message_columns.py compares the two.
#
# Whoever floods chooses what he sends, and what is taken apart one by one costs others their room in the rings: so long
# names and what is plainly malformed are among the usual ones.

import itertools
from collections.abc import Callable, Iterator

import numpy
from numpy.typing import NDArray

from rootsrv.answer.question import HEADER_OCTETS
from rootsrv.capture import messages
from rootsrv.capture.cbor_columns import continuations
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
_CONTINUATIONS = 1, 3
"""Of a message that is looked at: as nearly all have at most, and as the longest name has with an OPT record."""

_BEHIND = 20
"""Zeros behind a message in its line."""

_MOST_LABELS = 128
"""A name with so many is too long."""

_MOST_OPTIONS = 4
_QR, _OPCODE = numpy.uint64(0x8000), numpy.uint64(0x7800)  # of a header's second word
_LONGEST_NAME = 255
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
    b"".join((b"\0" + b"\xff" * size).ljust(56, b"\0") for size in range(INLINE_OCTETS + 1)), numpy.uint64
).reshape(-1, 7)
"""By the size of a name: which octets of a row's last seven words are of it; the one before them is another field's."""


class _Told:
    """Messages in rows, as columns; those that are longer than *most* are cut."""

    def __init__(self, table: Octets) -> None:
        self.heads: Integers = numpy.flatnonzero(table[:, 8] != Kind.CONTINUATION)
        self.lines = table[self.heads] if len(self.heads) < len(table) else table
        self.fields = self.lines.view(_ROW).reshape(-1)
        self.sizes: Integers = self.fields["size"].astype(numpy.intp)
        give_way()
        few, many = _CONTINUATIONS
        continuations = few if int(self.sizes.max(initial=0)) <= HERE + few * CONTINUATION_OCTETS else many
        self.most = HERE + continuations * CONTINUATION_OCTETS
        self.width = self.most + _BEHIND
        octets = numpy.zeros((len(self.heads), self.width), numpy.uint8)
        octets[:, :HERE] = self.lines[:, HERE_AT:]
        for number in range(continuations):
            at = HERE + number * CONTINUATION_OCTETS
            longer = numpy.flatnonzero(self.sizes > at)
            if not len(longer):
                break
            rows = numpy.minimum(self.heads[longer] + 1 + number, len(table) - 1)
            octets[longer, at : at + CONTINUATION_OCTETS] = table[rows, CONTINUATION_AT:]
        self.octets = octets
        self.starts: Integers = numpy.arange(len(self.heads)) * self.width

    def two(self, at: Integers, which: Integers | slice = slice(None)) -> Integers:
        """The two octets that stand *at* that place of each message of *which*, as a number."""
        pieces: NDArray[numpy.uint16] = numpy.ndarray((self.octets.size - 1,), ">u2", self.octets.data, 0, (1,))
        found: Integers = pieces[self.starts[which] + at].astype(numpy.intp)
        return found

    def one(self, at: Integers, which: Integers | slice = slice(None)) -> Integers:
        """The octet that stands there."""
        found: Integers = self.octets.reshape(-1)[self.starts[which] + at].astype(numpy.intp)
        return found


def _name_ends(told: _Told) -> tuple[Integers, Flags]:
    """Where the name that begins behind the header ends, and whether it cannot; 0 and not: nobody has looked there."""
    ends = numpy.zeros(len(told.heads), numpy.intp)
    endless = numpy.zeros(len(told.heads), numpy.bool_)
    left = numpy.flatnonzero((told.sizes > HEADER_OCTETS) & (told.sizes <= told.most))
    at = numpy.full(len(left), HEADER_OCTETS)
    for _ in range(_MOST_LABELS):
        give_way()
        size = told.one(at, left)
        at += 1 + size
        over = size == 0
        ends[left[over]] = at[over]
        on = (size < 64) & (at < told.sizes[left])
        endless[left[~(on | over)]] = True
        on &= ~over
        left, at = left[on], at[on]
        if not len(left):
            break
    endless[left] = True
    return ends, endless


def _options(told: _Told, at: Integers, which: Integers) -> tuple[Flags, Integers]:
    """Whether OPT's data from *at* on are so many options, or none, that are well-formed; and their OptBits."""
    end = at + told.two(at - 2, which)
    good = end == told.sizes[which]
    bits = numpy.zeros(len(which), numpy.intp)
    left = numpy.flatnonzero(good & (at < end))
    at = at[left]
    for _ in range(_MOST_OPTIONS):
        if not len(left):
            break
        code, size = told.two(at, which[left]), told.two(at + 2, which[left])
        at = at + 4 + size
        is_cookie = code == edns.COOKIE
        fits = (at <= end[left]) & (code != edns.ZONEVERSION)
        fits &= ~is_cookie | (size == 8) | (size >= 16) & (size <= 40)
        good[left[~fits]] = False
        bits[left[is_cookie]] |= int(OptBits.COOKIE)
        bits[left[code == CLIENT_SUBNET]] |= int(OptBits.CLIENT_SUBNET)
        on = fits & (at < end[left])
        left, at = left[on], at[on]
    good[left] = False
    return good, bits


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
    ends, endless = _name_ends(told)
    asks_nothing = (header[:, 2] == 0) & (sizes >= HEADER_OCTETS)
    ends[asks_nothing] = HEADER_OCTETS
    name_octets = ends - HEADER_OCTETS
    at = numpy.where(asks_nothing, HEADER_OCTETS, ends + 4)
    malformed = (sizes < HEADER_OCTETS) | (header[:, 2] > 1) | (header[:, 3] > 0) | endless & ~asks_nothing
    malformed |= header[:, 1] & _QR != 0
    malformed |= (ends > 0) & ((name_octets > _LONGEST_NAME) | (at > sizes))
    good = (ends > 0) & (sizes <= told.most) & (header[:, 4] == 0) & ~malformed
    good &= (additional == 1) | (additional == 0) & (at == sizes)
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
    has_cookie = opt_words & int(OptBits.COOKIE) << 32 != 0
    malformed |= good & asks_nothing & (header[:, 1] & _OPCODE == 0) & ~has_cookie
    malformed &= sizes <= told.most
    good |= malformed
    # What a row ends with, and its continuations go on with: the name, or the whole message.
    long = numpy.where(malformed, sizes, name_octets)
    counts = numpy.where(good, 1 + continuations(long), 1)
    made = numpy.zeros((len(sizes), int(counts.max(initial=1)), _WORDS), numpy.uint64)
    first = made[:, 0]
    first[:, 0] = fields["time"]
    first[:, 1] = fields["family"].astype(numpy.intp) << 8 | fields["flags"].astype(numpy.intp) << 32
    first[:, 1] |= fields["sent"].astype(numpy.uint64) << numpy.uint64(48)
    first[:, 2] = header[:, 1] | header[:, 0] << numpy.uint64(16)
    first[:, 2] |= fields["port"].astype(numpy.uint64) << numpy.uint64(32)
    first[:, 2] |= fields["source_port"].astype(numpy.uint64) << numpy.uint64(48)
    first[:, 3] = told.two(ends) | opt_words | name_octets << 40
    first[asks_nothing, 3] = opt_words[asks_nothing]
    first[malformed, 3] = 0
    first[:, 3] |= sizes.astype(numpy.uint64) << numpy.uint64(48)
    first[:, 4:8] = told.lines.view(numpy.uint64)[:, 2:6]
    first[:, 8] = told.two(ends + 2).astype(numpy.uint64) << numpy.uint64(48) | numpy.uint64(1 << 40)
    first[asks_nothing | malformed, 8] = 0
    first[:, 8] |= (fields["transport"].astype(numpy.intp) | _extended_rcodes(told) << 32).astype(numpy.uint64)
    give_way()
    names = numpy.ascontiguousarray(told.octets[:, HEADER_OCTETS - 1 : HEADER_OCTETS + INLINE_OCTETS])
    first[:, 9:] = names.view(numpy.uint64) & _NAME[numpy.clip(long, 0, INLINE_OCTETS)]
    first[:, 9] |= additional
    which = numpy.flatnonzero(malformed)
    if len(which):
        first[which, 1] |= numpy.uint64(Kind.MALFORMED)
        raw = numpy.zeros((len(which), 1 + INLINE_OCTETS), numpy.uint8)
        raw[:, 1:] = told.octets[which, :INLINE_OCTETS]
        first[which, 9:] = raw.view(numpy.uint64) & _NAME[numpy.minimum(sizes[which], INLINE_OCTETS)]
    column = numpy.arange(CONTINUATION_OCTETS)
    for number, (begin, those) in itertools.product(
        range(1, made.shape[1]), ((HEADER_OCTETS, ~malformed), (0, malformed))
    ):
        give_way()
        which = numpy.flatnonzero(those & (counts > number))
        gone = INLINE_OCTETS + (number - 1) * CONTINUATION_OCTETS
        pieces = numpy.zeros((len(which), CONTINUATION_OCTETS), numpy.uint8)
        found = told.octets[which, begin + gone : begin + gone + CONTINUATION_OCTETS]
        pieces[:, : found.shape[1]] = found
        pieces *= column < (long[which] - gone)[:, None]
        made[which, number, 0] = fields["time"][which]
        made[which, number, 1] = Kind.CONTINUATION
        made[which, number, CONTINUATION_AT // 8 :] = pieces.view(numpy.uint64)
    return _with_others(told, rows, good, made, lambda message: messages.fact_of(message).to_rows(), counts)


def _packets(rows: bytes, rows_of: Callable[[CapturedMessage], bytes]) -> bytes:
    told = _Told(numpy.frombuffer(rows, numpy.uint8).reshape(-1, FACT_OCTETS))
    good = (told.fields["transport"] == 0) & (told.sizes <= told.most)
    parts = -(-(told.most + 48) // CONTINUATION_OCTETS)
    made = numpy.zeros((len(good), parts, FACT_OCTETS), numpy.uint8)
    made[:, :, :8] = told.lines[:, None, :8]
    made[:, 0, 8] = PACKET
    made[:, 1:, 8] = Kind.CONTINUATION
    lengths = numpy.empty(len(good), numpy.intp)
    for family, header in ((4, 20), (6, 40)):
        which = numpy.flatnonzero(told.fields["family"] == family)
        if not len(which):
            continue
        give_way()
        fields, lines = told.fields[which], told.lines[which]
        octets = numpy.zeros((len(which), parts * CONTINUATION_OCTETS + _BEHIND), numpy.uint8)
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
        octets[:, header + 8 : header + 8 + told.most] = told.octets[which, : told.most]
        give_way()
        made[which, 0, 9] = family
        for number in range(parts):
            piece = octets[:, number * CONTINUATION_OCTETS : (number + 1) * CONTINUATION_OCTETS]
            made[which, number, CONTINUATION_AT:] = piece
    made.view("<u4")[:, 0, 3] = lengths
    counts = -(-lengths // CONTINUATION_OCTETS)
    return _with_others(told, rows, good, made.view(numpy.uint64), rows_of, counts)


def _two_octets(values: NDArray[numpy.integer]) -> Octets:
    return values.astype(">u2").view(numpy.uint8).reshape(-1, 2)


def _with_others(
    told: _Told,
    rows: bytes,
    good: Flags,
    made: Words,
    rows_of: Callable[[CapturedMessage], bytes],
    counts: Integers,
) -> bytes:
    """What was *made* of the messages that are *good*, and in their order what *rows_of* makes of the others.

    *counts*: how many of the rows made each of them has.
    """
    give_way()
    others: dict[int, bytes] = {}
    if not good.all():
        ends = numpy.append(told.heads[1:], len(rows) // FACT_OCTETS)
        for number in numpy.flatnonzero(~good).tolist():
            piece = rows[told.heads[number] * FACT_OCTETS : ends[number] * FACT_OCTETS]
            others[number] = b"".join(map(rows_of, messages.read(piece)))
            counts[number] = len(others[number]) // FACT_OCTETS
    elif int(counts.max(initial=1)) == 1:
        return made[:, 0].tobytes()
    at = numpy.cumsum(counts) - counts
    table = numpy.empty((int(counts.sum()), _WORDS), numpy.uint64)
    table[at[good]] = made[good, 0]
    for part in range(1, made.shape[1]):
        more = good & (counts > part)
        table[at[more] + part] = made[more, part]
    for number, octets in others.items():
        table[at[number] : at[number] + counts[number]] = numpy.frombuffer(octets, numpy.uint64).reshape(-1, _WORDS)
    return table.tobytes()
