"""`python -m bench flood`: connections that hold a place, and clients that wait between connecting and asking.

On loopback only (all of 127.0.0.0/8 are its sources), against whatever answers there: `rootsrv demo`, NSD, Knot.  There
is no delay on loopback, so a client at a distance is one that waits a round trip before it asks.  IPv6 has one address
there, so for both families at once there must be a network namespace in which a prefix is local.
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cffi

from bench import c_source
from bench.bpf_object import CompilerMissing
from bench.engine_process import stand_apart
from rootsrv.process.descriptors import raise_limit

TARGET, TARGET_IPV6 = "127.0.0.1", "::1"
LOCAL_IPV6 = "2001:d00::/24"
"""Where connections over IPv6 come from: `ip -6 route add local 2001:d00::/24 dev lo`."""

_FREEBIND = 78  # IPV6_FREEBIND of linux/in6.h: an address that is local by a route alone
MAX_RATE, MAX_SECONDS, MAX_CLIENTS = 50_000.0, 60.0, 2_000
_QUERY = b"\x12\x34\0\0\0\1\0\0\0\0\0\0\0\0\6\0\1"  # . SOA
_TURN_SECONDS = 0.002
_ANSWER_SECONDS = 5.0
_FARM_SECONDS = 0.1
_HELD = 17_000  # connections that the flood keeps open, more than two workers have places; of more the oldest is closed
_RESERVE = 2_500  # descriptors for clients and all else
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger

_ffi: Any = cffi.FFI()
_ffi.cdef("""
int flood_open(const void *sources, uint32_t source_count, uint16_t port, uint64_t first, uint32_t count,
               int *held, uint32_t room, uint64_t *at, const void *octets, uint32_t size, int resets);
""")

_FRAMED = len(_QUERY).to_bytes(2, "big") + _QUERY
_DNSKEY = b"\0\x11" + _QUERY[:13] + b"\0\x30\0\1"
MANNERS = {
    "silent": b"",
    "half": _FRAMED[:7],
    "once": _FRAMED,
    "unread": _DNSKEY * 200,
    "reset": _FRAMED,
}
"""What each connection of a flood sends: nothing, half a query, a query, many whose answers are never read, a query
and then a reset."""


@dataclass(frozen=True)
class Flood:
    """What comes."""

    port: int
    rate: float = 14_000.0
    """Connections per second."""

    prefixes: int = 8
    """/24 that they come from."""

    addresses: int = 200
    """By all of them together."""

    seconds: float = 5.0
    clients: int = 330
    """Each from a /24 of its own, spread over the time but the first half second."""

    waits: tuple[float, ...] = (0.1, 0.3)
    """Seconds between connecting and asking, by clients in turn."""

    udp_rate: float = 200.0
    manner: str = "silent"
    """Of MANNERS."""

    farm: int = 0
    """Connections of a resolver farm in one /24, each of which asks ten times a second, all the time."""

    both_families: bool = False
    """Whether every other connection and client comes over IPv6, from a /48 of LOCAL_IPV6 where else it is a /24."""

    def sources(self) -> list[str]:
        """The addresses of the flood, none of a client's /24 or IPv6 /32."""
        each = -(-self.addresses // self.prefixes)
        numbers = [(n % self.prefixes, n // self.prefixes) for n in range(self.addresses)]
        return [
            f"2001:d{128 + p % 128:02x}:{p >> 7:x}::{1 + n:x}" if self.both_families and (p + n) % 2
            else f"127.{128 + (p >> 8)}.{p & 255}.{1 + n % 254}"
            for p, n in numbers if n < each
        ]  # fmt: skip

    def source_of(self, number: int) -> str:
        """The address of a client."""
        if self.both_families and number // len(self.waits) % 2:
            return f"2001:d{number % 128:02x}:{number >> 7:x}::1"
        return f"127.{1 + (number >> 8)}.{number & 255}.1"


@dataclass
class Found:
    """What became of those who asked."""

    flooded: int = 0
    asked: dict[float, int] = field(default_factory=dict)
    failed: dict[float, int] = field(default_factory=dict)
    """Clients by how long they waited."""

    reasons: dict[str, int] = field(default_factory=dict)
    datagrams: int = 0
    datagrams_lost: int = 0
    farm_asked: int = 0
    farm_lost: int = 0
    """Of the farm's connections, those that ended."""


def run(flood: Flood) -> Found:
    """Flood and ask, for `flood.seconds`; nothing is left behind."""
    raise_limit()
    opens = _opener(flood)
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            stand_apart()
            if os.getppid() != parent:
                raise SystemExit
            os.write(writing, b"%d" % _come(flood, opens))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    try:
        found = asyncio.run(_ask_all(flood))
        with os.fdopen(reading, "rb", closefd=False) as pipe:
            found.flooded = int(pipe.read() or b"0")
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return found


def _come(flood: Flood, opens: "Opens") -> int:
    """Open connections at the rate until the time is over; how many there were."""
    began = time.monotonic()
    opened = made = 0
    while (now := time.monotonic()) < began + flood.seconds:
        due = int((now - began) * flood.rate)
        # What could not be done in time is not made up for: a burst is no rate.
        opened = max(opened, due - int(flood.rate * 0.05))
        made += opens(opened, due - opened)
        opened = due
        time.sleep(_TURN_SECONDS)
    return made


Opens = Callable[[int, int], int]
"""Opens connections, beginning with a number, so many: how many could be opened."""


def _opener(flood: Flood) -> Opens:
    most = max(1, min(_HELD, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVE))
    try:
        return _InC(flood, most)
    except CompilerMissing:
        return _InPython(flood, most)


class _InC:
    """By bench/flood.c, a fifth of the processor time: without it two cores do not make 14,000 a second."""

    def __init__(self, flood: Flood, most: int) -> None:
        """CompilerMissing."""
        self._library = c_source.library("flood.c", _ffi)
        mapped = [each if ":" in each else f"::ffff:{each}" for each in flood.sources()]
        self._sources = _ffi.new("char[]", b"".join(socket.inet_pton(socket.AF_INET6, each) for each in mapped))
        self._count = len(mapped)
        self._port = flood.port
        self._held = _ffi.new("int[]", [-1] * most)
        self._at = _ffi.new("uint64_t *")
        self._sent = _ffi.new("char[]", MANNERS[flood.manner])
        self._size, self._resets = len(MANNERS[flood.manner]), flood.manner == "reset"

    def __call__(self, first: int, count: int) -> int:
        held = self._held
        opened: int = self._library.flood_open(
            self._sources, self._count, self._port, first, count, held, len(held), self._at, self._sent, self._size,
            self._resets,
        )  # fmt: skip
        return opened


class _InPython:
    """Where there is no compiler."""

    def __init__(self, flood: Flood, most: int) -> None:
        self._sources = flood.sources()
        self._port = flood.port
        self._most = most
        self._sent, self._resets = MANNERS[flood.manner], flood.manner == "reset"
        self._held: deque[socket.socket] = deque()

    def __call__(self, first: int, count: int) -> int:
        opened = 0
        for number in range(first, first + count):
            source = self._sources[number % len(self._sources)]
            connection = _socket_of(source)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            try:
                connection.bind((source, 0))
                connection.connect_ex((_target_of(source), self._port))
                if self._sent:
                    connection.send(self._sent)
            except OSError:
                connection.close()
                continue
            opened += 1
            if self._resets:
                connection.close()
                continue
            self._held.append(connection)
            if len(self._held) > self._most:
                self._held.popleft().close()
        return opened


def _target_of(source: str) -> str:
    return TARGET_IPV6 if ":" in source else TARGET


def _socket_of(source: str) -> socket.socket:
    """Not blocking, of the family of *source*, which it can be bound to."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, _FREEBIND, 1)
    return made


async def _ask_all(flood: Flood) -> Found:
    found = Found()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_ask_over_udp(flood, found))
        for number in range(flood.farm):
            tasks.create_task(_ask_on_and_on(flood, number, found))
        spread = max(0.1, flood.seconds - 0.5 - max(flood.waits))
        for number in range(flood.clients):
            wait = flood.waits[number % len(flood.waits)]
            start = 0.5 + spread * number / flood.clients
            tasks.create_task(_ask(flood, number, start, wait, found))
    return found


async def _ask(flood: Flood, number: int, start: float, wait: float, found: Found) -> None:
    await asyncio.sleep(start)
    found.asked[wait] = found.asked.get(wait, 0) + 1
    source = flood.source_of(number)
    stage = "connecting"
    try:
        async with asyncio.timeout(_ANSWER_SECONDS + wait):
            with contextlib.closing(_socket_of(source)) as connection:
                connection.bind((source, 0))
                await asyncio.get_running_loop().sock_connect(connection, (_target_of(source), flood.port))
                reader, writer = await asyncio.open_connection(sock=connection.dup())
            try:
                await asyncio.sleep(wait)
                stage = "asking"
                await _asked_once(reader, writer)
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError) as error:
        found.failed[wait] = found.failed.get(wait, 0) + 1
        reason = f"{stage}: {type(error).__name__}"
        found.reasons[reason] = found.reasons.get(reason, 0) + 1


async def _asked_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_FRAMED)
    size = int.from_bytes(await reader.readexactly(2), "big")
    response = await reader.readexactly(size)
    if response[:2] != _QUERY[:2] or response[3] & 15:
        raise ConnectionError("wrong answer")


async def _ask_on_and_on(flood: Flood, number: int, found: Found) -> None:
    """A connection of the farm: it asks until the time is over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + flood.seconds
    try:
        reader, writer = await asyncio.open_connection(
            TARGET, flood.port, local_addr=(f"127.120.0.{1 + number % 9}", 0)
        )
        try:
            while loop.time() < end:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await _asked_once(reader, writer)
                found.farm_asked += 1
                await asyncio.sleep(_FARM_SECONDS)
        finally:
            writer.close()
    except (OSError, TimeoutError, EOFError):
        found.farm_lost += 1


async def _ask_over_udp(flood: Flood, found: Found) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect((TARGET, flood.port))
        answered: set[bytes] = set()

        def take() -> None:
            while True:
                try:
                    answered.add(asking.recv(4096)[:2])
                except (BlockingIOError, ConnectionError):
                    return

        loop.add_reader(asking.fileno(), take)
        try:
            end = loop.time() + flood.seconds
            while loop.time() < end and found.datagrams < 65_536:
                asking.send(found.datagrams.to_bytes(2, "big") + _QUERY[2:])
                found.datagrams += 1
                await asyncio.sleep(1 / flood.udp_rate)
            for _ in range(20):
                if len(answered) == found.datagrams:
                    break
                await asyncio.sleep(0.1)
        finally:
            loop.remove_reader(asking.fileno())
    found.datagrams_lost = found.datagrams - len(answered)


def to_text(flood: Flood, found: Found) -> str:
    """What an operator reads."""
    nets = "/24 and IPv6 /48" if flood.both_families else "/24"
    lines = [
        f"{found.flooded / flood.seconds:,.0f} connections/s from {flood.addresses} addresses in {flood.prefixes}"
        f" {nets}, {flood.manner}, {flood.seconds:g} s ({flood.rate:,.0f}/s were wanted)"
    ]
    lines += [
        f"clients that ask {wait * 1000:.0f} ms after connecting: {found.failed.get(wait, 0)} of {asked} failed"
        for wait, asked in sorted(found.asked.items())
    ]
    lines += [f"  {count} {reason}" for reason, count in sorted(found.reasons.items())]
    if flood.farm:
        lines.append(f"farm: {found.farm_lost} of {flood.farm} connections ended, {found.farm_asked} queries answered")
    lines.append(f"UDP: {found.datagrams_lost} of {found.datagrams} lost")
    return "\n".join(lines)


def refusal(flood: Flood) -> str:
    """Why this must not be done; empty if it may."""
    bounds: Sequence[tuple[str, float, float, float]] = (
        ("--port", flood.port, 1, 65_535), ("--rate", flood.rate, 1, MAX_RATE),
        ("--seconds", flood.seconds, 1.5, MAX_SECONDS), ("--clients", flood.clients, 1, MAX_CLIENTS),
        ("--prefixes", flood.prefixes, 1, 8_000),
        ("--addresses", flood.addresses, flood.prefixes, 254 * flood.prefixes), ("--farm", flood.farm, 0, MAX_CLIENTS),
    )  # fmt: skip
    if flood.both_families and not _is_local():
        return f"--both-families: {LOCAL_IPV6} is not local here (ip -6 route add local {LOCAL_IPV6} dev lo)"
    return "; ".join(
        f"{name}: must be {low:g}..{high:g}, got {value:g}"
        for name, value, low, high in bounds
        if not low <= value <= high
    )


def _is_local() -> bool:
    """Whether what is sent to an address of LOCAL_IPV6 stays here."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("2001:d00::1", 9))
        except OSError:
            return False
        return asking.getsockname()[0] in {TARGET_IPV6, "2001:d00::1"}
