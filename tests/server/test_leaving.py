"""A worker that goes before ordinary processes leaves its core between two turns, and has nothing else go first."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.peers.daemon import free_port
from rootsrv.process import real_time
from rootsrv.server.leaving import LEAVE_SECONDS, LEAVE_TIMES, Leaving
from rootsrv.server.udp import BATCH_SIZE
from tests.server.live import Instance, serving, wait_until
from tests.server.test_tcp import query, receive


class Turns:
    """Takes turns that end nothing, so that there is always another one to be taken; notes when each was."""

    turn_seconds = 0.0

    def __init__(self, descriptor: int, amount: int, seconds: float) -> None:
        """*seconds*: of the processor, that each takes at least."""
        self._descriptor = descriptor
        self.at: list[float] = []
        self._seconds = seconds
        self.enough = asyncio.get_running_loop().create_future()
        self._amount = amount

    def fileno(self) -> int:
        return self._descriptor

    def on_readable(self) -> None:
        self.at.append(time.monotonic())
        until = time.thread_time() + self._seconds
        while time.thread_time() < until:
            pass
        if len(self.at) == self._amount:
            self.enough.set_result(None)


def turns_taken(
    amount: int, changing: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0
) -> list[float]:
    """When so many turns were taken of what is always readable, by one who goes first as *changing* says each time."""
    looks = 0

    def goes_first() -> bool:
        nonlocal looks
        looks += 1
        return changing(looks)

    async def take() -> list[float]:
        reading, writing = os.pipe()
        os.write(writing, b"x")
        turns = Turns(reading, amount, seconds)
        leaving = Leaving(turns)
        leaving.look()
        await turns.enough
        asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)
        os.close(writing)
        return turns.at

    monkeypatch.setattr(real_time, "goes_first", goes_first)
    return asyncio.run(take())


def test_who_goes_first_takes_no_turn_within_a_moment_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    at = turns_taken(10, lambda _: True, monkeypatch)
    assert min(after - before for before, after in pairwise(at)) >= 0.9 * LEAVE_SECONDS


def test_who_goes_first_leaves_the_core_for_longer_after_a_long_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 4 * LEAVE_SECONDS
    at = turns_taken(4, lambda _: True, monkeypatch, seconds)
    assert min(after - before for before, after in pairwise(at)) >= 0.9 * (1 + LEAVE_TIMES) * seconds


def pauses_after(amounts: list[int], goes_first: bool, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the core was left after batches of so many datagrams, each of which took 3 ms."""
    monkeypatch.setattr(real_time, "goes_first", lambda: goes_first)
    left: list[float] = []

    def busy() -> int:
        until = time.thread_time() + 0.003
        while time.thread_time() < until:
            pass
        return coming.pop(0)

    async def take() -> None:
        reading, writing = os.pipe()
        answer = Leaving(Turns(reading, 1, 0.0)).datagrams(busy)
        for amount in amounts:
            slept.clear()
            assert answer() == amount
            left.append(sum(slept))
        asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)
        os.close(writing)

    coming, slept = list(amounts), list[float]()
    monkeypatch.setattr(time, "sleep", slept.append)
    asyncio.run(take())
    return left


def test_who_goes_first_leaves_the_core_after_a_full_batch_of_datagrams_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few, full, more = pauses_after([BATCH_SIZE - 1, BATCH_SIZE, 1], True, monkeypatch)
    assert (few, more) == (0, 0)
    assert full >= 0.9 * LEAVE_TIMES * 0.003
    assert pauses_after([BATCH_SIZE, 1], False, monkeypatch) == [0, 0]


@pytest.mark.parametrize("others", [0.0, 0.5, 4.0])
def test_batches_that_are_never_full_leave_a_fifth_of_the_core_to_others(
    others: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless these had half of it: a batch of 0.3 ms, and *others* times as long until there is the next one."""
    used = passed = slept = 0.0

    def sleep(seconds: float) -> None:
        nonlocal passed, slept
        passed, slept = passed + seconds, slept + seconds

    def few() -> int:
        nonlocal used, passed
        used, passed = used + 0.0003, passed + 0.0003
        return BATCH_SIZE - 1

    async def take() -> None:
        nonlocal passed
        reading, writing = os.pipe()
        answer = Leaving(Turns(reading, 1, 0.0)).datagrams(few)
        for _ in range(1000):
            assert answer() == BATCH_SIZE - 1
            passed += others * 0.0003
        asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)
        os.close(writing)

    monkeypatch.setattr(real_time, "goes_first", lambda: True)
    with monkeypatch.context() as clocks:
        clocks.setattr("rootsrv.server.leaving.time", SimpleNamespace(
            thread_time=lambda: used, monotonic=lambda: passed, sleep=sleep,
        ))  # fmt: skip
        asyncio.run(take())
    assert passed - used >= 0.19 * passed
    assert (slept == 0) == (others > 1)


def test_what_others_had_of_the_core_during_a_turn_is_not_left_to_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    class Held(Turns):
        def on_readable(self) -> None:
            genuine(0.05)  # as if others had the core meanwhile
            super().on_readable()

    async def take() -> None:
        reading, writing = os.pipe()
        os.write(writing, b"x")
        turns = Held(reading, 3, 0.0)
        Leaving(turns)
        await turns.enough
        asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)
        os.close(writing)

    genuine = time.sleep
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(real_time, "goes_first", lambda: True)
    asyncio.run(take())
    assert slept
    assert max(slept) < 0.05


def test_an_ordinary_process_takes_the_next_turn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at = turns_taken(200, lambda _: False, monkeypatch)
    assert min(after - before for before, after in pairwise(at)) < LEAVE_SECONDS / 2


def test_it_is_looked_again_whether_this_process_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    at = turns_taken(10, lambda looks: looks > 1, monkeypatch)
    assert at[-1] - at[0] >= 9 * 0.9 * LEAVE_SECONDS


MAY_GO_FIRST = subprocess.run(["chrt", "--rr", "1", "true"], capture_output=True, check=False).returncode == 0
WITHOUT_PRIVILEGE = ("setpriv", "--bounding-set", "-sys_nice", "--inh-caps", "-sys_nice")
"""A command by which root may give no priority."""

needs_real_time = pytest.mark.skipif(not MAY_GO_FIRST, reason="no process may go before ordinary ones here")


@needs_real_time
@pytest.mark.parametrize("policy", ["rr", "fifo"])
def test_what_a_thread_that_goes_first_starts_is_ordinary(policy: str) -> None:
    program = (
        "import os, threading; from rootsrv.process import real_time\n"
        "real_time.keep_to_this_thread(); real_time.keep_to_this_thread(); print(real_time.goes_first())\n"
        "thread = threading.Thread(target=lambda: print(real_time.goes_first())); thread.start(); thread.join()"
    )
    command = ["chrt", f"--{policy}", "1", sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["True", "False"]


@pytest.mark.parametrize("policy", [os.SCHED_OTHER, os.SCHED_RR])
def test_where_it_may_not_be_kept_to_one_thread_nothing_is_changed(
    policy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        assert policy == os.SCHED_RR, "nothing is to be asked for"
        raise PermissionError

    monkeypatch.setattr(os, "sched_getscheduler", lambda _: policy)
    monkeypatch.setattr(os, "sched_setscheduler", refused)
    real_time.keep_to_this_thread()


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Instance]:
    """An instance whose processes go before ordinary ones, as a unit may have it."""
    with serving(tmp_path, by=("chrt", "--rr", "1")) as instance:
        yield instance


@needs_real_time
def test_a_worker_that_goes_first_answers_and_leaves_its_core_after_each_turn(first: Instance) -> None:
    answered_at = []
    with first.connect() as connection:
        for _ in range(50):
            connection.sendall(query(name="no-such-tld."))
            assert receive(connection)
            answered_at.append(time.monotonic())
    gaps = sorted(after - before for before, after in pairwise(answered_at))
    assert gaps[20] >= 0.5 * LEAVE_SECONDS  # after one that is late in coming comes a short one


@needs_real_time
def test_the_thread_in_which_a_worker_maps_a_table_goes_before_nobody(first: Instance) -> None:
    page = first.page
    page.staged = 2
    wait_until(lambda: page.worker(0).staged == 2, "the next table")

    pid = page.worker(0).pid
    policies = {
        int(thread): os.sched_getscheduler(int(thread)) & ~os.SCHED_RESET_ON_FORK
        for thread in os.listdir(f"/proc/{pid}/task")
    }
    assert policies.pop(pid) == os.SCHED_RR
    assert set(policies.values()) == {os.SCHED_OTHER}


@needs_real_time
def test_workers_have_the_priority_that_is_configured_and_nothing_else_has(tmp_path: Path) -> None:
    service = f"real_time_priority = 3\n[dot]\nport = {free_port()}"
    with serving(tmp_path, service=service) as instance:
        status = wait_until(lambda: (said := instance.status())["dot"]["ready"] and said, "DNS over TLS")
        assert (status["dot"]["policy"], status["dot"]["priority"]) == ("fifo", 3)
        (worker,) = status["workers"]
        assert (status["real_time_priority"], worker["policy"], worker["priority"]) == (3, "fifo", 3)
        assert real_time.of(instance.process.pid)["policy"] == "ordinary"
        limits = Path(f"/proc/{worker['pid']}/limits").read_text()
        assert instance.ask(".", "SOA").answer
        before = worker["pid"]
        os.kill(before, signal.SIGKILL)
        pid = wait_until(lambda: instance.is_ready() and {*instance.worker_pids()} - {before}, "another").pop()
        assert real_time.of(pid) == {"policy": "fifo", "priority": 3}  # each that comes after has it, too
        os.kill(pid, signal.SIGXCPU)
        wait_until(lambda: "held its core for 1 s before all others" in instance.log, "told")
    allowed = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert allowed["Max realtime timeout"] == ["1000000", "2000000"]
    assert allowed["Max realtime priority"] == ["0", "0"]


@needs_real_time
def test_a_priority_that_cannot_be_had_is_told_and_queries_are_answered(tmp_path: Path) -> None:
    by = ("prlimit", "--rtprio=0:0", *WITHOUT_PRIVILEGE)
    with serving(tmp_path, service="real_time_priority = 3", by=by) as instance:
        assert instance.ask(".", "SOA").answer
        status = instance.status()
        assert (status["real_time_priority"], status["workers"][0]["policy"]) == (3, "ordinary")
        assert "worker has no real-time priority slot=0 wanted=3" in instance.log
        assert "RLIMIT_RTPRIO is 0" in instance.log
