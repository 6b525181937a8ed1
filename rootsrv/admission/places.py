"""Which cells the prefixes of a source have in the table of limits: a keyed hash, of one or of a batch of sources."""
# The widest prefix is hashed by SipHash-2-4 under the key of the instance.  A narrower one's hash follows from that of
# the one around it and the bits between the two:
#
#   narrowed(h, bits)   h xor (bits + 1) · STEP; · FACTOR; xor its upper half into the lower
#
# Two parts of a hash say where the key's two cells are, one in each row.  So it is in fastpath/bpf/limits.h.

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from siphash24 import siphash24

from rootsrv.page.lanes import LANE_OCTETS, MOST_LANES, WORD, in_each

ROW_CELLS = 1 << 20

LEVELS = {4: (32, 24, 20, 18), 16: (64, 56, 48, 32)}
"""Prefix lengths by octets of an address, narrowest first."""

COUNTED_OCTETS = 8
"""Of an address: of an IPv6 address nothing behind its /64 counts."""

Places = tuple[int, ...]
"""The numbers of both cells of each prefix, narrowest first: eight."""

_STEP, _FACTOR = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, so that nothing is lost
_STEPS = tuple(_STEP * (bits + 1) & WORD for bits in range(256))


def hashes_of(source: bytes, kind: int, key: bytes) -> tuple[int, int, int, int]:
    """The hashes of the prefixes of a packed address, narrowest first as in LEVELS."""
    return _narrowed(source, siphash24(_wide_message(source, kind), key=key).intdigest())


def places_of(hashed: int) -> tuple[int, int]:
    """The numbers of a key's two cells."""
    return hashed & (ROW_CELLS - 1), ROW_CELLS + (hashed >> 32 & (ROW_CELLS - 1))


def places_of_source(source: bytes, kind: int, key: bytes) -> Places:
    """The cells of the prefixes of a packed address."""
    (a, b), (c, d), (e, f), (g, h) = map(places_of, hashes_of(source, kind, key))
    return a, b, c, d, e, f, g, h


def places_of_sources(sources: Iterable[bytes], kind: int, key: bytes) -> Iterator[tuple[bytes, Places]]:
    """What counts of each of some packed addresses, once, with `places_of_source` of it."""
    counted = list({source[:COUNTED_OCTETS] for source in sources})
    if sum(map(len, counted)) not in (4 * len(counted), COUNTED_OCTETS * len(counted)):
        ipv4 = [each for each in counted if len(each) == 4]
        yield from places_of_sources(ipv4, kind, key)
        yield from places_of_sources(set(counted).difference(ipv4), kind, key)
        return
    for at in range(0, len(counted), MOST_LANES):
        part = counted[at : at + MOST_LANES]
        if len(part) < _TOO_FEW_FOR_LANES:
            yield from ((each, places_of_source(each, kind, key)) for each in part)
        else:
            yield from zip(part, _places_in_lanes(part, kind, key), strict=True)


def _wide_message(source: bytes, kind: int) -> bytes:
    """What is hashed of a source's widest prefix: its octets, the others zero, then its length and the kind."""
    if len(source) == 4:
        return b"%b%c\0\x12%c\0" % (source[:2], source[2] & 0xC0, kind)
    return b"%b\0\0\0\0\x20%c" % (source[:4], kind)


def _narrowed(source: bytes, widest: int) -> tuple[int, int, int, int]:
    """Each prefix's hash follows from that of the one around it and the bits between the two: one product each."""
    if len(source) == 4:
        octet = source[2]
        bits = _STEPS[octet >> 4 & 3], _STEPS[octet & 15], _STEPS[source[3]]
    else:
        bits = (source[5] << 8 | source[4]) * _STEP + _STEP & WORD, _STEPS[source[6]], _STEPS[source[7]]
    second = (widest ^ bits[0]) * _FACTOR & WORD
    second ^= second >> 32
    third = (second ^ bits[1]) * _FACTOR & WORD
    third ^= third >> 32
    narrowest = (third ^ bits[2]) * _FACTOR & WORD
    return narrowest ^ narrowest >> 32, third, second, widest


# ── many at once ────────────────────────────────────────────────────────────────────────────────────────────────────
# All sources of a batch stand in one number (page/lanes.py).  bench/limits.py guards this.

_TOO_FEW_FOR_LANES = 4  # below that one after the other is faster
_TO_NEXT_LANE = {size: bytes(LANE_OCTETS - size) for size in (4, COUNTED_OCTETS)}
_FOUR_PLACES = struct.Struct("<4I")


@dataclass(frozen=True, slots=True)
class _Lanes:
    """The same number in each of some lanes."""

    amount: int
    start: tuple[int, int, int, int]
    """SipHash's state under the key."""

    word: int
    """64 bits set."""

    half: int
    """32 bits set."""

    one: int
    row: int
    """The bits of a place in each half of a word."""

    rows: int
    """ROW_CELLS in the upper half of a word."""

    end: int
    """What SipHash xors in before its last rounds."""


@functools.lru_cache(maxsize=4 * MOST_LANES)
def _lanes_of(key: bytes, amount: int) -> _Lanes:
    k0, k1 = struct.unpack("<2Q", key)
    start = (0x736F6D6570736575 ^ k0, 0x646F72616E646F6D ^ k1, 0x6C7967656E657261 ^ k0, 0x7465646279746573 ^ k1)
    v0, v1, v2, v3 = (in_each(word, amount) for word in start)
    row = ROW_CELLS - 1
    others = WORD, WORD >> 32, 1, row | row << 32, ROW_CELLS << 32, 0xFF
    return _Lanes(amount, (v0, v1, v2, v3), *(in_each(word, amount) for word in others))


def _places_in_lanes(sources: Sequence[bytes], kind: int, key: bytes) -> Iterator[Places]:
    """`places_of_source` of each: what counts of addresses of one family, at most MOST_LANES."""
    amount, octets = len(sources), len(sources[0])
    lanes = _lanes_of(key, amount)
    words = int.from_bytes(_TO_NEXT_LANE[octets].join(sources), "little")
    if octets == 4:
        blocks = [words & in_each(0x00C0FFFF, amount) | in_each(7 << 56 | kind << 40 | 18 << 32, amount)]
        between = ((20, 3), (16, 15), (24, 255))
    else:
        blocks = [words & lanes.half, in_each(10 << 56 | kind << 8 | 32, amount)]
        between = ((32, 0xFFFF), (48, 255), (56, 255))
    hashed = _siphash_in_lanes(blocks, lanes)
    # The two places of a key, each in a half of its lane's word, in the order narrowest first.
    found = [hashed & lanes.row | lanes.rows]
    for shift, bits in between:
        steps = ((words >> shift & in_each(bits, amount)) + lanes.one) * _STEP & lanes.word
        hashed = (hashed ^ steps) * _FACTOR & lanes.word
        hashed ^= hashed >> 32 & lanes.half
        found.append(hashed & lanes.row | lanes.rows)
    widest, second, third, narrowest = found
    narrow = (narrowest | third << 64).to_bytes(LANE_OCTETS * amount, "little")
    wide = (second | widest << 64).to_bytes(LANE_OCTETS * amount, "little")
    for four, others in zip(_FOUR_PLACES.iter_unpack(narrow), _FOUR_PLACES.iter_unpack(wide), strict=True):
        yield four + others


def _siphash_in_lanes(blocks: Sequence[int], lanes: _Lanes) -> int:
    """SipHash-2-4 of the message in each lane: *blocks*, its words, of which the last has its length."""
    state = lanes.start
    for block in blocks:
        v0, v1, v2, v3 = state
        v0, v1, v2, v3 = _rounds(2, (v0, v1, v2, v3 ^ block), lanes.word)
        state = v0 ^ block, v1, v2, v3
    v0, v1, v2, v3 = state
    v0, v1, v2, v3 = _rounds(4, (v0, v1, v2 ^ lanes.end, v3), lanes.word)
    return v0 ^ v1 ^ v2 ^ v3


def _rounds(number: int, state: tuple[int, int, int, int], word: int) -> tuple[int, int, int, int]:
    v0, v1, v2, v3 = state
    for _ in range(number):
        v0 = v0 + v1 & word
        v2 = v2 + v3 & word
        v1 = (v1 << 13 | v1 >> 51) & word ^ v0
        v3 = (v3 << 16 | v3 >> 48) & word ^ v2
        v0 = (v0 << 32 | v0 >> 32) & word
        v2 = v2 + v1 & word
        v0 = v0 + v3 & word
        v1 = (v1 << 17 | v1 >> 47) & word ^ v2
        v3 = (v3 << 21 | v3 >> 43) & word ^ v0
        v2 = (v2 << 32 | v2 >> 32) & word
    return v0, v1, v2, v3
