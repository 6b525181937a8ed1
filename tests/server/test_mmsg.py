"""What a batch takes in is what was sent, of any length, with where it came from; and answers go back there."""

import os
import socket
from collections.abc import Iterator

import pytest

from rootsrv.capture.messages import TOO_LONG
from rootsrv.server.mmsg import MAX_QUERY_OCTETS, Batch, available

SHORT = [0, 1, 12, 17, 100, 254, 255]
LONG = [256, 257, 511, 512, MAX_QUERY_OCTETS - 1, MAX_QUERY_OCTETS]

pytestmark = pytest.mark.skipif(not available(), reason="no recvmmsg")


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Who is asked, and who asks."""
    family, address = request.param
    with socket.socket(family, socket.SOCK_DGRAM) as asked, socket.socket(family, socket.SOCK_DGRAM) as asking:
        asked.bind((address, 0))
        asking.bind((address, 0))
        asking.connect(asked.getsockname())
        asking.settimeout(5)
        yield asked, asking


@pytest.mark.parametrize("sizes", [SHORT, LONG, SHORT + LONG + SHORT, [255], [256]], ids=str)
def test_datagrams_of_any_length_come_whole_and_in_order(
    ends: tuple[socket.socket, socket.socket], sizes: list[int]
) -> None:
    asked, asking = ends
    batch = Batch(32, asked.family)
    for round_ in range(2):  # what the first left behind shows in no datagram of the second
        sent = [os.urandom(size) for size in (sizes if round_ == 0 else reversed(sizes))]
        for octets in sent:
            asking.send(octets)

        datagrams, sources = batch.receive(asked.fileno())

        address, port = asking.getsockname()[:2]
        assert list(datagrams) == sent
        assert list(sources) == [socket.inet_pton(asked.family, address)] * len(sent)
        assert list(batch.ports(len(sent))) == [port] * len(sent)
        assert batch.oversized == 0


def test_a_datagram_that_is_too_long_stands_in_its_place_without_octets(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    asked, asking = ends
    batch = Batch(8, asked.family)
    for size in (30, MAX_QUERY_OCTETS + 1, 40):
        asking.send(bytes(size))

    datagrams, _ = batch.receive(asked.fileno())

    assert list(datagrams) == [bytes(30), TOO_LONG, bytes(40)]
    assert batch.oversized == 1


def test_no_more_is_taken_than_there_is_room_for_and_nothing_when_nothing_waits(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    asked, asking = ends
    batch = Batch(4, asked.family)
    sent = [bytes([number]) * 20 for number in range(6)]
    for octets in sent:
        asking.send(octets)

    taken = [list(batch.receive(asked.fileno())[0]) for _ in range(3)]

    assert taken == [sent[:4], sent[4:], []]


def test_a_response_goes_to_where_its_datagram_came_from(ends: tuple[socket.socket, socket.socket]) -> None:
    asked, asking = ends
    batch = Batch(4, asked.family)
    with socket.socket(asked.family, socket.SOCK_DGRAM) as other:
        other.settimeout(5)
        asking.send(b"one")
        other.sendto(b"two", asked.getsockname())
        datagrams, _ = batch.receive(asked.fileno())

        assert list(batch.ports(2)) == [asking.getsockname()[1], other.getsockname()[1]]
        assert batch.send(asked.fileno(), 0, [b"to " + each for each in datagrams]) == []
        assert [asking.recv(64), other.recv(64)] == [b"to one", b"to two"]
