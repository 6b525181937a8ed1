"""The portable engine, TCP: persistent connections with a window of outstanding queries, or one query on each."""
# Theory of operation
# -------------------
# As with UDP (bench/engine_socket.py) every query has a slot, dealt to a flow: a place that one connection after the
# other takes.  The id of a query is its place in its flow's series, and the series stands in memory as it goes over the
# wire, so sending any number of queries is one slice and one send.  What all connections have to read in one turn of
# epoll lands in one buffer; lengths are followed message by message, everything else is judged in bulk by numpy.
# Connections are registered once, edge-triggered: no epoll_ctl when one is open, blocked or has something to read.

import errno
import ipaddress
import itertools
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from bench.engine_socket import GRACE_SECONDS, bins_of
from bench.load import BINS, Load, Target
from bench.queries import Query

_IP_FREEBIND, _IPV6_FREEBIND = (socket.IPPROTO_IP, 15), (socket.IPPROTO_IPV6, 78)  # linux/in.h, linux/in6.h
_IP_BIND_ADDRESS_NO_PORT = (socket.IPPROTO_IP, 24)  # one port per destination, not per host
_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_READ_OCTETS = 1 << 15
_BUFFER_OCTETS = 1 << 20
_LONGEST = 65537  # a message and its length
_SOURCES = 4096  # different source addresses
_MAX_ID = 65536
_BULK = 32
"""Responses from which on numpy is faster than one after the other."""


class _Flow:
    """One connection after the other, and the series of queries that goes over them."""

    __slots__ = (
        "first", "held", "idle", "length", "offsets", "open", "outstanding", "row", "series", "socket", "v6",
        "waiting_for_connect",
    )  # fmt: skip

    def __init__(self, queries: Sequence[Query], first: int, *, v6: bool) -> None:
        framed = [
            (len(query.octets)).to_bytes(2, "big") + row.to_bytes(2, "big") + query.octets[2:]
            for row, query in enumerate(queries)
        ]
        self.first, self.length, self.v6 = first, len(framed), v6
        self.series = memoryview(b"".join(framed))
        self.offsets = [0, *itertools.accumulate(map(len, framed))]
        self.row = self.outstanding = 0
        self.socket: socket.socket | None = None
        self.open = self.waiting_for_connect = self.idle = False
        self.held = b""


class TcpEngine:
    """TCP load: *window* queries outstanding on each of *connections*; with `persistent` false one per connection."""

    def __init__(
        self,
        queries: Sequence[Query],
        target: Target,
        *,
        sources: tuple[str, str] | None = None,
        connections: int = 32,
        window: int = 1,
        persistent: bool = True,
    ) -> None:
        usable = [q for q in queries if (target.ipv4 if q.family == 4 else target.ipv6)]
        if not usable:
            raise ValueError("no queries for the families of the target")
        self._window, self._persistent = window if persistent else 1, persistent
        self._addresses = {v6: (target.ipv6 if v6 else target.ipv4, target.port) for v6 in (False, True)}
        self._sources = None if sources is None else [_some(prefix) for prefix in sources]
        self._opened = 0
        self._epoll = select.epoll()
        self._flows: list[_Flow] = []
        self._by_descriptor: dict[int, _Flow] = {}
        self._ready: deque[_Flow] = deque()
        dealt: list[Query] = []
        for number in range(connections):
            mine = usable[number::connections][:_MAX_ID] or [usable[number % len(usable)]]
            # An id is not to come round again while it is outstanding.
            mine = mine * -(-2 * self._window // len(mine))
            v6 = usable[number * len(usable) // connections].family == 6
            self._flows.append(_Flow(mine, len(dealt), v6=v6))
            dealt += mine
        self._rcodes = numpy.array([-1 if query.rcode is None else query.rcode for query in dealt], numpy.int16)
        self._pending: NDArray[numpy.bool_] = numpy.zeros(len(dealt), bool)
        self._sent_at: NDArray[numpy.int64] = numpy.zeros(len(dealt), numpy.int64)
        self._each_rcode = self._rcodes.tolist()
        self._each_pending, self._each_sent_at = memoryview(self._pending), memoryview(self._sent_at)  # type: ignore[arg-type]
        self._octets: NDArray[numpy.uint8] = numpy.zeros(_BUFFER_OCTETS + _READ_OCTETS + _LONGEST, numpy.uint8)
        self._view = memoryview(self._octets)  # type: ignore[arg-type]  # it has the buffer protocol
        self._regions: list[tuple[_Flow, int, int]] = []
        self._filled = 0

    def run(self, rate: float | None, seconds: float) -> Load:
        """Offer *rate* queries per second for *seconds*; None: keep every connection's window full."""
        load = Load(seconds, rate, 0, 0, 0, latency=[0] * BINS)
        self._pending[:] = False
        self._histogram: NDArray[numpy.int64] = numpy.zeros(BINS, numpy.int64)
        self._found: NDArray[numpy.int64] = numpy.zeros(16, numpy.int64)
        self._few_found = [0] * 16
        self._few_latencies: list[int] = []
        clock, poll, ready = time.monotonic_ns, self._epoll.poll, self._ready
        self._open_missing()
        start = clock()
        end = start + int(seconds * 1e9)
        credit_from, in_schedule = start, 0
        while (now := clock()) < end:
            if rate is None:
                due = 1 << 30
            else:
                due = int((now - credit_from) * rate / 1e9) - in_schedule
                if due > 4096:
                    credit_from, in_schedule, due = now, 0, 64
            while due > 0 and ready:
                sent = self._send(ready.popleft(), due, now, load)
                due -= sent
                in_schedule += sent
            self._receive(poll(0.001 if due <= 0 or not ready else 0), load)
            if len(self._by_descriptor) < len(self._flows):
                self._open_missing()
        load.seconds = (clock() - start) / 1e9
        grace = clock() + int(GRACE_SECONDS * 1e9)
        while load.answered < load.sent and clock() < grace:
            self._receive(poll(0.01), load)
        load.lost = load.sent - load.answered
        self._found += self._few_found
        if self._few_latencies:
            self._histogram += numpy.bincount(bins_of(numpy.array(self._few_latencies)), minlength=BINS)
        load.latency = [int(count) for count in self._histogram]
        load.rcodes = {rcode: int(count) for rcode, count in enumerate(self._found) if count}
        for flow in self._flows:
            if flow.socket is not None and (flow.outstanding or not self._persistent):
                self._close(flow)
        return load

    def _open_missing(self) -> None:
        for flow in self._flows:
            if flow.socket is None:
                self._connect(flow)

    def _connect(self, flow: _Flow) -> None:
        self._opened += 1
        family = socket.AF_INET6 if flow.v6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        address = self._addresses[flow.v6]
        try:
            if self._persistent:
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._sources:
                opened.setsockopt(*(_IPV6_FREEBIND if flow.v6 else _IP_FREEBIND), 1)
                opened.setsockopt(*_IP_BIND_ADDRESS_NO_PORT, 1)
                opened.bind((self._sources[flow.v6][self._opened % _SOURCES], 0))
            result = opened.connect_ex(address)
            if result not in (0, errno.EINPROGRESS):
                raise OSError(result, f"TCP {address[0]} port {address[1]}: {errno.errorcode.get(result, result)}")
        except BaseException:
            opened.close()
            raise
        flow.socket, flow.waiting_for_connect, flow.held = opened, True, b""
        flow.outstanding, flow.idle = 0, False
        self._by_descriptor[opened.fileno()] = flow
        self._epoll.register(opened.fileno(), _EVENTS)

    def _send(self, flow: _Flow, due: int, now: int, load: Load) -> int:
        flow.idle = False
        row = flow.row
        count = min(due, self._window - flow.outstanding, flow.length - row)
        if flow.socket is None or flow.waiting_for_connect or count <= 0:
            return 0
        if self._offer(flow, flow.series[flow.offsets[row] : flow.offsets[row + count]]):
            slot = flow.first + row
            if count == 1:  # an element of a memoryview costs a fifth of one of an array
                self._each_pending[slot] = True
                self._each_sent_at[slot] = now
            else:
                self._pending[slot : slot + count] = True
                self._sent_at[slot : slot + count] = now
            load.sent += count
            flow.outstanding += count
            flow.row = row + count if row + count < flow.length else 0
            if flow.outstanding < self._window:
                self._may_send(flow)
            return count
        return 0

    def _offer(self, flow: _Flow, octets: memoryview) -> bool:
        """Whether *octets* are on their way; when the socket is full of earlier ones, it says by an event when not."""
        assert flow.socket is not None
        try:
            taken = flow.socket.send(octets)
        except BlockingIOError:
            return False
        except OSError:
            return True  # the end of the connection is read from it next
        while taken < len(octets):
            # Part of a query is out: the rest must follow before anything else (a server that reads takes it soon).
            select.select((), (flow.socket,), (), 1.0)
            try:
                taken += flow.socket.send(octets[taken:])
            except BlockingIOError:
                continue
            except OSError:
                break
        return True

    def _may_send(self, flow: _Flow) -> None:
        if not flow.idle:
            flow.idle = True
            self._ready.append(flow)

    def _receive(self, events: Sequence[tuple[int, int]], load: Load) -> None:
        """Read what all of *events* announce, judge it, and see who may send again."""
        ended: list[_Flow] = []
        read = self._read_one if self._window == 1 else self._read
        for descriptor, what in events:
            flow = self._by_descriptor[descriptor]
            if flow.waiting_for_connect:
                if what & (select.EPOLLERR | select.EPOLLHUP):
                    _wrong(load, "connection", 1)
                    self._close(flow)
                    continue
                flow.waiting_for_connect = False
                self._may_send(flow)
            elif what & select.EPOLLOUT and flow.outstanding < self._window and not flow.idle:
                self._may_send(flow)
            if what & ~select.EPOLLOUT and not read(flow, what, load):
                ended.append(flow)
        self._judge(load)
        for flow in ended:
            if self._persistent:
                _wrong(load, "closed by server", 1)
            self._close(flow)

    def _read_one(self, flow: _Flow, events: int, load: Load) -> bool:
        """As `_read`, where one response at most is on its way: there is nothing to judge in bulk."""
        if flow.socket is None:
            return True
        while True:
            try:
                octets = flow.held + flow.socket.recv(_READ_OCTETS)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if len(octets) == len(flow.held):
                return False
            if len(octets) >= 14 and len(octets) >= 2 + (octets[0] << 8 | octets[1]):
                break
            flow.held = octets
        flow.held = b""
        self._count_one(flow, octets, 0, load)
        flow.outstanding = 0
        if not self._persistent:
            self._close(flow)
            return True
        self._may_send(flow)
        return not events & _ENDED

    def _read(self, flow: _Flow, events: int, load: Load) -> bool:
        """Take all that *flow* has; whether it is still open."""
        assert flow.socket is not None
        while True:
            if self._filled > _BUFFER_OCTETS:
                self._judge(load)
            begin = at = self._filled
            if flow.held:
                at += len(flow.held)
                self._view[begin:at] = flow.held
            try:
                came = flow.socket.recv_into(self._view[at : at + _READ_OCTETS])
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not came:
                return False
            flow.held = b""
            self._filled = at + came
            self._regions.append((flow, begin, self._filled))
            if came < _READ_OCTETS and not events & _ENDED:
                return True
            self._judge(load)  # `held` is known again

    def _judge(self, load: Load) -> None:
        """Take all whole responses from what was read."""
        if not self._regions:
            return
        view = self._view
        starts: list[int] = []
        counts: list[int] = []
        for flow, at, end in self._regions:
            before = len(starts)
            while end - at >= 14:
                after = at + 2 + (view[at] << 8 | view[at + 1])
                if after > end:
                    break
                starts.append(at)
                at = after
            if at < end:
                flow.held = bytes(view[at:end])
            counts.append(len(starts) - before)
        regions, self._regions, self._filled = self._regions, [], 0
        if len(starts) >= _BULK:
            self._count(regions, starts, counts, load)
        else:
            place = iter(starts)
            for (flow, _, _), count in zip(regions, counts, strict=True):
                for at in itertools.islice(place, count):
                    self._count_one(flow, self._view, at, load)
        for (flow, _, _), count in zip(regions, counts, strict=True):
            flow.outstanding = max(0, flow.outstanding - count)
            if not self._persistent:
                if count:
                    self._close(flow)
            elif flow.outstanding < self._window:
                self._may_send(flow)

    def _count(
        self, regions: Sequence[tuple[_Flow, int, int]], starts: list[int], counts: list[int], load: Load
    ) -> None:
        now, octets = time.monotonic_ns(), self._octets
        at = numpy.array(starts, numpy.int64)
        sizes = octets[at].astype(numpy.int64) << 8 | octets[at + 1]
        ids = octets[at + 2].astype(numpy.int64) << 8 | octets[at + 3]
        firsts = numpy.repeat([flow.first for flow, _, _ in regions], counts)
        lengths = numpy.repeat([flow.length for flow, _, _ in regions], counts)
        known = (ids < lengths) & (sizes >= 12) & (octets[at + 4] & 0x80 != 0)
        slots = numpy.where(known, firsts + ids, 0)
        known &= self._pending[slots]
        if not known.all():
            _wrong(load, "id", len(at) - int(numpy.count_nonzero(known)))
            at, sizes, slots = at[known], sizes[known], slots[known]
        self._pending[slots] = False
        load.answered += len(at)
        load.octets += int(sizes.sum())
        load.truncated += int(numpy.count_nonzero(octets[at + 4] & 2))
        found = octets[at + 5] & 15
        self._found += numpy.bincount(found, minlength=16)
        expected = self._rcodes[slots]
        if (mismatched := (expected >= 0) & (expected != found)).any():
            _wrong(load, "rcode", int(numpy.count_nonzero(mismatched)))
        self._histogram += numpy.bincount(bins_of(now - self._sent_at[slots]), minlength=BINS)

    def _count_one(self, flow: _Flow, view: "memoryview | bytes", at: int, load: Load) -> None:
        size, identity, flags = view[at] << 8 | view[at + 1], view[at + 2] << 8 | view[at + 3], view[at + 4]
        slot = flow.first + identity
        if size < 12 or identity >= flow.length or not flags & 0x80 or not self._each_pending[slot]:
            _wrong(load, "id", 1)
            return
        self._each_pending[slot] = False
        rcode = view[at + 5] & 15
        load.answered += 1
        load.octets += size
        load.truncated += flags >> 1 & 1
        self._few_found[rcode] += 1
        if self._each_rcode[slot] not in (-1, rcode):
            _wrong(load, "rcode", 1)
        self._few_latencies.append(time.monotonic_ns() - self._each_sent_at[slot])

    def _close(self, flow: _Flow) -> None:
        """End the connection; what was outstanding on it is lost."""
        if flow.socket is None:
            return
        if flow.outstanding:
            self._pending[flow.first : flow.first + flow.length] = False
        del self._by_descriptor[flow.socket.fileno()]
        flow.socket.close()  # which takes it out of the epoll set, too
        flow.socket, flow.outstanding, flow.held = None, 0, b""

    def close(self) -> None:
        """Close all connections."""
        for flow in self._flows:
            self._close(flow)
        self._epoll.close()


def _some(prefix: str) -> list[str]:
    """`_SOURCES` addresses of *prefix*, or as many as it has, over and over."""
    network = ipaddress.ip_network(prefix)
    return [str(network[1 + number % max(1, network.num_addresses - 2)]) for number in range(_SOURCES)]


def _wrong(load: Load, what: str, count: int) -> None:
    load.wrong[what] = load.wrong.get(what, 0) + count
