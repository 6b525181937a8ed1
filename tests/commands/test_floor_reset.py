"""`rootsrv zone reset-floor`: the one way back from a serial that nobody meant, and every guard before it."""

import json
from pathlib import Path

import pytest

from tests.secondary.maintained import maintained
from tests.secondary.scripted import primary_section, scripted
from tests.secondary.versions import FIRST, version

FAR = FIRST + 90_000_000  # a typing error: 2116


def test_an_instance_takes_lower_serials_again_once_a_person_has_said_so(tmp_path: Path) -> None:
    with scripted(version(FAR)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FAR)
            reset = ("zone", "reset-floor", "--reason", "a typing error at the source")
            refused = instance.command(*reset, str(FAR))
            assert refused.returncode == 1
            assert "stop the instance first" in refused.stderr

            primary.publish(version(FIRST))
            instance.notify()
            instance.process.terminate()
            instance.process.wait(20)
            refused = instance.command(*reset, str(FIRST))
            assert refused.returncode == 1
            assert f"{FAR} was served, not {FIRST}; nothing was changed" in refused.stderr
            assert instance.command(*reset, str(FAR), "--zone", "nowhere.").returncode == 1

            instance.start()  # without the reset it goes on with what it had, and takes nothing older
            instance.wait_for_serial(FAR)
            instance.process.terminate()
            instance.process.wait(20)
            done = instance.command(*reset, str(FAR), "--json")
            assert done.returncode == 0, done.stderr
            aside = Path(json.loads(done.stdout)["put_aside"])
            assert {each.name for each in aside.iterdir()} >= {"ledger.json", "ledger.json.twin", "tables"}
            instance.start()
            instance.wait_for_serial(FIRST)
            (line,) = [each for each in instance.journal() if each["event"] == "serial floor reset"]
            assert (line["was"], line["reason"]) == (FAR, "a typing error at the source")


@pytest.mark.parametrize("serial", [FIRST])
def test_where_nothing_is_kept_there_is_nothing_to_reset(tmp_path: Path, serial: int) -> None:
    from rootsrv.commands.parser import main

    path = tmp_path / "rootsrv.toml"
    path.write_text(f'[[zone]]\nname = "."\nvalidation = "none"\n[state]\ndirectory = "{tmp_path}/state"\n')
    assert main(["zone", "reset-floor", str(serial), "--reason", "x", "--config", str(path)]) == 1
