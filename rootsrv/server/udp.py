"""DNS over UDP: receive what waits, answer it, send the responses from the address that was asked."""
# One socket per address and worker, bound to that address: the response leaves from where the query went.  At each
# wake-up one batch is answered; the rest wakes us again at once, so that sockets take turns and the shared page is read
# between any two batches.  On Linux a batch is two system calls (mmsg.py); elsewhere an asyncio datagram endpoint.
#
# Nothing here blocks or retries: what the kernel has no room for is counted and lost, as in a full queue of a router.

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from rootsrv.answer.responder import Transport
from rootsrv.capture.messages import MessageWriter
from rootsrv.server.counters import Counters
from rootsrv.server.mmsg import Batch
from rootsrv.server.serving import Serving
from rootsrv.server.turns import Turns

BATCH_SIZE = 64
"""Datagrams per wake-up.  32 … 128 do equally well; more only adds to the latency of the first."""


class BatchedDatagrams:
    """Answers all that arrives on one UDP socket, many datagrams per system call."""

    def __init__(
        self,
        sock: socket.socket,
        batch: Batch,
        serving: Serving,
        counters: Counters,
        told: MessageWriter | None = None,
    ) -> None:
        """*told*: where a capture is told of what came."""
        self._socket = sock
        self._told = told
        self._own = own_end(sock)
        self._unsent: list[int] = []
        self._descriptor = sock.fileno()
        self._path = int(sock.family == socket.AF_INET6)
        self._batch = batch
        self._serving = serving
        self._counters = counters

    def on_readable(self) -> int:
        """Answer one batch; returns how many datagrams were received."""
        serving, counters = self._serving, self._counters
        serving.read_page()
        try:
            requests, sources = self._batch.receive(self._descriptor)
        except OSError:
            # A pending socket error (an ICMP message, say) is cleared by reading it.
            return 0
        if not requests:
            return 0
        responses = serving.respond_to_all(requests, sources, Transport.UDP, lambda: self._batch.ports(len(requests)))
        if self._batch.oversized:
            counters.count_dropped("silent", -self._batch.oversized)
            counters.count_dropped("oversized", self._batch.oversized)
        if None in responses:
            self._answer_runs(requests, sources, responses)
        else:
            self._send(0, requests, responses)  # type: ignore[arg-type]
            counters.note_sources(sources)
        if self._told is not None and self._told.is_on:
            for index in self._unsent:
                responses[index] = None
            ports = self._batch.ports(len(requests))
            self._told.write(serving.woken_at, Transport.UDP, self._own, requests, sources, ports, responses)
        self._unsent.clear()
        return len(requests)

    def _send(self, first: int, requests: Sequence[bytes], responses: Sequence[bytes]) -> None:
        unsent = self._batch.send(self._descriptor, first, responses)
        self._counters.count(self._path, requests, responses)
        if unsent:
            self._counters.count_unsent(self._path, [responses[index] for index in unsent])
            self._unsent.extend(first + index for index in unsent)

    def _answer_runs(
        self, requests: Sequence[bytes], sources: Sequence[bytes], responses: Sequence[bytes | None]
    ) -> None:
        """Send the runs of responses between messages that get none."""
        run: list[bytes] = []
        answered = []
        for index, response in enumerate([*responses, None]):
            if response is not None:
                run.append(response)
                answered.append(sources[index])
            elif run:
                self._send(index - len(run), requests[index - len(run) : index], run)
                run = []
        self._counters.note_sources(answered)


class Datagrams(asyncio.DatagramProtocol):
    """Answers all that arrives on one UDP socket where there is no recvmmsg."""

    def __init__(
        self, sock: socket.socket, turns: Turns, counters: Counters, told: MessageWriter | None = None
    ) -> None:
        self._family = sock.family
        self._path = int(sock.family == socket.AF_INET6)
        self._own = own_end(sock)
        self._told = told
        self._turns = turns
        self._counters = counters

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The endpoint is there."""
        self._transport: Any = transport  # typeshed has no get_write_buffer_size for datagrams

    def datagram_received(self, octets: bytes, address: tuple[str, int]) -> None:
        """Answer one datagram."""
        self._turns.begin()
        source = socket.inet_pton(self._family, address[0].partition("%")[0])
        response = self._turns.respond(self._path, octets, source, Transport.UDP, address[1])
        if self._told is not None and self._told.is_on:
            at = self._turns.woken_at
            self._told.write(at, Transport.UDP, self._own, [octets], [source], [address[1]], [response])
        if response is None:
            return
        if self._transport.get_write_buffer_size() > 1 << 20:
            self._turns.end()  # what is taken back must have been counted
            self._counters.count_unsent(self._path, [response])
            return
        self._transport.sendto(response, address)

    def error_received(self, error: Exception) -> None:
        """A destination that cannot be reached is the sender's affair."""


def own_end(sock: socket.socket) -> tuple[bytes, int]:
    """Where *sock* is bound: packed address, port."""
    address, port = sock.getsockname()[:2]
    return socket.inet_pton(sock.family, address.partition("%")[0]), port


def answer_what_waits(seconds: float, readers: Sequence[Callable[[], int]]) -> None:
    """Answer what still waits in the sockets' queues, at most for *seconds*."""
    end = time.monotonic() + seconds
    while sum(reader() for reader in readers) and time.monotonic() < end:
        pass
