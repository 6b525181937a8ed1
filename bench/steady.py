"""A steady client that asks on schedule, whatever comes back, and a reflector that shows what the machine itself does.

The client runs before all others where it may (SCHED_FIFO), so that what it measures is not its own waiting for a core.
It asks the server and, in between, a reflector: a process of ordinary priority that does nothing but send each datagram
back.  What the reflector shows is the machine: scheduler, loopback, interrupts, and what else runs.
"""

import contextlib
import gc
import multiprocessing
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from bench.engine_process import stand_apart

QUERY = b"\0\0\0\0\0\1\0\0\0\0\0\1\x03www\x07example\x03org\0\0\1\0\1\0\0\x29\4\xd0\0\0\x80\0\0\0"
PATIENCE_SECONDS = 1.0  # a query without a response after that is lost
_PORTS = 8  # the kernel spreads queries over the workers by port
_REFLECTED_SHARE = 4  # one datagram to the reflector for so many queries

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One datagram: when it was sent (CLOCK_MONOTONIC) and how long its response took; None = lost."""

    at: float
    seconds: float | None


@dataclass
class Steady:
    """A client that is running."""

    _process: multiprocessing.Process
    _orders: Connection

    def stop(self) -> tuple[list[Sample], list[Sample], bool]:
        """(of the server, of the reflector, whether the client ran before all others)."""
        self._orders.send(None)
        server, reflector, first = self._orders.recv()
        self._process.join()
        return server, reflector, first


@contextlib.contextmanager
def asking(server: Address, queries_a_second: int) -> Iterator[Steady]:
    """Ask *server* until `Steady.stop`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        reflector = multiprocessing.Process(target=_reflect, args=(bound,), daemon=True)
        ours, theirs = multiprocessing.Pipe()
        client = multiprocessing.Process(
            target=_ask, args=(server, bound.getsockname(), queries_a_second, theirs), daemon=True
        )
        reflector.start()
        client.start()
        try:
            yield Steady(client, ours)
        finally:
            for each in (client, reflector):
                each.terminate()
                each.join()


def _reflect(bound: socket.socket) -> None:
    stand_apart()
    while True:
        octets, source = bound.recvfrom(4096)
        bound.sendto(octets, source)


def _connected(address: Address) -> socket.socket:
    each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    each.connect(address)
    each.setblocking(False)
    return each


def _ask(server: Address, reflector: Address, queries_a_second: int, orders: Connection) -> None:
    stand_apart()
    gc.disable()  # a walk through all samples takes a millisecond
    first = True
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        first = False
    # Per target: sockets, samples, and by number of the datagram when it was sent.
    targets = [([_connected(server) for _ in range(_PORTS)], [], {}), ([_connected(reflector)], [], {})]  # type: ignore[var-annotated]
    by_descriptor = {each.fileno(): (each, target) for target in targets for each in target[0]}
    poll = select.epoll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    due, number = time.monotonic(), 0
    while not orders.poll():
        while (now := time.monotonic()) >= due:
            due += 1 / queries_a_second
            number += 1
            for target in targets[: 1 + (number % _REFLECTED_SHARE == 0)]:
                _send(target, number)
        for descriptor, _ in poll.poll(max(0.0, due - now)):
            _receive(*by_descriptor[descriptor])
    end = time.monotonic() + PATIENCE_SECONDS
    while any(waiting for _, _, waiting in targets) and (left := end - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left):
            _receive(*by_descriptor[descriptor])
    for _, samples, waiting in targets:
        samples += [Sample(at, None) for at in waiting.values()]
    orders.send((targets[0][1], targets[1][1], first))


def _send(target: tuple[list[socket.socket], list[Sample], dict[int, float]], number: int) -> None:
    sockets, _, waiting = target
    waiting[number & 0xFFFF] = time.monotonic()
    sockets[number % len(sockets)].send((number & 0xFFFF).to_bytes(2, "big") + QUERY[2:])


def _receive(each: socket.socket, target: tuple[list[socket.socket], list[Sample], dict[int, float]]) -> None:
    _, samples, waiting = target
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
        while True:
            number = int.from_bytes(each.recv(4096)[:2], "big")
            now = time.monotonic()
            if (sent := waiting.pop(number, None)) is not None:
                taken = now - sent
                samples.append(Sample(sent, taken if taken <= PATIENCE_SECONDS else None))
