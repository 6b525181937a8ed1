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
