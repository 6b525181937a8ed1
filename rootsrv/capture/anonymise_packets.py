"""Anonymisation of packets in pcap records: client addresses, client subnets, and the checksums that tell on them."""
# Theory of operation
# -------------------
# A checksum over an address that was replaced gives sixteen bits of it back, with the rest of the packet known all of
# them that a /16 leaves open.  So IPv4's header checksum is computed anew, and UDP's and TCP's are set to 0, which
# says "not computed" to whoever reads the file.  What is neither UDP nor TCP (an ICMP error quotes a packet) loses all
# octets but its first eight; a later fragment has no ports, and keeps its octets but for client subnet options.
#
# An address is a client's if it is not one of the service addresses.

import struct

from rootsrv.answer.question import HEADER_OCTETS
from rootsrv.capture.anonymise import Anonymiser, client_subnets, every_address

_RECORD = struct.Struct("<4I")  # seconds, nanoseconds, captured length, length
_UDP, _TCP = 17, 6
_EXTENSIONS = {0, 43, 44, 60}  # hop-by-hop, routing, fragment, destination options: each says where the next begins


class RecordCutOff(ValueError):
    """The octets end within a pcap record."""


def packets(records: bytes, how: Anonymiser, service_addresses: frozenset[bytes]) -> bytes:
    """*records*, whole pcap records of IP packets (LINKTYPE_RAW), anonymised: as many octets, in the same places.

    Raises RecordCutOff.
    """
    changed = bytearray(records)
    places: dict[bytes, list[int]] = {}
    begins: list[int] = []
    ends: list[int] = []
    at = 0
    while at < len(records):
        if at + _RECORD.size > len(records):
            raise RecordCutOff(f"a pcap record's head is cut off at octet {at}")
        start = at + _RECORD.size
        at = start + _RECORD.unpack_from(records, at)[2]
        if at > len(records):
            raise RecordCutOff(f"a pcap record is cut off: it should end at octet {at}, there are {len(records)}")
        version = records[start] >> 4 if start < at else 0
        size, first = (4, start + 12) if version == 4 else (16, start + 8)
        behind = transport(records, start, at, version)
        if behind is None:
            changed[start:at] = bytes(at - start)  # no IP header to find the addresses in
            continue
        for place in (first, first + size):
            address = records[place : place + size]
            if address not in service_addresses:
                places.setdefault(address, []).append(place)
        protocol, payload = behind
        if protocol == _UDP:
            changed[payload + 6 : min(at, payload + 8)] = bytes(max(0, min(at, payload + 8) - payload - 6))
        elif protocol == _TCP:
            changed[payload + 16 : min(at, payload + 18)] = bytes(max(0, min(at, payload + 18) - payload - 16))
        elif protocol is not None:
            changed[min(at, payload + 8) : at] = bytes(at - min(at, payload + 8))
        begins.append(_behind_header(records, protocol, payload, at))
        ends.append(at)
        if version == 4:
            places.setdefault(b"", []).append(start)  # its header checksum, when the addresses are there
    changed = bytearray(client_subnets(bytes(changed), how, begins, ends))
    headers = places.pop(b"", [])
    for size in (4, 16):
        addresses = [address for address in places if len(address) == size]
        for address, made in zip(addresses, every_address(addresses, size, how), strict=True):
            for place in places[address]:
                changed[place : place + size] = made
    for start in headers:
        changed[start + 10 : start + 12] = _header_checksum(changed, start)
    return bytes(changed)


def _behind_header(octets: bytes, protocol: int | None, payload: int, end: int) -> int:
    """Where options may begin in what is behind the IP header: not in the header of a message that begins there."""
    start = payload
    if protocol == _UDP:
        start = payload + 8 + HEADER_OCTETS
    elif protocol == _TCP and end >= payload + 20:
        message = payload + 4 * (octets[payload + 12] >> 4) + 2
        if int.from_bytes(octets[message - 2 : message]) == end - message:
            start = message + HEADER_OCTETS
    return min(start, end)


def transport(octets: bytes, start: int, end: int, version: int) -> tuple[int | None, int] | None:
    """Protocol (None in a later fragment) and place of what is behind the IP header; None without a whole header."""
    if version == 4 and end - start >= 20:
        behind = start + 4 * (octets[start] & 15)
        if behind < start + 20 or behind > end:
            return None
        later = int.from_bytes(octets[start + 6 : start + 8]) & 0x1FFF
        return (None if later else octets[start + 9]), behind
    if version != 6 or end - start < 40:
        return None
    protocol, behind = octets[start + 6], start + 40
    while protocol in _EXTENSIONS and behind + 8 <= end:
        if protocol == 44:
            if int.from_bytes(octets[behind + 2 : behind + 4]) & 0xFFF8:
                return None, behind + 8
            size = 8
        else:
            size = 8 + 8 * octets[behind + 1]
        protocol, behind = octets[behind], behind + size
    return protocol, min(behind, end)


def _header_checksum(octets: bytearray, start: int) -> bytes:
    """Of the IPv4 header at *start* (RFC 791 §3.1)."""
    size = 4 * (octets[start] & 15)
    words = struct.unpack_from(f"!{size // 2}H", octets, start)
    total: int = sum(words) - words[5]
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2)
