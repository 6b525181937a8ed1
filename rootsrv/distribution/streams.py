"""Messages over a connection that was accepted (RFC 1035 §4.2.2): from a TCP socket as it is, or over TLS."""
# A whole root is 1.3 MB in two dozen messages, and the kernel takes less than half a millisecond to send them all.
# That is what the event loop's streams take, too, for one connection from its making to its end; so the socket of a
# plain one is read and written directly, and the loop is asked only when there is nothing to read or no room.  TLS goes
# by the loop's streams: what they cost is little beside a handshake.  bench/transfers.py guards this.

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import ssl
import sys
import termios
from collections.abc import Callable
from typing import Any, Protocol

from rootsrv.distribution.requests import Batch, Parts

UNSENT_OCTETS = 262_144
"""How much of what it asked for waits in the kernel for a client; half of it must have gone until there is room."""

LEAST_OCTETS = 32_768
"""Whoever takes less of this in `idle_seconds` is cut off: some minutes for a whole root, with the usual ten."""

LAST_IDLES = 2
"""How many `idle_seconds` a client has, after it was idle for one, to take what was left to send over TLS."""

HANDSHAKE_SECONDS = 10
"""How long a client may take for the TLS handshake."""

_TLS_UNSENT_OCTETS = 65_536
"""How much waits in here as well, encrypted for one client; without a word of ours it would be eight times as much."""

_READ_OCTETS = 4096
"""At a time.  Requests are short, and what was read is moved for each of them."""

_IOV_MAX = 1024  # of Linux, parts in one sendmsg()


def _framed(parts: Parts) -> tuple[bytes, ...]:
    """A message behind its length (RFC 1035 §4.2.2)."""
    return sum(map(len, parts)).to_bytes(2, "big"), *parts


class MessageStream(Protocol):
    """A connection with a client.  OSError when it is broken."""

    async def receive(self) -> bytes:
        """The next message; EOFError when nothing more comes, TimeoutError when it is not there in `idle_seconds`."""
        ...

    async def send(self, batch: Batch) -> None:
        """Hand over the messages of *batch*; TimeoutError when the client takes too little of them."""
        ...

    async def finish(self) -> None:
        """Nothing more is sent; what is still here goes out."""
        ...

    async def abort(self) -> None:
        """Close it at once, whatever it was doing."""
        ...


class TcpStream:
    """A socket that does not block."""

    def __init__(self, connection: socket.socket, idle_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._idle_seconds = idle_seconds
        self._unread = b""

    async def receive(self) -> bytes:
        """See MessageStream."""
        deadline = self._loop.time() + self._idle_seconds
        while (message := self._whole()) is None:
            try:
                octets = self._connection.recv(_READ_OCTETS)
            except BlockingIOError:
                await self._until(self._loop.add_reader, self._loop.remove_reader, deadline)
                continue
            if not octets:
                raise EOFError
            self._unread += octets
        return message

    def _whole(self) -> bytes | None:
        """The first message that was read; None if it is not complete."""
        unread = self._unread
        behind = 2 + int.from_bytes(unread[:2], "big")
        if len(unread) < max(2, behind):
            return None
        self._unread = unread[behind:]
        return unread[2:behind]

    async def send(self, batch: Batch) -> None:
        """See MessageStream."""
        left: list[bytes | memoryview] = []
        for parts in batch:
            left += _framed(parts)
        while left:
            try:
                sent = self._connection.sendmsg(left[:_IOV_MAX])
            except BlockingIOError:
                sent = 0
            at = 0
            for part in left:
                if sent < len(part):
                    break
                sent -= len(part)
                at += 1
            del left[:at]
            if sent:
                left[0] = memoryview(left[0])[sent:]
            if left:
                await self._room()

    async def _room(self) -> None:
        """Wait until some of UNSENT_OCTETS are free; TimeoutError when less than LEAST_OCTETS go in `idle_seconds`."""
        while True:
            waiting = self._waiting_octets()
            try:
                deadline = self._loop.time() + self._idle_seconds
                await self._until(self._loop.add_writer, self._loop.remove_writer, deadline)
                return
            except TimeoutError:
                if waiting - self._waiting_octets() < LEAST_OCTETS:
                    raise

    def _waiting_octets(self) -> int:
        """What the client has not acknowledged (SIOCOUTQ, tcp(7))."""
        return int.from_bytes(fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    async def finish(self) -> None:
        """See MessageStream: the kernel has all, and sends it when the socket is closed, too."""

    async def abort(self) -> None:
        """See MessageStream."""
        self._connection.close()

    async def _until(self, watch: Callable[..., Any], leave: Callable[[Any], Any], deadline: float) -> None:
        """Wait for the socket, TimeoutError at *deadline* (the loop's time)."""
        ready: asyncio.Future[None] = self._loop.create_future()
        watch(self._connection, _settle, ready, None)
        late = self._loop.call_at(deadline, _settle, ready, TimeoutError())
        try:
            await ready
        finally:
            late.cancel()
            leave(self._connection)


def _settle(ready: "asyncio.Future[None]", error: Exception | None) -> None:
    if ready.done():
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)


class TlsStream:
    """A connection over TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle_seconds: float) -> None:
        self._reader, self._writer = reader, writer
        self._idle_seconds = idle_seconds

    @classmethod
    async def accept(cls, connection: socket.socket, context: ssl.SSLContext, idle_seconds: float) -> "TlsStream":
        """Make the handshake; OSError (ssl.SSLError is one) if there is none in HANDSHAKE_SECONDS."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 16)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol,
            connection,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=LAST_IDLES * idle_seconds,
        )
        transport.set_write_buffer_limits(high=_TLS_UNSENT_OCTETS)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop), idle_seconds)

    @property
    def tls(self) -> ssl.SSLObject:
        """What was agreed on."""
        tls: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return tls

    @property
    def certified_names(self) -> frozenset[str]:
        """The DNS names of a client certificate that OpenSSL verified."""
        certificate = self._writer.get_extra_info("peercert") or {}
        return frozenset(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS")

    async def receive(self) -> bytes:
        """See MessageStream."""
        async with asyncio.timeout(self._idle_seconds):
            size = int.from_bytes(await self._reader.readexactly(2), "big")
            return await self._reader.readexactly(size)

    async def send(self, batch: Batch) -> None:
        """See MessageStream."""
        for parts in batch:
            # What is written then is dropped without a word, and whoever is gone would count as one who has the zone.
            if self._writer.transport.is_closing():
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            self._writer.writelines(_framed(parts))
            if self._writer.transport.get_write_buffer_size():
                async with asyncio.timeout(self._idle_seconds):
                    await self._writer.drain()

    async def finish(self) -> None:
        """See MessageStream; it has LAST_IDLES times as long for that."""
        self._writer.close()
        async with asyncio.timeout(LAST_IDLES * self._idle_seconds):
            await self._writer.wait_closed()

    async def abort(self) -> None:
        """See MessageStream."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
