"""When a capture ends: in time, whoever is away, and not because a clock is set wrong for a while."""

import pytest

from rootsrv.capture import handed_over, wall_clock
from rootsrv.capture.collector import CollectorState
from rootsrv.process.clock import boottime_ns
from tests.capture.test_collector import MIDNIGHT, SECOND, Bench, bench  # noqa: F401  (fixture)
from tests.server.live import wait_until


def test_a_clock_that_is_set_wrong_for_a_while_ends_no_capture(
    bench: Bench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench.start(until=MIDNIGHT + 3600)
    for step in (7200, -7200, 86_400, 5):
        bench.wall_offset += step * SECOND
        bench.turn()
        bench.ask((boottime_ns() + bench.wall_offset) / SECOND - 1)
        bench.turn()
        assert bench.collector.state is CollectorState.CAPTURING
    monkeypatch.setattr(wall_clock, "STEADY_SECONDS", 0.0)
    bench.wall_offset += SECOND
    bench.turn()
    assert bench.collector.state is CollectorState.IDLE, "it stood for long enough"
    bench.finisher.wait()
    assert sum(map(len, bench.times().values())) == 4


def test_it_ends_in_time_though_the_role_serve_is_away(
    bench: Bench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handed_over, "STOPPING_SECONDS", -1.0)
    bench.start(until=MIDNIGHT - 30 + 0.2)
    bench.theirs.close()
    wait_until(lambda: bench.collector.turn() or bench.collector.state is CollectorState.IDLE, "its time is over")


@pytest.mark.parametrize("step", [7200, -7200, 3 * 86_400], ids=str)
def test_a_capture_for_so_long_lasts_as_long_whatever_the_clock_is_stepped_by(
    bench: Bench,  # noqa: F811
    step: int,
) -> None:
    bench.start(until=MIDNIGHT - 30 + 0.5, for_so_long=True)
    began = boottime_ns()
    bench.wall_offset += step * SECOND
    bench.turn()
    assert bench.collector.state is CollectorState.CAPTURING
    assert bench.collector.until == pytest.approx(MIDNIGHT - 30 + 0.5 + step, abs=0.1)
    wait_until(lambda: bench.collector.turn() or bench.collector.state is CollectorState.IDLE, "its time is over", 5)
    assert boottime_ns() - began >= 0.4 * SECOND


def test_what_waits_for_its_time_is_not_over_for_a_clock_that_is_set_wrong_for_a_while(
    bench: Bench,  # noqa: F811
) -> None:
    """A collection whose hours seem to have come, and to be over, at once."""
    bench.turn()
    bench.wall_offset += 3 * 86_400 * SECOND
    bench.turn()
    bench.start(waited=True, until=MIDNIGHT + 86_400)
    bench.turn()
    bench.wall_offset -= 3 * 86_400 * SECOND
    bench.turn()
    bench.ask((boottime_ns() + bench.wall_offset) / SECOND - 1, amount=5)
    bench.turn()
    assert bench.collector.state is CollectorState.CAPTURING
    bench.stop()
    assert sum(map(len, bench.times().values())) == 5


def test_what_an_operator_orders_ends_by_the_clock_of_now_though_that_was_stepped_a_moment_ago(
    bench: Bench,  # noqa: F811
) -> None:
    bench.turn()
    bench.wall_offset += 7200 * SECOND
    bench.turn()
    bench.start(until=(boottime_ns() + bench.wall_offset) / SECOND + 0.2)
    wait_until(lambda: bench.collector.turn() or bench.collector.state is CollectorState.IDLE, "its time is over", 5)


def test_a_clock_that_is_kept_in_time_is_followed_from_file_to_file_and_moves_nothing_within_one(
    bench: Bench,  # noqa: F811
) -> None:
    bench.start(rotation=60)
    asked = MIDNIGHT - 35.0
    bench.ask(asked)
    bench.turn()
    bench.wall_offset += SECOND // 5
    bench.ask(asked + 1)  # by the clock as it is now
    bench.ask(asked + 40)
    bench.turn()
    bench.stop()

    (first, second), (third,) = (sorted(times) for _, times in sorted(bench.times().items()))
    assert (second - first) / SECOND == pytest.approx(0.8, abs=0.01)
    assert (third - first) / SECOND == pytest.approx(40, abs=0.01)
    assert bench.collector.totals.clock_steps == 0
