"""Work that goes on as long as its role does: an exception nobody expected ends one attempt, never the role."""

import asyncio
from collections.abc import Awaitable, Callable

from rootsrv.process.children import describe_error
from rootsrv.process.troubles import Troubles, place_of

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
    troubles = Troubles("attempt failed")  # again after an hour, and at once when the reason is another one
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
                troubles.over()  # what fails then is another failure
            failing[name] = describe_error(error)
            troubles.met(failing[name], work=name, at=place_of(error), again_in_seconds=pause)
        finally:
            settled.cancel()
        await asyncio.sleep(pause)
        pause = min(longest, 2 * pause)
