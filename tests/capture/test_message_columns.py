"""Messages of workers by columns: the same facts and packets as one by one, whatever the messages are."""

import itertools
import os
import random
import struct
from collections.abc import Iterator, Sequence

import pytest

from rootsrv.capture import formats, message_columns, messages, pcap
from rootsrv.capture.cdns import Collection
from rootsrv.capture.facts import FACT_OCTETS, Kind
from rootsrv.capture.messages import MessageWriter
from rootsrv.process import time_slice
from rootsrv.wire import edns

OWN = {4: (bytes([192, 0, 2, 53]), 53), 6: (bytes.fromhex("20010db8000000000000000000000053"), 53)}
UDP, TCP, TLS = 0, 1, 2


class _Told:
    """In place of a ring: what is written is here."""

    shape = 1
    counted = 0

    def __init__(self) -> None:
        self.rows: list[bytes] = []

    def choose(self, count: int, needed: int) -> range:
        return range(count)

    def append(self, rows: list[bytes]) -> None:
        self.rows += rows


def told(
    requests: Sequence[bytes], *, family: int = 4, transport: int = UDP, responses: Sequence[bytes | None] | None = None
) -> bytes:
    """The rows that a worker writes of *requests*."""
    ring = _Told()
    sources = [random.Random(each).randbytes(4 if family == 4 else 16) for each in requests]
    ports = [1024 + number % 60_000 for number in range(len(requests))]
    MessageWriter(ring)._write(  # type: ignore[arg-type]
        10**15, transport, OWN[family], requests, sources, ports, responses or [None] * len(requests)
    )
    return b"".join(ring.rows)


def one_by_one(rows: bytes) -> tuple[bytes, bytes]:
    """Facts and packets of *rows* without columns."""
    found = list(messages.read(rows))
    streams = pcap.Streams()
    return (
        b"".join(messages.fact_of(each).to_rows() for each in found),
        b"".join(pcap.rows_of(each, streams.place(each) if each.transport else 1) for each in found),
    )


def by_columns(rows: bytes) -> tuple[bytes, bytes]:
    return formats.make("cdns", Collection()).rows(rows), formats.make("pcap", Collection()).rows(rows)


def question(name: bytes, qtype: int = 1, qclass: int = 1, counts: tuple[int, ...] = (1, 0, 0, 0)) -> bytes:
    head = struct.pack("!2H4H", random.Random(name).getrandbits(16), 0x0110, *counts)
    return head + name + struct.pack("!2H", qtype, qclass)


def with_opt(name: bytes, options: bytes = b"", *, version: int = 0, do: bool = True, owner: bytes = b"\0") -> bytes:
    opt = struct.pack("!HHBBHH", 41, 1232, 0, version, 0x8000 if do else 0, len(options)) + options
    return question(name, counts=(1, 0, 0, 1)) + owner + opt


def name_of(octets: int) -> bytes:
    """A name of so many octets on the wire, 1 … 255, but not 2."""
    labels = b""
    left = octets - 1
    while left:
        size = min(63, left - 1)
        if left - 1 - size == 1:
            size -= 1
        labels += bytes([size]) + bytes(97 + number % 26 for number in range(size))
        left -= 1 + size
    return labels + b"\0"


NAMES = [name_of(octets) for octets in (1, *range(3, 256))]
COOKIES = [edns.option(edns.COOKIE, bytes(range(size))) for size in (0, 7, 8, 9, 15, 16, 24, 40, 41)]
OPTIONS = [
    b"", *COOKIES, edns.option(8, bytes(7)), edns.option(edns.NSID, b""), edns.option(edns.NSID, b"x"),
    edns.option(edns.KEEPALIVE, b""), edns.option(edns.KEEPALIVE, b"\0\1"), edns.option(12, bytes(30)),
    edns.option(edns.ZONEVERSION, b""), edns.option(edns.ZONEVERSION, b"1"), edns.option(edns.EXPIRE, b""),
    COOKIES[2] + edns.option(8, bytes(7)), edns.option(8, bytes(7)) + COOKIES[2], COOKIES[2] * 2,
    b"\0\n\0\x09" + bytes(8), b"\0\n\0", b"\0", b"\0\n\0\x08" + bytes(9), edns.option(12, b"") * 33,
]  # fmt: skip
RESPONSES = [
    None, b"", b"\0\1\x84", bytes(12), *(b"\0\1\x84" + bytes([code]) + bytes(20) for code in range(16)),
    b"\0\1\x84\0" + bytes((0, 1, 0, 0, 0, 0, 0, 1)) + bytes(12),
    b"\0\1\x86\0" + bytes((0, 1, 0, 0, 0, 0, 0, 1)) + bytes(12),
    b"\0\1\x84\0" + bytes((0, 0, 0, 0, 0, 0, 0, 1)) + b"\0\0\x29\4\xd0\1\0\0",
    b"\0\1\x84\7" + bytes(8) + b"\0\0\x29\4\xd0\1",
    b"\0\1\x84\0" + bytes((0, 1, 0, 2, 0, 0, 0, 1)) + bytes(4000),
]  # fmt: skip


def odd_messages() -> Iterator[bytes]:
    """Of every form that is told apart, and some of none."""
    yield from (question(name) for name in NAMES)
    yield from (with_opt(name, COOKIES[2]) for name in NAMES)
    yield from (with_opt(b"\3com\0", options) for options in OPTIONS)
    yield from (with_opt(b"\3com\0", options, version=1, do=False) for options in OPTIONS)
    for counts in itertools.product((0, 1, 2), (0, 1), (0, 1), (0, 1, 2)):
        yield question(b"\3com\0", qtype=251, counts=counts)
        yield question(b"\3com\0", counts=counts) + with_opt(b"")[17:]
    whole = with_opt(b"\7EXAMPLE\3Org\0", COOKIES[2])
    yield from (whole[:size] for size in range(len(whole)))
    yield from (whole + bytes(more) for more in (1, 2, 11, 200, 3000))
    for opcode, options in itertools.product((0x00, 0x08, 0x28, 0x78, 0x80, 0xF8), (b"", *COOKIES, OPTIONS[-5])):
        for about in (struct.pack("!HBBHHHH", 7, opcode, 0, 0, 0, 0, 1) + with_opt(b"", options)[16:], whole):
            yield about[:2] + bytes([opcode]) + about[3:]
    yield with_opt(b"\3com\0", owner=b"\1a\0")
    yield with_opt(b"\3com\0", owner=b"\xc0\x0c")
    yield question(b"\x40" + bytes(64) + b"\0")
    yield question(b"\xc0\x0c")
    yield question(b"\1a" * 40 + b"\0")
    yield question(b"\1a" * 15 + b"\0")
    yield question(b"\0", 0xFFFF, 0xFFFF)


def changed_messages(count: int) -> Iterator[bytes]:
    """Good ones with some octets changed, cut, or made longer."""
    draw = random.Random(17)
    for _ in range(count):
        octets = bytearray(with_opt(draw.choice(NAMES), draw.choice(OPTIONS[:20]), do=draw.random() < 0.5))
        for _ in range(draw.randrange(4)):
            octets[draw.randrange(len(octets))] = draw.choice((0, 1, 2, 3, 41, 63, 64, 192, draw.randrange(256)))
        cut = draw.choice((0, 0, 0, 1, 5, draw.randrange(len(octets))))
        yield bytes(octets[: len(octets) - cut])


@pytest.mark.parametrize("transport", [UDP, TCP, TLS])
@pytest.mark.parametrize("family", [4, 6])
def test_columns_are_what_one_by_one_is(family: int, transport: int) -> None:
    requests = [*odd_messages(), *changed_messages(4000)]
    rows = told(
        requests,
        family=family,
        transport=transport,
        responses=[RESPONSES[number % len(RESPONSES)] for number in range(len(requests))],
    )

    assert by_columns(rows) == one_by_one(rows)


def test_each_message_alone_is_what_it_is_among_others() -> None:
    """The last message in memory has nothing behind it, and what is alone may be of one kind only."""
    for request, family in itertools.product(odd_messages(), (4, 6)):
        rows = told([request], family=family)

        assert by_columns(rows) == one_by_one(rows)


def test_both_families_and_transports_stay_in_their_order() -> None:
    draw = random.Random(3)
    rows = b"".join(
        told([request], family=draw.choice((4, 6)), transport=draw.choice((UDP, UDP, TCP)))
        for request in [*odd_messages(), *changed_messages(500)]
    )

    assert by_columns(rows) == one_by_one(rows)


def test_nothing_comes_of_nothing() -> None:
    assert by_columns(b"") == (b"", b"")


def test_usual_queries_and_what_is_easily_flooded_with_are_taken_apart_by_columns_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a core that a worker wants would be taken for ten times as long, and others would lose their room."""
    options = (
        b"", *COOKIES[2:3], *COOKIES[5:8], edns.option(8, bytes(7)), edns.option(edns.NSID, b""),
        COOKIES[2] + edns.option(8, bytes(7)), edns.option(edns.NSID, b"") + COOKIES[6] + edns.option(12, bytes(30)),
    )  # fmt: skip
    usual = [question(name) for name in NAMES]
    usual += [with_opt(name, each, do=do) for name in NAMES for each in options for do in (True, False)]
    usual += [question(b"\1a" * labels + b"\0") for labels in range(1, 128)]
    usual += [with_opt(b"")[:4] + bytes(7) + b"\1" + with_opt(b"", COOKIES[2])[16:]]
    malformed = [bytes(size) for size in range(12)]
    malformed += [question(b"", counts=(0, 0, 0, 0))[:12], with_opt(b"")[:4] + bytes(7) + b"\1" + with_opt(b"")[16:]]
    malformed += [b"\0\7\x84\0" + question(name)[4:] for name in NAMES[::9]]
    malformed += [question(name, counts=counts) for name in NAMES[::9] for counts in ((2, 0, 0, 0), (1, 1, 0, 0))]
    malformed += [question(name)[: 12 + len(name) // 2] for name in NAMES[1::5]]
    malformed += [question(b"\xc0\x0c"), question(b"\1a" * 140), question(b"\1a" * 128 + b"\0")]
    rows = b"".join(told(each, family=family) for family in (4, 6) for each in (usual, malformed))

    def refuse(*_: object) -> bytes:
        raise AssertionError("one by one")

    with monkeypatch.context() as alone:
        for module, name in ((messages, "fact_of"), (pcap, "rows_of")):
            alone.setattr(module, name, refuse)
        found = message_columns.facts(rows)
        packets = formats.make("pcap", Collection()).rows(rows)

    kinds = [kind for at in range(0, len(found), FACT_OCTETS) if (kind := found[at + 8]) != Kind.CONTINUATION]
    assert kinds == ([Kind.QUERY] * len(usual) + [Kind.MALFORMED] * len(malformed)) * 2
    assert sum(packets[at + 8] == 3 for at in range(0, len(packets), FACT_OCTETS)) == len(kinds)
    assert (found, packets) == one_by_one(rows)


@pytest.mark.parametrize("form", ["cdns", "pcap"])
def test_a_worker_gets_the_core_many_times_while_what_it_told_becomes_a_file(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step may be a piece of time: none takes all of some ten thousand queries with all that is to be done."""
    rows = told([with_opt(name, COOKIES[2]) for name in NAMES[:50]]) * 200
    given: list[None] = []
    monkeypatch.setattr(time_slice, "PIECE_SECONDS", 0)
    monkeypatch.setattr(os, "sched_yield", lambda: given.append(None))
    made = formats.make(form, Collection())

    found = made.rows(rows)
    while_taken_apart = len(given)
    made.add(found, 0, 0, 0)

    assert while_taken_apart > 3 * len(rows) / FACT_OCTETS / 4096
    assert len(given) > while_taken_apart
