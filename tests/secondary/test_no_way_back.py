"""Nothing rolls back although the ledger cannot be written, is older than what was served, or is gone (D24)."""

import os
import shutil
import signal
from pathlib import Path

import dns.rcode

from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import primary_section, scripted
from tests.secondary.versions import FIRST, version


def test_no_flip_unless_the_ledger_on_disk_knows_of_it_and_room_heals_it_unasked(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            state = instance.directory / "state"
            ledger, saved = state / "ledger.json", state / "ledger.saved"
            instance.wait(ledger.exists, "the ledger")
            ledger.rename(saved)
            (ledger / "in the way").mkdir(parents=True)
            primary.publish(version(FIRST + 1))
            instance.notify(FIRST + 1)
            instance.wait(lambda: "it cannot be kept" in instance.zone()["last_rejection"], "told")
            assert instance.zone()["served"] == FIRST
            assert instance.serial() == FIRST
            assert not instance.status()["state_writable"]
            assert [each["event"] for each in instance.journal()].count("zone served") == 1
            # Of the tables that came to nothing the last one stays, by which its number is known.
            primary.publish(version(FIRST + 2))
            instance.notify(FIRST + 2)
            third = state / "tables" / "3.table"
            instance.wait(third.exists, "the next try")
            instance.wait(lambda: len([*third.parent.glob("*.table")]) == 2, "the one before goes")
            assert third.exists()
            assert instance.serial() == FIRST

            shutil.rmtree(ledger)
            saved.rename(ledger)
            instance.wait_for_serial(FIRST + 2)
            assert instance.status()["state_writable"]
            assert "Traceback" not in instance.log


def _forget_the_page(instance: Maintained) -> None:
    """As a reboot does."""
    (instance.directory / "run" / "page").unlink()


def test_a_start_never_goes_back_whatever_the_ledger_says(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            ledger = instance.directory / "state" / "ledger.json"
            instance.wait(ledger.exists, "the ledger")
            older = ledger.read_bytes()
            primary.publish(version(FIRST + 1))
            instance.notify(FIRST + 1)
            instance.wait_for_serial(FIRST + 1)
            instance.wait(lambda: "switchover confirmed generation=2" in instance.log, "confirmed")
            primary.rcode = primary.ixfr_rcode = dns.rcode.REFUSED
            primary.named = FIRST - 1

            # The workers live on: the page says what they answer from.
            maintain = instance.status()["pid"]
            ledger.write_bytes(older)
            os.kill(maintain, signal.SIGKILL)
            seen = set()

            def is_back() -> bool:
                seen.add(instance.serial())
                return instance.status().get("pid", maintain) != maintain and instance.zone()["served"] is not None

            instance.wait(is_back, "maintain is back")
            assert seen - {None} == {FIRST + 1}
            assert instance.zone()["served"] == FIRST + 1
            assert "ledger was behind generation=1->2 page=2" in instance.log

            # Nothing lives: the tables and the kept versions say it.
            instance.kill()
            _forget_the_page(instance)
            ledger.write_bytes(older)
            instance.start()
            instance.wait(lambda: instance.serial() is not None, "answers")
            assert instance.serial() == FIRST + 1
            assert "ledger was behind generation=1->2 page=0" in instance.log

            # … and without any ledger, while the primary offers something older.
            instance.kill()
            _forget_the_page(instance)
            for each in (ledger, ledger.with_name("ledger.json.twin")):
                each.unlink()
            primary.publish(version(FIRST))
            instance.start()
            instance.wait(lambda: instance.serial() is not None, "answers")
            assert instance.serial() == FIRST + 1

            # Its table is gone, too.
            instance.kill()
            _forget_the_page(instance)
            for each in (ledger, ledger.with_name("ledger.json.twin")):
                each.unlink()
            for table in (instance.directory / "state" / "tables").glob("*.table"):
                table.unlink()
            instance.start()
            instance.wait(lambda: instance.serial() is not None, "answers")
            assert instance.serial() == FIRST + 1
