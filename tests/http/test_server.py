"""Whatever a client does to it, the next one is answered."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.peers.daemon import free_port
from rootsrv.http import server
from rootsrv.http.server import CannotListen, HttpServer, Request, Response
from tests.secondary.certificates import Authority

BODY = b"good\n"
LARGE = bytes(20_000_000)
ZONE = bytes(range(250)) * 4_000
"""A page larger than what the kernel takes of it at a time."""


async def good(request: Request) -> Response:
    return Response(BODY, "text/plain")


async def large(request: Request) -> Response:
    return Response(LARGE, "text/plain")


async def zone(request: Request) -> Response:
    return Response(ZONE, "text/dns")


async def faulty(request: Request) -> Response:
    raise RuntimeError("ours")


Test = Callable[[int], Coroutine[Any, Any, None]]


Loop = Callable[[], asyncio.AbstractEventLoop]


def serving(test: Test, loop: Loop = asyncio.new_event_loop, context: ssl.SSLContext | None = None) -> None:
    """Run *test* with the port of a server, which speaks TLS with *context*."""

    async def run() -> None:
        server = HttpServer({"/": good, "/large": large, "/faulty": faulty, "/zone": zone})
        port = free_port("127.0.0.2")
        await server.listen(("127.0.0.2",), port, context=context)
        try:
            async with asyncio.timeout(30):
                await test(port)
        finally:
            server.close()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


async def exchange(port: int, octets: bytes) -> bytes:
    """All that comes back for *octets*."""
    reader, writer = await asyncio.open_connection("127.0.0.2", port)
    try:
        writer.write(octets)
        return await reader.read()
    finally:
        writer.close()


GOOD_REQUEST = b"GET / HTTP/1.1\r\nHost: admin\r\n\r\n"


async def assert_still_answering(port: int) -> None:
    response = await exchange(port, GOOD_REQUEST)
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.endswith(BODY)


@pytest.mark.parametrize(
    ("request_octets", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 200),
        (b"GET /?refresh=1 HTTP/1.0\r\nAccept: */*\r\n\r\n", 200),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET //etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 200),
        (b"GET http://admin.example:9353 HTTP/1.1\r\n\r\n", 200),
        (b"GET HTTPS://[2001:db8::1]:9353/?refresh=1 HTTP/1.1\r\n\r\n", 200),
        (b"GET http://admin.example?refresh=1 HTTP/1.1\r\n\r\n", 200),
        (b"GET http://admin.example/nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST http://admin.example/ HTTP/1.1\r\n\r\n", 405),
        (b"GET ftp://admin.example/ HTTP/1.1\r\n\r\n", 400),
        (b"GET http:/// HTTP/1.1\r\n\r\n", 400),
        (b"GET http:// HTTP/1.1\r\n\r\n", 400),
        (b"GET http HTTP/1.1\r\n\r\n", 400),
        (b"GET ?refresh=1 HTTP/1.1\r\n\r\n", 400),
        (b"GET  HTTP/1.1\r\n\r\n", 400),
        (b"GET http://a b/ HTTP/1.1\r\n\r\n", 400),
        (b"GET http://" + b"a" * 301 + b"/ HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: line\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"A: b\r\n" * 100_000, 431),
        (b"GET /faulty HTTP/1.1\r\n\r\n", 500),
    ],
)
def test_each_request_gets_its_status_and_the_next_is_answered(request_octets: bytes, status: int) -> None:
    async def test(port: int) -> None:
        response = await exchange(port, request_octets)
        assert response.startswith(f"HTTP/1.1 {status} ".encode())
        await assert_still_answering(port)

    serving(test)


def test_head_gets_the_headers_alone() -> None:
    async def test(port: int) -> None:
        head = await exchange(port, b"HEAD / HTTP/1.1\r\n\r\n")
        assert f"Content-Length: {len(BODY)}".encode() in head
        assert head.endswith(b"\r\n\r\n")

    serving(test)


def test_a_head_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)

    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.2", port)
        writer.write(b"GET / HTTP/1.1\r\n")
        answer = asyncio.create_task(reader.read())
        with contextlib.suppress(ConnectionError):
            while not answer.done():  # an octet at a time, for ever
                writer.write(b"A")
                await asyncio.sleep(0.01)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await assert_still_answering(port)

    serving(test)


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_SECONDS", 0.2)

    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.2", port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\n\r\n")
        await assert_still_answering(port)
        received = 0
        while is_established(writer):  # noqa: ASYNC110  (it is the kernel that knows)
            await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionError):
            while octets := await reader.read(1 << 20):
                received += len(octets)
        assert received < len(LARGE)
        writer.close()
        await assert_still_answering(port)

    serving(test)


def is_established(writer: asyncio.StreamWriter) -> bool:
    """Whether the server's end of the connection still is (proc_net_tcp); ours only knows once it reads."""
    (_, ours), (_, theirs) = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if (local[-4:], remote[-4:]) == (f"{theirs:04X}", f"{ours:04X}"):
            return state == "01"
    return False


@pytest.fixture(scope="module")
def both_sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server and for its clients."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    certified = authority.certify("localhost", "127.0.0.2")
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certified.certificate, certified.key)
    return ours, ssl.create_default_context(cafile=str(authority.path))


LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@LOOPS
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_who_reads_slowly_gets_all_and_the_end(
    monkeypatch: pytest.MonkeyPatch, both_sides: tuple[ssl.SSLContext, ssl.SSLContext], loop: Loop, over_tls: bool
) -> None:
    monkeypatch.setattr(server, "_LINGER_SECONDS", 0.01)
    ours, theirs = both_sides

    def read(port: int) -> bytes:
        """The whole answer, a little at a time; ssl.SSLEOFError if nobody says that it is the whole."""
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.settimeout(10)
            plain.connect(("127.0.0.2", port))
            client: socket.socket = plain
            if over_tls:
                client = theirs.wrap_socket(plain, server_hostname="127.0.0.2", suppress_ragged_eofs=False)
            with client:
                client.sendall(b"GET /zone HTTP/1.1\r\n\r\n")
                received = bytearray()
                while octets := client.recv(8192):
                    received += octets
                    time.sleep(0.003)
            return bytes(received)

    async def test(port: int) -> None:
        answer = await asyncio.to_thread(read, port)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(ZONE)}".encode() in head
        assert len(body) == len(ZONE)
        assert body == ZONE

    serving(test, loop, ours if over_tls else None)


@LOOPS
@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("why", ["client stands still", "server ends"])
def test_a_page_that_is_cut_off_ends_with_a_reset(
    monkeypatch: pytest.MonkeyPatch,
    both_sides: tuple[ssl.SSLContext, ssl.SSLContext],
    loop: Loop,
    over_tls: bool,
    why: str,
) -> None:
    """lua-http takes any other end for that of the page, and Knot Resolver what it has for the zone."""
    monkeypatch.setattr(server, "SEND_SECONDS", 0.2 if why == "client stands still" else 30.0)
    ours, theirs = both_sides

    async def run() -> None:
        http = HttpServer({"/large": large})
        port = free_port("127.0.0.2")
        await http.listen(("127.0.0.2",), port, context=ours if over_tls else None)
        names = {"ssl": theirs, "server_hostname": "127.0.0.2"} if over_tls else {}
        try:
            reader, writer = await asyncio.open_connection("127.0.0.2", port, limit=1024, **names)
            writer.write(b"GET /large HTTP/1.1\r\n\r\n")
            await reader.readexactly(100)
            if why == "server ends":
                http.close()
            else:
                while is_established(writer):  # noqa: ASYNC110  (it is the kernel that knows)
                    await asyncio.sleep(0.01)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.transport.abort()
        finally:
            http.close()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(run(), 20))


@LOOPS
@pytest.mark.parametrize("later", [False, True], ids=["request with the handshake", "request later"])
def test_over_tls_the_page_comes_whenever_the_request_came(
    both_sides: tuple[ssl.SSLContext, ssl.SSLContext], loop: Loop, later: bool
) -> None:
    ours, theirs = both_sides

    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.2", port)
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = theirs.wrap_bio(received, to_send, server_hostname="127.0.0.2")

        async def more() -> None:
            writer.write(to_send.read())
            received.write(await reader.read(65_536))

        async with asyncio.timeout(5):
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await more()
            if later:
                await more()  # its session tickets: the server waits for the request by now
            tls.write(GOOD_REQUEST)
            body = b""
            while not body.endswith(BODY):
                try:
                    body += tls.read()
                except ssl.SSLWantReadError:
                    await more()
        writer.transport.abort()

    serving(test, loop, ours)


def test_over_the_limit_of_connections_the_oldest_goes() -> None:
    async def test(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.2", port) for _ in range(server.MAX_CONNECTIONS)]
        await assert_still_answering(port)

        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(idle[0][0].read(), 2) == b""
        idle[-1][1].write(GOOD_REQUEST)
        assert (await idle[-1][0].read()).endswith(BODY)
        for _, writer in idle:
            writer.close()

    serving(test)


def test_a_flood_of_connections_that_ask_nothing_leaves_it_answering() -> None:
    async def test(port: int) -> None:
        for _ in range(10):
            flood = [await asyncio.open_connection("127.0.0.2", port) for _ in range(50)]
            await assert_still_answering(port)
            for _, writer in flood:
                writer.close()

    serving(test)


def test_an_address_that_cannot_be_bound_is_named() -> None:
    async def run() -> None:
        with pytest.raises(CannotListen, match=r"report\.addresses: 192\.0\.2\.1 port 9353: "):
            await HttpServer({}).listen(("192.0.2.1",), 9353)

    asyncio.run(run())
