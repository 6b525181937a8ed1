"""Asks the program by test runs and compares with the Responder: before a table is activated, and for health."""

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rootsrv.answer.responder import Responder, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.program import TC_REDIRECT, XDP_TX, Program
from rootsrv.wire import edns

_TYPES = (1, 2, 6, 43, 48, 255)  # A, NS, SOA, DS, DNSKEY, ANY
_IP_OCTETS = {4: 20, 16: 40}
_SOURCES = {  # documentation addresses (RFC 5737, RFC 3849), by their size; nothing is sent to them
    4: ipaddress.ip_address("198.51.100.1").packed,
    16: ipaddress.ip_address("2001:db8::1").packed,
}
_SOURCE_PORT = 40_000
_EVERY_NTH_NAME = 24


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The outcome of a self-test."""

    asked: int
    answered: int
    wrong: str = ""
    """The first response that differs, and how; empty when there is none."""

    @property
    def passed(self) -> bool:
        """Whether the program answered, and rightly."""
        return not self.wrong and self.answered > 0

    def __str__(self) -> str:
        if self.wrong:
            return f"wrong: {self.wrong}"
        return f"{self.answered} of {self.asked} queries answered, all rightly"


def run_self_test(
    program: Program, table: AnswerTable, responder: Responder, services: Sequence[str], port: int, *, is_xdp: bool
) -> SelfTest:
    """Ask the generation that `control.test_generation` names for a sample of everything in *table*.

    What the program passes up is no fault; that it answers nothing at all is.
    """
    descriptor = program.descriptor("xdp_test" if is_xdp else "tc_test")
    replies = XDP_TX if is_xdp else TC_REDIRECT
    asked = answered = 0
    for number, query in enumerate(_sample(table)):
        service = ipaddress.ip_address(services[number % len(services)]).packed
        source = _SOURCES[len(service)]
        run = libbpf.run_on_packet(descriptor, _frame(query, source, service, port))
        asked += 1
        if run.verdict != replies:
            continue
        answered += 1
        expected = responder.respond(query, source, Transport.UDP, 0.0)
        datagram = run.packet[_IP_OCTETS[len(service)] + 14 :]
        if datagram[8:] != expected:
            return SelfTest(asked, answered, f"the response to {query.hex()} differs from the Responder's")
        if _sum(service + source + struct.pack("!HH", 17, len(datagram)) + datagram) != 0:
            return SelfTest(asked, answered, f"the UDP checksum of the response to {query.hex()}")
    if not answered:
        return SelfTest(asked, 0, "no query was answered")
    return SelfTest(asked, answered)


def _frame(query: bytes, source: bytes, service: bytes, port: int) -> bytes:
    """An Ethernet frame with *query*; addresses are packed."""
    size = 8 + len(query)
    udp = struct.pack("!HHHH", _SOURCE_PORT, port, size, 0) + query
    check = _sum(source + service + struct.pack("!HH", 17, size) + udp) ^ 0xFFFF
    udp = udp[:6] + struct.pack("!H", check or 0xFFFF) + udp[8:]
    if len(source) == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0, 64, 17, 0) + source + service
        header = header[:10] + struct.pack("!H", _sum(header) ^ 0xFFFF) + header[12:]
        return bytes(12) + b"\x08\0" + header + udp
    return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, size, 17, 64) + source + service + udp


def _sum(octets: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071); 0 for octets whose checksum is right."""
    return int.from_bytes(octets + bytes(len(octets) % 2), "big") % 0xFFFF


def _sample(table: AnswerTable) -> Iterator[bytes]:
    """Queries for all owners and for every 24th name, present and missing."""
    for owner in table.owners():
        for qtype in _TYPES:
            yield _query(owner.name, qtype)
    for number, name in enumerate(table.names()):
        if name.label and number % _EVERY_NTH_NAME == 1:
            label = bytes([len(name.label)]) + name.label + b"\0"
            yield _query(b"\3www\7Example" + label, 1)
            yield _query(label, 43)
            missing = bytes([min(63, len(name.label) + 1)]) + (name.label + b"-")[:63] + b"\0"
            yield _query(b"\4_tcp" + missing, 33)


def _query(qname: bytes, qtype: int) -> bytes:
    """A query with DO and NSID that offers 1,232 octets."""
    opt = edns.opt_record(1232, edns.option(edns.NSID, b""), do=True)
    return b"\x5a\x5a\1\0\0\1\0\0\0\0\0\1" + qname + struct.pack("!HH", qtype, 1) + opt
