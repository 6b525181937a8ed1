"""`python -m bench localroot`: a new root to thousands of subscribers, and to 500 from NSD and Knot in the same run.

The subscribers are one process: each has an address of its own on loopback (127.64.0.0/10) and a TSIG key of its own,
confirms NOTIFY, connects at once, takes all of the zone and closes.  What counts is the run time that the scheduler
gave the server's processes from the first NOTIFY on.
"""

import contextlib
import multiprocessing
import selectors
import socket
import statistics
import struct
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench import machine, processes, report
from bench.engine_process import stand_apart
from bench.localroot_subjects import SUBJECTS, Subject, address_of
from bench.peers import PeerFailed
from bench.transfers import tree_nanoseconds
from bench.zones import generated
from rootsrv.wire import name as names
from rootsrv.wire.message import AXFR, parse
from rootsrv.wire.tsig import Key, Signer, Tsig

AT_A_TIME = 100
"""Transfers that the subscribers have open; more wait, as on a line that is full."""

PATIENCE_SECONDS = 120.0
_CONTEXT = multiprocessing.get_context("spawn")
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)


@dataclass
class Subscriber:
    """One resolver."""

    address: str
    key: Key
    octets: int = 0
    """Of the transfer that runs, so far."""

    notified: float = 0.0
    done: float = 0.0
    client: socket.socket | None = field(default=None, repr=False)


class Subscribers:
    """All of them: told by NOTIFY, each takes the zone once."""

    def __init__(self, keys: Sequence[tuple[str, str, bytes]], server: tuple[str, int], notify_port: int) -> None:
        made = (Key.make(names.from_text(name), algorithm, secret) for name, algorithm, secret in keys)
        self.all = [Subscriber(address_of(number), key) for number, key in enumerate(made)]
        self._by_address = {each.address: each for each in self.all}
        self._server = server
        self._selector = selectors.DefaultSelector()
        self._waiting: deque[Subscriber] = deque()
        self._open = 0
        self._left = len(self.all)
        self.begun: Callable[[], None] = lambda: None
        """Called at the first NOTIFY."""

        self._octets = 0
        self._buffer = bytearray(1 << 20)
        self.failed: list[str] = []
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_000_000)
        self.udp.bind(("0.0.0.0", notify_port))
        self._selector.register(self.udp, selectors.EVENT_READ, None)
        self.tcp = socket.create_server(("0.0.0.0", notify_port), backlog=1000)  # Knot notifies over TCP
        self.tcp.setblocking(False)
        self._selector.register(self.tcp, selectors.EVENT_READ, self.tcp)

    def serve(self, octets: int, until: float) -> None:
        """Until everybody has a transfer of *octets*, or it is *until* (monotonic)."""
        self._octets = octets
        while self._left and time.monotonic() < until:
            for ready, _ in self._selector.select(0.5):
                if ready.data is None:
                    self._notified()
                elif ready.data is self.tcp:
                    self._notified_over_tcp()
                else:
                    self._read(ready.data)
            while self._waiting and self._open < AT_A_TIME:
                self._connect(self._waiting.popleft())

    def _notified(self) -> None:
        for _ in range(256):
            try:
                octets, extra, _, source = self.udp.recvmsg(4096, 256)
            except BlockingIOError:
                return
            local = next(data for level, kind, data in extra if kind == _IP_PKTINFO)
            subscriber = self._by_address.get(socket.inet_ntoa(local[8:12]))
            if subscriber is None:
                continue
            response = confirmation(subscriber, octets)
            told = struct.pack("=I4s4s", 0, local[8:12], local[8:12])
            self.udp.sendmsg([response], [(socket.IPPROTO_IP, _IP_PKTINFO, told)], 0, source)
            self._told(subscriber)

    def _notified_over_tcp(self) -> None:
        client, _ = self.tcp.accept()
        with client:
            client.settimeout(5)
            subscriber = self._by_address.get(client.getsockname()[0])
            octets = client.recv(4096)
            if subscriber is not None and len(octets) > 2:
                response = confirmation(subscriber, octets[2:])
                client.sendall(len(response).to_bytes(2, "big") + response)
                self._told(subscriber)

    def _told(self, subscriber: Subscriber) -> None:
        if not subscriber.notified:
            self.begun()
            self.begun = lambda: None
            subscriber.notified = time.monotonic()
            self._waiting.append(subscriber)

    def _connect(self, subscriber: Subscriber) -> None:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            client.bind((subscriber.address, 0))
            client.settimeout(20)
            client.connect(self._server)
            client.sendall(question(subscriber.key))
        except OSError as error:
            client.close()
            self._end(subscriber, f"{subscriber.address}: {error}")
            return
        client.setblocking(False)
        subscriber.client = client
        self._open += 1
        self._selector.register(client, selectors.EVENT_READ, subscriber)

    def _read(self, subscriber: Subscriber) -> None:
        client = subscriber.client
        assert client is not None
        fault = ""
        try:
            got = client.recv_into(self._buffer)
            subscriber.octets += got
            if not got:
                fault = f"{subscriber.address}: ended after {subscriber.octets} octets"
            elif subscriber.octets < 200:
                fault = f"{subscriber.address}: refused"
        except BlockingIOError:
            return
        except OSError as error:
            fault = f"{subscriber.address}: {error}"
        if fault or subscriber.octets >= self._octets:
            self._selector.unregister(client)
            client.close()
            self._open -= 1
            self._end(subscriber, fault)

    def _end(self, subscriber: Subscriber, fault: str) -> None:
        self._left -= 1
        if fault:
            self.failed.append(fault)
        else:
            subscriber.done = time.monotonic()


def confirmation(subscriber: Subscriber, octets: bytes) -> bytes:
    """The response to the NOTIFY *octets*, signed if that is."""
    message = parse(octets)
    response = octets[:2] + b"\xa4\0\0\1\0\0\0\0\0\0" + b"\0\0\6\0\1"
    if message.tsig is not None:
        response = Signer(subscriber.key, Tsig.parse(message.tsig.rdata).mac).sign(response, time.time())
    return response


def question(key: Key) -> bytes:
    """A signed AXFR query for the root, with its length."""
    query = Signer(key).sign(b"\0\1\0\0\0\1\0\0\0\0\0\0\0\0\xfc\0\1", time.time())
    assert AXFR == 0xFC
    return len(query).to_bytes(2, "big") + query


def _subscribers(ready: Connection, keys: Sequence[tuple[str, str, bytes]], server: tuple[str, int], port: int) -> None:
    stand_apart()
    made = Subscribers(keys, server, port)
    ready.send("listening")
    octets, seconds = ready.recv()
    made.begun = lambda: ready.send("begun")
    made.serve(octets, time.monotonic() + seconds)
    ready.send(
        {
            "notified": [each.notified for each in made.all],
            "done": [each.done for each in made.all],
            "failed": made.failed,
        }
    )


@contextlib.contextmanager
def _client(keys: Sequence[tuple[str, str, bytes]], server: tuple[str, int], port: int) -> Iterator[Connection]:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_subscribers, args=(theirs, keys, server, port), daemon=True)
    process.start()
    try:
        ours.recv()
        yield ours
    finally:
        process.kill()
        process.join()


def run(*, subscribers: int = 10_000, beside: int = 500, mbit: float = 0.0, tlds: int = 1440) -> dict[str, Any]:
    """All figures; *mbit*: the bandwidth that NOTIFYs are paced to, 0 = none."""
    result: dict[str, Any] = {"machine": machine.describe(), "subjects": {}, "left_out": {}, "mbit": mbit}
    with report.kept(result), tempfile.TemporaryDirectory(prefix="rs-bench-localroot-") as directory:
        first = generated(Path(directory), tlds)
        second = first.successor(Path(directory))
        result["zones"] = first.origin
        wanted = [("rootsrv", subscribers, SUBJECTS["rootsrv"])] if subscribers else []
        wanted += [(kind, beside, make) for kind, make in SUBJECTS.items() if beside]
        for kind, number, make in wanted:
            label = f"{kind}, {number:,}"
            workdir = Path(directory) / label.replace(", ", "-").replace(",", "")
            workdir.mkdir()
            try:
                with make(workdir, first, second, number, mbit) as subject:
                    result["subjects"][label] = _measure(subject, number)
            except (PeerFailed, OSError, EOFError, AssertionError) as error:
                result["left_out"][label] = f"{type(error).__name__}: {error}"[-400:]
    return result


def _measure(subject: Subject, number: int) -> dict[str, Any]:
    octets = _octets(subject)
    with _client(subject.keys, subject.address, subject.notify_port) as client:
        client.send((octets, PATIENCE_SECONDS))
        sampled = _Samples(subject)
        began = time.monotonic()
        with sampled:
            subject.publish()
            if client.recv() != "begun":
                raise PeerFailed("nobody was notified")
            before = tree_nanoseconds(subject.pid)
            got = client.recv()
        used = tree_nanoseconds(subject.pid) - before
    notified = sorted(each for each in got["notified"] if each)
    done = sorted(each for each in got["done"] if each)
    if not done:
        raise AssertionError(f"nobody had the zone: {got['failed'][:3]}")
    return {
        "subscribers": number,
        "octets": octets,
        "served": len(done),
        "failed": got["failed"][:5],
        "first_notify_seconds": notified[0] - began,
        "notify_to_last_seconds": done[-1] - notified[0],
        "notify_to_own_ms": statistics.median(
            1000 * (end - start) for start, end in zip(got["notified"], got["done"], strict=True) if end
        ),
        "cpu_ms_per_axfr": used / 1e6 / len(done),
        "memory_octets": sampled.peak,
        "other_zone_ms": sampled.probes,
    }


def _octets(subject: Subject) -> int:
    """Of one transfer; what OPT and TSIG add is the same for every key of the same length of name."""
    name, algorithm, secret = subject.keys[0]
    key = Key.make(names.from_text(name), algorithm, secret)
    source = (address_of(0), 0)
    total = 0
    with socket.create_connection(subject.address, timeout=20, source_address=source) as client:
        client.sendall(question(key))
        stream = client.makefile("rb")
        soas = 0
        while soas < 2:
            size = int.from_bytes(stream.read(2), "big")
            message = stream.read(size)
            total += 2 + size
            answers = parse(message).answers
            if not answers:
                raise PeerFailed("the first transfer was refused")
            soas += sum(each[1] == 6 for each in (answers[0], answers[-1])) if len(answers) > 1 else 1
    return total - 4096  # the next version differs a little


class _Samples:
    """Memory of the server, and how long another zone takes, ten times a second."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak = 0
        self.probes: list[float] = []

    def __enter__(self) -> "_Samples":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            self.peak = max(self.peak, sum(map(processes.memory_octets, processes.tree(self._subject.pid))))
            if self._subject.probe is not None:
                began = time.monotonic()
                with contextlib.suppress(OSError, EOFError):
                    self._subject.probe()
                    self.probes.append(1000 * (time.monotonic() - began))


def to_markdown(result: dict[str, Any]) -> str:
    """A table."""
    pace = f"paced to {result['mbit']:g} Mbit/s" if result["mbit"] else "not paced"
    columns = (
        "primary, subscribers",
        "served",
        "NOTIFY to the last transfer (s)",
        "to one's own (ms, median)",
        "ms of processor time per AXFR",
        "memory, peak (MB)",
        "another zone meanwhile (ms, median … worst)",
    )
    lines = [
        f"Zone: {result['zones']}.  NOTIFYs are {pace}; subscribers have at most {AT_A_TIME} transfers open.",
        "",
        f"| {' | '.join(columns)} |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for label, found in result["subjects"].items():
        probes = found["other_zone_ms"]
        other = f"{statistics.median(probes):.1f} … {max(probes):.1f}" if probes else "–"
        lines.append(
            f"| {label} | {found['served']:,} | {found['notify_to_last_seconds']:.1f} | {found['notify_to_own_ms']:.0f}"
            f" | {found['cpu_ms_per_axfr']:.2f} | {found['memory_octets'] / 1e6:.0f} | {other} |"
        )
    lines += [f"\n{label} was left out: {reason}" for label, reason in result["left_out"].items()]
    return "\n".join(lines) + "\n"
