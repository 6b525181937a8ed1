"""Zones to permitted peers: AXFR (RFC 5936) and IXFR (RFC 1995) as messages that are made once and sent to many."""
# Contents in, messages out that lack only what differs from peer to peer: id, question (its case), OPT, TSIG.
#
# Compression.  A pointer reaches 16,383 octets into a message (RFC 1035 §4.1.4), so that in a message of 64 KB three
# quarters of the names could not be pointed at, and in one of 16 KB every name is spelt out four times as often.  The
# order of the records of an AXFR is free (RFC 5936 §2.2), so within a message those that name others (NS …) go first:
# all names are then within reach.  A genuine root: 1,323 KB in 22 messages, against 1,517 KB in 24 of 64 KB and 1,327
# KB in 83 of 16 KB in the zone's order.  The order of an IXFR means something: messages of 16 KB.
#
# Few messages, because each costs every peer and us a TSIG.

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rootsrv.wire import edns
from rootsrv.wire import name as names
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.message import CLASS_IN, NAMES_IN_RDATA
from rootsrv.wire.record import Record
from rootsrv.zone.contents import ZoneContents

WHOLE_OCTETS = 62_000
"""About so much in a message of an AXFR; what OPT and TSIG add stays below the 65,535 of RFC 1035 §4.2.2."""

DIFFERENCE_OCTETS = 16_000
"""About so much in a message of an IXFR."""

MAX_OCTETS = 65_000
"""The most that is in a message before OPT and TSIG."""

MAX_UDP_OCTETS = 1232  # 1280 (IPv6's least MTU) − 40 − 8: never fragmented (DNS flag day 2020)

QR, AA = 0x8000, 0x0400

_REACH = 0x4000
_FIXED = struct.Struct("!HHIH")


@dataclass(frozen=True, slots=True)
class ResponseOpt:
    """The OPT record of a response (RFC 6891 §6.1.1)."""

    expire_seconds: int | None = None
    """For the EXPIRE option (RFC 7314), where the response is about a zone that is given out."""

    def record(self, rcode: int = 0) -> bytes:
        """In wire format; *rcode* gives the upper eight bits (RFC 6891 §6.1.3)."""
        option = b"" if self.expire_seconds is None else edns.expire(self.expire_seconds)
        return edns.opt_record(MAX_UDP_OCTETS, option, rcode=rcode)


def respond(
    message_id: int,
    question: bytes,
    *,
    rcode: int = 0,
    flags: int = QR,
    answers: Iterable[bytes] = (),
    edns: ResponseOpt | None = None,
) -> bytes:
    """One message; *answers* in wire format; with OPT if *edns* is given."""
    records = list(answers)
    counts = (1 if question else 0, len(records), 0, 1 if edns else 0)
    octets = struct.pack("!HHHHHH", message_id, flags | rcode & 15, *counts) + question + b"".join(records)
    return octets + edns.record(rcode) if edns else octets


def wire(record: Record) -> bytes:
    """A record in wire format, nothing compressed."""
    owner, rtype, ttl, rdata = record
    return owner + _FIXED.pack(rtype, CLASS_IN, ttl, len(rdata)) + rdata


def soa_record(contents: ZoneContents) -> Record:
    """The SOA of *contents* as a record."""
    soa = contents.rrsets[contents.apex, rdatas.SOA]
    return contents.apex, rdatas.SOA, soa.ttl, soa.rdatas[0]


class Difference(NamedTuple):
    """From one version of a zone to the next: the old SOA and what goes, the new SOA and what comes (RFC 1995 §4)."""

    older: int
    newer: int
    removed: Sequence[Record]
    added: Sequence[Record]

    @property
    def octets(self) -> int:
        """About so much in a transfer; compression not counted."""
        return sum(len(owner) + 10 + len(rdata) for owner, _, _, rdata in (*self.removed, *self.added))


def transfer_records(contents: ZoneContents, differences: Iterable[Difference] = ()) -> Iterator[Record]:
    """All records of a transfer in order: AXFR, or IXFR over *differences* (oldest first)."""
    soa = soa_record(contents)
    yield soa
    whole = True
    for each in differences:
        whole = False
        yield from each.removed
        yield from each.added
    if whole:
        yield from (each for each in contents.records() if each[1] != rdatas.SOA)
    yield soa


class ReadyMessage(NamedTuple):
    """One message of a transfer, all but id, flags, question, OPT and TSIG."""

    answers: int
    octets: bytes
    """All records.  Pointers count on the question in the first message, and on none in the others (RFC 5936 §2.2)."""


def ready_messages(zone: bytes, records: Iterable[Record], *, ordered: bool) -> Iterator[ReadyMessage]:
    """The messages of a transfer of *zone*; *ordered*: the order of the records means something (IXFR).

    A message is made, in about a millisecond, only when the next is asked for: whoever has other things to do does them
    in between.
    """
    limit = DIFFERENCE_OCTETS if ordered else WHOLE_OCTETS
    pending: list[Record] = []
    size = 0
    start = 12 + len(zone) + 4
    owner_before = b""
    for record in records:
        owner, rtype, _, rdata = record
        grows = 10 + len(rdata) + (2 if owner == owner_before else len(owner))
        if pending and size + grows > limit:
            for message in _packed(zone, pending, start, ordered=ordered):
                yield message
                start = 12
            pending, size = [], 0
        pending.append(record)
        # Most names end up as a pointer; where that was too hopeful, `_packed` makes two messages of it.
        size += 10 + (min(len(rdata), 9) if rtype in NAMES_IN_RDATA and rtype != rdatas.SOA else len(rdata))
        size += 2 if owner == owner_before else min(len(owner), 9)
        owner_before = owner
    if pending:
        yield from _packed(zone, pending, start, ordered=ordered)


def _packed(zone: bytes, records: list[Record], start: int, *, ordered: bool) -> Iterator[ReadyMessage]:
    octets = _compressed(zone, records if ordered else _names_first(records), start)
    if start + len(octets) <= MAX_OCTETS or len(records) == 1:
        yield ReadyMessage(len(records), octets)
        return
    middle = len(records) // 2
    yield from _packed(zone, records[:middle], start, ordered=ordered)
    yield from _packed(zone, records[middle:], 12, ordered=ordered)


def _names_first(records: list[Record]) -> list[Record]:
    """The records that hold names first; an SOA at either end stays there."""
    first = 1 if records[0][1] == rdatas.SOA else 0
    last = len(records) - (1 if len(records) > first and records[-1][1] == rdatas.SOA else 0)
    between = sorted(records[first:last], key=lambda record: record[1] not in NAMES_IN_RDATA)
    return [*records[:first], *between, *records[last:]]


def _compressed(zone: bytes, records: Iterable[Record], start: int) -> bytes:
    """*records* in wire format, as they stand behind *start* octets of a message: a header, or also a question."""
    pointers: dict[bytes, bytes] = {}
    """By name (wire format), where it stands first."""

    def name(whole: bytes, where: int) -> bytes:
        known = pointers.get(whole)
        if known is not None:
            return known
        at = 0
        while whole[at]:
            suffix = whole[at:]
            known = pointers.get(suffix)
            if known is not None:
                return whole[:at] + known
            if where + at < _REACH:
                pointers[suffix] = (0xC000 | where + at).to_bytes(2, "big")
            at += 1 + whole[at]
        return whole

    if start > 12:
        name(zone, 12)
    parts = []
    size = start
    for owner, rtype, ttl, rdata in records:
        shown = name(owner, size)
        fields = NAMES_IN_RDATA.get(rtype)
        if fields is not None:
            rdata = _rdata(rdata, *fields, size + len(shown) + 10, name)
        part = b"".join((shown, _FIXED.pack(rtype, CLASS_IN, ttl, len(rdata)), rdata))
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _rdata(rdata: bytes, fixed: int, count: int, where: int, name: Callable[[bytes, int], bytes]) -> bytes:
    """*rdata* (it begins at *where*) with its *count* names behind *fixed* octets compressed."""
    parts = [rdata[:fixed]]
    size, at = fixed, fixed
    for _ in range(count):
        behind = names.end(rdata, at)
        shown = name(rdata[at:behind], where + size)
        parts.append(shown)
        size += len(shown)
        at = behind
    parts.append(rdata[at:])
    return b"".join(parts)
