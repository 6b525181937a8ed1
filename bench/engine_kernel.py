"""The kernel engine: millions of queries per second from BPF_PROG_TEST_RUN with live frames; XDP judges."""
# Theory of operation
# -------------------
# bench/bpf/load.bpf.c says how one query becomes a frame and how its response is recognised.  Here the queries are made
# into frames with their sums (slots), the programs are loaded, `sink` is attached to the interface, and one test-run
# call goes on until its time is over: each such call costs milliseconds to tear down, so a run is one call, ended by a
# timer signal, and the pace is kept in the program: it drops (and so gets back at once) frames that are not yet due.

import contextlib
import fcntl
import ipaddress
import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy
from numpy.typing import NDArray

from bench.bpf_object import compiled
from bench.load import BINS, Load, Target
from bench.queries import MAX_QUERY_OCTETS, Query, same_response
from rootsrv.fastpath import libbpf

GRACE_SECONDS = 0.5
"""How long after its end the last responses of a run are awaited."""

# Mirrors of bench/bpf/load.bpf.c.
MAX_SLOTS = 65536
MAX_FRAME = 448
ANY_RCODE = 0xFF
SAMPLED = 16
SLOT = numpy.dtype(
    [
        ("frame_size", "u2"), ("family", "u1"), ("unused", "u1"), ("ip_sum", "u4"), ("udp_sum", "u4"),
        ("frame", "u1", MAX_FRAME), ("padding", "u1", 4),
    ]
)  # fmt: skip
EXPECTED = numpy.dtype([("size", "u2"), ("rcode", "u1"), ("unused", "u1"), ("padding", "u1", 4)])
CONTROL = numpy.dtype(
    [
        ("start_ns", "u8"), ("end_ns", "u8"), ("rate", "u8"), ("first", "u8"), ("limit", "u8"), ("next", "u8"),
        ("scheduled", "u8"), ("granted", "u8"), ("next_grant_ns", "u8"), ("gather_ns", "u8"), ("overflowed", "u8"),
        ("retry_ns", "u8"), ("seen_ns", "u8"), ("absent_ns", "u8"), ("ring", "u4"), ("cpu", "u4"),
        ("slots", "u4"), ("ifindex", "u4"), ("sample_every", "u4"), ("taking", "u4"),
    ]
)  # fmt: skip
STAMP = numpy.dtype([("s", "u8"), ("sent_ns", "u8")])
_SEEN = (
    "answered", "octets", "truncated", "wrong_id", "wrong_rcode", "wrong_size", "duplicate", "untimed", "late", "other",
    "samples_lost",
)  # fmt: skip

MAX_RING = 65_536
_START_AGAIN = 1 << 31  # of the 2^32 query numbers that can be told apart
_SAMPLES_PER_RUN = 3000  # whole responses; the ring buffer holds 4,000
_RING_DROPS = "tx_queue_0_xdp_xmit_errors"  # of veth: frames for which the peer's ring had no room
_RING_EMPTIES_NS = 50_000_000  # what a card still holds at the end goes, too
_MAX_REPEAT = (1 << 31) - 1


Right = bytes | tuple[bytes, ...] | None
"""A right response, or several of which each is right; None = not known."""


class KernelEngineUnavailable(Exception):
    """This host cannot run the kernel engine."""


@dataclass(frozen=True)
class Card:
    """The network card that the engine stands for: how it hands over what came in."""

    ring: int = 4096
    """Queries that wait while the server has no room; more are lost.  Cards have up to 1,024 … 8,192 places."""

    gather_seconds: float = 50e-6
    """Between two bursts, as cards moderate their interrupts (Intel's: 50 µs)."""


class KernelEngine:
    """UDP load from BPF.  To be made inside the namespace that has *interface*."""

    def __init__(
        self,
        queries: Sequence[Query],
        target: Target,
        *,
        interface: str,
        macs: tuple[str, str],
        sources: tuple[str, str],
        generic: bool = False,
        card: Card | None = None,
    ) -> None:
        """*macs* are ours and the next hop's; *sources* an IPv4 and an IPv6 prefix with 16 host bits at least.

        Without a *card* each query goes when it is due, and what finds the server's ring full is lost.
        """
        self.queries: list[Query] = []
        self._references: Sequence[Right] = ()
        self._target, self._macs = target, macs
        self._networks = {4: ipaddress.ip_network(sources[0]), 6: ipaddress.ip_network(sources[1])}
        for network in self._networks.values():
            if network.max_prefixlen - network.prefixlen < 16:
                raise KernelEngineUnavailable(f"source prefix {network}: at least 16 host bits are needed")
        self._interface = interface
        self._object = libbpf.BpfObject.open(compiled("load"), "load")
        self._card = card
        self._links: list[int] = []
        self._mappings: list[mmap.mmap] = []
        try:
            self._object.load()
            self._generate = self._object.program("generate")
            self._slots = self._map("slots", SLOT)
            self._expected = self._map("expectations", EXPECTED)
            self._control = self._map("controls", CONTROL)
            self._stamps = self._map("stamps", STAMP)
            self._transit = self._object.map("transits")
            self._results = self._object.map("results")
            self._samples = self._object.map("samples")
            self.use(queries)
            self._ifindex = socket.if_nametoindex(interface)
            mode = libbpf.XDP_GENERIC_MODE if generic else libbpf.XDP_DRIVER_MODE
            self._links.append(libbpf.link(self._object.program("sink"), self._ifindex, libbpf.ATTACH_XDP, mode))
            if card:
                self._links.append(libbpf.trace(self._object.program("handed_over"), "xdp_devmap_xmit"))
        except BaseException:
            self.close()
            raise
        signal.signal(signal.SIGALRM, _ignore)

    def _map(self, name: str, dtype: "numpy.dtype[Any]") -> "NDArray[Any]":
        described = self._object.map(name)
        stride = (described.value_size + 7) // 8 * 8
        if stride != dtype.itemsize:
            raise KernelEngineUnavailable(f"map {name}: {described.value_size} octets, expected {dtype.itemsize}")
        pages = -(-stride * described.max_entries // mmap.PAGESIZE)
        mapping = mmap.mmap(described.fd, pages * mmap.PAGESIZE)
        self._mappings.append(mapping)
        return numpy.frombuffer(mapping, dtype, count=described.max_entries)

    def use(self, queries: Sequence[Query]) -> int:
        """Send these queries from now on (UDP, of the target's families, 65,536 at most); how many there are."""
        target, macs = self._target, self._macs
        self.queries = [
            query
            for query in queries
            if not query.tcp
            and (target.ipv4 if query.family == 4 else target.ipv6)
            and len(query.octets) <= MAX_QUERY_OCTETS
        ][:MAX_SLOTS]
        if not self.queries:
            raise KernelEngineUnavailable("no UDP queries for the families of the target")
        self._references = ()
        self._expected["size"] = 0
        ethernet = {
            family: bytes.fromhex((macs[1] + macs[0]).replace(":", "")) + ethertype.to_bytes(2, "big")
            for family, ethertype in ((4, 0x0800), (6, 0x86DD))
        }
        for number, query in enumerate(self.queries):
            address = target.ipv4 if query.family == 4 else target.ipv6
            assert address is not None
            destination = ipaddress.ip_address(address).packed
            source = self._networks[query.family].network_address.packed[:-2] + b"\0\0"
            packet, ip_sum, udp_sum = _packet(query, source, destination, target.port)
            frame = ethernet[query.family] + packet
            slot = self._slots[number]
            slot["frame_size"], slot["family"], slot["ip_sum"], slot["udp_sum"] = (
                len(frame), query.family, ip_sum, udp_sum,
            )  # fmt: skip
            slot["frame"][: len(frame)] = numpy.frombuffer(frame, numpy.uint8)
            self._expected[number]["rcode"] = ANY_RCODE if query.rcode is None else query.rcode
        return len(self.queries)

    def expect(self, references: Sequence[Right], sizes: Sequence[int]) -> None:
        """Right responses by slot: *sizes* (0 = not known) are checked of every one, the octets of a sample."""
        self._references = references
        self._expected["size"][: len(sizes)] = sizes

    def run(self, rate: float | None, seconds: float, limit: int = 0) -> Load:
        """Offer *rate* queries per second (None: as many as go) for *seconds*, *limit* queries at most."""
        control = self._control[0]
        self._results.update(0, bytes(self._results.value_size))
        libbpf.consume_ring(self._samples)
        self._stamps["sent_ns"] = 0
        expected = (rate or 3e6) * seconds
        control["slots"], control["ifindex"] = len(self.queries), self._ifindex
        control["sample_every"] = max(1, int(expected / _SAMPLES_PER_RUN)) if self._references else 0
        if control["next"] > _START_AGAIN:
            control["next"] = 0
        control["first"] = first = control["next"]
        control["rate"], control["limit"] = int(rate or 0), first + limit if limit else (1 << 32) - 1
        for name in ("scheduled", "granted", "next_grant_ns", "overflowed", "absent_ns"):
            control[name] = 0
        card = self._card if rate else None
        control["ring"], control["gather_ns"] = (card.ring, int(card.gather_seconds * 1e9)) if card else (0, 0)
        self._transit.update(0, bytes(self._transit.value_size))
        before = _driver_counters(self._interface)
        start = time.monotonic_ns() + 1_000_000
        control["seen_ns"] = start
        control["start_ns"], control["end_ns"] = start, start + int(seconds * 1e9)
        control["taking"] = 1
        try:
            self._generate_until(start + int(seconds * 1e9) + (_RING_EMPTIES_NS if card else 0))
            self._await_the_last()
        finally:
            control["taking"] = 0
        return self._result(rate, seconds, before)

    def _generate_until(self, end_ns: int) -> None:
        while (left := (end_ns - time.monotonic_ns()) / 1e9) > 0:
            # Again and again: a signal that comes before the call has begun would not end it.
            signal.setitimer(signal.ITIMER_REAL, left + 0.0005, 0.005)
            with contextlib.suppress(InterruptedError):
                libbpf.run_on_packet(
                    self._generate,
                    bytes(MAX_FRAME),
                    repeat=_MAX_REPEAT,
                    flags=libbpf.TEST_RUN_LIVE_FRAMES,
                    batch=64,
                )
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _await_the_last(self) -> None:
        """Wait until nothing comes any more, GRACE_SECONDS at most."""
        deadline, before = time.monotonic() + GRACE_SECONDS, -1
        while (answered := int(self._counts()[0])) != before and time.monotonic() < deadline:
            before = answered
            time.sleep(0.05)

    def _counts(self) -> "NDArray[numpy.uint64]":
        counts = numpy.zeros(len(_SEEN) + 16 + BINS, numpy.uint64)
        for octets in self._results.lookup_per_cpu(0):
            counts += numpy.frombuffer(octets, numpy.uint64)
        return counts

    def _result(self, rate: float | None, seconds: float, before: dict[str, int]) -> Load:
        counts = self._counts()
        seen = {name: int(counts[place]) for place, name in enumerate(_SEEN)}
        after = _driver_counters(self._interface)
        ring_drops = after.get(_RING_DROPS, 0) - before.get(_RING_DROPS, 0)
        overflowed = int(self._control[0]["overflowed"])
        sent = int(self._control[0]["next"] - self._control[0]["first"]) + overflowed
        if self._control[0]["ring"]:
            ring_drops = overflowed  # what veth had no room for went again
        load = Load(seconds, rate, sent, seen["answered"], sent - seen["answered"], seen["octets"])
        load.ring_drops = ring_drops
        load.truncated = seen["truncated"]
        load.rcodes = {rcode: int(count) for rcode, count in enumerate(counts[len(_SEEN) : len(_SEEN) + 16]) if count}
        load.latency = [int(count) for count in counts[len(_SEEN) + 16 :]]
        load.wrong = {
            what: count
            for what, count in (
                ("id", seen["wrong_id"]),
                ("rcode", seen["wrong_rcode"]),
                ("size", seen["wrong_size"]),
                ("duplicate", seen["duplicate"]),
            )
            if count
        }
        if seen["untimed"]:
            load.remarks.append(f"{seen['untimed'] * SAMPLED:,} responses came too late to be timed")
        for sample in libbpf.consume_ring(self._samples):
            slot, size = struct.unpack_from("=II", sample)
            reference = self._references[slot] if slot < len(self._references) else None
            if reference is None:
                continue
            load.compared += 1
            rights = (reference,) if isinstance(reference, bytes) else reference
            if not any(same_response(self.queries[slot], sample[8 : 8 + size], right) for right in rights):
                load.wrong["content"] = load.wrong.get("content", 0) + 1
        return load

    def close(self) -> None:
        """Detach the sink and drop programs and maps."""
        while self._links:
            os.close(self._links.pop())
        self._object.close()


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler, so that the timer interrupts the test run and nothing else."""


def _packet(query: Query, source: bytes, destination: bytes, port: int) -> tuple[bytes, int, int]:
    """The IP packet with id, source port, source low 16 bits and both checksums zero; IPv4 header sum, UDP sum."""
    message = b"\0\0" + query.octets[2:]
    size = 8 + len(message)
    udp = struct.pack("!HHHH", 0, port, size, 0) + message
    pseudo = source + destination + struct.pack("!II", size, 17)
    if query.family == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0x4000, 64, 17, 0) + source + destination
        return header + udp, _sum(header), _sum(pseudo + udp)
    header = struct.pack("!IHBB", 6 << 28, size, 17, 64) + source + destination
    return header + udp, 0, _sum(pseudo + udp)


def _sum(octets: bytes) -> int:
    if len(octets) % 2:
        octets += b"\0"
    return sum(struct.unpack(f"!{len(octets) // 2}H", octets))


_SIOCETHTOOL = 0x8946


def _driver_counters(interface: str) -> dict[str, int]:
    """What `ethtool -S` shows (ETHTOOL_GSSET_INFO, _GSTRINGS, _GSTATS)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:

        def ask(request: bytearray) -> bool:
            address = numpy.frombuffer(request, numpy.uint8).ctypes.data
            with contextlib.suppress(OSError):
                fcntl.ioctl(
                    opened, _SIOCETHTOOL, interface.encode().ljust(16, b"\0") + struct.pack("=QQQ", address, 0, 0)
                )
                return True
            return False

        sizes = bytearray(struct.pack("=IIQI", 0x37, 0, 1 << 1, 0))
        if not ask(sizes):
            return {}
        count = struct.unpack_from("=I", sizes, 16)[0]
        names = bytearray(struct.pack("=III", 0x1B, 1, count) + bytes(32 * count))
        values = bytearray(struct.pack("=II", 0x1D, count) + bytes(8 * count))
        if not (ask(names) and ask(values)):
            return {}
    return {
        bytes(names[12 + 32 * n : 44 + 32 * n]).rstrip(b"\0").decode(): struct.unpack_from("=Q", values, 8 + 8 * n)[0]
        for n in range(count)
    }
