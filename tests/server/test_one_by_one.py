"""A worker where there is no recvmmsg, or where it is not to be used: asyncio's datagram endpoints, same answers."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from rootsrv.answer.responder import Respond, Responder, Transport
from rootsrv.page import counts
from rootsrv.page.layout import Page
from rootsrv.process import clock
from rootsrv.server.counters import Counters
from rootsrv.server.serving import Serving
from rootsrv.server.tcp import TcpLimits
from rootsrv.server.worker import responder_settings
from rootsrv.server.worker_orders import WorkerOrders
from rootsrv.store.table_file import table_path
from tests.answer.conftest import Compiled, compiled  # noqa: F401  the fixture
from tests.server.live import REPOSITORY, wait_until

SETTINGS = {"nsid": b"one-by-one".hex(), "version": "", "cookie_secrets": [bytes(16).hex()]}
FAMILIES = ((socket.AF_INET, "127.0.0.1", 0), (socket.AF_INET6, "::1", 1))


@contextlib.contextmanager
def running(directory: Path, octets: bytes, *program: str) -> Iterator[tuple[Page, dict[int, socket.socket]]]:
    """The page and the bound sockets of a worker that takes datagrams one by one; *program*: how Python is told."""
    page = Page.create(directory / "page")
    for generation in (1, 2):
        table_path(directory, generation).write_bytes(octets)
    for zone in range(2):
        page.set_deadline(zone, clock.boottime_ns() + 3600 * 10**9)
    page.active = 1
    with contextlib.ExitStack() as stack:
        sockets = {}
        for family, address, path in FAMILIES:
            sockets[path] = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sockets[path].bind((address, 0))
        tables, changes = os.open(directory, os.O_RDONLY), page.watch()
        for descriptor in (tables, changes):
            stack.callback(os.close, descriptor)
        descriptors = tuple(each.fileno() for each in sockets.values())
        orders = WorkerOrders(
            slot=0, parent=os.getpid(), page=page.descriptors(0), tables=tables, sockets=descriptors, account=None,
            responder=SETTINGS, tcp=asdict(TcpLimits()), batched=False, changes=changes,
            sources_key="0f" * 16,
        )  # fmt: skip
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, *program],
                stdin=subprocess.PIPE,
                pass_fds=(*page.descriptors(0), tables, changes, *descriptors),
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
        )
        stack.callback(process.kill)
        assert process.stdin is not None
        process.stdin.write(orders.to_json().encode())
        process.stdin.close()
        wait_until(lambda: page.worker(0).active == 1, "the worker answers")
        yield page, sockets


@pytest.fixture
def worker(tmp_path: Path, compiled: Compiled) -> Iterator[tuple[Page, dict[int, socket.socket]]]:  # noqa: F811
    """As `running`."""
    with running(tmp_path, compiled.octets, "-m", "rootsrv.server.worker") as made:
        yield made


def test_a_worker_that_nobody_asks_and_that_looks_once_an_hour_follows_at_once(
    tmp_path: Path,
    compiled: Compiled,  # noqa: F811
) -> None:
    patient = "from rootsrv.server import worker; worker.TICK_SECONDS = 3600.0; worker.main()"
    with running(tmp_path, compiled.octets, "-c", patient) as (page, _):
        page.staged = 2
        wait_until(lambda: page.worker(0).staged == 2, "it has mapped the next table")
        page.active = 2
        wait_until(lambda: page.worker(0).active == 2, "it answers from the next table")


@pytest.fixture
def expected(compiled: Compiled) -> Callable[[bytes], bytes | None]:  # noqa: F811
    """What the Responder says."""
    responder = Responder(compiled.table, responder_settings(SETTINGS))
    return lambda octets: responder.respond(octets, bytes(4), Transport.UDP, time.time())


@pytest.mark.parametrize(("family", "address", "path"), FAMILIES)
def test_datagrams_taken_one_by_one_get_the_same_answers_and_are_counted(
    worker: tuple[Page, dict[int, socket.socket]],
    expected: Callable[[bytes], bytes | None],
    family: int,
    address: str,
    path: int,
) -> None:
    page, sockets = worker
    queries = [
        dns.message.make_query(name, rtype, want_dnssec=True).to_wire()
        for name in (".", "com.", "www.com.", "nosuchname.", "a.root-servers.net.")
        for rtype in ("A", "DS", "NS", "SOA")
    ]
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(sockets[path].getsockname()[:2])
        client.send(b"\0\1\x80" + bytes(9))  # a response gets none
        for query in queries:
            client.send(query)
        answers = {client.recv(4096) for _ in queries}
    assert answers == {expected(query) for query in queries}
    words = page.worker(0).counters
    wait_until(lambda: words[counts.RESPONSES + path] == len(queries), "all are counted")
    assert words[counts.DROPPED + counts.DROP_REASONS.index("silent")] == 1
    assert sum(counts.rcodes(words, path)) == len(queries)


def test_a_root_past_its_lease_is_servfail_there_too(
    worker: tuple[Page, dict[int, socket.socket]],
) -> None:
    page, sockets = worker
    page.set_deadline(0, clock.boottime_ns())
    query = dns.message.make_query("com.", "A")

    def rcode() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(query.to_wire(), sockets[0].getsockname())
            return dns.message.from_wire(client.recv(4096)).rcode()

    wait_until(lambda: rcode() == dns.rcode.SERVFAIL, "the root's lease is over")


@pytest.mark.parametrize("blocked", [False, True])
def test_a_fault_of_our_own_is_servfail_and_is_counted(
    tmp_path: Path,
    compiled: Compiled,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    blocked: bool,
) -> None:
    page = Page.create(tmp_path / "page")
    table_path(tmp_path, 1).write_bytes(compiled.octets)
    page.set_deadline(0, clock.boottime_ns() + 3600 * 10**9)
    page.set_deadline(1, clock.boottime_ns() + 3600 * 10**9)
    page.active = 1

    def fails(self: Responder) -> Respond:
        def respond(octets: bytes, source: bytes, transport: Transport, now: float) -> bytes | None:
            raise ZeroDivisionError("a fault")

        return respond

    monkeypatch.setattr(Responder, "_shortcut", fails)
    if blocked:
        page.set_blocks([(0, 0xFFFF_C000_0201, 128, 1 << 62)])  # 192.0.2.1
    tables = os.open(tmp_path, os.O_RDONLY)
    try:
        slot = page.worker(0)
        serving = Serving(page, slot, Counters(slot), tables, responder_settings(SETTINGS))
        serving.read_page()
        query = dns.message.make_query("com.", "A").to_wire()
        sources = [b"\xc0\0\2\1", b"\xc0\0\2\2"]
        together = serving.respond_to_all([query, query], sources, Transport.UDP)
        singly = [serving.respond_to(query, source, Transport.TCP) for source in sources]
    finally:
        os.close(tables)
    assert together == singly
    assert (together[0] is None) is blocked
    assert together[1] is not None
    answered = dns.message.from_wire(together[1])
    assert answered.rcode() == dns.rcode.SERVFAIL
    assert together[1][:2] == query[:2]
    assert slot.counters[counts.FAULTS] == (2 if blocked else 4)
    assert slot.counters[counts.DROPPED + counts.DROP_REASONS.index("blocked")] == (2 if blocked else 0)
    assert caplog.text.count("responder failed") == 1  # and not one line per query
