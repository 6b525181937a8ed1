"""pcap: IP packets with nanoseconds (LINKTYPE_RAW), from rows that the kernel made, and from what workers tell."""
# A packet's row is its time, its length and 112 octets of it; what is longer goes on in rows behind it.  A record
# of the file has 16 octets of head before the packet, as many as a row has: a record is a row cut to its length.
#
# The kernel's packets are those that came.  What workers were asked is known without its headers: they are written
# anew with what is known, and with 0 in place of what is not (hop limit, traffic class, identification, checksum of
# UDP).  A message over TCP is one segment, or as many as it needs, without the connection's beginning and end.

import struct
from typing import TYPE_CHECKING

from rootsrv.capture.facts import CONTINUATION_OCTETS, Kind
from rootsrv.capture.messages import CapturedMessage
from rootsrv.capture.rings import FURTHER, FURTHER_PACKET, PACKET, ROW_OCTETS
from rootsrv.process.time_slice import give_way

try:
    import numpy

    from rootsrv.capture.joining import joined
except ImportError:  # the extra rootsrv[capture] is not installed
    numpy = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINKTYPE_RAW = 101
HEAD = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, LINKTYPE_RAW)
"""What a file begins with (pcap-savefile(5)); times are in nanoseconds."""

_HEAD_OCTETS = 16
_ROW_HEAD = struct.Struct("<QBBxxI")
_RECORD = struct.Struct("<IIII")
_SECOND = 10**9
_IPV4_OCTETS = 20
_UDP_OCTETS = 8
_UDP, _TCP = 17, 6
_PUSH_ACK = 5 << 12 | 0x18
_SEGMENT_OCTETS = 65_000
_MAX_STREAMS = 65_536


class Streams:
    """Sequence numbers of what comes over TCP: readers take what they have seen already for a retransmission."""

    def __init__(self) -> None:
        self._next: dict[tuple[bytes, int, bytes, int], int] = {}

    def place(self, message: CapturedMessage) -> int:
        """Sequence number of *message*, behind those of its connection before (RFC 9293 §3.4).

        Of so many connections at once only the latest are remembered; one that is forgotten goes on at a later number.
        """
        connection = (message.source, message.source_port, message.destination, message.destination_port)
        first = self._next.pop(connection, message.time // 1000) & 0xFFFFFFFF
        if len(self._next) >= _MAX_STREAMS:
            del self._next[next(iter(self._next))]
        self._next[connection] = first + 2 + len(message.octets)
        return first


def rows_of(message: CapturedMessage, sequence: int = 1) -> bytes:
    """The rows of the packets that *message* came in, or might have; *sequence*: over TCP, its place in the stream."""
    rows: list[bytes] = []
    for packet in packets_of(message, sequence):
        size, kind = CONTINUATION_OCTETS, FURTHER_PACKET if rows else PACKET
        rows.append(_ROW_HEAD.pack(message.time, kind, message.family, len(packet)) + packet[:size].ljust(size, b"\0"))
        for at in range(size, len(packet), size):
            head = _ROW_HEAD.pack(message.time, Kind.CONTINUATION, 0, 0)
            rows.append(head + packet[at : at + size].ljust(size, b"\0"))
    return b"".join(rows)


def packets_of(message: CapturedMessage, sequence: int = 1) -> list[bytes]:
    """IP packets with *message*: a datagram, or TCP segments from *sequence* on."""
    ports = struct.pack("!HH", message.source_port, message.destination_port)
    if message.transport == 0:
        udp = ports + struct.pack("!HH", _UDP_OCTETS + len(message.octets), 0)
        return [_packet(message, _UDP, udp + message.octets)]
    stream = len(message.octets).to_bytes(2, "big") + message.octets
    packets = []
    for at in range(0, len(stream), _SEGMENT_OCTETS):
        tcp = ports + struct.pack("!IIHHHH", (sequence + at) & 0xFFFFFFFF, 1, _PUSH_ACK, 65_535, 0, 0)
        packets.append(_packet(message, _TCP, tcp + stream[at : at + _SEGMENT_OCTETS]))
    return packets


def _packet(message: CapturedMessage, protocol: int, payload: bytes) -> bytes:
    source, destination = message.source, message.destination
    if message.family == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 0) + source + destination + payload
    addresses = source[:4] + destination[:4]
    head = struct.pack("!BBHHHBBH", 0x45, 0, _IPV4_OCTETS + len(payload), 0, 0, 0, protocol, 0) + addresses
    return head[:10] + _checksum(head) + head[12:] + payload


def _checksum(header: bytes) -> bytes:
    """The Internet checksum (RFC 1071)."""
    return (0xFFFF - int.from_bytes(header, "big") % 0xFFFF).to_bytes(2, "big")


def records(rows: bytes, wall_offset: int) -> tuple[bytes, int]:
    """The packets in *rows*, one behind another, as records; rows of other kinds are left out.

    *wall_offset*: nanoseconds from CLOCK_BOOTTIME to the wall clock.  And of how many queries the packet has not all of
    its rows: a record that is longer than what there is of it would make the rest of the file unreadable.
    """
    if not rows:
        return b"", 0
    if numpy is None:
        return _plain_records(rows, wall_offset)
    table, damaged = _whole(_of_packets(numpy.frombuffer(rows, numpy.uint8).reshape(-1, ROW_OCTETS)))
    give_way()
    words = table.view("<u4")
    heads = numpy.flatnonzero(table[:, 8] & ~numpy.uint8(FURTHER) == PACKET)
    lengths = words[heads, 3].astype(numpy.intp)
    here = numpy.empty(len(table), numpy.intp)
    here[heads] = numpy.minimum(lengths, CONTINUATION_OCTETS) + _HEAD_OCTETS
    places = None
    if len(heads) < len(table):
        goes_on = numpy.flatnonzero(table[:, 8] == Kind.CONTINUATION)
        of_head = numpy.searchsorted(heads, goes_on) - 1
        left = lengths[of_head] - CONTINUATION_OCTETS * (goes_on - heads[of_head])
        here[goes_on] = numpy.minimum(left, CONTINUATION_OCTETS)
        # The row before it is full: its last octets in place of the head, and the row is stored as far before its own.
        table[goes_on, :_HEAD_OCTETS] = table[goes_on - 1, -_HEAD_OCTETS:]
        places = numpy.cumsum(here) - here
        places[goes_on] -= _HEAD_OCTETS
    wall = table.view("<u8")[heads, 0] + numpy.uint64(wall_offset % (1 << 64))
    seconds = wall // numpy.uint64(_SECOND)
    words[heads, :4] = numpy.stack((seconds, wall - seconds * numpy.uint64(_SECOND), lengths, lengths), 1)
    give_way()
    octets: bytes = joined(table, here, places).tobytes()
    return octets, damaged


def _whole(table: "NDArray[numpy.uint8]") -> "tuple[NDArray[numpy.uint8], int]":
    """*table*, of packets, without those that have not all of their rows and without rows beyond a packet's end.

    And of how many queries there is a packet less.
    """
    heads = numpy.flatnonzero(table[:, 8] != Kind.CONTINUATION)
    wanted = numpy.maximum(0, table.view("<u4")[heads, 3].astype(numpy.intp) - 1) // CONTINUATION_OCTETS
    there = numpy.diff(heads, append=len(table)) - 1
    if numpy.array_equal(there, wanted):
        return table, 0
    whole = there >= wanted
    of_head = numpy.repeat(numpy.arange(len(heads)), there + 1)
    kept: NDArray[numpy.uint8] = table[whole[of_head] & (numpy.arange(len(table)) - heads[of_head] <= wanted[of_head])]
    return kept, int(numpy.count_nonzero(table[heads[~whole], 8] == PACKET))


def _of_packets(table: "NDArray[numpy.uint8]") -> "NDArray[numpy.uint8]":
    """A copy of the rows of *table* that belong to packets."""
    kinds = table[:, 8] & ~numpy.uint8(FURTHER)
    is_head = kinds != Kind.CONTINUATION
    if is_head[0] and ((kinds == PACKET) | ~is_head).all():
        return table.copy()
    head_at = numpy.flatnonzero(is_head)
    of_head = numpy.cumsum(is_head) - 1
    if not len(head_at):
        return table[:0]
    found: NDArray[numpy.uint8] = table[(of_head >= 0) & (kinds[head_at[of_head]] == PACKET)]
    return found


def _plain_records(rows: bytes, wall_offset: int) -> tuple[bytes, int]:
    """`records` on a host without numpy."""
    found: list[bytes] = []
    at, end, damaged = 0, len(rows), 0
    while at < end:
        time, kind, _, length = _ROW_HEAD.unpack_from(rows, at)
        packet = rows[at + _HEAD_OCTETS : at + ROW_OCTETS]
        at += ROW_OCTETS
        while at < end and rows[at + 8] == Kind.CONTINUATION:
            packet += rows[at + _HEAD_OCTETS : at + ROW_OCTETS]
            at += ROW_OCTETS
        if kind & ~FURTHER != PACKET:
            continue
        if len(packet) < length:
            damaged += kind == PACKET
            continue
        seconds, rest = divmod(time + wall_offset, _SECOND)
        found.append(_RECORD.pack(seconds, rest, length, length) + packet[:length])
    return b"".join(found), damaged
