"""The portable engine, TCP: persistent connections with a window of outstanding queries, or one query on each.

bench/tcp_client.c does the work, so that one server core is the bound and not the client; here the queries are dealt to
the connections, and what was found becomes a `Load`.
"""

import ipaddress
import itertools
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import cffi

from bench import c_source
from bench.engine_socket import GRACE_SECONDS
from bench.load import BINS, Load, Target
from bench.queries import Query

_SOURCES = 4096  # different source addresses
_MAX_ID = 65536
_NO_RCODE = 0xFF
_TURN_NS = 100_000_000  # so long at most a signal waits

_ffi: Any = cffi.FFI()  # attributes of C structs are beyond its type stubs
_ffi.cdef(f"""
struct found {{
    uint64_t sent, answered, octets, truncated, wrong_id, wrong_rcode, refused, closed, rcodes[16], latency[{BINS}];
}};
void *client_new(uint32_t flows, uint32_t window, uint32_t persistent, const char *targets, const char *sources,
                 uint32_t source_count);
void client_add(void *, int v6, const char *series, const uint32_t *offsets, const char *rcodes, uint32_t length);
void client_begin(void *, double rate, struct found *);
int client_run(void *, uint64_t end_ns);
void client_end(void *, uint64_t end_ns);
void client_free(void *);
""")


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
        self._target = target
        self._library = c_source.library("tcp_client.c", _ffi)
        window = window if persistent else 1
        bound = [_some(prefix) for prefix in sources] if sources else [b"", b""]
        self._client = self._library.client_new(
            connections,
            window,
            persistent,
            _address(target.ipv4 or "0.0.0.0", target.port) + _address(target.ipv6 or "::", target.port),
            b"".join(bound),
            _SOURCES if sources else 0,
        )
        for number in range(connections):
            mine = usable[number::connections][:_MAX_ID] or [usable[number % len(usable)]]
            # An id is not to come round again while it is outstanding.
            mine = mine * -(-2 * window // len(mine))
            framed = [
                len(query.octets).to_bytes(2, "big") + row.to_bytes(2, "big") + query.octets[2:]
                for row, query in enumerate(mine)
            ]
            self._library.client_add(
                self._client,
                usable[number * len(usable) // connections].family == 6,
                b"".join(framed),
                [0, *itertools.accumulate(map(len, framed))],
                bytes(_NO_RCODE if query.rcode is None else query.rcode for query in mine),
                len(mine),
            )

    def run(self, rate: float | None, seconds: float) -> Load:
        """Offer *rate* queries per second for *seconds*; None: keep every connection's window full."""
        found = _ffi.new("struct found *")
        start = time.monotonic_ns()
        end = start + int(seconds * 1e9)
        self._library.client_begin(self._client, rate or 0.0, found)
        while (now := time.monotonic_ns()) < end:
            if error := self._library.client_run(self._client, min(end, now + _TURN_NS)):
                raise OSError(-error, f"TCP {self._target}: {os.strerror(-error)}")
        took = (time.monotonic_ns() - start) / 1e9
        self._library.client_end(self._client, time.monotonic_ns() + int(GRACE_SECONDS * 1e9))
        load = Load(took, rate, found.sent, found.answered, found.sent - found.answered, found.octets)
        load.truncated = found.truncated
        load.rcodes = {rcode: count for rcode, count in enumerate(found.rcodes) if count}
        load.latency = list(found.latency)
        load.wrong = {
            what: count
            for what, count in (
                ("id", found.wrong_id),
                ("rcode", found.wrong_rcode),
                ("connection", found.refused),
                ("closed by server", found.closed),
            )
            if count
        }
        return load

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            self._library.client_free(self._client)
            self._client = None


def _some(prefix: str) -> bytes:
    """`_SOURCES` addresses of *prefix*, or as many as it has, over and over."""
    network = ipaddress.ip_network(prefix)
    return b"".join(
        _address(str(network[1 + number % max(1, network.num_addresses - 2)]), 0) for number in range(_SOURCES)
    )


def _address(text: str, port: int) -> bytes:
    """As a struct sockaddr_in or sockaddr_in6, of the latter's size."""
    address = ipaddress.ip_address(text)
    if address.version == 4:
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + address.packed + bytes(20)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + address.packed + bytes(4)
