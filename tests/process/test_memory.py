"""What a role is loaded with is not walked again for garbage."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from rootsrv.process.child import in_child
from rootsrv.roles import run
from tests.process.test_child import Nothing


@pytest.fixture(autouse=True)
def walked_again() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    gc.unfreeze()  # what tests before have frozen, who prepared answers say
    yield
    gc.unfreeze()
    if was_enabled:
        gc.enable()


def test_a_role_that_waits_for_the_first_time_is_loaded_and_a_child_changes_nothing() -> None:
    found: list[tuple[bool, bool]] = []

    async def role(stop: asyncio.Event, reload: asyncio.Event) -> None:
        found.append((gc.isenabled(), gc.get_freeze_count() > 1000))
        await asyncio.sleep(0)
        found.append((gc.isenabled(), gc.get_freeze_count() > 1000))
        assert await in_child(gc.isenabled, Nothing()) is False
        found.append((gc.isenabled(), gc.get_freeze_count() > 1000))

    run._run_until_signalled(role, asyncio.new_event_loop)
    assert found == [(False, False), (True, True), (True, True)]
