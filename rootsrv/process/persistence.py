"""Work that goes on as long as its role does: an exception nobody expected ends one attempt, never the role."""

import asyncio
from collections.abc import Awaitable, Callable

from rootsrv.process import log
from rootsrv.process.children import describe_error

PAUSE_SECONDS = (0.5, 10.0)
"""First and longest pause before the next attempt; the first one again after an attempt that lasted."""

SETTLED_SECONDS = 60.0

failing: dict[str, str] = {}
"""What has failed and was not yet well for long: name of the work → why.  For status."""


async def persistently(name: str, attempt: Callable[[], Awaitable[None]]) -> None:
    """Run *attempt* until it returns or is cancelled; when it raises log that, wait and run it again."""
    clock = asyncio.get_running_loop().time
    shortest, longest = PAUSE_SECONDS
    pause = shortest
    while True:
        began = clock()
        settled = asyncio.get_running_loop().call_later(SETTLED_SECONDS, failing.pop, name, None)
        try:
            await attempt()
            failing.pop(name, None)
            return
        except Exception as error:
            if clock() - began >= SETTLED_SECONDS:
                pause = shortest
            failing[name] = describe_error(error)
            log.alarm("attempt failed", work=name, reason=failing[name], at=_place(error), again_in_seconds=pause)
        finally:
            settled.cancel()
        await asyncio.sleep(pause)
        pause = min(longest, 2 * pause)


def _place(error: BaseException) -> str:
    """Where it was raised: file and line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
