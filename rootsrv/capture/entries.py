"""Which lines of columns are the same: entries of a table, found by sorting one hashed word a line."""

import secrets

import numpy
from numpy.typing import NDArray

from rootsrv.answer.question import HEADER_OCTETS
from rootsrv.capture.facts import NAME_OCTETS_AT, OptBits
from rootsrv.process.time_slice import give_way

Words = NDArray[numpy.uint64]
Integers = NDArray[numpy.intp]

# Drawn when the process starts: whoever sends queries cannot choose two that hash alike.
_SEED = numpy.uint64(secrets.randbits(64))
_FACTOR = numpy.uint64(secrets.randbits(64) | 1)
_HALF = numpy.uint64(32)

NAME_OCTETS = numpy.uint64(0xFF << 8 * (NAME_OCTETS_AT % 8))
"""A fact's name_octets in its fourth word."""


def mixed(words: Words, column: Words) -> Words:
    """*words*, changed in place, with *column* mixed in: for one of them given, no two of the other come out alike."""
    words ^= column
    words *= _FACTOR
    words ^= words >> _HALF
    return words


def hashed(*columns: Words) -> Words:
    """A word for every line of *columns*, the same for lines that are the same."""
    words = numpy.full(len(columns[0]), _SEED)
    for column in columns:
        words = mixed(words, column)
    return words


def entries(words: Words) -> tuple[Integers, Integers]:
    """Where each different value is met first, and for every value the number of its entry."""
    give_way()
    count = len(words)
    low = numpy.uint64((1 << max(1, (count - 1).bit_length())) - 1)
    # One sort of single words, the fastest that numpy has: upper bits of the hash, place below.  What differs in the
    # lower bits alone may come twice, as two entries of the same.
    order = (numpy.sort(words & ~low | numpy.arange(count, dtype=numpy.uint64)) & low).astype(numpy.intp)
    ordered = words[order]
    give_way()
    new = numpy.empty(count, numpy.bool_)
    new[:1] = True
    numpy.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    numbers = numpy.empty(count, numpy.intp)
    numbers[order] = numpy.cumsum(new) - 1
    return order[new], numbers


def signature_hashes(rows: Words) -> Words:
    """One word for what of each of *rows* goes into a signature (RFC 8618 §7.5.3.2)."""
    response_octets = rows[:, 1] >> numpy.uint64(48)
    responded = (response_octets != 0).astype(numpy.uint64) + (response_octets == HEADER_OCTETS)
    asked = (rows[:, 3] & NAME_OCTETS != 0).astype(numpy.uint64)
    opt_bits = numpy.uint64(int(OptBits.PRESENT | OptBits.DO) << 32)
    # family and flags of the response; the last count where the kind was
    first = rows[:, 1] & numpy.uint64(0xFFFF << 32 | 0xFF << 8)
    first |= rows[:, 9] & numpy.uint64(0xFF) | responded << numpy.uint64(16) | asked << numpy.uint64(24)
    # flags of the query and the port; type and OPT's size in place of id and the client's port
    flags_and_port = rows[:, 2] & numpy.uint64(0x0000FFFF0000FFFF)
    qtype, size = rows[:, 3] & numpy.uint64(0xFFFF), rows[:, 3] & numpy.uint64(0xFFFF << 16)
    flags_and_port |= qtype << numpy.uint64(16) | size << _HALF
    return hashed(
        first | (rows[:, 3] & opt_bits) << numpy.uint64(16), flags_and_port, rows[:, 8], rows[:, 6], rows[:, 7]
    )
