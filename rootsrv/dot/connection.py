"""DNS over TLS (RFC 7858): connections as over TCP (rootsrv/server/tcp.py), with a handshake before them."""
# Theory of operation
# -------------------
# A connection is one of rootsrv/server, whose reads and writes go through OpenSSL (libssl.py).  It has no session, and
# costs nothing but its place, until its first octets are there.
#
#   accepted ──first octets──▶ handshake ──Finished──▶ established: all as over TCP
#       │                         │
#       └──── HANDSHAKE_SECONDS ──┴──▶ closed        who has not asked is a newcomer: out before all others (D10)
#
# A handshake costs a hundred times what a query does.  So in a turn those that are established come first, and a few
# handshakes after them; what is left comes again.  Each is charged to its source by the processor time that handshakes
# took lately (rootsrv/admission).

import contextlib
import errno
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence

from rootsrv.answer.responder import Transport
from rootsrv.capture.facts import TransportCode as Told
from rootsrv.capture.messages import MessageWriter
from rootsrv.dot.libssl import READ_OCTETS, Context, TlsFailed, TlsSession, TlsUnavailable
from rootsrv.dot.padding import padded
from rootsrv.server.connection import Connection
from rootsrv.server.counters import Counters
from rootsrv.server.serving import Serving
from rootsrv.server.tcp import Connections, Due, TcpLimits, older_than
from rootsrv.server.turns import Turns

HANDSHAKE_SECONDS = 3.0
"""From the connection to the end of its handshake."""

TURN_HANDSHAKES = 8
"""Of which a step is done in a turn: two or three milliseconds, in which who is established waits."""

_PAUSE_READS = 16
"""Reads of a connection after one behind which there was nothing, until it is looked again."""

EXPECTED_MICROSECONDS = 400
"""Processor time of a handshake until it is known better."""

_SMOOTHING = 16


class PaddedServing(Serving):
    """Responds as ever, and pads what is to be padded."""

    def respond_to(self, octets: bytes, source: bytes, transport: Transport, port: int = 0) -> bytes | None:
        """The response to one request, or None.  Raises nothing, whatever the octets."""
        return padded(octets, super().respond_to(octets, source, transport, port))

    def respond_to_all(
        self, requests: Sequence[bytes], sources: Sequence[bytes], transport: Transport, ports: object = tuple
    ) -> list[bytes | None]:
        """One response or None for each request.  Raises nothing, whatever the octets."""
        return list(map(padded, requests, super().respond_to_all(requests, sources, transport)))


class TlsConnection(Connection):
    """One client's connection."""

    __slots__ = ("_is_at_end", "_is_established", "_session", "_spent_ns", "_tls", "_until_more")

    def __init__(self, connections: "TlsConnections", descriptor: int, source: bytes) -> None:
        super().__init__(connections, descriptor, source)
        self._tls = connections
        self._session: TlsSession | None = None
        self._is_established = False
        self._spent_ns = 0
        self._is_at_end = False
        self._until_more = 0

    @property
    def is_established(self) -> bool:
        """Whether its handshake is over."""
        return self._is_established

    def read(self) -> bytes:
        """What there is to be read, after the handshake."""
        self._check_open()
        session = self._session
        if session is not None and self._is_established:
            return self._read_on(session, session.read())
        began = time.thread_time_ns()
        try:
            return self._shake_hands(session)
        finally:
            self._spent_ns += time.thread_time_ns() - began
            if self._is_established or self.descriptor < 0:
                self._tls.took(self._spent_ns // 1000, completed=self._is_established)

    def _read_on(self, session: TlsSession, octets: bytes) -> bytes:
        """With *octets*, those of a record, the records behind it that are there.

        A client that sends each query in a record of its own gets its answers together.  With one that waits for each
        answer there is nothing behind, so it is not tried again for a while: a try costs a system call.
        """
        if self._until_more:
            self._until_more -= 1
            return octets
        records = [octets]
        size = len(octets)
        try:
            while records[-1] and size < READ_OCTETS:
                records.append(session.read())
                size += len(records[-1])
        except BlockingIOError:
            if len(records) == 1:
                self._until_more = _PAUSE_READS
        self._is_at_end = not records[-1] and len(records) > 1
        return b"".join(records)

    def take(self, octets: bytes) -> bytes | None:
        """As over TCP; the end of what it sends may have come with *octets*."""
        request = super().take(octets)
        if self._is_at_end and self.is_open:  # nothing would wake us for it again
            self._is_at_end = False
            if request is not None:
                self._respond([request])
            self._receive_eof()
            return None
        return request

    def _shake_hands(self, session: TlsSession | None) -> bytes:
        """Go on with the handshake; what comes behind it.  BlockingIOError: nothing yet, or it is over."""
        everybody = self._tls
        context = everybody.context
        wrong = context.wrong_protocols
        try:
            if session is None:
                if everybody.turns.refuses_handshake(self.source, everybody.expected_microseconds):
                    everybody.counters.count_tls("refused")
                    self._over("refused-rate", reset=True)
                    raise BlockingIOError
                session = self._session = context.accept(self.descriptor)
            try:
                octets = session.read()
            except BlockingIOError:
                if not session.is_established:
                    raise
                self._established()
                try:
                    octets = session.read()  # the first query comes right behind
                except BlockingIOError:
                    _acknowledge(self.descriptor)
                    raise
            if not self._is_established:
                self._established()
        except (TlsFailed, TlsUnavailable):
            if self._is_established:
                raise
            everybody.counters.count_tls("wrong-protocol" if context.wrong_protocols > wrong else "failed")
            self._over("closed-handshake")
            raise BlockingIOError from None
        return octets

    def _established(self) -> None:
        self._is_established = True
        self._tls.established(self)

    def write(self, octets: bytes | bytearray) -> int:
        """Write what there is room for; how much that was."""
        self._check_open()
        assert self._session is not None
        return self._session.write(octets)

    def _check_open(self) -> None:
        """What the kernel says over TCP: it may have gone for another one while its event waited for its turn."""
        if self.descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _close(self, descriptor: int, *, reset: bool) -> None:
        if self._session is not None:
            self._session.end(politely=not reset)
            self._session = None
        super()._close(descriptor, reset=reset)


def _acknowledge(descriptor: int) -> None:
    """Have the kernel acknowledge at once what came.

    Without tickets nothing of ours follows the client's Finished; one that has not set TCP_NODELAY waits with its query
    until that is acknowledged, which the kernel would do only 40 ms later.
    """
    connection = socket.socket(fileno=descriptor)
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    connection.detach()


class TlsConnections(Connections):
    """All connections of the process."""

    told_as = Told.TLS
    accepts = 16

    def __init__(
        self,
        turns: Turns,
        counters: Counters,
        limits: TcpLimits,
        context: Context,
        told: MessageWriter | None = None,
    ) -> None:
        """*context*: what those that come are shown; it may be replaced at any time."""
        super().__init__(turns, counters, limits, told)
        self.context = context
        self.expected_microseconds = EXPECTED_MICROSECONDS
        """What a handshake takes, lately."""

        self._handshakes: OrderedDict[Connection, float] = OrderedDict()

    def _new_connection(self, descriptor: int, source: bytes) -> TlsConnection:
        return TlsConnection(self, descriptor, source)

    def _begin(self, connections: list[Connection]) -> None:
        self._handshakes.update(dict.fromkeys(connections, self.now))

    def _read_from(self, connections: Sequence[Connection]) -> Sequence[bytes | OSError]:
        read: list[bytes | OSError] = []
        left = READ_OCTETS
        for connection in connections:
            try:
                octets = connection.read()
                read.append(octets)
                left -= len(octets)
            except OSError as error:
                read.append(error.with_traceback(None))  # as in server/in_step.py
            except Exception as error:
                self.end_for_fault(connection, error)
                read.append(BlockingIOError())
            if left <= 0:
                break
        return read

    def _write_to(self, connections: Sequence[Connection], octets: Sequence[bytes]) -> Sequence[int | OSError]:
        written: list[int | OSError] = []
        for connection, each in zip(connections, octets, strict=True):
            try:
                written.append(connection.write(each))
            except OSError as error:
                written.append(error.with_traceback(None))
            except Exception as error:
                self.end_for_fault(connection, error)
                written.append(len(each))
        return written

    def _in_order(self, due: list[Due]) -> list[Due]:
        first: list[Due] = []
        handshakes: list[Due] = []
        for each in due:
            is_handshake = isinstance(each[0], TlsConnection) and not each[0].is_established
            (handshakes if is_handshake else first).append(each)
        return first + handshakes[:TURN_HANDSHAKES]

    def took(self, microseconds: int, *, completed: bool) -> None:
        """A handshake that is over took so much processor time."""
        self.counters.count_tls("microseconds", microseconds)
        if completed:
            self.expected_microseconds += (microseconds - self.expected_microseconds) // _SMOOTHING

    def established(self, connection: TlsConnection) -> None:
        """The handshake of *connection* is over."""
        self._handshakes.pop(connection, None)
        self.counters.count_tls("handshakes")

    def _forget(self, connection: Connection) -> None:
        super()._forget(connection)
        self._handshakes.pop(connection, None)

    def tick(self) -> None:
        """Close what is over its time; called a few times a second."""
        for connection in older_than(self._handshakes, time.monotonic() - HANDSHAKE_SECONDS):
            self.counters.count_tls("late")
            connection.abort("closed-handshake")
        super().tick()
