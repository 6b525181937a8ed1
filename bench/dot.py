"""`python -m bench dot`: processor time of DNS over TLS, per handshake and per query, by engine and beside NSD.

All servers run at once and are asked in turns; what is counted is the server's own processor time, so the client, which
is Python, is no bound.  Knot DNS has DNS over TLS from 3.4 on: where that is installed, or named by `--knot`, it stands
beside the others.
"""

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import instance, processes
from bench.dot_engine import ENGINES
from bench.peers import knot, nsd
from bench.peers.daemon import PeerFailed, free_port, release_of, version_of
from rootsrv.demo.signed import GeneratedRoot
from rootsrv.zone import presentation

MANNERS = ("handshake and a query", "one outstanding", "pipelined by 16")
CONNECTIONS = 16
_START_SECONDS = 60.0
_KNOT_WITH_TLS = 3, 4


@dataclass
class Server:
    """One that answers over TLS."""

    name: str
    port: int
    pids: Callable[[], Sequence[int]]
    microseconds: dict[str, list[float]] = field(default_factory=lambda: {manner: [] for manner in MANNERS})
    """Of processor time per query, a number for each round."""


@dataclass(frozen=True)
class Zones:
    """What is served: files, and the table for the engines alone."""

    directory: Path
    generated: GeneratedRoot
    table: bytes


def run(zones: Zones, *, rounds: int, handshakes: int, queries: int, knotd: str | None = None) -> list[Server]:
    """Every server, asked in turns: so many handshakes, and so many queries in the other manners, in a round.

    *knotd*: the knotd that stands beside them, if it can do DNS over TLS.
    """
    with contextlib.ExitStack() as stack:
        (zones.directory / "root.zone").write_text(presentation.to_text(zones.generated.root))
        (zones.directory / "table").write_bytes(zones.table)
        servers = [stack.enter_context(_rootsrv(zones)), stack.enter_context(_nsd(zones))]
        if knotd is not None and release_of(version_of([knotd, "--version"])) >= _KNOT_WITH_TLS:
            servers.append(stack.enter_context(_knot(zones, knotd)))
        servers += [stack.enter_context(_engine(each, zones.directory / "table")) for each in ENGINES]
        for server in servers:
            _await(server)
        for _ in range(rounds):
            for server in servers:
                try:
                    _measure(server, handshakes, queries)
                except (OSError, PeerFailed) as error:
                    raise PeerFailed(f"{server.name}: {error}") from error
        return servers


def to_text(servers: Sequence[Server]) -> str:
    """A table: medians over the rounds, microseconds of processor time per query."""
    lines = ["| server | " + " | ".join(MANNERS) + " |", "|---|" + "---|" * len(MANNERS)]
    for server in servers:
        figures = (f"{median(server.microseconds[manner]):.1f}" for manner in MANNERS)
        lines.append(f"| {server.name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _measure(server: Server, handshakes: int, queries: int) -> None:
    def spent() -> int:
        return sum(map(processes.cpu_nanoseconds, server.pids()))

    def note(manner: str, amount: int, before: int) -> None:
        server.microseconds[manner].append((spent() - before) / amount / 1000)

    before = spent()
    for _ in range(handshakes):
        with _connect(server.port) as connection:
            _ask([connection], 1)
    note(MANNERS[0], handshakes, before)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(_connect(server.port)) for _ in range(CONNECTIONS)]
        _ask(connections, 1)
        for manner, at_once in ((MANNERS[1], 1), (MANNERS[2], 16)):
            turns = max(1, queries // (CONNECTIONS * at_once))
            before = spent()
            for _ in range(turns):
                _ask(connections, at_once)
            note(manner, turns * CONNECTIONS * at_once, before)


_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_CONTEXT.check_hostname = False
_CONTEXT.verify_mode = ssl.CERT_NONE
_CONTEXT.set_alpn_protocols(["dot"])

# www.example.com A, with DO; the TLD differs from message to message.
_QUERIES = [
    b"\0\x2c" + number.to_bytes(2, "big") + b"\0\0\0\1\0\0\0\0\0\1\3www\7example" + label + b"\0\0\1\0\1"
    b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"
    for number, label in enumerate((b"\3com", b"\3net", b"\3org", b"\3xyz"))
]


def _connect(port: int) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), 10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return _CONTEXT.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def _ask(connections: Sequence[ssl.SSLSocket], at_once: int) -> None:
    """So many queries at once on each connection, and their responses.

    Each in a record of its own: NSD 4.6 does not answer what is left in a record of which it has read a part.
    """
    for connection in connections:
        for number in range(at_once):
            connection.sendall(_QUERIES[number % len(_QUERIES)])
    for connection in connections:
        left, rest = at_once, b""
        while left:
            more = connection.recv(65_536)
            if not more:
                raise PeerFailed("a server has closed a connection that was not over")
            rest += more
            while len(rest) >= 2 and len(rest) >= 2 + (size := rest[0] << 8 | rest[1]):
                rest = rest[2 + size :]
                left -= 1


def _await(server: Server) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with _connect(server.port) as connection:
                _ask([connection], 1)
            return
        except (OSError, PeerFailed) as error:
            if time.monotonic() > deadline:
                raise PeerFailed(f"{server.name}: does not answer over TLS: {error}") from error
            time.sleep(0.1)


@contextlib.contextmanager
def _engine(name: str, table: Path) -> Iterator[Server]:
    """One of ENGINES alone, around a responder."""
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "bench.dot_engine", name, str(port), str(table)]
    with subprocess.Popen(command, cwd=instance.REPOSITORY, start_new_session=True) as process:
        try:
            yield Server(f"{name} alone", port, lambda: [process.pid])
        finally:
            process.kill()


@contextlib.contextmanager
def _rootsrv(zones: Zones) -> Iterator[Server]:
    """The whole of it."""
    directory = zones.directory / "rootsrv"
    directory.mkdir()
    (directory / "anchors").write_text(zones.generated.trust_anchor + "\n")
    port = free_port("127.0.0.1")
    path = directory / "rootsrv.toml"
    path.write_text(
        f"""
[service]
addresses = ["127.0.0.1"]
port = {free_port("127.0.0.1")}
workers = 1
[dot]
port = {port}
[[zone]]
name = "."
file = "{zones.directory}/root.zone"
trust_anchors = "anchors"
[state]
directory = "state"
runtime_directory = "run"
"""
    )
    process = instance.start(path)

    def pids() -> list[int]:
        return [each for each in processes.of_session(process.pid) if b"rootsrv.dot.worker" in _command(each)]

    try:
        yield Server("rootsrv", port, pids)
    finally:
        instance.end(process)


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@contextlib.contextmanager
def _nsd(zones: Zones) -> Iterator[Server]:
    directory = zones.directory / "nsd"
    directory.mkdir()
    key, certificate, port = directory / "key", directory / "certificate", free_port("127.0.0.1")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
         "/CN=bench", "-days", "2", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    options = (
        f"ip-address: 127.0.0.1@{port}",
        f'tls-service-key: "{key}"',
        f'tls-service-pem: "{certificate}"',
        f"tls-port: {port}",
    )
    with nsd.serve({".": zones.directory / "root.zone"}, directory, options=options) as peer:
        yield Server(f"NSD {peer.version}", port, lambda: list(processes.of_session(os.getsid(peer.pid))))


@contextlib.contextmanager
def _knot(zones: Zones, knotd: str) -> Iterator[Server]:
    directory = zones.directory / "knot-tls"
    directory.mkdir()
    port = free_port("127.0.0.1")
    files = {".": zones.directory / "root.zone"}
    with knot.serve(files, directory, program=knotd, tls_port=port) as peer:
        yield Server(f"Knot {peer.version}", port, lambda: list(processes.of_session(os.getsid(peer.pid))))
