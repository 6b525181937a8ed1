"""HTTP for the pages: uvicorn's, with limits against clients that are slow, silent or many."""
# uvicorn bounds the size of a head and the time between requests, and nothing else:
#
#   HEAD_SECONDS      a head that never ends             → closed
#   SEND_SECONDS      a client that does not read        → aborted
#   MAX_CONNECTIONS   many of them                       → one goes that has asked nothing (process/places.py)
#
# What a body may take is guard.py's.

import asyncio
import contextlib
import functools
import logging
import ssl
from collections.abc import Iterator, Sequence
from socket import SOCK_STREAM, socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from rootsrv.portal.guard import ANSWER_SECONDS
from rootsrv.process import held_back
from rootsrv.process.accepting import ProtocolServer
from rootsrv.process.places import NoPlace, Places
from rootsrv.process.troubles import Troubles

MAX_HEAD_OCTETS = 16_384
HEAD_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 5
SEND_SECONDS = 20.0
MAX_CONNECTIONS = 512


class PortalCannotListen(Exception):
    """An address cannot be bound; the text names it."""


class _Protocol(H11Protocol):
    """One connection."""

    places: Places[asyncio.BaseTransport]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting: asyncio.TimerHandle | None = None
        peer = transport.get_extra_info("peername")
        try:
            ended = self.places.take(transport, peer[0]) if peer else None
        except NoPlace:
            transport.abort()
            return
        if ended is not None:
            ended.abort()  # type: ignore[attr-defined]
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self.places.leave(self.transport)
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_idle = self._is_idle()
        super().data_received(data)
        if self._is_idle():
            # The keep-alive timer went with the first octet; one that trickles in is given as long as the first was.
            if not was_idle or self._waiting is None:
                self._wait(HEAD_SECONDS)
        else:
            self._wait(ANSWER_SECONDS + SEND_SECONDS)
            self.places.has_asked(self.transport)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait(SEND_SECONDS)

    def _is_idle(self) -> bool:
        """Whether a head is waited for."""
        return self.cycle is None or self.cycle.response_complete

    def _wait(self, seconds: float | None) -> None:
        """Until then something must have happened."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(seconds, self.transport.abort) if seconds is not None else None


class _Server(uvicorn.Server):
    """Whoever runs us takes the signals, and connections are taken as everywhere here (process/accepting.py)."""

    _accepting: list[ProtocolServer]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        unaccepted = Troubles("portal connection is not accepted", "portal connections are accepted again")
        protocol: Any = self.config.http_protocol_class
        state = self.lifespan.state
        make_protocol = functools.partial(protocol, self.config, self.server_state, state)
        tls = {"ssl": self.config.ssl} if self.config.ssl else {}
        self.servers = []  # of the loop's there are none
        self._accepting = []
        for each in sockets or ():
            each.listen(self.config.backlog)
            self._accepting.append(ProtocolServer(each, make_protocol, unaccepted, **tls))
        self.started = True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        for each in self._accepting:
            each.close()
        await super().shutdown(sockets)


class PortalServer:
    """Serves *app* until it is told to stop."""

    def __init__(self, app: ASGIApp, context: ssl.SSLContext | None = None) -> None:
        protocol = type("Protocol", (_Protocol,), {"places": Places(MAX_CONNECTIONS)})
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=MAX_HEAD_OCTETS,
        )
        config.load()
        logging.getLogger("uvicorn").setLevel(logging.ERROR)  # strangers can raise its warnings
        config.ssl = context
        self._server = _Server(config)
        self._sockets: list[socket] = []
        self._task: asyncio.Task[Any] | None = None

    def bind(self, addresses: Sequence[str], port: int) -> None:
        """CannotListen, with nothing left open, if one cannot be bound."""
        for address in addresses:
            try:
                self._sockets.append(held_back.bound(address, port, SOCK_STREAM))
            except OSError as error:
                self._close()
                raise PortalCannotListen(
                    f"portal.addresses: {address} port {port}: {error.strerror or error}"
                ) from error

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set; then requests in flight are finished."""
        serving = asyncio.create_task(self._server.serve(self._sockets), name="serve")
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            self._server.should_exit = True
            try:
                await serving
            finally:
                self._close()

    def _close(self) -> None:
        for each in self._sockets:
            each.close()
        self._sockets.clear()
