"""To wait in an event loop for what has no event; `wait_until` of tests/server/live.py is for everybody else."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return when *condition* is true; TimeoutError after so many *seconds*."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  (of a file, a process, another's insides nobody tells)
            await asyncio.sleep(0.001)
