"""The genuine root zone, judged at the time when it was in service (../shared/zones/SOURCES.md)."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from rootsrv.wire.name import from_text
from rootsrv.wire.rdata import AAAA, DNSKEY, DS, NS, NSEC, ZONEMD
from rootsrv.zone import instant, presentation
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.rejection import (
    DigestMismatch,
    DigestMissing,
    KeyUntrusted,
    NotTheHosts,
    SignatureExpired,
    SignatureInvalid,
    SignatureNotYetValid,
    ZoneRejected,
)
from rootsrv.zone.verify import verify, verify_hosts
from tests.needs import genuine_root_zone_text, require_genuine_zones
from tests.zone.altered import rrset_at, with_first_changed, with_rrset

SEPTEMBER, NOVEMBER = instant.from_text("2025-09-20T12:00:00Z"), instant.from_text("2025-11-01T12:00:00Z")

GOOD = {
    2025091101: (SEPTEMBER, "2025-09-11T16:00:00Z", "2025-09-24T17:00:00Z", 2789),
    2025091701: (SEPTEMBER, "2025-09-17T16:00:00Z", "2025-09-30T00:00:00Z", 2789),
    2025091902: (SEPTEMBER, "2025-09-19T19:00:00Z", "2025-10-02T20:00:00Z", 2790),
    2025103001: (NOVEMBER, "2025-10-30T16:00:00Z", "2025-11-11T00:00:00Z", 2788),
    2025103100: (NOVEMBER, "2025-10-31T04:00:00Z", "2025-11-13T05:00:00Z", 2788),
}


@cache
def root(serial: int) -> ZoneContents:
    return presentation.from_text(genuine_root_zone_text(serial), b"\0")


@cache
def anchors(file: str = "root-anchors.xml") -> TrustAnchors:
    return TrustAnchors.from_text((require_genuine_zones() / file).read_text())


@pytest.mark.parametrize("serial", GOOD)
def test_verifies_at_its_time(serial: int) -> None:
    now, not_before, until, rrsigs = GOOD[serial]

    zone = verify(root(serial), anchors(), now, zonemd="required")

    assert zone.contents.serial == serial
    assert zone.validated
    assert zone.alarms == ()
    assert zone.not_before == instant.from_text(not_before)
    assert zone.signatures_until == instant.from_text(until)
    assert zone.checks == (
        f"shape: a root of serial {serial} with {len(root(serial).delegations)} delegations"
        f" and {root(serial).record_count} records",
        "DNSKEY: signed by key 20326 (algorithm 8), covered by a trust anchor",
        f"RRSIG: {rrsigs} of {rrsigs} verified, valid from {not_before} until {until}",
        f"NSEC: chain of {len(root(serial).delegations) + 1} names closed, type bitmaps true",
        f"ZONEMD: SHA-384 digest of serial {serial} equals the contents",
    )


@pytest.mark.parametrize("serial", GOOD)
def test_is_refused_one_hour_after_the_first_signature_expired(serial: int) -> None:
    expired_at = instant.from_text(GOOD[serial][2])

    verify(root(serial), anchors(), expired_at)
    with pytest.raises(SignatureExpired, match=f"expired at {GOOD[serial][2]}, it is "):
        verify(root(serial), anchors(), expired_at + 3600)


def test_is_refused_one_second_before_the_last_inception() -> None:
    _, not_before, _, _ = GOOD[2025103100]

    verify(root(2025103100), anchors(), instant.from_text(not_before))
    with pytest.raises(SignatureNotYetValid, match=f"is valid from {not_before}, it is 2025-10-31T03:59:59Z"):
        verify(root(2025103100), anchors(), instant.from_text(not_before) - 1)


def changed_ds(contents: ZoneContents) -> RRset:
    rrset = rrset_at(contents, "com.", DS)
    return replace(rrset, rdatas=with_first_changed(rrset.rdatas))


def changed_ns(contents: ZoneContents) -> RRset:
    rrset = rrset_at(contents, "com.", NS)
    return replace(rrset, rdatas=with_first_changed(rrset.rdatas, 1))  # a.gtld-servers.net → `.gtld-servers.net


def changed_glue(contents: ZoneContents) -> RRset:
    rrset = rrset_at(contents, "a.gtld-servers.net.", AAAA)
    return replace(rrset, rdatas=with_first_changed(rrset.rdatas))


def changed_rrsig(contents: ZoneContents) -> RRset:
    rrset = rrset_at(contents, "org.", NSEC)
    return replace(rrset, rrsigs=with_first_changed(rrset.rrsigs))


def changed_zonemd(contents: ZoneContents) -> RRset:
    rrset = rrset_at(contents, ".", ZONEMD)
    return replace(rrset, rdatas=with_first_changed(rrset.rdatas))


def changed_dnskey(contents: ZoneContents) -> RRset:
    rrset = rrset_at(contents, ".", DNSKEY)
    return replace(rrset, rdatas=with_first_changed(rrset.rdatas))


@pytest.mark.parametrize("serial", GOOD)
@pytest.mark.parametrize(
    ("change", "rejection", "why"),
    [
        (changed_ds, SignatureInvalid, r"com\. DS: the RRSIG by key \d+ \(algorithm 8\) is not a signature of these"),
        (changed_ns, DigestMismatch, r"ZONEMD says SHA-384 [0-9a-f]{16}…, the contents hash to [0-9a-f]{16}…"),
        (changed_glue, DigestMismatch, r"ZONEMD says SHA-384 [0-9a-f]{16}…, the contents hash to [0-9a-f]{16}…"),
        (changed_rrsig, SignatureInvalid, r"org\. NSEC: the RRSIG by key \d+ \(algorithm 8\) is not a signature of"),
        (changed_zonemd, SignatureInvalid, r"\. ZONEMD: the RRSIG by key \d+ \(algorithm 8\) is not a signature of"),
        (changed_dnskey, SignatureInvalid, r"\. DNSKEY: the RRSIG by key 20326 \(algorithm 8\) is not a signature of"),
    ],
)
def test_is_refused_with_one_changed_octet(
    serial: int, change: Callable[[ZoneContents], RRset], rejection: type[ZoneRejected], why: str
) -> None:
    altered = with_rrset(root(serial), change(root(serial)))

    with pytest.raises(rejection, match=why):
        verify(altered, anchors(), GOOD[serial][0])


@pytest.mark.parametrize("change", [changed_ns, changed_glue])
def test_only_zonemd_guards_delegations_and_glue(change: Callable[[ZoneContents], RRset]) -> None:
    altered = with_rrset(root(2025103100), change(root(2025103100)))

    assert verify(altered, anchors(), NOVEMBER, zonemd="off").checks[-1] == "ZONEMD: not looked at (policy off)"


@pytest.mark.parametrize(
    ("serial", "now", "why"),
    [
        (2023112000, "2023-11-21T00:00:00Z", "unsupported: scheme 1 hash 241"),
        (2020101902, "2020-10-20T00:00:00Z", "the zone has no ZONEMD"),
    ],
)
def test_without_a_usable_zonemd_the_policy_decides(serial: int, now: str, why: str) -> None:
    at = instant.from_text(now)

    zone = verify(root(serial), anchors(), at)
    assert zone.alarms == (f"ZONEMD could not be verified: {why}",)
    assert zone.checks[-1] == f"ZONEMD: not verified ({why})"

    assert verify(root(serial), anchors(), at, zonemd="off").alarms == ()

    with pytest.raises(DigestMissing, match=f"^a ZONEMD that can be verified is required: {why}$"):
        verify(root(serial), anchors(), at, zonemd="required")


def test_anchors_in_presentation_format_do_as_well() -> None:
    assert verify(root(2025103100), anchors("root.key"), NOVEMBER).alarms == ()


def test_an_anchor_that_expired_does_not_count() -> None:
    only_19036 = TrustAnchors(tuple(anchor for anchor in anchors().anchors if anchor.key_tag == 19036))

    with pytest.raises(KeyUntrusted, match=r"no trust anchor is valid at 2025-11-01T12:00:00Z \(there are: 19036 from"):
        verify(root(2025103100), only_19036, NOVEMBER)


def test_a_sep_key_without_an_anchor_raises_an_alarm() -> None:
    only_20326 = TrustAnchors(tuple(anchor for anchor in anchors().anchors if anchor.key_tag == 20326))

    assert verify(root(2025103100), only_20326, NOVEMBER).alarms == (
        "SEP key 38696 is covered by no trust anchor: a roll of the key is coming, or the file of anchors lost it",
    )


def test_the_new_anchor_alone_is_not_enough_before_its_key_signs() -> None:
    only_38696 = TrustAnchors(tuple(anchor for anchor in anchors().anchors if anchor.key_tag == 38696))

    with pytest.raises(ZoneRejected, match=r"DNSKEY: no RRSIG by a key of a trust anchor \(38696 \(algorithm 8\)\)"):
        verify(root(2025103100), only_38696, NOVEMBER)


# ── root-servers.net ──


@cache
def hosts() -> ZoneContents:
    text = (Path(require_genuine_zones()) / "root-servers.net.zone.2025091000").read_bytes()
    return presentation.from_text(text, from_text("root-servers.net."))


def test_root_servers_net_equals_what_the_root_says() -> None:
    verified_root = verify(root(2025091101), anchors(), SEPTEMBER)

    zone = verify_hosts(hosts(), verified_root, SEPTEMBER)

    assert zone.checks == (
        "hosts: NS and addresses of root-servers.net. equal those in the root zone, serial 2025091101",
    )
    assert zone.validated
    assert (zone.not_before, zone.signatures_until, zone.alarms) == (None, None, ())


def test_root_servers_net_is_refused_with_the_difference_named() -> None:
    verified_root = verify(root(2025091101), anchors(), SEPTEMBER)
    rrset = rrset_at(hosts(), "k.root-servers.net.", AAAA)
    altered = with_rrset(hosts(), replace(rrset, rdatas=with_first_changed(rrset.rdatas)))

    with pytest.raises(NotTheHosts) as rejection:
        verify_hosts(altered, verified_root, SEPTEMBER)

    assert str(rejection.value) == (
        "k.root-servers.net. AAAA: the root zone has 2001:7fd::1 besides; the root zone does not have 2001:7fd::"
    )
