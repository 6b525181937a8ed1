"""HTTP/1.1 for people who watch: GET and HEAD of a few pages made in memory, one request per connection.

Nothing comes from a disk, so there is no path to escape from.
"""
# Limits, each against one way to hold the server up:
#
#   MAX_HEAD_OCTETS    huge headers                     → 431
#   HEAD_SECONDS       a head that never ends           → 408
#   SEND_SECONDS       a client that does not read      → reset; for each SEND_OCTETS
#   connections        many of them                     → one goes that has asked nothing (process/places.py)

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from rootsrv.process import held_back
from rootsrv.process.accepting import ProtocolServer, conversing
from rootsrv.process.places import NoPlace, Places
from rootsrv.process.troubles import Troubles

MAX_HEAD_OCTETS = 8192
HEAD_SECONDS = 5.0
SEND_SECONDS = 10.0
SEND_OCTETS = 65_536
MAX_CONNECTIONS = 32

_LINGER_SECONDS = 1.0
_LINGER_OCTETS = 1 << 20

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for no time (socket(7))."""

_LEFT_PARTS = 3
"""How many SEND_OCTETS may be left, over TLS, when the last part has been taken: that part, and what lies below TLS."""

# The target in origin form or, as proxies and some libraries send it, in absolute form, which a server must accept
# (RFC 9112 §3.2.2); what its authority is does not matter: all pages are ours.
_REQUEST_LINE = re.compile(
    rb"(?P<method>[A-Z]{1,16}) (?:(?i:https?)://[^/?#\x00-\x20\x7f-\xff]{1,300}(?=[/? ]))?"
    rb"(?P<path>/[!-~]{0,2000})?(?P<query>\?[!-~]{0,2000})? HTTP/1\.[01]\r\n"
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a page may depend on."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""

    method: str = "GET"
    """GET or HEAD."""


@dataclass(frozen=True, slots=True)
class Response:
    """A page."""

    body: bytes
    content_type: str
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    """Besides, or in place of, those that every page has."""


Page = Callable[[Request], Awaitable[Response]]


class CannotListen(Exception):
    """An address cannot be bound; the text names it."""


class HttpServer:
    """Serves *pages* (path → page; a path that ends in a slash stands for all that is right below it)."""

    def __init__(self, pages: Mapping[str, Page], connections: int = MAX_CONNECTIONS) -> None:
        """*pages* may be changed while we run; *connections*: at a time."""
        self._pages = pages
        self._open: Places[asyncio.StreamWriter] = Places(connections)
        self._unsent: set[asyncio.StreamWriter] = set()
        """Those whose page has not been sent to its end."""

        self._servers: list[ProtocolServer] = []
        self._unaccepted = Troubles("http connection is not accepted", "http connections are accepted again")
        self._failing = Troubles("page failed")

    async def listen(
        self,
        addresses: tuple[str, ...],
        port: int,
        *,
        context: ssl.SSLContext | None = None,
        key: str = "report.addresses",
    ) -> None:
        """Answer on *addresses*, over TLS with *context*; CannotListen, with nothing left open, if one cannot be bound.

        *key*: where that stands in the configuration.
        """
        tls: dict[str, Any] = {}
        if context is not None:
            tls = {
                "ssl": context,
                "ssl_handshake_timeout": HEAD_SECONDS,
                "ssl_shutdown_timeout": _LEFT_PARTS * SEND_SECONDS,
            }
        for address in addresses:
            try:
                listening = held_back.bound(address, port, socket.SOCK_STREAM)
                # Without it, what one client has not been sent grows to megabytes in the kernel, and another third of
                # them must go before we see that he reads.
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, SEND_OCTETS)
                make = conversing(self._connected, limit=MAX_HEAD_OCTETS)
                server = ProtocolServer(listening, make, self._unaccepted, **tls)
            except OSError as error:
                self.close()
                raise CannotListen(f"{key}: {address} port {port}: {error.strerror or error}") from error
            self._servers.append(server)

    def close(self) -> None:
        """Listen no more and cut off whoever is connected."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for writer in self._open:
            self._cut_off(writer)

    def _cut_off(self, writer: asyncio.StreamWriter) -> None:
        """End the connection; who has not got his page yet sees a reset, since some take any other end for its end."""
        connection = writer.get_extra_info("socket")  # None once it is closed
        if writer in self._unsent and connection is not None:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._unsent.add(writer)
        try:
            peer = writer.get_extra_info("peername")
            if peer is not None and (ended := self._open.take(writer, peer[0])) is not None:
                self._cut_off(ended)
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, NoPlace):
            pass  # the client is gone, or does not read
        finally:
            self._open.leave(writer)
            self._cut_off(writer)
            self._unsent.discard(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over_tls = not writer.can_write_eof()
        # So that drain() waits until all is on its way.  Over TLS, with 0, an empty buffer counts as full every second
        # time that somebody looks (asyncio/sslproto.py and uvloop's alike), and drain() waits for what never comes.
        writer.transport.set_write_buffer_limits(high=int(over_tls), low=0)
        head_only = False
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            response = _error(HTTPStatus.REQUEST_TIMEOUT)
        except asyncio.LimitOverrunError:
            response = _error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self._open.has_asked(writer)
            head_only = head.startswith(b"HEAD ")
            response = await self._respond(head)
        body = memoryview(b"" if head_only else response.body)
        # Some clients take a connection that ends behind the head for an empty page: both are sent at once.
        first = memoryview(_head(response) + body[:SEND_OCTETS])
        for part in (first, *(body[at : at + SEND_OCTETS] for at in range(SEND_OCTETS, len(body), SEND_OCTETS))):
            async with asyncio.timeout(SEND_SECONDS):
                writer.write(part)
                await writer.drain()
        if over_tls:
            # What lies below TLS is not with the kernel yet; it is sent, and that it is the end, before it is closed.
            writer.close()
            async with asyncio.timeout(_LEFT_PARTS * SEND_SECONDS):
                await writer.wait_closed()
            return
        writer.write_eof()
        self._unsent.discard(writer)
        # Closing while octets of the client wait unread would reset the connection before it has read the response.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                left = _LINGER_OCTETS
                while left > 0 and (octets := await reader.read(MAX_HEAD_OCTETS)):
                    left -= len(octets)

    async def _respond(self, head: bytes) -> Response:
        line = _REQUEST_LINE.match(head)
        if line is None or (line["path"] is None and b"://" not in line[0]):
            return _error(HTTPStatus.BAD_REQUEST)
        if line["method"] not in (b"GET", b"HEAD"):
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        path = (line["path"] or b"/").decode().partition("?")[0]
        below = path[: path.rfind("/") + 1]
        page = self._pages.get(path) or (self._pages.get(below) if below != "/" else None)
        if page is None:
            return _error(HTTPStatus.NOT_FOUND)
        headers = {}
        for each in head[line.end() : -4].decode("latin-1").split("\r\n"):
            name, colon, value = each.partition(":")
            if each and (not colon or not name or name != name.strip()):
                return _error(HTTPStatus.BAD_REQUEST)
            headers[name.lower()] = value.strip()
        try:
            return await page(Request(path, headers, line["method"].decode()))
        except Exception as error:
            # Whoever asks next shall be answered; the person who asked sees that it is our fault.
            self._failing.raised(error, path=path)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR)


def _error(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    return Response(f"{status.value} {status.phrase}\n".encode(), "text/plain; charset=utf-8", status, headers or {})


def _head(response: Response) -> bytes:
    """Status line and headers."""
    headers = {
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    if response.status is HTTPStatus.NOT_MODIFIED:
        del headers["Content-Length"], headers["Content-Type"]  # those of the page that is not sent (RFC 9110 §15.4.5)
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in (headers | dict(response.headers)).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
