"""What a worker tells of a message: its octets and how it was answered, in rows; and what those come to."""
# A worker has no time to take messages apart for a capture: it writes them as they came, with the few octets of the
# response that a fact wants.  The role capture makes facts or packets of them.

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rootsrv.answer.question import HEADER_OCTETS, Query, QueryMalformed
from rootsrv.capture.facts import CONTINUATION_AT, CONTINUATION_OCTETS, Fact, Kind, OptBits
from rootsrv.capture.rings import IPV4, IPV6, MESSAGE, ROW_OCTETS, TCP, UDP, RingWriter
from rootsrv.process import log
from rootsrv.process.children import describe_error
from rootsrv.process.troubles import Troubles
from rootsrv.wire import edns

HERE = 60
"""Octets of a message in its first row."""

_ROW = struct.Struct(f"<QBBBBHH16s16sHH16s{HERE}s")
HERE_AT = ROW_OCTETS - HERE
assert _ROW.size == ROW_OCTETS

# What of a response is kept: flags, counts, and where an OPT record without a question before it has its rcode.
_OF_RESPONSE = slice(2, 18)
CLIENT_SUBNET = 8  # option code (RFC 7871 §6)
_QR, _OPCODE = 0x80, 0x78  # of a message's third octet


class _TooLong(bytes):
    __slots__ = ()


TOO_LONG = _TooLong()
"""In place of a datagram that was too long to be received.  An empty one is no such: it came, and is all there."""


class CapturedMessage(NamedTuple):
    """A message as a worker got it."""

    time: int
    """CLOCK_BOOTTIME, nanoseconds, of the worker's wake-up."""

    family: int
    transport: int
    source: bytes
    """16 octets, IPv4 in the first four; so is *destination*."""

    source_port: int
    destination: bytes
    destination_port: int
    response_octets: int
    response: bytes
    """Octets 2 … 17 of it."""

    octets: bytes


class MessageWriter:
    """Tells of the messages that one worker answers."""

    def __init__(self, ring: RingWriter) -> None:
        self._ring = ring
        self._errors = Troubles("capture lost queries to an error")
        self._is_spoilt = False

    @property
    def is_on(self) -> bool:
        """Whether anybody wants to know."""
        return self._ring.shape != 0 and not self._is_spoilt

    def write(
        self,
        time: int,
        transport: int,
        own: tuple[bytes, int],
        requests: Sequence[bytes],
        sources: Sequence[bytes],
        ports: Sequence[int],
        responses: Sequence[bytes | None],
    ) -> None:
        """Tell of *requests* that came at *time* to *own* (packed address, port); a response of None: not answered.

        Of requests those that are TOO_LONG are counted as lost.  Raises nothing: over TCP it is called before the
        responses are sent, and the ring's words are another process's to write.
        """
        counted = self._ring.counted
        try:
            self._write(time, transport, own, requests, sources, ports, responses)
        except Exception as error:
            self._lose(counted + len(requests) - self._ring.counted, error)

    def _lose(self, queries: int, error: Exception) -> None:
        """*error* costs *queries*, and no more if they can be counted: the next ones are tried again."""
        try:
            self._ring.lose(queries)
        except Exception as damaged:
            self._is_spoilt = True
            log.alarm("capture ring is not written to any more", reason=describe_error(damaged))
        else:
            self._errors.raised(error, where="worker", queries=queries)

    def _write(
        self,
        time: int,
        transport: int,
        own: tuple[bytes, int],
        requests: Sequence[bytes],
        sources: Sequence[bytes],
        ports: Sequence[int],
        responses: Sequence[bytes | None],
    ) -> None:
        address, port = own
        family = 4 if len(address) == 4 else 6
        needed = (TCP if transport else UDP) | (IPV4 if family == 4 else IPV6)
        rows = []
        for number in self._ring.choose(len(requests), needed):
            octets, source, response = requests[number], sources[number], responses[number]
            if octets is TOO_LONG:
                self._ring.lose(1)
                continue
            size, kept = (0, b"") if response is None else (len(response), response[_OF_RESPONSE])
            ends = ports[number], port, source, address
            row = _ROW.pack(time, MESSAGE, family, transport, 0, *ends, len(octets), size, kept, octets)
            rows.append(row if len(octets) <= HERE else row + _continued(time, octets))
        if rows:
            self._ring.append(rows)


def _continued(time: int, octets: bytes) -> bytes:
    head = struct.pack("<QB7x", time, Kind.CONTINUATION)
    size = CONTINUATION_OCTETS
    return b"".join(head + octets[at : at + size].ljust(size, b"\0") for at in range(HERE, len(octets), size))


def rows_of(row: bytes | memoryview) -> int:
    """How many rows the message has whose first is *row*."""
    size = row[48] | row[49] << 8
    return 1 + max(0, -(-(size - HERE) // CONTINUATION_OCTETS))


def read(rows: bytes | memoryview) -> Iterator[CapturedMessage]:
    """The messages in *rows*, which begin and end with whole ones."""
    at, end = 0, len(rows)
    while at < end:
        time, _, family, transport, _, source_port, port, source, own, size, sent, kept, here = _ROW.unpack_from(
            rows, at
        )
        octets = here[:size]
        at += ROW_OCTETS
        for start in range(HERE, size, CONTINUATION_OCTETS):
            octets += rows[at + CONTINUATION_AT : at + CONTINUATION_AT + min(CONTINUATION_OCTETS, size - start)]
            at += ROW_OCTETS
        yield CapturedMessage(time, family, transport, source, source_port, own, port, sent, kept, octets)


def fact_of(message: CapturedMessage) -> Fact:
    """What a capture keeps of *message*; what gets FORMERR, or is no query, is kept raw."""
    octets, response = message.octets, message.response
    flags = int.from_bytes(response[:2], "big")
    extended = _extended_rcode(response) if message.response_octets else 0
    addresses, ports = (message.source, message.destination), (message.destination_port, message.source_port)
    try:
        if len(octets) < HEADER_OCTETS:
            raise QueryMalformed("shorter than a header")
        if octets[2] & _QR:
            raise QueryMalformed("a response")
        query = Query.parse(octets)
        if not (query.question or octets[2] & _OPCODE) and _asks_nothing(query):
            raise QueryMalformed("no question, and no cookie")
    except QueryMalformed:
        # With as much of the header as there is.
        ident, query_flags = struct.unpack("!HH", octets[:4].ljust(4, b"\0"))
        return Fact(
            message.time, Kind.MALFORMED, message.family, 0, 0, flags, message.response_octets, query_flags, ident,
            *ports, 0, 0, 0, 0, len(octets), *addresses, message.transport, 0, 0, 0, extended, 0, 0, 0, octets,
        )  # fmt: skip
    ident, query_flags, qdcount, ancount, nscount, arcount = struct.unpack_from("!6H", octets)
    records_at = HEADER_OCTETS + len(query.question)
    opt_bits, offered, version = _opt(octets, records_at, ancount + nscount + arcount, query.edns)
    qname = query.question[:-4]
    return Fact(
        message.time, Kind.QUERY, message.family, 0, 0, flags, message.response_octets, query_flags, ident,
        *ports, query.qtype, offered, opt_bits, len(qname), len(octets), *addresses,
        message.transport, ancount, nscount, version, extended, qdcount, query.qclass, arcount, qname,
    )  # fmt: skip


def _asks_nothing(query: Query) -> bool:
    """Whether a message without a question gets FORMERR for it: but for a cookie (RFC 7873 §5.4) and for BADVERS.

    A TSIG record is refused before.
    """
    asked = query.edns
    return query.tsig is None and (asked is None or (asked.version == 0 and asked.cookie is None))


def opt_at(octets: bytes, at: int, records: int) -> int:
    """Where the type of the first OPT record among so many *records* from *at* on stands; -1 without one.

    Their data may hold what looks like one.  IndexError or struct.error where they are cut off.
    """
    for _ in range(records):
        while size := octets[at]:
            at += 1 + size if size < 64 else 1
            if size > 63:
                break
        at += 1
        rtype, length = struct.unpack_from("!H6xH", octets, at)
        if rtype == edns.TYPE_OPT:
            return at
        at += 10 + length
    return -1


def _opt(octets: bytes, at: int, records: int, asked: edns.Edns | None) -> tuple[int, int, int]:
    """OptBits, size offered, version of the OPT record among so many *records* of a query from *at* on."""
    if asked is None:
        return 0, 0, 0
    bits = OptBits.PRESENT | (OptBits.DO if asked.do else 0)
    at = opt_at(octets, at, records) + 2
    offered, size = struct.unpack_from("!H4xH", octets, at)
    at += 8
    end = min(at + size, len(octets))
    while at + 4 <= end:
        code, size = struct.unpack_from("!HH", octets, at)
        if code == edns.COOKIE:
            bits |= OptBits.COOKIE
        elif code == CLIENT_SUBNET:
            bits |= OptBits.CLIENT_SUBNET
        at += 4 + size
    return int(bits), offered, asked.version


def _extended_rcode(response: bytes) -> int:
    """The upper eight bits of the response's rcode (RFC 6891 §6.1.3), as far as ours have any.

    BADCOOKIE has the lower bits 7, which nothing else has that we send.  BADVERS is a NOERROR whose only record is OPT.
    """
    rcode = response[1] & 15
    if rcode == 7:
        return 1
    if rcode == 0 and not response[0] & 2:
        if response[2:10] == b"\0\1\0\0\0\0\0\1":
            return 1
        if response[2:10] == b"\0\0\0\0\0\0\0\1" and len(response) == 16:
            return response[15]
    return 0
