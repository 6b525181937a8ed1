"""Which lines of columns are the same: entries of a table, found by sorting one hashed word a line."""

import secrets

import numpy
from numpy.typing import NDArray

Words = NDArray[numpy.uint64]
Integers = NDArray[numpy.intp]

# Drawn when the process starts: whoever sends queries cannot choose two that hash alike.
_SEED = numpy.uint64(secrets.randbits(64))
_FACTOR = numpy.uint64(secrets.randbits(64) | 1)
_HALF = numpy.uint64(32)


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
    count = len(words)
    low = numpy.uint64((1 << max(1, (count - 1).bit_length())) - 1)
    # One sort of single words, the fastest that numpy has: upper bits of the hash, place below.  What differs in the
    # lower bits alone may come twice, as two entries of the same.
    order = (numpy.sort(words & ~low | numpy.arange(count, dtype=numpy.uint64)) & low).astype(numpy.intp)
    ordered = words[order]
    new = numpy.empty(count, numpy.bool_)
    new[:1] = True
    numpy.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    numbers = numpy.empty(count, numpy.intp)
    numbers[order] = numpy.cumsum(new) - 1
    return order[new], numbers
