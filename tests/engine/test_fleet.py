"""What was announced is remembered over restarts, whoever deletes it from the board."""

from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.engine.etcd import Entry
from rootsrv.engine.fleet import Fleet
from rootsrv.mesh import roster as rosters
from rootsrv.mesh.envelope import Envelope, seal
from rootsrv.mesh.maintenance import Maintenance, board_key
from rootsrv.mesh.member import Now
from rootsrv.mesh.roster import RosterBook, public_text
from tests.mesh.mesh_of import SERVICE, key_of, mesh_of

NOW = Now(1_795_262_400.0, 500.0, True)
MESH = mesh_of(6)


def fleet(directory: Path) -> Fleet:
    """Of a member that has started just now."""
    made = Fleet(SERVICE, RosterBook(SERVICE, MESH.roster.signing_keys), directory / "mesh" / "roster")
    made.recall(NOW)
    return made


def announced(one: Maintenance, now: float, who: str = "alice") -> Entry:
    key = board_key(one.id)
    return Entry(key, seal(Envelope(key, who, now, 0, now, 2.0**52, one.to_content()), SERVICE, key_of(who)), 7, 7, 7)


def test_maintenance_is_remembered_over_a_restart_with_the_board_empty(tmp_path: Path) -> None:
    first = fleet(tmp_path)
    first.adopt_roster(MESH.octets, 0.0, "test")
    one = Maintenance("disks", ("m1",), NOW.wall + 3600, NOW.wall + 7200, "new disks")
    entry = announced(one, NOW.wall)
    first.take(entry.key, entry, NOW)
    first.take(entry.key, None, NOW)  # deleted from the board
    assert fleet(tmp_path).maintenance["disks"].reason == "new disks"

    # A cancellation is remembered as well, and what is no longer signed by who may is not taken.
    cancelled = announced(replace(one, cancelled=True), NOW.wall + 9)
    first.take(cancelled.key, cancelled, NOW)
    assert fleet(tmp_path).maintenance["disks"].cancelled
    forged = announced(one, NOW.wall + 20, who="mallory")
    (tmp_path / "mesh" / "maintenance" / "disks").write_bytes(forged.value)
    (tmp_path / "mesh" / "maintenance" / "garbage").write_bytes(b"garbage")
    assert fleet(tmp_path).maintenance == {}


def test_what_is_over_for_a_week_is_forgotten(tmp_path: Path) -> None:
    first = fleet(tmp_path)
    first.adopt_roster(MESH.octets, 0.0, "test")
    for name, start in (("old", NOW.wall + 60), ("new", NOW.wall + 9 * 86_400)):
        entry = announced(Maintenance(name, ("m1",), start, start + 60, ""), NOW.wall)
        later = replace(NOW, wall=start)
        first.take(entry.key, entry, later)
    assert set(first.maintenance) == {"new"}
    assert [each.name for each in (tmp_path / "mesh" / "maintenance").iterdir()] == ["new"]


def test_of_a_member_that_was_removed_nothing_counts_any_more(tmp_path: Path) -> None:
    one = fleet(tmp_path)
    one.adopt_roster(MESH.octets, 0.0, "test")
    keys = {kind: f"member/m3/{kind}" for kind in ("ready", "done", "status")}
    content = {"zone": ".", "serial": 2026112101, "digest": "ab", "ok": False, "reason": "", "flipped_at": 1.0}

    def said(kind: str, seq: int) -> Entry:
        envelope = Envelope(keys[kind], "m3", NOW.wall, seq, NOW.wall, 2.0**50, content)
        return Entry(keys[kind], seal(envelope, SERVICE, key_of("m3")), seq, seq, 1)

    for kind, key in keys.items():
        one.take(key, said(kind, 1), NOW)
    assert "m3" in one.ready
    assert "m3" in one.done
    assert "m3" in one.statuses
    without = tuple(each for each in MESH.roster.member if each.name != "m3")
    assert one.offer_roster(MESH.changed(version=2, member=without).octets, NOW.boottime, "a file")
    assert "m3" not in {*one.ready, *one.done, *one.statuses, *one.flipped_at}
    for kind, key in keys.items():
        one.take(key, said(kind, 2), NOW)
    assert one.refused == 3
    assert "m3" not in {*one.ready, *one.done, *one.statuses}


@pytest.mark.parametrize("when", [float("nan"), float("inf"), 10**400, -1.0, 1e15, True, "1"])
def test_a_member_that_went_into_service_at_no_time_is_not_told_so(tmp_path: Path, when: object) -> None:
    one = fleet(tmp_path)
    one.adopt_roster(MESH.octets, 0.0, "test")
    key = "member/m3/done"
    content = {"zone": ".", "serial": 2026112101, "digest": "ab", "ok": True, "reason": "", "flipped_at": when}
    envelope = Envelope(key, "m3", NOW.wall, 1, NOW.wall, 2.0**50, content)

    one.take(key, Entry(key, seal(envelope, SERVICE, key_of("m3")), 1, 1, 1), NOW)

    assert one.done["m3"].ok
    assert "m3" not in one.flipped_at


def test_a_roster_is_recalled_whose_signer_the_configuration_has_never_heard_of(tmp_path: Path) -> None:
    """The first key was lost, then the second: the third one was named by the roster that the second one had signed."""
    first, second, third = ("first signer", "second signer", "third signer")
    keys = {name: public_text(key_of(name)) for name in (first, second, third)}
    one = fleet(tmp_path)
    one.adopt_roster(MESH.octets, 0.0, "test")
    two = replace(MESH.roster, version=2, signing_keys=(keys[second], keys[third]))
    three = replace(two, version=3, signing_keys=(keys[third],))
    assert one.offer_roster(rosters.sign(two, key_of(second), 0.0), 0.0, "engine")
    assert one.offer_roster(rosters.sign(three, key_of(third), 0.0), 0.0, "engine")

    again = fleet(tmp_path)
    assert again.roster == three
    assert not again.offer_roster(rosters.sign(replace(two, version=4), key_of(second), 0.0), 0.0, "engine")
    for damage in (b"\xff garbage", b"x" * 64):
        for name in ("roster-signers", "roster"):  # each is kept twice
            (tmp_path / "mesh" / name).write_bytes(damage)
            damaged = fleet(tmp_path)
            assert damaged.roster == three
            assert [each.path.name for each in damaged.files if each.trouble] == [name]
        for name in ("roster-signers", "roster-signers.twin"):
            (tmp_path / "mesh" / name).write_bytes(damage)
        assert fleet(tmp_path).roster is None  # as if nothing had been remembered
        one.adopt_roster(rosters.sign(replace(three, version=three.version + 1), key_of(third), 0.0), 1.0, "engine")
        assert one.roster is not None
        three = one.roster
