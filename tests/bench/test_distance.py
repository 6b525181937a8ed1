"""How far two cores are apart, that a measurement begins when they are near, and that what failed apart is repeated."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import distance, peak
from bench.bpf_object import CompilerMissing
from bench.load import Load
from tests.server.live import wait_until

CORES = sorted(os.sched_getaffinity(0))
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="there is one core")


@two_cores
def test_a_round_trip_between_two_cores_is_measured_and_the_caller_stays_where_it_may_run() -> None:
    found = distance.round_trip_ns(CORES[0], CORES[1])
    assert found is not None
    assert 5 < found < 1e6
    assert sorted(os.sched_getaffinity(0)) == CORES


def test_there_is_none_from_a_core_to_itself_or_to_one_that_is_not_there() -> None:
    assert distance.round_trip_ns(CORES[0], CORES[0]) is None
    assert distance.round_trip_ns(CORES[0], 4095) is None
    assert distance.round_trip_ns(4095, CORES[0]) is None
    assert sorted(os.sched_getaffinity(0)) == CORES


def test_without_a_compiler_it_is_not_known_and_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise CompilerMissing("no C compiler")

    monkeypatch.setattr(distance, "_library", missing)
    assert distance.round_trip_ns(0, 1) is None
    assert distance.are_near(None)
    with distance.watched(0, 1) as seen:
        pass
    assert seen == []
    assert distance.near_share(seen) is None
    assert distance.to_text(None, seen).endswith("not measured")


def test_a_measurement_begins_when_the_cores_are_near_or_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "_LOOK_SECONDS", 0.0)
    trips: Iterator[float] = iter((340.0, 350.0, 60.0, 350.0))
    assert distance.await_near(lambda: next(trips)) == 60.0
    assert next(trips) == 350.0  # and no further ones were asked for
    assert distance.await_near(lambda: 340.0, patience=0.0) == 340.0


@two_cores
def test_they_are_watched_meanwhile() -> None:
    with distance.watched(CORES[0], CORES[1]) as seen:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            pass
    assert 1 <= len(seen) <= 5
    assert all(5 < each < 1e6 for each in seen)
    assert distance.to_text(61.4, [60.0, 60.0, 340.0, 350.0, 360.0]).endswith(
        "61 ns before, 340 ns meanwhile (median; near 40% of the time)"
    )


def step(answered: int, *round_trips: float) -> peak.Step:
    """One of 100 queries over each transport; *round_trips*: meanwhile."""
    loads = [Load(1.0, 100.0, 100, answered, 100 - answered, 0, latency=[answered]) for _ in ("UDP", "TCP")]
    return peak.Step(1.0, *loads, "", "", 0.5, {}, 0.0, 0.0, 60.0, list(round_trips))


def test_what_failed_while_the_cores_were_apart_is_tried_again_but_not_for_ever() -> None:
    apart, near, good = step(50, 60.0, 340.0), step(50, 60.0, 61.0), step(100, 340.0, 340.0)
    assert apart.failures()
    assert near.failures()
    assert not good.failures()

    def counted(*steps: peak.Step) -> list[bool]:
        coming = iter(steps)
        return [again for _, again in peak.tried(lambda: next(coming))]

    assert counted(apart, apart, near) == [True, True, False]
    assert counted(apart, good, near) == [True, False]
    assert counted(step(50), near) == [False]
    tries = counted(*[apart] * 20)
    assert tries == [True] * (len(tries) - 1) + [False]


def test_a_setting_of_the_kernel_is_what_it_was_also_after_a_kill(tmp_path: Path) -> None:
    setting = tmp_path / "setting"
    setting.write_text("/autogroup-1 nice 7\n")
    with peak._set(setting, "-20"):
        assert setting.read_text() == "-20"
    assert setting.read_text() == "7"

    program = (
        "import pathlib, sys; from bench import peak\n"
        "with peak._set(pathlib.Path(sys.argv[1]), '-1'): print('set', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(setting)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"set\n"
        assert setting.read_text() == "-1"
        run.kill()
    wait_until(lambda: setting.read_text() == "7", "the setting as it was")
