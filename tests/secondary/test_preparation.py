"""Verify, keep, judge, compile, examine: what may go wrong before a table is staged."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.answer import examination
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import AnswerTable
from rootsrv.demo.sign import Signing, sign_root
from rootsrv.secondary import preparation
from rootsrv.secondary.preparation import AnchorsUnreadable, Preparation, ZonePolicy, is_beyond_us
from rootsrv.store.store import Store
from rootsrv.store.table_file import open_table
from rootsrv.wire.name import from_text
from rootsrv.wire.rdata import DNAME, DS, NS, NSEC, SOA, TXT
from rootsrv.zone import plausibility
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.delivery import Delivery, Origin
from rootsrv.zone.verify import VerifiedZone, verify, verify_hosts
from tests.secondary import versions
from tests.secondary.versions import FIRST, version

ROOT, HOSTS = b"\0", from_text("root-servers.net.")
NOW = time.time()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


def policy(name: str, apex: bytes, validation: str = "required") -> ZonePolicy:
    return ZonePolicy(name, apex, validation, "if-supported", versions.anchor)  # type: ignore[arg-type]


def candidate(contents: ZoneContents, **changes: object) -> Delivery:
    made = Delivery(contents, Origin("one", "axfr", NOW, 0.0, "one"), contents.soa.expire, True)
    return replace(made, **changes)  # type: ignore[arg-type]


def prepare(store: Store, root: ZoneContents, hosts: ZoneContents | None = None, **changes: object) -> Preparation:
    made = Preparation(
        store=store,
        generation=7,
        now=NOW,
        root_policy=policy(".", ROOT),
        hosts_policy=policy("root-servers.net.", HOSTS, "none"),
        limits=plausibility.ChangeLimits(),
        root=candidate(root),
        hosts=candidate(hosts) if hosts else None,
        new_root=True,
        new_hosts=hosts is not None,
        serving_root=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def verified(contents: ZoneContents) -> VerifiedZone:
    return verify(contents, TrustAnchors.from_text(versions.anchor()), NOW)


def test_a_good_pair_is_kept_compiled_and_examined(store: Store) -> None:
    prepared = prepare(store, version(FIRST), versions.hosts()).run()
    assert (prepared.void, prepared.has_hosts) == ("", True)
    assert prepared.root is not None
    assert prepared.hosts is not None
    assert (prepared.root.outcome, prepared.hosts.outcome) == ("accepted", "accepted")
    table = open_table(store.table(7))
    assert [zone.serial for zone in table.zones] == [FIRST, FIRST]
    (kept,) = store.versions(ROOT)
    assert (kept.serial, kept.source, kept.verdict, len(kept.zonemd)) == (FIRST, "one", "accepted", 96)
    assert [each.serial for each in store.versions(HOSTS)] == [FIRST]


def test_a_table_that_answers_otherwise_than_the_zone_is_void(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = verified(version(FIRST + 1))
    monkeypatch.setattr(preparation, "compile_table", lambda root, hosts: compile_table(other, hosts))
    prepared = prepare(store, version(FIRST)).run()
    assert "differences in" in prepared.void


def test_a_table_that_cannot_be_mapped_is_void(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "compile_table", lambda root, hosts: compile_table(root, hosts)[:-1] + b"\xff")
    assert "the table cannot be used" in prepare(store, version(FIRST)).run().void


@pytest.mark.parametrize("rtype", [NS, DS, NSEC, SOA])
def test_the_examination_sees_a_record_that_is_not_the_zones(rtype: int) -> None:
    zone = verified(version(FIRST))
    hosts = verify_hosts(versions.hosts(), zone, NOW)
    table = AnswerTable(compile_table(zone, hosts))
    asked, differences = examination.examine(table, zone.contents, hosts.contents)
    assert (asked, differences) == (examination.QUESTIONS, [])
    found = [key for key in zone.contents.rrsets if key[1] == rtype and (rtype == SOA or key[0] != ROOT)]
    rrsets = dict(zone.contents.rrsets)
    for key in found:
        # Signatures tell versions of an RRset apart; NS has none, so its targets change.
        changes = {"rrsigs": (b"x",)} if rtype != NS else {"rdatas": (b"\2xx\0",)}
        rrsets[key] = replace(rrsets[key], **changes)  # type: ignore[arg-type]
    assert examination.examine(table, ZoneContents(ROOT, rrsets), hosts.contents)[1]


def test_the_first_zone_is_not_held_and_a_gross_change_is(store: Store) -> None:
    first = prepare(store, version(FIRST, expiration=NOW + 3600)).run()
    assert first.root is not None
    assert first.root.outcome == "accepted"
    assert first.root.alarms[-1].startswith("signatures expire within")
    held = prepare(store, version(FIRST + 1, tlds=3), serving_root=version(FIRST)).run()
    assert held.root is not None
    assert (held.root.outcome, held.table_octets) == ("held", 0)
    assert store.versions(ROOT)[-1].verdict == "held"
    approved = prepare(store, version(FIRST + 1, tlds=3), serving_root=version(FIRST))
    approved = replace(approved, root=replace(approved.root, approved=True))
    assert approved.run().table_octets > 0


def test_a_root_whose_hosts_do_not_fit_is_held_and_goes_on_without_them_when_approved(store: Store) -> None:
    hosts = versions.hosts()
    owner = next(key for key in hosts.rrsets if key[1] == 1)
    moved = ZoneContents(HOSTS, {**hosts.rrsets, owner: replace(hosts.rrsets[owner], rdatas=(b"\xc0\0\2\xee",))})
    serving = {"serving_root": version(FIRST), "new_hosts": False}
    held = prepare(store, version(FIRST + 1), moved, **serving).run()
    assert held.root is not None
    assert held.root.outcome == "held"
    assert held.root.reasons[0].startswith("root-servers.net.: ")
    approved = prepare(store, version(FIRST + 1), moved, **serving)
    prepared = replace(approved, root=replace(approved.root, approved=True)).run()
    assert (prepared.has_hosts, prepared.void) == (False, "")
    assert prepared.table_octets > 0


@pytest.mark.parametrize("anchors", [None, ". IN DS 17 17 6 00\n", "<TrustAnchor>"])
def test_anchors_that_cannot_be_read_judge_no_zone_and_say_so(
    store: Store, tmp_path: Path, anchors: str | None
) -> None:
    file = tmp_path / "anchors"
    if anchors is not None:
        file.write_text(anchors)
    preparing = prepare(store, version(FIRST))
    with pytest.raises(AnchorsUnreadable, match="the trust anchors cannot be read"):
        replace(preparing, root_policy=replace(preparing.root_policy, anchors=file.read_text)).run()
    assert store.versions(ROOT) == []


def test_with_no_root_in_service_a_root_whose_hosts_do_not_fit_goes_on_without_them_and_says_so(store: Store) -> None:
    hosts = versions.hosts()
    owner = next(key for key in hosts.rrsets if key[1] == 1)
    moved = ZoneContents(HOSTS, {**hosts.rrsets, owner: replace(hosts.rrsets[owner], rdatas=(b"\xc0\0\2\xee",))})
    prepared = prepare(store, version(FIRST), moved).run()
    assert prepared.root is not None
    assert prepared.hosts is not None
    assert (prepared.root.outcome, prepared.hosts.outcome, prepared.has_hosts) == ("accepted", "rejected", False)
    assert prepared.root.alarms[-1].startswith("served without root-servers.net.: ")
    assert "192.0.2.238" in prepared.root.alarms[-1]
    assert prepared.table_octets > 0


# ── zones of another shape ──


def of_another_shape(serial: int, rrset: RRset) -> ZoneContents:
    """A genuine root that no table of today can hold."""
    made = version(serial)
    signing = Signing(keys=versions.keys(), inception=int(NOW) - 3600, expiration=int(NOW) + 10 * 86_400)
    return sign_root(ZoneContents(ROOT, {**made.rrsets, (rrset.owner, rrset.rtype): rrset}), signing)


DNAME_AT_ZZ = RRset(from_text("zz."), DNAME, 300, (from_text("com."),))


@pytest.mark.parametrize("serving", [True, False], ids=["with a zone in service", "with nothing in service"])
@pytest.mark.parametrize("approved", [True, False], ids=["approved", "not approved"])
def test_a_genuine_root_that_no_table_can_hold_is_held_and_kept(store: Store, serving: bool, approved: bool) -> None:
    contents = of_another_shape(FIRST + 1, DNAME_AT_ZZ)
    made = prepare(store, contents, serving_root=version(FIRST) if serving else None)
    prepared = replace(made, root=candidate(contents, approved=approved)).run()
    assert prepared.root is not None
    assert (prepared.root.outcome, prepared.table_octets) == ("held", 0)
    assert prepared.root.reasons[0] == "newer software wanted: no answer table can hold DNAME (zz.)"
    assert is_beyond_us(prepared.root.reasons)
    (kept,) = store.versions(ROOT)
    assert (kept.serial, kept.verdict, kept.reasons) == (FIRST + 1, "held", prepared.root.reasons)


def test_a_forged_root_of_another_shape_is_rejected(store: Store) -> None:
    made = version(FIRST)
    forged = ZoneContents(ROOT, {**made.rrsets, (DNAME_AT_ZZ.owner, DNAME): DNAME_AT_ZZ})
    prepared = prepare(store, forged).run()
    assert prepared.root is not None
    assert prepared.root.outcome == "rejected"


def test_a_new_type_is_served_with_an_alarm(store: Store) -> None:
    contents = of_another_shape(FIRST, RRset(from_text("com."), 65280, 300, (b"\1\2",)))
    prepared = prepare(store, contents, versions.hosts()).run()
    assert prepared.root is not None
    assert (prepared.root.outcome, prepared.void) == ("accepted", "")
    assert "delegation TYPE65280 (1) is new to this version of the software" in prepared.root.alarms[0]
    assert prepared.table_octets


def signed_hosts(*added: RRset) -> tuple[ZoneContents, str]:
    """The zone of the hosts, signed, and its trust anchor."""
    signing = Signing(
        keys=versions.keys(), inception=int(NOW) - 3600, expiration=int(NOW) + 5 * 86_400, zonemd_hashes=()
    )
    plain = versions.hosts()
    contents = sign_root(
        ZoneContents(HOSTS, {**plain.rrsets, **{(each.owner, each.rtype): each for each in added}}), signing
    )
    return contents, versions.anchor().replace(". IN", "root-servers.net. IN")


def test_signed_hosts_are_served_signed_and_their_signatures_end_their_lease(store: Store) -> None:
    contents, anchor = signed_hosts()
    for hosts_policy, alarms in (
        (replace(policy("root-servers.net.", HOSTS), anchors=lambda: anchor), 0),
        (policy("root-servers.net.", HOSTS, "none"), 1),
    ):
        prepared = prepare(store, version(FIRST), contents, hosts_policy=hosts_policy).run()
        assert prepared.hosts is not None
        assert (prepared.hosts.outcome, prepared.void, len(prepared.hosts.alarms)) == ("accepted", "", alarms)
        assert prepared.hosts.signatures_until == int(NOW) + 5 * 86_400
        assert open_table(store.table(7)).zones[1].signatures_until == int(NOW) + 5 * 86_400


def unreadable() -> str:
    raise OSError("no such file")


@pytest.mark.parametrize("anchors", [versions.anchor, unreadable, lambda: "nonsense"])
def test_hosts_that_cannot_be_verified_do_not_hold_up_the_first_root(store: Store, anchors: Callable[[], str]) -> None:
    contents, _ = signed_hosts()
    hosts_policy = replace(policy("root-servers.net.", HOSTS), anchors=anchors)
    prepared = prepare(store, version(FIRST), contents, hosts_policy=hosts_policy).run()
    assert prepared.root is not None
    assert prepared.hosts is not None
    assert (prepared.root.outcome, prepared.hosts.outcome, prepared.has_hosts) == ("accepted", "rejected", False)
    assert prepared.table_octets


def test_genuine_hosts_that_no_table_can_hold_are_held_and_the_root_goes_on(store: Store) -> None:
    contents, _ = signed_hosts(RRset(from_text("*.root-servers.net."), TXT, 300, (b"\1x",)))
    prepared = prepare(store, version(FIRST + 1), contents, serving_hosts=candidate(versions.hosts())).run()
    assert prepared.root is not None
    assert prepared.hosts is not None
    assert (prepared.root.outcome, prepared.hosts.outcome, prepared.has_hosts) == ("accepted", "held", True)
    assert is_beyond_us(prepared.hosts.reasons)
    (kept,) = store.versions(HOSTS)
    assert (kept.verdict, kept.reasons) == ("held", prepared.hosts.reasons)
