"""The portable engine, UDP: ordinary sockets, many datagrams per system call, judged in bulk."""
# Theory of operation
# -------------------
# Every query has a slot; the slots are dealt to a few connected sockets (each its own source address and port).  The id
# of a query is its place in its socket's series, written once before the run: sending is one sendmmsg per batch and
# touches no octet in Python.  What comes back lands in rows of equal size, so that ids, flags, sizes and latencies of a
# whole batch are a handful of numpy operations.  A slot that is sent again while its response is still missing was
# lost; when the series ends, what is still missing after GRACE_SECONDS was lost too.
#
# The clock is read once per batch: latencies are true to within the time that one batch takes (some 50 µs), which
# matters for the fastest servers only.

import contextlib
import ipaddress
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from bench.load import BINS, SUB_BINS, Load, Target
from bench.mmsg import Batch
from bench.queries import MAX_QUERY_OCTETS, Query

BATCH = 64
GRACE_SECONDS = 0.3
_ROW_OCTETS = 4096
_WINDOW = (
    512  # outstanding queries when no rate is asked for: what one resolver farm has in flight, and no ring overflows
)
_MAX_ID = 65536
_IP_FREEBIND, _IPV6_FREEBIND = (socket.IPPROTO_IP, 15), (socket.IPPROTO_IPV6, 78)  # linux/in.h, linux/in6.h


@dataclass
class _Flow:
    """One connected socket and the queries that it sends."""

    socket: socket.socket
    descriptor: int
    batch: Batch
    slots: NDArray[numpy.int64]
    next: int = 0


class SocketEngine:
    """UDP load from sockets.  *sources* are prefixes whose every address may be bound to (see network.Wire)."""

    def __init__(
        self,
        queries: Sequence[Query],
        target: Target,
        *,
        sources: tuple[str, str] | None = None,
        sockets: int = 16,
        idle: bool = True,
    ) -> None:
        self._queries = [query for query in queries if not query.tcp and _address(target, query.family)]
        if not self._queries:
            raise ValueError("no UDP queries for the families of the target")
        self._idle = idle
        count = len(self._queries)
        self._pending: NDArray[numpy.bool_] = numpy.zeros(count, bool)
        self._given_up: NDArray[numpy.bool_] = numpy.zeros(count, bool)
        self._sent_at: NDArray[numpy.int64] = numpy.zeros(count, numpy.int64)
        self._rcodes = numpy.array([-1 if query.rcode is None else query.rcode for query in self._queries], numpy.int16)
        self._sizes: NDArray[numpy.uint32] = numpy.zeros(count, numpy.uint32)
        self.replies: list[bytes | None] = [None] * count
        """Whole responses by slot, from `reference`."""
        self._epoll = select.epoll()
        self._flows: dict[int, _Flow] = {}
        self._received = Batch(2 * BATCH, _ROW_OCTETS)
        try:
            self._open(target, sources, max(sockets, -(-count // _MAX_ID) + 1))
        except BaseException:
            self.close()
            raise

    @property
    def queries(self) -> Sequence[Query]:
        """The queries by slot."""
        return self._queries

    def _open(self, target: Target, sources: tuple[str, str] | None, sockets: int) -> None:
        for family in (4, 6):
            slots = [slot for slot, query in enumerate(self._queries) if query.family == family]
            share = max(1, round(sockets * len(slots) / len(self._queries))) if slots else 0
            for number in range(share):
                mine = numpy.array(slots[number::share], numpy.int64)
                if not len(mine):
                    continue
                opened = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    opened.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
                if sources:
                    # The prefix is routed here, but no interface has its addresses.
                    opened.setsockopt(*(_IP_FREEBIND if family == 4 else _IPV6_FREEBIND), 1)
                    network = ipaddress.ip_network(sources[0 if family == 4 else 1])
                    opened.bind((str(network[1 + number]), 0))
                opened.connect((_address(target, family), target.port))
                opened.setblocking(False)
                batch = Batch(len(mine), MAX_QUERY_OCTETS)
                for row, slot in enumerate(mine):
                    batch.fill(row, row.to_bytes(2, "big") + self._queries[slot].octets[2:])
                self._flows[opened.fileno()] = _Flow(opened, opened.fileno(), batch, mine)
                self._epoll.register(opened.fileno(), select.EPOLLIN)

    def reference(self, seconds: float = 30.0) -> list[bytes | None]:
        """Ask every query once and return the responses by slot; their sizes are expected from now on.

        What is missing is asked again, so that only a query which gets no answer at all stays without.
        """
        self.replies = [None] * len(self._queries)
        for _ in range(3):
            self._run(None, seconds, once=True, keep=True)
            if None not in self.replies:
                break
        self._sizes[:] = [0 if reply is None else len(reply) for reply in self.replies]
        return self.replies

    def run(self, rate: float | None, seconds: float) -> Load:
        """Offer *rate* queries per second for *seconds*; None: keep a fixed number of queries outstanding."""
        return self._run(rate, seconds)

    def _run(self, rate: float | None, seconds: float, *, once: bool = False, keep: bool = False) -> Load:
        self._drain()
        self._pending[:] = False
        self._given_up[:] = False
        load = Load(seconds, rate, 0, 0, 0, latency=[0] * BINS)
        histogram: NDArray[numpy.int64] = numpy.zeros(BINS, numpy.int64)
        rcodes: NDArray[numpy.int64] = numpy.zeros(16, numpy.int64)
        flows = list(self._flows.values())
        for flow in flows:
            flow.next = 0
        turn, clock = 0, time.monotonic_ns
        start = clock()
        end = start + int(seconds * 1e9)
        credit_from = start  # where the schedule begins; moved when we fall behind, so that we never burst to catch up
        in_schedule = 0
        outstanding_limit = _WINDOW if rate is None else len(self._queries)
        while (now := clock()) < end:
            if rate is None:
                due = outstanding_limit - (load.sent - load.answered - load.lost)
            else:
                due = int((now - credit_from) * rate / 1e9) - in_schedule
                if due > 4 * BATCH:
                    credit_from, in_schedule, due = now, 0, BATCH
            if due > 0:
                flow = flows[turn % len(flows)]
                turn += 1
                count = min(due, BATCH, flow.batch.rows - flow.next)
                if count:
                    taken = flow.batch.send(flow.descriptor, flow.next, count)
                    sent = flow.slots[flow.next : flow.next + taken]
                    load.lost += int(numpy.count_nonzero(self._pending[sent]))
                    self._pending[sent] = True
                    self._sent_at[sent] = now
                    load.sent += taken
                    in_schedule += taken
                    flow.next += taken
                if flow.next == flow.batch.rows and not once:
                    flow.next = 0
            all_sent = once and load.sent == len(self._queries)
            if all_sent and not self._pending.any():
                break
            ready = self._epoll.poll(0)
            for descriptor, _ in ready:
                self._receive(self._flows[descriptor], load, histogram, rcodes, keep)
            waiting = rate is None and not ready and (due <= 0 or all_sent)
            if waiting and clock() - int(self._sent_at.max()) > 50_000_000:
                # Nothing came for 50 ms, and nothing more may go: those are lost, go on without them.
                load.lost += int(numpy.count_nonzero(self._pending))
                self._given_up |= self._pending
                self._pending[:] = False
            if due <= 0 and not ready and self._idle:
                self._epoll.poll(0.0002)
        load.seconds = (clock() - start) / 1e9
        grace = clock() + int(GRACE_SECONDS * 1e9)
        while self._pending.any() and clock() < grace:
            for descriptor, _ in self._epoll.poll(0.01):
                self._receive(self._flows[descriptor], load, histogram, rcodes, keep)
        load.lost = load.sent - load.answered
        load.latency = [int(count) for count in histogram]
        load.rcodes = {rcode: int(count) for rcode, count in enumerate(rcodes) if count}
        return load

    def _receive(
        self, flow: _Flow, load: Load, histogram: NDArray[numpy.int64], rcodes: NDArray[numpy.int64], keep: bool
    ) -> None:
        received = self._received
        count = received.receive(flow.descriptor)
        if not count:
            return
        now = time.monotonic_ns()
        octets, sizes = received.octets[:count], received.sizes[:count]
        ids = octets[:, 0].astype(numpy.int64) << 8 | octets[:, 1]
        known = (ids < len(flow.slots)) & (sizes >= 12) & (octets[:, 2] & 0x80 != 0)
        if not known.all():
            _wrong(load, "id", count - int(numpy.count_nonzero(known)))
            octets, sizes, ids = octets[known], sizes[known], ids[known]
        slots = flow.slots[ids]
        fresh = self._pending[slots]
        if not fresh.all():
            # A response to a query that was given up is late, not wrong.
            twice = int(numpy.count_nonzero(~fresh & ~self._given_up[slots]))
            if twice:
                _wrong(load, "duplicate", twice)
            self._given_up[slots[~fresh]] = False
            octets, sizes, slots = octets[fresh], sizes[fresh], slots[fresh]
        self._pending[slots] = False
        load.answered += len(slots)
        load.octets += int(sizes.sum())
        load.truncated += int(numpy.count_nonzero(octets[:, 2] & 2))
        found = octets[:, 3] & 15
        rcodes += numpy.bincount(found, minlength=16)
        expected = self._rcodes[slots]
        if (mismatched := (expected >= 0) & (expected != found)).any():
            _wrong(load, "rcode", int(numpy.count_nonzero(mismatched)))
        expected_sizes = self._sizes[slots]
        if (mismatched := (expected_sizes > 0) & (expected_sizes != sizes)).any():
            _wrong(load, "size", int(numpy.count_nonzero(mismatched)))
        histogram += numpy.bincount(bins_of(now - self._sent_at[slots]), minlength=BINS)
        if keep:
            for row, slot in enumerate(slots):
                self.replies[slot] = octets[row, : sizes[row]].tobytes()

    def _drain(self) -> None:
        while ready := self._epoll.poll(0):
            for descriptor, _ in ready:
                # An error that the stack reports (port unreachable) is also "ready" once.
                with contextlib.suppress(OSError):
                    self._received.receive(descriptor)

    def close(self) -> None:
        """Close all sockets."""
        self._epoll.close()
        for flow in self._flows.values():
            flow.socket.close()
        self._flows.clear()


def bins_of(nanoseconds: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """`load.bin_of`, for an array."""
    clipped = numpy.maximum(nanoseconds, 1)
    exponents = numpy.log2(clipped.astype(numpy.float64)).astype(numpy.int64)
    subs = (clipped >> numpy.maximum(exponents - 4, 0)) & (SUB_BINS - 1)
    bins = numpy.where(clipped < SUB_BINS, clipped, (exponents - 3) * SUB_BINS + subs)
    return numpy.minimum(bins, BINS - 1)


def _wrong(load: Load, what: str, count: int) -> None:
    load.wrong[what] = load.wrong.get(what, 0) + count


def _address(target: Target, family: int) -> str | None:
    return target.ipv4 if family == 4 else target.ipv6
