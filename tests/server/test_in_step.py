"""A turn of TCP goes in step: many connections are read, answered and sent to together, each as if it were alone."""

import asyncio
import contextlib
import errno
import gc
import math
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rootsrv.answer.responder import ResponderSettings
from rootsrv.page import counts
from rootsrv.page.layout import Page
from rootsrv.server import tcp
from rootsrv.server.connection import FEW_OCTETS, LONG_OCTETS, READ_OCTETS, Connection
from rootsrv.server.counters import Counters
from rootsrv.server.in_step import call_for_each
from rootsrv.server.serving import Serving
from rootsrv.server.tcp import Connections, TcpLimits
from rootsrv.server.turns import Turns

QUERY = b"\x12\x34\0\0\0\1\0\0\0\0\0\0\0\0\6\0\1"
FRAMED = len(QUERY).to_bytes(2, "big") + QUERY
TCP4, TCP6 = 2, 3
SERVFAIL = 2


class Listening:
    """Connections of a process that has no table yet, so each query is answered with SERVFAIL."""

    def __init__(self, page: Page, stack: contextlib.ExitStack, limits: TcpLimits) -> None:
        self.words = page.worker(0).counters
        counters = Counters(page.worker(0))
        turns = Turns(Serving(page, page.worker(0), counters, -1, ResponderSettings()), counters)
        self.connections = self.connections_of(turns, counters, limits)
        self._stack = stack
        self._listening = [
            stack.enter_context(socket.create_server((address, 0), family=family))
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
        ]
        self.connections.listen(self._listening)
        stack.callback(self.connections.abort_all)

    def connections_of(self, turns: Turns, counters: Counters, limits: TcpLimits) -> Connections:
        """Those that are tried."""
        return Connections(turns, counters, limits)

    def client(self, octets: bytes = b"", *, path: int = TCP4) -> socket.socket:
        """One that has connected, and sent *octets*."""
        client = self._stack.enter_context(socket.create_connection(self._listening[path - TCP4].getsockname()[:2], 5))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(octets)
        return client

    def turn(self) -> None:
        """One turn, if there is anything to do."""
        if select.select([self.connections], [], [], 0)[0]:
            self.connections.on_readable()

    def turns_until(self, done: Callable[[], bool]) -> None:
        """Turns until *done*."""
        for _ in range(1000):
            if done():
                return
            select.select([self.connections], [], [], 0.1)
            self.turn()
        raise AssertionError("not in a thousand turns")


Make = Callable[..., Listening]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Connections on loopback in this process, with such limits as are given."""
    with contextlib.ExitStack() as stack:
        # The loop does not run: turns are taken here, one by one.
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)

        def make(**limits: int) -> Listening:
            async def made() -> Listening:
                return Listening(Page.create(tmp_path / "page"), stack, TcpLimits(**limits))

            return loop.run_until_complete(made())

        yield make


def answer(client: socket.socket) -> bytes:
    """What came, b"" if it was closed."""
    with contextlib.suppress(ConnectionResetError):
        return client.recv(4096)
    return b""


def right(octets: bytes, number: int) -> bool:
    """Whether *octets* are the response to the query with the id *number*."""
    return octets[2:4] == number.to_bytes(2, "big") and octets[5] & 15 == SERVFAIL


def asked(number: int) -> bytes:
    return FRAMED[:2] + number.to_bytes(2, "big") + FRAMED[4:]


def test_a_turn_that_may_take_no_longer_ends_after_a_step_and_the_rest_comes_in_the_next(make: Make) -> None:
    listening = make()
    clients = [listening.client() for _ in range(2 * tcp.STEP_CONNECTIONS)]
    listening.turns_until(lambda: len(listening.connections) == len(clients))
    for number, client in enumerate(clients):
        client.sendall(asked(number))

    listening.connections.turn_seconds = 0.0
    listening.turn()
    assert counts.rcodes(listening.words, TCP4)[SERVFAIL] == tcp.STEP_CONNECTIONS
    listening.connections.turn_seconds = math.inf
    listening.turn()
    assert all(right(answer(client), number) for number, client in enumerate(clients))


def test_each_has_its_own_answer_whoever_else_asks(make: Make) -> None:
    listening = make()
    clients = [listening.client(path=(TCP4, TCP6)[number % 3 == 0]) for number in range(24)]
    listening.turns_until(lambda: len(listening.connections) == 24)
    for number, client in enumerate(clients):
        client.sendall(asked(number) + asked(100 + number) * (number % 4 == 1))
    listening.turns_until(lambda: sum(counts.rcodes(listening.words, path)[SERVFAIL] for path in (TCP4, TCP6)) == 30)
    for number, client in enumerate(clients):
        octets = client.recv(4096)
        size = 2 + int.from_bytes(octets[:2], "big")
        assert right(octets[:size], number)
        assert right(octets[size:], 100 + number) if number % 4 == 1 else octets[size:] == b""
    assert counts.rcodes(listening.words, TCP6)[SERVFAIL] == 8 + sum(n % 12 == 9 for n in range(24))


def test_who_asks_in_the_packet_after_the_handshake_is_answered_in_the_turn_that_takes_it(make: Make) -> None:
    listening = make()
    clients = [listening.client(asked(number)) for number in range(16)]
    listening.turn()
    assert all(right(answer(client), number) for number, client in enumerate(clients))
    assert listening.words[counts.RESPONSES + TCP4] == 16


def test_who_cannot_be_read_from_leaves_nothing_to_collect() -> None:
    gc.collect()
    gc.disable()
    try:
        assert [type(each) for each in call_for_each(os.read, [-1] * 3, [1] * 3)] == [OSError] * 3
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_turn_that_takes_more_than_there_are_places_answers_all_and_keeps_the_latest(make: Make) -> None:
    listening = make(connections=3)
    clients = [listening.client(asked(number)) for number in range(8)]
    silent = listening.client()
    listening.turn()
    assert all(right(answer(client), number) for number, client in enumerate(clients))
    assert len(listening.connections) == 3
    assert [client.recv(1) for client in clients[:6]] == [b""] * 6
    for number, client in enumerate(clients[6:]):
        client.sendall(asked(number))
        listening.turns_until(lambda: bool(select.select([client], [], [], 0)[0]))  # noqa: B023
        assert right(answer(client), number)
    silent.sendall(asked(9))
    listening.turns_until(lambda: bool(select.select([silent], [], [], 0)[0]))
    assert right(answer(silent), 9)


def test_a_fault_at_one_connection_costs_nobody_else_an_answer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    listening = make()
    clients = [listening.client() for _ in range(5)]
    listening.turns_until(lambda: len(listening.connections) == 5)
    for number, client in enumerate(clients):
        client.sendall(asked(number))
    calls: list[Connection] = []
    take = Connection.take

    def fails_for_the_third(connection: Connection, octets: bytes) -> bytes | None:
        calls.append(connection)
        if len(calls) == 3:
            raise ZeroDivisionError
        return take(connection, octets)

    monkeypatch.setattr(Connection, "take", fails_for_the_third)
    listening.turn()
    octets = [answer(client) for client in clients]
    assert sum(octet == b"" for octet in octets) == 1
    assert sum(right(octet, number) for number, octet in enumerate(octets)) == 4
    assert len(listening.connections) == 4
    assert listening.words[counts.FAULTS] == 1


def test_a_fault_in_a_step_ends_those_that_are_in_it_and_answers_the_others(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "STEP_FROM", 1)
    listening = make()
    standing = [listening.client(path=path) for path in (TCP4, TCP6, TCP4, TCP6)]
    listening.turns_until(lambda: len(listening.connections) == 4)
    for number, client in enumerate(standing):
        client.sendall(asked(number))
    respond = Turns.respond_to_all

    def fails_for_ipv6(turns: Turns, path: int, *more: Any) -> Any:
        if path == TCP6:
            raise ZeroDivisionError
        return respond(turns, path, *more)

    monkeypatch.setattr(Turns, "respond_to_all", fails_for_ipv6)
    new = [listening.client(asked(4 + number), path=path) for number, path in enumerate((TCP4, TCP6))]
    listening.turns_until(lambda: all(select.select([client], [], [], 0)[0] for client in (*standing, *new)))
    for number, client in enumerate((*standing, *new)):
        octets = answer(client)
        assert octets == b"" if number % 2 else right(octets, number)
    reasons = counts.TCP_COUNTERS
    words = [listening.words[counts.TCP + reasons.index(each)] for each in ("accepted", "open", "closed-for-another")]
    assert words == [6, 3, 3]
    assert listening.words[counts.FAULTS] == 2  # that of a standing one, and that of a new one


def test_who_has_gone_for_another_one_of_the_same_step_is_not_answered(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "MAX_LONG", 1)
    monkeypatch.setattr(tcp, "STEP_FROM", 1)
    listening = make()
    clients = [listening.client() for _ in range(2)]
    listening.turns_until(lambda: len(listening.connections) == 2)
    for client, octets in zip(clients, (LONG_OCTETS - 100, LONG_OCTETS + 100), strict=True):
        client.sendall(b"\xff\xff" + bytes(octets))
    settled = lambda: not select.select([listening.connections], [], [], 0)[0]  # noqa: E731
    listening.turns_until(settled)
    for client in clients:  # little, so that both are read from in step
        client.sendall(bytes(1))
    listening.turns_until(settled)
    clients[0].sendall(bytes(200))
    clients[1].sendall(FRAMED)
    listening.turn()
    assert answer(clients[1]) == b""
    assert listening.words[counts.TCP + counts.TCP_COUNTERS.index("closed-oversized")] == 1
    assert not any(listening.words[each + TCP4] for each in (counts.QUERIES, counts.RESPONSES, counts.MALFORMED))
    assert len(listening.connections) == 1


@contextlib.contextmanager
def no_descriptors(but: int = 0) -> Iterator[None]:
    """This process can open nothing, or so many files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # or it would give descriptors back at some time
    for each in (opened := [os.dup(0) for _ in range(but + 1)]):
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened[-1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Full:
    """An epoll set that has room for *room* more, as fs.epoll.max_user_watches has it."""

    def __init__(self, real: select.epoll, room: int) -> None:
        self._real, self.room = real, room

    def register(self, descriptor: int, mask: int) -> None:
        """As the set's, while there is room."""
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._real.register(descriptor, mask)
        self.room -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("room", [0, 1])
def test_where_the_kernel_has_no_memory_for_it_connections_are_taken_at_a_later_tick(
    make: Make, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    listening = make()
    clients = [listening.client(asked(number), path=path) for number, path in enumerate((TCP4, TCP6))]
    with no_descriptors():
        listening.turn()
    with monkeypatch.context() as patched:
        patched.setattr(listening.connections, "_set", Full(listening.connections._set, room))
        listening.connections.tick()
        listening.connections.tick()
        assert not select.select([listening.connections], [], [], 0)[0]  # or it would be woken without end
    listening.connections.tick()
    listening.turns_until(lambda: len(select.select(clients, [], [], 0)[0]) == 2)
    assert all(right(answer(client), number) for number, client in enumerate(clients))
    assert listening.words[counts.FAULTS] == 0


def test_without_descriptors_what_waited_since_the_turn_before_waits_for_the_next_tick(make: Make) -> None:
    listening = make()
    clients = [listening.client() for _ in range(tcp.STEP_CONNECTIONS)]
    listening.turns_until(lambda: len(listening.connections) == len(clients))
    first = listening.client(path=TCP4)
    for client in clients:
        client.sendall(asked(1) * 30)  # more than is read in a turn, so the next one comes
    last = listening.client(path=TCP6)  # so that this one's event is left for the next turn
    with no_descriptors():
        for _ in range(3):
            listening.turn()
    # Some made room, and nobody could take it before the tick.
    assert len(listening.connections) == len(clients) - tcp.GIVEN_UP
    assert listening.words[counts.FAULTS] == 0
    listening.connections.tick()
    for client in (first, last):
        client.sendall(asked(2))
    listening.turns_until(lambda: len(select.select([first, last], [], [], 0)[0]) == 2)
    assert right(answer(first), 2)
    assert right(answer(last), 2)


def test_with_few_descriptors_all_are_taken_one_for_another_and_not_a_few_at_each_tick(make: Make) -> None:
    """Who waits in the queue behind a flood would wait for a tenth of a second for each of it."""
    listening = make()
    flood = [listening.client() for _ in range(100)]
    late = listening.client(asked(7))
    with no_descriptors(but=40):
        for _ in range(3):
            for _ in range(8):
                listening.turn()
            listening.connections.tick()
        assert right(answer(late), 7)
        assert len(listening.connections) <= 40
        assert listening.words[counts.TCP + counts.TCP_COUNTERS.index("accepted")] == len(flood) + 1
    for _ in range(tcp.TcpLimits().connections):
        listening.connections.tick()
    assert listening.connections.places == tcp.TcpLimits().connections
    assert listening.words[counts.FAULTS] == 0


def test_who_has_reset_or_does_not_read_costs_nobody_else_an_answer(make: Make) -> None:
    listening = make()
    clients = [listening.client() for _ in range(6)]
    listening.turns_until(lambda: len(listening.connections) == 6)
    deaf = clients[3]
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    deaf.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            deaf.sendall(asked(3) * 500)
            listening.turn()
    answered = listening.words[counts.RESPONSES + TCP4]
    for number, client in enumerate(clients):
        if number != 3:
            client.sendall(asked(number))
    clients[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    clients[1].close()
    listening.turns_until(lambda: listening.words[counts.RESPONSES + TCP4] >= answered + 4)
    for number in (0, 2, 4, 5):
        assert right(answer(clients[number]), number)
    assert len(listening.connections) == 5


def test_a_step_is_bounded_by_what_it_reads_of_each(make: Make) -> None:
    listening = make()
    clients = [listening.client() for _ in range(64)]
    listening.turns_until(lambda: len(listening.connections) == 64)
    for client in clients:
        client.sendall(asked(1) * 300)
    listening.turn()
    step = tcp.STEP_CONNECTIONS * (FEW_OCTETS // len(FRAMED))
    assert listening.words[counts.RESPONSES + TCP4] <= tcp.TURN_QUERIES + step
    listening.turn()  # by now the first are known to send much: one is read from as long as the turn lasts
    assert listening.words[counts.RESPONSES + TCP4] <= 2 * tcp.TURN_QUERIES + 2 * step + READ_OCTETS // len(FRAMED)
    listening.turns_until(lambda: listening.words[counts.RESPONSES + TCP4] == 64 * 300)


def test_who_asks_without_end_keeps_nobody_else_waiting(make: Make) -> None:
    listening = make()
    clients = [listening.client() for _ in range(4)]
    listening.turns_until(lambda: len(listening.connections) == 4)
    many = asked(1) * (READ_OCTETS // len(FRAMED))
    for client in clients:
        client.sendall(many)
        client.setblocking(False)
    seen = [0] * 4
    for _ in range(2 * len(clients) + 2):
        clients[0].sendall(many)
        listening.turn()
        for number, client in enumerate(clients):
            with contextlib.suppress(BlockingIOError):
                seen[number] += len(client.recv(1 << 20))
    assert min(seen) >= len(many)


def test_who_does_not_read_is_stalled_and_not_idle(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]

    def passes() -> float:
        now[0] += 0.01  # a turn takes its time
        return now[0]

    monkeypatch.setattr(time, "monotonic", passes)
    listening = make()
    deaf = listening.client()
    listening.turns_until(lambda: len(listening.connections) == 1)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
    deaf.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            deaf.sendall(asked(3) * 500)
            listening.turn()
    listening.turns_until(lambda: not select.select([listening.connections], [], [], 0)[0])
    began, reasons = now[0], counts.TCP_COUNTERS
    while len(listening.connections):
        listening.connections.tick()
        assert now[0] < began + 2 * tcp.STALLED_SECONDS
    words = [listening.words[counts.TCP + reasons.index(each)] for each in ("closed-stalled", "closed-idle", "open")]
    assert words == [1, 0, 0]
