"""Two primaries, NSD and Knot, tell different truths: the newest that verifies is served, and nothing goes back."""

import contextlib
from pathlib import Path
from typing import Any

from bench.peers.primaries import KEY_NAME, HiddenPrimary, hidden_primary
from rootsrv.demo.signed import generate_keys
from rootsrv.zone import presentation
from tests.control.asking import ask_for_octets
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.versions import FIRST, text, version

LIMITS = "[refresh]\nmin_seconds = 1\nmax_seconds = 1\nbackoff_seconds = 0.1\n"


def section(primary: HiddenPrimary) -> str:
    return f'[[primary]]\nname = "{primary.kind}"\naddress = "127.0.0.1"\nport = {primary.port}\nkey = "{KEY_NAME}"\n'


def told(instance: Maintained, kind: str) -> dict[str, Any]:
    """What is known of one of them."""
    return next((each for each in instance.zone().get("primaries", []) if each["name"] == kind), {})


def is_asked_again(instance: Maintained, kind: str, what: str) -> None:
    """Wait until *kind* has said *what* twice more."""
    before = instance.log.count(what)
    instance.wait(lambda: instance.log.count(what) >= before + 2, f"{kind} is asked again: {what}")


def test_the_newest_that_verifies_is_served_and_nothing_goes_back(tmp_path: Path) -> None:
    first = text(version(FIRST))
    with contextlib.ExitStack() as stack:
        nsd = stack.enter_context(hidden_primary("NSD", {".": first}, tmp_path / "nsd"))
        knot = stack.enter_context(hidden_primary("Knot", {".": first}, tmp_path / "knot"))
        instance = stack.enter_context(maintained(tmp_path / "box", section(nsd) + section(knot), limits=LIMITS))
        instance.wait_for_serial(FIRST)

        # One is behind.
        nsd.publish(text(version(FIRST + 1)))
        instance.wait_for_serial(FIRST + 1)
        is_asked_again(instance, "Knot", "primary is behind zone=. primary=Knot")
        assert instance.serial() == FIRST + 1
        assert instance.zone()["source"].startswith("NSD ")
        assert (told(instance, "NSD")["serial"], told(instance, "Knot")["serial"]) == (FIRST + 1, FIRST)

        # One gives what nobody whom we trust has signed, and has the newer serial.
        knot.publish(text(version(FIRST + 2, keys=generate_keys(13))))
        instance.wait(lambda: f"{FIRST + 2} from Knot" in instance.zone()["last_rejection"], "rejected")
        assert instance.serial() == FIRST + 1
        nsd.publish(text(version(FIRST + 3)))
        instance.wait_for_serial(FIRST + 3)
        instance.wait(lambda: told(instance, "NSD")["failures"] == 0, "the other one is well")

        # It is mended, and is the one that is ahead.
        knot.publish(text(version(FIRST + 4)))
        instance.wait_for_serial(FIRST + 4)
        assert instance.zone()["source"].startswith("Knot ")
        is_asked_again(instance, "NSD", "primary is behind zone=. primary=NSD")
        assert instance.serial() == FIRST + 4

        # Two zones of one serial: the one in service stays.
        fifth = version(FIRST + 5)
        nsd.publish(text(fifth))
        instance.wait_for_serial(FIRST + 5)
        knot.publish(text(version(FIRST + 5, tlds=31)))
        instance.wait(lambda: told(instance, "Knot")["serial"] == FIRST + 5, "Knot says so too")

        # … over a restart, too, and nothing in between was older.
        instance.kill()
        instance.start()
        instance.wait(lambda: instance.serial() is not None, "answers")
        assert instance.serial() == FIRST + 5
        instance.wait(lambda: told(instance, "Knot").get("serial") == FIRST + 5, "Knot was asked")
        _, export = ask_for_octets(instance.directory / "run" / "maintain.sock", "zone-export")
        assert presentation.from_text(export, b"\0").rrsets == fifth.rrsets
        served = [each["serial"] for each in instance.journal() if each["event"] == "zone served"]
        assert served == [FIRST, FIRST + 1, FIRST + 3, FIRST + 4, FIRST + 5]
        assert "Traceback" not in instance.log
