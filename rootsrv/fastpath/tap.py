"""The tap: a sample of what the kernel answered, which tcpdump and nft on this host never see."""

import ipaddress
import os
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rootsrv.fastpath import libbpf
from rootsrv.fastpath.layout import ffi

_HEAD_OCTETS: int = ffi.sizeof("struct tap_head")
_LINKTYPE_RAW = 101  # packets begin with the IP header (pcap-linktype(7))


@dataclass(frozen=True, slots=True)
class TapSample:
    """A query and the response that the kernel gave."""

    boottime_ns: int
    ifindex: int
    source: str
    source_port: int
    service: str
    service_port: int
    query: bytes
    response: bytes

    @classmethod
    def from_octets(cls, octets: bytes) -> "TapSample":
        """A record of the ring buffer (`struct tap_head` and what follows it)."""
        head = ffi.from_buffer("struct tap_head *", octets)
        width = 16 if head.family else 4
        end = _HEAD_OCTETS + head.query_size
        return cls(
            int(head.boottime),
            int(head.ifindex),
            _address(ffi.buffer(head.source)[:width]),
            int.from_bytes(int(head.source_port).to_bytes(2, "little"), "big"),
            _address(ffi.buffer(head.service)[:width]),
            int.from_bytes(int(head.service_port).to_bytes(2, "little"), "big"),
            bytes(octets[_HEAD_OCTETS:end]),
            bytes(octets[end : end + head.response_size]),
        )

    def packets(self) -> tuple[bytes, bytes]:
        """Query and response as IP packets, with checksums left out (they were verified, or made, in the kernel)."""
        there = (self.source, self.source_port, self.service, self.service_port)
        back = (self.service, self.service_port, self.source, self.source_port)
        return _packet(*there, self.query), _packet(*back, self.response)


def _address(octets: bytes) -> str:
    return str(ipaddress.ip_address(octets))


def _packet(source: str, source_port: int, destination: str, destination_port: int, message: bytes) -> bytes:
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    udp = struct.pack("!HHHH", source_port, destination_port, 8 + len(message), 0) + message
    if len(addresses) == 8:
        return struct.pack("!BBHIBBH", 0x45, 0, 20 + len(udp), 0, 64, 17, 0) + addresses + udp
    return struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + addresses + udp


class Tap:
    """The reading end of the ring buffer."""

    def __init__(self, ring: libbpf.Map) -> None:
        """*ring*: the program's map `tap`."""
        self._found: list[bytes] = []

        def take(_: Any, data: Any, size: int) -> int:
            self._found.append(bytes(libbpf.ffi.buffer(data, size)))
            return 0

        self._take = libbpf.ffi.callback("int(void *, void *, size_t)", take)
        lib, null = libbpf.library(), libbpf.ffi.NULL
        self._ring = lib.ring_buffer__new(ring.fd, self._take, null, null)
        if self._ring == null:
            raise OSError(libbpf.ffi.errno, f"tap: {os.strerror(libbpf.ffi.errno)}")

    def read(self) -> list[TapSample]:
        """All samples since the last call; what found the buffer full is lost and counted (`tap_lost`)."""
        libbpf.library().ring_buffer__consume(self._ring)
        found, self._found = self._found, []
        return [TapSample.from_octets(octets) for octets in found]

    def close(self) -> None:
        """Let go of the ring buffer."""
        if self._ring != libbpf.ffi.NULL:
            libbpf.library().ring_buffer__free(self._ring)
            self._ring = libbpf.ffi.NULL


def to_pcap(samples: Iterable[TapSample], now: float, boottime_ns: int) -> bytes:
    """A capture file (pcap, nanoseconds) of *samples*; *now* is the wall time at *boottime_ns*."""
    records = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, _LINKTYPE_RAW)]
    for sample in samples:
        at = int(now * 1e9) - (boottime_ns - sample.boottime_ns)
        for packet in sample.packets():
            records.append(struct.pack("<IIII", at // 10**9, at % 10**9, len(packet), len(packet)) + packet)
    return b"".join(records)


def clocks() -> tuple[float, int]:
    """Wall time and CLOCK_BOOTTIME of the same moment, for `to_pcap`."""
    return time.time(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
