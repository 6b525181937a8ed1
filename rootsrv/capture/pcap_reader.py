"""Reads pcap files: the DNS messages in their packets, as facts."""

import struct
from collections.abc import Iterator
from typing import IO

from rootsrv.answer.question import HEADER_OCTETS
from rootsrv.capture.anonymise_packets import transport
from rootsrv.capture.cdns_reader import CaptureUnreadable
from rootsrv.capture.facts import Fact, Kind, TransportCode
from rootsrv.capture.messages import CapturedMessage, fact_of, opt_at

_RAW, _ETHERNET = 101, 1  # link types (pcap-linktype(7)): packets begin with the IP header, or with that of Ethernet
_MAGICS = {0xA1B2C3D4: 1_000, 0xA1B23C4D: 1}  # nanoseconds of a record's fraction of a second
_MAX_PACKET_OCTETS = 1 << 18  # as libpcap allows
_UDP, _TCP = 17, 6
_TLS_PORT = 853
_PORTS = frozenset((53, _TLS_PORT))


class PcapFile:
    """Reads *stream*, which is not compressed; *name* is said in errors.

    Iterating gives a fact for every DNS message: time in nanoseconds of the wall clock, and of a response its flags and
    size with those of no query (`query_octets` is 0).  What is no whole DNS message counts in `others`: fragments,
    TCP segments without a message's beginning.  `cut_off` says that the file ends within a record.  Raises
    CaptureUnreadable.

    What has QR set and came to a port of DNS from another one was answered by nobody, and is MALFORMED, as in C-DNS.
    """

    is_of_what_came = False
    """Whether all packets came to the service, as in what a capture has written: whatever its port is."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self.packets = self.others = 0
        self.cut_off = False
        head = stream.read(24)
        for order in "<", ">":
            if len(head) == 24 and (magic := struct.unpack(order + "I", head[:4])[0]) in _MAGICS:
                self._record = struct.Struct(order + "4I")
                self._fraction = _MAGICS[magic]
                self.link_type = struct.unpack(order + "I", head[20:])[0] & 0x0FFFFFFF
                break
        else:
            raise CaptureUnreadable(f"{name}: is no pcap file")
        if self.link_type not in (_RAW, _ETHERNET):
            raise CaptureUnreadable(f"{name}: link type {self.link_type} is not understood (101 and 1 are)")

    def __iter__(self) -> Iterator[Fact]:
        while head := self._stream.read(16):
            if len(head) < 16:
                self.cut_off = True
                return
            seconds, fraction, size, _ = self._record.unpack(head)
            if size > _MAX_PACKET_OCTETS:
                raise CaptureUnreadable(f"{self._name}: a packet of {size} octets behind {self.packets} others")
            packet = self._stream.read(size)
            if len(packet) < size:
                self.cut_off = True
                return
            self.packets += 1
            fact = self._fact(packet, seconds * 10**9 + fraction * self._fraction)
            if fact is None:
                self.others += 1
            else:
                yield fact

    def _fact(self, packet: bytes, time: int) -> Fact | None:
        start = 0
        if self.link_type == _ETHERNET:
            start = 14
            while packet[start - 2 : start] in (b"\x81\x00", b"\x88\xa8"):  # VLAN tags (IEEE 802.1Q)
                start += 4
        version = packet[start] >> 4 if start < len(packet) else 0
        behind = transport(packet, start, len(packet), version)
        if behind is None:
            return None
        protocol, at = behind
        if protocol == _UDP and len(packet) >= at + 8:
            end = min(len(packet), at + int.from_bytes(packet[at + 4 : at + 6]))
            message, how = packet[at + 8 : end], TransportCode.UDP
        elif protocol == _TCP and len(packet) >= at + 20:
            payload = packet[at + 4 * (packet[at + 12] >> 4) :]
            message, how = payload[2:], TransportCode.TCP
            if len(message) < 12 or int.from_bytes(payload[:2]) != len(message):
                return None
        else:
            return None
        ports = struct.unpack_from("!2H", packet, at)
        if not (self.is_of_what_came or _PORTS & set(ports)):
            return None
        if how == TransportCode.TCP and _TLS_PORT in ports:
            how = TransportCode.TLS  # it could not be read if it were not of a capture
        size, first = (4, start + 12) if version == 4 else (16, start + 8)
        source, destination = packet[first : first + size], packet[first + size : first + 2 * size]
        fact = EMPTY._replace(
            time=time,
            family=version,
            transport=how,
            hop_limit=packet[start + (8 if version == 4 else 7)],
            source=source.ljust(16, b"\0"),
            destination=destination.ljust(16, b"\0"),
            source_port=ports[0],
            destination_port=ports[1],
        )
        return message_fact(message, fact, came=self.is_of_what_came or ports[0] not in _PORTS)


EMPTY = Fact(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes(16), bytes(16), 0, 0, 0, 0, 0, 0, 0, 0, b"")
"""A fact of which nothing is known."""


def message_fact(message: bytes, like: Fact, *, came: bool = False) -> Fact:
    """*like* with what *message* says: a query, a response if it is not one that *came* to the service, or MALFORMED.

    A query is taken apart as the Responder and the C-DNS writer do it: what gets FORMERR, octets behind the last record
    too, is MALFORMED here and there (RFC 8618 §7.8).
    """
    malformed = like._replace(kind=Kind.MALFORMED, query_octets=len(message), octets=message)
    if len(message) < HEADER_OCTETS:
        return malformed
    number, flags, *counts = struct.unpack_from("!6H", message)
    if came or not flags & 0x8000:
        ends = like.source, like.source_port, like.destination, like.destination_port
        fact = fact_of(CapturedMessage(like.time, like.family, like.transport, *ends, 0, b"", message))
        return fact._replace(hop_limit=like.hop_limit)
    at = HEADER_OCTETS
    name, qtype, qclass = b"", 0, 0
    try:
        if counts[0]:
            while size := message[at]:
                if size > 63:
                    return malformed
                at += 1 + size
            at += 1
            name = message[HEADER_OCTETS:at]
            qtype, qclass = struct.unpack_from("!2H", message, at)
            at += 4
        if len(name) > 255 or counts[0] > 1:
            return malformed
        opt = opt_at(message, at, counts[1] + counts[2] + counts[3])
        upper = 0 if opt < 0 else message[opt + 4]
    except (IndexError, struct.error):
        return malformed
    return like._replace(
        kind=Kind.QUERY,
        id=number,
        qtype=qtype,
        qclass=qclass,
        name_octets=len(name),
        octets=name,
        response_octets=len(message),
        response_flags=flags,
        extended_rcode=upper,
    )
