"""The sockets of the administrative interface: UDP, TCP and TLS (RFC 9103) at `[admin] addresses`.

Those of a server for one host are the same, at other addresses (hyperlocal).
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Protocol

from rootsrv.config.checks import ConfigError, plain_address
from rootsrv.config.zones import AdminConfig
from rootsrv.distribution.requests import Asker, Batch
from rootsrv.distribution.streams import UNSENT_OCTETS, MessageStream, TcpStream, TlsStream
from rootsrv.distribution.tls import DOT, alpn_of, server_context
from rootsrv.process import held_back, log
from rootsrv.process.accepting import Accepting
from rootsrv.process.descriptors import left_beside, raise_limit
from rootsrv.process.places import NoPlace, Places
from rootsrv.process.security import SecurityEvents
from rootsrv.process.troubles import Troubles

RESERVED_DESCRIPTORS = 256
"""What connections leave of the open files that are allowed: to tables, zones, primaries and the control socket."""

MAX_DATAGRAMS_PENDING = 256
"""UDP requests that wait for an answer; beyond it new ones are dropped: whoever floods gets silence."""

Converse = Callable[[socket.socket, str], Coroutine[Any, Any, None]]
"""With a client, whose address is told, over a connection."""


class AdminCannotListen(Exception):
    """An administrative address cannot be bound."""


def tls_context(config: AdminConfig, key: str = "admin.tls_certificate") -> ssl.SSLContext | None:
    """What is configured for transfers over TLS; None for nothing.  ConfigError, at *key*, when it cannot be read."""
    if not config.tls_certificate:
        return None
    return server_context(key, config.tls_certificate, config.tls_key, client_ca=config.tls_client_ca)


class Answers(Protocol):
    """Who answers."""

    security: SecurityEvents

    def answer(self, octets: bytes, asker: Asker) -> AsyncGenerator[Batch, None]:
        """All messages of the response to *octets*; none if it deserves none."""
        ...


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._transport: asyncio.DatagramTransport | None = None
        self._pending: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if len(self._pending) >= MAX_DATAGRAMS_PENDING or addr[1] == 0:
            return
        task = asyncio.get_running_loop().create_task(self._answer(data, addr))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _answer(self, data: bytes, addr: tuple[Any, ...]) -> None:
        asker = Asker(plain_address(addr[0]), over_tcp=False)
        async for batch in self._listener.requests.answer(data, asker):
            if self._transport is not None and not self._transport.is_closing():
                for parts in batch:
                    self._transport.sendto(b"".join(parts), addr)


class Listener:
    """Listens on the addresses of *config* and has *requests* answer."""

    def __init__(
        self,
        config: AdminConfig,
        requests: Answers,
        *,
        key: str = "admin.addresses",
        called: str = "administrative interface",
    ) -> None:
        """*key*: where the addresses stand in the configuration; *called*: what the log says listens there."""
        self.config = config
        self.requests = requests
        self.lacks = ""
        """Why nothing listens for TLS although it is configured; empty = all is well."""

        self._tls: ssl.SSLContext | None = None
        self._key = key
        self._called = called
        self.max_connections = min(config.max_connections, left_beside(raise_limit(), RESERVED_DESCRIPTORS))
        self._places: Places[asyncio.Task[None]] = Places(self.max_connections)
        self._datagrams: list[asyncio.BaseTransport] = []
        self._accepting: list[Accepting] = []
        self._conversations: dict[asyncio.Task[None], socket.socket] = {}
        self._unaccepted = Troubles(
            "administrative connection is not accepted", "administrative connections are accepted again"
        )

    async def start(self, *, without_tls_if_need_be: bool = False) -> None:
        """Bind all addresses; CannotListen names the first that cannot be bound.

        ConfigError when certificates cannot be read; or they are left out, and `lacks` says why.
        """
        before, self.lacks = self.lacks, ""  # told once, however often it is tried again
        try:
            tls = self._tls = self._context()
        except ConfigError as error:
            if not without_tls_if_need_be:
                raise
            tls, self.lacks = None, str(error)
            if self.lacks != before:
                log.alarm("no transfers over TLS", reason=error)
        loop = asyncio.get_running_loop()
        try:
            for address in self.config.addresses:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), sock=held_back.bound(address, self.config.port, socket.SOCK_DGRAM)
                )
                self._datagrams.append(transport)
                for port, over_tls in ((self.config.port, False), (self.config.tls_port, True)):
                    if not over_tls or tls is not None:
                        listening = held_back.bound(address, port, socket.SOCK_STREAM)
                        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_OCTETS)
                        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        take = self._take_over_tls if over_tls else self._take_plain
                        self._accepting.append(Accepting(listening, take, self._unaccepted))
        except OSError as error:
            await self.close()
            raise AdminCannotListen(f"{self._key}: {address}: {error.strerror or error}") from error
        if self.config.addresses and (not self.lacks or self.lacks != before):
            log.event(self._called, addresses=",".join(self.config.addresses), port=self.config.port)

    def _context(self) -> ssl.SSLContext | None:
        return tls_context(self.config, f"{self._key.partition('.')[0]}.tls_certificate")

    def reload_certificate(self) -> None:
        """Show new clients what the files hold now.  ConfigError when they cannot be read; nothing has changed then."""
        if self._tls is not None:
            self._tls = self._context()

    async def close(self) -> None:
        """Stop listening and end all conversations."""
        for transport in self._datagrams:
            transport.close()
        for accepting in self._accepting:
            accepting.close()
        self._datagrams, self._accepting = [], []
        tasks = list(self._conversations)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Each is counted as soon as it is there: a server of asyncio's tells of a connection only after its handshake, so
    # that nobody would count who never begins.

    def _take_plain(self, connection: socket.socket, client: tuple[Any, ...]) -> None:
        self._take(connection, client[0], self._plain)

    def _take_over_tls(self, connection: socket.socket, client: tuple[Any, ...]) -> None:
        self._take(connection, client[0], self._over_tls)

    def _take(self, connection: socket.socket, client: str, converse: Converse) -> None:
        task = asyncio.get_running_loop().create_task(converse(connection, client))
        try:
            ended = self._places.take(task, client)
        except NoPlace:
            ended = task
            connection.close()
        else:
            self._conversations[task] = connection
            task.add_done_callback(self._gone)
        if ended is not None:
            ended.cancel()

    def _gone(self, conversation: "asyncio.Task[None]") -> None:
        self._places.leave(conversation)
        self._conversations.pop(conversation).close()  # also of one that ended before it began

    async def _plain(self, connection: socket.socket, client: str) -> None:
        stream = TcpStream(connection, self.config.idle_seconds)
        await self._converse(stream, Asker(plain_address(client), over_tcp=True))

    async def _over_tls(self, connection: socket.socket, client: str) -> None:
        assert self._tls is not None
        try:
            stream = await TlsStream.accept(connection, self._tls, self.config.idle_seconds)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):  # ssl.SSLError is one
                return
            raise
        alpn = alpn_of(stream.tls)
        asker = Asker(plain_address(client), True, stream.certified_names, alpn_missing=not alpn, over_tls=True)
        if alpn in {DOT, ""}:  # RFC 9103 §7.1; an absent one is the peer's affair, who is not known yet
            await self._converse(stream, asker)
        else:
            self.requests.security.note("request_refused", asker.address, f"TLS with the protocol {alpn!r}")
            await stream.abort()

    async def _converse(self, stream: MessageStream, asker: Asker) -> None:
        try:
            while True:
                try:
                    octets = await stream.receive()
                except (TimeoutError, EOFError):
                    break  # idle, or it has said that nothing more comes: what it asked for may be on its way
                if (conversation := asyncio.current_task()) is not None:
                    self._places.has_asked(conversation)
                async with contextlib.aclosing(self.requests.answer(octets, asker)) as batches:
                    async for batch in batches:
                        await stream.send(batch)
                await asyncio.sleep(0)  # more may have come already: the others first
            await stream.finish()
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # gone, or too slow to take what it asked for
        finally:
            await stream.abort()
