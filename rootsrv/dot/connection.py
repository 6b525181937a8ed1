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
from itertools import takewhile
from operator import attrgetter

from rootsrv.answer.responder import Transport
from rootsrv.capture.facts import TransportCode
from rootsrv.capture.messages import MessageWriter
from rootsrv.dot.libssl import (
    RECORD_OCTETS,
    STEP_SESSIONS,
    Context,
    TlsFailed,
    TlsSession,
    read_each,
    write_each,
)
from rootsrv.dot.padding import padded
from rootsrv.server.connection import FEW_OCTETS, LENGTHS, READ_OCTETS, Connection
from rootsrv.server.counters import Counters
from rootsrv.server.in_step import call_for_each
from rootsrv.server.serving import Serving
from rootsrv.server.tcp import Connections, Due, TcpLimits, older_than
from rootsrv.server.turns import Turns

HANDSHAKE_SECONDS = 3.0
"""From the connection to the end of its handshake."""

TURN_HANDSHAKES = 8
"""Of which a step is done in a turn: two or three milliseconds, in which who is established waits."""

EXPECTED_MICROSECONDS = 400
"""Processor time of a handshake until it is known better."""

_SMOOTHING = 16

_HEAD_OCTETS = 5  # of a record: its type, version and length (RFC 8446 §5.1)
_APPLICATION_DATA = 23


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

    __slots__ = ("_begun", "_spent_ns", "_tls", "session")

    def __init__(self, connections: "TlsConnections", descriptor: int, source: bytes) -> None:
        super().__init__(connections, descriptor, source)
        self._tls = connections
        self._begun: TlsSession | None = None
        self._spent_ns = 0
        self.session: TlsSession | None = None
        """None before its handshake is over, and when it is closed."""

    @property
    def is_established(self) -> bool:
        """Whether its handshake is over."""
        return self.session is not None

    def read(self) -> bytes:
        """What there is to be read, after the handshake."""
        self._check_open()
        if self.session is not None:
            return self.plain(super().read())
        began = time.thread_time_ns()
        try:
            return self._shake_hands()
        finally:
            self._spent_ns += time.thread_time_ns() - began
            if self.session is not None or self.descriptor < 0:
                self._tls.took(self._spent_ns // 1000, completed=self.session is not None)

    def plain(self, octets: bytes) -> bytes:
        """The plain text of *octets*, which were read after the handshake; b"" at its end.

        BlockingIOError: there is none in them.
        """
        session = self.session
        assert session is not None
        if not octets:
            return octets
        plain = session.read(octets)
        if not plain and not session.is_at_end:
            raise BlockingIOError
        return plain

    def receive(self) -> None:
        """As over TCP; the end of what it sends may have come with the rest: nothing would wake us for it again."""
        if self.session is not None:
            try:
                octets = os.read(self.descriptor, READ_OCTETS)
            except OSError as error:
                self.cannot_read(error)
                return
            self.receive_these(octets)
            return
        super().receive()
        if (session := self.session) is not None and session.is_at_end:
            self._receive_eof()

    def receive_these(self, octets: bytes) -> None:
        """`receive`, after the handshake, where *octets* have been read already."""
        session = self.session
        assert session is not None
        try:
            plain = self.plain(octets)
        except OSError as error:
            self.cannot_read(error)
            return
        request = self.take(plain)
        if request is not None:
            self._respond_to_one(request)
        self.sends_much = len(octets) >= FEW_OCTETS
        if session.is_at_end and self.is_open:
            self._receive_eof()

    def _shake_hands(self) -> bytes:
        """Go on with the handshake; what comes behind it.  BlockingIOError: nothing yet, or it is over."""
        everybody = self._tls
        context = everybody.context
        wrong = context.wrong_protocols
        try:
            session = self._begun
            if session is None:
                if everybody.turns.refuses_handshake(self.source, everybody.expected_microseconds):
                    everybody.counters.count_tls("refused")
                    self._over("refused-rate", reset=True)
                    raise BlockingIOError
                session = self._begun = context.accept(self.descriptor)
            octets = os.read(self.descriptor, READ_OCTETS)
            if not octets:
                raise TlsFailed(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            plain = session.read(octets)
            if not session.is_established:
                raise BlockingIOError
        except BlockingIOError:
            raise
        except OSError:
            everybody.counters.count_tls("wrong-protocol" if context.wrong_protocols > wrong else "failed")
            self._over("closed-handshake")
            raise BlockingIOError from None
        self.session = session
        everybody.established(self)
        if plain or session.is_at_end:
            return plain
        try:
            return self.plain(os.read(self.descriptor, READ_OCTETS))  # the first query comes right behind
        except BlockingIOError:
            _acknowledge(self.descriptor)
            raise

    def write(self, octets: bytes | bytearray) -> int:
        """Write what there is room for; how much that was."""
        self._check_open()
        assert self.session is not None
        return self.session.write(octets)

    def _check_open(self) -> None:
        """What the kernel says over TCP: it may have gone for another one while its event waited for its turn."""
        if self.descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _close(self, descriptor: int, *, reset: bool) -> None:
        session, self._begun, self.session = self._begun, None, None
        if session is not None:
            session.end(politely=not reset)
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

    told_as = TransportCode.TLS
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
        together = _sessions_of(connections)
        if together:
            return self._read_together(connections[: len(together)], together)
        # Handshakes come last.
        for connection in connections:
            self._receive(connection)
        return [BlockingIOError()] * len(connections)

    def _read_together(
        self, connections: Sequence[Connection], sessions: Sequence[TlsSession]
    ) -> Sequence[bytes | OSError]:
        """What came from each; where that is more or less than one record it is answered at once, by itself."""
        read = call_for_each(os.read, [each.descriptor for each in connections], [FEW_OCTETS] * len(connections))
        whole: list[int] = []
        for number, octets in enumerate(read):
            if not isinstance(octets, bytes) or not octets:
                continue
            size = len(octets) - _HEAD_OCTETS
            if size > 0 and octets[0] == _APPLICATION_DATA and octets[3:_HEAD_OCTETS] == LENGTHS[size]:
                whole.append(number)
            else:
                connection = connections[number]
                read[number] = BlockingIOError()
                try:
                    connection.receive_these(octets)  # type: ignore[attr-defined]
                except Exception as error:
                    self.end_for_fault(connection, error)
        if len(whole) == len(read):  # and nothing was done since
            return read_each(sessions, read)  # type: ignore[arg-type]
        # What was answered may have cost another one its place.
        whole = [number for number in whole if connections[number].is_open]
        plain = read_each([sessions[number] for number in whole], [read[number] for number in whole])  # type: ignore[misc]
        for number, each in zip(whole, plain, strict=True):
            read[number] = each
        return read

    def _write_to(self, connections: Sequence[Connection], octets: Sequence[bytes]) -> Sequence[int | OSError]:
        sessions = _sessions_of(connections)
        if len(sessions) == len(connections) and max(map(len, octets), default=0) <= RECORD_OCTETS:
            return write_each(sessions, octets)
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
        # From now on it is as one that has just come: half handshakes that came after it are older, and go before it.
        if connection in self._newcomers.since:
            self._newcomers.discard(connection, connection.source)
            self._newcomers.add(connection, connection.source, self.now)
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


_session_of = attrgetter("session")


def _sessions_of(connections: Sequence[Connection]) -> list[TlsSession]:
    """The sessions of the first of *connections*: of those whose handshake is over."""
    return [*takewhile(bool, map(_session_of, connections[:STEP_SESSIONS]))]
