"""Is this a root zone?  Is this the flat zone of its hosts?"""
# The answer table relies on it (design: answers, §1): only the last label of a qname decides between referral and
# nxdomain, because every name but the apex is delegated or below a delegation, and nothing is synthesised.

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rootsrv.wire import rdata as rdatas
from rootsrv.wire.name import ROOT, labels, to_text
from rootsrv.zone.contents import Place, ZoneContents
from rootsrv.zone.rejection import NotARoot, NotTheHosts

_GLUE = frozenset({rdatas.A, rdatas.AAAA})
_KNOWN_AT_AN_APEX = frozenset({rdatas.SOA, rdatas.NS, rdatas.DNSKEY, rdatas.NSEC, rdatas.ZONEMD})
_KNOWN_AT_A_DELEGATION = frozenset({rdatas.NS, rdatas.DS, rdatas.NSEC}) | _GLUE
_SYNTHESISED = frozenset({rdatas.CNAME, rdatas.DNAME})
_NOT_AT_A_HOST = frozenset({rdatas.NS, rdatas.DS}) | _SYNTHESISED
NEW_TO_US = "is new to this version of the software"
"""In an alarm's text; doctor looks for it."""

_HASHED_DENIAL = "NSEC3 in place of NSEC"


@dataclass(frozen=True, slots=True)
class Shape:
    """What is unusual about a zone that may be one of ours."""

    alarms: tuple[str, ...]
    """What is answered as ever, but is new to us."""

    limits: tuple[str, ...]
    """Why an answer table cannot hold the zone: what has to be synthesised, or proven in another way."""


def check_root(contents: ZoneContents) -> Shape:
    """What is unusual about a root; NotARoot if it is none: another apex, or no NS there (D1).

    An authentic zone whose shape we cannot serve is not refused but told apart by its `limits`: every instance has the
    same software, and all would refuse it at the same time.
    """
    if contents.apex != ROOT:
        raise NotARoot(f"the zone is {to_text(contents.apex)}, not the root")
    if not has_records(contents, ROOT, rdatas.NS):
        raise NotARoot("the apex has no NS")
    unknown = Counter(
        f"{place.name.lower()} {_text(rtype)}"
        for owner, place in contents.places.items()
        for rtype in _types(contents, owner) - _known_at(place)
        if place is not Place.AUTHORITATIVE
    )
    alarms = [f"{what} ({number}) {NEW_TO_US}, and answered as ever" for what, number in unknown.items()]
    return Shape(tuple(alarms), tuple(_limits_of_a_root(contents)))


def _known_at(place: Place) -> frozenset[int]:
    if place is Place.APEX:
        return _KNOWN_AT_AN_APEX
    return _KNOWN_AT_A_DELEGATION if place is Place.DELEGATION else _GLUE


def _limits_of_a_root(contents: ZoneContents) -> Iterator[str]:
    """What no answer table can hold: only the last label of a qname decides there, and nothing is synthesised."""
    places = contents.places
    with_authority = [owner for owner, place in places.items() if place is not Place.BELOW]
    for rtype in sorted(_SYNTHESISED):
        owners = [owner for owner in with_authority if rtype in _types(contents, owner)]
        if owners:
            yield f"{_text(rtype)} ({_some(owners)})"
    wildcards = [owner for owner in with_authority if owner[:2] == b"\1*"]
    if wildcards:
        yield f"wildcards ({_some(wildcards)})"
    if is_hashed(contents):
        yield _HASHED_DENIAL
    own = [owner for owner in with_authority if places[owner] is Place.AUTHORITATIVE]
    if own:
        yield f"names with authority besides the apex ({_some(own)})"
    deep = [owner for owner in contents.delegations if len(labels(owner)) > 1]
    if deep:
        yield f"delegations of more than one label ({_some(deep)})"


def is_hashed(contents: ZoneContents) -> bool:
    """Whether names are denied by hashes (RFC 5155) instead of NSEC."""
    apex_types = _types(contents, contents.apex)
    return rdatas.NSEC3PARAM in apex_types and rdatas.NSEC not in apex_types


def is_signed(contents: ZoneContents) -> bool:
    """Whether the zone has keys, signatures or denials."""
    dnssec = {rdatas.DNSKEY, rdatas.NSEC, rdatas.NSEC3PARAM}
    return any(rrset.rrsigs or rrset.rtype in dnssec for rrset in contents.rrsets.values())


def check_hosts(contents: ZoneContents, root: ZoneContents) -> Shape:
    """What is unusual about the zone of the hosts; NotTheHosts unless it says of them what *root* says.

    It has to be flat: the apex and, one label below it, names of hosts; no delegation, alias or wildcard.  Types
    besides A and AAAA are let pass: i.root-servers.net has an MX.  A signed one that is not flat may be authentic.
    """
    zone = to_text(contents.apex)
    limits = [*_not_flat(contents), *([_HASHED_DENIAL] if is_hashed(contents) else [])]
    if limits and not is_signed(contents):
        raise NotTheHosts(limits[0])
    ours, theirs = contents.rrset(contents.apex, rdatas.NS), root.rrset(ROOT, rdatas.NS)
    _same(f"{zone} NS", ours.rdatas if ours else (), theirs.rdatas if theirs else (), rdatas.NS)
    for owner in sorted({key[0] for key in [*contents.rrsets, *root.rrsets] if _is_host(key[0], contents.apex)}):
        for rtype in sorted(_GLUE):
            ours, theirs = contents.rrset(owner, rtype), root.rrset(owner, rtype)
            what = f"{to_text(owner)} {_text(rtype)}"
            _same(what, ours.rdatas if ours else (), theirs.rdatas if theirs else (), rtype)
    return Shape((), tuple(limits))


def _not_flat(contents: ZoneContents) -> Iterator[str]:
    for owner, rrsets in contents.by_owner.items():
        if owner != contents.apex and (not _is_host(owner, contents.apex) or owner[:2] == b"\1*"):
            yield f"{to_text(owner)}: only host names one label below {to_text(contents.apex)} have a place here"
        for rrset in rrsets:
            if rrset.rtype in _NOT_AT_A_HOST and (rrset.rtype != rdatas.NS or owner != contents.apex):
                yield f"{to_text(owner)} {_text(rrset.rtype)} has no place in a flat zone of host names"


def _is_host(owner: bytes, apex: bytes) -> bool:
    return owner.endswith(apex) and owner != apex and owner[1 + owner[0] :] == apex


def _same(what: str, ours: tuple[bytes, ...], roots: tuple[bytes, ...], rtype: int) -> None:
    missing = [rdatas.to_text(rtype, rdata) for rdata in roots if rdata not in ours]
    surplus = [rdatas.to_text(rtype, rdata) for rdata in ours if rdata not in roots]
    if missing or surplus:
        parts = [f"the root zone has {', '.join(missing)} besides"] if missing else []
        parts += [f"the root zone does not have {', '.join(surplus)}"] if surplus else []
        raise NotTheHosts(f"{what}: {'; '.join(parts)}")


def has_records(contents: ZoneContents, owner: bytes, rtype: int) -> bool:
    """Whether there is such an RRset, and not only a signature of one."""
    rrset = contents.rrset(owner, rtype)
    return rrset is not None and bool(rrset.rdatas)


def _text(rtype: int) -> str:
    return rdatas.type_text(rtype)


def _types(contents: ZoneContents, owner: bytes) -> set[int]:
    return {rrset.rtype for rrset in contents.by_owner[owner]}


def _some(owners: Iterable[bytes]) -> str:
    shown = [to_text(owner) for owner in owners]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
