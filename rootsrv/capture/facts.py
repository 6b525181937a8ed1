"""The fact: 128 octets about one query and its response, as writers of files read it."""
# Theory of operation
# -------------------
# A fact is a *row*; rows lie one after another without anything between, so that any range of whole rows is a piece of
# a capture.  All numbers are little endian, which is the order of every machine that the fast path knows; addresses,
# names and raw messages are octets as they were on the wire.  What the kernel's program knows comes first, as it stores
# it (struct fact in rootsrv/fastpath/bpf/shared.h, units.py).
#
# Three kinds:
#
#   QUERY         a message that was understood, and what was sent in response (one record: nothing is matched later)
#   MALFORMED     a message that was not understood: its octets, raw, are in place of the name
#   CONTINUATION  112 octets more of the name or raw octets of the row before; their first 55 are in their own row
#
# The kind of a row lies where a continuation's octets never reach: rows can be told apart without reading what is
# before them.  A query with more than 255 records in a section, or with more than one question, is kept as MALFORMED,
# raw: a fact has room for one question and for counts of one octet.

import enum
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

FACT_OCTETS = 128
INLINE_OCTETS = 55
"""Octets of the name or of the raw message in the row itself."""

NAME_OCTETS_AT = 29
ARCOUNT_AT = 72
CONTINUATION_AT = 16
CONTINUATION_OCTETS = FACT_OCTETS - CONTINUATION_AT
"""Octets that a continuation carries."""


class Kind(enum.IntEnum):
    """What a row is."""

    QUERY = 0
    CONTINUATION = 1
    MALFORMED = 2


class TransportCode(enum.IntEnum):
    """How the query came (RFC 8618 §7.5.3.2.1)."""

    UDP = 0
    TCP = 1
    TLS = 2
    DTLS = 3
    HTTPS = 4


class OptBits(enum.IntFlag):
    """What the query's OPT record held."""

    PRESENT = 1
    DO = 2
    COOKIE = 4
    COOKIE_VALID = 8
    CLIENT_SUBNET = 16


FIELDS = (
    ("time", "Q", 0),  # CLOCK_BOOTTIME at the query's arrival, nanoseconds
    ("kind", "B", 8),
    ("family", "B", 9),  # 4 or 6
    ("hop_limit", "B", 10),  # IPv4 TTL or IPv6 hop limit of the query; 0: not known
    ("traffic_class", "B", 11),
    ("response_flags", "H", 12),  # the second word of the header, with the lower four bits of RCODE
    ("response_octets", "H", 14),  # 0: none was sent
    ("query_flags", "H", 16),  # the second word of the header
    ("id", "H", 18),
    ("destination_port", "H", 20),
    ("source_port", "H", 22),
    ("qtype", "H", 24),
    ("opt_udp_size", "H", 26),
    ("opt_bits", "B", 28),
    ("name_octets", "B", 29),  # wire length with the root's label; 0: no question
    ("query_octets", "H", 30),  # of the DNS message, without TCP's length; of MALFORMED: how many raw octets follow
    ("source", "16s", 32),  # IPv4 in the first four octets, the rest 0
    ("destination", "16s", 48),  # the service address
    ("transport", "B", 64),
    ("ancount", "B", 65),
    ("nscount", "B", 66),
    ("edns_version", "B", 67),
    ("extended_rcode", "B", 68),  # upper eight bits of the response's RCODE (RFC 6891 §6.1.3)
    ("qdcount", "B", 69),
    ("qclass", "H", 70),
    ("arcount", "B", 72),
    ("octets", f"{INLINE_OCTETS}s", 73),  # of the name, or of the raw message
)
"""Name, `struct` format and offset of every field; what a row of another kind does not use is 0."""

_ROW = struct.Struct("<" + "".join(code for _, code, _ in FIELDS))
assert _ROW.size == FACT_OCTETS


class Fact(NamedTuple):
    """One query; the fields are those of `FIELDS`, *octets* is the whole name or raw message."""

    time: int
    kind: int
    family: int
    hop_limit: int
    traffic_class: int
    response_flags: int
    response_octets: int
    query_flags: int
    id: int
    destination_port: int
    source_port: int
    qtype: int
    opt_udp_size: int
    opt_bits: int
    name_octets: int
    query_octets: int
    source: bytes
    destination: bytes
    transport: int
    ancount: int
    nscount: int
    edns_version: int
    extended_rcode: int
    qdcount: int
    qclass: int
    arcount: int
    octets: bytes

    def to_rows(self) -> bytes:
        """The row and the continuations it needs; `struct.error` for a number that does not fit its field."""
        rows = [_ROW.pack(*self)]
        for at in range(INLINE_OCTETS, len(self.octets), CONTINUATION_OCTETS):
            piece = self.octets[at : at + CONTINUATION_OCTETS]
            head = struct.pack("<QB7x", self.time, Kind.CONTINUATION)
            rows.append(head + piece.ljust(CONTINUATION_OCTETS, b"\0"))
        return b"".join(rows)


def octets_of(fact: Fact) -> int:
    """How many octets of name or raw message belong to *fact*."""
    return fact.query_octets if fact.kind == Kind.MALFORMED else fact.name_octets


def continuations(octets: int) -> int:
    """How many continuations follow a row with so many *octets* of name or raw message."""
    return max(0, -(-(octets - INLINE_OCTETS) // CONTINUATION_OCTETS))


def read(rows: Iterable[bytes | memoryview] | bytes) -> Iterator[Fact]:
    """The facts in *rows*, each a whole number of rows; for hosts without numpy.

    A message whose continuations are not all there (the end of *rows*, or another row in their place) comes with
    *octets* as far as they are there: the caller tells by their length.
    """
    current: Fact | None = None
    octets = b""
    for block in [rows] if isinstance(rows, bytes) else rows:
        for at in range(0, len(block), FACT_OCTETS):
            if block[at + 8] == Kind.CONTINUATION:
                octets += bytes(block[at + CONTINUATION_AT : at + FACT_OCTETS])
                continue
            if current is not None:
                yield current._replace(octets=octets[: octets_of(current)])
            current = Fact._make(_ROW.unpack_from(block, at))
            octets = current.octets
    if current is not None:
        yield current._replace(octets=octets[: octets_of(current)])


def dtype() -> "numpy.dtype[numpy.void]":
    """The row as numpy's structured type: `numpy.frombuffer(octets, dtype())`.

    Addresses are unsigned octets (shape 16), as is *octets* (shape 55).  Raises ImportError on a host without numpy.
    """
    import numpy

    formats: list[object] = []
    for _, code, _ in FIELDS:
        if code.endswith("s"):
            formats.append((numpy.uint8, (int(code[:-1]),)))
        else:
            formats.append({"Q": "<u8", "H": "<u2", "B": "u1"}[code])
    described = {
        "names": [name for name, _, _ in FIELDS],
        "formats": formats,
        "offsets": [offset for _, _, offset in FIELDS],
        "itemsize": FACT_OCTETS,
    }
    return numpy.dtype(described)  # type: ignore[call-overload,no-any-return]


def array(octets: bytes | bytearray | memoryview) -> "NDArray[numpy.void]":
    """*octets*, a whole number of rows, as an array of rows without a copy; ImportError without numpy."""
    import numpy

    return numpy.frombuffer(octets, dtype())
