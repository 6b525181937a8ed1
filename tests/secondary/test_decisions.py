"""Holds, approvals, imports, restarts: what a human decides and what survives."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.rcode
import pytest

from rootsrv.demo.signed import generate_keys
from tests.secondary import versions
from tests.secondary.maintained import SMALL_LIMITS, Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, text, version

Fixture = tuple[Maintained, ScriptedPrimary]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path_factory.mktemp("decisions"), primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            yield instance, primary


def offer(running: Fixture, serial: int, **changes: object) -> None:
    instance, primary = running
    primary.publish(version(serial, **changes))
    instance.order("zone-refresh")


def held(instance: Maintained) -> list[int]:
    return [each["serial"] for each in instance.zone()["held"]]


def test_a_gross_change_is_held_and_an_approval_makes_it_the_new_yardstick(running: Fixture) -> None:
    instance, _ = running
    served = instance.serial() or 0
    offer(running, served + 1, tlds=versions.TLDS // 2)
    instance.wait(lambda: held(instance) == [served + 1], "held")
    status = instance.status()
    assert instance.serial() == served
    assert "TLDs gone: " in status["zones"][0]["held"][0]["reasons"][0]
    assert any("is held" in alarm for alarm in status["alarms"])
    assert status["health"]["behind_seconds"] == 0  # a hold never degrades the route
    # A newer one waits too: each is judged afresh against the zone in service.
    offer(running, served + 2, tlds=versions.TLDS // 2)
    instance.wait(lambda: held(instance) == [served + 1, served + 2], "both held")

    approved = instance.command("zone", "approve", str(served + 1), "--json")
    assert (approved.returncode, json.loads(approved.stdout)) == (0, {"ok": True})
    # The newer one is like what is in service now: nobody need approve it.
    instance.wait_for_serial(served + 2)
    assert held(instance) == []
    events = [(each["event"], each["serial"]) for each in instance.journal() if each.get("serial", 0) > served]
    assert [e for e in events if e[0] in {"zone approved", "zone served"}] == [
        ("zone approved", served + 1),
        ("zone served", served + 1),
        ("zone served", served + 2),
    ]


def test_a_held_zone_that_is_rejected_is_not_fetched_again_and_the_next_one_is(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial() or 0
    offer(running, served + 1, tlds=5)
    instance.wait(lambda: held(instance) == [served + 1], "held")
    transfers = primary.asked["AXFR"]

    assert instance.command("zone", "reject", str(served + 1)).returncode == 0
    asked = primary.asked["SOA"]
    instance.order("zone-refresh")
    instance.wait(lambda: primary.asked["SOA"] > asked, "asked")
    assert held(instance) == []
    assert primary.asked["AXFR"] == transfers
    offer(running, served + 2, tlds=15)
    instance.wait_for_serial(served + 2)


def test_what_is_held_is_told_once_however_often_it_is_delivered(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial() or 0
    offer(running, served + 1, tlds=4)
    instance.wait(lambda: held(instance) == [served + 1], "held")
    transfers = primary.asked["AXFR"] + primary.asked["IXFR"]
    assert instance.command("reload").returncode == 0  # what primaries have delivered is forgotten
    instance.wait(lambda: primary.asked["AXFR"] + primary.asked["IXFR"] > transfers, "delivered again")
    instance.wait(lambda: instance.zone()["primaries"][0]["last_success_seconds"] is not None, "delivered again")
    offer(running, served + 2, tlds=15)
    instance.wait_for_serial(served + 2)
    assert instance.log.count(f"zone held zone=. serial={served + 1} ") == 1


def test_orders_that_cannot_be_carried_out_say_why_and_end_with_status_1(running: Fixture, tmp_path: Path) -> None:
    instance, _ = running
    for arguments, reason in (
        (("zone", "approve", "1"), "serial 1 is not held"),
        (("zone", "reject", "1"), "serial 1 is not held"),
        (("zone", "show", "--serial", "1"), "serial 1 is not kept"),
        (("zone", "export", str(tmp_path / "x"), "--zone", "example."), "there is no zone example."),
        (("zone", "import", str(tmp_path / "absent")), "No such file or directory"),
    ):
        refused = instance.command(*arguments)
        assert refused.returncode == 1
        assert reason in refused.stderr
        as_json = instance.command(*arguments, "--json")
        assert reason in json.loads(as_json.stdout)["error"]


@pytest.mark.parametrize("serial", ["../../../secret", "7", True, -1, [7], {"a": 1}])
def test_an_export_of_what_is_no_serial_is_refused(running: Fixture, serial: object) -> None:
    instance, _ = running
    answer = instance.order("zone-export", serial=serial)
    assert answer["ok"] is False
    assert answer["error"].startswith("serial: must be ")


def test_what_is_exported_is_the_zone_and_can_be_imported_elsewhere(running: Fixture, tmp_path: Path) -> None:
    instance, _ = running
    path = tmp_path / "exported"
    assert instance.command("zone", "export", str(path)).returncode == 0
    anchors = instance.directory / "anchors"
    verified = subprocess.run(
        [sys.executable, "-m", "rootsrv", "zone", "verify", str(path), "--name", ".", "--anchors", str(anchors)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_an_import_with_the_network_down_is_verified_and_goes_into_service(running: Fixture, tmp_path: Path) -> None:
    instance, primary = running
    served = instance.serial() or 0
    primary.rcode = dns.rcode.REFUSED
    good, bad, old = tmp_path / "good", tmp_path / "bad", tmp_path / "old"
    zone = version(served + 1, tlds=15)
    good.write_bytes(text(zone))
    bad.write_bytes(text(versions.with_rdata(version(served + 3, tlds=15), 1, lambda o: o[:-1] + b"\7")))
    old.write_bytes(text(version(served - 1, tlds=15)))

    imported = instance.command("zone", "import", str(good), "--now", "--json")
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout) == {"ok": True, "serial": served + 1, "state": "served"}
    assert instance.serial() == served + 1
    for path, reason in ((bad, "does not match the zone's contents"), (old, "is older than")):
        refused = instance.command("zone", "import", str(path), "--now")
        assert refused.returncode == 1
        assert reason in refused.stderr
    assert instance.serial() == served + 1


def test_status_and_lists_are_for_people_too(running: Fixture) -> None:
    instance, _ = running
    for arguments in (("status",), ("zone", "list"), ("zone", "show")):
        shown = instance.command(*arguments)
        assert shown.returncode == 0, shown.stderr
        assert str(instance.serial()) in shown.stdout
    document = json.loads(instance.command("status", "--json").stdout)
    assert document["maintain"]["zones"][0]["served"] == instance.serial()
    assert document["serve"]["role"] == "serve"


def test_after_kill_9_of_everything_it_goes_on_from_the_same_serial_without_a_primary(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial()
    lease = instance.zone()["lease_seconds"]
    primary.rcode = primary.ixfr_rcode = dns.rcode.REFUSED
    instance.kill()
    instance.start()
    instance.wait_for_serial(served or 0)
    instance.wait(lambda: instance.zone().get("served") == served, "served")
    assert instance.zone()["lease_seconds"] <= lease


def test_a_second_instance_on_the_state_directory_is_refused(running: Fixture) -> None:
    instance, _ = running
    second = instance.command("run", "--role", "maintain")
    assert second.returncode == 1
    assert "another instance" in second.stderr
    assert instance.serial() is not None


def test_a_reload_takes_another_primary_and_a_broken_configuration_changes_nothing(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial() or 0
    good = instance.configuration.read_text()
    try:
        instance.configuration.write_text(good + "\n[nonsense]\n")
        refused = instance.order("reload")
        assert not refused["ok"]
        assert "nonsense: unknown key" in refused["error"]
        assert instance.serial() == served
        with scripted(version(served + 1, tlds=15)) as another:
            more = good.replace(f"port = {primary.port}", f"port = {another.port}")
            instance.configuration.write_text(more)
            assert instance.command("reload").returncode == 0
            instance.wait_for_serial(served + 1)
    finally:
        instance.configuration.write_text(good)
        instance.order("reload")


def test_a_hold_that_nobody_decides_ends_with_an_alarm(tmp_path: Path) -> None:
    # A hold ends 60 s before stale_hard_seconds.
    limits = SMALL_LIMITS + "\n[hold]\nstale_hard_seconds = 61\n"
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted"), limits=limits) as instance:
            instance.wait_for_serial(FIRST)
            offer((instance, primary), FIRST + 1, tlds=10)
            instance.wait_for_serial(FIRST + 1)
            expected = ["zone held", "hold timed out", "zone accepted", "zone served"]
            instance.wait(lambda: [each["event"] for each in instance.journal()][-4:] == expected, "the journal")


def test_on_hold_timeout_keep_keeps(tmp_path: Path) -> None:
    limits = SMALL_LIMITS + '\n[hold]\nstale_hard_seconds = 60\non_hold_timeout = "keep"\n'
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted"), limits=limits) as instance:
            instance.wait_for_serial(FIRST)
            offer((instance, primary), FIRST + 1, tlds=10)
            instance.wait(lambda: held(instance) == [FIRST + 1], "held")
            time.sleep(2)
            assert instance.serial() == FIRST
            assert held(instance) == [FIRST + 1]


def test_a_ksk_that_is_rolled_is_taken_when_its_anchor_is_there(tmp_path: Path) -> None:
    new_ksk = generate_keys(13)[0]
    old_ksk, zsk = versions.keys()
    with scripted(version(FIRST)) as primary:
        anchors = versions.anchor(new_ksk)
        with maintained(tmp_path, primary_section(primary, "scripted"), anchors=anchors) as instance:
            instance.wait_for_serial(FIRST)
            offer((instance, primary), FIRST + 1, keys=(old_ksk, new_ksk, zsk))
            instance.wait_for_serial(FIRST + 1)
            offer((instance, primary), FIRST + 2, keys=(new_ksk, zsk))
            instance.wait_for_serial(FIRST + 2)


def test_a_source_without_key_has_to_have_a_digest(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        primary.key = None
        with maintained(tmp_path, primary_section(primary, "scripted", key="")) as instance:
            instance.wait_for_serial(FIRST)
            unsigned = versions.without_zonemd(FIRST + 1)
            primary.publish(unsigned)
            primary.key = None
            instance.order("zone-refresh")
            instance.wait(lambda: "ZONEMD" in instance.zone()["last_rejection"], "rejected")
            assert instance.serial() == FIRST


def test_an_import_whose_place_is_taken_by_others_ends(tmp_path: Path) -> None:
    switchover = "align_seconds = 8\nlead_seconds = 6"
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted"), switchover=switchover) as instance:
            instance.wait_for_serial(FIRST)
            primary.publish(version(FIRST + 1))
            instance.notify(FIRST + 1)
            instance.wait(lambda: instance.zone()["scheduled"] == FIRST + 1, "the pipeline waits for the set time")
            # One more primary than there is: the oldest of three has no place, and the newer two are held.
            zones = {2: versions.TLDS, 3: 6, 4: 5}
            paths = {step: tmp_path / f"{step}.zone" for step in zones}
            for step, tlds in zones.items():
                paths[step].write_bytes(text(version(FIRST + step, tlds=tlds)))
            with ThreadPoolExecutor(len(zones)) as orders:
                answers = {}
                for step, path in paths.items():
                    answers[step] = orders.submit(instance.order, "zone-import", path.read_bytes())
                    received = FIRST + step
                    instance.wait(lambda received=received: instance.zone()["received"] == received, "received")
                told = {step: answer.result() for step, answer in answers.items()}
            assert "is not under way any more" in told[2]["error"]
            assert {told[step].get("state") for step in (3, 4)} == {"held"}
