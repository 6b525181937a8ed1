"""So many are ready that nobody knows how many more wait: who sends much stands behind those who ask, or only come."""

import select
import socket

import pytest

from rootsrv.page import counts
from rootsrv.server import tcp
from rootsrv.server.connection import READ_OCTETS
from tests.server.test_in_step import (
    FRAMED,
    SERVFAIL,
    TCP4,
    TCP6,
    Full,
    Listening,
    Make,
    answer,
    asked,
    make,  # noqa: F401  the fixture
    right,
)

MUCH = 300
"""Connections that send much: more than are looked at in a turn, and more than may be stalled."""

QUERIES = 2 * READ_OCTETS // len(FRAMED)


def crowd(listening: Listening, octets: bytes = asked(1) * QUERIES) -> list[socket.socket]:
    """Clients that are connected, and then send *octets* each."""
    clients = []
    for _ in range(MUCH):
        clients.append(listening.client())
        listening.turn()  # the queue of those that wait is short here
    for client in clients:
        client.sendall(octets)
    return clients


def crowd_is_seen(listening: Listening) -> bool:
    """Whether all that send much are known to."""
    return len(listening.connections._behind) == MUCH


def answered(listening: Listening) -> int:
    return sum(counts.rcodes(listening.words, path)[SERVFAIL] for path in (TCP4, TCP6))


@pytest.mark.parametrize("path", [TCP4, TCP6])
@pytest.mark.parametrize("is_seen", [False, True])
def test_who_comes_is_answered_in_the_next_turns_however_many_send_much(
    make: Make,  # noqa: F811
    path: int,
    is_seen: bool,
) -> None:
    listening = make(connections_per_client=2 * MUCH)
    crowd(listening)
    if is_seen:
        listening.turns_until(lambda: crowd_is_seen(listening))
    for number in range(5):
        late = listening.client(asked(number), path=path)
        for _ in range(2):
            listening.turn()
        assert select.select([late], [], [], 0)[0]
        assert right(answer(late), number)
    assert answered(listening) < MUCH * QUERIES / 2  # there is enough to do yet


def test_who_asks_now_and_then_is_answered_in_the_next_turns(make: Make) -> None:  # noqa: F811
    listening = make(connections_per_client=2 * MUCH)
    farm = [listening.client() for _ in range(20)]
    listening.turns_until(lambda: len(listening.connections) == len(farm))
    crowd(listening)
    listening.turns_until(lambda: crowd_is_seen(listening))
    assert answered(listening) < MUCH * QUERIES / 2
    for number in range(5):
        for client in farm:
            client.sendall(asked(number))
        for _ in range(3):
            listening.turn()
        assert len(select.select(farm, [], [], 0)[0]) == len(farm)
        assert all(right(answer(client), number) for client in farm)


def test_all_that_was_asked_in_a_crowd_is_answered_once_and_nobody_stays_behind(make: Make) -> None:  # noqa: F811
    listening = make(connections_per_client=MUCH)
    queries = 300
    clients = crowd(listening, asked(1) * queries)
    listening.turns_until(lambda: answered(listening) == MUCH * queries)
    for number, client in enumerate(clients):
        octets = b""
        while len(octets) < queries * len(FRAMED):
            octets += client.recv(1 << 16)
        assert len(octets) == queries * len(FRAMED)
        client.sendall(asked(number))
    listening.turns_until(lambda: answered(listening) == MUCH * (queries + 1))
    assert all(right(answer(client), number) for number, client in enumerate(clients))
    assert listening.connections._behind == set()
    assert listening.words[counts.FAULTS] == 0


def test_who_stands_behind_is_read_from_in_turns_that_others_fill(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    listening = make(connections_per_client=2 * MUCH)
    crowd(listening)
    listening.turns_until(lambda: crowd_is_seen(listening))
    monkeypatch.setattr(tcp, "TURN_QUERIES", 1)
    other = listening.client()
    listening.turns_until(lambda: len(listening.connections) == MUCH + 1)
    for number in range(5):
        other.sendall(asked(number))
        before = answered(listening)
        listening.turn()
        assert right(answer(other), number)
        assert answered(listening) > before + 1


def test_who_goes_while_it_stands_behind_leaves_nothing_there(make: Make) -> None:  # noqa: F811
    listening = make(connections_per_client=MUCH)
    clients = crowd(listening)
    listening.turns_until(lambda: crowd_is_seen(listening))
    for client in clients:
        client.close()
    listening.turns_until(lambda: len(listening.connections) == 0)
    assert listening.connections._behind == set()
    others = crowd(listening, asked(5))  # with the numbers of those that are gone
    listening.turns_until(lambda: len(select.select(others, [], [], 0)[0]) == MUCH)
    assert all(right(answer(client), 5) for client in others)
    assert listening.words[counts.FAULTS] == 0


def test_where_the_kernel_has_no_memory_to_put_one_behind_it_goes_and_no_other(
    make: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listening = make(connections_per_client=2 * MUCH)
    other = listening.client(asked(7))
    listening.turns_until(lambda: bool(select.select([other], [], [], 0)[0]))
    assert right(answer(other), 7)
    monkeypatch.setattr(listening.connections, "_set_behind", Full(listening.connections._set_behind, 0))
    crowd(listening)
    listening.turns_until(lambda: len(listening.connections) < MUCH / 2)
    other.sendall(asked(8))
    listening.turns_until(lambda: bool(select.select([other], [], [], 0)[0]))
    assert right(answer(other), 8)
    assert listening.words[counts.FAULTS] == 0


def test_what_one_socket_has_not_waiting_is_accepted_from_another(make: Make) -> None:  # noqa: F811
    listening = make()
    clients = [listening.client() for _ in range(2 * tcp.TURN_ACCEPTS)]
    clients.append(listening.client(path=TCP6))
    listening.turn()
    assert len(listening.connections) == tcp.TURN_ACCEPTS
