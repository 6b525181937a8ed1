"""Zones that are only given out: believed by the DS in a verified parent, or not at all."""

import time
from dataclasses import replace

import pytest

from rootsrv.demo.sign import sign_rrset
from rootsrv.wire.rdata import DS, NS, NSEC, NSEC3, NSEC3PARAM, TXT, ZONEMD, A, type_bitmap
from rootsrv.zone import digest, nsec3
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.rejection import (
    DigestMismatch,
    DigestMissing,
    KeyUntrusted,
    NsecChainBroken,
    SignatureExpired,
    SignatureInvalid,
    SignatureMissing,
    ZoneRejected,
)
from rootsrv.zone.verify import verify_delegated
from tests.localroot.zones import ARPA, CC, delegated, ds_of, keys_of, signing
from tests.zone.altered import flipped, rrset_at, with_rrset, without

NOW = time.time()
GOOD = delegated(ARPA, 7)
DELEGATION = RRset(ARPA, DS, 86_400, (ds_of(ARPA),))


def test_a_zone_is_believed_by_the_ds_in_its_parent() -> None:
    zone = verify_delegated(GOOD, DELEGATION, NOW, zonemd="required")
    assert zone.validated
    assert zone.alarms == ()
    assert [each.split(":")[0] for each in zone.checks] == ["DNSKEY", "RRSIG", "NSEC", "ZONEMD"]
    assert zone.signatures_until is not None


@pytest.mark.parametrize(
    ("delegation", "text"),
    [
        (None, "has no DS"),
        (RRset(ARPA, DS, 86_400, ()), "has no DS"),
        (RRset(ARPA, DS, 86_400, (ds_of(ARPA, 1),)), "SHA-256"),
        (RRset(ARPA, DS, 86_400, (flipped(ds_of(ARPA)),)), "none of them is the key"),
    ],
    ids=["none", "empty", "SHA-1 only", "of another key"],
)
def test_without_a_usable_ds_nothing_is_believed(delegation: RRset | None, text: str) -> None:
    with pytest.raises(KeyUntrusted, match=text):
        verify_delegated(GOOD, delegation, NOW)


GLUE = rrset_at(GOOD, "ns.child.arpa.", A)


@pytest.mark.parametrize(
    ("contents", "fault"),
    [
        (with_rrset(GOOD, replace(GLUE, rdatas=(b"\1\2\3\4",))), DigestMismatch),
        (without(GOOD, "ns.child.arpa.", A), DigestMismatch),
        (without(GOOD, "www.arpa.", 28), NsecChainBroken),
        (without(GOOD, "www.arpa.", NSEC), NsecChainBroken),
        (with_rrset(GOOD, replace(rrset_at(GOOD, "*.wild.arpa.", TXT), rdatas=(b"\4none",))), SignatureInvalid),
        (with_rrset(GOOD, RRset(b"\3new" + ARPA, TXT, 60, (b"\3new",))), SignatureMissing),
        (without(GOOD, "arpa.", ZONEMD), NsecChainBroken),
        (without(GOOD, "arpa.", NS), ZoneRejected),
        (delegated(ARPA, 7, zonemd=False), DigestMissing),
    ],
    ids=["glue", "glue gone", "a type gone", "NSEC gone", "forged", "unsigned", "ZONEMD gone", "no NS", "no ZONEMD"],
)
def test_what_is_wrong_with_it_is_named(contents: ZoneContents, fault: type[ZoneRejected]) -> None:
    with pytest.raises(fault):
        verify_delegated(contents, DELEGATION, NOW, zonemd="required")


def test_without_zonemd_it_is_taken_where_that_is_enough_and_told() -> None:
    zone = verify_delegated(delegated(ARPA, 7, zonemd=False), DELEGATION, NOW)
    assert any("ZONEMD" in each for each in zone.alarms)


def test_signatures_that_are_over_and_those_of_another_zone_are_refused() -> None:
    with pytest.raises(SignatureExpired):
        verify_delegated(GOOD, DELEGATION, NOW + 11 * 86_400)
    with pytest.raises(KeyUntrusted):
        verify_delegated(delegated(CC, 7), RRset(CC, DS, 86_400, (ds_of(ARPA),)), NOW)


def hashed(*, affirms_zonemd: bool, has_zonemd: bool, iterations: int = 0) -> ZoneContents:
    """`arpa.` with the NSEC3 record of its apex in place of the NSEC chain."""
    good = delegated(ARPA, 7, zonemd=False)
    rrsets = {key: rrset for key, rrset in good.rrsets.items() if rrset.rtype not in {NSEC, ZONEMD}}
    how = signing(*keys_of(ARPA))
    head = b"\1\0" + iterations.to_bytes(2, "big") + b"\1\xaa"
    owner = nsec3.hashed_owner(ARPA, iterations, b"\xaa")
    types = {2, 6, 46, 48, NSEC3PARAM, *([ZONEMD] if affirms_zonemd else [])}
    made = [
        RRset(ARPA, NSEC3PARAM, 0, (head,)),
        RRset(owner, NSEC3, 60, (head + b"\x14" + bytes(20) + type_bitmap(types),)),
    ]
    rrsets |= {(each.owner, each.rtype): sign_rrset(each, ARPA, how) for each in made}
    contents = ZoneContents(ARPA, rrsets)
    if has_zonemd:
        zonemd = RRset(ARPA, ZONEMD, 3600, ())
        contents = with_rrset(contents, zonemd)
        zonemd = replace(zonemd, rdatas=(digest.zonemd_rdata(contents, 1),))
        contents = with_rrset(contents, sign_rrset(zonemd, ARPA, how))
    return contents


def test_the_owner_of_an_nsec3_record_is_that_of_rfc_5155() -> None:
    assert (
        nsec3.hashed_owner(b"\7example\0", 12, bytes.fromhex("aabbccdd"))[1:33] == b"0p9mhaveqvm6t7vbl5lop2u3t2rp3tom"
    )


def test_with_hashed_denial_the_apex_says_whether_there_is_a_zonemd() -> None:
    zone = verify_delegated(hashed(affirms_zonemd=True, has_zonemd=True), DELEGATION, NOW, zonemd="required")
    assert any("SHA-384" in each for each in zone.checks)
    for affirms, has in ((True, False), (False, True)):
        with pytest.raises(DigestMissing, match="contradicts"):
            verify_delegated(hashed(affirms_zonemd=affirms, has_zonemd=has), DELEGATION, NOW)
    verify_delegated(hashed(affirms_zonemd=False, has_zonemd=False), DELEGATION, NOW)
    with pytest.raises(NsecChainBroken, match="iterations"):
        verify_delegated(hashed(affirms_zonemd=True, has_zonemd=True, iterations=151), DELEGATION, NOW)
