"""By the roster alone: who has zones from whom, with a key that nobody had to make or send."""

from dataclasses import replace
from pathlib import Path

import dns.exception
import dns.name
import dns.query
import dns.tsig
import dns.xfr
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rootsrv.config.checks import ConfigError, endpoint
from rootsrv.config.file import Config, ZoneConfig
from rootsrv.config.zones import AdminConfig, KeyConfig, PeerConfig, PrimaryConfig
from rootsrv.mesh.roster import Roster
from rootsrv.mesh.transfers import Partner, Partners, key_name, partners, secret
from rootsrv.secondary.partners import completed
from tests.mesh.fleets import FleetUnderTest, fleet
from tests.mesh.mesh_of import SERVICE, Mesh, key_of, mesh_of
from tests.secondary.versions import FIRST


def listed(n: int = 6, *, without: str = "") -> Roster:
    roster = mesh_of(n).roster
    members = (
        replace(each, transfers="" if each.name == without else f"192.0.2.{number}:5353")
        for number, each in enumerate(roster.member, 1)
    )
    return replace(roster, member=tuple(members))


def partners_of(roster: Roster, name: str) -> Partners:
    me = roster.find(name)
    assert me is not None
    return partners(roster, me, key_of(name))


def test_both_ends_have_the_same_key_and_no_two_pairs_have_one() -> None:
    roster = listed()
    given = {(name, each.name): each for name in ("m0", "m1") for each in partners_of(roster, name).takers}
    taken = {(each.name, name): each for name in ("m2", "m3", "m4", "m5") for each in partners_of(roster, name).givers}

    assert len(taken) == 8
    assert set(given) == set(taken)
    assert all((given[pair].key, given[pair].secret) == (taken[pair].key, taken[pair].secret) for pair in taken)
    assert len({each.secret for each in given.values()}) == len({each.key for each in given.values()}) == len(given)
    assert taken["m0", "m2"].key == f"m2.m0.{SERVICE}."
    assert (taken["m0", "m2"].address, given["m0", "m2"].address) == ("192.0.2.1", "192.0.2.3")


def test_hosts_take_from_nobody_and_who_has_no_address_is_left_to_the_configuration() -> None:
    assert partners_of(listed(), "m0").givers == ()
    assert partners_of(listed(), "m2").takers == ()
    roster = listed(without="m2")
    assert partners_of(roster, "m2") == Partners()
    assert "m2" not in {each.name for each in partners_of(roster, "m0").takers}
    assert [each.name for each in partners_of(listed(without="m0"), "m2").givers] == ["m1"]


def test_another_key_in_the_roster_is_another_secret() -> None:
    roster = listed()
    changed = replace(
        roster,
        member=tuple(
            replace(each, public_key=mesh_of(7).roster.member[6].public_key) if each.name == "m2" else each
            for each in roster.member
        ),
    )
    before, after = ({e.name: e for e in partners_of(each, "m0").takers} for each in (roster, changed))
    assert before["m2"].secret != after["m2"].secret
    assert before["m3"] == after["m3"]
    assert partners_of(roster, "m0").version != partners_of(changed, "m0").version


@pytest.mark.parametrize("point", [1, 0])  # the neutral element, and one of order 4
def test_a_public_key_that_nobody_can_have_is_refused(point: int) -> None:
    public = Ed25519PublicKey.from_public_bytes(point.to_bytes(32, "little"))
    with pytest.raises(ConfigError, match="no agreeing"):
        secret(key_of("m0"), public, "m2.m0.x-root.")


def test_they_come_out_of_a_document_as_they_went_in() -> None:
    found = partners_of(listed(), "m0")
    assert Partners.from_document(found.to_document()) == found
    assert Partners.from_document(Partners().to_document()) == Partners()
    for wrong in ({}, {"givers": [], "takers": [["m2"]]}, {"givers": [], "takers": [["m2", "here", 1, "k.", "AA=="]]}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Partners.from_document(wrong)


@pytest.mark.parametrize("text", ["192.0.2.1", "192.0.2.1:0", "192.0.2.1:65536", "2001:db8::1:53", "[192.0.2.1]:53",
                                  "host.example:53", ":53", "192.0.2.1:+5", ""])  # fmt: skip
def test_what_is_no_address_and_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="member m2: transfers"):
        endpoint("member m2: transfers", text)
    if text:
        with pytest.raises(ConfigError, match="member m2: transfers"):
            replace(mesh_of(3).roster.member[2], transfers=text)


def test_ipv6_is_in_brackets_and_two_members_are_not_at_one_place() -> None:
    assert endpoint("x", "[2001:DB8::1]:5353") == ("2001:db8::1", 5353)
    roster = listed()
    with pytest.raises(ConfigError, match="transfers: twice"):
        replace(roster, member=tuple(replace(each, transfers="192.0.2.1:5353") for each in roster.member))


WRITTEN = Config(
    zone=(ZoneConfig(name=".", trust_anchors="anchors"),),
    admin=AdminConfig(addresses=("192.0.2.1",)),
    key=(KeyConfig(name="by-hand.", secret="A" * 24),),
    primary=(PrimaryConfig(name="m0", address="192.0.2.99", key="by-hand."),),
    peer=(PeerConfig(name="m4", address="192.0.2.98", key="by-hand."),),
)


def test_the_configuration_is_completed_and_what_is_written_by_hand_wins() -> None:
    taker = completed(WRITTEN, partners_of(listed(), "m2"))
    assert [(each.name, each.address) for each in taker.primary] == [("m0", "192.0.2.99"), ("m1", "192.0.2.2")]
    giver = completed(WRITTEN, partners_of(listed(), "m0"))
    assert [(e.name, e.address) for e in giver.peer][:2] == [("m4", "192.0.2.98"), ("m2", "192.0.2.3")]
    assert {each.key for each in giver.peer} <= {each.name for each in giver.key}
    assert completed(WRITTEN, Partners()) is WRITTEN


def test_a_host_without_an_administrative_address_gives_to_nobody_and_says_so() -> None:
    bare = replace(WRITTEN, admin=AdminConfig(), peer=())
    with pytest.raises(ConfigError, match=r"admin\.addresses"):
        completed(bare, partners_of(listed(), "m0"))


def peers_of(running: FleetUnderTest, name: str) -> dict[str, dict[str, object]]:
    return {each["name"]: each for each in running.members[name].status().get("peers", [])}


def transfer(running: FleetUnderTest, taker: str) -> int:
    """AXFR from m0 with the key that *taker* derives, from its address: the serial."""
    named = {each.name: each for each in running.mesh.roster.member}
    giver: Partner
    (giver,) = partners(running.mesh.roster, named[taker], key_of(taker)).givers
    zone = dns.zone.Zone(dns.name.root)
    key = dns.tsig.Key(dns.name.from_text(giver.key), giver.secret)
    query, _ = dns.xfr.make_query(zone, keyring=key, keyalgorithm=dns.tsig.HMAC_SHA256)
    dns.query.inbound_xfr(
        giver.address, zone, query, port=giver.port, timeout=10, source=running.members[taker].admin[0]
    )
    return int(zone.find_rdataset("@", "SOA")[0].serial)


@pytest.mark.long
def test_a_member_that_the_roster_lists_has_zones_and_notify_and_one_that_it_lists_no_more_has_none(
    tmp_path: Path,
) -> None:
    """m0 distributes; no member has a [[primary]], and m0 has no [[peer]]."""
    with fleet(tmp_path, 4, by_roster=True) as running:
        assert not any("[[peer]]" in each.configuration.read_text() for each in running.members.values())
        running.publish(FIRST + 1)
        running.wait_for_all(FIRST + 1)
        told = lambda: {str(each["notify"]) for each in peers_of(running, "m0").values()}  # noqa: E731
        running.wait(lambda: told() == {f"{FIRST + 1}: confirmed"}, lambda: f"NOTIFY reaches all: {told()}")
        assert set(peers_of(running, "m0")) == {"m1", "m2", "m3"}
        assert transfer(running, "m1") == FIRST + 1

        kept = tuple(each for each in running.mesh.roster.member if each.name != "m1")
        (tmp_path / "newer").write_bytes(Mesh(replace(running.mesh.roster, version=2, member=kept)).octets)
        done = running.members["m0"].command("mesh", "publish", str(tmp_path / "newer"))
        assert done.returncode == 0, done.stderr
        running.wait(lambda: set(peers_of(running, "m0")) == {"m2", "m3"}, "m1 is no peer any more")
        with pytest.raises(dns.exception.DNSException):
            transfer(running, "m1")
        assert f"key {key_name(SERVICE, 'm0', 'm1')}: no such key" in running.members["m0"].log
        running.publish(FIRST + 2)
        go_on = {"m0": FIRST + 2, "m1": FIRST + 1, "m2": FIRST + 2, "m3": FIRST + 2}
        running.wait(lambda: running.serials() == go_on, lambda: f"the others go on: {running.serials()}")

        # A reload of what is written by hand forgets nobody whom the roster names.
        assert running.members["m0"].command("reload").returncode == 0
        assert set(peers_of(running, "m0")) == {"m2", "m3"}
        running.publish(FIRST + 3)
        running.wait(lambda: running.serials()["m2"] == FIRST + 3, "and on")
