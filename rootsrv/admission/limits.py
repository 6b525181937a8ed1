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
# around it and the bits between, by a product and a shift (places.py).  Nobody who does not know the former knows the
# latter; and of four SipHashes, which were most of what a new source costs a worker, one is left.
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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rootsrv.admission.places import COUNTED_OCTETS, ROW_CELLS, Places, places_of_source, places_of_sources
from rootsrv.config.limits import LimitsConfig, Mode
from rootsrv.process.shared_memory import make_shared, map_shared
from rootsrv.wire.codes import NXDOMAIN

ROWS = 2
CELLS = ROWS * ROW_CELLS
CELLS_OCTETS = 8 * CELLS
"""16 MiB."""

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
_SECOND = 1_000_000_000

# Bounds memory (some 3 MB): of a flood's sources each comes once, and that these are forgotten stops a worker.
_MAX_REMEMBERED = 8_192

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


class Limiter:
    """Says whether a source is over its rate, and charges it if not.  The time is CLOCK_BOOTTIME in nanoseconds."""

    def __init__(self, cells: Cells, settings: LimitSettings) -> None:
        self._cells = cells
        self._remembered: dict[int, dict[bytes, Places]] = {QUERIES: {}, CONNECTIONS: {}, HANDSHAKES: {}}
        """By kind of charge: the cells of sources that came lately."""

        self.change(settings)

    def change(self, settings: LimitSettings) -> None:
        """From now on by *settings*; what was charged stays charged."""
        self.settings = settings
        for remembered in self._remembered.values():
            remembered.clear()
        self._burst = settings.burst_ns
        self._intervals = settings.intervals

    def expect(self, sources: Iterable[bytes]) -> None:
        """Find the cells of these packed addresses, which are about to ask, all at once."""
        remembered = self._room_among_remembered(QUERIES)
        fresh = {source[:COUNTED_OCTETS] for source in sources}.difference(remembered)
        if fresh:
            remembered.update(places_of_sources(fresh, QUERIES, self.settings.key))

    def is_over(self, source: bytes, now: int, units: int = 1, kind: int = QUERIES) -> bool:
        """Whether *units* more from the packed address *source* are too much; if not, they are charged."""
        found = self._remembered[kind].get(source[:COUNTED_OCTETS])
        if found is None:
            found = self._find(source, kind)
        # Level by level in a loop, this takes a third longer.
        cells, limit = self._cells, now + self._burst
        place_a, place_b, place_c, place_d, place_e, place_f, place_g, place_h = found
        values = list(map(cells.__getitem__, found))
        if max(values) > limit:
            for number, place in enumerate(found):
                if values[number] > limit:
                    cells[place] = values[number] = limit
        a, b, c, d, e, f, g, h = values
        narrowest, narrow, wide, widest = self._intervals[kind][len(source) != 4]
        tat_ab = a if a < b else b
        tat_ab = (tat_ab if tat_ab > now else now) + units * narrowest
        tat_cd = c if c < d else d
        tat_cd = (tat_cd if tat_cd > now else now) + units * narrow
        tat_ef = e if e < f else f
        tat_ef = (tat_ef if tat_ef > now else now) + units * wide
        tat_gh = g if g < h else h
        tat_gh = (tat_gh if tat_gh > now else now) + units * widest
        if tat_ab > limit or tat_cd > limit or tat_ef > limit or tat_gh > limit:
            return True
        if a < tat_ab and cells[place_a] == a:
            cells[place_a] = tat_ab
        if b < tat_ab and cells[place_b] == b:
            cells[place_b] = tat_ab
        if c < tat_cd and cells[place_c] == c:
            cells[place_c] = tat_cd
        if d < tat_cd and cells[place_d] == d:
            cells[place_d] = tat_cd
        if e < tat_ef and cells[place_e] == e:
            cells[place_e] = tat_ef
        if f < tat_ef and cells[place_f] == f:
            cells[place_f] = tat_ef
        if g < tat_gh and cells[place_g] == g:
            cells[place_g] = tat_gh
        if h < tat_gh and cells[place_h] == h:
            cells[place_h] = tat_gh
        return False

    def is_over_for_handshake(self, source: bytes, now: int, microseconds: int) -> bool:
        """`is_over` for a TLS handshake that takes, or took, so many microseconds of processor time.

        One that takes more than a burst allows costs just that: who has asked for nothing else gets one.
        """
        most = self._burst // self._intervals[HANDSHAKES][len(source) != 4][0]  # narrowest, so the longest interval
        return self.is_over(source, now, max(1, min(most, -(-microseconds // _HANDSHAKE_UNIT))), HANDSHAKES)

    def _find(self, source: bytes, kind: int) -> Places:
        """The cells of a source's prefixes, remembered from now on."""
        remembered = self._room_among_remembered(kind)
        found = remembered[source[:COUNTED_OCTETS]] = places_of_source(source, kind, self.settings.key)
        return found

    def _room_among_remembered(self, kind: int) -> dict[bytes, Places]:
        remembered = self._remembered[kind]
        if len(remembered) >= _MAX_REMEMBERED:
            remembered.clear()
        return remembered


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
