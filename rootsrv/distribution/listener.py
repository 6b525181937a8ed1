"""The sockets of the administrative interface: UDP, TCP and TLS (RFC 9103) at `[admin] addresses`.

Those of a server for one host are the same, at other addresses (hyperlocal).
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from rootsrv.config.checks import ConfigError, plain_address
from rootsrv.config.zones import AdminConfig
from rootsrv.distribution.requests import Asker, Parts
from rootsrv.distribution.tls import DOT, alpn_of, server_context
from rootsrv.process import held_back, log
from rootsrv.process.descriptors import raise_limit
from rootsrv.process.places import NoPlace, Places
from rootsrv.process.security import SecurityEvents
from rootsrv.process.troubles import Troubles

HANDSHAKE_SECONDS = 10
"""How long a client may take for the TLS handshake."""

RESERVED_DESCRIPTORS = 256
"""What connections leave of the open files that are allowed: to tables, zones, primaries and the control socket."""

UNSENT_OCTETS = 65_536
"""How much of what it asked for waits for a client, in the kernel and again here, before we wait for it to read."""

_LAST_IDLES = 2
"""How many `idle_seconds` a client has, after it was idle for one, to take what it asked for: twice UNSENT_OCTETS."""

_ACCEPT_AGAIN_SECONDS = 1

MAX_DATAGRAMS_PENDING = 256
"""UDP requests that wait for an answer; beyond it new ones are dropped: whoever floods gets silence."""


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

    def answer(self, octets: bytes, asker: Asker) -> AsyncGenerator[Parts, None]:
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
        async for parts in self._listener.requests.answer(data, asker):
            if self._transport is not None and not self._transport.is_closing():
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
        self.max_connections = max(1, min(config.max_connections, raise_limit() - RESERVED_DESCRIPTORS))
        self._places: Places[asyncio.Task[None]] = Places(self.max_connections)
        self._datagrams: list[asyncio.BaseTransport] = []
        self._listening: list[tuple[socket.socket, asyncio.Task[None]]] = []
        self._conversations: set[asyncio.Task[None]] = set()
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
                        accepting = loop.create_task(self._accept(listening, over_tls=over_tls))
                        self._listening.append((listening, accepting))
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
        tasks = [*(accepting for _, accepting in self._listening), *self._conversations]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening, _ in self._listening:
            listening.close()
        self._datagrams, self._listening = [], []

    async def _accept(self, listening: socket.socket, *, over_tls: bool) -> None:
        # A server of asyncio's tells of a connection only after its handshake, so that nobody counts who never begins.
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, client = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor, no memory, or the client has gone
                reason = error.strerror or str(error)
                self._unaccepted.met(reason)
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            self._unaccepted.over()
            task = loop.create_task(self._open(connection, self._tls if over_tls else None))
            try:
                ended = self._places.take(task, client[0])
            except NoPlace:
                ended = task
                connection.close()
            else:
                self._conversations.add(task)
                task.add_done_callback(self._gone)
            if ended is not None:
                ended.cancel()

    def _gone(self, conversation: "asyncio.Task[None]") -> None:
        self._places.leave(conversation)
        self._conversations.discard(conversation)

    async def _open(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 16)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
                ssl_shutdown_timeout=_LAST_IDLES * self.config.idle_seconds if context else None,
            )
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):  # ssl.SSLError is one
                return
            raise
        transport.set_write_buffer_limits(high=UNSENT_OCTETS)  # over TLS it would be eight times as much
        await self._converse(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            tls = writer.get_extra_info("ssl_object")
            alpn = DOT if tls is None else alpn_of(tls)
            peer = writer.get_extra_info("peername")
            address = plain_address(peer[0])
            if alpn not in {DOT, ""}:  # RFC 9103 §7.1; an absent one is the peer's affair, who is not known yet
                self.requests.security.note("request_refused", address, f"TLS with the protocol {alpn!r}")
                return
            asker = Asker(address, True, _certified_names(writer), alpn_missing=not alpn, over_tls=tls is not None)
            while True:
                try:
                    async with asyncio.timeout(self.config.idle_seconds):
                        (size,) = struct.unpack("!H", await reader.readexactly(2))
                        octets = await reader.readexactly(size)
                except (TimeoutError, asyncio.IncompleteReadError):
                    break  # idle, or it has said that nothing more comes: what it asked for may be on its way
                if (conversation := asyncio.current_task()) is not None:
                    self._places.has_asked(conversation)
                async with contextlib.aclosing(self.requests.answer(octets, asker)) as messages:
                    async for parts in messages:
                        writer.writelines((sum(map(len, parts)).to_bytes(2, "big"), *parts))
                        if writer.transport.get_write_buffer_size():
                            async with asyncio.timeout(self.config.idle_seconds):
                                await writer.drain()
            writer.close()
            async with asyncio.timeout(_LAST_IDLES * self.config.idle_seconds):
                await writer.wait_closed()
        except (OSError, TimeoutError, ssl.SSLError, asyncio.CancelledError):
            pass  # gone, or too slow to take what it asked for
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


def _certified_names(writer: asyncio.StreamWriter) -> frozenset[str]:
    """The DNS names of a client certificate that OpenSSL verified."""
    certificate = writer.get_extra_info("peercert")
    if not certificate:
        return frozenset()
    return frozenset(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS")
