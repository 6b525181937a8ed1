"""Simulated members of a mesh, some hundreds to a process: they load the engine, and this machine little."""
# A member has a connection of its own (mutual TLS) with a watch of all keys of the service, and a lease.  What it reads
# is not decoded: HTTP/2 frames are told apart and searched for an order's mark, since a thousand members decode on a
# thousand machines (the client of the role mesh takes 50 µs for an event, this 3).  What members write (a status, signs
# of life) goes by that client, over a connection to each node that all members of a process share.
#
# All write their first status before anybody watches: a thousand that start at once would read a million statuses.

import asyncio
import contextlib
import multiprocessing
import os
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop
from hpack import Encoder

from bench.engine_process import stand_apart
from rootsrv.engine.etcd import EngineGone, Etcd, tls_context
from rootsrv.engine.messages import make

PER_PROCESS = 250
STATUS_OCTETS = 940
LEASE_SECONDS = 30
PREFIX = "/rootsrv/v1/bench/"

ORDER_MARK = b"\xf0order of the bench\xf1"
"""In front of an order's number (8 octets): nothing else that is written contains it."""

_AT_ONCE = 50  # that join: handshakes of all at once measure nothing but this process
_REQUEST_SECONDS = 10.0
_CONTEXT = multiprocessing.get_context("spawn")

# HTTP/2 (RFC 9113 §3.4, §6): windows as large as they get, so that nobody has to be told that there is room.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WINDOW = 2**31 - 1
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SIZE = 4
_HEAD_OCTETS = 9


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


@dataclass
class Heard:
    """What the members of a process have seen and done since the measurement began; times in seconds."""

    put_seconds: list[float] = field(default_factory=list)
    events: int = 0
    octets: int = 0
    failures: int = 0
    orders: dict[int, tuple[int, float]] = field(default_factory=dict)
    """By number: how many have heard of it, and when the last of them did (CLOCK_MONOTONIC)."""

    processor_seconds: float = 0.0


class Watch(asyncio.Protocol):
    """One member's connection."""

    def __init__(self, heard: Heard, authority: str) -> None:
        self._heard = heard
        self._authority = authority
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.watching: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the node has said that it watches."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the watch."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        headers = Encoder().encode(
            [
                (":method", "POST"),
                (":scheme", "https"),
                (":path", "/etcdserverpb.Watch/Watch"),
                (":authority", self._authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ]
        )
        prefix = PREFIX.encode()
        create = make("WatchCreateRequest", key=prefix, range_end=prefix[:-1] + b"0")
        message = make("WatchRequest", create_request=create).SerializeToString()
        settings = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _WINDOW.to_bytes(4, "big")
        transport.write(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, (_WINDOW - 65_535).to_bytes(4, "big"))
            + _frame(_HEADERS, _END_HEADERS, 1, headers)
            + _frame(_DATA, 0, 1, b"\0" + len(message).to_bytes(4, "big") + message)
        )

    def data_received(self, data: bytes) -> None:
        """Tell frames apart."""
        self._buffer += data
        buffer, at = self._buffer, 0
        while len(buffer) - at >= _HEAD_OCTETS:
            end = at + _HEAD_OCTETS + int.from_bytes(buffer[at : at + 3], "big")
            if end > len(buffer):
                break
            self._take(buffer[at + 3], buffer[at + 4], bytes(buffer[at + _HEAD_OCTETS : end]))
            at = end
        del buffer[:at]

    def _take(self, kind: int, flags: int, payload: bytes) -> None:
        heard = self._heard
        if kind == _DATA:
            if not self.watching.done():
                self.watching.set_result(None)
            heard.octets += len(payload)
            heard.events += payload.count(PREFIX.encode())
            if (found := payload.find(ORDER_MARK)) >= 0:
                begin = found + len(ORDER_MARK)
                number = int.from_bytes(payload[begin : begin + 8], "big")
                heard.orders[number] = heard.orders.get(number, (0, 0.0))[0] + 1, time.monotonic()
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            assert self._transport is not None
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind in (_RST_STREAM, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            assert self._transport is not None
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """It counts as a failure, whoever ended it."""
        self._heard.failures += 1
        if not self.watching.done():
            self.watching.set_exception(error or ConnectionResetError("the node ended the watch"))

    def close(self) -> None:
        """Let go of it."""
        if self._transport is not None:
            self._transport.abort()


@dataclass(frozen=True)
class Joining:
    """What a process needs to know."""

    numbers: range
    endpoints: tuple[str, ...]
    ca: Path
    certificate: Path
    key: Path
    every: float
    """Seconds between two statuses of a member."""


class _Members:
    """Those of one process."""

    def __init__(self, joining: Joining) -> None:
        self.heard = Heard()
        self._joining = joining
        self._tls = tls_context(joining.ca, joining.certificate, joining.key)
        # Each begins with another node, as members that have been up for long do.
        nodes = joining.endpoints
        self._shared = [Etcd((*nodes[n:], *nodes[:n]), self._tls, _REQUEST_SECONDS) for n in range(len(nodes))]
        self._rng = random.Random(joining.numbers.start)
        self._leases: dict[int, int] = {}
        self._watches: list[Watch] = []

    def _client(self, number: int) -> Etcd:
        return self._shared[number % len(self._shared)]

    async def join(self) -> list[asyncio.Task[None]]:
        """All have written and watch; the tasks in which they go on."""
        await self._all(self._write_first)
        await self._all(self._watch)
        return [asyncio.create_task(self._live(number)) for number in self._joining.numbers]

    async def _all(self, step: Callable[[int], Awaitable[None]]) -> None:
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int) -> None:
            async with at_once:
                await step(number)

        await asyncio.gather(*map(one, self._joining.numbers))

    async def _write_first(self, number: int) -> None:
        etcd = self._client(number)
        self._leases[number] = await etcd.grant(LEASE_SECONDS)
        await etcd.put(_key(number), os.urandom(STATUS_OCTETS), self._leases[number])

    async def _watch(self, number: int) -> None:
        url = urlsplit(self._client(number).endpoint)
        assert url.hostname is not None
        assert url.port is not None
        context: ssl.SSLContext = self._tls
        _, watch = await asyncio.get_running_loop().create_connection(
            lambda: Watch(self.heard, url.netloc), url.hostname, url.port, ssl=context
        )
        self._watches.append(watch)
        async with asyncio.timeout(_REQUEST_SECONDS):
            await watch.watching

    async def _live(self, number: int) -> None:
        etcd, lease, every = self._client(number), self._leases[number], self._joining.every
        keep_at = self._rng.uniform(0, LEASE_SECONDS / 3)
        write_at = self._rng.uniform(0, every)
        began = time.monotonic()
        while True:
            await asyncio.sleep(max(0.0, min(keep_at, write_at) - (time.monotonic() - began)))
            sent = time.monotonic()
            try:
                if keep_at < write_at:
                    keep_at += LEASE_SECONDS / 3
                    await etcd.keep_alive(lease)
                else:
                    write_at += every
                    await etcd.put(_key(number), os.urandom(STATUS_OCTETS), lease)
                    self.heard.put_seconds.append(time.monotonic() - sent)
            except EngineGone:
                self.heard.failures += 1

    def close(self) -> None:
        """Let go of all connections."""
        for watch in self._watches:
            watch.close()
        for etcd in self._shared:
            etcd.close()


def _key(number: int) -> str:
    return f"{PREFIX}member/m{number}/status"


_JOINED, _MEASURES = "joined", "measures"


def _process(orders: Connection, joining: Joining) -> None:
    """Join, say so, measure from the next word on, say that too, and give what was heard at the one after it."""
    stand_apart()

    async def work() -> None:
        members = _Members(joining)
        tasks: list[asyncio.Task[None]] = []
        try:
            tasks = await members.join()
            orders.send(_JOINED)
            await asyncio.to_thread(orders.recv)
            heard = members.heard
            heard.put_seconds.clear()
            heard.orders.clear()
            heard.events = heard.octets = heard.failures = 0
            before = time.process_time()
            orders.send(_MEASURES)
            await asyncio.to_thread(orders.recv)
            heard.processor_seconds = time.process_time() - before
            orders.send(heard)
        except Exception as error:
            orders.send(f"{type(error).__name__}: {error}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            members.close()

    uvloop.run(work())


class MembersFailed(Exception):
    """The members of a process could not join."""


class Members:
    """All of them, in their processes."""

    def __init__(self, orders: Sequence[Connection]) -> None:
        self._orders = orders

    def _answers(self) -> list[object]:
        answers: list[object] = [each.recv() for each in self._orders]
        for answer in answers:
            if isinstance(answer, str) and answer not in (_JOINED, _MEASURES):
                raise MembersFailed(answer)
        return answers

    def wait(self) -> None:
        """Until all have joined; MembersFailed."""
        self._answers()

    def measure(self) -> None:
        """From now on, all of them: what is written then is heard by somebody who counts it; MembersFailed."""
        for each in self._orders:
            each.send("measure")
        self._answers()

    def heard(self) -> Heard:
        """Of all together, until now; MembersFailed."""
        for each in self._orders:
            each.send("tell")
        answers = self._answers()
        whole = Heard()
        for answer in answers:
            assert isinstance(answer, Heard)
            whole.put_seconds += answer.put_seconds
            whole.events += answer.events
            whole.octets += answer.octets
            whole.failures += answer.failures
            whole.processor_seconds += answer.processor_seconds
            for number, (members, last) in answer.orders.items():
                known, latest = whole.orders.get(number, (0, 0.0))
                whole.orders[number] = known + members, max(latest, last)
        return whole


@contextlib.contextmanager
def members(
    count: int, *, endpoints: Sequence[str], ca: Path, certificate: Path, key: Path, every: float
) -> Iterator[Members]:
    """*count* of them, who join; they end with the block."""
    started = []
    orders = []
    try:
        for first in range(0, count, PER_PROCESS):
            ours, theirs = _CONTEXT.Pipe()
            numbers = range(first, min(first + PER_PROCESS, count))
            joining = Joining(numbers, tuple(endpoints), ca, certificate, key, every)
            process = _CONTEXT.Process(target=_process, args=(theirs, joining), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is seen
            started.append(process)
            orders.append(ours)
        yield Members(orders)
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.join()
