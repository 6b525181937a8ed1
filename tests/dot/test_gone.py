"""DNS over TLS: a connection that ended while its event waited for the next turn."""

import asyncio
import contextlib
import gc
import os
import select
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootsrv.dot import certificate, connection
from rootsrv.dot.connection import TlsConnections
from rootsrv.dot.libssl import Context, TlsSession
from rootsrv.page import counts
from rootsrv.page.layout import Page
from rootsrv.server import tcp
from rootsrv.server.counters import Counters
from rootsrv.server.tcp import TcpLimits
from rootsrv.server.turns import Turns
from tests.dot.client import client_context, write_certificate
from tests.server.test_in_step import TCP4, Listening, asked, right


class ListeningForTls(Listening):
    """As over TCP."""

    context: Context

    def connections_of(self, turns: Turns, counters: Counters, limits: TcpLimits) -> TlsConnections:
        """Those that are tried."""
        return TlsConnections(turns, counters, limits, self.context)


@contextlib.contextmanager
def listening_for_tls(directory: Path) -> Iterator[tuple[Listening, contextlib.ExitStack]]:
    """One of its own, and what closes what a test has opened before it ends."""
    shown = certificate.read(*write_certificate(directory, "dot"), time.time())
    ListeningForTls.context = Context(*certificate.from_document(shown.to_document()))

    async def made() -> Listening:
        return ListeningForTls(Page.create(directory / "page"), stack, TcpLimits())

    with contextlib.ExitStack() as stack:
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        yield loop.run_until_complete(made()), stack


def shake_hands(listening: Listening) -> ssl.SSLSocket:
    """A client whose handshake is over."""
    client = client_context().wrap_socket(listening.client(), do_handshake_on_connect=False)
    client.setblocking(False)
    for _ in range(100):
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            select.select([client, listening.connections], [], [], 0.1)
            listening.turn()
        else:
            return client
    raise AssertionError("no handshake in a hundred turns")


@pytest.mark.parametrize("step_from", [1, 3], ids=["in step", "one by one"])
def test_it_costs_no_session_and_no_second_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_from: int
) -> None:
    monkeypatch.setattr(tcp, "STEP_FROM", step_from)
    sessions = {"accept": 0, "end": 0}

    def counted(owner: type, name: str) -> None:
        called = getattr(owner, name)

        def count(*arguments: Any, **named: Any) -> Any:
            sessions[name] += 1
            return called(*arguments, **named)

        monkeypatch.setattr(owner, name, count)

    counted(Context, "accept")
    counted(TlsSession, "end")
    with listening_for_tls(tmp_path) as (listening, stack):
        asking = stack.enter_context(shake_hands(listening))
        half = [listening.client(b"\x16\x03\x01"), listening.client()]
        listening.turns_until(lambda: len(listening.connections) == 3 and sessions["accept"] == 2)
        monkeypatch.setattr(tcp, "STEP_CONNECTIONS", 1)
        monkeypatch.setattr(tcp, "TURN_QUERIES", 1)
        for client in half:
            client.sendall(b"\x01")
        asking.sendall(asked(1))
        listening.turn()  # who is established comes first, and the others are left for the next turn
        assert right(asking.recv(4096), 1)
        monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", -1.0)
        listening.connections.tick()
        asking.sendall(asked(2))  # so that there is a next turn
        listening.turns_until(lambda: listening.words[counts.RESPONSES + TCP4] == 2)
        told = {name: listening.words[counts.TLS + number] for number, name in enumerate(counts.TLS_COUNTERS)}
        assert (told["handshakes"], told["late"], told["failed"]) == (1, 2, 0)
        assert listening.words[counts.FAULTS] == 0
        listening.connections.abort_all()
        assert sessions["accept"] == sessions["end"] == 2


ODD = {
    "none": b"",
    "some": bytes(40),
    "wrong": b"\x17\x03\x03\0\x20" + bytes(32),
    "an octet of a head": b"\x17",
    "most of a head": b"\x17\x03\x03\0",
    "a head": b"\x17\x03\x03\0\x20",
    "an empty record": b"\x17\x03\x03\0\0",
}


@pytest.mark.parametrize("octets", ODD.values(), ids=ODD)
def test_what_one_sends_costs_nobody_else_of_its_step_an_answer(tmp_path: Path, octets: bytes) -> None:
    with listening_for_tls(tmp_path) as (listening, stack):
        odd, *others = [stack.enter_context(shake_hands(listening)) for _ in range(5)]
        os.write(odd.fileno(), octets)
        for number, client in enumerate(others):
            client.sendall(asked(number))
        listening.turns_until(lambda: listening.words[counts.RESPONSES + TCP4] == 4)
        for number, client in enumerate(others):
            assert right(client.recv(4096), number)
        assert listening.words[counts.FAULTS] == 0
        listening.connections.abort_all()


@pytest.mark.parametrize("octets", [ODD["none"], ODD["some"], ODD["wrong"]], ids=["none", "some", "wrong"])
def test_who_sends_nothing_or_nothing_of_use_leaves_nothing_to_collect(tmp_path: Path, octets: bytes) -> None:
    with listening_for_tls(tmp_path) as (listening, stack):
        clients = [stack.enter_context(shake_hands(listening)) for _ in range(3)]
        those: list[Any] = [*listening.connections._by_descriptor.values()]
        listening.turns_until(lambda: all(each.is_established for each in those))
        for client in clients:
            os.write(client.fileno(), octets)
        gc.collect()
        gc.disable()
        try:
            assert [isinstance(each, OSError) for each in listening.connections._read_from(those)] == [True] * 3
            assert gc.collect() == 0
        finally:
            gc.enable()
        listening.connections.abort_all()
