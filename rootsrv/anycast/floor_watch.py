"""What the mesh lets this instance do: asks the role mesh whether a token counts, and says for what one is wanted."""
# The answer is a lease of its own: it says for how long the token counts if nothing more is heard.  A role mesh that
# dies, or an engine that is lost, ends it by itself; then what can wait only degrades, and is announced again.

import asyncio
from pathlib import Path
from typing import Any

from rootsrv.anycast.witness import boottime
from rootsrv.control.client import NoAnswer, ask
from rootsrv.health.floor import Floor

POLL_SECONDS = 0.5


class FloorWatch:
    """Asks in the background; the round of probes takes what is there and waits for nobody."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._until = float("-inf")
        self._want = ""
        self._woken = asyncio.Event()
        self.why = "the role mesh has not been asked yet"
        self.holders: list[dict[str, Any]] = []
        """Who holds the tokens, as far as is known; for people."""

        self.counts_in_seconds: float | None = None
        """How long until a token that was taken counts; None = none was."""

    def want(self, reason: str) -> None:
        """For what a token is wanted; empty = for nothing."""
        if bool(reason) != bool(self._want):
            self._woken.set()
        self._want = reason

    def observe(self) -> Floor:
        """Whether there is a token now."""
        token = boottime() < self._until
        return Floor(token, "" if token else f"no token: {self.why}")

    async def watch(self) -> None:
        """Ask until cancelled."""
        while True:
            asked_at = boottime()
            try:
                told = await ask(self._socket, {"command": "floor", "want": self._want})
                # Counted from before it was asked: what it says was true then at the earliest.
                self._until = asked_at + float(told["counts_seconds"]) if told["token"] else float("-inf")
                self.why, self.holders = str(told["why"]), list(told["holders"])
                self.counts_in_seconds = told["counts_in_seconds"]
            except NoAnswer as error:
                self.why = f"the role mesh does not answer: {error}"
            except (KeyError, TypeError, ValueError) as error:
                self.why = f"the role mesh says what nobody understands: {type(error).__name__}: {error}"
            self._woken.clear()
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                pass
