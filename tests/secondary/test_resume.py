"""A start goes on from what is kept, never from anything older, and says what it cannot use."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.rcode
import pytest

from rootsrv.demo.signed import generate_keys
from tests.secondary import versions
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, version

Fixture = tuple[Maintained, ScriptedPrimary]


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Fixture]:
    """An instance that served FIRST, then FIRST + 1, and has ended; its primary refuses everything now."""
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            primary.publish(version(FIRST + 1))
            instance.notify(FIRST + 1)
            instance.wait_for_serial(FIRST + 1)
            instance.process.terminate()
            instance.process.wait(20)
            # As after a reboot: nothing in memory is left.
            (instance.directory / "run" / "page").unlink()
            primary.rcode = primary.ixfr_rcode = dns.rcode.REFUSED
            primary.named = FIRST - 1
            yield instance, primary


def kept(instance: Maintained, serial: int) -> Path:
    return instance.directory / "state" / "zones" / "root" / f"{serial}.zone"


def test_it_goes_on_from_the_stored_table_without_a_primary(stopped: Fixture) -> None:
    instance, _ = stopped
    instance.start()
    instance.wait_for_serial(FIRST + 1)
    answers = instance.log.index("stored table answers")
    adopted = instance.log.index('source="stored table"')
    assert answers < adopted  # before the zone, which takes a genuine root the most of a second, has been read


def test_a_table_that_is_gone_or_damaged_is_made_again_from_the_kept_zone(stopped: Fixture) -> None:
    instance, _ = stopped
    # It may have ended before it retired the table of FIRST.
    table = max((instance.directory / "state" / "tables").glob("*.table"), key=lambda path: int(path.stem))
    table.write_bytes(table.read_bytes()[:-8] + b"damaged!")
    instance.start()
    instance.wait_for_serial(FIRST + 1)
    assert "table unusable" in instance.log


def test_a_kept_zone_that_is_damaged_is_fetched_again_and_nothing_older_is_taken(stopped: Fixture) -> None:
    instance, primary = stopped
    path = kept(instance, FIRST + 1)
    path.write_bytes(path.read_bytes()[:-100])
    primary.publish(version(FIRST))
    instance.start()
    instance.wait(lambda: "older than" in instance.zone().get("last_rejection", ""), "the older one is refused")
    assert "kept zone unusable" in instance.log
    assert "stored table is not answered from any more" in instance.log
    instance.wait(lambda: instance.rcode() == dns.rcode.SERVFAIL, "SERVFAIL")
    assert instance.zone()["served"] is None
    primary.publish(version(FIRST + 1))
    instance.order("zone-refresh")
    instance.wait_for_serial(FIRST + 1)


def test_a_kept_zone_that_no_anchor_covers_any_more_is_not_answered_until_one_is_that_verifies(
    stopped: Fixture,
) -> None:
    instance, primary = stopped
    other = generate_keys(13)
    lines = versions.anchor(other[0]).splitlines(keepends=True)
    (instance.directory / "anchors").write_text(lines[-1])
    instance.start()
    instance.wait(lambda: "is not answered" in " ".join(instance.status().get("alarms", [])), "distrusted")
    instance.wait(lambda: instance.serial() is None, "not answered")
    instance.wait(lambda: instance.rcode() == dns.rcode.SERVFAIL, "SERVFAIL")
    primary.publish(version(FIRST + 2, keys=other))
    instance.order("zone-refresh")
    instance.wait_for_serial(FIRST + 2)


def test_a_damaged_ledger_is_a_clear_error_and_moving_it_away_heals(stopped: Fixture) -> None:
    instance, primary = stopped
    ledger = instance.directory / "state" / "ledger.json"
    twin = ledger.with_name("ledger.json.twin")
    for each in (ledger, twin):
        each.write_text("{")
    refused = instance.command("run", "--role", "maintain")
    assert refused.returncode == 1
    assert "damaged" in refused.stderr
    assert "move both away" in refused.stderr
    ledger.unlink()
    twin.unlink()
    primary.publish(version(FIRST + 2))
    instance.start()
    instance.wait(lambda: (instance.serial() or 0) >= FIRST + 1, "serves again")


@pytest.mark.parametrize("damage", ["{", '{"format": 1}', None])
def test_a_damaged_or_lost_ledger_is_read_from_its_twin_and_people_are_told(
    stopped: Fixture, damage: str | None
) -> None:
    instance, _ = stopped
    ledger = instance.directory / "state" / "ledger.json"
    before = json.loads(ledger.read_text())
    ledger.unlink()
    if damage is not None:
        ledger.write_text(damage)
    instance.start()
    instance.wait(lambda: instance.serial() is not None, "serves again")
    assert "ledger was behind" not in instance.log
    instance.wait(lambda: "its twin was read" in " ".join(instance.status().get("alarms", [])), "told")
    (file,) = instance.status()["files"]
    assert file["name"] == "ledger.json"
    assert "ledger.json" in file["trouble"]
    assert json.loads(ledger.read_text())["highest"] >= before["highest"]


def test_what_was_staged_for_a_set_time_goes_into_service_although_it_was_killed_meanwhile(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        switchover = "align_seconds = 6\nlead_seconds = 3"
        with maintained(tmp_path, primary_section(primary, "scripted"), switchover=switchover) as instance:
            instance.wait_for_serial(FIRST)
            primary.publish(version(FIRST + 1))
            instance.notify(FIRST + 1)
            instance.wait(lambda: instance.status()["switchover"]["activate_at"], "scheduled")
            assert instance.zone()["scheduled"] == FIRST + 1
            instance.kill()
            ledger = json.loads((instance.directory / "state" / "ledger.json").read_text())
            assert ledger["leases"]["."]["serial"] == FIRST
            assert ledger["next"]["leases"]["."]["serial"] == FIRST + 1
            primary.rcode = primary.ixfr_rcode = dns.rcode.REFUSED
            instance.start()
            instance.wait_for_serial(FIRST + 1)


def test_a_copy_of_the_state_directory_serves_on_another_box(stopped: Fixture, tmp_path: Path) -> None:
    instance, primary = stopped
    with maintained(tmp_path / "other", primary_section(primary, "scripted")) as other:
        other.kill()
        subprocess.run(["rm", "-rf", str(other.directory / "state"), str(other.directory / "run")], check=True)
        subprocess.run(["cp", "-a", str(instance.directory / "state"), str(other.directory / "state")], check=True)
        other.start()
        other.wait_for_serial(FIRST + 1)
