"""Starting, awaiting and ending a daemon in the foreground."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

START_SECONDS = 60.0
"""A daemon that has not answered by then has failed; a loaded machine takes a few seconds for a root zone."""

STOP_SECONDS = 10.0

_GIVEN_SECONDS = 120.0


class PeerFailed(Exception):
    """A daemon did not start, did not answer or ended by itself."""


class ToolMissing(PeerFailed):
    """A program is not installed."""


def tool(name: str) -> str:
    """The path of the program *name*; also looks where Debian keeps daemons, which a user's PATH leaves out."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/lib/frr")
    if path is None:
        raise ToolMissing(f"{name} is not installed (tests/system-packages.txt)")
    return path


class Namespace(Protocol):
    """A network namespace that somebody else made."""

    @property
    def prefix(self) -> list[str]:
        """What to put before a command so that it runs there."""


@dataclass(frozen=True)
class Peer:
    """A daemon that runs and answers."""

    name: str
    version: str
    address: str
    port: int
    pid: int
    log: Path


_given: list[tuple[float, int]] = []
"""Until when, CLOCK_MONOTONIC, a port is nobody else's, and the socket that says so to other processes."""


def free_port(*addresses: str) -> int:
    """A port that neither UDP nor TCP uses at *addresses* (none given: loopback, of both IP versions).

    It is outside the range that the kernel gives to clients, and given to nobody else for `_GIVEN_SECONDS`, here or in
    another process of this machine, so that it can be bound later: a name is kept that only one socket can have.
    """
    addresses = addresses or ("127.0.0.1", "::1")
    now = time.monotonic()
    while _given and _given[0][0] < now:
        os.close(_given.pop(0)[1])
    for _ in range(1000):
        port = random.SystemRandom().randrange(10000, 32000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            name = stack.enter_context(socket.socket(socket.AF_UNIX))
            name.bind(f"\0rootsrv port {port}")
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    stack.enter_context(socket.socket(family, kind)).bind((address, port))
            # A bare descriptor: the kernel closes it with the process, where Python would warn of a socket left open.
            _given.append((now + _GIVEN_SECONDS, name.dup().detach()))
            return port
    raise PeerFailed(f"{', '.join(addresses)}: no free port found")


def version_of(command: Sequence[str]) -> str:
    """The first version number that *command* prints."""
    printed = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", printed.stdout + printed.stderr)
    if found is None:
        raise PeerFailed(f"{' '.join(command)}: prints no version: {printed.stdout}{printed.stderr}")
    return found.group()


def release_of(version: str) -> tuple[int, ...]:
    """*version* as numbers that compare: (9, 20, 11) of 9.20.11."""
    return tuple(int(number) for number in version.split("."))


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], log: Path, ready: Callable[[], bool], start_seconds: float = START_SECONDS
) -> Iterator[int]:
    """Run *command* until the block ends; its pid, once *ready* says so.  PeerFailed tells what *log* says last."""
    # A test run that is killed takes its daemons along.
    with_parent = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*with_parent, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + start_seconds
        while not ready():
            if (status := process.poll()) is not None:
                raise PeerFailed(f"{name}: ended with status {status} at start: {tail(log)}")
            if time.monotonic() > deadline:
                raise PeerFailed(f"{name}: does not answer after {start_seconds} s: {tail(log)}")
            time.sleep(0.05)
        yield process.pid
        if (status := process.poll()) is not None:
            raise PeerFailed(f"{name}: ended by itself with status {status}: {tail(log)}")
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Whatever it forked is in the session that was made for it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def tail(log: Path, lines: int = 15) -> str:
    """The end of *log*."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def answers_for(address: str, port: int, zones: Sequence[str]) -> Callable[[], bool]:
    """A predicate: the server answers an SOA query for each zone with AA and one answer over UDP."""

    def ready() -> bool:
        return all(_answers(address, port, zone) for zone in zones)

    return ready


def _answers(address: str, port: int, zone: str) -> bool:
    labels = [label.encode() for label in zone.rstrip(".").split(".") if label]
    qname = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    query = b"\x12\x34\0\0\0\x01\0\0\0\0\0\0" + qname + b"\0\x06\0\x01"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client, contextlib.suppress(OSError):
        client.settimeout(0.5)
        client.connect((address, port))
        client.send(query)
        response = client.recv(65535)
        # Same id, QR and AA set, NOERROR, at least one answer record.
        return (
            response[:2] == query[:2]
            and response[2] & 0x84 == 0x84
            and response[3] & 0x0F == 0
            and response[6:8] != b"\0\0"
        )
    return False


def serve_daemon(
    name: str,
    version: str,
    configure: Callable[[int], Sequence[str]],
    *,
    zones: Sequence[str],
    workdir: Path,
    address: str,
    port: int | None,
) -> contextlib.AbstractContextManager[Peer]:
    """Run the name server that *configure* (given the port, returns the command) sets up, until the block ends."""
    return _serve(name, version, configure, tuple(zones), workdir, address, port)


@contextlib.contextmanager
def _serve(
    name: str,
    version: str,
    configure: Callable[[int], Sequence[str]],
    zones: tuple[str, ...],
    workdir: Path,
    address: str,
    port: int | None,
) -> Iterator[Peer]:
    log = workdir / f"{name}.log"
    # Somebody else may take a free port before the daemon does; then the daemon ends and another port is tried.
    attempts = 3 if port is None else 1
    with contextlib.ExitStack() as stack:
        for attempt in range(1, attempts + 1):
            chosen = free_port(address) if port is None else port
            try:
                pid = stack.enter_context(running(name, configure(chosen), log, answers_for(address, chosen, zones)))
            except PeerFailed as failure:
                if attempt == attempts or "in use" not in str(failure):
                    raise
            else:
                break
        yield Peer(name, version, address, chosen, pid, log)
