"""The roster: who is in the mesh, checked when it is signed and whenever it is read; its version only rises."""

import re
from dataclasses import replace

import pytest

from rootsrv.config.checks import ConfigError
from rootsrv.mesh import roster as rosters
from rootsrv.mesh.envelope import Envelope, EnvelopeForged, EnvelopeMalformed, EnvelopeRefused, Replayed, seal
from rootsrv.mesh.roster import Group, RosterBook, Timing, public_text
from tests.mesh.mesh_of import SERVICE, Mesh, key_of, mesh_of

FIRST, SECOND, THIRD = ("first signer", "second signer", "third signer")


def test_the_signed_roster_is_read_as_it_was_written() -> None:
    mesh = mesh_of(6)

    assert rosters.read(mesh.octets, SERVICE, mesh.roster.signing_keys) == mesh.roster


WRONG_TIMING = {
    "max_delay_below_what_canaries_need": (
        {"max_delay": 304.0},
        "must be at least offer + 2·align + soak + notice",
    ),
    "wait_below_max_delay": ({"wait": 599.0}, "wait: must be at least max_delay"),
    "a_void_makes_it_stale": ({"void": 3200.0}, "stale_soft: must be more than max(void, slack + max_delay)"),
    "align_zero": ({"align": 0}, "timing.align"),
    "a_hold_of_two_days": ({"hold": 172_800.0}, "timing.hold"),
}


@pytest.mark.parametrize("name", WRONG_TIMING)
def test_waits_that_could_make_members_stale_are_refused(name: str) -> None:
    changes, text = WRONG_TIMING[name]

    with pytest.raises(ConfigError, match=re.escape(text)):
        Timing(**changes)  # type: ignore[arg-type]


def test_the_bounds_themselves_are_allowed() -> None:
    Timing(max_delay=305.0)
    Timing(void=3179.0)


@pytest.mark.parametrize(("n", "most"), [(3, 1), (4, 1), (7, 1), (8, 2), (200, 50)])
def test_no_more_than_a_quarter_of_a_group_may_be_withdrawn(n: int, most: int) -> None:
    mesh_of(n, k=most)
    for k in (0, most + 1, n):
        with pytest.raises(ConfigError, match="group all: k must be"):
            mesh_of(n, k=k)


def test_what_is_wrong_with_members_is_named() -> None:
    roster = mesh_of(6).roster
    first, *others = roster.member
    wrong = {
        "twice: m1": (replace(first, name="m1"), *others),
        "public_key: twice": (replace(first, public_key=others[0].public_key.upper()), *others),
        "site 'nowhere' is not listed": (replace(first, site="nowhere"), *others),
        "group 'none' is not listed": (replace(first, group="none"), *others),
        "got 1 canaries": (*roster.member[:-2], replace(roster.member[-2], canary=False), roster.member[-1]),
        "got 6 canaries": tuple(replace(each, canary=True) for each in roster.member),
        "distribution host": tuple(replace(each, distribution_host=False) for each in roster.member),
    }
    for text, members in wrong.items():
        with pytest.raises(ConfigError, match=text):
            replace(roster, member=members)


def test_a_roster_cannot_be_signed_by_a_key_that_it_does_not_list() -> None:
    with pytest.raises(ConfigError, match="signing_keys"):
        rosters.sign(mesh_of(6).roster, key_of("m0"), 0.0)


def test_a_roster_that_is_signed_and_wrong_is_refused_when_it_is_read() -> None:
    mesh = mesh_of(6)
    content = rosters.document_of(mesh.roster) | {"group": [{"name": "all", "k": 6}]}
    octets = seal(Envelope("roster", "operator", 1.0, 0, 0.0, 0.0, content), SERVICE, key_of(FIRST))

    with pytest.raises(EnvelopeMalformed, match="k must be"):
        rosters.read(octets, SERVICE, mesh.roster.signing_keys)


def test_fields_of_a_later_version_are_ignored_in_a_signed_roster_and_refused_in_a_written_one() -> None:
    mesh = mesh_of(6)
    document = rosters.document_of(mesh.roster) | {"colour": "blue"}
    document["member"] = [{**each, "height": 3} for each in document["member"]]
    octets = seal(Envelope("roster", "operator", 1.0, 0, 0.0, 0.0, document), SERVICE, key_of(FIRST))

    assert rosters.read(octets, SERVICE, mesh.roster.signing_keys) == mesh.roster
    with pytest.raises(ConfigError, match="unknown key"):
        rosters.from_document(document)


def book(mesh: Mesh) -> RosterBook:
    made = RosterBook(SERVICE, (public_text(key_of(FIRST)),))
    assert made.offer(mesh.octets, 0.0)
    return made


def test_the_version_only_rises() -> None:
    mesh = mesh_of(6)
    in_force = book(mesh.changed(version=5))

    with pytest.raises(Replayed, match="version 4, 5 is in force"):
        in_force.offer(mesh.changed(version=4).octets, 1.0)
    assert not in_force.offer(mesh.changed(version=5).octets, 1.0)
    with pytest.raises(Replayed, match="two rosters of version 5"):
        in_force.offer(mesh_of(7).changed(version=5).octets, 1.0)
    assert in_force.offer(mesh.changed(version=6).octets, 1.0)


def test_the_second_key_replaces_the_first_which_is_worth_nothing_then() -> None:
    mesh = mesh_of(6)
    in_force = book(mesh)
    keys = (public_text(key_of(SECOND)), public_text(key_of(THIRD)))
    replaced = replace(mesh.roster, version=2, signing_keys=keys)

    assert in_force.offer(rosters.sign(replaced, key_of(SECOND), 0.0), 1.0)
    with pytest.raises(EnvelopeForged):
        in_force.offer(mesh.changed(version=3).octets, 2.0)
    assert in_force.roster == replaced


def test_the_first_roster_is_signed_by_a_key_of_the_configuration() -> None:
    with pytest.raises(EnvelopeRefused):
        RosterBook(SERVICE, (public_text(key_of(THIRD)),)).offer(mesh_of(6).octets, 0.0)


def test_for_a_tokens_lifetime_the_old_floor_counts_as_well() -> None:
    mesh = mesh_of(8, k=2)
    in_force = book(mesh)
    moved = tuple(replace(each, group="new") for each in mesh.roster.member)
    changed = replace(mesh.roster, version=2, group=(Group(name="new", k=1),), member=moved)
    in_force.offer(rosters.sign(changed, key_of(FIRST), 0.0), 100.0)

    assert in_force.floors("m3", 101.0) == (("new", 1), ("all", 2))
    assert in_force.floors("m3", 131.0) == (("new", 1),)


def test_waves_are_of_k_members_of_the_group() -> None:
    roster = mesh_of(8, k=2).roster

    assert [roster.wave_of(each.name) for each in roster.member] == [0, 0, 1, 1, 2, 2, 3, 3]
