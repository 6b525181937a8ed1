import asyncio

import pytest

from rootsrv.process import persistence
from rootsrv.process.persistence import failing, persistently


def test_whatever_an_attempt_raises_there_is_another_and_status_can_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(persistence, "PAUSE_SECONDS", (0.001, 0.002))
    outcomes = iter([OSError(24, "Too many open files"), AssertionError("304 to a GET"), KeyError("x"), None])
    seen = []

    async def attempt() -> None:
        seen.append(failing.get("it"))
        if (error := next(outcomes)) is not None:
            raise error

    asyncio.run(persistently("it", attempt))
    assert seen == [None, "Too many open files", "AssertionError: 304 to a GET", "KeyError: 'x'"]
    assert "it" not in failing


def test_it_can_be_cancelled() -> None:
    async def run() -> None:
        task = asyncio.create_task(persistently("it", asyncio.Event().wait))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
