"""Ethernet frames that carry DNS over UDP, made and taken apart in plain Python, independently of the BPF program."""

import ipaddress
import struct
from dataclasses import dataclass

NO_MAC = bytes(6)
CLIENT_MAC = bytes.fromhex("020000000001")


def checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071): the ones' complement sum of big-endian words is the remainder by 65,535."""
    total = int.from_bytes(octets + bytes(len(octets) % 2), "big")
    return 0xFFFF - (total % 0xFFFF or 0xFFFF * (total > 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A UDP datagram in an Ethernet frame; `to_octets` writes what is not given as a well-behaved sender would."""

    source: str = "198.51.100.7"
    destination: str = "192.0.2.53"
    source_port: int = 40000
    destination_port: int = 53
    source_mac: bytes = CLIENT_MAC
    destination_mac: bytes = NO_MAC
    vlan: int | None = None
    payload: bytes = b""
    udp_checksum: int | None = None
    """None = the right one; "unfinished" ones are written by `partial`."""

    partial: bool = False
    """The checksum field holds the pseudo-header's sum alone (CHECKSUM_PARTIAL)."""

    identification: int = 0x1234
    fragment: int = 0x4000
    hop_limit: int = 57
    service: int = 0
    trailer: bytes = b""

    def to_octets(self) -> bytes:
        """The frame."""
        source, destination = ipaddress.ip_address(self.source), ipaddress.ip_address(self.destination)
        size = 8 + len(self.payload)
        if source.version == 4:
            pseudo = source.packed + destination.packed + struct.pack("!BBH", 0, 17, size)
        else:
            pseudo = source.packed + destination.packed + struct.pack("!IHBB", size, 0, 0, 17)
        if self.udp_checksum is not None:
            check = self.udp_checksum
        elif self.partial:
            check = ~checksum(pseudo) & 0xFFFF
        else:
            bare = struct.pack("!HHHH", self.source_port, self.destination_port, size, 0)
            check = checksum(pseudo + bare + self.payload) or 0xFFFF
        udp = struct.pack("!HHHH", self.source_port, self.destination_port, size, check)
        if source.version == 4:
            fields = (0x45, self.service, 20 + size, self.identification, self.fragment, self.hop_limit, 17)
            addresses = source.packed + destination.packed
            check = checksum(struct.pack("!BBHHHBBH", *fields, 0) + addresses)
            ip, ethertype = struct.pack("!BBHHHBBH", *fields, check) + addresses, 0x0800
        else:
            ip = struct.pack("!IHBB", 6 << 28 | self.service << 20, size, 17, self.hop_limit)
            ip, ethertype = ip + source.packed + destination.packed, 0x86DD
        tag = b"" if self.vlan is None else struct.pack("!HH", 0x8100, self.vlan)
        link = self.destination_mac + self.source_mac + tag + struct.pack("!H", ethertype)
        return link + ip + udp + self.payload + self.trailer

    @classmethod
    def from_octets(cls, octets: bytes) -> "Frame":
        """Take a frame apart; AssertionError when a length or a checksum is wrong."""
        (ethertype,) = struct.unpack_from("!H", octets, 12)
        vlan = None
        at = 14
        if ethertype == 0x8100:
            vlan, ethertype = struct.unpack_from("!HH", octets, 14)
            at = 18
        if ethertype == 0x0800:
            first, service, total, identification, fragment, hop_limit, protocol, _ = struct.unpack_from(
                "!BBHHHBBH", octets, at
            )
            header = octets[at : at + 20]
            assert first == 0x45
            assert at + total == len(octets), "the IPv4 total length is not that of the frame"
            assert checksum(header) == 0, "wrong IPv4 header checksum"
            source, destination = header[12:16], header[16:20]
            at += 20
            pseudo = source + destination + struct.pack("!BBH", 0, protocol, len(octets) - at)
        else:
            assert ethertype == 0x86DD
            first_word, length, protocol, hop_limit = struct.unpack_from("!IHBB", octets, at)
            assert first_word >> 28 == 6
            service, identification, fragment = first_word >> 20 & 0xFF, 0, 0
            assert at + 40 + length == len(octets), "the IPv6 payload length is not that of the frame"
            source, destination = octets[at + 8 : at + 24], octets[at + 24 : at + 40]
            at += 40
            pseudo = source + destination + struct.pack("!IHBB", length, 0, 0, protocol)
        assert protocol == 17
        source_port, destination_port, size, check = struct.unpack_from("!HHHH", octets, at)
        assert at + size == len(octets), "the UDP length is not that of the frame"
        partial = check == ~checksum(pseudo) & 0xFFFF
        if check and not partial:
            assert checksum(pseudo + octets[at:]) == 0, "wrong UDP checksum"
        return cls(
            source=str(ipaddress.ip_address(source)),
            destination=str(ipaddress.ip_address(destination)),
            source_port=source_port,
            destination_port=destination_port,
            source_mac=octets[6:12],
            destination_mac=octets[:6],
            vlan=vlan,
            payload=octets[at + 8 :],
            udp_checksum=check,
            partial=partial,
            identification=identification,
            fragment=fragment,
            hop_limit=hop_limit,
            service=service,
        )
