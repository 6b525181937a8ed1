"""What is not a root, or not the zone of its hosts, is refused, signed or not; a lab may leave out the signatures."""

from dataclasses import replace

import pytest

from rootsrv.demo import signed
from rootsrv.wire.name import ROOT, from_text
from rootsrv.wire.rdata import CNAME, DNAME, DNSKEY, DS, NS, NSEC, TXT, ZONEMD, A
from rootsrv.zone import digest, instant
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.rejection import DigestMismatch, NotARoot, NotTheHosts
from rootsrv.zone.verify import accept_unverified, verify, verify_hosts
from tests.zone.altered import resigned, with_rrset, without

NOW = instant.from_text("2026-06-15T12:00:00Z")
EXPIRATION = NOW + 86400

GENERATED = signed.generate_root(tlds=5, algorithm=13, serial=7, inception=NOW - 3600, expiration=EXPIRATION)
ANCHORS = TrustAnchors.from_text(GENERATED.trust_anchor)
GOOD = GENERATED.root


@pytest.mark.parametrize(
    ("rrset", "why"),
    [
        (RRset(from_text("*."), NS, 300, (from_text("ns.com."),)), r"\*\.: a root has no wildcard"),
        (RRset(from_text("*.com."), A, 300, (bytes(4),)), r"\*\.com\.: a root has no wildcard"),
        (RRset(ROOT, CNAME, 300, (from_text("com."),)), r"\. CNAME has no place at the apex of a root"),
        (RRset(ROOT, DNAME, 300, (from_text("com."),)), r"\. DNAME has no place at the apex of a root"),
        (RRset(ROOT, DS, 300, (bytes(36),)), r"\. DS has no place at the apex of a root"),
        (RRset(from_text("com."), CNAME, 300, (from_text("net."),)), r"com\. CNAME has no place at a delegation"),
        (RRset(from_text("com."), TXT, 300, (b"\1x",)), r"com\. TXT has no place at a delegation"),
        (RRset(from_text("x.com."), NS, 300, (from_text("net."),)), r"x\.com\. NS has no place below a delegation"),
        (RRset(from_text("x.com."), NSEC, 300, (ROOT,)), r"x\.com\. NSEC has no place below a delegation"),
        (RRset(from_text("x.com."), DS, 300, (bytes(36),)), r"x\.com\. DS has no place below a delegation"),
        (RRset(from_text("zz."), TXT, 300, (b"\1x",)), r"zz\. TXT: zz\. is not delegated"),
        (RRset(from_text("ns.zz."), A, 300, (bytes(4),)), r"ns\.zz\. A: zz\. is not delegated"),
    ],
)
def test_not_the_shape_of_a_root(rrset: RRset, why: str) -> None:
    with pytest.raises(NotARoot, match=f"^{why}$"):
        verify(with_rrset(GOOD, rrset), ANCHORS, NOW)
    with pytest.raises(NotARoot, match=f"^{why}$"):
        accept_unverified(with_rrset(GOOD, rrset), NOW)


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
        (
            with_rrset(HOSTS, RRset(HOSTS.apex, DNSKEY, 300, (bytes(36),))),
            r"root-servers\.net\. DNSKEY: signed; this zone is served unsigned only",
        ),
        (
            with_rrset(HOSTS, resigned(host("a", TXT, b"\1x"), GENERATED.signing)),
            r"a\.root-servers\.net\. TXT: signed; this zone is served unsigned only",
        ),
    ],
)
def test_hosts_that_differ_from_the_root_are_refused(contents: ZoneContents, why: str) -> None:
    with pytest.raises(NotTheHosts, match=f"^{why}$"):
        verify_hosts(contents, ROOT_ZONE, NOW)


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
