"""A primary is asked again however a conversation with it ended, and however long the machine slept."""

import asyncio
import errno
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootsrv.process.clocks import Timekeeper, clocks
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.preparation import ZonePolicy
from rootsrv.secondary.primary import SerialAnswer, Transferred
from rootsrv.secondary.stored import StoredVersions
from rootsrv.store.store import Store
from rootsrv.zone.lease import Reading
from tests.waiting import until


class Failing:
    """A source whose conversations end with *error*, at first."""

    name, where, authenticated = "faulty", "192.0.2.1", False

    def __init__(self, error: BaseException | None, *, asks: bool) -> None:
        self._error = error
        self._asks = asks
        self.asked = 0

    async def ask(self, zone: bytes) -> SerialAnswer:
        self.asked += 1
        if self._asks and self.asked == 1 and self._error is not None:
            raise self._error
        return SerialAnswer(7, None)

    async def fetch(self, zone: bytes, base: object, wanted: int) -> Transferred:
        assert self._error is not None
        error, self._error = self._error, AssertionError("again")
        raise error


def keeper_of(source: Any, store: Store, read: Callable[[], Reading], backoff_seconds: float) -> ZoneKeeper:
    return ZoneKeeper(
        ZonePolicy(".", b"\0", "required", "off", str),
        {"faulty": source},
        StoredVersions(store, b"\0"),
        time=Timekeeper(read),
        offer=lambda: None,
        renewed=lambda _: None,
        counters=Counter(),
        backoff_seconds=backoff_seconds,
    )


ERRORS = [
    AssertionError(),
    OSError(errno.EMFILE, "Too many open files"),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    KeyError("x"),
    MemoryError(),
    RuntimeError("can't start new thread"),
]


@pytest.mark.parametrize("asks", [True, False], ids=["asked", "fetched"])
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_primary_is_asked_again_after_an_exception_that_nobody_expected(
    tmp_path: Path, error: Exception, asks: bool
) -> None:
    source: Any = Failing(error, asks=asks)
    store = Store(tmp_path)

    async def run() -> None:
        keeper = keeper_of(source, store, clocks("trusted"), 0.01)
        running = asyncio.create_task(keeper.run())
        try:
            async with asyncio.timeout(20):
                while source.asked < 2:  # noqa: ASYNC110  (it counts, and tells nobody)
                    await asyncio.sleep(0.005)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        peer = keeper.refresh.primaries["faulty"]
        assert keeper.counters["refreshes_failed" if asks else "transfers_failed"] >= 1
        if asks:
            assert "ConversationFailed" in peer.last_error or peer.last_success is not None

    try:
        asyncio.run(run())
    finally:
        store.close()


class Suspended:
    """The clocks of a machine that may have slept: CLOCK_BOOTTIME goes on then, the loop's timers do not."""

    slept = 0.0

    def __call__(self) -> Reading:
        return Reading(1_796_000_000.0 + self.slept, time.clock_gettime(time.CLOCK_BOOTTIME) + self.slept, True)


def test_a_refresh_that_was_due_while_the_machine_was_suspended_is_not_later_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootsrv.secondary.keeper.LOOK_SECONDS", 0.01)
    source: Any = Failing(None, asks=True)
    store = Store(tmp_path)
    sleeper = Suspended()

    async def run() -> None:
        keeper = keeper_of(source, store, sleeper, 600.0)
        running = asyncio.create_task(keeper.run())
        try:
            async with asyncio.timeout(20):
                await until(lambda: source.asked)
                asked = source.asked
                sleeper.slept = 1_000_000.0
                await until(lambda: source.asked > asked)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    try:
        asyncio.run(run())
    finally:
        store.close()
