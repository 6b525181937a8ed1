"""Rows of units: with numpy and without the same rows come out, wherever one begins or ends in its ring."""

import random
import struct

import pytest

from bench.recording import Recording, fact_in_units, packet_in_units
from rootsrv.capture import facts, messages, pcap, rings, units
from rootsrv.capture.facts import FACT_OCTETS, Fact, Kind, OptBits
from tests.capture import random_facts

NAME_SIZES = [1, *range(3, 256)]


@pytest.fixture(params=["numpy", "plain"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of both reads."""
    if request.param == "plain":
        monkeypatch.setattr(units, "numpy", None)
    found: str = request.param
    return found


def kernel_fact(draw: random.Random, family: int, name_octets: int) -> Fact:
    """What the kernel can tell, of a name of any octets."""
    found = random_facts.query(draw, 0, anything=True)
    source, destination = (draw.randbytes(4 if family == 4 else 16).ljust(16, b"\0") for _ in range(2))
    bits = OptBits(draw.getrandbits(5)) | OptBits.PRESENT if draw.random() < 0.8 else OptBits(0)
    return found._replace(
        family=family, source=source, destination=destination, opt_bits=int(bits), arcount=int(bits != 0),
        name_octets=name_octets, octets=random_facts.wire_name(draw, name_octets), transport=0, ancount=0, nscount=0,
        qdcount=1, qclass=1, edns_version=0, extended_rcode=0, query_octets=draw.randint(17, 512),
        response_octets=draw.choice([0, draw.randint(12, 4096)]),
    )  # fmt: skip


def replayed(recording: Recording, count: int, draw: random.Random) -> bytes:
    """*count* queries, in takes of any number, and so at any place of the ring."""
    found = b""
    while count:
        some = min(count, draw.choice([1, 2, 3, 40]))
        recording.ask(some)
        recording.ring.take()
        found += b"".join(recording.ring.take())
        recording.ring.done(recording.ring.taken)
        count -= some
    assert recording.ring.counts().lost == 0
    return found


def test_facts_of_every_size_come_back_octet_for_octet(reader: str) -> None:
    draw = random.Random(1)
    asked = [kernel_fact(draw, family, size) for size in NAME_SIZES for family in (4, 6)] * 3
    draw.shuffle(asked)
    recording = Recording([fact_in_units(each) for each in asked], 1)

    rows = replayed(recording, len(asked), draw)

    assert recording.ring.after(0)[0].read > 3 * recording.ring.capacity
    times = [found.time for found in facts.read(rows)]
    assert rows == b"".join(fact._replace(time=time).to_rows() for fact, time in zip(asked, times, strict=True))


def test_packets_of_every_size_come_back(reader: str) -> None:
    draw = random.Random(2)
    packets = []
    for size in range(17, 513):
        source, own = draw.randbytes(16), draw.randbytes(16)
        message = messages.CapturedMessage(0, draw.choice([4, 6]), 0, source, 7, own, 53, 0, b"", draw.randbytes(size))
        packets.append(pcap.rows_of(message))
    recording = Recording([packet_in_units(each) for each in packets], 1)

    rows = replayed(recording, len(packets), draw)

    heads = [at for at in range(0, len(rows), FACT_OCTETS) if rows[at + 8] != Kind.CONTINUATION]
    expected = b""
    for packet, at in zip(packets, heads, strict=True):
        time = rows[at : at + 8]
        expected += b"".join(time + packet[row + 8 : row + FACT_OCTETS] for row in range(0, len(packet), FACT_OCTETS))
    assert pcap.records(rows, 0) == pcap.records(expected, 0)
    assert len(rows) == len(expected)
    for at in range(0, len(rows), FACT_OCTETS):
        if at not in heads:
            assert rows[at : at + FACT_OCTETS] == expected[at : at + FACT_OCTETS]


def test_facts_and_packets_may_follow_one_another(reader: str) -> None:
    """The reader has just changed its mind about what it wants."""
    draw = random.Random(3)
    message = messages.CapturedMessage(0, 6, 0, bytes(16), 7, bytes(16), 53, 0, b"", draw.randbytes(300))
    packet, fact = pcap.rows_of(message), kernel_fact(draw, 4, 200)
    recording = Recording([packet_in_units(packet), fact_in_units(fact)] * 20, 1)

    rows = replayed(recording, 40, draw)

    kinds = [rows[at + 8] for at in range(0, len(rows), FACT_OCTETS)]
    assert [kind for kind in kinds if kind != Kind.CONTINUATION] == [rings.PACKET, Kind.QUERY] * 20
    assert len(kinds) == 20 * (len(packet) + len(fact.to_rows())) // FACT_OCTETS


def test_whatever_is_in_a_ring_both_make_the_same_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(4)
    capacity = rings.CHUNK_UNITS
    for _ in range(30):
        octets = bytearray(draw.randbytes(rings.unit_ring_octets(capacity)))
        for unit in range(capacity + rings.BEYOND_UNITS):
            octets[unit * 16 + 8] = draw.choice([0, 0, 3, 200])
            octets[unit * 16 + 9] = draw.choice([0, 4, 6, 77])
            if draw.random() < 0.5:
                octets[unit * 16 + 12 : unit * 16 + 16] = struct.pack("<I", draw.randint(0, 700))
        begins = (capacity + rings.BEYOND_UNITS) * rings.UNIT_OCTETS
        octets[begins:] = bytes(draw.choice([0, 1, 1, 1, 9]) for _ in range(capacity + rings.BEYOND_UNITS))
        where = memoryview(octets), capacity, draw.randint(0, 2 * capacity), draw.randint(1, capacity)
        by_columns = bytes(units.rows(*where))
        with monkeypatch.context() as without:
            without.setattr(units, "numpy", None)
            assert bytes(units.rows(*where)) == by_columns


def test_the_room_of_a_ring_is_that_of_the_queries_and_not_of_rows(reader: str) -> None:
    draw = random.Random(5)
    recording = Recording([fact_in_units(kernel_fact(draw, 4, 20))], 1)  # four units
    recording.ask(2000)
    counted = recording.ring.counts()
    assert counted.items == (rings.CHUNK_UNITS - units.MARGIN_UNITS) // 4
    assert counted.lost == 2000 - counted.items
