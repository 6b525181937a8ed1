"""Queries as the fast path writes them down, in a ring of our own, again and again: for the collector alone."""

import mmap
import random
import struct

import numpy

from bench import cdns
from bench.mix import Mix
from bench.zones import Zones
from rootsrv.capture import messages, pcap, rings, units
from rootsrv.capture.facts import CONTINUATION_AT, FACT_OCTETS, Fact, Kind
from rootsrv.process.clock import boottime_ns

RECORDED = 40_000
"""Queries that are replayed."""

_DRAWN = {4: (20, 21, 26, 27, 42, 43), 6: (62, 63)}
"""Octets of a row that are anything in packets from the wire: identification, checksums."""


def fact_in_units(fact: Fact) -> bytes:
    """*fact* as the kernel tells of it (struct fact and what is behind it)."""
    if fact.transport or fact.kind != Kind.QUERY or fact.qclass != 1:
        raise ValueError("the kernel answers queries of the class IN over UDP")
    half = 4 if fact.family == 4 else 16
    head = fact.to_rows()[:32]
    return _whole_units(head + fact.source[:half] + fact.destination[:half] + fact.octets)


def packet_in_units(rows: bytes) -> bytes:
    """The *rows* of one packet as the kernel keeps it."""
    (size,) = struct.unpack_from("<I", rows, 12)
    pieces = [rows[at + CONTINUATION_AT : at + FACT_OCTETS] for at in range(0, len(rows), FACT_OCTETS)]
    return _whole_units(rows[:CONTINUATION_AT] + b"".join(pieces)[:size])


def _whole_units(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % rings.UNIT_OCTETS)


class Recording:
    """The writer of a kernel's ring, which writes the same queries again and again at the time that it is."""

    def __init__(self, queries: list[bytes], chunks: int) -> None:
        """*queries*: each a number of units."""
        capacity = chunks * rings.CHUNK_UNITS
        memory = memoryview(mmap.mmap(-1, rings.HEAD_OCTETS + rings.unit_ring_octets(capacity)))
        behind = memory[rings.HEAD_OCTETS :]
        self.ring: rings.Ring = rings.KernelRing("kernel", memory[: rings.HEAD_OCTETS], behind)
        self._words = memory[: rings.HEAD_OCTETS].cast("Q")
        in_units = (capacity + rings.BEYOND_UNITS) * rings.UNIT_OCTETS
        self._ring = numpy.frombuffer(behind[:in_units], "<u8").reshape(-1, rings.UNIT_OCTETS // 8)
        self._begins = numpy.frombuffer(behind[in_units:], numpy.uint8)
        self._units = numpy.frombuffer(b"".join(queries), "<u8").reshape(-1, rings.UNIT_OCTETS // 8)
        self._heads = numpy.cumsum([0, *(len(each) // rings.UNIT_OCTETS for each in queries)])
        self._goes_on = numpy.ones(len(self._units), numpy.uint8)
        self._goes_on[self._heads[:-1]] = 0
        self._next = 0

    def ask(self, queries: int) -> None:
        """Append so many, or count them as lost: as the program does."""
        while queries > 0:
            first = self._next
            some = min(queries, len(self._heads) - 1 - first)
            self._append(first, some)
            self._next = (first + some) % (len(self._heads) - 1)
            queries -= some

    def _append(self, first: int, queries: int) -> None:
        words, capacity, heads = self._words, self.ring.capacity, self._heads
        written = words[rings.WRITTEN]
        room = capacity - units.MARGIN_UNITS - (written - words[rings.READ])
        fit = int(numpy.searchsorted(heads[first + 1 : first + queries + 1], heads[first] + room, "right"))
        words[rings.LOST] += queries - fit
        start, end = heads[first], heads[first + fit]
        now = boottime_ns()
        octets = self._units[start:end].copy()
        octets[heads[first : first + fit] - start, 0] = numpy.arange(now - fit, now, dtype=numpy.uint64)
        at = written % capacity
        # A row that begins before the ring's end is whole; the next begins behind it, from the ring's beginning on.
        until_end = int(
            heads[first + int(numpy.searchsorted(heads[first : first + fit], start + capacity - at))] - start
        )
        for piece, place in ((slice(0, until_end), at), (slice(until_end, end - start), at + until_end - capacity)):
            if piece.stop > piece.start:
                self._ring[place : place + piece.stop - piece.start] = octets[piece]
                self._begins[place : place + piece.stop - piece.start] = self._goes_on[start:end][piece]
        words[rings.ITEMS] += fit
        words[rings.WRITTEN] = written + int(end - start)


def queries_of_the_mix(zones: Zones, kind: str) -> list[bytes]:
    """Queries for files of that *kind*, as the program writes them: RECORDED that differ, from many clients."""
    found = cdns.mix_facts(zones, RECORDED)
    if kind == "cdns":
        return [
            fact_in_units(fact._replace(transport=0)) for fact in found if fact.kind == Kind.QUERY and fact.qclass == 1
        ]
    draw = random.Random(1)
    packets = []
    for fact, query in zip(found, Mix.read().queries(zones.tlds, RECORDED), strict=True):
        message = messages.CapturedMessage(
            fact.time, fact.family, 0, fact.source, fact.source_port, fact.destination, 53, 0, b"",
            draw.randbytes(2) + query.octets[2:],
        )  # fmt: skip
        row = bytearray(pcap.rows_of(message))
        for at in _DRAWN[fact.family]:
            row[at] = draw.getrandbits(8)
        packets.append(packet_in_units(bytes(row)))
    return packets
