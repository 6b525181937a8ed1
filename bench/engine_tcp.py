"""The portable engine, TCP: persistent connections with a window of outstanding queries, or one query on each."""

import errno
import ipaddress
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence

from bench.engine_socket import GRACE_SECONDS
from bench.load import BINS, Load, Target, bin_of
from bench.queries import Query

_IP_FREEBIND, _IPV6_FREEBIND = (socket.IPPROTO_IP, 15), (socket.IPPROTO_IPV6, 78)  # linux/in.h, linux/in6.h
_IP_BIND_ADDRESS_NO_PORT = (socket.IPPROTO_IP, 24)  # one port per destination, not per host
_READ_OCTETS = 1 << 18


class _Connection:
    """One connection: what is outstanding on it and what came in part."""

    __slots__ = ("awaited", "buffer", "connecting", "descriptor", "next_id", "socket", "unsent")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.descriptor = opened.fileno()
        self.connecting = True
        self.awaited: dict[int, tuple[int, int]] = {}  # id → slot, when it was sent
        self.next_id = 0
        self.buffer = b""
        self.unsent = b""


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
        self._queries = [q for q in queries if (target.ipv4 if q.family == 4 else target.ipv6)]
        if not self._queries:
            raise ValueError("no queries for the families of the target")
        self._tails = [query.octets[2:] for query in self._queries]
        self._prefixes = [len(query.octets).to_bytes(2, "big") for query in self._queries]
        self._rcodes = [query.rcode for query in self._queries]
        self._target, self._sources = target, sources
        self._connections, self._window, self._persistent = connections, window if persistent else 1, persistent
        self._epoll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._idle: deque[_Connection] = deque()
        self._slot = 0
        self._opened = 0

    def run(self, rate: float | None, seconds: float) -> Load:
        """Offer *rate* queries per second for *seconds*; None: keep every connection's window full."""
        load = Load(seconds, rate, 0, 0, 0, latency=[0] * BINS)
        clock = time.monotonic_ns
        self._top_up()
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
            while due > 0 and self._idle:
                sent = self._send(self._idle.popleft(), min(due, self._window), now, load)
                due -= sent
                in_schedule += sent
            for descriptor, events in self._epoll.poll(0.001 if due <= 0 or not self._idle else 0):
                self._advance(self._open.get(descriptor), events, load)
            if len(self._open) < self._connections:
                self._top_up()
        load.seconds = (clock() - start) / 1e9
        grace = clock() + int(GRACE_SECONDS * 1e9)
        while load.answered + load.lost < load.sent and clock() < grace:
            for descriptor, events in self._epoll.poll(0.01):
                self._advance(self._open.get(descriptor), events, load, last=True)
        load.lost = load.sent - load.answered
        for connection in list(self._open.values()):
            if connection.awaited or not self._persistent:
                self._close(connection)
        return load

    def _top_up(self) -> None:
        while len(self._open) < self._connections:
            self._opened += 1
            family = self._queries[self._opened % len(self._queries)].family
            opened = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_STREAM)
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._sources:
                opened.setsockopt(*(_IP_FREEBIND if family == 4 else _IPV6_FREEBIND), 1)
                opened.setsockopt(*_IP_BIND_ADDRESS_NO_PORT, 1)
                network = ipaddress.ip_network(self._sources[0 if family == 4 else 1])
                opened.bind((str(network[1 + self._opened % 60000]), 0))
            address = self._target.ipv4 if family == 4 else self._target.ipv6
            result = opened.connect_ex((address, self._target.port))
            if result not in (0, errno.EINPROGRESS):
                opened.close()
                raise OSError(result, f"TCP {address} port {self._target.port}: {errno.errorcode.get(result, result)}")
            connection = _Connection(opened)
            self._open[connection.descriptor] = connection
            self._epoll.register(connection.descriptor, select.EPOLLOUT | select.EPOLLIN)

    def _send(self, connection: _Connection, count: int, now: int, load: Load) -> int:
        count = min(count, self._window - len(connection.awaited))
        parts: list[bytes] = []
        for _ in range(count):
            slot = self._slot
            self._slot = slot + 1 if slot + 1 < len(self._tails) else 0
            identity = connection.next_id
            connection.next_id = (identity + 1) & 0xFFFF
            connection.awaited[identity] = (slot, now)
            parts += (self._prefixes[slot], identity.to_bytes(2, "big"), self._tails[slot])
        load.sent += count
        self._write(connection, connection.unsent + b"".join(parts))
        if len(connection.awaited) < self._window and not connection.unsent:
            self._idle.append(connection)
        return count

    def _write(self, connection: _Connection, octets: bytes) -> None:
        try:
            taken = connection.socket.send(octets)
        except BlockingIOError:
            taken = 0
        except OSError:
            taken = len(octets)  # the end of the connection is read from it next
        blocked = bool(connection.unsent)
        connection.unsent = octets[taken:]
        if bool(connection.unsent) != blocked:
            wanted = select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0)
            self._epoll.modify(connection.descriptor, wanted)

    def _advance(self, connection: _Connection | None, events: int, load: Load, *, last: bool = False) -> None:
        if connection is None:
            return
        if connection.connecting:
            if events & (select.EPOLLERR | select.EPOLLHUP):
                _wrong(load, "connection")
                self._close(connection)
                return
            connection.connecting = False
            self._epoll.modify(connection.descriptor, select.EPOLLIN)
            self._idle.append(connection)
            return
        if connection.unsent and events & select.EPOLLOUT:
            self._write(connection, connection.unsent)
            if not connection.unsent and len(connection.awaited) < self._window:
                self._idle.append(connection)
        if not events & ~select.EPOLLOUT:
            return
        try:
            octets = connection.socket.recv(_READ_OCTETS)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        if not octets:
            load.lost += len(connection.awaited)
            if self._persistent:
                _wrong(load, "closed by server")
            self._close(connection)
            return
        was_full = len(connection.awaited) >= self._window
        connection.buffer = self._judge(connection, connection.buffer + octets, load)
        if not self._persistent and not connection.awaited:
            self._close(connection)
        elif was_full and len(connection.awaited) < self._window and not connection.unsent and not last:
            self._idle.append(connection)

    def _judge(self, connection: _Connection, octets: bytes, load: Load) -> bytes:
        """Take all whole responses from *octets*; returns what is left."""
        now, at, end = time.monotonic_ns(), 0, len(octets)
        while end - at >= 14:
            size, identity, high, low = struct.unpack_from("!HHBB", octets, at)
            if end - at < size + 2:
                break
            awaited = connection.awaited.pop(identity, None)
            at += size + 2
            if awaited is None or not high & 0x80:
                _wrong(load, "id")
                continue
            slot, sent_at = awaited
            rcode = low & 15
            load.answered += 1
            load.octets += size
            load.rcodes[rcode] = load.rcodes.get(rcode, 0) + 1
            load.truncated += high >> 1 & 1
            if self._rcodes[slot] not in (None, rcode):
                _wrong(load, "rcode")
            load.latency[bin_of(now - sent_at)] += 1  # type: ignore[index]  # ours is a list
        return octets[at:]

    def _close(self, connection: _Connection) -> None:
        del self._open[connection.descriptor]
        self._epoll.unregister(connection.descriptor)
        connection.socket.close()
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._open.values()):
            self._close(connection)
        self._epoll.close()


def _wrong(load: Load, what: str) -> None:
    load.wrong[what] = load.wrong.get(what, 0) + 1
