"""The servers that are measured: each started in the server namespace, on the server core, with one worker."""

import contextlib
import mmap
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import c_source, network, peers
from bench.bpf_object import CompilerMissing, compiled
from bench.engine_process import EngineFailed
from bench.network import SERVER_INTERFACE, SERVER_IPV4, SERVER_IPV6, NetworkUnavailable, Wire
from bench.peers import daemon, knot
from bench.zones import Zones
from rootsrv import __version__
from rootsrv.answer.compiler import compile_table
from rootsrv.commands import asking
from rootsrv.config import file as config_file
from rootsrv.control import client
from rootsrv.fastpath import libbpf

HERE = Path(__file__).parent
PORT = 53
METRICS_PORT = 9953
_STATUS_SECONDS = 5.0
_FASTPATH_SECONDS = 30.0
LOOKUP, LOOKUP_TC = "look-up kernel", "look-up kernel tc"
"""What a program makes that only looks up, copies and sends (bench/bpf/lookup.bpf.c), in XDP and at tc ingress."""


class SubjectUnavailable(Exception):
    """This server cannot be measured here."""


FAILURES = (
    SubjectUnavailable, peers.PeerFailed, network.NetworkUnavailable, EngineFailed, CompilerMissing,
    libbpf.BpfUnavailable, subprocess.SubprocessError, OSError,
)  # fmt: skip
"""What ends the measurement of one server and not that of the others."""


@dataclass(frozen=True)
class Running:
    """A server under test."""

    version: str
    session: int
    """Its processes are those of this session."""

    threads: tuple[int, ...] = ()
    """The kernel threads that answer (one per queue), for a server in the kernel."""


@dataclass(frozen=True)
class Subject:
    """One way to answer; `start` runs it until the block ends."""

    name: str
    start: Callable[["Bench"], contextlib.AbstractContextManager[Running]]
    kind: str = "peer"
    """rootsrv, peer or limit."""

    remark: str = ""
    in_kernel: bool = False
    """Answers in the kernel: UDP only, and more than any socket could take."""

    @property
    def overload(self) -> float | None:
        """A rate that is more than it can answer; None = all that the generator can."""
        return None if self.in_kernel else 700_000


@dataclass(frozen=True)
class Bench:
    """Where a subject is started."""

    wire: Wire
    zones: Zones
    workdir: Path
    server_cpu: int
    programs: Mapping[str, str]
    """Other programs than those installed, by subject name in lower case (`--nsd PATH`)."""

    reply_octets: int = 720
    """What a reflector sends: the mean response of the mix."""


@contextlib.contextmanager
def inside(namespace: network.Namespace, cpu: int) -> Iterator[None]:
    """What this thread starts within the block is in *namespace* and on *cpu*."""
    affinity = os.sched_getaffinity(0)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        network.enter(namespace.path)
        os.sched_setaffinity(0, {cpu})
        try:
            yield
        finally:
            os.sched_setaffinity(0, affinity)
            network.enter(f"/proc/self/fd/{home}")
    finally:
        os.close(home)


def _peer(name: str, tool: str) -> Callable[[Bench], contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(bench: Bench) -> Iterator[Running]:
        program = bench.programs.get(name.lower()) or _find(tool)
        with contextlib.ExitStack() as stack:
            with inside(bench.wire.server, bench.server_cpu):
                peer = stack.enter_context(
                    peers.AUTHORITATIVE[name](
                        bench.zones.by_name(),
                        bench.workdir,
                        address=SERVER_IPV4,
                        also=[SERVER_IPV6],
                        port=PORT,
                        program=program,
                    )
                )
            yield Running(peer.version, peer.pid)

    return start


@contextlib.contextmanager
def _knot_xdp(bench: Bench) -> Iterator[Running]:
    program = bench.programs.get("knot") or _find("knotd")
    with contextlib.ExitStack() as stack:
        # Knot may leave its program behind, which would be in the way of the next.
        stack.callback(bench.wire.server.run, "ip", "link", "set", SERVER_INTERFACE, "xdp", "off")
        with inside(bench.wire.server, bench.server_cpu):
            peer = stack.enter_context(
                knot.serve(
                    bench.zones.by_name(), bench.workdir, address=SERVER_IPV4, also=[SERVER_IPV6], port=PORT,
                    program=program, xdp_interface=SERVER_INTERFACE,
                )
            )  # fmt: skip
        # Its packets are taken where softirqs run; in a kernel thread they are on the server's core.
        yield Running(peer.version, peer.pid, stack.enter_context(answering_threads(bench.wire, bench.server_cpu)))


def _find(tool: str) -> str:
    path = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise SubjectUnavailable(f"{tool} is not installed")
    return path


def _rootsrv(fastpath: str = "") -> Callable[[Bench], contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(bench: Bench) -> Iterator[Running]:
        with instance(bench, fastpath) as (running, _):
            yield running

    return start


@contextlib.contextmanager
def instance(
    bench: Bench, fastpath: str = "", sections: str = "", tree: Path = HERE.parent
) -> Iterator[tuple[Running, config_file.Config]]:
    """rootsrv as it is in *tree*, with further *sections* of its configuration, and that configuration."""
    configuration = bench.workdir / "rootsrv.toml"
    configuration.write_text(_configuration(bench, fastpath) + sections)
    clock = [f"ROOTSRV_TEST_CLOCK={bench.zones.clock}"] if bench.zones.clock else []
    words = ["env", f"PYTHONPATH={tree}", "PYTHONSAFEPATH=1", *clock, sys.executable]  # not from where we are
    words += ["-m", "rootsrv", "run", "--config", str(configuration)]
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(_daemon(bench, "rootsrv", words, (".", "root-servers.net.")))
        loaded = config_file.load(configuration)
        threads: tuple[int, ...] = ()
        if fastpath:
            _await_fastpath(loaded)
            threads = stack.enter_context(answering_threads(bench.wire, bench.server_cpu))
        yield Running(__version__, session, threads), loaded


def _await_fastpath(loaded: config_file.Config) -> None:
    """Until the kernel answers from a table; SubjectUnavailable says why it does not."""
    deadline = time.monotonic() + _FASTPATH_SECONDS
    status: Mapping[str, Any] = {}
    while time.monotonic() < deadline:
        with contextlib.suppress(client.NoAnswer):
            status, _ = asking.ask(loaded, "serve", {"command": "fastpath-status"}, _STATUS_SECONDS)
            if status["unavailable"]:
                break
            if status["active"] and any(each["hook"] != "off" for each in status["interfaces"]):
                return
        time.sleep(0.1)
    raise SubjectUnavailable(status.get("unavailable") or f"the fast path does not answer: {status}")


def _configuration(bench: Bench, fastpath: str) -> str:
    text = f"""
[service]
addresses = ["{SERVER_IPV4}", "{SERVER_IPV6}"]
port = {PORT}
workers = 1
[identity]
nsid = "bench.example"
[[zone]]
name = "."
file = "{bench.zones.root}"
trust_anchors = "{bench.zones.anchors}"
[[zone]]
name = "root-servers.net."
file = "{bench.zones.hosts}"
validation = "none"
[state]
directory = "{bench.workdir}/state"
runtime_directory = "{bench.workdir}/run"
[report]
addresses = ["127.0.0.1"]
port = {METRICS_PORT}
"""
    return text if not fastpath else text + f'[fastpath]\nmode = "{fastpath}"\ninterfaces = ["{SERVER_INTERFACE}"]\n'


@contextlib.contextmanager
def _blind_sockets(bench: Bench) -> Iterator[Running]:
    program = bench.workdir / "reflector"
    c_source.program("blind/reflector.c", program)
    words = [str(program), str(PORT), str(bench.reply_octets), SERVER_IPV4, SERVER_IPV6]
    with _daemon(bench, "reflector", words, zones=()) as session:
        yield Running("", session)


@contextlib.contextmanager
def _blind_kernel(bench: Bench) -> Iterator[Running]:
    with libbpf.BpfObject.open(compiled("reflector"), "reflector") as reflector:
        reflector.load()
        reflector.map("settings").update(0, bench.reply_octets.to_bytes(4, sys.byteorder))
        with _attached(bench, reflector.program("reflect")) as running:
            yield running


@contextlib.contextmanager
def lookup_program(table: bytes) -> Iterator[libbpf.BpfObject]:
    """bench/bpf/lookup.bpf.c with *table*: programs look_up_xdp and look_up_tc."""
    with libbpf.BpfObject.open(compiled("lookup"), "lookup") as loaded:
        loaded.load()
        room = loaded.map("tables")
        with mmap.mmap(room.fd, -(-room.value_size // mmap.PAGESIZE) * mmap.PAGESIZE) as copied:
            copied[: len(table)] = table
        yield loaded


def _lookup_kernel(hook: str) -> Callable[[Bench], contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(bench: Bench) -> Iterator[Running]:
        with (
            lookup_program(compile_table(*bench.zones.verified())) as loaded,
            _attached(bench, loaded.program(f"look_up_{hook}"), hook) as running,
        ):
            yield running

    return start


@contextlib.contextmanager
def _attached(bench: Bench, program: int, hook: str = "xdp") -> Iterator[Running]:
    """A benchmark's own program, attached to the server's interface."""
    with inside(bench.wire.server, bench.server_cpu):
        ifindex = socket.if_nametoindex(SERVER_INTERFACE)
        if hook == "xdp":
            link = libbpf.link(program, ifindex, libbpf.ATTACH_XDP, libbpf.XDP_DRIVER_MODE)
        else:
            link = libbpf.link(program, ifindex, libbpf.ATTACH_TCX_INGRESS)
    try:
        with answering_threads(bench.wire, bench.server_cpu) as threads:
            yield Running("", 0, threads)
    finally:
        os.close(link)


@contextlib.contextmanager
def answering_threads(wire: Wire, cpu: int) -> Iterator[tuple[int, ...]]:
    """Have the server interface's packets handled by kernel threads on *cpu*, one per queue: their pids.

    Otherwise an answer from the kernel is made on whatever core the query came from, which is the generator's.
    """
    before = set(_napi_threads())
    set_threaded = f"mount -t sysfs none /sys && echo %d > /sys/class/net/{SERVER_INTERFACE}/threaded"
    wire.server.run("unshare", "--mount", "sh", "-c", set_threaded % 1)
    try:
        new = [pid for pid in _napi_threads() if pid not in before]
        for pid in new:
            os.sched_setaffinity(pid, {cpu})
            # On a box a card's packets are handled in softirqs, before any process.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
        yield tuple(new)
    finally:
        with contextlib.suppress(NetworkUnavailable):  # it is gone already
            wire.server.run("unshare", "--mount", "sh", "-c", set_threaded % 0)


def _napi_threads() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().startswith(f"napi/{SERVER_INTERFACE[:8]}"):
                    yield int(entry.name)


@contextlib.contextmanager
def _daemon(bench: Bench, name: str, command: list[str], zones: tuple[str, ...] = (".",)) -> Iterator[int]:
    log = bench.workdir / f"{name}.log"

    def says_ready() -> bool:
        return log.read_text() == "ready\n"

    answers = daemon.answers_for(SERVER_IPV4, PORT, zones) if zones else says_ready
    with contextlib.ExitStack() as stack:
        with inside(bench.wire.server, bench.server_cpu):
            session = stack.enter_context(daemon.running(name, command, log, answers))
        yield session


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("rootsrv", _rootsrv(), "rootsrv", "asyncio server, one worker"),
        Subject("rootsrv tc", _rootsrv("tc"), "rootsrv", "fast path at tc ingress, one worker behind it", True),
        Subject("rootsrv XDP", _rootsrv("xdp"), "rootsrv", "fast path in native XDP, one worker behind it", True),
        Subject("NSD", _peer("NSD", "nsd"), remark="Debian's is built without recvmmsg"),
        Subject("Knot", _peer("Knot", "knotd"), remark="sockets, one UDP worker"),
        Subject("Knot XDP", _knot_xdp, remark="AF_XDP on veth, one worker"),
        Subject("BIND", _peer("BIND", "named")),
        Subject("PowerDNS", _peer("PowerDNS", "pdns_server"), remark="packet cache on, as shipped"),
        Subject("blind sockets", _blind_sockets, "limit", "recvmmsg/sendmmsg in C, looks at nothing"),
        Subject(LOOKUP, _lookup_kernel("xdp"), "limit", "XDP on veth: looks up, copies and sends only", True),
        Subject(LOOKUP_TC, _lookup_kernel("tc"), "limit", "the same at tc ingress", True),
        Subject("blind kernel", _blind_kernel, "limit", "XDP on veth, looks at nothing", in_kernel=True),
    )
}
