"""Room for a capture: which files go, and how large one becomes."""

from pathlib import Path

from rootsrv.capture.collector import CollectorState
from tests.capture.test_collector import MIDNIGHT, Bench


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
