"""Before a table is staged: some 250 questions of every kind, answered by it and worked out from the zones themselves.

The table and this know nothing of each other: here is no compiler, only what the zone says.  A difference means that a
program is wrong, not a zone; then the switchover is void and what is in service goes on.
"""

import bisect
import itertools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.wire import edns
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.codes import NOERROR, NXDOMAIN
from rootsrv.wire.message import MessageMalformed, parse
from rootsrv.wire.name import ROOT, canonical_key, is_at_or_below, labels, parent, to_text
from rootsrv.wire.rdata import AAAA, DNSKEY, DS, NS, NSEC, RRSIG, SOA, TXT, ZONEMD, A
from rootsrv.wire.record import Record
from rootsrv.zone.contents import Place, RRset, ZoneContents

QUESTIONS = 250

_AA, _TC, _RCODE = 0x0400, 0x0200, 15

Facts = frozenset[tuple[bytes, int, bytes]]
"""(owner, type, RDATA) of the records of a section: order and TTL apart."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the zones say to one question."""

    rcode: int
    authoritative: bool
    answer: Facts
    authority: Facts
    glue: Facts
    """Addresses that must be there: those of in-domain name servers (RFC 9471 §3.1)."""

    def may_exceed_a_message(self) -> bool:
        """Whether all of it, uncompressed, has more octets than a message over TCP."""
        records = (*self.answer, *self.authority, *self.glue)
        return sum(len(owner) + 10 + len(rdata) for owner, _, rdata in records) > 64_000


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked."""

    qname: bytes
    qtype: int
    do: bool

    def __str__(self) -> str:
        return f"{to_text(self.qname)} {rdatas.type_text(self.qtype)}{' DO' if self.do else ''}"

    def to_wire(self, message_id: int) -> bytes:
        """A query that offers 1232 octets."""
        opt = edns.opt_record(1232, do=self.do)
        return struct.pack("!HHHHHH", message_id, 0, 1, 0, 0, 1) + self.qname + struct.pack("!HH", self.qtype, 1) + opt


class _Zones:
    """The zones, and what follows from them for a question."""

    def __init__(self, root: ZoneContents, hosts: ZoneContents | None) -> None:
        self.root = root
        self.hosts = hosts

    @cached_property
    def _root_chain(self) -> "_Chain":
        return _Chain(self.root)

    @cached_property
    def _hosts_chain(self) -> "_Chain":
        return _Chain(self.hosts or self.root)

    def expect(self, question: Question) -> Expected:
        qname, qtype, do = question.qname, question.qtype, question.do
        hosts, root = self.hosts, self.root
        if hosts is not None and is_at_or_below(qname, hosts.apex) and (qname, qtype) != (hosts.apex, DS):
            return self._expect_from_hosts(hosts, question)
        if qname == ROOT:
            return self._positive_or_nodata(root, question)
        tld = bytes([len(labels(qname)[-1])]) + labels(qname)[-1] + b"\0"
        if (tld, NS) in root.rrsets:
            if qname == tld and qtype == DS:
                return self._positive_or_nodata(root, question)
            secure = root.rrset(tld, DS) or root.rrset(tld, NSEC)
            authority = facts([root.rrsets[tld, NS]], False) | facts([secure] if do else [], do)
            in_domain = [h for h in root.rrsets[tld, NS].rdatas if is_at_or_below(h, tld)]
            glue = facts([root.rrset(host, t) for host in in_domain for t in (A, AAAA)], False)
            return Expected(NOERROR, False, frozenset(), authority, glue)
        proof = [self._root_chain.covering(each) for each in (tld, b"\1*\0")] if do else []
        authority = facts([root.rrset(ROOT, SOA), *proof], do)
        return Expected(NXDOMAIN, True, frozenset(), authority, frozenset())

    def _positive_or_nodata(self, zone: ZoneContents, question: Question) -> Expected:
        found = zone.rrset(question.qname, question.qtype)
        if found and found.rdatas:
            return Expected(NOERROR, True, facts([found], question.do), frozenset(), frozenset())
        proof = zone.rrset(question.qname, NSEC) if question.do else None
        authority = facts([zone.rrset(zone.apex, SOA), proof], question.do)
        return Expected(NOERROR, True, frozenset(), authority, frozenset())

    def _expect_from_hosts(self, hosts: ZoneContents, question: Question) -> Expected:
        if question.qname in hosts.by_owner:
            return self._positive_or_nodata(hosts, question)
        encloser = question.qname  # the closest (RFC 4592 §3.3.1)
        while encloser not in hosts.by_owner:
            encloser = parent(encloser)
        chain = self._hosts_chain
        proof = [chain.covering(question.qname), chain.covering(b"\1*" + encloser)] if question.do else []
        authority = facts([hosts.rrset(hosts.apex, SOA), *proof], question.do)
        return Expected(NXDOMAIN, True, frozenset(), authority, frozenset())

    def questions(self) -> Iterator[Question]:
        """The same for the same zones; spread over all names."""
        for qtype, do in itertools.product((SOA, NS, DNSKEY, NSEC, ZONEMD, TXT, A), (False, True)):
            yield Question(ROOT, qtype, do)
        if self.hosts is not None:
            for owner in itertools.islice(self.hosts.by_owner, 6):
                for qtype, do in itertools.product((A, AAAA, TXT), (False, True)):
                    yield Question(owner, qtype, do)
                yield Question(b"\1x" + owner, A, True)
            for qtype in (SOA, NS, DNSKEY, NSEC):
                yield Question(self.hosts.apex, qtype, True)
            for label in (b"\x08no-such-", b"\1\0", b"\2aa", b"\2zz"):
                yield Question(label + self.hosts.apex, A, True)
                yield Question(label + self.hosts.apex, A, False)
        tlds = self.root.delegations
        step = max(1, len(tlds) // 22)
        for at in range(0, len(tlds), step):
            tld = tlds[(at + self.root.serial) % len(tlds)]
            label = labels(tld)[0]
            yield Question(tld, NS, True)
            yield Question(tld, DS, True)
            yield Question(tld, DS, False)
            yield Question(b"\x03www\x07example" + tld, A, True)
            yield Question(b"\x03www" + tld, AAAA, False)
            for unknown in (label[:40] + b"-", label[:40] + b"0x"):
                yield Question(b"\x03www" + bytes([len(unknown)]) + unknown + b"\0", A, True)
            yield Question(bytes([len(label[:40]) + 1]) + label[:40] + b"\x00\0", A, False)


class _Chain:
    """The NSEC records of a zone in canonical order."""

    def __init__(self, zone: ZoneContents) -> None:
        self._zone = zone
        self._owners = [
            owner for owner, place in zone.places.items() if place is not Place.BELOW and (owner, NSEC) in zone.rrsets
        ]
        self._keys = [canonical_key(owner) for owner in self._owners]

    def covering(self, name: bytes) -> RRset | None:
        """The NSEC that covers *name*, in a zone that has any."""
        if not self._owners:
            return None
        return self._zone.rrsets[self._owners[bisect.bisect_right(self._keys, canonical_key(name)) - 1], NSEC]


def facts(rrsets: Iterable[RRset | None], do: bool) -> Facts:
    """The records of *rrsets* (None is left out), with their signatures if *do*."""
    found = set()
    for rrset in rrsets:
        if rrset is not None:
            found |= {(rrset.owner, rrset.rtype, rdata) for rdata in rrset.rdatas}
            if do:
                found |= {(rrset.owner, RRSIG, rdata) for rdata in rrset.rrsigs}
    return frozenset(found)


def _section(records: Iterable[Record]) -> Facts:
    return frozenset((owner.lower(), rtype, rdatas.canonical(rtype, rdata)) for owner, rtype, _, rdata in records)


def examine(table: AnswerTable, root: ZoneContents, hosts: ZoneContents | None) -> tuple[int, list[str]]:
    """(questions asked, differences): each difference says which question and what is wrong."""
    zones = _Zones(root, hosts)
    responder = Responder(table, ResponderSettings())
    differences = []
    served = tuple((info.name, info.serial) for info in table.zones)
    meant = tuple((zone.apex, zone.serial) for zone in (root, hosts) if zone is not None)
    if served != meant:
        differences.append(f"zones and serials {served}, expected {meant}")
    asked = 0
    for asked, question in enumerate(itertools.islice(zones.questions(), QUESTIONS), 1):
        expected = zones.expect(question)
        for transport in (Transport.UDP, Transport.TCP):
            response = responder.respond(question.to_wire(asked), b"\xc0\0\2\1", transport, 0.0)
            if wrong := _difference(response, expected, question, asked, transport):
                differences.append(f"{question}: {wrong}")
    return asked, differences


def _difference(
    response: bytes | None, expected: Expected, question: Question, message_id: int, transport: Transport
) -> str:
    """What is wrong with *response*; empty if nothing."""
    if response is None:
        return "no response"
    try:
        message = parse(response)
    except MessageMalformed as error:
        return f"malformed: {error}"
    if message.id != message_id or message.question != (question.qname, question.qtype, 1):
        return "another question"
    if message.flags & _RCODE != expected.rcode:
        return f"rcode {message.rcode}, expected {expected.rcode}"
    if bool(message.flags & _AA) != expected.authoritative:
        return f"AA {bool(message.flags & _AA)}, expected {expected.authoritative}"
    if message.flags & _TC:
        return "" if transport is Transport.UDP or expected.may_exceed_a_message() else "truncated over TCP"
    for name, found, meant in (
        ("answer", _section(message.answers), expected.answer),
        ("authority", _section(message.authorities), expected.authority),
    ):
        if found != meant:
            return f"{name}: {len(found - meant)} records too many, {len(meant - found)} missing"
    additional = _section(message.additionals)
    if missing := expected.glue - additional:
        return f"{len(missing)} glue records missing"
    return ""
