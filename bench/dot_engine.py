"""DNS over TLS by one of three engines, around the same responder, with nothing counted: what `bench dot` compares.

python -m bench.dot_engine ENGINE PORT TABLE: `libssl` is that of rootsrv/dot, `bio` the same with Python's `ssl` and
two memory BIOs per connection, `uvloop` asyncio's streams.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from cryptography.x509 import load_der_x509_certificate

from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.dot import certificate
from rootsrv.dot.connection import TlsConnections
from rootsrv.dot.libssl import Context
from rootsrv.server.connection import READ_OCTETS, Connection
from rootsrv.server.tcp import TcpLimits

ENGINES = ("libssl", "bio", "uvloop")


class _Turns:
    """Answers, and counts nothing."""

    woken_at = 0

    def __init__(self, responder: Responder) -> None:
        self._respond = responder.respond

    def begin_here(self) -> None:
        """Nothing."""

    end = begin_here

    def refuses_connection(self, source: bytes) -> bool:
        """Nobody is refused."""
        return False

    def refuses_handshake(self, source: bytes, microseconds: int) -> bool:
        """Nobody is refused."""
        return False

    def respond(self, path: int, octets: bytes, source: bytes, transport: Transport) -> bytes | None:
        """The response to one message."""
        return self._respond(octets, source, transport, 0.0)

    def respond_to_all(
        self, path: int, requests: list[bytes], sources: Sequence[bytes], transport: Transport
    ) -> list[bytes | None]:
        """The responses to many messages, each with its source."""
        return [self._respond(*each, transport, 0.0) for each in zip(requests, sources, strict=True)]


class _Counters:
    def count_tcp(self, name: str, amount: int = 1) -> None:
        """Nothing."""

    count_tls = count_tcp

    def count_fault(self) -> None:
        """Nothing."""


class _BioContext:
    """What Context is, by Python's `ssl`."""

    wrong_protocols = 0

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def accept(self, descriptor: int) -> "_BioSession":
        """TLS on *descriptor*."""
        return _BioSession(self._context, descriptor)


class _BioSession:
    """What Session is: octets go through two BIOs, and are read and written here."""

    is_at_end = False

    def __init__(self, context: ssl.SSLContext, descriptor: int) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._descriptor = descriptor
        self.is_established = False

    def read(self, octets: bytes) -> bytes:
        """The plain text of all records there are: nothing would wake us for those that stay in the BIO."""
        self._in.write(octets)
        plain: list[bytes] = []
        with contextlib.suppress(ssl.SSLWantReadError):
            if not self.is_established:
                self._tls.do_handshake()
                self.is_established = True
            while True:
                plain.append(self._tls.read(READ_OCTETS))
                if not plain[-1]:
                    self.is_at_end = True
                    break
        if self._out.pending:
            os.write(self._descriptor, self._out.read())
        return b"".join(plain)

    def write(self, octets: bytes) -> int:
        """All of it: nobody is slow here."""
        sent = self._tls.write(octets)
        os.write(self._descriptor, self._out.read())
        return sent

    def end(self, *, politely: bool) -> None:
        """Nothing: it is collected."""


class _BioConnections(TlsConnections):
    """Each session by itself: the calls for many at once are libssl's."""

    def _read_together(self, connections: Sequence[Connection], sessions: object) -> Sequence[bytes | OSError]:
        for connection in connections:
            self._receive(connection)
        return [BlockingIOError()] * len(connections)

    def _write_to(self, connections: Sequence[Connection], octets: Sequence[bytes]) -> Sequence[int | OSError]:
        return [connection.write(each) for connection, each in zip(connections, octets, strict=True)]


async def _serve_uvloop(port: int, context: ssl.SSLContext, responder: Responder) -> None:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                octets = await reader.readexactly(size)
                response = responder.respond(octets, b"\x7f\0\0\1", Transport.TCP, 0.0)
                if response is not None:
                    writer.write(len(response).to_bytes(2, "big") + response)
        except (EOFError, ConnectionError, ssl.SSLError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", port, ssl=context, backlog=1024)
    await server.serve_forever()


async def _serve(engine: str, port: int, responder: Responder) -> None:
    shown = certificate.make("bench", ["127.0.0.1"], time.time())
    if engine == "libssl":
        context: Any = Context(shown.chain, shown.key)
    else:
        plain = _python_context(shown)
        if engine == "uvloop":
            await _serve_uvloop(port, plain, responder)
            return
        context = _BioContext(plain)
    turns: Any = _Turns(responder)
    counters: Any = _Counters()
    serving = TlsConnections if engine == "libssl" else _BioConnections
    connections = serving(turns, counters, TcpLimits(1000, 1000, 60.0), context)
    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connections.listen([listening])
    asyncio.get_running_loop().add_reader(connections.fileno(), connections.on_readable)
    while True:
        connections.tick()
        await asyncio.sleep(0.1)


def _python_context(shown: certificate.Shown) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.set_alpn_protocols(["dot"])
    key = load_der_private_key(shown.key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with tempfile.NamedTemporaryFile() as file:
        file.write(key + load_der_x509_certificate(shown.chain[0]).public_bytes(Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def main() -> None:
    """Serve until killed."""
    engine, port, table = sys.argv[1:]
    responder = Responder(AnswerTable(Path(table).read_bytes()), ResponderSettings())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(engine, int(port), responder))


if __name__ == "__main__":
    main()
