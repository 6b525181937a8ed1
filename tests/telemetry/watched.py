"""A running instance with its metrics and status page, and a client that sends an exact number of queries."""

import contextlib
import os
import re
import signal
import socket
import struct
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.daemon import free_port
from tests.server.live import START_SECONDS, Instance, configure, start, wait_until

REPORT_ADDRESS = "127.0.0.2"
"""Loopback too, and no service address."""

QUESTIONS = (
    b"\0\0\6\0\1",  # . SOA
    b"\7no-such\3tld\0\0\1\0\1",
    b"\x0bno-such-tld\0\0\2\0\1",
)


@dataclass
class Watched:
    """The instance, and where it reports."""

    instance: Instance
    port: int
    """Of HTTP, on REPORT_ADDRESS."""

    sent: dict[str, int] = field(default_factory=dict)
    """Queries that `load` sent and that were answered, by path (udp-ipv4 …)."""

    def get(self, path: str, **headers: str) -> str:
        """The page at *path*."""
        request = urllib.request.Request(f"http://{REPORT_ADDRESS}:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            text: str = response.read().decode()
            return text

    def metrics(self) -> "dict[str, float]":
        """Every sample: name with labels in the order of the alphabet → value."""
        return samples(self.get("/metrics"))

    def load(self, amount: int, *, tcp: bool = False, address: str = "127.0.0.1") -> None:
        """Send *amount* queries and wait for the response to each, and until all are counted."""
        before = total(self.metrics(), "rootsrv_queries_total")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        path = f"{'tcp' if tcp else 'udp'}-{'ipv6' if family == socket.AF_INET6 else 'ipv4'}"
        with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as asking:
            asking.settimeout(5)
            asking.connect((address, self.instance.port))
            stream = asking.makefile("rb") if tcp else None
            for first in range(0, amount, 50):
                batch = range(first, min(amount, first + 50))
                for number in batch:
                    message = query(number)
                    asking.send(struct.pack("!H", len(message)) + message if tcp else message)
                for _ in batch:
                    if stream is None:
                        assert len(asking.recv(4096)) > 12
                    else:
                        (size,) = struct.unpack("!H", stream.read(2))
                        assert len(stream.read(size)) == size
            if stream is not None:
                stream.close()
        self.sent[path] = self.sent.get(path, 0) + amount

        # What comes in one turn of a worker is counted when it has been answered.
        def is_counted() -> bool:
            return total(self.metrics(), "rootsrv_queries_total") >= before + amount

        wait_until(is_counted, "all are counted")


def query(number: int) -> bytes:
    """The query of this number: id, and one of QUESTIONS."""
    return struct.pack("!HHHHHH", number & 0xFFFF, 0, 1, 0, 0, 0) + QUESTIONS[number % len(QUESTIONS)]


def samples(text: str) -> dict[str, float]:
    """The samples of a scrape."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def total(metrics: dict[str, float], name: str, **labels: str) -> float:
    """The sum of all samples *name* whose labels include *labels*."""
    return sum(
        value
        for sample, value in metrics.items()
        if re.match(re.escape(name) + r"(\{|$)", sample)
        and all(f'{label}="{wanted}"' in sample for label, wanted in labels.items())
    )


def configure_watched(directory: Path, port: int, report_port: int, workers: int = 1, more: str = "") -> Path:
    """Zones and a configuration with a [report] section in *directory*; *more*: further lines of it."""
    path = configure(directory, port, workers)
    path.write_text(
        path.read_text()
        + f"""
[report]
addresses = ["{REPORT_ADDRESS}"]
port = {report_port}
service = "x.root-servers.net"
{more}
"""
    )
    return path


def start_watched(path: Path, port: int, report_port: int, workers: int = 1) -> Watched:
    """Start an instance with the configuration at *path*; it is ready, and reports."""
    instance = start(path, port, workers)
    watched = Watched(instance, report_port)

    def is_up() -> bool:
        assert instance.process.poll() is None, instance.log
        return instance.is_ready() and "reporting addresses" in instance.log

    wait_until(is_up, "ready and reporting", START_SECONDS)
    return watched


@contextlib.contextmanager
def watched(directory: Path, *, workers: int = 1, more: str = "") -> Iterator[Watched]:
    """An instance that is ready and reports, stopped and reaped at the end whatever happens."""
    port, report_port = free_port(), free_port()
    path = configure_watched(directory, port, report_port, workers, more)
    running = start_watched(path, port, report_port, workers)
    try:
        yield running
    finally:
        end(running.instance)


def end(instance: Instance) -> None:
    """Stop it, in order if that can be."""
    with contextlib.suppress(ProcessLookupError):
        if instance.process.poll() is None:
            instance.stop()
        os.killpg(instance.process.pid, signal.SIGKILL)
    instance.process.wait()
