"""Messages nobody should send: well-formed queries, mutated; and octets at random."""

import random
import struct
from collections.abc import Iterator, Sequence

MAX_OCTETS = 65535

OPTION_CODES = (3, 8, 9, 10, 11, 12, 15, 19, 65001)
"""NSID, client subnet, EXPIRE, COOKIE, keepalive, padding, extended error, ZONEVERSION, unassigned."""


def mutated(source: random.Random, seeds: Sequence[bytes], count: int) -> Iterator[bytes]:
    """*count* messages: most made of *seeds* with one to eight faults, some of octets at random."""
    for _ in range(count):
        if source.random() < 0.05:
            yield source.randbytes(_size(source))
            continue
        message = bytearray(source.choice(seeds))
        if source.random() < 0.2:
            message = _with_options(source, message)
        for _ in range(source.choice((0, 0, 1, 1, 1, 2, 3, 8))):
            message = source.choice(_FAULTS)(source, message, seeds)
        yield bytes(message[:MAX_OCTETS])


def _size(source: random.Random) -> int:
    return source.choice(
        (source.randrange(13), source.randrange(64), source.randrange(600), source.randrange(MAX_OCTETS))
    )


def _with_options(source: random.Random, message: bytearray) -> bytearray:
    """An OPT record with options of any kind and size, behind a message that has none."""
    if len(message) < 12 or message[10:12] != b"\0\0":
        return message
    rdata = b""
    for _ in range(source.choice((1, 1, 2, 3, 20))):
        value = source.randbytes(source.choice((0, 0, 7, 8, 15, 16, 24, 40, 41, 300)))
        rdata += struct.pack("!HH", source.choice(OPTION_CODES), len(value)) + value
    fields = (
        0,
        41,
        source.choice((0, 511, 512, 1232, 65535)),
        0,
        source.choice((0, 0, 0, 1)),
        source.choice((0, 0x8000)),
    )
    message[10:12] = b"\0\1"
    return message + struct.pack("!BHHBBHH", *fields, len(rdata)) + rdata


def _flip_a_bit(source: random.Random, message: bytearray, seeds: Sequence[bytes]) -> bytearray:
    if message:
        message[source.randrange(len(message))] ^= 1 << source.randrange(8)
    return message


def _set_an_octet(source: random.Random, message: bytearray, seeds: Sequence[bytes]) -> bytearray:
    if message:
        message[source.randrange(len(message))] = source.choice(
            (0, 1, 12, 0x3F, 0x40, 0x80, 0xC0, 0xFF, source.randrange(256))
        )
    return message


def _set_a_count_or_flag(source: random.Random, message: bytearray, seeds: Sequence[bytes]) -> bytearray:
    if len(message) >= 12:
        message[source.randrange(2, 12)] = source.choice((0, 0, 1, 2, 255, source.randrange(256)))
    return message


def _cut(source: random.Random, message: bytearray, seeds: Sequence[bytes]) -> bytearray:
    return message[: source.randrange(len(message) + 1)]


def _insert(source: random.Random, message: bytearray, seeds: Sequence[bytes]) -> bytearray:
    at = source.randrange(len(message) + 1)
    return message[:at] + source.randbytes(source.choice((1, 2, 4, 11, 300))) + message[at:]


def _remove(source: random.Random, message: bytearray, seeds: Sequence[bytes]) -> bytearray:
    at = source.randrange(len(message) + 1)
    return message[:at] + message[at + source.choice((1, 1, 2, 8)) :]


def _splice(source: random.Random, message: bytearray, seeds: Sequence[bytes]) -> bytearray:
    other = source.choice(seeds)
    return message[: source.randrange(len(message) + 1)] + other[source.randrange(len(other) + 1) :]


def _repeat(source: random.Random, message: bytearray, seeds: Sequence[bytes]) -> bytearray:
    # No transport carries more, and a message that is repeated at every step would fill the memory.
    return (message + message[12:] * source.choice((1, 2, 50)))[:MAX_OCTETS]


def _compress(source: random.Random, message: bytearray, seeds: Sequence[bytes]) -> bytearray:
    """A compression pointer where a name may be."""
    at = source.randrange(len(message) + 1)
    return message[:at] + bytes((0xC0 | source.randrange(64), source.choice((0, 12, 13, at & 0xFF)))) + message[at:]


_FAULTS = (
    _flip_a_bit, _set_an_octet, _set_a_count_or_flag, _cut, _insert, _remove, _splice, _repeat, _compress,
)  # fmt: skip
