"""Compiles verified zones into an answer table: every answer that the root and its host zone can give."""
# Which answers there are (design: answers.md §1):
#
#   every owner of authority   per qtype that exists, ANY, RRSIG, and nodata, with DO=0 and DO=1
#   every delegation           referral and answer to qtype DS, with DO=0 and DO=1
#   every NSEC of the root     the nxdomain (DO=1) for the gap behind it; one for DO=0
#   the host zone              nxdomain: one for DO=0; with DO=1 for every gap, and for what is below every host
#
# Equal answers are stored once: TLDs that share their name servers share the referral, since names are compressed
# against the question.

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rootsrv.answer.body import ADDITIONAL, ANSWER, AUTHORITY, Body
from rootsrv.answer.table import (
    NAME_HAS_HOST_ZONE,
    NAME_IS_DELEGATION,
    Answer,
    NameInfo,
    OwnerInfo,
    TableContents,
    ZoneInfo,
    to_octets,
)
from rootsrv.wire import name as names
from rootsrv.wire.codes import NXDOMAIN
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.verify import VerifiedZone

AA = 0x0400

A, NS, SOA, AAAA, DS, RRSIG, NSEC, ANY = 1, 2, 6, 28, 43, 46, 47, 255

ROOT_ZONE, HOST_ZONE = 0, 1
"""Numbers of the zones in the table."""

_NO_ANSWER = (0, 0)


def compile_table(root: VerifiedZone, hosts: VerifiedZone | None = None) -> bytes:
    """The answer table of the root zone and of the zone that holds its name servers' addresses.

    Deterministic: the same zones give the same octets.  The zones' shapes were checked by `verify`; ValueError for one
    with limits.
    """
    for zone in (root, hosts):
        if zone is not None and zone.limits:
            raise ValueError(f"{names.to_text(zone.contents.apex)}: {'; '.join(zone.limits)}")
    return to_octets(_Compiler(root, hosts).contents())


@dataclass(frozen=True, slots=True)
class _Glue:
    needed: list[RRset]
    """Addresses of in-domain name servers (RFC 9471 §2.1)."""

    optional: list[RRset]
    """Addresses of sibling name servers (RFC 9471 §2.2), or of the root's own (RFC 9609 §4.2)."""


class _Compiler:
    def __init__(self, root: VerifiedZone, hosts: VerifiedZone | None) -> None:
        self._zones = [root] if hosts is None else [root, hosts]
        self._root = root.contents
        self._hosts = None if hosts is None else hosts.contents
        self._answers: list[Answer] = []
        self._with_body: dict[bytes, list[int]] = {}
        """Numbers of the answers that have a body: to hash all of an answer takes longer than to compare a few."""

        self._root_denial: Body | None = None
        """What all signed denials of names in the root begin with, for copies."""

    def contents(self) -> TableContents:
        owners = tuple(self._owners())
        zones = []
        for number, verified in enumerate(self._zones):
            zone, soa = verified.contents, verified.contents.soa
            plain = self._number(self._negative(zone, number, zone.apex, NXDOMAIN, [], signed=False))
            timers = (soa.serial, soa.refresh, soa.retry, soa.expire)
            validity = (int(verified.not_before or 0), int(verified.signatures_until or 0))
            zones.append(ZoneInfo(zone.apex, *timers, *validity, (plain, 0 if number == ROOT_ZONE else plain)))
        all_names = tuple(self._names())
        minimums = tuple(verified.contents.soa.minimum for verified in self._zones)
        return TableContents(tuple(zones), minimums, all_names, owners, tuple(self._answers))

    def _number(self, answer: Answer) -> int:
        alike = self._with_body.setdefault(answer.body, [])
        for number in alike:
            if self._answers[number - 1] == answer:
                return number
        self._answers.append(answer)
        alike.append(len(self._answers))
        return len(self._answers)

    # ── the root's names ────────────────────────────────────────────────────────────────────────────────────────

    def _names(self) -> Iterator[NameInfo]:
        """The root and every delegation, in canonical order."""
        host_label = names.labels(self._hosts.apex)[-1] if self._hosts else None
        of_wildcard = _denial_of_wildcard(self._root, self._root.delegations)
        for owner in (self._root.apex, *self._root.delegations):
            label = owner[1:-1]
            flags = NAME_HAS_HOST_ZONE if label == host_label else 0
            denial = _both(self._root.rrset(owner, NSEC), of_wildcard)
            nxdomain = self._number(
                self._negative(self._root, ROOT_ZONE, names.ROOT, NXDOMAIN, denial, signed=of_wildcard is not None)
            )
            if owner == self._root.apex:
                yield NameInfo(b"", flags, _NO_ANSWER, _NO_ANSWER, nxdomain)
                continue
            plain, do = self._referrals(owner)
            do_referral = self._number(do)  # before what is taken from it
            referral = self._number(plain), do_referral
            ds = tuple(self._number(each) for each in self._ds(owner))
            yield NameInfo(label, flags | NAME_IS_DELEGATION, referral, (ds[0], ds[1]), nxdomain)

    def _referrals(self, owner: bytes) -> tuple[Answer, Answer]:
        """With DO=0 and DO=1: RFC 1034 §4.3.2 step 3b, RFC 4035 §3.1.4.1, RFC 9471 §3.1."""
        glue = self._glue(owner)
        plain = Body(owner)
        plain.add(AUTHORITY, _present(self._root, owner, NS), signed=False, seams=True)
        proof = self._root.rrset(owner, DS) or self._root.rrset(owner, NSEC)
        do = plain.copy()
        if proof is not None:
            do.add(AUTHORITY, proof, signed=True, seams=True)
        for addresses in glue.needed:
            plain.add(ADDITIONAL, addresses, signed=False)
        _add_optional(plain, glue.optional, signed=False)
        do.go_on_as(plain)
        return plain.finish(flags=0, zone=ROOT_ZONE), do.finish(flags=0, zone=ROOT_ZONE, in_one=True)

    def _glue(self, owner: bytes) -> _Glue:
        """The root zone's addresses of the name servers of *owner*."""
        glue = _Glue([], [])
        for host in _present(self._root, owner, NS).rdatas:
            place = glue.needed if names.is_at_or_below(host, owner) else glue.optional
            place.extend(_addresses(self._root, host))
        return glue

    def _ds(self, owner: bytes) -> tuple[Answer, Answer]:
        """With DO=0 and DO=1: the parent side of the cut answers for DS, with authority (RFC 4035 §3.1.4.1)."""
        ds = self._root.rrset(owner, DS)
        if ds is None:
            nsec = self._root.rrset(owner, NSEC)
            denial = [nsec] if nsec else []
            plain, do = (
                self._negative(self._root, ROOT_ZONE, owner, 0, denial, signed=signed) for signed in (False, True)
            )
            return plain, do
        bodies = Body(owner), Body(owner)
        for body, signed in zip(bodies, (False, True), strict=True):
            body.add(ANSWER, ds, signed=signed, seams=True)
        return bodies[0].finish(flags=AA, zone=ROOT_ZONE), bodies[1].finish(flags=AA, zone=ROOT_ZONE)

    # ── names with authority ────────────────────────────────────────────────────────────────────────────────────

    def _owners(self) -> Iterator[OwnerInfo]:
        yield self._owner(self._root, ROOT_ZONE, self._root.apex)
        if self._hosts is not None:
            for owner in self._hosts.by_owner:
                yield self._owner(self._hosts, HOST_ZONE, owner)

    def _owner(self, zone: ZoneContents, number: int, owner: bytes) -> OwnerInfo:
        types = {}
        for rrset in zone.by_owner[owner]:
            types[rrset.rtype] = self._pair(zone, number, rrset)
        # RFC 8482 §4.1: ANY is answered with one RRset, the smallest that every such name has.
        types[ANY] = types[SOA] if SOA in types else types[min(types)]
        signed = zone.by_owner[owner][0] if SOA not in types else _present(zone, owner, SOA)
        if signed.rrsigs:
            # RFC 8482 §7 gives RRSIG queries the same cause; the signatures of one RRset are a minimal answer.
            body = Body(owner)
            body.add_records(ANSWER, owner, RRSIG, signed.ttl, signed.rrsigs)
            one = self._number(body.finish(flags=AA, zone=number))
            types[RRSIG] = (one, one)
        nsec = zone.rrset(owner, NSEC)
        denial = [nsec] if nsec else []
        nodata = tuple(
            self._number(self._negative(zone, number, owner, 0, denial, signed=signed_answer))
            for signed_answer in (False, True)
        )
        if number == ROOT_ZONE:
            return OwnerInfo(owner, number, types, (nodata[0], nodata[1]))
        # The wildcard that is not there is at the apex, or below the host when that is the closest encloser (RFC 4592
        # §3.3.1); then one NSEC covers both names, since what is below a host comes right behind it.
        behind = _both(nsec, _denial_of_wildcard(zone, (each for each in zone.by_owner if each != zone.apex)))
        nxdomain = (
            self._number(self._negative(zone, number, zone.apex, NXDOMAIN, behind, signed=True)),
            self._number(self._negative(zone, number, zone.apex, NXDOMAIN, denial, signed=True)),
        )
        return OwnerInfo(owner, number, types, (nodata[0], nodata[1]), nxdomain)

    def _pair(self, zone: ZoneContents, number: int, rrset: RRset) -> tuple[int, int]:
        plain, do = (self._number(self._positive(zone, number, rrset, do=do)) for do in (False, True))
        return plain, do

    def _positive(self, zone: ZoneContents, number: int, rrset: RRset, *, do: bool) -> Answer:
        body = Body(rrset.owner)
        body.add(ANSWER, rrset, signed=do)
        if rrset.rtype == NS:
            # RFC 9609 §4.2: the addresses of the root's name servers as far as they fit, without TC when they do not.
            found: list[RRset] = []
            for host in rrset.rdatas:
                addresses = list(_addresses(zone, host))
                if not addresses and self._hosts is not None:
                    addresses = list(_addresses(self._hosts, host))
                found += addresses
            _add_optional(body, found, signed=do)
        return body.finish(flags=AA, zone=number)

    def _negative(
        self, zone: ZoneContents, number: int, anchor: bytes, rcode: int, denial: Iterable[RRset], *, signed: bool
    ) -> Answer:
        """RFC 2308 §2–3, RFC 4035 §3.1.3: the SOA and, if *signed*, the NSEC records in *denial*."""
        soa = _present(zone, zone.apex, SOA)
        of_root = signed and anchor == names.ROOT
        body = self._root_denial if of_root else None
        if body is None:
            body = Body(anchor)
            body.add(AUTHORITY, soa, signed=signed, ttl=min(soa.ttl, zone.soa.minimum), seams=True)
        if of_root:
            self._root_denial, body = body, body.copy()
        if signed:
            for nsec in denial:
                body.add(AUTHORITY, nsec, signed=True, seams=True)
        return body.finish(flags=AA | rcode, zone=number)


def _denial_of_wildcard(zone: ZoneContents, owners: Iterable[bytes]) -> RRset | None:
    """The NSEC that covers the wildcard at the apex (RFC 4035 §3.1.3.2); None in an unsigned zone.

    *owners* are the other names with one, each a label below the apex.  It is the apex's own NSEC unless there is a
    label before "*": one that begins with "!", say.
    """
    before = [owner for owner in owners if owner[1 : 1 + owner[0]] < b"*"]
    return zone.rrset(max(before, key=lambda owner: owner[1 : 1 + owner[0]], default=zone.apex), NSEC)


def _both(of_name: RRset | None, of_wildcard: RRset | None) -> list[RRset]:
    """What denies a name and the wildcard that could have made it: often one NSEC does both."""
    if of_name is None or of_wildcard is None:
        return []
    return [of_name] if of_name.owner == of_wildcard.owner else [of_name, of_wildcard]


def _present(zone: ZoneContents, owner: bytes, rtype: int) -> RRset:
    """An RRset that every verified zone has."""
    rrset = zone.rrset(owner, rtype)
    if rrset is None:
        raise AssertionError(f"{names.to_text(owner)} has no type {rtype}: verify should not have accepted this zone")
    return rrset


def _add_optional(body: Body, addresses: list[RRset], *, signed: bool) -> None:
    """Append what may be left out, smallest first: then what is left out is what would not have fitted.

    Every owner here was written before, as a name server, so that each is a pointer and order changes no size.
    """

    def octets(rrset: RRset) -> int:
        return sum(_RECORD_OCTETS + len(each) for each in (*rrset.rdatas, *(rrset.rrsigs if signed else ())))

    for rrset in sorted(addresses, key=octets):
        body.add(ADDITIONAL, rrset, signed=signed, needed=False)


_RECORD_OCTETS = 12  # pointer, type, class, TTL, RDLENGTH


def _addresses(zone: ZoneContents, host: bytes) -> Iterator[RRset]:
    for rtype in (A, AAAA):
        rrset = zone.rrset(host, rtype)
        if rrset is not None:
            yield rrset
