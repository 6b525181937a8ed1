"""Answering from the copy: a table that cannot be mapped for a moment."""

import asyncio
import errno
import os
import time
from collections import Counter
from typing import Any

import dns.message
import dns.rcode
import pytest

from rootsrv.answer.responder import ResponderSettings
from rootsrv.answer.table import AnswerTable
from rootsrv.distribution.requests import Asker
from rootsrv.hyperlocal import answering
from rootsrv.hyperlocal.answering import Answering
from tests.server.live import tables


class Tables:
    """The tables in service, and whether they can be opened."""

    def __init__(self) -> None:
        self.active = 1
        self.refused: set[int] = set()
        self.tried = 0

    def open(self, generation: int) -> AnswerTable:
        self.tried += 1
        if generation in self.refused:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return AnswerTable(tables()[generation - 1])


def asked(server: Answering) -> Any:
    async def one() -> bytes:
        query = dns.message.make_query(".", "SOA").to_wire()
        batches = [each async for each in server.answer(query, Asker("127.0.0.1", over_tcp=False))]
        return b"".join(batches[0][0])

    response = dns.message.from_wire(asyncio.run(one()))
    return response.answer[0][0].serial if response.answer else dns.rcode.to_text(response.rcode())


@pytest.fixture
def opened() -> Tables:
    return Tables()


@pytest.fixture
def server(opened: Tables) -> Answering:
    return Answering(
        ResponderSettings(),
        lambda: opened.active,
        opened.open,
        lambda: False,
        None,
        Counter(),
        security=None,  # type: ignore[arg-type]
    )


def test_the_table_before_goes_on_until_the_next_can_be_mapped(
    server: Answering, opened: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asked(server)
    opened.active, opened.refused = 2, {2}
    assert [asked(server) for _ in range(20)] == [first] * 20
    assert opened.tried == 2  # and not for every query
    opened.refused = set()
    now = time.monotonic()
    monkeypatch.setattr(answering.time, "monotonic", lambda: now + answering.TRY_AGAIN_SECONDS)
    assert asked(server) not in {first, "SERVFAIL"}


def test_the_first_table_is_tried_again(server: Answering, opened: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    opened.refused = {1}
    assert asked(server) == "SERVFAIL"
    opened.refused = set()
    now = time.monotonic()
    monkeypatch.setattr(answering.time, "monotonic", lambda: now + answering.TRY_AGAIN_SECONDS)
    assert asked(server) != "SERVFAIL"
