"""Probes against servers that answer rightly, wrongly, late and not at all; the right answers are a Responder's."""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable, TableUnusable
from rootsrv.anycast.probe import Address, Expectations, Prober
from rootsrv.health.evidence import Probe, ProbeOutcome, ProbeTransport
from rootsrv.page.layout import Page
from rootsrv.wire.name import ROOT
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.presentation import from_text
from rootsrv.zone.verify import verify, verify_hosts
from tests.server.live import zone_files

LOOPBACK = ipaddress.ip_address("127.0.0.1")
SOURCE = LOOPBACK.packed
HOSTS = b"\x0croot-servers\x03net\0"
UDP, TCP = ProbeTransport.UDP, ProbeTransport.TCP

Answer = Callable[[bytes, Transport], bytes | None]


@cache
def responder(generation: int) -> Responder:
    """Generations 1 and 2: two versions of a root in which every TLD's answers differ.  Others cannot be had."""
    if generation not in {1, 2}:
        raise TableUnusable("no such generation")
    files, now = zone_files(), time.time()
    root = verify(from_text(files.versions[generation - 1], ROOT), TrustAnchors.from_text(files.anchor.decode()), now)
    table = compile_table(root, verify_hosts(from_text(files.hosts, HOSTS), root, now))
    return Responder(AnswerTable(table), ResponderSettings())


def rightly(generation: int) -> Answer:
    return lambda query, transport: responder(generation).respond(query, SOURCE, transport, 0.0)


def silent(_query: bytes, _transport: Transport) -> None:
    return None


@pytest.fixture(scope="module", autouse=True)
def _both_tables_are_made() -> None:
    """Before anybody waits for an answer from them."""
    responder(1), responder(2)


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[int]:
    """Answers on a port of 127.0.0.1, UDP and TCP, with what *answer* makes of each query; gives the port."""
    port = free_port(str(LOOPBACK))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((str(LOOPBACK), port))
    tcp = socket.create_server((str(LOOPBACK), port))
    udp.settimeout(0.05)
    tcp.settimeout(0.05)
    ended = threading.Event()

    def serve_udp() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                query, client = udp.recvfrom(65535)
                if (reply := answer(query, Transport.UDP)) is not None:
                    udp.sendto(reply, client)

    def serve_tcp() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError), tcp.accept()[0] as client:
                client.settimeout(0.5)
                stream = client.makefile("rb")
                while size := int.from_bytes(stream.read(2), "big"):
                    if (reply := answer(stream.read(size), Transport.TCP)) is not None:
                        client.sendall(len(reply).to_bytes(2, "big") + reply)

    threads = [threading.Thread(target=each) for each in (serve_udp, serve_tcp)]
    for each in threads:
        each.start()
    try:
        yield port
    finally:
        ended.set()
        for each in threads:
            each.join()
        udp.close()
        tcp.close()


@pytest.fixture
def page(tmp_path: Path) -> Page:
    page = Page.create(tmp_path / "page")
    page.active = 1
    return page


def probe(
    port: int, page: Page, *, held: frozenset[Address] = frozenset({LOOPBACK}), patience: float = 3.0
) -> tuple[Probe, ...]:
    """One round."""
    expected = Expectations(page, responder, 10.0)

    async def once() -> tuple[Probe, ...]:
        with contextlib.suppress(TableUnusable):
            await expected.refresh()
        return (await Prober([LOOPBACK], port, patience, expected).probe(held))[LOOPBACK]

    return asyncio.run(once())


def outcomes(probes: tuple[Probe, ...], transport: ProbeTransport) -> set[ProbeOutcome]:
    return {each.outcome for each in probes if each.transport is transport}


def test_asks_for_soa_referral_and_nxdomain_over_both_transports(page: Page) -> None:
    with server(rightly(1)) as port:
        probes = probe(port, page)

    assert len(probes) == 6
    assert outcomes(probes, UDP) == outcomes(probes, TCP) == {ProbeOutcome.RIGHT}
    names = [each.question for each in probes if each.transport is UDP]
    assert names[0] == ". SOA"
    assert names[1].startswith("a name below ")
    assert names[2] == "a nonexistent TLD"


def test_another_serial_is_wrong_data_and_is_named(page: Page) -> None:
    with server(rightly(2)) as port:
        probes = probe(port, page)

    assert ProbeOutcome.WRONG in outcomes(probes, UDP)
    assert ProbeOutcome.WRONG in outcomes(probes, TCP)
    assert "wrong data to . SOA (NOERROR, " in str(probes[0])
    assert "serial 2026112102" in str(probes[0])


def test_the_staged_table_is_right_too(page: Page) -> None:
    page.staged = 2
    with server(rightly(2)) as port:
        assert outcomes(probe(port, page), UDP) == {ProbeOutcome.RIGHT}


def test_what_was_wrong_once_and_is_right_from_another_port_is_right(page: Page) -> None:
    """As when one of several workers has not switched yet."""
    seen: set[tuple[bytes, Transport]] = set()

    def at_first_wrongly(query: bytes, transport: Transport) -> bytes | None:
        first = (query[2:], transport) not in seen
        seen.add((query[2:], transport))
        return rightly(2 if first else 1)(query, transport)

    with server(at_first_wrongly) as port:
        probes = probe(port, page)
    assert outcomes(probes, UDP) == outcomes(probes, TCP) == {ProbeOutcome.RIGHT}


def test_the_table_before_stays_right_for_the_grace_time(page: Page) -> None:
    async def after_switching(grace_seconds: float) -> set[ProbeOutcome]:
        expected = Expectations(page, responder, grace_seconds)
        page.active = 1
        await expected.refresh()
        page.active = 2
        await expected.refresh()
        await expected.refresh()
        probes = await Prober([LOOPBACK], port, 3.0, expected).probe(frozenset({LOOPBACK}))
        return outcomes(probes[LOOPBACK], UDP)

    with server(rightly(1)) as port:
        assert asyncio.run(after_switching(10.0)) == {ProbeOutcome.RIGHT}
        assert ProbeOutcome.WRONG in asyncio.run(after_switching(0.0))


def test_a_switchover_while_a_probe_is_on_its_way_is_not_wrong_data(page: Page) -> None:
    def switched_meanwhile(query: bytes, transport: Transport) -> bytes | None:
        page.active = 2
        return rightly(2)(query, transport)

    with server(switched_meanwhile) as port:
        probes = probe(port, page)
    assert outcomes(probes, UDP) == outcomes(probes, TCP) == {ProbeOutcome.RIGHT}


def test_no_answer_is_silence_and_a_closed_port_says_so(page: Page) -> None:
    with server(silent) as port:
        quiet = probe(port, page, patience=0.3)
    closed = probe(port, page)

    assert outcomes(quiet, UDP) == outcomes(quiet, TCP) == {ProbeOutcome.SILENT}
    assert outcomes(closed, UDP) == outcomes(closed, TCP) == {ProbeOutcome.SILENT}
    assert str(closed[0]) == "UDP 127.0.0.1: no answer to . SOA (refused)"


def test_who_has_no_descriptor_left_has_not_asked(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    make = socket.socket

    def none_left(*arguments: object, **named: object) -> socket.socket:
        if threading.current_thread() is threading.main_thread():
            raise OSError(errno.EMFILE, "Too many open files")
        return make(*arguments, **named)  # type: ignore[arg-type]

    with server(rightly(1)) as port:
        expected = Expectations(page, responder, 10.0)

        async def once() -> tuple[Probe, ...]:
            await expected.refresh()
            monkeypatch.setattr(socket, "socket", none_left)
            try:
                return (await Prober([LOOPBACK], port, 3.0, expected).probe(frozenset({LOOPBACK})))[LOOPBACK]
            finally:
                monkeypatch.undo()

        probes = asyncio.run(once())

    assert outcomes(probes, UDP) == outcomes(probes, TCP) == {ProbeOutcome.NOT_ASKED}
    assert str(probes[0]) == "UDP 127.0.0.1: not asked to . SOA (Too many open files)"


def test_wrong_data_and_then_silence_is_a_failed_probe(page: Page) -> None:
    asked: set[tuple[bytes, Transport]] = set()

    def once_and_wrongly(query: bytes, transport: Transport) -> bytes | None:
        if (query[2:], transport) in asked:
            return None
        asked.add((query[2:], transport))
        return rightly(2)(query, transport)

    with server(once_and_wrongly) as port:
        probes = probe(port, page)
    assert ProbeOutcome.CANNOT_TELL in outcomes(probes, UDP)
    assert ProbeOutcome.WRONG not in outcomes(probes, UDP) | outcomes(probes, TCP)


@pytest.mark.parametrize("reply", [b"", b"\0", bytes(11), bytes(600)], ids=len)
def test_octets_that_are_no_response_are_not_right(page: Page, reply: bytes) -> None:
    with server(lambda query, _: query[:2] + reply) as port:
        probes = probe(port, page)

    assert outcomes(probes, UDP) == {ProbeOutcome.WRONG}


def test_an_address_that_is_not_on_this_host_is_not_asked(page: Page) -> None:
    asked = []

    def answer(query: bytes, transport: Transport) -> bytes | None:
        asked.append(query)
        return rightly(1)(query, transport)

    with server(answer) as port:
        probes = probe(port, page, held=frozenset())

    assert {each.outcome for each in probes} == {ProbeOutcome.ABSENT}
    assert asked == []


def test_without_a_table_nothing_can_be_told(page: Page) -> None:
    for generation in (0, 99):
        page.active = generation
        with server(rightly(1)) as port:
            assert {each.outcome for each in probe(port, page)} == {ProbeOutcome.CANNOT_TELL}
