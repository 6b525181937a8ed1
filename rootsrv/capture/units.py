"""From a CPU's ring to rows: the kernel writes units of 16 octets, as few as a row needs; readers have rows of 128."""
# Theory of operation
# -------------------
# What a row costs the kernel is the lines of the cache that it begins, so it writes no more than there is (capture.h in
# rootsrv/fastpath/bpf has the theory):
#
#     a fact      32 octets, the first fields of facts.py | addresses: 8 or 32 octets | name
#     a packet    time | kind, family, octets | the packet, which may be as large as MAX_UNITS
#
# An octet for each unit says whether a row begins with it.  A row that begins before the ring's end goes on beyond it,
# where there is room for the longest; what is at the ring's beginning is then not looked at as far as that row would
# have come.  So wherever a row begins, what it may hold lies behind it in one piece, and rows are made of all by the
# same steps: by numpy in columns, without it one by one.
#
# A piece of so many octets is picked by one index, as an item that numpy takes as it is ("V64"), at a tenth of what its
# octets would cost one by one; items lie a unit apart, and overlap.

from typing import TYPE_CHECKING

from rootsrv.capture.facts import (
    ARCOUNT_AT,
    CONTINUATION_AT,
    CONTINUATION_OCTETS,
    FACT_OCTETS,
    INLINE_OCTETS,
    NAME_OCTETS_AT,
    Kind,
    OptBits,
)
from rootsrv.capture.rings import BEYOND_UNITS, UNIT_OCTETS

try:
    import numpy
except ImportError:  # the extra rootsrv[capture] is not installed
    numpy = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN_UNITS = 8
"""Behind a row, which are stored with it (CAPTURE_MARGIN)."""

_PACKET = 3  # rings.PACKET
_PACKET_HEAD = 16
_FACT_HEAD = 32
_ADDRESSES = {4: 8, 6: 32}
_MAX_CONTINUATIONS = 4
_MAX_UNITS = 36  # of 512 octets of query, and IPv6 and UDP before it
_OPT_BITS_AT = 28
_BEHIND = bytes((0, 0, 0, 0, 0, 1, 1, 0))
"""What is behind the addresses in every row of the kernel: UDP, one question of the class IN (facts.FIELDS)."""


_NAME_PIECE = FACT_OCTETS - ARCOUNT_AT


def rows(memory: memoryview, units: int, first: int, count: int) -> memoryview:
    """The rows in *count* units from number *first* on of a ring of *units* with its *memory* (rings.py)."""
    octets, begins = _in_one_piece(memory, units, first % units, count)
    if numpy is None:
        return memoryview(b"".join(_row(octets, at * UNIT_OCTETS) for at, begun in enumerate(begins) if not begun))
    where = numpy.flatnonzero(numpy.frombuffer(begins, numpy.uint8) == 0)
    return _columns(octets, where).data.cast("B") if len(where) else memoryview(b"")


def _in_one_piece(memory: memoryview, units: int, first: int, count: int) -> tuple[bytes, bytes]:
    """A copy of the units, with as many behind them as a row may have, and of what tells which of them begin rows.

    To copy them in order is as fast as memory is; picked from there rows are in the cache.
    """
    flags = memory[(units + BEYOND_UNITS) * UNIT_OCTETS :]
    end = first + count
    begins = bytes(flags[first : min(end, units)])
    pieces = [memory[first * UNIT_OCTETS : min(end, units) * UNIT_OCTETS]]
    if end > units:
        last = first + max(0, begins.rfind(b"\0"))
        goes_on = max(0, last + _units_of(memory[last * UNIT_OCTETS : (last + 4) * UNIT_OCTETS]) - units)
        begins += b"\1" * goes_on + bytes(flags[goes_on : end - units])
        pieces = [memory[first * UNIT_OCTETS : (units + goes_on) * UNIT_OCTETS]]
        pieces.append(memory[goes_on * UNIT_OCTETS : max(goes_on, end - units) * UNIT_OCTETS])
    return b"".join([*pieces, bytes(_MAX_UNITS * UNIT_OCTETS)]), begins


def _units_of(row: memoryview) -> int:
    """How many units the row takes that begins so."""
    if row[8] == _PACKET:
        octets = _PACKET_HEAD + int.from_bytes(row[12:16], "little")
    else:
        octets = _FACT_HEAD + _ADDRESSES.get(row[9], 8) + row[NAME_OCTETS_AT]
    return min(-(-octets // UNIT_OCTETS), _MAX_UNITS)


# ── one by one ──


def _row(units: bytes, at: int) -> bytes:
    """The row that begins at octet *at*, with its continuations."""
    found = units[at : at + _MAX_UNITS * UNIT_OCTETS]
    if found[8] == _PACKET:
        row, rest = found[:FACT_OCTETS], found[FACT_OCTETS : _PACKET_HEAD + int.from_bytes(found[12:16], "little")]
    else:
        names = _FACT_HEAD + _ADDRESSES.get(found[9], 8)
        half = (names - _FACT_HEAD) // 2
        name = found[names : names + found[NAME_OCTETS_AT]]
        row = found[:_FACT_HEAD]
        for place in (_FACT_HEAD, _FACT_HEAD + half):
            row += found[place : place + half].ljust(16, b"\0")
        row += _BEHIND + bytes((found[_OPT_BITS_AT] & OptBits.PRESENT,))
        row = (row + name[:INLINE_OCTETS]).ljust(FACT_OCTETS, b"\0")
        rest = name[INLINE_OCTETS:]
    head = (found[:8] + bytes((Kind.CONTINUATION,))).ljust(CONTINUATION_AT, b"\0")
    pieces = (rest[at : at + CONTINUATION_OCTETS] for at in range(0, len(rest), CONTINUATION_OCTETS))
    return row + b"".join(head + piece.ljust(CONTINUATION_OCTETS, b"\0") for piece in pieces)


# ── in columns ──

if numpy is not None:
    _WORDS = FACT_OCTETS // 8
    _BEHIND_WORD = numpy.uint64(int.from_bytes(_BEHIND, "little"))
    _LOW = numpy.uint64(0xFFFFFFFF)
    _HALF = numpy.uint64(32)
    _HERE = numpy.frombuffer(
        b"".join((b"\0" + b"\xff" * min(size, INLINE_OCTETS)).ljust(_NAME_PIECE, b"\0") for size in range(256)),
        f"V{_NAME_PIECE}",
    )
    """By the size of a name: which octets of the first row's end are of it."""


def _columns(units: bytes, where: "NDArray[numpy.intp]") -> "NDArray[numpy.uint64]":
    """The rows that begin with the units *where*, shape (n, 16)."""
    is_packet = numpy.frombuffer(units, numpy.uint8)[8::UNIT_OCTETS][where] == _PACKET
    packets = int(numpy.count_nonzero(is_packet))
    if 0 < packets < len(where):  # somebody has just changed his mind
        runs = numpy.split(where, numpy.flatnonzero(is_packet[1:] != is_packet[:-1]) + 1)
        return numpy.concatenate([_columns(units, run) for run in runs])
    if packets:
        made = _pieces(units, FACT_OCTETS, UNIT_OCTETS)[where].view(numpy.uint64).reshape(-1, _WORDS)
        sizes = (made[:, 1] >> _HALF).astype(numpy.intp)
        return _continued(units, made, where * UNIT_OCTETS + _PACKET_HEAD, sizes, CONTINUATION_OCTETS)
    made, names = _facts(units, where)
    name_octets = made.view(numpy.uint8)[:, NAME_OCTETS_AT]
    if name_octets.max() <= INLINE_OCTETS:
        return made
    return _continued(units, made, names * 8 + 8, name_octets.astype(numpy.intp), INLINE_OCTETS)


def _pieces(units: bytes, octets: int, apart: int, first: int = 0) -> "NDArray[numpy.void]":
    """All pieces of so many *octets*, each so far *apart* from the one before it."""
    return numpy.ndarray(((len(units) - first - octets) // apart + 1,), f"V{octets}", units, first, (apart,))


def _facts(units: bytes, where: "NDArray[numpy.intp]") -> "tuple[NDArray[numpy.uint64], NDArray[numpy.intp]]":
    """The first rows of facts, shape (n, 16), and the words before their names."""
    heads = _pieces(units, 64, UNIT_OCTETS)[where].view(numpy.uint64).reshape(-1, 8)
    made = numpy.empty((len(where), _WORDS), numpy.uint64)
    six = heads.view(numpy.uint8)[:, 9] == 6
    made[:, :8] = heads
    four = numpy.flatnonzero(~six)
    both = heads[four, 4]
    made[four, 4] = both & _LOW
    made[four, 6] = both >> _HALF
    made[four, 5] = made[four, 7] = 0
    made[:, 8] = _BEHIND_WORD
    octets = made.view(numpy.uint8)
    # With the octet before it, where a row has arcount; names begin with a whole word.
    names = where * 2
    names += numpy.where(six, 7, 4)
    piece = _pieces(units, _NAME_PIECE, 8, 7)[names].view(numpy.uint64).reshape(-1, 7)
    here = _HERE[octets[:, NAME_OCTETS_AT]].view(numpy.uint64).reshape(-1, 7)
    numpy.bitwise_and(piece, here, out=made[:, 9:])
    octets[:, ARCOUNT_AT] = octets[:, _OPT_BITS_AT] & numpy.uint8(OptBits.PRESENT)
    return made, names


def _continued(
    units: bytes,
    made: "NDArray[numpy.uint64]",
    starts: "NDArray[numpy.intp]",
    sizes: "NDArray[numpy.intp]",
    here: int,
) -> "NDArray[numpy.uint64]":
    """*made*, with the continuations of those that have more than *here* of the *sizes* octets from *starts* on."""
    longer = numpy.flatnonzero(sizes > here)
    if not len(longer):
        return made
    more = numpy.zeros(len(made), numpy.intp)
    sizes = numpy.minimum(sizes[longer] - here, _MAX_CONTINUATIONS * CONTINUATION_OCTETS)
    more[longer] = -(-sizes // CONTINUATION_OCTETS)
    heads = numpy.arange(len(made)) + numpy.cumsum(more) - more
    table = numpy.zeros((len(made) + int(more.sum()), _WORDS), numpy.uint64)
    whole = f"V{FACT_OCTETS}"
    table.view(whole).reshape(-1)[heads] = made.view(whole).reshape(-1)
    octets = table.view(numpy.uint8)
    pieces = _pieces(units, CONTINUATION_OCTETS, 1)
    for number in range(1, int(more.max()) + 1):
        rest = sizes - (number - 1) * CONTINUATION_OCTETS
        some = longer[rest > 0]
        piece = pieces[starts[some] + here + (number - 1) * CONTINUATION_OCTETS].view(numpy.uint8)
        piece = piece.reshape(-1, CONTINUATION_OCTETS)
        piece *= numpy.arange(CONTINUATION_OCTETS) < rest[rest > 0, None]
        at = heads[some] + number
        octets[at, CONTINUATION_AT:] = piece
        octets[at, 8] = Kind.CONTINUATION
        table[at, 0] = made[some, 0]
    return table
