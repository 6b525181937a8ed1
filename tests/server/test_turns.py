"""What is answered in one turn of the event loop comes from one reading of the page and is counted at its end."""

import asyncio
from pathlib import Path

import pytest

from rootsrv.answer.responder import ResponderSettings, Transport
from rootsrv.page import counts
from rootsrv.page.layout import Page
from rootsrv.server.counters import Counters
from rootsrv.server.serving import Serving
from rootsrv.server.turns import Turns

QUERY = b"\x12\x34\0\0\0\1\0\0\0\0\0\0\0\0\6\0\1"
TCP4, TCP6 = 2, 3


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page.create(tmp_path / "page")


def make_turns(page: Page) -> Turns:
    slot = page.worker(0)
    counters = Counters(slot)
    return Turns(Serving(page, slot, counters, -1, ResponderSettings()), counters)


def test_answers_are_counted_when_the_turn_ends(page: Page) -> None:
    words = page.worker(0).counters

    async def one_turn() -> None:
        turns = make_turns(page)
        turns.begin()
        for path, source in ((TCP4, b"\xc0\0\2\1"), (TCP4, b"\xc0\0\2\2"), (TCP6, bytes(16))):
            assert turns.respond(path, QUERY, source, Transport.TCP) is not None
        assert words[counts.RESPONSES + TCP4] == 0
        await asyncio.sleep(0)
        assert (words[counts.RESPONSES + TCP4], words[counts.RESPONSES + TCP6]) == (2, 1)
        turns.begin()
        turns.respond(TCP6, QUERY, bytes(16), Transport.TCP)
        await asyncio.sleep(0)
        assert (words[counts.QUERIES + TCP4], words[counts.QUERIES + TCP6]) == (2, 2)

    asyncio.run(one_turn())
    assert counts.rcodes(words, TCP4)[2] == 2  # SERVFAIL: there is no table yet


def test_the_page_is_read_once_in_a_turn_and_again_in_the_next(page: Page) -> None:
    async def two_turns() -> None:
        turns = make_turns(page)
        turns.begin()
        page.silenced = True
        turns.begin()
        assert turns.respond(TCP4, QUERY, bytes(4), Transport.TCP) is not None
        await asyncio.sleep(0)
        turns.begin()
        assert turns.respond(TCP4, QUERY, bytes(4), Transport.TCP) is None

    asyncio.run(two_turns())
    words = page.worker(0).counters
    assert words[counts.RESPONSES + TCP4] == 1
    assert words[counts.DROPPED + counts.DROP_REASONS.index("silenced")] == 1
