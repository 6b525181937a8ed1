"""Every reason for which a zone is refused, each with the text that the operator reads."""

from dataclasses import replace

import pytest

from rootsrv.demo.sign import SigningKey, sign_root
from rootsrv.demo.signed import generate_keys, generate_root
from rootsrv.wire.name import ROOT, from_text
from rootsrv.wire.rdata import AAAA, DNSKEY, DS, NS, NSEC, RRSIG, SOA, TXT, ZONEMD, A, nsec_bitmap, type_bitmap
from rootsrv.zone import digest, instant
from rootsrv.zone.anchors import TrustAnchor, TrustAnchors
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.rejection import (
    DigestMismatch,
    DigestMissing,
    KeyUntrusted,
    NsecChainBroken,
    SignatureExpired,
    SignatureInvalid,
    SignatureMisplaced,
    SignatureMissing,
    SignatureNotYetValid,
    ZoneRejected,
)
from rootsrv.zone.verify import VerifiedZone, accept_unverified, verify
from tests.zone.altered import resigned, rrset_at, with_first_changed, with_rrset, without

NOW = instant.from_text("2026-06-15T12:00:00Z")
INCEPTION, EXPIRATION = NOW - 3600, NOW + 14 * 86400

GENERATED = generate_root(tlds=5, algorithm=13, serial=7, inception=INCEPTION, expiration=EXPIRATION)
KSK, ZSK = GENERATED.signing.keys
ANCHORS = TrustAnchors.from_text(GENERATED.trust_anchor)
GOOD = GENERATED.root
BY = rf"key {ZSK.tag} \(algorithm 13\)"


def refusal(contents: ZoneContents, anchors: TrustAnchors = ANCHORS, now: float = NOW) -> ZoneRejected:
    with pytest.raises(ZoneRejected) as rejection:
        verify(contents, anchors, now)
    return rejection.value


def assert_refused(contents: ZoneContents, rejection: type[ZoneRejected], why: str) -> None:
    with pytest.raises(rejection, match=f"^{why}$"):
        verify(contents, ANCHORS, NOW)


def signed(contents: ZoneContents, **signing: object) -> ZoneContents:
    return sign_root(contents, replace(GENERATED.signing, **signing))  # type: ignore[arg-type]


def signed_rrset(owner: str, rtype: int, ttl: int, *rdatas: bytes) -> RRset:
    return resigned(RRset(from_text(owner), rtype, ttl, tuple(sorted(rdatas))), GENERATED.signing)


# ── good ones ──


@pytest.mark.parametrize("algorithm", [8, 13, 14, 15])
def test_a_zone_signed_with_any_algorithm_that_the_root_may_use_verifies(algorithm: int) -> None:
    generated = generate_root(tlds=3, algorithm=algorithm, inception=INCEPTION, expiration=EXPIRATION)

    zone = verify(generated.root, TrustAnchors.from_text(generated.trust_anchor), NOW, zonemd="required")

    assert f"(algorithm {algorithm})" in zone.checks[1]
    assert (zone.not_before, zone.signatures_until, zone.alarms) == (INCEPTION, EXPIRATION, ())


def test_only_verify_makes_a_verified_zone() -> None:
    with pytest.raises(TypeError, match="made by verify"):
        VerifiedZone(contents=GOOD, verified_at=NOW, validated=True, checks=())
    with pytest.raises(TypeError, match="made by verify"):
        replace(verify(GOOD, ANCHORS, NOW), contents=without(GOOD, "com.", NS))


def test_a_refusal_says_which_checks_were_passed_before() -> None:
    altered = with_rrset(GOOD, RRset(ROOT, NSEC, 86400, (), ()))

    assert [line.partition(":")[0] for line in refusal(altered).passed] == ["shape", "DNSKEY"]


def test_a_key_signing_key_alone_may_sign_everything() -> None:
    ksk_only = SigningKey(KSK.private, is_sep=False)  # one key for all, without the SEP flag
    anchors = TrustAnchors((TrustAnchor(ROOT, ksk_only.tag, DNSKEY, ksk_only.dnskey),))

    assert verify(signed(GOOD, keys=[ksk_only]), anchors, NOW).alarms == ()


# ── keys ──


def test_no_dnskey() -> None:
    assert_refused(without(GOOD, ".", DNSKEY), KeyUntrusted, r"\. has no DNSKEY RRset")


def test_no_anchor_for_any_key() -> None:
    other = generate_root(tlds=3, algorithm=13, inception=INCEPTION, expiration=EXPIRATION)

    why = str(refusal(GOOD, TrustAnchors.from_text(other.trust_anchor)))

    tags = sorted(f"{key.tag} (algorithm 13)" for key in (KSK, ZSK))
    assert why.startswith("the DNSKEY RRset has the keys ")
    assert all(tag in why for tag in tags)
    assert (
        f"none of them is the key of a trust anchor (valid at 2026-06-15T12:00:00Z: {other.signing.keys[0].tag})" in why
    )


def test_anchored_key_does_not_sign_the_dnskey_rrset() -> None:
    rrset = rrset_at(GOOD, ".", DNSKEY)
    assert_refused(
        with_rrset(GOOD, replace(rrset, rrsigs=())),
        SignatureMissing,
        rf"\. DNSKEY: no RRSIG by a key of a trust anchor \({KSK.tag} \(algorithm 13\)\); its RRSIGs are by none",
    )


def rolled(old_flags: int) -> ZoneContents:
    """GOOD with one more key-signing key, that has these flags and does not sign."""
    other, _ = generate_keys(13)
    rrset = rrset_at(GOOD, ".", DNSKEY)
    more = tuple(sorted((*rrset.rdatas, old_flags.to_bytes(2, "big") + other.dnskey[2:])))
    contents = with_rrset(GOOD, resigned(rrset, GENERATED.signing, rdatas=more))
    return redigested(contents)


def redigested(contents: ZoneContents, *hashes: int) -> ZoneContents:
    """*contents* with a ZONEMD that is true of them, signed."""
    rdatas = tuple(sorted(digest.zonemd_rdata(contents, each) for each in hashes or (1,)))
    return with_rrset(contents, resigned(rrset_at(contents, ".", ZONEMD), GENERATED.signing, rdatas=rdatas))


def test_a_coming_roll_raises_an_alarm() -> None:
    (alarm,) = verify(rolled(257), ANCHORS, NOW).alarms

    assert alarm.startswith("SEP key ")
    assert alarm.endswith(" is covered by no trust anchor: a roll of the key is coming, or the file of anchors lost it")


def anchor_for(*keys: SigningKey) -> TrustAnchors:
    return TrustAnchors(tuple(TrustAnchor(ROOT, key.tag, DNSKEY, key.dnskey) for key in keys))


def test_during_a_roll_both_keys_sign_and_either_anchor_will_do() -> None:
    new, _ = generate_keys(13)
    contents = signed(GOOD, keys=[KSK, new, ZSK])

    assert verify(contents, anchor_for(KSK, new), NOW).alarms == ()
    (alarm,) = verify(contents, anchor_for(KSK), NOW).alarms
    assert alarm.startswith(f"SEP key {new.tag} is covered by no trust anchor")
    (alarm,) = verify(contents, anchor_for(new), NOW).alarms
    assert alarm.startswith(f"SEP key {KSK.tag} is covered by no trust anchor")


def test_during_a_roll_of_the_algorithm_everything_is_signed_twice() -> None:
    new_ksk, new_zsk = generate_keys(15)
    contents = signed(GOOD, keys=[KSK, ZSK, new_ksk, new_zsk])
    rrsigs = sum(len(rrset.rrsigs) for rrset in GOOD.rrsets.values())

    for anchored in (KSK, new_ksk):
        zone = verify(contents, anchor_for(anchored), NOW, zonemd="required")
        assert f"RRSIG: {2 * rrsigs} of {2 * rrsigs} verified" in zone.checks[2]


def test_a_revoked_key_that_no_anchor_covers_is_not_worth_an_alarm() -> None:
    assert verify(rolled(257 | 128), ANCHORS, NOW).alarms == ()


def test_an_anchor_of_a_revoked_key_no_longer_counts() -> None:
    other, _ = generate_keys(13)
    revoked = (257 | 128).to_bytes(2, "big") + other.dnskey[2:]
    rrset = rrset_at(GOOD, ".", DNSKEY)
    contents = redigested(
        with_rrset(GOOD, resigned(rrset, GENERATED.signing, rdatas=tuple(sorted((*rrset.rdatas, revoked)))))
    )
    both = TrustAnchors((*ANCHORS.anchors, TrustAnchor(ROOT, other.tag, DNSKEY, other.dnskey)))

    (alarm,) = verify(contents, both, NOW).alarms
    assert alarm.startswith(f"key {other.tag} is revoked (as ")
    only_revoked = TrustAnchors(both.anchors[1:])
    assert "none of them is the key of a trust anchor" in str(refusal(contents, only_revoked))


# ── signatures ──


@pytest.mark.parametrize(
    ("owner", "rtype"), [(".", NS), (".", SOA), (".", NSEC), (".", ZONEMD), ("com.", DS), ("com.", NSEC)]
)
def test_an_authoritative_rrset_without_signature(owner: str, rtype: int) -> None:
    contents = with_rrset(GOOD, replace(rrset_at(GOOD, owner, rtype), rrsigs=()))

    assert_refused(contents, SignatureMissing, r".* no RRSIG by a key of the zone \(.*\): it has no RRSIG")


@pytest.mark.parametrize(("owner", "rtype"), [("com.", NS), ("a.gtld-servers.net.", A), ("a.gtld-servers.net.", AAAA)])
def test_a_signature_on_what_is_not_authoritative(owner: str, rtype: int) -> None:
    contents = with_rrset(GOOD, resigned(rrset_at(GOOD, owner, rtype), GENERATED.signing))

    assert_refused(contents, SignatureMisplaced, rf"{owner} \w+ is not authoritative, but signed by {BY}")


def test_a_signature_of_nothing() -> None:
    ghost = replace(rrset_at(GOOD, "com.", DS), rdatas=())

    why = rf"com\. DS: there is an RRSIG by {BY} but no such RRset"
    assert_refused(with_rrset(GOOD, ghost), SignatureMisplaced, why)
    with pytest.raises(SignatureMisplaced, match=f"^{why}$"):
        accept_unverified(with_rrset(GOOD, ghost), NOW)


def test_a_signature_of_other_records() -> None:
    rrset = rrset_at(GOOD, "com.", DS)
    contents = with_rrset(GOOD, replace(rrset, rdatas=with_first_changed(rrset.rdatas)))

    assert_refused(contents, SignatureInvalid, rf"com\. DS: the RRSIG by {BY} is not a signature of these 1 records")


def test_one_bad_signature_beside_a_good_one() -> None:
    rrset = rrset_at(GOOD, "com.", DS)
    bad = with_first_changed(rrset.rrsigs)

    assert_refused(
        with_rrset(GOOD, replace(rrset, rrsigs=(*rrset.rrsigs, *bad))),
        SignatureInvalid,
        rf"com\. DS: the RRSIG by {BY} is not a signature of these 1 records",
    )


def test_another_ttl_than_the_one_that_was_signed() -> None:
    contents = with_rrset(GOOD, replace(rrset_at(GOOD, "com.", DS), ttl=3600))

    assert_refused(contents, SignatureInvalid, rf"com\. DS: the RRSIG by {BY} is over TTL 86400, the RRset has 3600")


def test_signed_as_a_wildcard() -> None:
    rrset = rrset_at(GOOD, "com.", DS)
    (rrsig,) = rrset.rrsigs
    contents = with_rrset(GOOD, replace(rrset, rrsigs=(rrsig[:3] + b"\0" + rrsig[4:],)))

    assert_refused(contents, SignatureInvalid, rf"com\. DS: the RRSIG by {BY} is over 0 labels, the owner has 1")


def test_signed_by_somebody_else() -> None:
    rrset = rrset_at(GOOD, "com.", DS)
    (rrsig,) = rrset.rrsigs
    contents = with_rrset(GOOD, replace(rrset, rrsigs=(rrsig[:18] + b"\3com\0" + rrsig[19:],)))

    assert_refused(contents, SignatureInvalid, rf"com\. DS: the RRSIG by {BY} names com\. as its signer")


def test_expired() -> None:
    rrset = resigned(rrset_at(GOOD, "com.", DS), replace(GENERATED.signing, expiration=int(NOW) - 1))

    assert_refused(
        with_rrset(GOOD, rrset),
        SignatureExpired,
        rf"com\. DS: the RRSIG by {BY} expired at 2026-06-15T11:59:59Z, it is 2026-06-15T12:00:00Z",
    )


def test_not_yet_valid() -> None:
    rrset = resigned(rrset_at(GOOD, "com.", DS), replace(GENERATED.signing, inception=int(NOW) + 1))

    assert_refused(
        with_rrset(GOOD, rrset),
        SignatureNotYetValid,
        rf"com\. DS: the RRSIG by {BY} is valid from 2026-06-15T12:00:01Z, it is 2026-06-15T12:00:00Z",
    )


def test_both_ends_of_the_validity_belong_to_it() -> None:
    assert verify(GOOD, ANCHORS, INCEPTION).not_before == INCEPTION
    assert verify(GOOD, ANCHORS, EXPIRATION).signatures_until == EXPIRATION
    assert isinstance(refusal(GOOD, now=INCEPTION - 1), SignatureNotYetValid)
    assert isinstance(refusal(GOOD, now=EXPIRATION + 1), SignatureExpired)


def test_signature_times_wrap_around_in_2106() -> None:
    turn = 2**32
    contents = signed(GOOD, inception=turn - 3600, expiration=3600)
    assert verify(contents, ANCHORS, turn).signatures_until == turn + 3600
    assert verify(contents, ANCHORS, turn - 1).not_before == turn - 3600
    assert isinstance(refusal(contents, now=turn + 3601), SignatureExpired)


def with_foreign_rrsig(algorithm: int, *, alone: bool) -> ZoneContents:
    """GOOD where com. DS has an RRSIG of an algorithm, and by a key, that the zone does not have."""
    rrset = rrset_at(GOOD, "com.", DS)
    (rrsig,) = rrset.rrsigs
    foreign = rrsig[:2] + bytes((algorithm,)) + rrsig[3:16] + b"\x12\x34" + rrsig[18:]
    contents = with_rrset(GOOD, replace(rrset, rrsigs=tuple(sorted((foreign,) if alone else (foreign, rrsig)))))
    return redigested(contents)


@pytest.mark.parametrize("algorithm", [13, 16])
def test_a_signature_that_cannot_be_judged_raises_an_alarm_if_there_is_a_good_one(algorithm: int) -> None:
    zone = verify(with_foreign_rrsig(algorithm, alone=False), ANCHORS, NOW)

    assert zone.alarms == (
        f"1 RRSIGs cannot be judged: key 4660 (algorithm {algorithm}) is not a signing key in the DNSKEY RRset",
    )
    rrsigs = sum(len(rrset.rrsigs) for rrset in GOOD.rrsets.values())
    assert f"RRSIG: {rrsigs} of {rrsigs + 1} verified" in zone.checks[2]


@pytest.mark.parametrize("algorithm", [13, 16])
def test_a_signature_that_cannot_be_judged_is_not_enough(algorithm: int) -> None:
    assert_refused(
        with_foreign_rrsig(algorithm, alone=True),
        SignatureMissing,
        rf"com\. DS: no RRSIG by a key of the zone \(.*\): its RRSIGs are by key 4660 \(algorithm {algorithm}\)",
    )


def test_a_key_of_an_algorithm_that_we_do_not_know_may_be_in_the_zone() -> None:
    rrset = rrset_at(GOOD, ".", DNSKEY)
    unknown = b"\1\0\3\x10" + bytes(57)  # algorithm 16, Ed448
    tag = TrustAnchors.from_text(f". DNSKEY 256 3 16 {'A' * 76}").anchors[0].key_tag
    com_ds = rrset_at(GOOD, "com.", DS)
    (rrsig,) = com_ds.rrsigs
    by_unknown = rrsig[:2] + b"\x10" + rrsig[3:16] + tag.to_bytes(2, "big") + rrsig[18:19] + bytes(114)
    contents = with_rrset(
        GOOD,
        resigned(rrset, GENERATED.signing, rdatas=tuple(sorted((*rrset.rdatas, unknown)))),
        replace(com_ds, rrsigs=tuple(sorted((rrsig, by_unknown)))),
    )

    (alarm,) = verify(redigested(contents), ANCHORS, NOW).alarms

    assert alarm == f"1 RRSIGs cannot be judged: key {tag}: algorithm 16 is not supported"


def test_a_great_many_signatures_are_not_even_looked_at() -> None:
    rrset = rrset_at(GOOD, "com.", DS)
    contents = with_rrset(GOOD, replace(rrset, rrsigs=tuple(rrset.rrsigs[0] + bytes((n,)) for n in range(17))))

    assert_refused(contents, SignatureInvalid, r"com\. DS has 17 RRSIGs, more than 16")


# ── NSEC ──


def with_nsec(owner: str, rdata: bytes, ttl: int = 86400) -> ZoneContents:
    return with_rrset(GOOD, signed_rrset(owner, NSEC, ttl, rdata))


def test_a_name_without_nsec() -> None:
    assert_refused(without(GOOD, "com.", NSEC), NsecChainBroken, r"com\. has 0 NSEC records, expected one")


def test_two_nsecs_at_one_name() -> None:
    first = rrset_at(GOOD, "com.", NSEC).rdatas[0]
    contents = with_rrset(GOOD, signed_rrset("com.", NSEC, 86400, first, b"\0" + nsec_bitmap(first)))

    assert_refused(contents, NsecChainBroken, r"com\. has 2 NSEC records, expected one")


def test_a_chain_that_skips_a_name() -> None:
    assert [from_text(tld) for tld in ("arpa.", "com.", "info.", "net.", "org.")] == list(GOOD.delegations)
    bitmap = nsec_bitmap(rrset_at(GOOD, "com.", NSEC).rdatas[0])

    assert_refused(
        with_nsec("com.", from_text("net.") + bitmap),
        NsecChainBroken,
        r"com\. NSEC: the next name is net\., expected info\.",
    )


def test_a_chain_that_does_not_close() -> None:
    bitmap = nsec_bitmap(rrset_at(GOOD, "org.", NSEC).rdatas[0])

    assert_refused(
        with_nsec("org.", from_text("zz.") + bitmap),
        NsecChainBroken,
        r"org\. NSEC: the next name is zz\., expected \.",
    )


@pytest.mark.parametrize(
    ("owner", "types", "says", "has"),
    [
        ("com.", {NS, NSEC, RRSIG}, "NS RRSIG NSEC", "NS DS RRSIG NSEC"),
        ("com.", {NS, DS, NSEC, RRSIG, TXT}, "NS TXT DS RRSIG NSEC", "NS DS RRSIG NSEC"),
        ("org.", {NS, DS, NSEC, RRSIG}, "NS DS RRSIG NSEC", "NS RRSIG NSEC"),
        (".", {NS, SOA, RRSIG, NSEC, DNSKEY}, "NS SOA RRSIG NSEC DNSKEY", "NS SOA RRSIG NSEC DNSKEY ZONEMD"),
    ],
)
def test_a_type_bitmap_that_is_not_true(owner: str, types: set[int], says: str, has: str) -> None:
    next_name = rrset_at(GOOD, owner, NSEC).rdatas[0]
    next_name = next_name[: -len(nsec_bitmap(next_name))]
    name = owner.replace(".", r"\.")

    assert_refused(
        with_nsec(owner, next_name + type_bitmap(types)),
        NsecChainBroken,
        f"{name} NSEC: the type bitmap says {says}, the zone has {has}",
    )


def test_an_unusual_nsec_ttl_raises_an_alarm() -> None:
    rdata = rrset_at(GOOD, "com.", NSEC).rdatas[0]

    assert verify(redigested(with_nsec("com.", rdata, ttl=300)), ANCHORS, NOW).alarms == (
        "the NSEC TTL is 300, 86400, expected the lesser of SOA TTL and MINIMUM, 86400 (RFC 9077 §3)",
    )


# ── ZONEMD ──


def zonemd(serial: int, scheme: int, hash_algorithm: int, value: bytes) -> bytes:
    return serial.to_bytes(4, "big") + bytes((scheme, hash_algorithm)) + value


def with_zonemd(*rdatas: bytes) -> ZoneContents:
    return with_rrset(GOOD, signed_rrset(".", ZONEMD, 86400, *rdatas))


def test_an_absent_zonemd_is_proven_by_nsec() -> None:
    # The records are gone, but the signed NSEC of the apex says that there are some.
    assert_refused(without(GOOD, ".", ZONEMD), NsecChainBroken, r"\. NSEC: the type bitmap says .*ZONEMD, .*")


def test_an_absent_zonemd_by_policy() -> None:
    contents = signed(GOOD, zonemd_hashes=())

    assert verify(contents, ANCHORS, NOW).alarms == ("ZONEMD could not be verified: the zone has no ZONEMD",)
    assert verify(contents, ANCHORS, NOW, zonemd="off").alarms == ()
    with pytest.raises(DigestMissing, match="required: the zone has no ZONEMD"):
        verify(contents, ANCHORS, NOW, zonemd="required")


@pytest.mark.parametrize(("scheme", "hash_algorithm"), [(1, 3), (2, 1), (240, 241)])
def test_an_unsupported_zonemd_by_policy(scheme: int, hash_algorithm: int) -> None:
    contents = with_zonemd(zonemd(7, scheme, hash_algorithm, bytes(48)))

    assert verify(contents, ANCHORS, NOW).alarms == (
        f"ZONEMD could not be verified: unsupported: scheme {scheme} hash {hash_algorithm}",
    )
    with pytest.raises(DigestMissing):
        verify(contents, ANCHORS, NOW, zonemd="required")


@pytest.mark.parametrize("policy", ["if-supported", "required"])
def test_a_wrong_digest(policy: digest.Policy) -> None:
    with pytest.raises(DigestMismatch, match=r"^serial 7: ZONEMD says SHA-384 0{16}…, the contents hash to \w{16}…$"):
        verify(with_zonemd(zonemd(7, 1, 1, bytes(48))), ANCHORS, NOW, zonemd=policy)


def test_a_wrong_digest_does_not_matter_where_nobody_looks() -> None:
    assert verify(with_zonemd(zonemd(7, 1, 1, bytes(48))), ANCHORS, NOW, zonemd="off").alarms == ()


def test_a_digest_of_another_length() -> None:
    right = digest.compute(GOOD, 1)

    assert_refused(with_zonemd(zonemd(7, 1, 1, right[:20])), DigestMismatch, r"serial 7: ZONEMD says SHA-384 .*")
    assert_refused(
        with_zonemd(zonemd(7, 1, 1, right[:11])),
        DigestMismatch,
        "ZONEMD RDATA of 17 octets; a digest has at least 12",
    )


def test_a_digest_of_another_serial() -> None:
    contents = with_zonemd(zonemd(6, 1, 1, digest.compute(GOOD, 1)))

    assert_refused(contents, DigestMismatch, "ZONEMD is for serial 6, the SOA has 7")


def test_two_digests_of_the_same_scheme_and_hash() -> None:
    contents = with_zonemd(zonemd(7, 1, 1, digest.compute(GOOD, 1)), zonemd(7, 1, 1, bytes(48)))

    assert_refused(contents, DigestMismatch, r"two ZONEMD records of scheme 1 and hash 1 \(RFC 8976 §2\)")


def test_sha_512_and_both_together() -> None:
    for hashes, names in (((2,), "SHA-512"), ((1, 2), "SHA-384 and SHA-512")):
        contents = signed(GOOD, zonemd_hashes=hashes)
        zone = verify(contents, ANCHORS, NOW, zonemd="required")
        assert zone.checks[-1] == f"ZONEMD: {names} digest of serial 7 equals the contents"


def test_one_wrong_digest_beside_a_right_one() -> None:
    contents = with_zonemd(zonemd(7, 1, 1, digest.compute(GOOD, 1)), zonemd(7, 1, 2, bytes(64)))

    assert_refused(contents, DigestMismatch, "serial 7: ZONEMD says SHA-512 .*")
