"""Is the NSEC chain closed, and does it tell the truth (RFC 4034 §4, RFC 4035 §2.3)?"""

from rootsrv.wire import rdata as rdatas
from rootsrv.wire.name import to_text
from rootsrv.zone.contents import Place, ZoneContents
from rootsrv.zone.dnssec import is_authoritative
from rootsrv.zone.rejection import NsecChainBroken


def check_chain(contents: ZoneContents) -> tuple[int, list[str]]:
    """Names in the chain, and alarms; NsecChainBroken at the first name whose NSEC is not as it has to be.

    Every name has an NSEC but those below a delegation (RFC 4035 §2.3), which are not the zone's to affirm or deny.
    """
    owners = [owner for owner, place in contents.places.items() if place is not Place.BELOW]
    ttls = set()
    for owner, following in zip(owners, [*owners[1:], contents.apex], strict=True):
        rrset = contents.rrset(owner, rdatas.NSEC)
        if rrset is None or len(rrset.rdatas) != 1:
            count = len(rrset.rdatas) if rrset else 0
            raise NsecChainBroken(f"{to_text(owner)} has {count} NSEC records, expected one")
        ttls.add(rrset.ttl)
        next_owner = rdatas.nsec_next(rrset.rdatas[0])
        if next_owner != following:
            raise NsecChainBroken(
                f"{to_text(owner)} NSEC: the next name is {to_text(next_owner)}, expected {to_text(following)}"
            )
        expected = rdatas.type_bitmap(_types(contents, owner))
        bitmap = rdatas.nsec_bitmap(rrset.rdatas[0])
        if bitmap != expected:
            raise NsecChainBroken(
                f"{to_text(owner)} NSEC: the type bitmap says {_list(bitmap)}, the zone has {_list(expected)}"
            )
    return len(owners), _ttl_alarms(contents, ttls)


def _types(contents: ZoneContents, owner: bytes) -> set[int]:
    types = set()
    place = contents.places[owner]
    for rrset in contents.by_owner[owner]:
        if rrset.rtype == rdatas.NS or is_authoritative(rrset, place):
            types.add(rrset.rtype)
            if rrset.rrsigs:
                types.add(rdatas.RRSIG)
    return types


def _ttl_alarms(contents: ZoneContents, ttls: set[int]) -> list[str]:
    # An alarm and no more: the TTL is signed, so it is what the signer wanted, and denials stay true.
    soa_rrset = contents.rrset(contents.apex, rdatas.SOA)
    assert soa_rrset is not None
    expected = min(soa_rrset.ttl, contents.soa.minimum)
    if ttls == {expected}:
        return []
    found = ", ".join(map(str, sorted(ttls)))
    return [f"the NSEC TTL is {found}, expected the lesser of SOA TTL and MINIMUM, {expected} (RFC 9077 §3)"]


def _list(bitmap: bytes) -> str:
    return " ".join(map(rdatas.type_text, sorted(rdatas.types_in_bitmap(bitmap)))) or "nothing"
