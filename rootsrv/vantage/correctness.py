"""Whether a response is what the root zone says (RSSAC047v2 §5.3)."""
# What is asked is drawn as the measurement draws it: nine of ten questions have a positive answer, one has none.  A
# response is right if it is what *one* of the zones of the last 48 hours says (§5.3): its exact RRsets, with
# their signatures, and nothing where nothing belongs.

import random
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from rootsrv.wire.edns import TYPE_OPT
from rootsrv.wire.name import ROOT, canonical_key, to_text
from rootsrv.wire.rdata import DNSKEY, DS, NS, NSEC, RRSIG, SOA
from rootsrv.zone.contents import ZoneContents

ZONES_SECONDS = 48 * 3600.0
"""For so long after the next one a zone is right."""

OFFERED_OCTETS = 1220

_APEX_TYPES = (SOA, NS, DNSKEY)

Sets = dict[tuple[bytes, int], tuple[frozenset[bytes], frozenset[bytes]]]
"""By owner and type: RDATA and the RDATA of the RRSIGs that cover it."""


@dataclass(frozen=True, slots=True)
class CorrectnessQuestion:
    """What is asked."""

    owner: bytes
    rtype: int

    @property
    def text(self) -> str:
        """As people write it."""
        return f"{to_text(self.owner)}/{dns.rdatatype.to_text(dns.rdatatype.RdataType.make(self.rtype))}"

    def to_message(self) -> dns.message.Message:
        """DO=1, 1,220 octets offered (§5.3)."""
        name = dns.name.from_wire(self.owner, 0)[0]
        rtype = dns.rdatatype.RdataType.make(self.rtype)
        query = dns.message.make_query(name, rtype, use_edns=0, want_dnssec=True, payload=OFFERED_OCTETS)
        query.flags &= ~dns.flags.RD
        return query


def draw(zone: ZoneContents, chance: random.Random) -> CorrectnessQuestion:
    """The next question about *zone*."""
    if chance.random() < 0.1:
        label = "".join(chance.choices(string.ascii_lowercase, k=16)).encode()
        return CorrectnessQuestion(bytes([len(label)]) + label + b"\0", 1)
    kind = chance.choice(("ns", "ds", "apex"))
    if kind == "apex":
        return CorrectnessQuestion(ROOT, chance.choice(_APEX_TYPES))
    delegations = zone.delegations
    if kind == "ds":
        delegations = tuple(owner for owner in delegations if (owner, DS) in zone.rrsets) or delegations
    owner = chance.choice(delegations)
    return CorrectnessQuestion(owner, DS if kind == "ds" and (owner, DS) in zone.rrsets else NS)


def fault(question: CorrectnessQuestion, response: dns.message.Message, zones: Sequence[ZoneContents]) -> str:
    """Why *response* is not what one of *zones* says, the first being the newest; empty if it is."""
    if response.flags & dns.flags.TC:
        return "truncated"
    found = [_fault(question, response, zone) for zone in zones]
    return "" if "" in found else (found[0] if found else "there is no zone to compare with")


def _fault(question: CorrectnessQuestion, response: dns.message.Message, zone: ZoneContents) -> str:
    if question.owner == ROOT:
        return _apex_fault(question, response, zone)
    if (question.owner, NS) not in zone.rrsets:
        return _denial_fault(question, response, zone)
    if question.rtype == DS and (question.owner, DS) in zone.rrsets:
        return _positive_fault(question, response, zone) or _empty(response, "authority", "additional")
    return _referral_fault(question, response, zone)


def _apex_fault(question: CorrectnessQuestion, response: dns.message.Message, zone: ZoneContents) -> str:
    if wrong := _positive_fault(question, response, zone):
        return wrong
    if question.rtype == SOA:
        authority = sets(response.authority)
        return "" if authority in ({}, wanted(zone, (ROOT, NS))) else "the authority section is not the NS RRset"
    return _empty(response, "authority", *(("additional",) if question.rtype == DNSKEY else ()))


def _positive_fault(question: CorrectnessQuestion, response: dns.message.Message, zone: ZoneContents) -> str:
    if wrong := _head_fault(response, dns.rcode.NOERROR, authoritative=True):
        return wrong
    return _differs(sets(response.answer), wanted(zone, (question.owner, question.rtype)), "answer")


def _referral_fault(question: CorrectnessQuestion, response: dns.message.Message, zone: ZoneContents) -> str:
    if wrong := _head_fault(response, dns.rcode.NOERROR, authoritative=False) or _empty(response, "answer"):
        return wrong
    owner = question.owner
    proof = DS if (owner, DS) in zone.rrsets else NSEC
    if wrong := _differs(sets(response.authority), wanted(zone, (owner, NS), (owner, proof)), "authority"):
        return wrong
    servers = zone.rrsets[owner, NS].rdatas
    glue = {key for server in servers for key in ((server, 1), (server, 28)) if key in zone.rrsets}
    given = sets(response.additional)
    if any(key not in glue or given[key][0] - set(zone.rrsets[key].rdatas) for key in given):
        return "the additional section has what is no glue of it"
    return "" if given or not glue else "no glue"


def _denial_fault(question: CorrectnessQuestion, response: dns.message.Message, zone: ZoneContents) -> str:
    if wrong := _head_fault(response, dns.rcode.NXDOMAIN, authoritative=True) or _empty(
        response, "answer", "additional"
    ):
        return wrong
    chain = [owner for owner in zone.by_owner if (owner, NSEC) in zone.rrsets]
    asked = canonical_key(question.owner)
    covering = max((owner for owner in chain if canonical_key(owner) <= asked), key=canonical_key, default=ROOT)
    keys = {(ROOT, SOA), (ROOT, NSEC), (covering, NSEC)}
    return _differs(sets(response.authority), wanted(zone, *keys), "authority")


def _head_fault(response: dns.message.Message, rcode: dns.rcode.Rcode, *, authoritative: bool) -> str:
    if response.rcode() != rcode:
        return f"rcode {dns.rcode.to_text(response.rcode())}, not {dns.rcode.to_text(rcode)}"
    if bool(response.flags & dns.flags.AA) is not authoritative:
        return f"AA is {int(not authoritative)}"
    return ""


def _empty(response: dns.message.Message, *names: str) -> str:
    for name in names:
        if getattr(response, name):
            return f"the {name} section is not empty"
    return ""


def _differs(given: Sets, expected: Sets, section: str) -> str:
    if given == expected:
        return ""
    for key in sorted(expected.keys() | given.keys()):
        if given.get(key) != expected.get(key):
            what = f"{to_text(key[0])}/{dns.rdatatype.to_text(dns.rdatatype.RdataType.make(key[1]))}"
            if key not in given:
                return f"the {section} section lacks {what}"
            if key not in expected:
                return f"the {section} section has {what}"
            if given[key][0] == expected[key][0]:
                return f"the {section} section has other signatures of {what}"
            return f"the {section} section has another {what}"
    return f"the {section} section differs"


def wanted(zone: ZoneContents, *keys: tuple[bytes, int]) -> Sets:
    """What a section should have: these RRsets with their signatures."""
    return {
        key: (frozenset(rrset.rdatas), frozenset(rrset.rrsigs))
        for key in keys
        if (rrset := zone.rrsets.get(key)) is not None
    }


def sets(section: Iterable[dns.rrset.RRset]) -> Sets:
    """The RRsets of a section; signatures without what they sign have an empty one."""
    rdatas: dict[tuple[bytes, int], set[bytes]] = {}
    rrsigs: dict[tuple[bytes, int], set[bytes]] = {}
    for rrset in section:
        owner = rrset.name.canonicalize().to_wire()
        assert owner is not None
        if rrset.rdtype == TYPE_OPT:
            continue
        into = rrsigs if rrset.rdtype == RRSIG else rdatas
        key = (owner, int(rrset.covers if rrset.rdtype == RRSIG else rrset.rdtype))
        into.setdefault(key, set()).update(rdata.to_digestable() for rdata in rrset)
    return {
        key: (frozenset(rdatas.get(key, ())), frozenset(rrsigs.get(key, ()))) for key in rdatas.keys() | rrsigs.keys()
    }
