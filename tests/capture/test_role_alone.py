"""The role capture without an instance beside it: its directory, its orders, what it says while a disk lets it wait."""

import asyncio
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rootsrv.capture import offer
from rootsrv.capture.compression import CompressionUnavailable
from rootsrv.capture.room import Room
from rootsrv.capture.tally import Tally
from rootsrv.commands import capture as commands
from rootsrv.config.capture import CaptureConfig
from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config, StateConfig
from rootsrv.config.zones import ClockConfig
from rootsrv.process import service_manager
from rootsrv.roles import capture as role
from tests.needs import require_tool


def made(tmp_path: Path, **settings: Any) -> role._Capture:
    (tmp_path / "run").mkdir(exist_ok=True)
    configured = CaptureConfig(directory=str(tmp_path / "files"), keep_free_gigabytes=0.0, **settings)
    config = Config(
        state=StateConfig(directory=str(tmp_path), runtime_directory=str(tmp_path / "run")), capture=configured
    )
    return role._Capture(config, configured)


def order(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "files" / "order.json").read_text())


def test_a_second_role_does_not_write_into_the_same_directory(tmp_path: Path) -> None:
    held = role._hold(tmp_path / "files")
    with pytest.raises(OSError, match="another role capture writes into it") as refused:
        role._hold(tmp_path / "files")
    assert refused.value.filename == str(tmp_path / "files")
    os.close(held)
    os.close(role._hold(tmp_path / "files"))


def test_it_says_that_it_lives_and_how_it_is_while_a_disk_lets_it_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = made(tmp_path)
    goes_on, waits = threading.Event(), threading.Event()
    beats: list[None] = []

    def never(_: Room) -> int:
        waits.set()
        goes_on.wait(60)
        return 0

    async def see() -> dict[str, Any]:
        stop, living = asyncio.Event(), asyncio.Event()

        def alive() -> None:
            beats.extend([None] * waits.is_set())
            if len(beats) >= 3:
                living.set()

        monkeypatch.setattr(role, "_ALIVE_SECONDS", 0.01)
        monkeypatch.setattr(service_manager, "alive", alive)
        monkeypatch.setattr(Room, "octets", never)
        running = asyncio.create_task(working.run(stop))
        await living.wait()
        found = working.status()
        goes_on.set()
        stop.set()
        await running
        return found

    told = asyncio.run(asyncio.wait_for(see(), 60))
    assert told["free_octets"] > told["room_octets"] > 0


def test_a_turn_without_end_is_no_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working = made(tmp_path)
    alive: list[None] = []
    monkeypatch.setattr(role, "_ALIVE_SECONDS", 0.0)
    monkeypatch.setattr(service_manager, "alive", lambda: alive.append(None))
    working._turned_at -= role._LONGEST_TURN_SECONDS

    async def see() -> None:
        task = asyncio.create_task(working._say_that_it_lives())
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(see())
    assert alive == []


def test_an_order_that_cannot_go_on_is_said_in_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working = made(tmp_path)
    (tmp_path / "files" / "order.json").write_text('{"compression": "zstd"}')

    def missing(method: str) -> None:
        raise CompressionUnavailable(f"{method} is not installed")

    monkeypatch.setattr(role, "compressors", missing)
    working._resume()
    assert working.status()["why"] == "the capture that was ordered cannot go on: zstd is not installed"
    (tmp_path / "files" / "order.json").write_text("{")
    working._resume()
    assert "order.json cannot be read" in working.status()["why"]


def test_what_was_counted_when_a_collection_began_is_kept_with_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = made(tmp_path)
    counted = [700]
    monkeypatch.setattr(working, "_counted", lambda: counted[0])
    working._start(role.StartOrder(at=time.time() + 0.2))
    assert (order(tmp_path)["begun"], order(tmp_path)["counted"]) == (0.0, None)
    counted[0] = 1000
    while working._waits:
        working._turn()
    assert order(tmp_path)["begun"] > 0
    assert order(tmp_path)["counted"] == 1000
    counted[0] = 1010
    assert working.status()["queries_counted"] == 10
    counted[0] = 3  # the machine was started anew, and counts from 0
    assert working.status()["queries_counted"] is None
    working._stop()
    working._collector.close()


def test_what_had_begun_goes_on_by_a_clock_that_is_not_set_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a clock of its own is started anew, and it is 1970: its capture and its counts are kept."""
    working = made(tmp_path)
    working._start(role.StartOrder(at=time.time() - 10, until=time.time() + 1000))
    working._kept = role._Amounts(7, 2, 1)
    working._close()
    kept = order(tmp_path)
    monkeypatch.setattr(role.time, "time", lambda: 1000.0)
    again = made(tmp_path)
    again._resume()
    told = again.status()
    assert (told["state"], told["begins"], told["begun"]) == ("capturing", 0.0, kept["begun"])
    assert told["capture"] == {"items": 7, "lost": 2, "passed_over": 1}
    again._close()


def test_an_order_that_waits_has_not_begun_whatever_was_captured_before(tmp_path: Path) -> None:
    working = made(tmp_path)
    working._start(role.StartOrder())
    working._stop()
    working._start(role.StartOrder(at=time.time() + 1000))
    assert order(tmp_path)["begun"] == 0.0
    working._close()
    again = made(tmp_path)
    again._resume()
    assert again.status()["begins"] > 0
    again._close()


def test_a_step_of_the_clock_moves_the_end_of_what_was_ordered_for_so_long_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = made(tmp_path)
    working._start(role.StartOrder(seconds=1000))
    before = order(tmp_path)["until"]
    working._collector._clock.now = lambda: time.time_ns() + 7200 * 10**9
    working._turn()
    assert order(tmp_path)["until"] == working.status()["until"] == pytest.approx(before + 7200, abs=1)
    working._close()


def ditl(tmp_path: Path, told: dict[str, Any], **settings: Any) -> list[str]:
    configured = CaptureConfig(directory=str(tmp_path), **settings)
    config = Config(capture=configured, clock=ClockConfig(source="trusted"))
    status = {"state": "idle", "begins": 0.0, "rate": 1000.0, "queries_a_second": 0.0, "directory": "/x"}
    return commands._hindrances(config, status | told, 0.0, 50, 50.0)


def test_a_collection_counts_on_no_room_that_is_to_stay_free(tmp_path: Path) -> None:
    needed = 1000 * 50 * 3600 * 50
    disk = {"free_octets": 2 * needed, "quota_octets": 2 * needed, "directory_octets": 0}
    assert ditl(tmp_path, disk | {"room_octets": needed}) == []
    assert "room for 9 GB" in ditl(tmp_path, disk | {"room_octets": needed - 1})[0]
    working = made(tmp_path)
    seen = working._directory.room.look()
    assert seen.more < seen.free


@pytest.mark.parametrize(("days", "hindered"), [(0.0, False), (0.5, True), (2.0, True), (3.0, False)])
def test_a_collection_does_not_begin_whose_first_files_go_before_its_end(
    tmp_path: Path, days: float, hindered: bool
) -> None:
    found = ditl(tmp_path, {"room_octets": 1 << 60}, retention_days=days)
    assert [each.partition(" = ")[0] for each in found] == ["retention_days"] * hindered


@pytest.mark.parametrize(
    "what",
    [
        ("--rate", "nan"), ("--rate", "-1"), ("--rate", "inf"), ("--every", "-2"), ("--every", "2147483648"),
        ("--name", "a/b"), ("--name", "x" * 65),
    ],
    ids=str,
)  # fmt: skip
def test_a_collection_of_what_cannot_be_is_not_checked(
    tmp_path: Path, what: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    from rootsrv.commands.parser import main

    (tmp_path / "rootsrv.toml").write_text(f'[state]\ndirectory = "{tmp_path}"\n[capture]\n')
    try:
        status = main(["capture", "ditl", *what, "--check", "--config", str(tmp_path / "rootsrv.toml")])
    except SystemExit as error:  # what is no number is refused before the role's own bounds are asked
        status = int(error.code or 0)
    assert status == 2
    assert f"{what[0]}: must be" in capsys.readouterr().err


@pytest.mark.parametrize("begin", ["9999-12-30T00:00", "9999-12-31T23:59"])
def test_a_collection_that_no_calendar_ends_is_not_checked(
    tmp_path: Path, begin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rootsrv.commands.parser import main

    (tmp_path / "rootsrv.toml").write_text(f'[state]\ndirectory = "{tmp_path}"\n[capture]\n')
    assert main(["capture", "ditl", "--begin", begin, "--check", "--config", str(tmp_path / "rootsrv.toml")]) == 2
    assert f"--begin {begin}: its 50 hours are not over" in capsys.readouterr().err


BEGIN = 1_807_657_200.0  # 2027-04-13T23:00:00Z


def test_the_command_that_brings_files_away_is_one_for_a_shell() -> None:
    printed = commands.upload("/srv/it's ours", "a b", "host:/data/$x;", BEGIN, BEGIN + 3600)
    assert "'/srv/it'\"'\"'s ours/'" in printed
    assert printed.endswith(" 'host:/data/$x;/'")
    assert "--include 'a b.20270413.*.pcap*'" in printed


@pytest.mark.parametrize("hours", [1, 50, 8 * 24 + 2])
def test_only_files_of_the_collection_are_brought_away(tmp_path: Path, hours: int) -> None:
    """Others, of other weeks or other names, may hold what nobody else is to see."""
    rsync = require_tool("rsync")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    of_it = ["a.20270413.230000.000000.pcap.gz", "a-2.20270413.235959.000000.pcap"]
    if hours > 1:
        of_it += ["a.20270416.005959.999999.pcap.xz", "a.20270414.000000.000000.pcap.zst"]
    others = [
        "a.20270313.230000.000000.pcap.gz", "a-private.20270413.230000.000000.pcap", "b.20270413.230000.000000.pcap",
        "20270413-230000.000000_a.cdns", "a.20270413.230500.000000.pcap.gz.part", "order.json", "report.html",
        "a.20270413.230600.000000.pcap.incomplete",
    ]  # fmt: skip
    whole = [f"{each}{suffix}" for each in of_it for suffix in ("", ".json", ".md5")]
    for each in (*whole, *others):
        (here / each).write_text(each)

    command = commands.upload(str(here), "a", str(there), BEGIN, BEGIN + hours * 3600)
    subprocess.run(command.replace("rsync", rsync, 1), shell=True, check=True, timeout=60)

    assert sorted(each.name for each in there.iterdir()) == sorted(whole)


@pytest.mark.parametrize(("key_of", "different"), [("capture", 1), ("file", 3)])
@pytest.mark.parametrize("kind", ["cdns", "pcap"])
def test_a_key_belongs_to_the_capture_or_to_each_file(tmp_path: Path, kind: str, key_of: str, different: int) -> None:
    working = made(tmp_path, anonymisation="cryptopan", key_of=key_of)
    working._start(role.StartOrder(format=kind))  # type: ignore[arg-type]
    collector = working._collector
    for number in range(3):
        assert collector._writer.begin(1_795_824_000 * 10**9 + number * 400 * 10**9)
        collector._writer.end()
    working._stop()
    collector.close()
    told = [json.loads(each.read_text())["anonymisation_method"] for each in (tmp_path / "files").glob("*.json")]
    assert len(told) == 3
    assert len(set(told)) == different
    if kind == "cdns":
        assert {each.encode() for each in told} == {
            method.encode() for path in (tmp_path / "files").glob("*.gz") for method in methods(path)
        }


def methods(path: Path) -> list[str]:
    tally = Tally()
    tally.read(path)
    return [told for key, told in tally.about if key == "anonymised"]


def test_a_key_of_each_file_is_not_one_that_is_kept() -> None:
    with pytest.raises(ConfigError, match=r"capture\.key_of"):
        CaptureConfig(anonymisation="aes-128", secret="0" * 32, key_of="file")


@pytest.mark.parametrize("settled", ["[]", "[1]", "{}", '[1, "2", 3, 4]', "null"])
def test_an_account_that_is_none_ends_no_role(tmp_path: Path, settled: str) -> None:
    working = made(tmp_path)
    (tmp_path / "files" / "order.json").write_text(f'{{"amounts": [7, 0, 0], "settled": {settled}}}')
    working._resume()
    assert "cannot" not in working.status()["why"]
    assert working._kept[0] == 7


def test_what_began_by_itself_does_not_go_on_when_the_configuration_says_otherwise(tmp_path: Path) -> None:
    working = made(tmp_path, begin="at-once")
    working._resume()
    working._turn()
    assert working.status()["state"] == "capturing"
    working._close()
    assert not (tmp_path / "files" / "order.json").exists()


def test_a_role_serve_that_comes_a_moment_later_is_no_alarm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is one that starts anew; one that stays away is, once."""
    collector = made(tmp_path)._collector
    for second in range(9):
        assert not collector._connect(float(second))
    assert caplog.text == ""
    assert "No such file" in collector.why
    for second in range(9, 20):
        collector._connect(float(second))
    assert caplog.text.count("capture has no rings") == 1


def test_who_begins_a_capture_asks_for_rings_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The role serve may have them since it was asked in vain a moment ago; what comes until then is in no count."""
    working = made(tmp_path)
    asked: list[Path] = []

    def none(source: Path) -> None:
        asked.append(source)
        raise offer.NoRings("not yet")

    monkeypatch.setattr(offer, "take", none)
    for _ in range(3):
        working._turn()
    assert len(asked) == 1
    working._start(role.StartOrder())
    assert len(asked) == 2
    working._close()


def test_a_quota_of_less_than_a_gigabyte_is_said_as_it_is(tmp_path: Path) -> None:
    working = made(tmp_path, quota_gigabytes=0.25)
    assert any("0.00 GB of 0.25, " in each for each in commands.lines(working.status()))
    working._close()
