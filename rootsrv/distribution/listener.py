"""The sockets of the administrative interface: UDP, TCP and TLS (RFC 9103) at `[admin] addresses`."""

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Any

from rootsrv.config.checks import plain_address
from rootsrv.config.zones import AdminConfig
from rootsrv.distribution.requests import Asker, Requests
from rootsrv.distribution.tls import DOT, alpn_of, server_context
from rootsrv.process import log

MAX_DATAGRAMS_PENDING = 256
"""UDP requests that wait for an answer; beyond it new ones are dropped: whoever floods gets silence."""


class CannotListen(Exception):
    """An administrative address cannot be bound."""


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
    """Listens on the administrative addresses and has `requests` answer."""

    def __init__(self, config: AdminConfig, requests: Requests) -> None:
        self.config = config
        self.requests = requests
        self.connections = 0
        self._datagrams: list[asyncio.BaseTransport] = []
        self._servers: list[asyncio.Server] = []
        self._conversations: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Bind all addresses; CannotListen names the first that cannot be bound."""
        tls = self._tls_context() if self.config.tls_certificate else None
        loop = asyncio.get_running_loop()
        try:
            for address in self.config.addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), local_addr=(address, self.config.port), family=family
                )
                self._datagrams.append(transport)
                for port, context in ((self.config.port, None), (self.config.tls_port, tls)):
                    if port == self.config.port or context is not None:
                        server = await asyncio.start_server(
                            self._converse, address, port, ssl=context, family=family, limit=1 << 16
                        )
                        self._servers.append(server)
        except OSError as error:
            await self.close()
            raise CannotListen(f"admin.addresses: {address}: {error.strerror or error}") from error
        if self.config.addresses:
            log.event("administrative interface", addresses=",".join(self.config.addresses), port=self.config.port)

    def _tls_context(self) -> ssl.SSLContext:
        config = self.config
        return server_context(
            "admin.tls_certificate", config.tls_certificate, config.tls_key, client_ca=config.tls_client_ca
        )

    async def close(self) -> None:
        """Stop listening and end all conversations."""
        for transport in self._datagrams:
            transport.close()
        for server in self._servers:
            server.close()
        for task in self._conversations:
            task.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        self._datagrams, self._servers = [], []

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            if len(self._conversations) > self.config.max_connections:
                return
            tls = writer.get_extra_info("ssl_object")
            alpn = DOT if tls is None else alpn_of(tls)
            peer = writer.get_extra_info("peername")
            address = plain_address(peer[0])
            if alpn not in {DOT, ""}:  # RFC 9103 §7.1; an absent one is the peer's affair, who is not known yet
                self.requests.security.note("request_refused", address, f"TLS with the protocol {alpn!r}")
                return
            asker = Asker(address, over_tcp=True, tls_names=_certified_names(writer), alpn_missing=not alpn)
            while True:
                async with asyncio.timeout(self.config.idle_seconds):
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    octets = await reader.readexactly(size)
                async with contextlib.aclosing(self.requests.answer(octets, asker)) as messages:
                    async for parts in messages:
                        writer.writelines((sum(map(len, parts)).to_bytes(2, "big"), *parts))
                        if writer.transport.get_write_buffer_size():
                            async with asyncio.timeout(self.config.idle_seconds):
                                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError):
            pass  # gone, idle, or too slow to take what it asked for
        finally:
            self._conversations.discard(task)
            writer.transport.abort()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


def _certified_names(writer: asyncio.StreamWriter) -> frozenset[str]:
    """The DNS names of a client certificate that OpenSSL verified."""
    certificate = writer.get_extra_info("peercert")
    if not certificate:
        return frozenset()
    return frozenset(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS")
