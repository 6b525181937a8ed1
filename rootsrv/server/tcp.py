"""DNS over TCP (RFC 7766, RFC 7828, RFC 9210 §4)."""
# Over 400 lines: it is one turn, its steps and the limits that hold in it, and their order is the promise.
#
# Theory of operation
# -------------------
# Connections are raw descriptors in one epoll set, which itself hangs in the event loop as one descriptor: the loop
# knows nothing of connections, and has neither a transport nor a callback for one.  When the set is readable, one turn
# is taken: some connections that have something to read or room to write, then a few new ones.  Both are bounded, so
# datagrams and standing connections never wait for a flood of new ones.  The page is read and responses are counted
# once per turn (turns.py).
#
# A turn goes in steps: of some connections all are read, then all is answered, then all is sent.  Most have one query,
# and what that costs is less its instructions than that the kernel's and ours take each other's place in the caches: so
# they do three times in a step, and not three times for each query (in_step.py).  Little is read of each; a connection
# on which more comes is read by itself, and much of it at once.  There is one read per connection and turn, and what is
# left of it (part of a message) is kept.  So an idle connection holds no memory to speak of, and a busy one holds at
# most one incomplete message and what it was slow to take: one step's responses above the high-water mark.  Few at a
# time may hold much of a long message: over that number, the one that has done so longest goes.
#
# New connections are read at once, in step as well: whoever asks in the packet after the handshake is answered before
# anything else is done about it.
#
# Where more are ready than one look shows (a crowd), little is read of each, and who sends much is watched in a second
# set, behind the others: it has what these leave of a turn, but never nothing.  Who has only little to send there is
# put among the others again.  Newcomers are taken in every turn, also where the events of the last look take many.
# Else 14,000 connections a second, each with 200 queries, keep the next look waiting for seconds, and with it whoever
# comes or asks.
#
# Three things have a time limit, each with an order by when it began:
#
#   idle         no complete query for idle_seconds (idle.py)             → closed
#   incomplete   a message that began and does not end (slow loris)       → closed
#   stalled      responses that the client does not read: at the high-water mark we stop reading from it; also what is
#                still unsent when we close                               → aborted
#
# One timer looks at the heads; nothing is scheduled per message.  Over the total limit one goes that has not completed
# a query, from where most of these are (newcomers.py); when these hold no more than their share, the one idle longest
# (RFC 9210 §4.1 leaves the choice; D10).  Without a share of their own, who asks once and then holds its place would
# throw out all who are about to ask.  Over the limit per client (IPv4 address or IPv6 /64) the new one goes.
#
# An event is looked up by descriptor, and a number may come again.  So connections are taken after the events of a
# turn, and events left for the next turn are kept by connection.

import errno
import math
import os
import select
import socket
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from rootsrv.answer.responder import Transport
from rootsrv.capture.messages import MessageWriter
from rootsrv.process import log
from rootsrv.process.descriptors import left_beside
from rootsrv.server.accepting import Acceptor
from rootsrv.server.connection import FEW_OCTETS, LENGTHS, READ_OCTETS, STEP_QUERIES, Connection, close_with_reset
from rootsrv.server.counters import Counters
from rootsrv.server.idle import LongestIdle
from rootsrv.server.in_step import call_for_each
from rootsrv.server.newcomers import Newcomers
from rootsrv.server.turns import Turns

TURN_QUERIES = 256
"""Queries answered in a turn before the loop goes on: about a millisecond, in which no datagram is taken."""

TURN_EVENTS = 128
STEP_CONNECTIONS = 32
STEP_FROM = 3
"""Connections that are read from, answered and sent to in step: at most so many, and from so many on."""

CROWDED_OCTETS = 128
"""Octets read at once in step where it is crowded: a query, or a few."""

TURN_ACCEPTS = 32
"""Connections accepted in a turn, by all listening sockets together: less than a millisecond."""

MAX_LONG = 128
"""Connections of one worker that may hold a long message: 8 MB."""

MAX_STALLED = 200
"""Clients that do not read what they asked for; over it the one longest so is cut off.  They hold some 15 MB."""

NEWCOMERS_SHARE = 4
"""A quarter of all places is theirs who have not completed a query; only beyond that they go before the one idle
longest.  2,000 of 8,000 are 140 ms of 14,000 connections a second from a prefix each."""

BUSY_SECONDS = 0.1
"""Who has asked within this time does not go for newcomers: a farm that asks keeps its places, however many."""

GIVEN_UP = 4
"""Places given up, or an eighth of those taken, when there is no descriptor for a connection: three seconds until it is
tried to have as many again, so that hardly a tick is spent on that."""

INCOMPLETE_SECONDS = 5.0
"""From the first octet of a message to its last."""

STALLED_SECONDS = 10.0
"""From the high-water mark, or from closing, until all but a quarter of it has been read."""

RESERVED_DESCRIPTORS = 256
"""Open files of a worker that are no connections: sockets, tables, the page, pipes, the loop's own."""

Due = tuple[Connection | int, int]
"""A connection, or the descriptor of a socket that listens, and its events."""

_IN = select.EPOLLIN
_PATHS = (2, 3)  # over IPv4 and IPv6 (page/counts.py)
_LOG_SECONDS = 10.0  # no connection must fill a disk with lines


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """How many connections one worker keeps, and for how long."""

    connections: int = 8000
    connections_per_client: int = 100
    idle_seconds: float = 10.0

    def possible(self, descriptors: int) -> int:
        """How many connections a worker that may have so many files open can keep; at least 1."""
        return min(self.connections, left_beside(descriptors, RESERVED_DESCRIPTORS + MAX_STALLED))


class Connections:
    """All TCP connections of one worker."""

    told_as: int = Transport.TCP
    """The transport that a capture is told of."""

    accepts = TURN_ACCEPTS
    """Connections accepted in a turn."""

    turn_seconds = math.inf
    """What a turn may take, but for the step in which that is over (leaving.py)."""

    def __init__(self, turns: Turns, counters: Counters, limits: TcpLimits, told: MessageWriter | None = None) -> None:
        """*told*: where a capture is told of what came."""
        self.told = told
        self.turns = turns
        self.counters = counters
        self.limits = limits
        self.now = time.monotonic()
        """When this turn began, or the latest tick."""

        self.answered = 0
        """Queries answered in this turn."""

        self.closed_by_client = 0
        """Connections that ended so, and are not counted yet."""

        self.few_octets = FEW_OCTETS
        """Read at once, in step; who sends so many or more sends much."""

        self.much_octets = READ_OCTETS
        """Read at once from one that sends much."""

        self._is_crowded = False
        """Whether more are ready than one look shows, or than may be stalled are watched behind the others."""

        self._set = select.epoll()
        self._set_behind = select.epoll()
        self._set.register(self._set_behind.fileno(), _IN)
        self._behind: set[int] = set()
        """Descriptors that are watched in the latter."""

        self._listening: dict[int, Acceptor] = {}
        self._exhausted = False
        self.places = limits.connections
        """How many connections are kept now: fewer after there was no descriptor for one, and then ever more again."""

        self._gave_up = False
        """Whether places were given up, and nothing could be accepted since."""

        self._logged_at = -_LOG_SECONDS
        self._due: list[Due] = []
        self._by_descriptor: dict[int, Connection] = {}
        self._arrived: list[Connection] = []
        self._over: list[int] = []
        self._counted_open = 0
        self._newcomers: Newcomers[Connection] = Newcomers()
        self._idle: LongestIdle[Connection] = LongestIdle()
        self._incomplete: OrderedDict[Connection, float] = OrderedDict()
        self._stalled: OrderedDict[Connection, float] = OrderedDict()
        self._per_client: dict[bytes, int] = {}
        self._long: OrderedDict[Connection, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._idle) + len(self._newcomers) + len(self._arrived)

    def fileno(self) -> int:
        """What is readable when `on_readable` has something to do."""
        return self._set.fileno()

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Take connections from *sockets*, which listen."""
        for each in sockets:
            each.setblocking(False)
            self._listening[each.fileno()] = Acceptor(each)
            self._set.register(each.fileno(), select.EPOLLIN)

    def stop_listening(self) -> None:
        """Take no more connections; what waits in the queues is the next worker's."""
        for descriptor in self._listening if not self._exhausted else ():
            self._set.unregister(descriptor)
        self._listening.clear()

    def on_readable(self) -> None:
        """Take a turn."""
        self.turns.begin_here()
        self.now = time.monotonic()
        self.answered = 0
        due = self._due
        if due:
            self._due = []
        else:
            find = self._by_descriptor.get
            due = [(find(descriptor, descriptor), mask) for descriptor, mask in self._set.poll(0, TURN_EVENTS)]
            self._note_crowd(len(due) == TURN_EVENTS or len(self._behind) > MAX_STALLED)
            due = self._in_order(due)
        listening: list[int] = []
        try:
            while due:
                due = self._go_on(due, listening)
                if self._is_over:
                    self._due = due
                    break
            if self._behind:
                self._serve_behind()
            if self._due:  # the set is asked again when these are done, and who wants to connect must not wait for that
                listening = [*self._listening]
            if listening and not self._exhausted:  # what has waited since the turn before may have come too late
                self._settle()  # what is closed makes room
                self._accept([each for each in listening if each in self._listening])
        except Exception as error:
            self._note_fault(error)  # the rest of the turn comes again
        finally:
            self._settle()
            self.turns.end()

    @property
    def _is_over(self) -> bool:
        """Whether the rest of this turn is to come again in the next one."""
        return self.answered >= TURN_QUERIES or time.monotonic() - self.now >= self.turn_seconds

    def _settle(self) -> None:
        """Close what is over, all together, and count what is open."""
        if self._over:
            over, self._over = self._over, []
            call_for_each(os.close, over)
        if self.closed_by_client:
            self.counters.count_tcp("closed-by-client", self.closed_by_client)
            self.closed_by_client = 0
        if more := len(self._by_descriptor) - self._counted_open:
            self._counted_open += more
            self.counters.count_tcp("open", more)

    def close_soon(self, descriptor: int) -> None:
        """Close *descriptor*, of a connection that is over, at the end of this turn or tick."""
        self._over.append(descriptor)

    def _go_on(self, due: list[Due], listening: list[int]) -> list[Due]:
        """Do the first of what is *due*, in step with connections that are only to be read from; what is left of it.

        What listens is put into *listening*.
        """
        step: list[Connection] = []
        done = 0
        for connection, mask in due[:STEP_CONNECTIONS]:
            done += 1
            if isinstance(connection, int):
                listening.append(connection)
            elif mask == _IN and not connection.sends_much:
                step.append(connection)
            else:
                self._tell_one(connection, mask)
                if self._is_crowded and connection.sends_much:
                    self._move(connection, behind=True)
                if self._is_over:
                    break
        self._step(step)
        return due[done:]

    def _tell_one(self, connection: Connection, mask: int) -> None:
        try:
            connection.on_event(mask)
        except Exception as error:
            self.end_for_fault(connection, error)

    def _note_crowd(self, is_crowded: bool) -> None:
        """Read little of each where it *is_crowded*."""
        if is_crowded != self._is_crowded:
            self._is_crowded = is_crowded
            self.few_octets = CROWDED_OCTETS if is_crowded else FEW_OCTETS
            self.much_octets = FEW_OCTETS if is_crowded else READ_OCTETS

    def _serve_behind(self) -> None:
        """Read from those that stand behind: what is left of this turn, and never nothing."""
        left = TURN_QUERIES - self.answered
        for descriptor, mask in self._set_behind.poll(0, max(1, left // STEP_QUERIES)):
            connection = self._by_descriptor.get(descriptor)
            if connection is not None:
                self._tell_one(connection, mask)
                if not connection.sends_much:
                    self._move(connection, behind=False)

    def _move(self, connection: Connection, *, behind: bool) -> None:
        """Watch *connection* behind the others, or among them again."""
        descriptor = connection.descriptor
        if descriptor < 0 or not connection.watched or (descriptor in self._behind) == behind:
            return
        self._set_of(descriptor).unregister(descriptor)
        if behind:
            self._behind.add(descriptor)
        else:
            self._behind.discard(descriptor)
        if not self.watch(descriptor, connection.watched, anew=True):
            connection.abort("closed-for-another")

    def _set_of(self, descriptor: int) -> select.epoll:
        return self._set_behind if descriptor in self._behind else self._set

    def _step(self, connections: list[Connection]) -> None:
        """Read from *connections*, answer what they ask, send to them: each from all before the next."""
        if len(connections) < STEP_FROM:
            for connection in connections:
                self._receive(connection)
            return
        while connections:
            asking: dict[int, tuple[list[Connection], list[bytes]]] = {path: ([], []) for path in _PATHS}
            try:
                received = self._read_from(connections)
            except Exception as error:
                self._end_all_for_fault(connections, error)
                return
            for connection, octets in zip(connections, received, strict=False):
                try:
                    if not isinstance(octets, bytes):
                        connection.cannot_read(octets)
                    elif connection.descriptor < 0:
                        pass  # it went for another one of this step
                    elif (request := connection.take(octets)) is not None:
                        those, requests = asking[connection.path]
                        those.append(connection)
                        requests.append(request)
                except Exception as error:
                    self.end_for_fault(connection, error)
            for path, (those, requests) in asking.items():
                if those:
                    try:
                        self._answer(path, those, requests)
                    except Exception as error:
                        self._end_all_for_fault(those, error)
            connections = connections[len(received) :]

    def _receive(self, connection: Connection) -> None:
        """A step of its own, without what only many are worth."""
        try:
            connection.receive()
        except Exception as error:
            self.end_for_fault(connection, error)

    def _answer(self, path: int, connections: list[Connection], requests: list[bytes]) -> None:
        """Answer one message of each of *connections*, of one family."""
        self.answered += len(requests)
        responses = self.turns.respond_to_all(path, requests, [each.source for each in connections], Transport.TCP)
        if self.told is not None and self.told.is_on:
            for connection, request, response in zip(connections, requests, responses, strict=True):
                try:
                    connection.tell(self.told, [request], [response])
                except Exception as error:
                    self.end_for_fault(connection, error)
        now = self.now
        for connection, response in zip(connections, responses, strict=True):
            if connection.asked_at:
                connection.asked_at = now
            elif response is not None and connection.descriptor >= 0:
                self.completed(connection)
        if not all(responses):
            connections = [each for each, response in zip(connections, responses, strict=True) if response is not None]
        framed = [LENGTHS[len(response)] + response for response in responses if response is not None]
        written = self._write_to(connections, framed)
        if written == [*map(len, framed)]:
            return
        for connection, octets, sent in zip(connections, framed, written, strict=True):
            if sent != len(octets):
                try:
                    if isinstance(sent, int):
                        connection.keep(octets[sent:])
                    else:
                        connection.cannot_write(octets, sent)
                except Exception as error:
                    self.end_for_fault(connection, error)

    def _read_from(self, connections: Sequence[Connection]) -> Sequence[bytes | OSError]:
        """What could be read from each of *connections*, or only from the first ones of them."""
        return call_for_each(os.read, [each.descriptor for each in connections], [self.few_octets] * len(connections))

    def _write_to(self, connections: Sequence[Connection], octets: Sequence[bytes]) -> Sequence[int | OSError]:
        """How much of its *octets* could be written to each of *connections*."""
        return call_for_each(os.write, [each.descriptor for each in connections], octets)

    def end_for_fault(self, connection: Connection, error: Exception) -> None:
        """A fault of ours costs this connection, and nobody else anything."""
        self._note_fault(error)
        connection.abort("closed-for-another")

    def _end_all_for_fault(self, connections: list[Connection], error: Exception) -> None:
        """A fault of ours costs these: what was read of them is lost, and who waits for an answer is to know."""
        self._note_fault(error)
        for connection in connections:
            connection.abort("closed-for-another")

    def _note_fault(self, error: Exception) -> None:
        self._log_seldom("connection failed", error=f"{type(error).__name__}: {error}")
        self.counters.count_fault()

    def _accept(self, listening: Sequence[int]) -> None:
        left = self.accepts if self.places == self.limits.connections else GIVEN_UP  # of these there are some to spare
        try:
            while listening and left > 0:  # what one does not need is another's
                share = max(1, left // len(listening))
                taken = [self._accept_from(self._listening[descriptor], share) for descriptor in listening]
                left -= sum(taken)
                listening = [descriptor for descriptor, each in zip(listening, taken, strict=True) if each == share]
        except OSError as error:
            self._wait_for_descriptors(error)
        finally:
            self._receive_arrived()

    def _accept_from(self, acceptor: Acceptor, most: int) -> int:
        """Take in so many at *most*; how many there were.  OSError when there is one that cannot be had."""
        accepted: list[tuple[int, bytes]] = []
        try:
            accepted.extend(islice(iter(acceptor.accept, None), most))
        finally:
            if accepted:
                self._gave_up = False
            for each, source in accepted:
                try:
                    self._admit(each, source)
                except Exception as error:
                    self._note_fault(error)
                    self.close_soon(each)
        return len(accepted)

    def _wait_for_descriptors(self, error: OSError) -> None:
        """No connection can be had: make room, and try again at the next tick; the kernel keeps those that wait."""
        self._log_seldom("connections cannot be accepted", error=error.strerror, open=len(self._by_descriptor))
        for descriptor in self._listening:
            self._set.unregister(descriptor)
        self._exhausted = True
        self._receive_arrived()
        # It is the host that has none, and what we gave back helped nobody: more would throw out all who are here.
        if self._gave_up and error.errno != errno.EMFILE:
            return
        self._gave_up = True
        # Then, as ever, one goes for one that comes: to wait for a tick at each would be ten connections a second.
        self.places = max(1, len(self) - max(GIVEN_UP, len(self) // 8))
        while len(self) > self.places:
            self._make_room()

    def _listen_again(self) -> None:
        """Take connections again; where the kernel has no memory for that, at the next tick."""
        sockets = [*self._listening]
        watched = call_for_each(self._set.register, sockets, [_IN] * len(sockets))
        errors = [error for error in watched if error is not None]
        self._exhausted = bool(errors)
        if errors:
            self._cannot_watch(errors[0])
            call_for_each(
                self._set.unregister, [each for each, error in zip(sockets, watched, strict=True) if not error]
            )

    def _log_seldom(self, event: str, **fields: object) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            log.alarm(event, **fields)

    def _make_room(self) -> None:
        newcomers = len(self._newcomers)
        idle = None
        if not newcomers:
            idle = self._idle.first()
        elif newcomers < max(1, self.places // NEWCOMERS_SHARE):
            idle = self._idle.first(before=self.now - BUSY_SECONDS)
        if idle is not None:
            self._idle.discard(idle)
            idle.abort("closed-for-another")
        elif newcomers:
            self._newcomers.victim().abort("closed-for-another")

    def _admit(self, descriptor: int, source: bytes) -> None:
        """Take in a new connection; over the total limit another one goes for it."""
        client = source[:8]
        those = self._per_client.get(client, 0)
        if those >= self.limits.connections_per_client:
            self.counters.count_tcp("refused-client-limit")
            close_with_reset(descriptor)
            return
        if self.turns.refuses_connection(source):
            self.counters.count_tcp("refused-rate")
            close_with_reset(descriptor)
            return
        # Those that are closing count, too, until it is known better: looking is dearer.
        if len(self._by_descriptor) >= self.places and len(self) >= self.places:
            self._receive_arrived()
            self._make_room()  # maybe at the cost of the same client
            those = self._per_client.get(client, 0)
        self._per_client[client] = those + 1
        connection = self._by_descriptor[descriptor] = self._new_connection(descriptor, source)
        self._arrived.append(connection)

    def _receive_arrived(self) -> None:
        """Answer what new connections have asked already, and wait for what they do next."""
        arrived, self._arrived = self._arrived, []
        if not arrived:
            return
        self.counters.count_tcp("accepted", len(arrived))
        self._begin(arrived)
        waiting = []
        for connection in arrived:
            if connection.descriptor < 0:
                continue
            if not connection.asked_at:
                self._newcomers.add(connection, connection.source, self.now)
            if self._is_crowded and connection.sends_much:
                self._behind.add(connection.descriptor)
                connection.watch()
            elif connection.only_reads:
                waiting.append(connection)
            else:
                connection.watch()
        watched = call_for_each(self._set.register, [each.descriptor for each in waiting], [_IN] * len(waiting))
        for connection, error in zip(waiting, watched, strict=True):
            if error is None:
                connection.watched = _IN
            else:
                self._cannot_watch(error)
                connection.abort("closed-for-another")

    def _new_connection(self, descriptor: int, source: bytes) -> Connection:
        return Connection(self, descriptor, source)

    def _begin(self, connections: list[Connection]) -> None:
        """Answer what *connections*, new ones, have asked already."""
        self._step(connections)

    def _in_order(self, due: list[Due]) -> list[Due]:
        """What of a turn's events is done, and in which order; others come again."""
        return due

    def watch(self, descriptor: int, mask: int, anew: bool) -> bool:
        """Wake us for *mask* on *descriptor*, *anew* if that is not watched yet; False: the kernel has no memory."""
        try:
            if anew:
                self._set_of(descriptor).register(descriptor, mask)
            else:
                self._set_of(descriptor).modify(descriptor, mask)
        except OSError as error:
            self._cannot_watch(error)
            return False
        return True

    def _cannot_watch(self, error: OSError) -> None:
        self._log_seldom("connection cannot be watched", error=error.strerror)

    def completed(self, connection: "Connection") -> None:
        """*connection* has completed a query."""
        if not connection.asked_at:
            self._newcomers.discard(connection, connection.source)
            self._idle.add(connection)
        connection.asked_at = self.now

    def set_incomplete(self, connection: "Connection", incomplete: bool, anew: bool) -> None:
        """*connection* has (not) part of a message; *anew*: of another one than before."""
        if not incomplete or anew:
            self._incomplete.pop(connection, None)
        if incomplete:
            self._incomplete.setdefault(connection, self.now)

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
        self._stalled.setdefault(connection, self.now)
        if len(self._stalled) > MAX_STALLED:
            next(iter(self._stalled)).abort("closed-stalled")

    def closing(self, connection: "Connection") -> None:
        """*connection* takes no more queries; what it has not read yet may not wait for ever."""
        self._forget(connection)
        self.set_stalled(connection, True)

    def gone(self, connection: "Connection", descriptor: int) -> None:
        """*connection* is over: *descriptor* will be closed."""
        self._forget(connection)
        del self._by_descriptor[descriptor]
        self._behind.discard(descriptor)
        client = connection.source[:8]
        left = self._per_client[client] - 1
        if left:
            self._per_client[client] = left
        else:
            del self._per_client[client]

    def _forget(self, connection: "Connection") -> None:
        if connection.asked_at:
            self._idle.discard(connection)
        else:
            self._newcomers.discard(connection, connection.source)
        if self._incomplete or self._stalled or self._long:
            self._incomplete.pop(connection, None)
            self._stalled.pop(connection, None)
            self._long.pop(connection, None)

    def tick(self) -> None:
        """Close what is over its time; called a few times a second."""
        now = self.now = time.monotonic()
        for connection in older_than(self._stalled, now - STALLED_SECONDS):
            connection.abort("closed-stalled")
        for connection in older_than(self._incomplete, now - INCOMPLETE_SECONDS):
            connection.close("closed-incomplete")
        for connection in older_than(self._newcomers.since, now - self.limits.idle_seconds):
            connection.close("closed-idle")
        while (idle := self._idle.first(before=now - self.limits.idle_seconds)) is not None:
            self._idle.discard(idle)
            idle.close("closed-idle")
        self._settle()
        if self._exhausted:
            self._listen_again()
        elif self.places < self.limits.connections:
            self.places = min(self.limits.connections, self.places + 1 + self.places // 256)

    def close_all(self) -> None:
        """Close every connection after what has been answered is sent (the worker stops)."""
        for connection in [*self._idle, *self._newcomers.since]:
            connection.close("closed-shutdown")
        self._settle()

    def abort_all(self) -> None:
        """Close what is left, now."""
        for connection in list(self._by_descriptor.values()):
            connection.abort("closed-shutdown")
        self._settle()

    @property
    def unsent(self) -> bool:
        """Whether a connection that is being closed still has octets to send."""
        return bool(self._by_descriptor)


def older_than(began: "Mapping[Connection, float]", limit: float) -> "Iterator[Connection]":
    """Those of *began*, an order by when it was, that did before *limit*; they may be taken out meanwhile."""
    for connection, since in list(began.items()) if began and next(iter(began.values())) < limit else ():
        if since >= limit:
            return
        yield connection
