"""Room for a capture: which files go, and how large one becomes."""

import errno
import os
from pathlib import Path

import pytest

from rootsrv.capture import room
from rootsrv.capture.collector import CollectorState
from rootsrv.capture.output_file import OutputFile
from rootsrv.capture.room import Room
from rootsrv.roles.capture import StartOrder
from tests.capture.test_collector import MIDNIGHT, Bench
from tests.capture.test_role_alone import made


def test_a_file_that_grows_beyond_the_quota_does_not_go_whole_where_the_oldest_go(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "files", quota_octets=20_000, removes_oldest=True)
    bench.start(rotation=86_400)
    for second in range(20):
        bench.ask(MIDNIGHT - 300 + second, amount=40)
        bench.collector._room_at = 0.0
        bench.turn()
        bench.finisher.wait()
    bench.stop()

    sizes = [path.stat().st_size for path in bench.place.files()]
    assert len(sizes) > 1
    assert max(sizes) < 10_000  # a quarter of the quota, and what one turn brings
    assert bench.place.removed > 0
    assert bench.collector.totals.lost["disk"] == 0
    bench.collector.close()
    bench.theirs.close()


def test_where_nothing_is_captured_no_ring_is_said_to_be_full(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "files", quota_octets=1000)
    collector = bench.collector
    for ends in ("no room", "stop"):
        bench.start()
        bench.ask(MIDNIGHT - 31, amount=100)
        bench.turn()
        assert min(collector.fill, collector.behind_seconds) > 0
        if ends == "no room":
            collector._room_at = 0.0
        else:
            bench.stop()
        bench.turn()
        assert collector.state.value == {"no room": "full", "stop": "idle"}[ends]
        assert (collector.fill, collector.behind_seconds) == (0.0, 0.0)
        bench.stop()
        bench.finisher.wait()
        for each in (tmp_path / "files").iterdir():
            each.unlink()
    collector.close()
    bench.theirs.close()


def until_there_is_no_room(bench: Bench, seconds: int) -> None:
    for second in range(seconds):
        bench.ask(MIDNIGHT - 300 + second, amount=40)
        bench.collector._room_at = 0.0
        bench.turn()


def test_a_quota_that_is_reached_stops_it_and_what_comes_then_is_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "files", quota_octets=30_000)
    bench.start(rotation=1)
    until_there_is_no_room(bench, seconds=20)
    assert bench.collector.state is CollectorState.FULL
    bench.finisher.wait()
    for each in bench.place.files()[:8]:
        each.unlink()
    bench.collector._room_at = 0.0
    bench.turn()
    assert bench.collector.state is CollectorState.CAPTURING
    bench.ask(MIDNIGHT - 31, amount=7)
    bench.turn()
    bench.stop()

    totals = bench.collector.totals
    assert totals.items + totals.lost["disk"] == bench.sent
    assert totals.lost["disk"] > 0
    assert totals.items >= 7
    bench.collector.close()
    bench.theirs.close()


def test_a_capture_after_one_that_found_no_room_says_nothing_of_that(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "files", quota_octets=5_000)
    bench.start(rotation=1)
    until_there_is_no_room(bench, seconds=5)
    assert "quota" in bench.collector.why
    bench.stop()
    for each in bench.place.files():
        each.unlink()
    bench.start()
    bench.collector._room_at = 0.0
    bench.turn()

    assert (bench.collector.state, bench.collector.why) == (CollectorState.CAPTURING, "")
    bench.stop()
    bench.collector.close()
    bench.theirs.close()


def test_the_oldest_files_go_where_that_is_wanted(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "files", quota_octets=20_000, removes_oldest=True)
    bench.start(rotation=1)
    for second in range(20):
        bench.ask(MIDNIGHT - 300 + second, amount=40)
        bench.turn()
        bench.finisher.wait()
        bench.collector._room_at = 0.0
    bench.stop()

    assert bench.place.removed > 0
    assert bench.collector.totals.lost["disk"] == 0
    assert bench.place.room.octets() < 30_000
    bench.collector.close()
    bench.theirs.close()


@pytest.mark.parametrize("when", ["before the end", "at the end"])
def test_what_comes_last_where_there_is_no_room_is_counted(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last turn and the end of the capture, or while that is being written."""
    bench = Bench(tmp_path / "files")
    bench.start(rotation=86_400)
    bench.ask(MIDNIGHT - 100, amount=5)
    bench.turn()

    def full(*_: object) -> None:
        bench.ask(MIDNIGHT - 99, amount=3)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if when == "at the end":
        monkeypatch.setattr(OutputFile, "write", full)
    else:
        bench.collector._refuse(OSError(errno.ENOSPC, "no room"), "a test")
    bench.ask(MIDNIGHT - 98, amount=7)
    bench.collector.stop()
    bench.finisher.wait()
    bench.collector.settle()

    totals = bench.collector.totals
    assert totals.items + totals.lost["disk"] == bench.sent
    assert totals.lost["disk"] >= 7
    bench.collector.close()
    bench.theirs.close()


def test_a_directory_that_takes_long_to_look_at_is_looked_at_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a month of files there are 26,000 names: that shall not be what the role does."""
    now, looks = [1000.0], []
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])

    def slow(_: Room) -> int:
        looks.append(now[0])
        now[0] += 0.1
        return 0

    working = made(tmp_path)
    monkeypatch.setattr(Room, "octets", slow)
    working._start(StartOrder())
    working._collector._connect = lambda _: True  # type: ignore[method-assign]
    until = now[0] + 60
    while now[0] < until:
        working._turn()
        now[0] += 0.02
    assert 10 <= len(looks) <= 13  # each 5 s: 0.1 s of fifty times as long
    working._close()


def test_room_is_looked_for_once_a_second_by_whoever_wants_to_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = [1000.0], []
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    working = made(tmp_path)
    known = Room.octets
    monkeypatch.setattr(Room, "octets", lambda each: looks.append(now[0]) or known(each))
    working._start(StartOrder())
    working._collector._connect = lambda _: True  # type: ignore[method-assign]
    for _ in range(500):
        working._turn()
        now[0] += 0.02
    assert 9 <= len(looks) <= 12
    working._stop()
    (tmp_path / "files" / "of others").write_bytes(bytes(5000))
    for _ in range(60):  # idle, it is told all the same
        working._turn()
        now[0] += 0.02
    assert working.status()["directory_octets"] >= 5000
    working._close()
