"""Queries to send: as octets with what is expected of the response; from a file of names or from a capture."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype

# The kernel engine copies one query per frame from a fixed slot (bench/bpf/generator.bpf.c).  The longest question has
# 259 octets; what a resolver adds to it (OPT with COOKIE) fits besides.
MAX_QUERY_OCTETS = 384


class QueriesUnusable(Exception):
    """No queries can be made from this file."""


@dataclass(frozen=True, slots=True)
class Query:
    """One query, ready for the wire."""

    octets: bytes
    """The DNS message; the id is set when it is sent."""

    kind: str
    """Which answer it asks for (a name of the mix's [kinds], or "own")."""

    rcode: int | None = None
    """The only right RCODE, where that is known."""

    family: int = 4
    """4 or 6."""

    tcp: bool = False


_CLIENT_COOKIE = b"\0\x0a\0\x08"


def same_response(query: Query, response: bytes, reference: bytes) -> bool:
    """Whether two responses to *query* say the same: ids and server cookies aside, and records in any order."""
    response, reference = _without_cookie(query, response), _without_cookie(query, reference)
    if response[2:] == reference[2:]:
        return True
    try:
        ours, theirs = dns.message.from_wire(b"\0\0" + response[2:]), dns.message.from_wire(b"\0\0" + reference[2:])
    except (dns.exception.DNSException, ValueError):
        return False
    return bool(ours == theirs)


def _without_cookie(query: Query, response: bytes) -> bytes:
    """*response* with zeros for what follows the client cookie, if *query* ends in one."""
    if query.octets[-12:-8] != _CLIENT_COOKIE:
        return response
    at = response.rfind(query.octets[-8:]) + 8
    if at < 8 or len(response) < at + 16:
        return response
    return response[:at] + bytes(16) + response[at + 16 :]


def read_names(path: Path, *, payload: int = 1232, dnssec_ok: bool = True) -> list[Query]:
    """Queries from lines of `name type`, the format of dnsperf; blank lines and lines with # or ; are left out."""
    queries = []
    for number, line in enumerate(_lines(path), 1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        try:
            name, qtype = text.split()
            message = dns.message.make_query(
                dns.name.from_text(name), qtype, use_edns=0, payload=payload, want_dnssec=dnssec_ok
            )
        except (ValueError, dns.exception.DNSException) as error:
            raise QueriesUnusable(f"{path}:{number}: expected `name type`, got {text!r} ({error})") from error
        message.flags = 0
        message.id = 0
        queries.append(Query(message.to_wire(), "own", family=6 if number % 4 == 0 else 4))
    if not queries:
        raise QueriesUnusable(f"{path}: no queries in it")
    return queries


def write_names(queries: list[Query], path: Path) -> None:
    """The IN queries' names and types as dnsperf reads them (their EDNS options are given to dnsperf as arguments)."""
    with path.open("w") as stream:
        for query in queries:
            question = dns.message.from_wire(query.octets).question[0]
            if question.rdclass == dns.rdataclass.IN:
                stream.write(f"{question.name} {dns.rdatatype.to_text(question.rdtype)}\n")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QueriesUnusable(f"{path}: {error}") from error


def read_pcap(path: Path, *, port: int = 53) -> list[Query]:
    """The UDP queries to *port* in a capture (pcap as tcpdump writes it), in its order."""
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise QueriesUnusable(f"{path}: {error.strerror}") from error
    queries = []
    for link_type, frame in _pcap_frames(path, octets):
        found = _udp_payload(link_type, frame, port)
        if found is not None and 12 < len(found[1]) <= MAX_QUERY_OCTETS and not found[1][2] & 0x80:
            queries.append(Query(b"\0\0" + found[1][2:], "own", family=found[0]))
    if not queries:
        raise QueriesUnusable(f"{path}: no UDP queries to port {port} in it")
    return queries


# Link types (tcpdump.org/linktypes) and the octets in front of the IP header.
_LINK_HEADERS = {0: 4, 1: 14, 12: 0, 101: 0, 113: 16, 228: 0, 229: 0, 276: 20}


def _pcap_frames(path: Path, octets: bytes) -> Iterator[tuple[int, bytes]]:
    orders = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">"}
    order = orders.get(octets[:4])
    if order is None or len(octets) < 24:
        raise QueriesUnusable(f"{path}: not a pcap file (pcapng can be turned into one: `tcpdump -r IN -w OUT`)")
    link_type = struct.unpack_from(order + "I", octets, 20)[0] & 0xFFFF
    if link_type not in _LINK_HEADERS:
        raise QueriesUnusable(f"{path}: link type {link_type} is not known here")
    at = 24
    while at + 16 <= len(octets):
        size = struct.unpack_from(order + "I", octets, at + 8)[0]
        yield link_type, octets[at + 16 : at + 16 + size]
        at += 16 + size


def _udp_payload(link_type: int, frame: bytes, port: int) -> tuple[int, bytes] | None:
    start = _LINK_HEADERS[link_type]
    if link_type == 1:
        while frame[start - 2 : start] in (b"\x81\x00", b"\x88\xa8"):  # VLAN tags
            start += 4
    packet = frame[start:]
    if len(packet) < 28:
        return None
    if packet[0] >> 4 == 4:
        header = (packet[0] & 15) * 4
        if packet[9] != 17 or int.from_bytes(packet[6:8], "big") & 0x3FFF:  # not UDP, or a fragment
            return None
        family = 4
    elif packet[0] >> 4 == 6 and packet[6] == 17:
        header, family = 40, 6
    else:
        return None
    udp = packet[header:]
    if len(udp) < 8 or int.from_bytes(udp[2:4], "big") != port:
        return None
    return family, udp[8 : int.from_bytes(udp[4:6], "big")]
