"""Zones to permitted peers: AXFR (RFC 5936) and IXFR (RFC 1995) as messages of octets."""
# Contents in, unsigned messages out.  Records are packed many to a message; only owners that equal the one before are
# compressed, which is most of what there is to gain here.

import struct
from collections.abc import Iterable, Iterator

from rootsrv.wire import rdata as rdatas
from rootsrv.wire.message import AXFR, CLASS_IN, IXFR
from rootsrv.wire.record import Record
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import EXPIRE, difference

MAX_OCTETS = 65_000  # room for TSIG below the 65,535 of RFC 1035 §4.2.2

MESSAGE_OCTETS = 16_000
"""About so much per message: pointers reach 16,383 octets, and a peer can check TSIG as it reads."""

QR, AA = 0x8000, 0x0400


def respond(
    message_id: int,
    question: bytes,
    *,
    rcode: int = 0,
    flags: int = QR,
    answers: Iterable[bytes] = (),
    expire_seconds: int | None = None,
    edns: bool = False,
) -> bytes:
    """One response; *answers* in wire format; with the EXPIRE option if *expire_seconds* is given."""
    records = list(answers)
    octets = struct.pack("!HHHHHH", message_id, flags | rcode, 1 if question else 0, len(records), 0, 1 if edns else 0)
    octets += question + b"".join(records)
    if edns:
        option = b"" if expire_seconds is None else struct.pack("!HHI", EXPIRE, 4, expire_seconds)
        octets += b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(option)) + option
    return octets


def wire(record: Record) -> bytes:
    """A record in wire format, nothing compressed."""
    owner, rtype, ttl, rdata = record
    return owner + struct.pack("!HHIH", rtype, CLASS_IN, ttl, len(rdata)) + rdata


def soa_record(contents: ZoneContents) -> Record:
    """The SOA of *contents* as a record."""
    soa = contents.rrsets[contents.apex, rdatas.SOA]
    return contents.apex, rdatas.SOA, soa.ttl, soa.rdatas[0]


def transfer_records(contents: ZoneContents, chain: "list[ZoneContents] | None") -> Iterator[Record]:
    """All records of a transfer in order: AXFR, or IXFR over *chain* (oldest first, without *contents* itself)."""
    soa = soa_record(contents)
    yield soa
    if chain:
        for older, newer in zip(chain, [*chain[1:], contents], strict=True):
            removed, added = difference(older, newer)
            yield from removed
            yield from added
    else:
        yield from (each for each in contents.records() if each[1] != rdatas.SOA)
    yield soa


def messages(message_id: int, zone: bytes, qtype: int, records: Iterable[Record]) -> Iterator[bytes]:
    """The messages of a transfer response; the question is in the first only (RFC 5936 §2.2.1)."""
    assert qtype in {AXFR, IXFR}
    question = zone + struct.pack("!HH", qtype, CLASS_IN)
    body: list[bytes] = []

    def message() -> bytes:
        counts = (1 if question else 0, len(body), 0, 0)
        return struct.pack("!HHHHHH", message_id, QR | AA, *counts) + question + b"".join(body)

    size = 12 + len(question)
    owner_at: tuple[bytes, int] = (zone, 12) if len(zone) > 1 else (b"", 0)
    for owner, rtype, ttl, rdata in records:
        if owner == owner_at[0]:
            name = struct.pack("!H", 0xC000 | owner_at[1])
        else:
            name = owner
            owner_at = (owner, size) if len(owner) > 2 else (b"", 0)
        if body and size + len(name) + 10 + len(rdata) > MAX_OCTETS:
            yield message()
            body, question, size, name = [], b"", 12, owner
            owner_at = (owner, size) if len(owner) > 2 else (b"", 0)
        octets = name + struct.pack("!HHIH", rtype, CLASS_IN, ttl, len(rdata)) + rdata
        body.append(octets)
        size += len(octets)
        if size >= MESSAGE_OCTETS:
            yield message()
            body, question, size, owner_at = [], b"", 12, (b"", 0)
    if body:
        yield message()
