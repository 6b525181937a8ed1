"""When what ended in a slot is started again."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rootsrv.page.layout import Page
from rootsrv.server.parent import Parent
from rootsrv.server.replacing import LONGEST_SECONDS, SHORTEST_SECONDS, STARTS_APART_SECONDS, Replacing
from rootsrv.server.sockets import ServiceSocket


def test_one_that_was_up_is_replaced_at_once_or_half_a_second_after_it_was_started() -> None:
    replacing = Replacing()
    assert [replacing.was_up(lived) for lived in (3600.0, 4.9, STARTS_APART_SECONDS)] == [0.0] * 3
    assert [replacing.was_up(0.25) for _ in range(50)] == [STARTS_APART_SECONDS - 0.25] * 50


def test_one_that_was_never_up_is_tried_ever_more_slowly_until_one_is() -> None:
    replacing = Replacing()
    pauses = [replacing.was_never_up() for _ in range(10)]
    assert pauses[:3] == [SHORTEST_SECONDS * factor for factor in (1, 2, 4)]
    assert pauses[-1] == LONGEST_SECONDS
    replacing.was_up(3600.0)
    assert replacing.was_never_up() == SHORTEST_SECONDS
    patient = Replacing(60.0)
    assert [patient.was_never_up() for _ in range(12)][-1] == 60.0


class Ended:
    """A process that has ended already."""

    def __init__(self, status: int, *, page: Page | None = None) -> None:
        """*page*: on which it was seen to be up."""
        self.pid = os.getpid()
        self._status, self._page = status, page

    async def wait(self) -> int:
        if self._page is not None:
            self._page.worker(0).pid = self.pid
        return self._status


class Quick(Parent):
    """Whose workers end as they are told to, and that waits for nothing."""

    def __init__(self, ends: Sequence[Ended | OSError], **more: Any) -> None:
        super().__init__(**more)
        self._ends = list(ends)
        self.pauses: list[float] = []

    async def _start(self, slot: int, tables: int) -> Any:
        found = self._ends.pop(0)
        if isinstance(found, OSError):
            raise found
        self._processes[slot] = found  # type: ignore[assignment]
        return found

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._stopping = not self._ends


def test_what_a_sender_can_do_to_a_worker_makes_no_pause_longer(tmp_path: Path) -> None:
    """Whatever it was that killed it; what no sender can do does."""
    page = Page.create(tmp_path / "page")
    never_up = [OSError(errno.ENOMEM, "no memory"), Ended(1), Ended(-9)]
    up = [*(Ended(status, page=page) for status in (-11, -9, 1)), Ended(0)]  # the last one has said that it is gone
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sockets = [ServiceSocket(listening, "127.0.0.1", 0)]
        parent = Quick([*never_up, *up, Ended(1)], sockets=sockets, page=page, tables=tmp_path, orders={})
        began = time.monotonic()
        asyncio.run(parent._keep(0, 0))
        took = time.monotonic() - began
    before, after, last = parent.pauses[:3], parent.pauses[3:7], parent.pauses[7:]
    assert before == [SHORTEST_SECONDS * factor for factor in (1, 2, 4)]
    assert all(STARTS_APART_SECONDS - took <= each <= STARTS_APART_SECONDS for each in after)
    assert last == [SHORTEST_SECONDS]
    assert page.replaced == 7
