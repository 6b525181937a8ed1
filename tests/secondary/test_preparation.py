"""Verify, keep, judge, compile, examine: what may go wrong before a table is staged."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.answer import examination
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import AnswerTable
from rootsrv.secondary import preparation
from rootsrv.secondary.preparation import Candidate, Preparation, ZonePolicy
from rootsrv.store.store import Store
from rootsrv.store.table_file import open_table
from rootsrv.wire.name import from_text
from rootsrv.wire.rdata import DS, NS, NSEC, SOA
from rootsrv.zone import plausibility
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import ZoneContents
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


def candidate(contents: ZoneContents, **changes: object) -> Candidate:
    made = Candidate(contents, "one", "axfr", NOW, contents.soa.expire, True)
    return replace(made, **changes)  # type: ignore[arg-type]


def prepare(store: Store, root: ZoneContents, hosts: ZoneContents | None = None, **changes: object) -> Preparation:
    made = Preparation(
        store=store,
        generation=7,
        now=NOW,
        root_policy=policy(".", ROOT),
        hosts_policy=policy("root-servers.net.", HOSTS, "none"),
        limits=plausibility.Limits(),
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


def test_anchors_that_cannot_be_read_reject_and_say_so(store: Store, tmp_path: Path) -> None:
    def absent() -> str:
        return (tmp_path / "absent").read_text()

    preparing = prepare(store, version(FIRST))
    prepared = replace(preparing, root_policy=replace(preparing.root_policy, anchors=absent)).run()
    assert prepared.root is not None
    assert prepared.root.outcome == "rejected"
    assert "No such file or directory" in prepared.root.reasons[0]


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
