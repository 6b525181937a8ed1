"""DNS messages as records of octets: what a transfer is made of (RFC 1035 §4.1).

dnspython parses a message into an object per record, which takes a second for a root zone; a transfer needs the octets
only, so this reads them directly and leaves each record's meaning to `zone/rdata`.
"""

import struct
from dataclasses import dataclass

from rootsrv.wire import rdata as rdatas
from rootsrv.wire.edns import TYPE_OPT
from rootsrv.wire.name import MAX_NAME_OCTETS
from rootsrv.wire.record import Record

TSIG, IXFR, AXFR = 250, 251, 252
CLASS_IN, CLASS_ANY = 1, 255

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")

NAMES_IN_RDATA = {rdatas.NS: (0, 1), rdatas.CNAME: (0, 1), rdatas.SOA: (0, 2), 12: (0, 1), 15: (2, 1), 14: (0, 2)}
"""The types whose RDATA may hold compressed names (RFC 3597 §4): offset of the first name, how many names."""
# The others that RFC 3597 lists have not been compressed by any server for twenty years.


class MessageMalformed(ValueError):
    """The octets are not a DNS message."""


@dataclass(frozen=True, slots=True)
class TsigRecord:
    """A TSIG record as it stands in the message; `start` is where the record begins (RFC 8945 §4.2)."""

    start: int
    owner: bytes
    rdata: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One parsed message.  Names are uncompressed; the case is as it came."""

    id: int
    flags: int
    question: tuple[bytes, int, int] | None
    """(qname, qtype, qclass); None if there is no question."""

    answers: tuple[Record, ...]
    authorities: tuple[Record, ...]
    additionals: tuple[Record, ...]
    """Without OPT and TSIG."""

    options: dict[int, bytes]
    """EDNS options by code; empty without OPT."""

    has_opt: bool
    tsig: TsigRecord | None
    edns_version: int = 0
    """Of OPT (RFC 6891 §6.1.3)."""

    max_udp_octets: int = 512
    """The largest response that the sender takes over UDP (RFC 1035 §4.2.1, RFC 6891 §6.2.3)."""

    @property
    def is_response(self) -> bool:
        """QR."""
        return bool(self.flags & 0x8000)

    @property
    def opcode(self) -> int:
        """OPCODE: 0 QUERY, 4 NOTIFY."""
        return self.flags >> 11 & 15

    @property
    def rcode(self) -> int:
        """RCODE, without the extension of EDNS."""
        return self.flags & 15

    @property
    def truncated(self) -> bool:
        """TC."""
        return bool(self.flags & 0x0200)


def parse(octets: bytes) -> Message:
    """Parse one message, all of it; MessageMalformed if it is not one, or has two OPTs or a TSIG that is not last."""
    try:
        return _parse(octets)
    except (IndexError, struct.error) as error:
        raise MessageMalformed(f"message of {len(octets)} octets ends too early") from error


def _parse(octets: bytes) -> Message:
    id_, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(octets)
    names: dict[int, bytes] = {}
    at = 12
    question = None
    if questions > 1:
        raise MessageMalformed(f"{questions} questions")
    if questions:
        qname, at = _name(octets, at, names)
        question = (qname, *struct.unpack_from("!HH", octets, at))
        at += 4
    sections: list[tuple[Record, ...]] = []
    for count in (answers, authorities):
        found = []
        for _ in range(count):
            owner, at = _name(octets, at, names)
            rtype, rclass, ttl, size = _RECORD.unpack_from(octets, at)
            if rclass != CLASS_IN:
                raise MessageMalformed(f"record of class {rclass}")
            at += 10
            found.append((owner, rtype, ttl, _rdata(octets, at, size, rtype, names)))
            at += size
        sections.append(tuple(found))
    additional: list[Record] = []
    options: dict[int, bytes] = {}
    has_opt = False
    edns_version, max_udp_octets = 0, 512
    tsig = None
    for number in range(additionals):
        start = at
        owner, at = _name(octets, at, names)
        rtype, rclass, ttl, size = _RECORD.unpack_from(octets, at)
        at += 10
        rdata = octets[at : at + size]
        if len(rdata) != size:
            raise MessageMalformed(f"RDATA of {size} octets is cut short")
        at += size
        if rtype == TYPE_OPT:
            if has_opt or owner != b"\0":
                raise MessageMalformed("more than one OPT, or one that is not at the root")
            has_opt = True
            edns_version, max_udp_octets = ttl >> 16 & 255, max(512, rclass)
            options = _options(rdata)
        elif rtype == TSIG:
            if number != additionals - 1:
                raise MessageMalformed("TSIG is not the last record")
            tsig = TsigRecord(start, owner, rdata)
        else:
            additional.append((owner, rtype, ttl, rdata))
    if at != len(octets):
        raise MessageMalformed(f"{len(octets) - at} octets behind the last record")
    return Message(
        id_,
        flags,
        question,
        sections[0],
        sections[1],
        tuple(additional),
        options,
        has_opt,
        tsig,
        edns_version,
        max_udp_octets,
    )


def _name(octets: bytes, at: int, names: dict[int, bytes]) -> tuple[bytes, int]:
    """The name at *at* uncompressed, and the offset behind it.  *names* remembers names by offset."""
    parts: list[bytes] = []
    pieces: list[tuple[int, int]] = []  # (offset, octets before it), to remember every suffix
    size_so_far = 0
    end = -1
    limit = at
    while True:
        known = names.get(at)
        if known is not None:
            parts.append(known)
            size_so_far += len(known)
            if end < 0:
                end = _skip(octets, at)
            break
        size = octets[at]
        if size >= 0xC0:
            target = (size & 0x3F) << 8 | octets[at + 1]
            if end < 0:
                end = at + 2
            # Only ever backwards, so it ends (RFC 1035 §4.1.4: "a prior occurrence").
            if target >= limit or target < 12:
                raise MessageMalformed(f"compression pointer at {at} does not point back")
            # Remembered too: a chain of pointers, with every name at its end, would be followed 1,300 steps each time.
            pieces.append((at, size_so_far))
            at = limit = target
            continue
        if size > 63:
            raise MessageMalformed(f"label type {size >> 6} at {at}")
        pieces.append((at, size_so_far))
        parts.append(octets[at : at + 1 + size])
        size_so_far += 1 + size
        if size_so_far > MAX_NAME_OCTETS:
            break
        at += 1 + size
        if size == 0:
            if end < 0:
                end = at
            break
    if size_so_far > MAX_NAME_OCTETS:
        raise MessageMalformed(f"name at {limit} is longer than {MAX_NAME_OCTETS} octets")
    name = b"".join(parts)
    if len(name) != size_so_far:
        raise MessageMalformed("a label is cut short")
    for offset, before in pieces:
        names[offset] = name[before:]
    return name, end


def _skip(octets: bytes, at: int) -> int:
    """The offset behind the name at *at*."""
    while size := octets[at]:
        if size >= 0xC0:
            return at + 2
        at += 1 + size
    return at + 1


def _rdata(octets: bytes, at: int, size: int, rtype: int, names: dict[int, bytes]) -> bytes:
    if at + size > len(octets):
        raise MessageMalformed(f"RDATA of {size} octets is cut short")
    compressed = NAMES_IN_RDATA.get(rtype)
    if compressed is None:
        return octets[at : at + size]
    fixed, count = compressed
    end = at + size
    parts = [octets[at : at + fixed]]
    at += fixed
    for _ in range(count):
        name, at = _name(octets, at, names)
        parts.append(name)
    if at > end:
        raise MessageMalformed("a name goes beyond its RDATA")
    parts.append(octets[at:end])
    return b"".join(parts)


def _options(rdata: bytes) -> dict[int, bytes]:
    options = {}
    at = 0
    while at < len(rdata):
        code, size = struct.unpack_from("!HH", rdata, at)
        value = rdata[at + 4 : at + 4 + size]
        if len(value) != size:
            raise MessageMalformed("an EDNS option is cut short")
        options[code] = value
        at += 4 + size
    return options
