"""Watches the fast path through serve's status socket: is what the kernel answers right, and how much is it?"""
# A query from this host never crosses a NIC, so the program is probed by test run, with its live tables; serve does
# that (`fastpath-probe`), since it holds the descriptors.  Like a wrong answer on the wire, a bad result counts only
# when it is had twice; then the program is taken off, and the workers answer.

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootsrv.anycast.witness import boottime
from rootsrv.control.client import NoAnswer, ask
from rootsrv.health.evidence import FastPathTest
from rootsrv.process import log

POLL_SECONDS = 1.0
AGAIN_SECONDS = 0.2
STUCK_SECONDS = 3.0
"""A bad fast path that is still on so long after it was first told to go cannot be detached."""

_PATIENCE_SECONDS = 2.0  # a probe asks some 250 questions, behind whatever serve is doing
_BAD = (FastPathTest.WRONG, FastPathTest.DEAD)


class FastPathWatch:
    """What is known of the fast path."""

    def __init__(self, serve_socket: Path, *, detach: bool) -> None:
        """*detach*: whether to take a bad one off (AnycastConfig.on_fastpath_wrong)."""
        self._socket = serve_socket
        self._detach = detach
        self.state = FastPathTest.OFF
        self.detail = ""
        self.replies: dict[int, int] = {4: 0, 6: 0}
        """Responses from the kernel, by IP version."""

        self.alarm = ""
        """That it was detached, and why, until it is on again."""

        self._told_at: float | None = None

    @property
    def stuck(self) -> bool:
        """Whether it answers wrongly and could not be taken off."""
        return (
            self.state is FastPathTest.WRONG
            and self._told_at is not None
            and boottime() - self._told_at >= STUCK_SECONDS
        )

    async def watch(self) -> None:
        """Probe, and detach what is bad, until cancelled."""
        while True:
            state, detail = await self._probe()
            if state in _BAD:
                await asyncio.sleep(AGAIN_SECONDS)
                state, detail = await self._probe()
            self.state, self.detail = state, detail
            if state is FastPathTest.RIGHT:
                self.alarm, self._told_at = "", None
            elif state in _BAD and self._detach:
                await self._take_off()
            if state is not FastPathTest.OFF:
                await self._count()
            await asyncio.sleep(POLL_SECONDS)

    async def _probe(self) -> tuple[FastPathTest, str]:
        try:
            answer = await ask(self._socket, {"command": "fastpath-probe"}, _PATIENCE_SECONDS)
            return FastPathTest(answer.get("state")), str(answer.get("detail", ""))
        except NoAnswer as error:
            # Serve may be starting, or have no fast path at all; one that was on and cannot be seen counts as dead.
            return (FastPathTest.OFF, "") if self.state is FastPathTest.OFF else (FastPathTest.DEAD, str(error))
        except ValueError as error:
            return FastPathTest.DEAD, str(error)

    async def _take_off(self) -> None:
        reason = f"{self.state.value}: {self.detail}"
        self._told_at = self._told_at or boottime()
        self.alarm = f"the fast path was detached ({reason})"
        log.alarm("fast path is to be detached", reason=reason)
        try:
            await ask(self._socket, {"command": "fastpath-detach", "reason": reason}, _PATIENCE_SECONDS)
        except NoAnswer as error:
            log.alarm("fast path not detached", reason=error)

    async def _count(self) -> None:
        try:
            status = await ask(self._socket, {"command": "fastpath-status"}, _PATIENCE_SECONDS)
        except NoAnswer:
            return
        self.replies = _replies(status) or self.replies


def _replies(status: Mapping[str, Any]) -> dict[int, int]:
    """Responses by IP version from the counters of `fastpath-status`; empty where they are not as expected."""
    try:
        replies = status["counters"]["replies"]
        return {version: sum(replies[f"ipv{version}"].values()) for version in (4, 6)}
    except (KeyError, TypeError, AttributeError):
        return {}
