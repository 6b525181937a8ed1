"""What a capture is told of queries over TLS: who asked, what, over which transport, and what became of it."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from rootsrv.capture import facts, messages, offer, rings
from rootsrv.page.layout import TLS_SLOT
from tests.dot.client import Dot, query, serving_dot
from tests.framing import framed, receive
from tests.server.live import wait_until


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dot]:
    """One that may be captured."""
    with serving_dot(tmp_path_factory.mktemp("dot"), more="[capture]\nbuffer_megabytes = 1\n") as made:
        yield made


@pytest.fixture
def taken(captured: Dot) -> Iterator[offer.Taken]:
    found = offer.take(captured.instance.directory / "run" / offer.NAME)
    for ring in found.rings:
        ring.want(rings.FACTS)
    yield found
    for ring in found.rings:
        ring.want(rings.OFF)
    found.close()


def told(found: offer.Taken) -> list[messages.CapturedMessage]:
    """All that waits, ring by ring."""
    read = []
    for ring in found.rings:
        ring.take()
        octets = b"".join(bytes(piece) for piece in ring.take())
        ring.done(len(octets) // rings.ROW_OCTETS)
        read += messages.read(octets)
    return read


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_what_comes_over_tls_is_told_as_that(captured: Dot, taken: offer.Taken, address: str) -> None:
    asked = [
        query(1, "com.", "NS", want_dnssec=True),
        query(2, "x" * 63 + ".nosuchtld."),
        framed(b"\0\3\0\0\0\2" + bytes(6)),
    ]
    with captured.connect(address) as connection:
        source = connection.getsockname()
        for each in asked[:2]:
            connection.sendall(each)
        answers = [receive(connection) for _ in asked[:2]]
        connection.sendall(asked[2])
        answers.append(receive(connection))
    with contextlib.ExitStack() as stack:  # and what comes beside it over TCP is told as TCP
        plain = stack.enter_context(socket.create_connection((address, captured.instance.port), timeout=10))
        plain.sendall(asked[0])
        receive(plain)
    found: list[messages.CapturedMessage] = []

    def all_are_told() -> bool:
        found.extend(told(taken))
        return len(found) >= len(asked) + 1

    wait_until(all_are_told, "all are told")
    over_tls = [each for each in found if each.transport == facts.TransportCode.TLS]
    assert [each.octets for each in over_tls] == [each[2:] for each in asked]
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address).ljust(16, b"\0")
    for message, answer in zip(over_tls, answers, strict=True):
        assert (message.source, message.source_port) == (packed, source[1])
        assert (message.destination, message.destination_port) == (packed, captured.port)
        assert message.response_octets == len(answer)
        assert message.response == answer[2:18].ljust(16, b"\0")
    assert [messages.fact_of(each).kind for each in over_tls] == [
        facts.Kind.QUERY,
        facts.Kind.QUERY,
        facts.Kind.MALFORMED,
    ]
    assert [each.transport for each in found if each not in over_tls] == [facts.TransportCode.TCP]
    assert captured.instance.status()["dot"]["slot"] == TLS_SLOT
