"""The BPF program in the kernel, fed by test runs, beside the Responder that it must never differ from."""

import contextlib
import ipaddress
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from bench.frames import Frame
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.demo.signed import GeneratedRoot, generate_root
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.layout import Reason
from rootsrv.fastpath.program import (
    TC_DROP,
    TC_NEXT,
    TC_REDIRECT,
    XDP_DROP,
    XDP_PASS,
    XDP_TX,
    FastPathUnavailable,
    Interface,
    Program,
    built_object,
)
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.verify import verify, verify_hosts
from tests.needs import require_root

NOW = 1_780_000_000.0
DAY = 86400
SECRET, PREVIOUS_SECRET = bytes(range(16)), bytes(range(16, 32))
SERVICE = {4: "192.0.2.53", 6: "2001:db8::53"}
CLIENT = {4: "198.51.100.7", 6: "2001:db8:1:2::7"}
SETTINGS = ResponderSettings(
    nsid=b"lax1a.example", version=b"rootsrv", cookies=ServerCookies(SECRET, (PREVIOUS_SECRET,))
)
LOOPBACK_IFINDEX = 1  # where test runs say that the packet came from


@dataclass(frozen=True)
class Zones:
    """A generated root and what was made of it."""

    generated: GeneratedRoot
    table: AnswerTable

    @property
    def tlds(self) -> list[bytes]:
        return [info.label for info in self.table.names() if info.label]


def compiled(generated: GeneratedRoot) -> AnswerTable:
    root = verify(generated.root, TrustAnchors.from_text(generated.trust_anchor), NOW)
    return AnswerTable(compile_table(root, verify_hosts(generated.hosts, root, NOW)))


@pytest.fixture(scope="session")
def zones() -> Zones:
    """A root of the real one's size."""
    generated = generate_root(inception=NOW - DAY, expiration=NOW + 13 * DAY, seed=7)
    return Zones(generated, compiled(generated))


def require_program() -> bytes:
    """The compiled program, and the right to load it."""
    require_root()
    try:
        return built_object()
    except FastPathUnavailable as error:
        pytest.skip(str(error))


@dataclass(frozen=True, slots=True)
class Hook:
    """One of the two ways in."""

    name: str
    program: str
    reply: int
    passed: int
    dropped: int

    def __str__(self) -> str:
        return self.name


XDP = Hook("xdp", "xdp_test", XDP_TX, XDP_PASS, XDP_DROP)
TC = Hook("tc", "tc_test", TC_REDIRECT, TC_NEXT, TC_DROP)
HOOKS = (XDP, TC)


@dataclass
class InKernel:
    """The program with a table, and the Responder with the same one."""

    program: Program
    responder: Responder
    table: AnswerTable
    settings: ResponderSettings
    now: float = NOW
    _descriptors: dict[str, int] = field(default_factory=dict)
    _passed: dict[str, int] = field(default_factory=dict)

    def configure(self, settings: ResponderSettings = SETTINGS, now: float = NOW) -> None:
        """Both ways respond with *settings* at *now*."""
        if settings != self.settings:
            self.settings, self.responder = settings, Responder(self.table, settings)
        self.program.set_responses(settings)
        self.now = now
        self.program.publish_time(now)

    def run(self, hook: Hook, octets: bytes) -> libbpf.ProgramRun:
        """One test run."""
        descriptor = self._descriptors.get(hook.program)
        if descriptor is None:
            descriptor = self._descriptors[hook.program] = self.program.descriptor(hook.program)
        return libbpf.run_on_packet(descriptor, octets)

    def ask(self, hook: Hook, query: bytes | Frame, family: int = 4) -> "bytes | Reason":
        """The response to a query, taken from a frame that was found right in every respect, or why it was passed."""
        sent = query if isinstance(query, Frame) else frame(query, family)
        octets = sent.to_octets()
        run = self.run(hook, octets)
        if run.verdict == hook.passed:
            assert run.packet == octets, "a packet that is passed up was changed"
            return self.reason()
        assert run.verdict == hook.reply
        return self.reply(sent, run.packet)

    def reason(self) -> Reason:
        """Why the packet of the latest run was passed up; all passes before it, in this test, were asked for too."""
        before, self._passed = self._passed, self.program.counters(test_runs=True).passed()
        (name,) = [name for name, count in self._passed.items() if count != before.get(name, 0)]
        return Reason[name.upper()]

    def reason_reset(self) -> None:
        """Forget passes that nobody asked about."""
        self._passed = self.program.counters(test_runs=True).passed()

    def reply(self, sent: Frame, octets: bytes) -> bytes:
        """The response in a reply frame, which must be *sent* turned round and right in every respect."""
        received = Frame.from_octets(octets)
        assert (received.source, received.destination) == (sent.destination, sent.source)
        assert (received.source_port, received.destination_port) == (sent.destination_port, sent.source_port)
        assert (received.source_mac, received.destination_mac) == (sent.destination_mac, sent.source_mac)
        assert (received.vlan, received.hop_limit, received.service) == (sent.vlan, 64, 0)
        assert received.fragment == 0
        return received.payload

    def expected(self, query: bytes, family: int = 4) -> bytes | None:
        """The Responder's response."""
        return self.responder.respond(query, ipaddress.ip_address(CLIENT[family]).packed, Transport.UDP, self.now)


def frame(query: bytes, family: int = 4, **changes: object) -> Frame:
    """A client's frame with *query*."""
    return Frame(source=CLIENT[family], destination=SERVICE[family], payload=query, **changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def in_kernel(
    table: AnswerTable, settings: ResponderSettings = SETTINGS, *, now: float | None = None, **more: Any
) -> Iterator[InKernel]:
    """A program that answers from *table*, for an hour, and has not been told what time it is but with *now*.

    *more*: what Program.load takes.
    """
    program = Program.load(require_program(), **more)
    try:
        program.set_service(list(SERVICE.values()), 53)
        program.set_interfaces([Interface(LOOPBACK_IFINDEX, 65536, bytes(6), virtual=True, loopback=False)])
        program.set_responses(settings)
        if now is not None:
            program.publish_time(now)
        in_an_hour = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 3600 * 10**9
        program.activate(program.stage(table), [in_an_hour, in_an_hour])
        yield InKernel(program, Responder(table, settings), table, settings)
    finally:
        program.close()


@pytest.fixture(scope="session")
def loaded(zones: Zones) -> Iterator[InKernel]:
    with in_kernel(zones.table) as made:
        yield made


@pytest.fixture
def kernel(loaded: InKernel) -> InKernel:
    """The program and the Responder, set to SETTINGS at NOW, as if nothing had been passed up before."""
    loaded.configure()
    loaded.reason_reset()
    return loaded


@pytest.fixture(params=HOOKS, ids=str)
def hook(request: pytest.FixtureRequest) -> Hook:
    """The hook that a test runs on; its name is in the test's."""
    chosen: Hook = request.param
    return chosen


def message(
    qname: bytes, qtype: int = 1, *, opt: bytes = b"", flags: int = 0, qclass: int = 1, ident: int = 0x5A5A
) -> bytes:
    """A query for *qname* (wire format), with the OPT record *opt* if it is not empty."""
    header = struct.pack("!6H", ident, flags, 1, 0, 0, 1 if opt else 0)
    return header + qname + struct.pack("!HH", qtype, qclass) + opt


def opt(offered: int = 1232, *, do: bool = True, options: bytes = b"", ttl: int | None = None) -> bytes:
    """An OPT record."""
    return struct.pack("!BHHIH", 0, 41, offered, 0x8000 * do if ttl is None else ttl, len(options)) + options


def option(code: int, data: bytes = b"") -> bytes:
    """An EDNS option."""
    return struct.pack("!HH", code, len(data)) + data


def wire(*labels: bytes) -> bytes:
    """A name."""
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
