"""Stage, flip at T, read back, replace, cease: on a real page with real processes that stand for workers."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rootsrv.config.zones import SwitchoverConfig
from rootsrv.page.layout import Page
from rootsrv.secondary import switchover as switchovers
from rootsrv.secondary.switchover import Switchover, SwitchoverState, SwitchoverVoid, set_time
from rootsrv.zone.lease import Reading, TrustedClock

FOREVER = 1 << 62
"""A heartbeat that does not get old."""


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.fixture
def page(tmp_path: Path) -> Page:
    made = Page.create(tmp_path / "page")
    made.active = 1
    made.parent_heartbeat = FOREVER
    return made


@contextlib.contextmanager
def process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as started:
        try:
            yield started
        finally:
            started.kill()


def switchover(page: Page, **settings: object) -> Switchover:
    config = SwitchoverConfig(**{"grace_seconds": 0.3, "stage_seconds": 0.3, **settings})  # type: ignore[arg-type]
    turn = Switchover(page, config, TrustedClock(Reading(time.time(), boottime(), True)), boottime)

    async def replace(slot: int, wanted: int) -> dict[str, object]:
        # As their parent does (server/parent.py): it knows its children and needs no pid from the page.
        assert wanted == page.active
        os.kill(page.worker(slot).pid, signal.SIGKILL)
        page.worker(slot).pid = 0
        return {"replaced": True}

    turn.replace = replace
    return turn


@contextlib.asynccontextmanager
async def worker(page: Page, slot: int, *, stages: bool = True, switches: bool = True) -> AsyncIterator[int]:
    """A process in *slot* that follows the page as a worker does, or does not."""
    with process() as running:
        page.workers = max(page.workers, slot + 1)
        words = page.worker(slot)
        words.pid, words.active, words.heartbeat = running.pid, page.active, FOREVER

        async def follow() -> None:
            while True:
                if stages and page.staged:
                    words.staged = page.staged
                if switches and running.poll() is None:
                    words.active = page.active
                await asyncio.sleep(0.005)

        following = asyncio.create_task(follow())
        try:
            yield running.pid
        finally:
            following.cancel()


def test_the_set_time_is_the_next_multiple_at_least_lead_away() -> None:
    assert set_time(1000.0, 60, 15) == 1020
    assert set_time(1005.1, 60, 15) == 1080
    assert set_time(1000.0, 300, 0) == 1200
    assert set_time(1000.5, 0, 15) == 1000.5


def test_instances_that_verified_within_the_lead_have_the_same_set_time() -> None:
    assert len({set_time(now, 60, 15) for now in range(946, 1006)}) == 1


def test_without_a_synchronised_clock_it_activates_at_once(page: Page) -> None:
    turn = switchover(page, align_seconds=60)
    assert turn.schedule() is not None
    turn.clock.observe(Reading(time.time(), boottime(), False))
    assert turn.schedule() is None


def test_workers_stage_then_flip_and_the_deadline_is_stored_after_the_flip(page: Page) -> None:
    order = []

    async def run() -> None:
        turn = switchover(page)
        async with worker(page, 0), worker(page, 1):
            await turn.stage(2)
            assert (page.staged, page.active) == (2, 1)
            await turn.wait_until(time.time() + 0.1)
            assert time.time() - turn.clock.wall(boottime()) < 1
            turn.flip(2, lambda: order.append(page.active))
            assert await turn.confirm(2)
            assert (page.active, page.staged, turn.state) == (2, 0, SwitchoverState.NONE)

    asyncio.run(run())
    assert order == [2]


def test_at_the_very_first_activation_the_deadlines_come_first(page: Page) -> None:
    page.active = 0
    order = []
    switchover(page).flip(1, lambda: order.append(page.active))
    assert (order, page.active) == ([0], 1)


def test_hurry_ends_the_wait(page: Page) -> None:
    async def run() -> None:
        turn = switchover(page)
        waiting = asyncio.create_task(turn.wait_until(time.time() + 3600))
        async with asyncio.timeout(20):
            while turn.state is not SwitchoverState.SCHEDULED:  # noqa: ASYNC110  (a state that has no event)
                await asyncio.sleep(0.005)
        turn.hurry()
        async with asyncio.timeout(2):
            await waiting

    asyncio.run(run())


def test_a_table_that_no_worker_can_map_is_void_and_nothing_changes(page: Page) -> None:
    async def run() -> None:
        turn = switchover(page)
        async with worker(page, 0, stages=False):
            with pytest.raises(SwitchoverVoid, match="no worker could map it"):
                await turn.stage(2)
        assert (page.active, page.staged, turn.state, page.silenced) == (1, 0, SwitchoverState.VOID, False)

    asyncio.run(run())


def test_one_worker_that_cannot_map_it_does_not_hold_up_the_others(page: Page) -> None:
    async def run() -> None:
        turn = switchover(page)
        async with worker(page, 0), worker(page, 1, stages=False):
            await turn.stage(2)
        assert page.staged == 2

    asyncio.run(run())


def test_a_worker_that_does_not_switch_is_ended_so_that_its_parent_replaces_it(page: Page) -> None:
    async def run() -> None:
        turn = switchover(page)
        async with worker(page, 0), worker(page, 1, switches=False) as stuck:
            await turn.stage(2)
            turn.flip(2, lambda: None)
            ended = asyncio.create_task(asyncio.to_thread(_wait_for_end, stuck))
            assert await turn.confirm(2)
            assert await ended
        assert (page.silenced, turn.state) == (False, SwitchoverState.NONE)

    asyncio.run(run())


def _wait_for_end(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(("policy", "silenced"), [("silence", True), ("keep", False)])
def test_when_no_worker_can_be_brought_to_it_the_instance_ceases_and_heals_when_one_can(
    page: Page, policy: str, silenced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchovers, "START_SECONDS", 0.3)

    async def run() -> None:
        turn = switchover(page, on_failed_switchover=policy)
        async with worker(page, 0):
            await turn.stage(2)
        # The parent replaces whoever is ended, but what it starts never gets to generation 2.
        page.worker(0).active = 1
        replacing = asyncio.create_task(_replace_forever(page))
        try:
            await asyncio.sleep(0)
            turn.flip(2, lambda: None)
            assert not await turn.confirm(2)
            assert (turn.state, page.silenced, page.active) == (SwitchoverState.FAILED, silenced, 2)
            assert "no worker answers from generation 2" in turn.reason
            turn.watch()
            assert page.silenced is silenced
        finally:
            replacing.cancel()
        async with worker(page, 0):
            page.worker(0).active = 2
            turn.watch()
            assert (turn.state, page.silenced) == (SwitchoverState.NONE, False)

    asyncio.run(run())


async def _replace_forever(page: Page) -> None:
    while True:
        with process() as running:
            words = page.worker(0)
            words.active, words.pid, words.heartbeat = 1, running.pid, FOREVER
            while running.poll() is None:  # noqa: ASYNC110  (it is a process)
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("status", "void"),
    [
        ({}, False),
        ({"interfaces": [{"hook": "off"}], "self_tests": {"2": "wrong: x"}}, False),
        ({"interfaces": [{"hook": "tc"}], "self_tests": {"2": "300 of 300 queries answered, all rightly"}}, False),
        ({"interfaces": [{"hook": "tc"}], "self_tests": {"2": "the table has 9,000,000 octets"}}, False),
        ({"interfaces": [{"hook": "xdp"}], "self_tests": {"2": "wrong: com. DS: other octets"}}, True),
    ],
)
def test_a_table_that_the_kernel_answers_otherwise_from_is_void(
    page: Page, status: dict[str, object], void: bool
) -> None:
    async def kernel() -> dict[str, object]:
        return status

    async def run() -> None:
        turn = switchover(page)
        turn.kernel = kernel
        async with worker(page, 0):
            if not void:
                await turn.stage(2)
                return
            with pytest.raises(SwitchoverVoid, match="fast path wrong: com") as raised:
                await turn.stage(2)
            assert raised.value.differs
            assert (page.active, page.staged, turn.state) == (1, 0, SwitchoverState.VOID)

    asyncio.run(run())


def test_nobody_ends_a_process_whose_number_stands_in_the_page(page: Page) -> None:
    with process() as innocent:

        async def run() -> None:
            turn = switchover(page)
            orders = []

            async def replace(slot: int, wanted: int) -> dict[str, object]:
                orders.append((slot, wanted))
                return {"replaced": False}

            turn.replace = replace
            page.workers = 1
            words = page.worker(0)
            words.pid, words.heartbeat, words.active = innocent.pid, FOREVER, 1
            turn.flip(2, lambda: None)
            asyncio.get_running_loop().call_later(0.5, lambda: setattr(words, "active", 2))
            assert await turn.confirm(2)
            assert orders == [(0, 2)]

        asyncio.run(run())
        assert innocent.poll() is None


@pytest.mark.parametrize("dead", ["parent", "worker"])
def test_what_a_slot_says_of_who_is_gone_fails_nothing(page: Page, dead: str) -> None:
    with process() as innocent:

        async def run() -> None:
            page.workers = 1
            words = page.worker(0)
            words.pid, words.heartbeat, words.active = innocent.pid, FOREVER, 1
            if dead == "parent":
                page.parent_heartbeat = int((boottime() - switchovers.PARENT_SECONDS - 1) * 1e9)
            else:
                words.heartbeat = int((boottime() - switchovers.WORKER_SECONDS - 1) * 1e9)
            turn = switchover(page)
            await turn.stage(2)
            turn.flip(2, lambda: None)
            assert await turn.confirm(2)
            assert (turn.state, page.silenced) == (SwitchoverState.NONE, False)

        asyncio.run(run())
        assert innocent.poll() is None


def test_with_nobody_answering_there_is_nothing_to_fail(page: Page) -> None:
    async def run() -> None:
        turn = switchover(page)
        page.workers = 2
        await turn.stage(2)
        turn.flip(2, lambda: None)
        assert await turn.confirm(2)

    asyncio.run(run())
    assert not page.silenced


LAGGING = {
    "interfaces": [{"hook": "tc"}],
    "self_tests": {"2": "all rightly"},
    "active": 1,
    "answer_until_seconds": [9.0],
}


@pytest.mark.parametrize(
    ("then", "ordered"),
    [
        (LAGGING, True),
        ({}, True),
        ({**LAGGING, "active": 2}, False),
        ({**LAGGING, "answer_until_seconds": [0.0, 0.0]}, False),
        ({**LAGGING, "interfaces": [{"hook": "off"}]}, False),
    ],
)
def test_a_kernel_that_does_not_follow_by_the_end_of_the_grace_is_switched_off(
    page: Page, then: dict[str, object], ordered: bool
) -> None:
    orders = []

    async def run() -> None:
        turn = switchover(page)
        told: list[dict[str, object]] = [LAGGING]

        async def kernel() -> dict[str, object]:
            return told[0]

        async def suspend(wanted: int, reason: str) -> dict[str, object]:
            orders.append(wanted)
            return {**LAGGING, "answer_until_seconds": [0.0, 0.0]}

        turn.kernel, turn.suspend_kernel = kernel, suspend
        async with worker(page, 0):
            await turn.stage(2)
            turn.flip(2, lambda: None)
            told[0] = then
            assert await turn.confirm(2)

    asyncio.run(run())
    assert orders == ([2] if ordered else [])


def test_nobody_goes_back_once_a_worker_has_followed_at_the_last_moment(page: Page) -> None:
    granted = []

    async def run() -> None:
        turn = switchover(page)
        async with worker(page, 0, switches=False), worker(page, 1, switches=False):
            await turn.stage(2)
            turn.flip(2, lambda: None)
            with pytest.raises(SwitchoverVoid):
                await turn.confirm(2, lambda: "others may fail alike")
            page.worker(1).active = 2
            assert not turn.stay(1, lambda: granted.append("deadlines"), "others may fail alike")
            assert (page.active, granted) == (2, [])
            page.worker(1).active = 1
            assert turn.stay(1, lambda: granted.append("deadlines"), "others may fail alike")
            assert (page.active, granted, turn.state) == (1, ["deadlines"], SwitchoverState.VOID)

    asyncio.run(run())
