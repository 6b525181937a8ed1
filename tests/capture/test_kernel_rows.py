"""What the BPF program appends for each response: facts of it or its packet, in the ring of the CPU."""

import contextlib
import itertools
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.capture import Source
from bench.frames import Frame
from bench.zones import generated
from rootsrv.answer.responder import Transport
from rootsrv.capture import facts, messages, rings, units
from rootsrv.capture.facts import OptBits
from rootsrv.capture.messages import CapturedMessage
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.layout import constant, ffi
from rootsrv.fastpath.program import prepare_capture
from tests.fastpath.conftest import (
    NOW,
    Hook,
    InKernel,
    Zones,
    frame,
    hook,
    in_kernel,
    message,
    opt,
    option,
    require_program,
    wire,
    zones,
)
from tests.fastpath.test_accounting import LIVE
from tests.fastpath.test_differential import CLIENT_COOKIE, cookie

__all__ = ["hook", "zones"]  # fixtures of the fast path's tests

LONG = wire(b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 53, b"nosuch")
"""250 octets."""

LONGEST = wire(b"A" * 63, b"b" * 63, b"\0" * 63, b"d" * 54, b"nosuch")
"""255 octets: as long as a name can be (RFC 1035 section 3.1), and some that no text has."""
assert len(LONGEST) == 255

QUERIES = {
    "plain": message(wire(b"com")),
    "root": message(wire(), 2, opt=opt(4096, do=False), ident=1),
    "55 octets": message(wire(b"x" * 45, b"nosuch"), opt=opt()),
    "56 octets": message(wire(b"x" * 46, b"nosuch"), opt=opt()),
    "long": message(LONG, 28, opt=opt(), flags=0x0110),
    "longest": message(LONGEST, 16, opt=opt()),
    "longest, no EDNS": message(LONGEST),
    "cookie": message(wire(b"www", b"com"), opt=opt(options=option(10, bytes(range(8))))),
    "client subnet": message(wire(b"nosuch"), opt=opt(options=option(8, bytes.fromhex("00011800c63364")))),
    "512 octets": message(wire(b"com"), opt=opt(options=option(12, bytes(512 - 12 - 9 - 11 - 4)))),
}


@contextlib.contextmanager
def program_that_captures(zones: Zones, chunks: int = 1) -> Iterator[tuple[InKernel, list[rings.Ring]]]:
    with in_kernel(zones.table, now=NOW, capture_chunks=chunks) as made:
        found = rings.open_map(made.program.capture_rings.fd, libbpf.possible_cpus(), chunks)
        yield made, found
        found.clear()


@pytest.fixture(scope="module")
def loaded_to_capture(zones: Zones) -> Iterator[tuple[InKernel, list[rings.Ring]]]:
    with program_that_captures(zones) as both:
        yield both


@pytest.fixture
def capturing(loaded_to_capture: tuple[InKernel, list[rings.Ring]]) -> tuple[InKernel, list[rings.Ring]]:
    """The program, and its rings: off, empty."""
    _, found = loaded_to_capture
    for ring in found:
        ring.want(rings.OFF)
    taken(found)
    return loaded_to_capture


def taken(found: list[rings.Ring]) -> bytes:
    """All rows that wait: one CPU's behind another's; with and without numpy the same ones come out."""
    octets = b""
    for ring in found:
        ring.take()
        rows = b"".join(ring.take())
        with pytest.MonkeyPatch.context() as without:
            without.setattr(units, "numpy", None)
            assert b"".join(ring.take()) == rows
        ring.done(ring.taken)
        octets += rows
    return octets


def counts(found: list[rings.Ring]) -> rings.Counts:
    return sum((ring.counts() for ring in found), rings.Counts())


def sent(query: bytes, family: int) -> Frame:
    return replace(frame(query, family), hop_limit=57, service=0x28)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", QUERIES)
def test_a_fact_is_what_the_message_and_its_response_come_to(
    capturing: tuple[InKernel, list[rings.Ring]], hook: Hook, name: str, family: int
) -> None:
    kernel, found = capturing
    query = QUERIES[name]
    for ring in found:
        ring.want(rings.FACTS)
    before = clock_ns()
    assert kernel.run(LIVE[hook], sent(query, family).to_octets()).verdict == hook.reply
    after = clock_ns()

    (fact,) = facts.read(taken(found))

    assert before <= fact.time <= after
    assert fact == told(kernel, query, family, fact.time)


@pytest.mark.parametrize("family", [4, 6])
def test_a_fact_says_whether_a_cookie_was_good(
    capturing: tuple[InKernel, list[rings.Ring]], hook: Hook, family: int
) -> None:
    kernel, found = capturing
    good = [cookie(age, family=family) for age in (0, 1799, 3599)]
    bad = [cookie(3601, family=family), cookie(0, bytes(16), family), CLIENT_COOKIE]
    for ring in found:
        ring.want(rings.FACTS)
    with one_cpu():
        for data in (*good, *bad, *good, *bad):
            query = message(wire(b"com"), opt=opt(options=option(10, data)))
            assert kernel.run(LIVE[hook], sent(query, family).to_octets()).verdict == hook.reply
        assert kernel.run(LIVE[hook], sent(QUERIES["plain"], family).to_octets()).verdict == hook.reply

    told_bits = [fact.opt_bits & (OptBits.COOKIE | OptBits.COOKIE_VALID) for fact in facts.read(taken(found))]

    with_cookie = [OptBits.COOKIE | OptBits.COOKIE_VALID] * len(good) + [OptBits.COOKIE] * len(bad)
    assert told_bits == [*with_cookie, *with_cookie, 0]


@pytest.mark.parametrize("family", [4, 6])
def test_a_name_of_every_size_is_in_the_fact_whole(
    capturing: tuple[InKernel, list[rings.Ring]], hook: Hook, family: int
) -> None:
    kernel, found = capturing
    for ring in found:
        ring.want(rings.FACTS)
    queries = []
    with one_cpu():
        for size in range(3, 256):
            # Labels of what names have seldom, in front of a top-level domain that is not there.
            labels = [bytes([size]) * min(63, size - 2 - at) for at in range(0, size - 2, 64)]
            if len(name := wire(*labels)) != size:
                continue
            queries.append(
                message(name, (1, 2, 28, 16)[size % 4], opt=opt() if size % 3 else b"", flags=size % 2 << 8, ident=size)
            )
            assert kernel.run(LIVE[hook], sent(queries[-1], family).to_octets()).verdict == hook.reply

    assert len(queries) > 240
    for query, fact in zip(queries, facts.read(taken(found)), strict=True):
        assert fact == told(kernel, query, family, fact.time)


def told(kernel: InKernel, query: bytes, family: int, time: int) -> facts.Fact:
    """What Python's own writer tells of *query*."""
    response = kernel.expected(query, family)
    assert response is not None
    octets = sent(query, family).to_octets()
    source, service = (frame_address(octets, family, which) for which in (0, 1))
    message = CapturedMessage(
        time, family, Transport.UDP, source, 40000, service, 53, len(response), response[2:18], query
    )
    return messages.fact_of(message)._replace(hop_limit=57, traffic_class=0x28)


def frame_address(octets: bytes, family: int, which: int) -> bytes:
    size = 4 if family == 4 else 16
    start = 14 + (12 if family == 4 else 8) + which * size
    return octets[start : start + size].ljust(16, b"\0")


def clock_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", QUERIES)
def test_a_packet_is_kept_as_it_came(
    capturing: tuple[InKernel, list[rings.Ring]], hook: Hook, name: str, family: int
) -> None:
    kernel, found = capturing
    octets = sent(QUERIES[name], family).to_octets()
    for ring in found:
        ring.want(rings.PACKETS)
    assert kernel.run(LIVE[hook], octets).verdict == hook.reply

    rows = taken(found)

    assert (rows[8], rows[9]) == (rings.PACKET, family)
    (size,) = struct.unpack_from("<H", rows, 12)
    pieces = [rows[at + 16 : at + 128] for at in range(0, len(rows), 128)]
    assert [rows[at + 8] for at in range(128, len(rows), 128)] == [facts.Kind.CONTINUATION] * (len(pieces) - 1)
    assert b"".join(pieces)[:size] == octets[14:]
    assert len(pieces) == -(-size // 112)


def test_nothing_is_written_while_nobody_wants_it_or_for_test_runs(
    capturing: tuple[InKernel, list[rings.Ring]], hook: Hook
) -> None:
    kernel, found = capturing
    before = counts(found)
    kernel.run(LIVE[hook], sent(QUERIES["plain"], 4).to_octets())
    for ring in found:
        ring.want(rings.FACTS)
    kernel.run(hook, sent(QUERIES["plain"], 4).to_octets())
    passed = message(wire(b"version", b"bind"), 16, qclass=3)
    assert kernel.run(LIVE[hook], frame(passed).to_octets()).verdict == hook.passed

    assert taken(found) == b""
    assert counts(found) == before


@pytest.mark.parametrize("shape", [rings.FACTS, rings.PACKETS])
@pytest.mark.parametrize("name", ["plain", "long", "longest"])
def test_a_full_ring_loses_what_it_counts_and_answers_go_on(
    capturing: tuple[InKernel, list[rings.Ring]], hook: Hook, shape: int, name: str
) -> None:
    kernel, found = capturing
    for ring in found:
        ring.want(shape)
    before = counts(found)
    octets = sent(QUERIES[name], 6).to_octets()
    amount = 1200
    with one_cpu():
        for _ in range(amount):
            assert kernel.run(LIVE[hook], octets).verdict == hook.reply

    counted = counts(found) - before
    rows = taken(found)

    assert counted.lost > 0
    assert counted.items + counted.lost == amount
    heads = [at for at in range(0, len(rows), 128) if rows[at + 8] != facts.Kind.CONTINUATION]
    assert len(heads) == counted.items
    assert kernel.run(LIVE[hook], octets).verdict == hook.reply
    assert (counts(found) - before).items == counted.items + 1


@pytest.mark.parametrize("shape", [rings.FACTS, rings.PACKETS])
@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("at", [(1 << 32) - 1, (1 << 32) - 3, (1 << 40) - 17, (1 << 62) - 30])
def test_a_ring_takes_what_there_is_room_for_to_the_unit(
    capturing: tuple[InKernel, list[rings.Ring]], hook: Hook, shape: int, name: str, at: int
) -> None:
    """Wherever it is: at its end, which a row may go beyond, and at numbers that 32 bits do not hold."""
    kernel, found = capturing
    octets = sent(QUERIES[name], 6).to_octets()
    size = 64 + name_octets(QUERIES[name]) if shape == rings.FACTS else 16 + len(octets) - 14
    taking = -(-size // rings.UNIT_OCTETS)
    with one_cpu():
        for ring in found:
            ring.want(shape)
        for short in (0, 1):
            for ring in found:  # whichever CPU it is: rings are as full as that
                room = taking + units.MARGIN_UNITS - short
                ring._words[rings.WRITTEN] = at
                ring._words[rings.READ] = at - (ring.capacity - room)
                ring._words[rings.ROOM_UNTIL] = 0  # no reader goes back, as it does here
            before = counts(found)
            assert kernel.run(LIVE[hook], octets).verdict == hook.reply
            assert counts(found) - before == rings.Counts(items=1 - short, lost=short)
            written = [ring for ring in found if ring._words[rings.WRITTEN] != at]
            assert [ring._words[rings.WRITTEN] for ring in written] == [at + taking] * (1 - short)
            for ring in found:
                ring._words[rings.READ] = at
                ring._seen = at
            rows = taken(found)
            assert (rows != b"") == (not short)
            if short:
                continue
            if shape == rings.FACTS:
                (fact,) = facts.read(rows)
                assert fact == told(kernel, QUERIES[name], 6, fact.time)
            else:
                pieces = [rows[row + 16 : row + 128] for row in range(0, len(rows), 128)]
                assert b"".join(pieces)[: len(octets) - 14] == octets[14:]


@pytest.mark.parametrize("shape", [rings.FACTS, rings.PACKETS])
@pytest.mark.parametrize("read", [1, 5000, 1 << 40, -5000, -(1 << 40)])
def test_a_reader_that_cannot_be_where_it_says_makes_no_room(
    capturing: tuple[InKernel, list[rings.Ring]], hook: Hook, shape: int, read: int
) -> None:
    """Before what is written, or more than a ring behind it: all is lost, until it says something else."""
    kernel, found = capturing
    octets, at = sent(QUERIES["plain"], 6).to_octets(), 1 << 50
    with one_cpu():
        for ring in found:
            ring.want(shape)
            ring._words[rings.WRITTEN], ring._words[rings.ROOM_UNTIL] = at, 0
            ring._words[rings.READ] = at + read
            ring._seen = at
        before = counts(found)
        for _ in range(3):
            assert kernel.run(LIVE[hook], octets).verdict == hook.reply
        assert counts(found) - before == rings.Counts(lost=3)
        for ring in found:
            ring._words[rings.READ] = at
        for _ in range(3):
            assert kernel.run(LIVE[hook], octets).verdict == hook.reply
        assert counts(found) - before == rings.Counts(items=3, lost=3)
    heads = heads_times(taken(found))
    assert len(heads) == 3


def test_the_shape_that_a_query_began_with_is_its_own(capturing: tuple[InKernel, list[rings.Ring]], hook: Hook) -> None:
    """One shape after the other, and what was kept for one query is never shown for the next."""
    kernel, found = capturing
    octets = sent(QUERIES["long"], 6).to_octets()
    shapes = [rings.PACKETS, rings.FACTS, rings.OFF, rings.PACKETS, rings.OFF, rings.FACTS, rings.PACKETS, rings.FACTS]
    before = counts(found)
    with one_cpu():
        for shape in shapes:
            for ring in found:
                ring.want(shape)
            assert kernel.run(LIVE[hook], octets).verdict == hook.reply

    assert counts(found) - before == rings.Counts(items=6)
    rows = taken(found)
    kinds = [rows[at + 8] for at in range(0, len(rows), 128) if rows[at + 8] != facts.Kind.CONTINUATION]
    named = {rings.PACKETS: rings.PACKET, rings.FACTS: facts.Kind.QUERY}
    assert kinds == [named[shape] for shape in shapes if shape != rings.OFF]


def name_octets(query: bytes) -> int:
    """Of the question's name, in wire form."""
    at = 12
    while query[at]:
        at += query[at] + 1
    return at + 1 - 12


def test_one_of_so_many_and_only_those_that_are_wanted(
    capturing: tuple[InKernel, list[rings.Ring]], hook: Hook
) -> None:
    kernel, found = capturing
    before = counts(found)
    for ring in found:
        ring.want(rings.FACTS, every=4, wanted=rings.IPV6 | rings.UDP)
    with one_cpu():
        for _ in range(40):
            kernel.run(LIVE[hook], sent(QUERIES["plain"], 4).to_octets())
        for _ in range(40):
            kernel.run(LIVE[hook], sent(QUERIES["plain"], 6).to_octets())

    assert counts(found) - before == rings.Counts(items=10, lost=0, passed_over=70)
    assert {fact.family for fact in facts.read(taken(found))} == {6}


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """The program that answers one query right behind another."""
    require_program()
    source = Source(generated(tmp_path_factory.mktemp("zones"), tlds=40), 8)
    yield source
    source.rings.clear()
    source.measuring.program.close()


@pytest.mark.parametrize("shape", [rings.FACTS, rings.PACKETS])
def test_of_queries_that_come_fast_at_most_64_have_one_time_and_of_others_each_its_own(
    flooded: Source, shape: int
) -> None:
    for ring in flooded.rings:
        ring.want(shape)
    with one_cpu():
        before = clock_ns()
        flooded.ask(4000)
        times = heads_times(taken(flooded.rings))
        assert before <= times[0]
        assert times[-1] <= clock_ns()
        assert times == sorted(times)
        at_one_time = [len(list(group)) for _, group in itertools.groupby(times)]
        assert 1 < max(at_one_time) <= 64
        assert len(at_one_time) < len(times) / 2
        # A tick later none has it, however many might have had it still.
        for many in (700, 701, 703, 707):
            flooded.ask(many)
            taken(flooded.rings)
            wait_for_a_tick()
            before = clock_ns()
            flooded.ask(1)
            (found,) = heads_times(taken(flooded.rings))
            assert before <= found <= clock_ns()
        # What comes later is not fast: soon each has its own time.
        for _ in range(64):
            flooded.ask(1)
        taken(flooded.rings)
        for _ in range(20):
            before = clock_ns()
            flooded.ask(1)
            (found,) = heads_times(taken(flooded.rings))
            assert before <= found <= clock_ns()


CLOCK_MONOTONIC_COARSE = 6  # clock_gettime(2): as it was at the last tick


def wait_for_a_tick() -> None:
    began = time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE)
    while time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE) == began:
        pass


def heads_times(rows: bytes) -> list[int]:
    return [
        struct.unpack_from("<Q", rows, at)[0]
        for at in range(0, len(rows), 128)
        if rows[at + 8] != facts.Kind.CONTINUATION
    ]


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def test_without_capture_nothing_of_it_is_left_in_the_program(hook: Hook) -> None:
    """The verifier takes out what a constant rules out: neither map of capture is used by what runs."""
    used = {}
    for chunks in (0, 1):
        with libbpf.BpfObject.open(require_program(), "rootsrv") as loaded:
            if chunks:
                prepare_capture(loaded, chunks)
            loaded.load()
            used[chunks] = instructions(loaded.program(LIVE[hook].program))
    assert used[0] < used[1] - 100


def instructions(program: int) -> int:
    """Of a loaded program, after the verifier."""
    info = libbpf.ffi.new("struct bpf_prog_info *")
    size = libbpf.ffi.new("uint32_t *", libbpf.ffi.sizeof("struct bpf_prog_info"))
    assert libbpf.library().bpf_obj_get_info_by_fd(program, info, size) == 0
    return int(info.xlated_prog_len) // 8


def test_c_and_python_agree_on_the_ring_and_on_the_fact() -> None:
    assert ffi.sizeof("struct capture_ring") == rings.HEAD_OCTETS
    for name, each in ffi.typeof("struct capture_ring").fields:
        assert "unused" in name or getattr(rings, name.upper()) == each.offset // 8, name
    for name in ("OFF", "FACTS", "PACKETS", "PACKET", "MESSAGE", "SOME", "IPV4", "IPV6", "UDP", "TCP"):
        assert constant(f"CAPTURE_{name}") == getattr(rings, name), name
    for name in ("UNIT_OCTETS", "CHUNK_UNITS", "BEYOND_UNITS", "MARGIN_UNITS"):
        assert constant(
            f"CAPTURE_{name.removesuffix('_OCTETS')}".replace("BEYOND_UNITS", "BEYOND").replace(
                "MARGIN_UNITS", "MARGIN"
            )
        ) == getattr(units if name == "MARGIN_UNITS" else rings, name), name
    for kind in facts.Kind:
        assert constant(f"CAPTURE_{kind.name}") == kind
    assert ffi.sizeof("struct fact") == 32
    described = ffi.typeof("struct fact").fields
    for (name, code, offset), (known, field) in zip(facts.FIELDS[: len(described)], described, strict=True):
        assert (name, offset, struct.calcsize(code)) == (known, field.offset, ffi.sizeof(field.type))
