"""Zones that differ from a good one in exactly one thing."""

from collections.abc import Iterable
from dataclasses import replace

from rootsrv.demo.sign import Signing, sign_rrset
from rootsrv.wire.name import from_text
from rootsrv.zone.contents import RRset, ZoneContents


def with_rrset(contents: ZoneContents, *rrsets: RRset) -> ZoneContents:
    """*contents* with these RRsets in place of those of the same owner and type, or in addition."""
    return ZoneContents(contents.apex, {**contents.rrsets, **{(rrset.owner, rrset.rtype): rrset for rrset in rrsets}})


def without(contents: ZoneContents, owner: str, rtype: int) -> ZoneContents:
    """*contents* without one RRset and its signatures."""
    gone = (from_text(owner), rtype)
    assert gone in contents.rrsets
    return ZoneContents(contents.apex, {key: rrset for key, rrset in contents.rrsets.items() if key != gone})


def rrset_at(contents: ZoneContents, owner: str, rtype: int) -> RRset:
    """The RRset that has to be there."""
    found = contents.rrset(from_text(owner), rtype)
    assert found is not None
    return found


def resigned(rrset: RRset, signing: Signing, **changes: object) -> RRset:
    """*rrset* with *changes*, signed as if its owner had wanted them."""
    return sign_rrset(replace(rrset, rrsigs=(), **changes), b"\0", signing)  # type: ignore[arg-type]


def flipped(octets: bytes, at: int = -1) -> bytes:
    """*octets* with one bit changed, in the octet *at*."""
    changed = bytearray(octets)
    changed[at] ^= 1
    return bytes(changed)


def with_first_changed(values: Iterable[bytes], at: int = -1) -> tuple[bytes, ...]:
    """RDATA in canonical order, after one bit changed in the first of *values*."""
    first, *rest = values
    return tuple(sorted([flipped(first, at), *rest]))
