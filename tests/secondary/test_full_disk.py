"""A file system that is really full: what is served stays served, nothing is lost, and room heals it unasked."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import require_root, require_tool
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, version
from tests.server.live import wait_until

OCTETS = 4 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of 4 MiB of its own."""
    require_root()
    directory = tmp_path / "instance"
    (directory / "state").mkdir(parents=True)
    command = [require_tool("mount"), "-t", "tmpfs", "-o", f"size={OCTETS}", "rs-small", str(directory / "state")]
    subprocess.run(command, check=True, timeout=20)
    try:
        yield directory
    finally:
        subprocess.run([require_tool("umount"), "-l", str(directory / "state")], check=True, timeout=20)


@pytest.fixture
def running(small: Path) -> Iterator[tuple[Maintained, ScriptedPrimary]]:
    with scripted(version(FIRST)) as primary:
        with maintained(small, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            instance.wait((instance.directory / "state" / "ledger.json").exists, "the ledger")
            yield instance, primary


def fill(directory: Path, leave: int = 0) -> Path:
    """Take all the room that is left, but for *leave* octets."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    with path.open("r+b") as stream:
        stream.truncate(max(0, path.stat().st_size - leave))
    return path


# Full at once, or as soon as the zone (some 25 KB) and a part of the table have been written.
@pytest.mark.parametrize("leave", [0, pytest.param(40_960, marks=pytest.mark.long)])
def test_a_full_file_system_stops_no_answer_loses_nothing_and_room_heals_it_unasked(
    running: tuple[Maintained, ScriptedPrimary], leave: int
) -> None:
    instance, primary = running
    state = instance.directory / "state"
    kept = {path: path.read_bytes() for path in state.rglob("*") if path.suffix in {".zone", ".table"}}
    ledger = json.loads((state / "ledger.json").read_text())
    filler = fill(state, leave)

    primary.publish(version(FIRST + 1))
    instance.notify(FIRST + 1)
    instance.wait(lambda: not instance.status()["state_writable"], "told")
    instance.wait(lambda: "No space left on device" in instance.zone()["last_rejection"], "the reason")
    status = instance.status()
    assert any("state cannot be written: " in each and "No space left" in each for each in status["alarms"])
    assert "state cannot be written" in instance.log
    assert "Traceback" not in instance.log
    assert instance.serial() == FIRST
    assert instance.zone()["served"] == FIRST
    assert {path: path.read_bytes() for path in kept} == kept
    assert json.loads((state / "ledger.json").read_text())["leases"] == ledger["leases"]
    assert list(state.rglob("*.writing")) == []
    # A person sees it, and decides nothing: orders that need no room are carried out.
    assert "No space left" in instance.command("status").stdout

    filler.unlink()
    instance.wait_for_serial(FIRST + 1)
    instance.wait(lambda: instance.status()["state_writable"], "healed")
    events = [(each["event"], each.get("serial")) for each in instance.journal()]
    assert events[-1] == ("zone served", FIRST + 1)


def starts_from_what_is_kept(instance: Maintained, primary: ScriptedPrimary, reason: str) -> None:
    """It answers from that and refuses what comes next, for *reason*: there is nowhere to keep it."""
    instance.start()
    instance.wait_for_serial(FIRST)
    primary.publish(version(FIRST + 1))
    instance.order("zone-refresh")
    instance.wait(lambda: reason in instance.zone()["last_rejection"], "the reason")
    assert instance.serial() == FIRST


def test_an_instance_that_ends_on_a_full_file_system_starts_again_from_what_is_kept(
    running: tuple[Maintained, ScriptedPrimary],
) -> None:
    instance, primary = running
    filler = fill(instance.directory / "state")
    primary.rcode = primary.ixfr_rcode = 5
    primary.named = FIRST - 1
    instance.kill()
    (instance.directory / "run" / "page").unlink()  # as after a reboot
    starts_from_what_is_kept(instance, primary, "No space left on device")
    filler.unlink()
    instance.wait_for_serial(FIRST + 1)


def test_an_instance_that_ends_on_a_file_system_that_became_read_only_starts_again_from_what_is_kept(
    running: tuple[Maintained, ScriptedPrimary],
) -> None:
    instance, primary = running
    state = instance.directory / "state"

    def remount(how: str) -> None:
        command = [require_tool("mount"), "-o", f"remount,{how}", str(state)]
        # The processes of an instance that was killed may still have files open.
        wait_until(lambda: subprocess.run(command, check=False, timeout=20).returncode == 0, f"mounted {how}")

    primary.rcode = primary.ixfr_rcode = 5
    primary.named = FIRST - 1
    instance.kill()
    (state / "tables" / "7.table.0123456789abcdef.writing").write_bytes(b"what was being written")
    remount("ro")  # as ext4 does when its disk fails (errors=remount-ro)
    (instance.directory / "run" / "page").unlink()
    starts_from_what_is_kept(instance, primary, "Read-only file system")
    assert "role restarted" not in instance.log
    assert "Traceback" not in instance.log
    remount("rw")
    instance.wait_for_serial(FIRST + 1)
