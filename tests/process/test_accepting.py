"""Connections on the event loop, and a host that has nothing for one."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from rootsrv.process import accepting
from rootsrv.process.accepting import Accepting, conversing
from rootsrv.process.troubles import Troubles
from tests.dot.client import write_certificate


class Listening(socket.socket):
    """Fails as often as it is told to."""

    failing = 0
    tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.failing:
            self.failing -= 1
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return super().accept()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    writer.close()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    loop: Callable[[], asyncio.AbstractEventLoop] = request.param
    return loop


def listening() -> Listening:
    made = Listening(socket.AF_INET, socket.SOCK_STREAM)
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made


def test_what_cannot_be_taken_is_tried_once_a_while_and_told_once(
    runner: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accepting, "AGAIN_SECONDS", 0.05)
    caplog.set_level("INFO")

    async def ask() -> int:
        where = listening()
        where.failing = 3
        async with Accepting(
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


def test_over_tls_who_says_something_else_keeps_nobody_away(
    runner: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path, "here"))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    async def ask() -> None:
        where = listening()
        async with Accepting(where, conversing(echo, limit=100), Troubles("it is not accepted"), ssl=context):
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
