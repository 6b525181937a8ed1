"""Room for a capture: which files go, and how large one becomes."""

from pathlib import Path

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
