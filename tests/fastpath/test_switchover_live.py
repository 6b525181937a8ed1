"""A hundred switchovers between different zones, workers and kernel answering, under the kernel engine's load."""

import functools
import ipaddress
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.compare import SOURCES, TARGET
from bench.engine_kernel import KernelEngine
from bench.engine_process import EngineProcess
from bench.load import Load
from bench.network import CLIENT_INTERFACE, CLIENT_MAC, SERVER_INTERFACE, SERVER_IPV4, SERVER_IPV6, SERVER_MAC, Wire
from bench.queries import Query
from bench.subjects import inside
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.page.layout import Page
from rootsrv.process import clock
from tests.fastpath.conftest import message, opt, require_program, wire
from tests.fastpath.site import Site
from tests.needs import REPOSITORY, require_tool
from tests.server.live import START_SECONDS, put, tables, wait_until, zone_files

FLIPS = 100
RATE = {"tc": 30_000, "xdp": 100_000}
LOAD_SECONDS = 2.0
SETTINGS = ResponderSettings(nsid=b"wire.example")


@dataclass
class Judge:
    """Asks one query over UDP, which the kernel answers (at tc), and over TCP, which a worker does, again and again."""

    udp: socket.socket
    tcp: socket.socket
    page: Page
    query: bytes
    right: tuple[bytes, bytes]
    """Responses by generation modulo 2; over TCP they are the same ones."""

    asked: int = 0
    faults: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        newest_udp = newest_tcp = 1
        while not stop.is_set() and not self.faults:
            self.asked += 1
            how = "UDP"
            try:
                self.udp.send(self.query)
                newest_udp = self._judge(self.udp.recv(4096), newest_udp, "UDP")
                self.tcp.sendall(struct.pack("!H", len(self.query)) + self.query)
                how = "TCP"
                # A client that comes again over TCP meets no older zone than over UDP.
                newest_tcp = self._judge(self._read(), max(newest_tcp, newest_udp), "TCP")
            except OSError as error:
                self.faults.append(f"{how} query lost after {self.asked}: {error}")

    def _read(self) -> bytes:
        octets = b""
        while len(octets) < 2 or len(octets) < 2 + int.from_bytes(octets[:2], "big"):
            part = self.tcp.recv(65535)
            if not part:
                raise OSError("TCP connection closed")
            octets += part
        return octets[2:]

    def _judge(self, response: bytes, oldest: int, how: str) -> int:
        """The generation that *response* is of, at least *oldest*."""
        if response not in self.right:
            self.faults.append(f"{how}: a response that neither version gives")
            return oldest
        generation = oldest + (self.right.index(response) - oldest) % 2
        if generation > self.page.active:  # nobody has it yet: so it is of the generation before *oldest*
            self.faults.append(f"{how}: generation {oldest - 1} after {oldest}")
        return generation


@dataclass
class Live:
    """The role serve behind a wire, with all generations as tables: the test owns the head of the page."""

    wire: Wire
    made: Site
    hook: str

    def switch_to(self, generation: int) -> None:
        """As maintain does it: stage, flip when workers and kernel have it, wait until all answer from it."""
        page = self.made.page
        page.staged = generation
        wait_until(lambda: page.worker(0).staged == generation, "the worker has it")
        wait_until(lambda: self.made.status()["staged"] == generation, "the kernel has it")
        page.active = generation
        page.staged = 0
        wait_until(lambda: self.made.status()["active"] == generation, "the kernel answers from it")


@pytest.fixture(params=["tc", "xdp"])
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Live]:
    require_program()
    for tool in ("clang", "ethtool", "nsenter"):
        require_tool(tool)
    (tmp_path / "state" / "tables").mkdir(parents=True)
    for generation in range(1, FLIPS + 2):
        (tmp_path / "state" / "tables" / f"{generation}.table").write_bytes(tables()[generation % 2])
    (tmp_path / "run").mkdir()
    page = Page.create(tmp_path / "run" / "page")
    for zone in (0, 1):
        page.set_deadline(zone, clock.boottime_ns() + 3_600_000_000_000)
    page.active = 1
    put(tmp_path / "anchor", zone_files().anchor)
    configuration = tmp_path / "rootsrv.toml"
    configuration.write_text(
        f"""
[service]
addresses = ["{SERVER_IPV4}", "{SERVER_IPV6}"]
workers = 1
[identity]
nsid = "{SETTINGS.nsid.decode()}"
[[zone]]
name = "."
file = "root.zone"
trust_anchors = "anchor"
[state]
directory = "state"
runtime_directory = "run"
[fastpath]
mode = "{request.param}"
interfaces = {json.dumps([SERVER_INTERFACE, "lo"] if request.param == "tc" else [SERVER_INTERFACE])}
"""
    )
    with Wire() as made_wire, (tmp_path / "log").open("wb") as log:
        process = made_wire.server.spawn(
            [sys.executable, "-m", "rootsrv", "run", "--config", str(configuration), "--role", "serve"],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        made = Site(None, None, None, tmp_path, process, zone_files())  # type: ignore[arg-type]
        try:
            wait_until(lambda: made.is_ready() or process.poll() is not None, "ready", START_SECONDS)
            assert process.poll() is None, made.log
            wait_until(lambda: made.hook() != "off", "attached")
            yield Live(made_wire, made, request.param)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


def asked_of(responders: tuple[Responder, Responder]) -> tuple[list[Query], list[tuple[bytes, bytes]]]:
    """Queries that the two versions answer differently, and the responses by generation modulo 2."""
    labels = [name.label for name in responders[0].table.names() if name.label]
    messages = [message(wire(), qtype, opt=opt()) for qtype in (6, 2, 48)]
    messages += [message(wire(b"www", b"example", label), opt=opt()) for label in labels]
    messages += [message(wire(label + b"-x"), opt=opt()) for label in labels]
    queries, rights = [], []
    for number, octets in enumerate(messages):
        family = 6 if number % 4 == 3 else 4
        source = ipaddress.ip_address("198.19.0.1" if family == 4 else "2001:2:0:2::1").packed
        first, second = (each.respond(octets, source, Transport.UDP, 0.0) for each in responders)
        assert first is not None
        assert second is not None
        if first != second:
            queries.append(Query(octets, "switchover", None, family))
            rights.append((first, second))
    return queries, rights


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_hundred_switchovers_of_workers_and_kernel_under_load(live: Live) -> None:
    cores = sorted(os.sched_getaffinity(0))
    responders = tuple(Responder(AnswerTable(octets), SETTINGS) for octets in tables())
    queries, rights = asked_of(responders)  # type: ignore[arg-type]
    assert len(queries) > 40
    with inside(live.wire.server, cores[0]):  # over lo: what reaches the client's end the engine takes
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.settimeout(5)
        udp.connect((SERVER_IPV4, 53))
        tcp = socket.create_connection((SERVER_IPV4, 53), timeout=5)
    judge = Judge(udp, tcp, live.made.page, queries[0].octets, rights[0])
    build = functools.partial(
        KernelEngine, queries, TARGET, interface=CLIENT_INTERFACE, macs=(CLIENT_MAC, SERVER_MAC), sources=SOURCES
    )
    stop = threading.Event()
    loads: list[Load] = []
    with udp, tcp, EngineProcess(build, namespace=live.wire.client.path, cpu=cores[0]) as engine:
        engine.call("expect", rights, [len(a) if len(a) == len(b) else 0 for a, b in rights])

        def load() -> None:
            while not stop.is_set():
                loads.append(engine.run(RATE[live.hook], LOAD_SECONDS))

        threads = [threading.Thread(target=judge.run, args=(stop,)), threading.Thread(target=load)]
        for thread in threads:
            thread.start()
        try:
            for generation in range(2, FLIPS + 2):
                live.switch_to(generation)
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)

    counters = live.made.status()["counters"]
    answered = sum(each.answered for each in loads)
    lost, dropped = sum(each.lost for each in loads), sum(each.ring_drops for each in loads)
    print(f"{live.hook}: {answered} answered, {lost} lost, {dropped} in the ring; {judge.asked} judged; {counters}")
    assert judge.faults == []
    assert judge.asked > FLIPS
    assert [each.wrong for each in loads] == [{}] * len(loads)  # every size, and some thousand whole responses
    assert sum(each.compared for each in loads) > 1000
    assert all(each.lost <= each.ring_drops for each in loads)
    assert sum(sum(counters["replies"][family].values()) for family in ("ipv4", "ipv6")) > 0.99 * answered
