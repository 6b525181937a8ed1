"""What is not a root, or not the zone of its hosts, is refused, signed or not; a lab may leave out the signatures."""

from dataclasses import replace

import pytest

from rootsrv.answer.compiler import compile_table
from rootsrv.demo import signed as demo_signed
from rootsrv.demo.sign import sign_root
from rootsrv.wire.name import ROOT, from_text
from rootsrv.wire.rdata import CNAME, DNAME, DNSKEY, DS, NS, NSEC, NSEC3, NSEC3PARAM, TXT, ZONEMD, A, to_text
from rootsrv.zone import digest, instant
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.rejection import (
    DigestMismatch,
    KeyUntrusted,
    NotARoot,
    NotTheHosts,
    NsecChainBroken,
    SignatureExpired,
    SignatureInvalid,
    SignatureMissing,
    ZoneRejected,
)
from rootsrv.zone.verify import NEWER_SOFTWARE, accept_unverified, verify, verify_hosts
from tests.zone.altered import resigned, with_rrset, without

NOW = instant.from_text("2026-06-15T12:00:00Z")
EXPIRATION = NOW + 86400

GENERATED = demo_signed.generate_root(tlds=5, algorithm=13, serial=7, inception=NOW - 3600, expiration=EXPIRATION)
ANCHORS = TrustAnchors.from_text(GENERATED.trust_anchor)
GOOD = GENERATED.root


def signed(*added: RRset, base: ZoneContents = GOOD) -> ZoneContents:
    """A root with *added*, signed as if its owner had wanted it."""
    return sign_root(with_rrset(base, *added), GENERATED.signing)


NEW_TYPE = 65280
DATA = b"\1\2\3"


@pytest.mark.parametrize(
    ("rrset", "alarm"),
    [
        (RRset(from_text("com."), NEW_TYPE, 300, (DATA,)), "delegation TYPE65280 (1)"),
        (RRset(from_text("com."), TXT, 300, (b"\1x",)), "delegation TXT (1)"),
        (RRset(ROOT, NEW_TYPE, 300, (DATA,)), "apex TYPE65280 (1)"),
        (RRset(ROOT, DS, 300, (bytes(36),)), "apex DS (1)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_signed_type_that_is_new_is_accepted_with_an_alarm(rrset: RRset, alarm: str) -> None:
    zone = verify(signed(rrset), ANCHORS, NOW)

    assert zone.alarms == (f"{alarm} is new to this version of the software, and answered as ever",)
    assert zone.limits == ()
    assert compile_table(zone)


def test_a_new_type_at_every_delegation_is_one_alarm() -> None:
    rrsets = [RRset(tld, NEW_TYPE, 300, (DATA,)) for tld in GOOD.delegations]

    assert [alarm.split(" is new")[0] for alarm in verify(signed(*rrsets), ANCHORS, NOW).alarms] == [
        f"delegation TYPE65280 ({len(rrsets)})"
    ]


@pytest.mark.parametrize("rtype", [NEW_TYPE, TXT, DS])
def test_what_is_occluded_is_passed_over_with_an_alarm(rtype: int) -> None:
    """Unsigned, below a delegation: ZONEMD covers it, and nobody is ever told."""
    occluded = RRset(from_text("x.com."), rtype, 300, (bytes(36) if rtype == DS else b"\1x",))

    zone = verify(signed(occluded), ANCHORS, NOW)

    assert len(zone.alarms) == 1
    assert zone.limits == ()


@pytest.mark.parametrize("owner", ["com.", "."])
def test_a_new_type_that_is_not_what_was_signed_is_refused(owner: str) -> None:
    contents = signed(RRset(from_text(owner), NEW_TYPE, 300, (DATA,)))
    changed = replace(contents.rrsets[from_text(owner), NEW_TYPE], rdatas=(b"\1\2\4",))

    with pytest.raises(SignatureInvalid):
        verify(with_rrset(contents, changed), ANCHORS, NOW)
    with pytest.raises(NsecChainBroken if owner == "com." else SignatureMissing):
        verify(with_rrset(contents, replace(changed, rrsigs=())), ANCHORS, NOW)
    with pytest.raises(NsecChainBroken):
        verify(without(contents, owner, NEW_TYPE), ANCHORS, NOW)


OWN, DEEP = "names with authority besides the apex", "delegations of more than one label"
BEYOND_US = {
    "wildcard delegation": (RRset(from_text("*."), NS, 300, (from_text("ns.com."),)), "wildcards (*.)"),
    "wildcard": (RRset(from_text("*."), TXT, 300, (b"\1x",)), "wildcards (*.)"),
    "CNAME at the apex": (RRset(ROOT, CNAME, 300, (from_text("com."),)), "CNAME (.)"),
    "DNAME at the apex": (RRset(ROOT, DNAME, 300, (from_text("com."),)), "DNAME (.)"),
    "CNAME in place of a TLD": (RRset(from_text("zz."), CNAME, 300, (from_text("com."),)), "CNAME (zz.)"),
    "DNAME in place of a TLD": (RRset(from_text("zz."), DNAME, 300, (from_text("com."),)), "DNAME (zz.)"),
    "CNAME at a delegation": (RRset(from_text("com."), CNAME, 300, (from_text("net."),)), "CNAME (com.)"),
    "a name of the root's own": (RRset(from_text("zz."), TXT, 300, (b"\1x",)), f"{OWN} (zz.)"),
    "a host of the root's own": (RRset(from_text("ns.zz."), A, 300, (bytes(4),)), f"{OWN} (ns.zz.)"),
    "a delegation of two labels": (RRset(from_text("x.zz."), NS, 300, (from_text("ns.com."),)), f"{DEEP} (x.zz.)"),
    "a delegation below one": (RRset(from_text("x.com."), NS, 300, (from_text("ns.com."),)), f"{DEEP} (x.com.)"),
}  # fmt: skip


@pytest.mark.parametrize(("rrset", "limit"), BEYOND_US.values(), ids=BEYOND_US.keys())
def test_a_genuine_root_that_no_table_can_hold_is_told_apart_from_a_forged_one(rrset: RRset, limit: str) -> None:
    contents = signed(rrset)
    for zone in (verify(contents, ANCHORS, NOW), accept_unverified(contents, NOW)):
        assert f"{NEWER_SOFTWARE}: no answer table can hold {limit}" in zone.limits
        with pytest.raises(ValueError, match="no answer table can hold"):
            compile_table(zone)

    with pytest.raises(ZoneRejected):
        verify(with_rrset(GOOD, rrset), ANCHORS, NOW)  # as it is without a signature, a digest and an NSEC


def test_a_root_with_nsec3_is_held_with_its_signatures_checked() -> None:
    hashed = RRset(from_text("0p9mhaveqvm6t7vbl5lop2u3t2rp3tom."), NSEC3, 300, (b"\1\0\0\0\0\x14" + bytes(20),))
    chain = {key for key in GOOD.rrsets if key[1] == NSEC}
    plain = ZoneContents(ROOT, {key: rrset for key, rrset in GOOD.rrsets.items() if key not in chain})
    plain = with_rrset(plain, *(resigned(each, GENERATED.signing) for each in (
        hashed, RRset(ROOT, NSEC3PARAM, 0, (b"\1\0\0\0\0",)),
    )))  # fmt: skip
    zonemd = RRset(ROOT, ZONEMD, 86400, (digest.zonemd_rdata(plain, 1),))
    contents = with_rrset(plain, resigned(zonemd, GENERATED.signing))

    zone = verify(contents, ANCHORS, NOW)

    assert f"{NEWER_SOFTWARE}: no answer table can hold NSEC3 in place of NSEC" in zone.limits
    broken = with_rrset(
        contents, replace(contents.rrsets[hashed.owner, NSEC3], rdatas=(b"\1\0\0\0\0\x14" + b"x" * 20,))
    )
    with pytest.raises(SignatureInvalid):
        verify(broken, ANCHORS, NOW)


def test_another_zone_than_the_root() -> None:
    with pytest.raises(NotARoot, match=r"^the zone is root-servers\.net\., not the root$"):
        verify(GENERATED.hosts, ANCHORS, NOW)


def test_a_root_without_ns() -> None:
    with pytest.raises(NotARoot, match=r"^the apex has no NS$"):
        verify(without(GOOD, ".", NS), ANCHORS, NOW)


# ── the zone of the hosts, and a lab ──


ROOT_ZONE = verify(GOOD, ANCHORS, NOW)
HOSTS = GENERATED.hosts


def test_hosts_that_equal_the_root_are_accepted() -> None:
    zone = verify_hosts(HOSTS, ROOT_ZONE, NOW)

    assert (zone.not_before, zone.signatures_until, zone.validated) == (None, None, True)


def host(label: str, rtype: int, *rdatas: bytes) -> RRset:
    return RRset(from_text(f"{label}.root-servers.net."), rtype, 3600000, rdatas)


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        (
            without(HOSTS, "m.root-servers.net.", A),
            r"m\.root-servers\.net\. A: the root zone has 198\.51\.100\.13 besides",
        ),
        (
            with_rrset(HOSTS, host("a", A, bytes((192, 0, 2, 1)), bytes((198, 51, 100, 1)))),
            r"a\.root-servers\.net\. A: the root zone does not have 192\.0\.2\.1",
        ),
        (
            with_rrset(HOSTS, host("n", A, bytes((192, 0, 2, 99)))),
            r"n\.root-servers\.net\. A: the root zone does not have 192\.0\.2\.99",
        ),
        (
            without(HOSTS, "root-servers.net.", NS),
            r"root-servers\.net\. NS: the root zone has a\.root-servers\.net\., .*, m\.root-servers\.net\. besides",
        ),
        (
            with_rrset(HOSTS, host("x.a", A, bytes(4))),
            r"x\.a\.root-servers\.net\.: only host names one label below root-servers\.net\. have a place here",
        ),
        (
            with_rrset(HOSTS, host("*", A, bytes(4))),
            r"\*\.root-servers\.net\.: only host names one label below root-servers\.net\. have a place here",
        ),
        (
            with_rrset(HOSTS, host("sub", NS, from_text("ns.example."))),
            r"sub\.root-servers\.net\. NS has no place in a flat zone of host names",
        ),
        (
            with_rrset(HOSTS, host("www", CNAME, from_text("a.root-servers.net."))),
            r"www\.root-servers\.net\. CNAME has no place in a flat zone of host names",
        ),
    ],
)
def test_hosts_that_differ_from_the_root_are_refused(contents: ZoneContents, why: str) -> None:
    with pytest.raises(NotTheHosts, match=f"^{why}$"):
        verify_hosts(contents, ROOT_ZONE, NOW)


SIGNING = replace(GENERATED.signing, keys=demo_signed.generate_keys(13), zonemd_hashes=())
SIGNED_HOSTS = sign_root(HOSTS, SIGNING)
HOSTS_ANCHORS = TrustAnchors.from_text(
    "".join(f"root-servers.net. IN DNSKEY {to_text(DNSKEY, key.dnskey)}\n" for key in SIGNING.keys if key.is_sep)
)


def test_signed_hosts_are_verified_by_their_anchor() -> None:
    zone = verify_hosts(SIGNED_HOSTS, ROOT_ZONE, NOW, trust_anchors=HOSTS_ANCHORS)

    assert (zone.alarms, zone.limits, zone.validated) == ((), (), True)
    assert (zone.not_before, zone.signatures_until) == (NOW - 3600, EXPIRATION)
    assert [check.split(":")[0] for check in zone.checks] == ["hosts", "DNSKEY", "RRSIG", "NSEC"]


def test_signed_hosts_without_an_anchor_raise_an_alarm() -> None:
    zone = verify_hosts(SIGNED_HOSTS, ROOT_ZONE, NOW)

    assert zone.alarms == ("root-servers.net. is signed, but no trust anchor is configured: it is not validated",)
    assert zone.signatures_until == EXPIRATION


def test_hosts_with_an_anchor_must_be_signed() -> None:
    with pytest.raises(NotTheHosts, match=r"has a trust anchor .*, but the zone is not signed"):
        verify_hosts(HOSTS, ROOT_ZONE, NOW, trust_anchors=HOSTS_ANCHORS)


@pytest.mark.parametrize("anchors", [None, HOSTS_ANCHORS], ids=["no anchor", "anchor"])
def test_signed_hosts_that_are_not_good_are_refused(anchors: TrustAnchors | None) -> None:
    def refused(contents: ZoneContents, rejection: type[ZoneRejected], now: float = NOW) -> None:
        with pytest.raises(rejection):
            verify_hosts(contents, ROOT_ZONE, now, trust_anchors=anchors)

    address = SIGNED_HOSTS.rrsets[from_text("a.root-servers.net."), A]
    refused(with_rrset(SIGNED_HOSTS, replace(address, rrsigs=())), SignatureMissing)
    refused(without(SIGNED_HOSTS, "a.root-servers.net.", NSEC), NsecChainBroken)
    refused(with_rrset(SIGNED_HOSTS, replace(host("b", TXT, b"\1x"), ttl=300)), SignatureMissing)
    refused(without(SIGNED_HOSTS, "root-servers.net.", DNSKEY), KeyUntrusted)
    refused(SIGNED_HOSTS, SignatureExpired, EXPIRATION + 1)


def test_signed_hosts_with_another_key_than_the_anchors_are_refused() -> None:
    others = sign_root(HOSTS, replace(SIGNING, keys=demo_signed.generate_keys(13)))

    with pytest.raises(KeyUntrusted):
        verify_hosts(others, ROOT_ZONE, NOW, trust_anchors=HOSTS_ANCHORS)


@pytest.mark.parametrize(
    ("rrset", "limit"),
    [
        (host("*", TXT, b"\1x"), "*.root-servers.net.: only host names"),
        (host("x.a", TXT, b"\1x"), "x.a.root-servers.net.: only host names"),
        (host("www", CNAME, from_text("a.root-servers.net.")), "www.root-servers.net. CNAME has no place"),
    ],
)
def test_genuine_hosts_that_no_table_can_hold_have_their_limit_named(rrset: RRset, limit: str) -> None:
    contents = sign_root(with_rrset(HOSTS, rrset), SIGNING)

    zone = verify_hosts(contents, ROOT_ZONE, NOW, trust_anchors=HOSTS_ANCHORS)

    assert zone.limits[0].startswith(f"{NEWER_SOFTWARE}: no answer table can hold {limit}")


def test_a_zonemd_of_the_hosts_is_checked_if_there_is_one() -> None:
    apex = HOSTS.apex
    right = with_rrset(HOSTS, RRset(apex, ZONEMD, 300, (digest.zonemd_rdata(HOSTS, 1),)))
    wrong = with_rrset(HOSTS, RRset(apex, ZONEMD, 300, (b"\0\0\0\7\1\1" + bytes(48),)))

    assert verify_hosts(right, ROOT_ZONE, NOW).checks[1] == "ZONEMD: SHA-384 digest of serial 7 equals the contents"
    with pytest.raises(DigestMismatch):
        verify_hosts(wrong, ROOT_ZONE, NOW)


def test_a_lab_without_validation_says_so_loudly() -> None:
    unsigned = ZoneContents(
        ROOT,
        {
            key: replace(rrset, rrsigs=())
            for key, rrset in GOOD.rrsets.items()
            if rrset.rtype not in (DNSKEY, NSEC, ZONEMD)
        },
    )

    zone = accept_unverified(unsigned, NOW)

    assert not zone.validated
    assert (zone.not_before, zone.signatures_until) == (None, None)
    assert zone.checks[-1].startswith("NOT VALIDATED")
    assert zone.alarms == (". is served without validation: anybody could have made it",)
    assert not verify_hosts(HOSTS, zone, NOW).validated


def test_a_lab_zone_that_expired_is_accepted_without_validation() -> None:
    assert accept_unverified(GOOD, EXPIRATION + 86400).signatures_until is None
