"""Counting distinct source addresses with HyperLogLog (Flajolet et al. 2007), for RSSAC002's unique-sources.

2^14 one-octet registers per estimate; standard error 1.04 / √16384 = 0.81 %.  Two estimates are merged by taking the
greater of each pair of registers, so workers, kernel and instances can be summed in any order: if they share a key.
"""
# Whoever knows the hash can choose sources, one per register, that stand for 10^19 of them (a spoofed source costs
# nothing); so the hash has a key.  With its halves k0 and k1, and an address as little-endian words of what is on the
# wire:
#
#   mixed(w)  w · A; xor its upper half into the lower; + k1; · B; xor its upper half into the lower; · C
#   IPv4      h = mixed(k0 xor the address)
#   IPv6 /64  h = mixed(k0 xor the first word)
#   IPv6      h = mixed(that xor the second word)
#
# This is no pseudo-random function, and need not be: nobody without the key sees a hash or a register, only how many
# sources all of them stand for.  SipHash-2-4, which it was in version 0.2, took a tenth of the time that the kernel has
# for a query (bench/README.md): BPF has neither rotations nor 128-bit products.  Two multiplications in place of three
# are not enough: addresses of one /64 in a row were then counted wrongly by up to a third.
#
# register = h >> 50 (the first 14 bits); its value = 1 + number of leading zeros among the other 50 bits (at most 51).
# Registers under different keys, or of another hash, have nothing to do with each other: merged they would count every
# source twice, and more.  So they carry the key's id, in which the hash has a part, wherever they go.

import functools
import hashlib
import math
import os
import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from rootsrv.page.lanes import LANE_OCTETS, MOST_LANES, WORD, in_each
from rootsrv.page.layout import REGISTERS

KEY_OCTETS = 16

IPV4, IPV6, IPV6_AGGREGATE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class SourcesKey:
    """The key that sources are hashed with: the same at all instances whose statistics are merged."""

    octets: bytes
    """KEY_OCTETS of them."""

    id: int
    """Tells this key from others, and not what it is: 64 bits, never 0."""

    @classmethod
    def of(cls, octets: bytes) -> Self:
        """The key *octets*; ValueError if it has another size."""
        if len(octets) != KEY_OCTETS:
            raise ValueError(f"{KEY_OCTETS} octets are needed, got {len(octets)}")
        digest = hashlib.sha256(b"rootsrv unique sources, mixed\0" + octets).digest()
        return cls(octets, int.from_bytes(digest[:8], "big") or 1)

    @classmethod
    def random(cls) -> Self:
        """One that nobody else has."""
        return cls.of(os.urandom(KEY_OCTETS))


def key_name(key_id: int) -> str:
    """A key's id as records and people have it: 16 hexadecimal digits."""
    return f"{key_id:016x}"


def observe(registers: memoryview, sources: Collection[bytes], key: bytes) -> None:
    """Note packed IPv4 (4 octets) and IPv6 (16 octets) addresses in *registers* (3 × 2^14 octets: v4, v6, /64)."""
    amount = len(sources)
    if amount > MOST_LANES:
        listed = list(sources)
        for at in range(0, amount, MOST_LANES):
            observe(registers, listed[at : at + MOST_LANES], key)
    elif amount < _TOO_FEW_FOR_LANES:
        _observe_one_by_one(registers, sources, key)
    elif len(words := _TO_NEXT_LANE.join(sources)) == LANE_OCTETS * amount - len(_TO_NEXT_LANE):
        _observe_ipv4(registers, words, _lanes_of(key, amount))
    elif len(words := b"".join(sources)) == LANE_OCTETS * amount:
        _observe_ipv6(registers, words, _lanes_of(key, amount))
    else:
        observe(registers, [source for source in sources if len(source) == 4], key)
        observe(registers, [source for source in sources if len(source) != 4], key)


_WORDS = struct.Struct("<2Q")
_A, _B, _C = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD

# ── one after the other ─────────────────────────────────────────────────────────────────────────────────────────────


def _observe_one_by_one(registers: memoryview, sources: Iterable[bytes], key: bytes) -> None:
    k0, k1 = _WORDS.unpack(key)
    for source in sources:
        hashed = _mixed(k0 ^ int.from_bytes(source[:8], "little"), k1)
        if len(source) == 4:
            _note(registers, IPV4, hashed)
        else:
            _note(registers, IPV6_AGGREGATE, hashed)
            _note(registers, IPV6, _mixed(hashed ^ int.from_bytes(source[8:], "little"), k1))


def _mixed(word: int, k1: int) -> int:
    word = word * _A & WORD
    word = ((word ^ word >> 32) + k1 & WORD) * _B & WORD
    return (word ^ word >> 32) * _C & WORD


def _note(registers: memoryview, estimate: int, hashed: int) -> None:
    at = estimate * REGISTERS + (hashed >> 50)
    value = 51 - (hashed & (1 << 50) - 1).bit_length()
    registers[at] = max(registers[at], value)


# ── many at once ────────────────────────────────────────────────────────────────────────────────────────────────────
# All words of a batch stand in one number (lanes.py).  A source takes 0.19 us in place of 1.0 (IPv6: 0.35, 1.9),
# however many of them are new (bench/responder.py, "noting sources").

_TO_NEXT_LANE = bytes(LANE_OCTETS - 4)  # from the end of an IPv4 address
_TOO_FEW_FOR_LANES = 2


@dataclass(frozen=True, slots=True)
class _Lanes:
    """The same number in each of some lanes, and what takes the lanes apart."""

    amount: int
    k0: int
    k1: int
    word: int
    """64 bits set."""

    half: int
    """32 bits set."""

    ranked: struct.Struct
    """The lower 64 bits of each lane."""

    registers: struct.Struct
    """The 16 bits behind them."""


@functools.lru_cache(maxsize=4 * MOST_LANES)
def _lanes_of(key: bytes, amount: int) -> _Lanes:
    k0s, k1s = (in_each(each, amount) for each in _WORDS.unpack(key))
    fields = struct.Struct("<" + "Q8x" * amount), struct.Struct("<" + "8xH6x" * amount)
    return _Lanes(amount, k0s, k1s, in_each(WORD, amount), in_each(WORD >> 32, amount), *fields)


def _observe_ipv4(registers: memoryview, words: bytes, lanes: _Lanes) -> None:
    _note_all(registers, IPV4, _all_mixed(int.from_bytes(words, "little") ^ lanes.k0, lanes), lanes)


def _observe_ipv6(registers: memoryview, words: bytes, lanes: _Lanes) -> None:
    both = int.from_bytes(words, "little")
    hashed = _all_mixed(both & lanes.word ^ lanes.k0, lanes)
    _note_all(registers, IPV6_AGGREGATE, hashed, lanes)
    _note_all(registers, IPV6, _all_mixed(hashed ^ both >> 64 & lanes.word, lanes), lanes)


def _all_mixed(words: int, lanes: _Lanes) -> int:
    """`_mixed` for the word in each lane."""
    word, half = lanes.word, lanes.half
    words = words * _A & word
    words = ((words ^ words >> 32 & half) + lanes.k1 & word) * _B & word
    return (words ^ words >> 32 & half) * _C & word


def _note_all(registers: memoryview, estimate: int, hashed: int, lanes: _Lanes) -> None:
    """`_note` for the hash in each lane."""
    # 14 bits up: the register stands behind the lower 64 bits, in which 14 free ones follow the 50 that have a rank.
    octets = (hashed << 14).to_bytes(LANE_OCTETS * lanes.amount, "little")
    registers = registers[estimate * REGISTERS : (estimate + 1) * REGISTERS]
    for ranked, at in zip(lanes.ranked.unpack(octets), lanes.registers.unpack(octets), strict=True):
        if ranked < _OUTRANKS[registers[at]]:
            registers[at] = 51 - (ranked >> 14).bit_length()


_OUTRANKS = [*(1 << 64 - value for value in range(51)), 0]
"""By a register's value: what is below this has a greater one."""


def merge(estimates: Sequence[bytes]) -> bytes:
    """The registers that one observer of all sources would hold; *estimates*, of one size, are of one key."""
    # The larger of each two octets, all at once, in one number of so many octets: 16 processors' registers take 0.8 ms
    # in place of 60 octet by octet, during which the owner of the fast path could do nothing else.
    size = len(estimates[0])
    high = _repeated(0x80, size)
    low = high - _repeated(0x01, size)  # in each octet all bits but the highest: a rank is at most 51
    merged = 0
    for estimate in estimates:
        other = int.from_bytes(estimate, "little") & low
        not_less = (merged | high) - other & high
        ours = not_less - (not_less >> 7)
        merged = merged & ours | other & ~ours
    return merged.to_bytes(size, "little")


@functools.cache
def _repeated(octet: int, size: int) -> int:
    return int.from_bytes(bytes((octet,)) * size, "little")


def count(registers: bytes) -> int:
    """How many distinct addresses *registers* (2^14 octets, one estimate) stand for, ± 0.81 % standard error."""
    m = len(registers)
    estimate = 0.7213 / (1 + 1.079 / m) * m * m / sum(2.0**-value for value in registers)
    if estimate <= 2.5 * m and (empty := registers.count(0)):
        estimate = m * math.log(m / empty)  # linear counting: better while registers are empty
    return round(estimate)
