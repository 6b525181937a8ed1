"""What is made of serve's word on the fast path: detached when bad twice, an alarm until it is on again."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootsrv.anycast import fastpath_watch
from rootsrv.anycast.fastpath_watch import FastPathWatch
from rootsrv.health.evidence import FastPathTest


class Serve:
    """A status socket whose nth probe answers states[n]; the last one stays."""

    def __init__(self, *states: str, obeys: bool = True) -> None:
        self._states = list(states)
        self._obeys = obeys
        self.detached: list[str] = []
        self.probes = 0
        self.served: list[asyncio.Task[Any]] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["command"]:
            case "fastpath-probe":
                self.probes += 1
                state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
                return {"state": "off" if self.detached and self._obeys else state, "detail": f"probe {self.probes}"}
            case "fastpath-detach":
                self.detached.append(request["reason"])
                return {}
        return {"counters": {"replies": {"ipv4": {"0": 5, "3": 7}, "ipv6": {"3": 2}}}}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.served.append(task)
        try:
            if line := await reader.readline():
                writer.write(json.dumps(self.answer(json.loads(line))).encode() + b"\n")
            await reader.read()  # the client hangs up first
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_SECONDS", "AGAIN_SECONDS", "STUCK_SECONDS"):
        monkeypatch.setattr(fastpath_watch, name, 0.01)


def watched(path: Path, serve: Serve, until: Callable[[FastPathWatch], bool], *, detach: bool = True) -> FastPathWatch:
    """Watch until *until* holds."""

    async def watch() -> FastPathWatch:
        server = await asyncio.start_unix_server(serve.serve, path)
        watching = FastPathWatch(path, detach=detach)
        task = asyncio.create_task(watching.watch())
        async with asyncio.timeout(10):
            while not until(watching):  # noqa: ASYNC110  (a state is awaited that has no event)
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        await asyncio.gather(*serve.served, return_exceptions=True)
        return watching

    return asyncio.run(watch())


def test_a_right_one_is_left_alone_and_counted(tmp_path: Path) -> None:
    serve = Serve("right")
    seen = watched(tmp_path / "s", serve, lambda watch: watch.replies[4] > 0)

    assert (seen.state, seen.replies, seen.alarm, serve.detached) == (FastPathTest.RIGHT, {4: 12, 6: 2}, "", [])


@pytest.mark.parametrize("state", ["wrong", "dead"])
def test_a_bad_one_is_detached_and_that_stays_an_alarm(tmp_path: Path, state: str) -> None:
    serve = Serve("right", state)
    seen = watched(tmp_path / "s", serve, lambda watch: bool(watch.alarm) and watch.state is FastPathTest.OFF)

    assert serve.detached == [f"{state}: probe 3"]
    assert seen.alarm == f"the fast path was detached ({state}: probe 3)"
    assert not seen.stuck


def test_what_is_bad_once_is_not_detached(tmp_path: Path) -> None:
    serve = Serve("right", "wrong", "right", "dead", "right")
    seen = watched(tmp_path / "s", serve, lambda _: serve.probes >= 8)

    assert (seen.state, serve.detached) == (FastPathTest.RIGHT, [])


def test_one_that_cannot_be_detached_is_stuck(tmp_path: Path) -> None:
    serve = Serve("wrong", obeys=False)

    assert watched(tmp_path / "s", serve, lambda watch: watch.stuck).state is FastPathTest.WRONG


def test_by_policy_it_is_not_detached(tmp_path: Path) -> None:
    serve = Serve("wrong")
    seen = watched(tmp_path / "s", serve, lambda _: serve.probes >= 6, detach=False)

    assert (seen.state, seen.stuck, serve.detached) == (FastPathTest.WRONG, False, [])


def test_nonsense_is_dead_and_a_serve_that_never_answered_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nonsense = watched(tmp_path / "s", Serve("splendid"), lambda watch: watch.state is FastPathTest.DEAD, detach=False)
    assert "splendid" in nonsense.detail

    async def alone() -> FastPathTest:
        asked = asyncio.Semaphore(0)
        honest = fastpath_watch.ask

        async def ask(*request: Any) -> Any:
            asked.release()
            return await honest(*request)

        monkeypatch.setattr(fastpath_watch, "ask", ask)
        watching = FastPathWatch(tmp_path / "none", detach=True)
        task = asyncio.create_task(watching.watch())
        for _ in range(5):
            await asked.acquire()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return watching.state

    assert asyncio.run(alone()) is FastPathTest.OFF
