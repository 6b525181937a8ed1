"""Who takes what it asked for slowly gets all of it."""

import asyncio
import contextlib
import functools
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rootsrv.demo import generate
from rootsrv.distribution import streams
from rootsrv.distribution.streams import TcpStream, TlsStream
from rootsrv.distribution.tls import server_context
from rootsrv.wire.message import parse
from rootsrv.zone.contents import ZoneContents
from tests.distribution.service import Service, query, send, service
from tests.framing import receive
from tests.secondary.certificates import Authority
from tests.server.live import wait_until

IDLE_SECONDS = 0.6
QUERIES = 30
"""Each for a whole zone, all at once: more than fits into any buffer."""


@functools.cache
def root() -> ZoneContents:
    return generate.root_contents(serial=5, tlds=1440, seed=1)


class Answered:
    """Counts what the service has answered, to the last message."""

    def __init__(self, made: Service) -> None:
        self.times = 0
        self._answer = made.requests.answer
        made.requests.answer = self.answer  # type: ignore[method-assign,assignment]

    async def answer(self, *arguments: Any) -> AsyncIterator[Any]:
        """As the service's."""
        async with contextlib.aclosing(self._answer(*arguments)) as messages:
            async for parts in messages:
                yield parts
        self.times += 1


def connected(made: Service, *, over_tls: bool) -> socket.socket:
    """A client with little room for what comes."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(20)
    plain.connect((made.address, made.tls_port if over_tls else made.port))
    if not over_tls:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["dot"])
    return context.wrap_socket(plain, suppress_ragged_eofs=False)


@pytest.mark.parametrize(
    ("over_tls", "half_closes"),
    [(False, False), (False, True), (True, False)],
    ids=["plain", "half-closed", "tls"],
)
def test_the_last_messages_reach_who_stops_reading_for_a_while(
    tmp_path: Path, over_tls: bool, half_closes: bool
) -> None:
    contents = root()  # before anybody is connected and idle
    certified = Authority(tmp_path).certify("admin.example")
    files = {"tls_certificate": str(certified.certificate), "tls_key": str(certified.key)}
    with (
        service(tls=files, idle_seconds=IDLE_SECONDS) as made,
        contextlib.closing(connected(made, over_tls=over_tls)) as client,
    ):
        made.put(contents)
        answered = Answered(made)
        for _ in range(QUERIES):
            send(client, query("AXFR"))
        if half_closes:
            client.shutdown(socket.SHUT_WR)
        first = receive(client)
        octets = bytearray()
        while answered.times < QUERIES:
            octets += client.recv(2048)
        time.sleep(IDLE_SECONDS * 1.3)  # longer than a client may be idle, shorter than it may take for the rest
        while part := client.recv(65_536):  # ssl.SSLEOFError if nobody says that it is the end
            octets += part
        sizes = [len(first)]
        at = 0
        while at < len(octets):
            sizes.append(int.from_bytes(octets[at : at + 2], "big"))
            at += 2 + sizes[-1]
        assert at == len(octets), "cut off within a message"
        assert parse(first).rcode == 0
        assert len(sizes) == QUERIES * (len(sizes) // QUERIES)
        assert sizes == sizes[: len(sizes) // QUERIES] * QUERIES
        wait_until(lambda: made.call(lambda: made.requests.counts.running) == 0, "its place is free")


def test_who_takes_a_little_all_the_time_is_not_cut_off_and_who_takes_less_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than makes room in the kernel's buffer, which is what the event loop sees."""
    monkeypatch.setattr(streams, "LEAST_OCTETS", 20_000)

    async def takes(octets: int, looks_at_most: int) -> bool:
        """Whether a client that takes so much whenever its progress is looked at has its transfer still."""
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2_000_000)
        with contextlib.closing(listening), socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1448)  # loopback's is larger than that buffer
            client.connect(listening.getsockname())
            server, _ = listening.accept()
            server.setblocking(False)
            client.setblocking(False)
            stream = TcpStream(server, 0.2)
            sending = asyncio.create_task(stream.send([(bytes(60_000),)] * 100))
            looks = asyncio.Queue[None]()
            waiting = stream._waiting_octets

            def looked() -> int:
                looks.put_nowait(None)
                return waiting()

            monkeypatch.setattr(stream, "_waiting_octets", looked)
            for _ in range(looks_at_most):
                look = asyncio.create_task(looks.get())
                await asyncio.wait((look, sending), return_when=asyncio.FIRST_COMPLETED)
                look.cancel()
                taken = 0
                while taken < octets and not sending.done():
                    taken += len(await asyncio.get_running_loop().sock_recv(client, octets - taken))
            ended = sending.done()
            assert not ended or isinstance(sending.exception(), TimeoutError)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await stream.abort()
            return not ended

    assert asyncio.run(takes(octets=60_000, looks_at_most=8))
    assert not asyncio.run(takes(octets=2_000, looks_at_most=8))


def test_who_is_gone_over_tls_takes_nothing_more(tmp_path: Path) -> None:
    certified = Authority(tmp_path).certify("admin.example")
    context = server_context("", str(certified.certificate), str(certified.key))

    def comes_and_goes(address: tuple[str, int]) -> None:
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE
        with theirs.wrap_socket(socket.create_connection(address, timeout=20)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def sends() -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
            listening.setblocking(False)
            client = loop.run_in_executor(None, comes_and_goes, listening.getsockname())
            connection, _ = await loop.sock_accept(listening)
            stream = await TlsStream.accept(connection, context, 20.0)
            await client
            with pytest.raises((ConnectionError, EOFError)):
                await stream.receive()
            with pytest.raises(ConnectionError):
                await stream.send([(bytes(60_000),)] * 8)
            await stream.abort()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(sends())
