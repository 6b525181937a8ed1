"""Connections on the event loop, and a host that has nothing for one."""

import asyncio
import errno
import os
import select
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rootsrv.process import accepting
from rootsrv.process.accepting import Accepting, ProtocolServer, conversing
from rootsrv.process.troubles import Troubles
from tests.dot.client import write_certificate
from tests.process.listening import listening


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    writer.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    loop: Callable[[], asyncio.AbstractEventLoop] = request.param
    return loop


@pytest.mark.parametrize("error", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE], ids=errno.errorcode.get)
def test_what_cannot_be_taken_is_tried_once_a_while_and_told_once(
    runner: Callable[[], asyncio.AbstractEventLoop],
    error: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(accepting, "AGAIN_SECONDS", 0.05)
    caplog.set_level("INFO")

    async def ask() -> int:
        where = listening([error] * 3)
        async with ProtocolServer(
            where, conversing(echo, limit=100), Troubles("it is not accepted", "it is accepted again")
        ):
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*where.getsockname())
                writer.write(b"hello\n")
                assert await reader.read() == b"hello\n"
                writer.close()
        assert where.fileno() == -1
        return where.tries

    with asyncio.Runner(loop_factory=runner) as loop:
        assert loop.run(ask()) == 3 + 2 * 2, "each that succeeds is followed by one that finds nobody"
    assert caplog.text.count("it is not accepted") == 1
    assert caplog.text.count("it is accepted again") == 1


@pytest.mark.parametrize("error", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN])
def test_one_that_is_gone_keeps_nobody_behind_it_waiting(
    runner: Callable[[], asyncio.AbstractEventLoop], error: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Another that waits is taken in the same turn, and nobody is told of a trouble."""
    taken: list[socket.socket] = []

    async def take() -> None:
        where = listening([error] * 3)
        with socket.create_connection(where.getsockname()):
            select.select([where], [], [])
            async with Accepting(where, lambda connection, _: taken.append(connection), Troubles("not accepted")):
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        assert where.tries == 3 + 1 + 1

    with asyncio.Runner(loop_factory=runner) as loop:
        loop.run(take())
    with taken.pop() as connection:
        assert not connection.getblocking()
    assert taken == []
    assert caplog.text == ""


def test_a_socket_for_which_there_is_no_memory_to_watch_it_is_watched_when_there_is(
    runner: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accepting, "AGAIN_SECONDS", 0.02)
    caplog.set_level("INFO")
    refused: list[int] = []

    class Loop:
        """The loop, which has no memory three times."""

        def __init__(self) -> None:
            self._loop = asyncio.get_running_loop()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loop, name)

        def add_reader(self, descriptor: int, *call: Any) -> None:
            if len(refused) < 3:
                refused.append(descriptor)
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            self._loop.add_reader(descriptor, *call)

    async def take() -> None:
        where = listening()
        taken: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        loop = Loop()
        with monkeypatch.context() as patched:
            patched.setattr(asyncio, "get_running_loop", lambda: loop)
            made = Accepting(where, lambda connection, _: taken.set_result(connection), Troubles("no", "again"))
        with socket.create_connection(where.getsockname()):
            (await taken).close()
        made.close()

    with asyncio.Runner(loop_factory=runner) as loop:
        loop.run(take())
    assert len(refused) == 3
    assert [each.message.split()[0] for each in caplog.records] == ["no", "again"]


class Told(Troubles):
    """Says when it is told."""

    def __init__(self) -> None:
        super().__init__("not accepted")
        self.told = asyncio.Event()

    def met(self, reason: object, *, key: object = None, **facts: Any) -> None:
        self.told.set()


def test_nothing_is_tried_before_it_is_time_nor_after_it_was_closed(
    runner: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However often the event loop turns over somebody who waits."""

    async def tries(*, closed: bool) -> int:
        where, troubles = listening([errno.ENFILE] * 1000), Told()
        made = Accepting(where, lambda connection, _: connection.close(), troubles)
        with socket.create_connection(where.getsockname()):
            await troubles.told.wait()
            if closed:
                made.close()
            for _ in range(100):
                await asyncio.sleep(0)
            made.close()
        return where.tries

    with asyncio.Runner(loop_factory=runner) as loop:
        monkeypatch.setattr(accepting, "AGAIN_SECONDS", 3600.0)
        assert loop.run(tries(closed=False)) == 1
        monkeypatch.setattr(accepting, "AGAIN_SECONDS", 0.0)
        assert loop.run(tries(closed=True)) == 1
    assert caplog.text == "", "nothing is called that finds it closed"


def test_over_tls_who_says_something_else_keeps_nobody_away(
    runner: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path, "here"))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    async def ask() -> None:
        where = listening()
        async with ProtocolServer(where, conversing(echo, limit=100), Troubles("it is not accepted"), ssl=context):
            reader, writer = await asyncio.open_connection(*where.getsockname())
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            await reader.read()
            writer.close()
            reader, writer = await asyncio.open_connection(*where.getsockname(), ssl=client)
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()

    with asyncio.Runner(loop_factory=runner) as loop:
        loop.run(ask())
