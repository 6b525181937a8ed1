"""Work that a role begins and does not wait for: held until it ends, and its exception is told."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Background:
    """The tasks of one role; an exception ends the one that raises it and goes to the loop's handler."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin *work*; a task that nobody holds could be collected before it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def cancel(self) -> None:
        """Cancel what has not ended, and wait until it has."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "something in the background failed", "exception": error, "task": task}
            asyncio.get_running_loop().call_exception_handler(context)
