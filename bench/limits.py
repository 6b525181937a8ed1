"""`python -m bench limits`: what limits cost in kernel and worker, and how many innocents they hit."""

import os
import random
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.frames import Frame
from rootsrv.admission.gate import Gate
from rootsrv.admission.limits import CELLS, LimitSettings, Occupancy, cells_in_memory
from rootsrv.admission.places import ROW_CELLS, places_of
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.config.limits import LimitsConfig
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.admission import make_cells
from rootsrv.fastpath.program import TEST_IFINDEX, Interface, Program
from rootsrv.page.layout import COUNTER_WORDS

HEAVY = (10_000, 100_000, 1_000_000)
SOURCES = (1, 1_000, 1_000_000)
_SECOND = 1_000_000_000
_SERVICE = "192.0.2.53"
_QUERY = b"\x12\x34\0\0\0\1\0\0\0\0\0\1\3www\7example\3com\0\0\1\0\1\0\0\x29\x04\xd0\0\0\x80\0\0\0"
_BATCH = 64
_INNOCENTS = 200_000


@dataclass(frozen=True)
class Hit:
    """What so many heavy keys do to others."""

    heavy: int
    cells_over: float
    innocents: float
    """The share of keys within their rate that are taken for heavy, of one prefix length."""

    falls_back: bool


def innocents() -> Iterator[Hit]:
    """By HEAVY keys over their limit, each with one cell in each row."""
    settings = LimitSettings.of(LimitsConfig(mode="on"), bytes(16))
    now = 1000 * _SECOND
    for heavy in HEAVY:
        rng = random.Random(heavy)
        cells = cells_in_memory()
        full = now + settings.burst_ns
        for _ in range(heavy):
            for place in places_of(rng.getrandbits(64)):
                cells[place] = full
        hit = sum(
            1 for first, second in (places_of(rng.getrandbits(64)) for _ in range(_INNOCENTS))
            if cells[first] == full and cells[second] == full
        )  # fmt: skip
        occupancy = Occupancy(cells)
        occupancy.look(now, settings)
        over = sum(map(bool, cells[:ROW_CELLS].tolist())) / (CELLS // 2)
        yield Hit(heavy, over, hit / _INNOCENTS, occupancy.falls_back)


def worker_microseconds(table: AnswerTable, seconds: float) -> Iterator[tuple[str, float]]:
    """Per query: the answer alone, then what limits add, by how many sources there are.

    A source that has been seen lately is found without its hashes; of very many each is new.
    """
    responder = Responder(table, ResponderSettings())
    yield "answer", _per_query(lambda sources: _answers(responder, sources), [b"\xc6\x33\x64\x01"], seconds)
    for amount in SOURCES:
        gate = Gate(memoryview(bytearray(8 * COUNTER_WORDS)).cast("Q"), cells_in_memory(), None)
        gate.change(_document("on"))
        rng = random.Random(amount)
        known = [struct.pack("!I", rng.getrandbits(32)) for _ in range(amount)]
        answers = _answers(responder, known[:1])

        def judge(sources: Sequence[bytes], gate: Gate = gate, answers: list[bytes | None] = answers) -> None:
            gate.judge(
                [_QUERY] * len(sources), sources, (), answers * len(sources), boottime=time.monotonic_ns(), now=0.0,
                cookies=None, truncate=None,
            )  # fmt: skip

        yield f"limits, {amount:,} sources", _per_query(judge, known, seconds)


def _answers(responder: Responder, sources: Sequence[bytes]) -> list[bytes | None]:
    return [responder.respond(_QUERY, source, Transport.UDP, 0.0) for source in sources]


def _per_query(work: Callable[[Sequence[bytes]], object], known: Sequence[bytes], seconds: float) -> float:
    rng, done = random.Random(1), 0
    batches = [rng.choices(known, k=_BATCH) for _ in range(max(1, min(4096, len(known) // 8)))]
    end = time.perf_counter() + seconds
    began = time.process_time()
    while time.perf_counter() < end:
        work(batches[done % len(batches)])
        done += 1
    return (time.process_time() - began) / (done * _BATCH) * 1e6


def kernel_nanoseconds(table: AnswerTable, packets: int = 20_000) -> Iterator[tuple[str, float, float]]:
    """Per packet in XDP, by mode: medians of packets from 16 sources, and from as many as there are packets.

    They include what a test run takes that comes from user space, with cold caches: what counts is the difference.
    """
    descriptor = make_cells()
    rng = random.Random(5)
    many = [
        replace(_frame(), source=f"{rng.randrange(11, 100)}.{rng.randrange(256)}.{rng.randrange(256)}.7").to_octets()
        for _ in range(packets)
    ]
    try:
        for name, mode, cells in (("off", "off", None), ("dry-run", "dry-run", descriptor), ("on", "on", descriptor)):
            program = Program.load(cells=cells)
            try:
                _prepare(program, table, mode)
                few = many[:16] * (packets // 16)
                yield name, _median(program, few), _median(program, many)
            finally:
                program.close()
    finally:
        os.close(descriptor)


def _median(program: Program, frames: Sequence[bytes]) -> float:
    test = program.descriptor("xdp_test")
    each = []
    for number, octets in enumerate(frames):
        program.admission.words.test_clock = 1000 * _SECOND + number * 100_000
        each.append(libbpf.run_on_packet(test, octets).nanoseconds)
    return statistics.median(each)


def _prepare(program: Program, table: AnswerTable, mode: str) -> None:
    program.set_service([_SERVICE], 53)
    program.set_interfaces([Interface(TEST_IFINDEX, 65_536, bytes(6), virtual=True, loopback=False)])
    program.set_responses(ResponderSettings())
    later = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 3600 * _SECOND
    program.activate(program.stage(table), [later, later])
    program.admission.change(_document(mode))
    program.admission.words.test_clock = 1000 * _SECOND


def _frame() -> Frame:
    return Frame(source="198.51.100.7", destination=_SERVICE, payload=_QUERY)


def _document(mode: str) -> dict[str, Any]:
    config = LimitsConfig(mode=mode, rate=10_000_000)  # type: ignore[arg-type]
    settings = LimitSettings.of(config, os.urandom(16)).to_document()
    return {"limits": settings, "rules": [], "exempt": [_SERVICE], "sample_every": 0}
