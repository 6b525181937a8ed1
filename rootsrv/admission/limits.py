"""Rate limits: GCRA over prefixes of the source, in one table of cells that kernel and workers share."""
# Theory of operation
# -------------------
# GCRA (ITU-T I.371, the virtual scheduling algorithm): a key has one number, its theoretical arrival time (TAT).
# Something that costs c units at r units a second conforms when max(TAT, now) + c / r ≤ now + burst; then that is the
# new TAT.  What does not conform is not charged: whoever floods keeps its rate, and the rest of it is limited.
#
# A cell is 64 bits: a TAT in nanoseconds on CLOCK_BOOTTIME.  The cells stand in two rows; a key has one in each, by a
# keyed hash that nobody outside can know.  Its TAT is the *lesser* of the two: other keys that fall into a cell only
# raise it, so a key is limited only where it is over its rate, or meets heavy ones in both rows.  A charge raises each
# cell to the new TAT, and never lowers one.  So without a collision in one row no key within its rate is ever limited.
#
# A source has four prefixes, each of which has cells:
#
#   IPv4   /32 /24 /20 /18      IPv6   /64 /56 /48 /32
#
# The widest is hashed by SipHash-2-4 under a key of this instance; a narrower one's hash follows from that of the one
# around it and the bits between, by a product and a shift.  Nobody who does not know the former knows the latter; and
# of four SipHashes, which were most of what a new source costs a worker, one is left.
#
# It is limited when one of them is over; then none is charged, so a flood takes nothing from its neighbours.
#
# Order: all eight cells are read, narrowest prefix first, row 0 before row 1; then it is decided; then, if it conforms,
# they are written in the same order.  The kernel writes by compare-and-swap, and the loser does nothing: another CPU
# has charged the cell in between, and one charge is lost there.  Python has no such instruction: a worker compares and
# then stores, and whoever stores between the two loses its charge.  Either way a race can only forget, never invent: no
# client is limited by one.
#
# Kernel and workers write the same cells, and a worker reads what strangers send.  So a cell beyond now + burst, which
# nobody can have earned, counts as now + burst and is set to that: whatever a worker writes, it is over after a burst.
# Those that no query meets are set back by who looks how full the cells are: else they would count as over for ever.
#
# The kernel does the same in fastpath/bpf/limits.h; tests/fastpath/test_admission.py feeds both.

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from siphash24 import siphash24

from rootsrv.config.limits import LimitsConfig, Mode
from rootsrv.process.shared_memory import make_shared, map_shared
from rootsrv.wire.codes import NXDOMAIN

ROW_CELLS = 1 << 20
ROWS = 2
CELLS = ROWS * ROW_CELLS
CELLS_OCTETS = 8 * CELLS
"""16 MiB."""

LEVELS = {4: (32, 24, 20, 18), 16: (64, 56, 48, 32)}
"""Prefix lengths by octets of an address, narrowest first."""

QUERIES, CONNECTIONS, HANDSHAKES = 0, 1, 2
"""What is charged: cost units, new TCP connections, microseconds of TLS handshakes; each has cells of its own."""

MOST_UNITS = 4
"""What one query costs at most."""

LARGE_OCTETS = 1100
"""A response of so many octets is a large one; a signed nxdomain of the root has some 1,050, and its own cost."""

OCCUPANCY_LIMIT = 0.05
"""The share of cells over their limit above which nobody is limited: here 1 innocent key in 100 would be
(4 prefixes × 0.05²).  Half of it ends that."""

_SAMPLED_CELLS = 8192
_SWEPT_CELLS = CELLS // 16
"""Looked at each time, after one was found that nobody can have earned: at worst some 15 ms."""

_PIECE_CELLS = 4096
_WORD = (1 << 64) - 1
_STEP, _FACTOR = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, so that nothing is lost; as in fastpath/bpf/limits.h
_STEPS = tuple(_STEP * (bits + 1) & _WORD for bits in range(256))
_SECOND = 1_000_000_000
_MAX_REMEMBERED = 65_536

# The question section of `. DNSKEY IN`.
_DNSKEY_QUESTION = b"\0\0\x30\0\1"

Cells = memoryview
"""CELLS words of 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """What kernel and workers must know of the limits."""

    mode: Mode = "off"
    """What is in force: "dry-run" in place of "on" while too many cells are over their limit."""

    burst_ns: int = 2 * _SECOND
    intervals: tuple[tuple[tuple[int, ...], ...], ...] = ()
    """By kind of charge (QUERIES …), family and level: nanoseconds that one unit costs."""

    key: bytes = bytes(16)
    """Of the hash."""

    @classmethod
    def of(cls, config: LimitsConfig, key: bytes, *, falls_back: bool = False) -> "LimitSettings":
        """What *config* says, hashed with *key* (16 octets); *falls_back*: "on" is "dry-run" for now."""
        rates = (config.rate, config.connections, config.handshake_milliseconds * 1000 / _HANDSHAKE_UNIT)
        multipliers = (config.ipv4_multipliers, config.ipv6_multipliers)
        burst_ns = round(config.burst_seconds * _SECOND)

        def interval(rate: float) -> int:
            return min(burst_ns, max(1, int(_SECOND / rate)))

        return cls(
            mode="dry-run" if falls_back and config.mode == "on" else config.mode,
            burst_ns=burst_ns,
            intervals=tuple(
                tuple(tuple(interval(rate * each) for each in family) for family in multipliers) for rate in rates
            ),
            key=key,
        )

    def to_document(self) -> dict[str, Any]:
        """For a worker, as JSON has it."""
        return {"mode": self.mode, "burst_ns": self.burst_ns, "intervals": self.intervals, "key": self.key.hex()}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "LimitSettings":
        """Inverse of `to_document`."""
        intervals = tuple(tuple(map(tuple, families)) for families in document["intervals"])
        return cls(
            mode=document["mode"], burst_ns=document["burst_ns"], intervals=intervals,
            key=bytes.fromhex(document["key"]),
        )  # fmt: skip


_HANDSHAKE_UNIT = 64
"""Microseconds: with one, a wide prefix's interval would be a few nanoseconds, and rounded."""


def cost_of(request: bytes, response: bytes) -> int:
    """What a query costs in units, by the *response* it would get."""
    if len(response) >= LARGE_OCTETS or request[12:17] == _DNSKEY_QUESTION:
        return MOST_UNITS
    return 2 if response[3] & 15 == NXDOMAIN else 1


def cells_in_memory(octets: bytearray | None = None) -> Cells:
    """Cells of this process alone: for tests, and for a host where there are none to be shared."""
    return memoryview(octets if octets is not None else bytearray(CELLS_OCTETS)).cast("Q")


def make_shared_cells() -> int:
    """A descriptor of memory for cells, without a BPF map; OSError if it cannot be had."""
    return make_shared("rootsrv-limits", CELLS_OCTETS)


def map_cells(descriptor: int) -> Cells:
    """Map the cells of a descriptor (`make_shared_cells`, or a mappable BPF array), which is not kept.  OSError."""
    return map_shared(descriptor, CELLS_OCTETS).cast("Q")


def hashes_of(source: bytes, kind: int, key: bytes) -> tuple[int, int, int, int]:
    """The hashes of the prefixes of a packed address, narrowest first as in LEVELS."""
    return _narrowed(source, _widest(_wide_message(source, kind), key))


def _wide_message(source: bytes, kind: int) -> bytes:
    """What is hashed of a source's widest prefix: its octets, the others zero, then its length and the kind."""
    if len(source) == 4:
        return b"%b%c\0\x12%c\0" % (source[:2], source[2] & 0xC0, kind)
    return b"%b\0\0\0\0\x20%c" % (source[:4], kind)


def _widest(message: bytes, key: bytes) -> int:
    hashed: int = siphash24(message, key=key).intdigest()
    return hashed


def _narrowed(source: bytes, widest: int) -> tuple[int, int, int, int]:
    """Each prefix's hash follows from that of the one around it and the bits between the two: one product each."""
    if len(source) == 4:
        octet = source[2]
        bits = _STEPS[octet >> 4 & 3], _STEPS[octet & 15], _STEPS[source[3]]
    else:
        bits = (source[5] << 8 | source[4]) * _STEP + _STEP & _WORD, _STEPS[source[6]], _STEPS[source[7]]
    second = (widest ^ bits[0]) * _FACTOR & _WORD
    second ^= second >> 32
    third = (second ^ bits[1]) * _FACTOR & _WORD
    third ^= third >> 32
    narrowest = (third ^ bits[2]) * _FACTOR & _WORD
    return narrowest ^ narrowest >> 32, third, second, widest


def places_of(hashed: int) -> tuple[int, int]:
    """The numbers of a key's two cells."""
    return hashed & (ROW_CELLS - 1), ROW_CELLS + (hashed >> 32 & (ROW_CELLS - 1))


class Limiter:
    """Says whether a source is over its rate, and charges it if not.  The time is CLOCK_BOOTTIME in nanoseconds."""

    def __init__(self, cells: Cells, settings: LimitSettings) -> None:
        self._cells = cells
        self._remembered: dict[tuple[bytes, int], tuple[tuple[int, int, int], ...]] = {}
        self._widest: dict[bytes, int] = {}
        self.change(settings)

    def change(self, settings: LimitSettings) -> None:
        """From now on by *settings*; what was charged stays charged."""
        self.settings = settings
        self._remembered.clear()
        self._widest.clear()
        self._burst = settings.burst_ns
        self._intervals = settings.intervals

    def is_over(self, source: bytes, now: int, units: int = 1, kind: int = QUERIES) -> bool:
        """Whether *units* more from the packed address *source* are too much; if not, they are charged."""
        source = source[:8]  # of an IPv6 address nothing else counts
        found = self._remembered.get((source, kind))
        if found is None:
            found = self._find(source, kind)
        cells, limit = self._cells, now + self._burst
        charged, over = [], False
        for first, second, interval in found:
            one, other = cells[first], cells[second]
            if one > limit:
                cells[first] = one = limit
            if other > limit:
                cells[second] = other = limit
            tat = one if one < other else other
            tat = (tat if tat > now else now) + units * interval
            if tat > limit:
                over = True
            charged.append((first, second, one, other, tat))
        if over:
            return True
        for first, second, one, other, tat in charged:
            if one < tat and cells[first] == one:
                cells[first] = tat
            if other < tat and cells[second] == other:
                cells[second] = tat
        return False

    def is_over_for_handshake(self, source: bytes, now: int, microseconds: int) -> bool:
        """`is_over` for a TLS handshake that takes, or took, so many microseconds of processor time.

        One that takes more than a burst allows costs just that: who has asked for nothing else gets one.
        """
        most = self._burst // self._intervals[HANDSHAKES][len(source) != 4][0]  # narrowest, so the longest interval
        return self.is_over(source, now, max(1, min(most, -(-microseconds // _HANDSHAKE_UNIT))), HANDSHAKES)

    def _find(self, source: bytes, kind: int) -> tuple[tuple[int, int, int], ...]:
        """Both cells and the interval, by level; remembered by what of *source* counts."""
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        if len(self._widest) >= _MAX_REMEMBERED:
            self._widest.clear()
        message = _wide_message(source, kind)
        widest = self._widest.get(message)
        if widest is None:
            widest = self._widest[message] = _widest(message, self.settings.key)
        places = map(places_of, _narrowed(source, widest))
        intervals = self._intervals[kind][len(source) != 4]
        found = tuple((first, second, each) for (first, second), each in zip(places, intervals, strict=True))
        self._remembered[source, kind] = found
        return found


class Occupancy:
    """How full the cells are, from a sample; whether limits are to fall back to dry-run."""

    def __init__(self, cells: Cells, choose: Callable[[Sequence[int], int], list[int]] | None = None) -> None:
        """*choose*: k of a population, with repetition (random.choices)."""
        self._cells = cells
        self._choose = choose or (lambda population, k: random.choices(population, k=k))
        self.share = 0.0
        """Of cells that are within a query of their limit: what an innocent key must not meet in both rows."""

        self.falls_back = False
        self._to_sweep = 0

    def look(self, now: int, settings: LimitSettings) -> bool:
        """Sample the cells; whether `falls_back` has changed."""
        # Who floods with what costs many units takes them as soon as they are there: a cell is that far from its limit.
        unit = max(map(max, settings.intervals[QUERIES]))
        nearly = now + settings.burst_ns - max(unit, min(MOST_UNITS * unit, settings.burst_ns // 4))
        cells = self._cells
        over = [each for place in self._choose(range(CELLS), _SAMPLED_CELLS) if (each := cells[place]) > nearly]
        limit = now + settings.burst_ns + _SECOND  # others charge while we look
        if not self._to_sweep and over and max(over) > limit:
            self._to_sweep = CELLS
        self._sweep(limit)
        self.share = len(over) / _SAMPLED_CELLS
        before = self.falls_back
        self.falls_back = self.share > (OCCUPANCY_LIMIT / 2 if before else OCCUPANCY_LIMIT)
        return self.falls_back != before

    def _sweep(self, limit: int) -> None:
        """Set back those beyond *limit* in the next part of the table, if that is to be done."""
        cells, end = self._cells, self._to_sweep
        self._to_sweep = max(0, end - _SWEPT_CELLS)
        for start in range(self._to_sweep, end, _PIECE_CELLS):
            piece = cells[start : start + _PIECE_CELLS]
            if max(piece) > limit:
                for place, each in enumerate(piece, start):
                    if each > limit:
                        cells[place] = limit
