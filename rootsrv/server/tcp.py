"""DNS over TCP (RFC 7766, RFC 7828, RFC 9210 §4)."""
# Theory of operation
# -------------------
# A connection is read into one buffer that all share; whole messages in it are answered at once, with one write; what
# is left (part of a message) is kept.  So an idle connection holds no memory to speak of, and a busy one holds at most
# one read, one incomplete message, the transport's write buffer and one step's responses.  Few at a time may hold
# much of a long message: over that number, the one that has done so longest goes.  The page is read and
# responses are counted once per turn of the event loop (turns.py).
#
# Every connection stands in `_by_activity`, oldest first: a dict that is re-inserted into at each query, so the head is
# the one idle longest.  Three things have a time limit, each with a dict ordered by when it began:
#
#   idle         no complete query for idle_seconds                       → closed
#   incomplete   a message that began and does not end (slow loris)       → closed
#   stalled      responses that the client does not read: at the high-water mark we stop reading from it; also what is
#                still unsent when we close                               → aborted
#
# One timer looks at the three heads; nothing is scheduled per message.  Over the total limit the one idle longest goes
# (RFC 9210 §4.1 leaves the choice; D10); over the limit per client (IPv4 address or IPv6 /64) the new one goes.

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import cast

from rootsrv.answer.responder import Transport
from rootsrv.server.counters import Counters
from rootsrv.server.turns import Turns

READ_OCTETS = 16_384
"""Octets read at once: some 300 pipelined queries."""

MAX_MESSAGE_OCTETS = 0xFFFF
"""What two octets of length can say (RFC 1035 §4.2.2): a query may be as long, padded say, and is answered."""

LONG_OCTETS = 4096
"""An incomplete message of which more than this is held is a long one."""

MAX_LONG = 128
"""Connections of one worker that may hold a long message: 8 MB."""


class _Lengths(dict[int, bytes]):
    """The two octets that go before a message of so many (RFC 1035 §4.2.2)."""

    def __missing__(self, size: int) -> bytes:
        self[size] = octets = size.to_bytes(2, "big")
        return octets


_LENGTHS = _Lengths()

STEP_QUERIES = 32
"""Queries answered before the write buffer is looked at: bounds one step's responses to some 40 kB."""

HIGH_WATER_OCTETS = 16_384
"""Unsent octets, beyond what the kernel holds for us, at which we stop reading from a client."""

MAX_STALLED = 200
"""Clients that do not read what they asked for; over it the one longest so is cut off.  They hold some 15 MB."""

INCOMPLETE_SECONDS = 5.0
"""From the first octet of a message to its last."""

STALLED_SECONDS = 10.0
"""From the high-water mark, or from closing, until all but a quarter of it has been read."""


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """How many connections one worker keeps, and for how long."""

    connections: int = 1000
    connections_per_client: int = 100
    idle_seconds: float = 10.0


class Connections:
    """All TCP connections of one worker."""

    def __init__(self, turns: Turns, counters: Counters, limits: TcpLimits) -> None:
        self.turns = turns
        self.counters = counters
        self.limits = limits
        self.read_buffer = memoryview(bytearray(READ_OCTETS))
        self._by_activity: dict[Connection, float] = {}
        self._incomplete: dict[Connection, float] = {}
        self._stalled: dict[Connection, float] = {}
        self._per_client: dict[bytes, int] = {}
        self._long: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._by_activity)

    def new_connection(self) -> "Connection":
        """The protocol of a connection just accepted."""
        return Connection(self)

    def admit(self, connection: "Connection") -> bool:
        """Whether *connection* may stay; over the total limit another one goes for it."""
        client = connection.client
        open_before = self._per_client.get(client, 0)
        if open_before >= self.limits.connections_per_client:
            self.counters.count_tcp("refused-client-limit")
            return False
        if len(self._by_activity) >= self.limits.connections:
            next(iter(self._by_activity)).abort("closed-for-another")
        self._per_client[client] = open_before + 1
        self._by_activity[connection] = time.monotonic()
        self.counters.count_tcp("accepted")
        self.counters.count_tcp("open")
        return True

    def active(self, connection: "Connection") -> None:
        """A complete query came in."""
        self._by_activity.pop(connection, None)
        self._by_activity[connection] = time.monotonic()

    def set_incomplete(self, connection: "Connection", incomplete: bool, anew: bool) -> None:
        """*connection* has (not) part of a message; *anew*: of another one than before."""
        if not incomplete or anew:
            self._incomplete.pop(connection, None)
        if incomplete:
            self._incomplete.setdefault(connection, time.monotonic())

    def set_long(self, connection: "Connection", long: bool) -> None:
        """*connection* holds (not) much of a long message; over the limit, the one that has done so longest goes."""
        if not long:
            self._long.pop(connection, None)
            return
        self._long.setdefault(connection)
        if len(self._long) > MAX_LONG:
            next(iter(self._long)).abort("closed-oversized")

    def set_stalled(self, connection: "Connection", stalled: bool) -> None:
        """*connection* has (not) more unsent octets than it should."""
        if not stalled:
            self._stalled.pop(connection, None)
            return
        self._stalled.setdefault(connection, time.monotonic())
        if len(self._stalled) > MAX_STALLED:
            next(iter(self._stalled)).abort("closed-stalled")

    def closing(self, connection: "Connection") -> None:
        """*connection* takes no more queries; what it has not read yet may not wait for ever."""
        self._by_activity.pop(connection, None)
        self._incomplete.pop(connection, None)
        self.set_stalled(connection, True)

    def forget(self, connection: "Connection") -> None:
        """*connection* is being cut off: nothing needs to be watched any more."""
        for each in (self._by_activity, self._incomplete, self._stalled):
            each.pop(connection, None)

    def lost(self, connection: "Connection") -> None:
        """*connection* is gone."""
        self.forget(connection)
        client = connection.client
        left = self._per_client[client] - 1
        if left:
            self._per_client[client] = left
        else:
            del self._per_client[client]
        self.counters.count_tcp("open", -1)

    def tick(self) -> None:
        """Close what is over its time; called a few times a second."""
        now = time.monotonic()
        for connection in _older_than(self._stalled, now - STALLED_SECONDS):
            connection.abort("closed-stalled")
        for connection in _older_than(self._incomplete, now - INCOMPLETE_SECONDS):
            connection.close("closed-incomplete")
        for connection in _older_than(self._by_activity, now - self.limits.idle_seconds):
            connection.close("closed-idle")

    def close_all(self) -> None:
        """Close every connection after what has been answered is sent (the worker stops)."""
        for connection in list(self._by_activity):
            connection.close("closed-shutdown")

    def abort_all(self) -> None:
        """Close what is left, now."""
        for connection in [*self._by_activity, *self._stalled]:
            connection.abort("closed-shutdown")

    @property
    def unsent(self) -> bool:
        """Whether a connection that is being closed still has octets to send."""
        return bool(self._stalled) or bool(self._by_activity)


def _older_than(began: "dict[Connection, float]", limit: float) -> "Iterator[Connection]":
    for connection, since in list(began.items()) if began and next(iter(began.values())) < limit else ():
        if since >= limit:
            return
        yield connection


class Connection(asyncio.BufferedProtocol):
    """One client's TCP connection."""

    client: bytes
    """What the limit per client counts: the IPv4 address, or the first 64 bits of the IPv6 address."""

    def __init__(self, connections: Connections) -> None:
        self._all = connections
        self._admitted = False
        self._closing = False
        self._counted = False
        self._ended = False
        self._paused = False
        self._rest = bytearray()
        self._wanted = 0  # octets of `_rest` at which its first message is complete, as far as is known

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the client or close."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if not peer:  # it has gone already
            self._transport.abort()
            return
        family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
        self._source = socket.inet_pton(family, peer[0].partition("%")[0])
        self._path = 2 + int(family == socket.AF_INET6)
        self.client = self._source[:8]
        self._all.turns.begin()
        self._admitted = self._all.admit(self)
        if not self._admitted:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=HIGH_WATER_OCTETS, low=HIGH_WATER_OCTETS // 4)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the event loop puts the next octets: it hands them to `buffer_updated` before it reads again."""
        return self._all.read_buffer

    def buffer_updated(self, size: int) -> None:
        """Answer the messages that are complete now."""
        if self._closing:
            return
        everybody = self._all
        everybody.turns.begin()
        octets = bytes(everybody.read_buffer[:size])
        alone = size > 2 and (octets[0] << 8 | octets[1]) == size - 2
        if not alone or self._rest or self._paused:
            self._append(octets)
            return
        # One whole message and nothing else, as from a client that waits for each response.
        response = everybody.turns.respond(self._path, octets[2:], self._source, Transport.TCP)
        everybody.active(self)
        if response is not None:
            self._transport.write(_LENGTHS[len(response)] + response)

    def _append(self, octets: bytes) -> None:
        """Go on with what we hold and *octets*; a message that comes in many pieces is put together only once."""
        if not self._rest:
            self._answer(octets)
            return
        self._rest += octets
        if len(self._rest) >= self._wanted:
            self._answer(self._let_go())
        elif len(self._rest) > LONG_OCTETS:
            self._all.set_long(self, True)

    def _let_go(self) -> bytes:
        """What we held."""
        rest = bytes(self._rest)
        self._rest.clear()
        self._all.set_long(self, False)
        return rest

    def _answer(self, octets: bytes) -> None:
        """Answer all complete messages in *octets*, in steps between which the write buffer is looked at."""
        at, size = 0, len(octets)
        while not self._paused and not self._closing:
            requests: list[bytes] = []
            fault = ""
            while size - at >= 2 and len(requests) < STEP_QUERIES:
                length = octets[at] << 8 | octets[at + 1]
                if not length:
                    fault = "closed-empty"
                    break
                end = at + 2 + length
                if end > size:
                    break
                requests.append(octets[at + 2 : end])
                at = end
            if requests:
                self._respond(requests)
            if fault:
                self.close(fault)
            if len(requests) < STEP_QUERIES:
                break
        if self._closing:
            return
        self._rest += octets[at:]
        self._wanted = 2 + (octets[at] << 8 | octets[at + 1]) if size - at >= 2 else 2
        # While we do not read, the rest may hold complete messages: then the client is slow, and `stalled` judges it.
        self._all.set_incomplete(self, bool(self._rest) and not self._paused, anew=at > 0)
        if size - at > LONG_OCTETS and not self._paused:
            self._all.set_long(self, True)
        if self._ended and not self._paused:
            self.close("closed-by-client")

    def _respond(self, requests: list[bytes]) -> None:
        everybody = self._all
        responses = everybody.turns.respond_to_all(self._path, requests, self._source, Transport.TCP)
        everybody.active(self)
        sent = [each for each in responses if each is not None]
        if sent:
            lengths = map(_LENGTHS.__getitem__, map(len, sent))
            self._transport.write(b"".join(chain.from_iterable(zip(lengths, sent, strict=True))))

    def pause_writing(self) -> None:
        """The client does not read: read no more from it."""
        self._paused = True
        self._all.set_stalled(self, True)
        if not self._closing and not self._ended:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It has read; go on with what we hold of it."""
        self._paused = False
        if self._closing:
            return
        self._all.set_stalled(self, False)
        if not self._ended:
            self._transport.resume_reading()
        self._all.turns.begin()
        self._answer(self._let_go())

    def eof_received(self) -> bool:
        """It sends no more (RFC 7766 §6.2.1.1 allows to close one half); what it asked is still answered."""
        self._ended = True
        if not self._paused:
            self.close("closed-by-client")
        return True

    def close(self, reason: str) -> None:
        """Close when what has been written is sent; *reason* is one of TCP_COUNTERS."""
        if self._closing:
            return
        self._closing = True
        self._count(reason)
        self._let_go()
        self._transport.close()
        self._all.closing(self)

    def abort(self, reason: str) -> None:
        """Close now; what is unsent is lost."""
        self._closing = True
        self._count(reason)
        self._let_go()
        self._all.forget(self)
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone, for whatever reason."""
        self._closing = True
        self._let_go()
        if self._admitted:
            self._count("closed-by-client")
            self._all.lost(self)

    def _count(self, reason: str) -> None:
        if not self._counted:
            self._counted = True
            self._all.counters.count_tcp(reason)
