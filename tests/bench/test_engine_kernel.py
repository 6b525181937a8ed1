"""What the kernel engine makes of responses, fed to its sink one by one, and of a server that has no room."""

import functools
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from bench import zones
from bench.bpf_object import compiled
from bench.engine_kernel import CONTROL, SAMPLED, STAMP, Card, KernelEngine
from bench.engine_process import EngineProcess
from bench.frames import Frame
from bench.load import BINS, Target
from bench.mix import Mix
from bench.network import (
    CLIENT_INTERFACE,
    CLIENT_MAC,
    SERVER_IPV4,
    SERVER_IPV6,
    SERVER_MAC,
    SOURCE_PREFIX_IPV4,
    SOURCE_PREFIX_IPV6,
    Wire,
)
from bench.subjects import SUBJECTS, Bench
from rootsrv.fastpath import libbpf
from tests.needs import require_root, require_tool

_STAMPS = 1 << 20


class Sink:
    """The program that takes responses, and the maps that it looks into."""

    def __init__(self, programs: libbpf.BpfObject) -> None:
        self._programs = programs
        self._stamps = programs.map("stamps")
        control = numpy.zeros(1, CONTROL)
        control["slots"], control["taking"], control["next"] = 1, 1, 1 << 31
        programs.map("controls").update(0, control.tobytes())

    def sent(self, number: int) -> None:
        """Query *number* (a timed one) goes out now, as far as the sink can see."""
        assert number % SAMPLED == 0
        stamp = numpy.array([(number, 1)], STAMP)
        self._stamps.update(number // SAMPLED % _STAMPS, stamp.tobytes())

    def responded(self, number: int) -> None:
        """The response to query *number* comes; its id, address and port are those of bench/bpf/load.bpf.c."""
        low, epoch = number & 0xFFFF, number >> 16
        host = ((low * 25173 + 13849) & 0xFFFF) ^ epoch
        port = 1024 + (((low * 31421 + epoch * 6927 + 2311) & 0xFFFF) * 64512 >> 16)
        message = (low * 40503 & 0xFFFF).to_bytes(2, "big") + bytes.fromhex("8400 0001 0000 0000 0000 00 0001 0001")
        address = str(ipaddress.ip_address("198.19.0.0") + host)
        frame = Frame(payload=message, source="198.18.0.53", destination=address, source_port=53, destination_port=port)
        libbpf.run_on_packet(self._programs.program("sink"), frame.to_octets())

    @property
    def seen(self) -> dict[str, int]:
        """The counts that are not 0, without latencies and rcodes."""
        names = ("answered", "octets", "truncated", "wrong_id", "wrong_rcode", "wrong_size", "duplicate", "untimed")
        counts = sum(
            numpy.frombuffer(octets, numpy.uint64) for octets in self._programs.map("results").lookup_per_cpu(0)
        )
        assert isinstance(counts, numpy.ndarray)
        timed = int(counts[-BINS:].sum())
        found = {name: int(count) for name, count in zip(names, counts, strict=False) if name != "octets" and count}
        return found | ({"timed": timed} if timed else {})


@pytest.fixture
def sink() -> Iterator[Sink]:
    require_root()
    require_tool("clang")
    with libbpf.BpfObject.open(compiled("load"), "load") as programs:
        programs.load()
        yield Sink(programs)


def test_a_response_that_comes_twice_is_a_duplicate(sink: Sink) -> None:
    sink.sent(SAMPLED)

    sink.responded(SAMPLED)
    sink.responded(SAMPLED)

    assert sink.seen == {"answered": 2, "timed": 1, "duplicate": 1}


def test_a_response_so_late_that_its_stamp_is_anothers_makes_no_duplicate_of_that_one(sink: Sink) -> None:
    following = SAMPLED + _STAMPS * SAMPLED
    sink.sent(SAMPLED)
    sink.sent(following)

    sink.responded(SAMPLED)
    sink.responded(following)

    assert sink.seen == {"answered": 2, "timed": 1, "untimed": 1}


def test_a_response_whose_port_does_not_belong_to_its_id_is_wrong(sink: Sink) -> None:
    sink.responded(1 << 31)  # not sent yet

    assert sink.seen == {"answered": 1, "wrong_id": 1}


@pytest.mark.parametrize("ring", [8192, 100], ids=["it all waits", "it does not"])
def test_a_burst_waits_in_the_cards_ring_and_what_has_no_place_there_is_lost(ring: int, tmp_path: Path) -> None:
    require_root()
    require_tool("clang")
    cores = sorted(os.sched_getaffinity(0))
    queries = [query for query in Mix.read().queries(["com"], 500) if not query.tcp]
    # Ten times what veth's ring of 256 takes, at once.
    card = Card(ring=ring, gather_seconds=0.01)
    with Wire(tcp_apart=True) as wire:
        build = functools.partial(
            KernelEngine, queries, Target(SERVER_IPV4, SERVER_IPV6), interface=CLIENT_INTERFACE,
            macs=(CLIENT_MAC, SERVER_MAC), sources=(SOURCE_PREFIX_IPV4, SOURCE_PREFIX_IPV6), card=card,
        )  # fmt: skip
        bench = Bench(wire, zones.generated(tmp_path, 10), tmp_path, cores[-1], {})
        with SUBJECTS["blind kernel"].start(bench), EngineProcess(build, namespace=wire.client.path) as engine:
            load = engine.run(256_000, 0.3)

    # What was due while the generator had no core is neither sent nor lost: only what goes is bounded.
    bursts = 0.3 / card.gather_seconds + 2
    assert load.sent == load.answered + load.lost > 5000
    assert load.lost == load.ring_drops
    if ring == 8192:
        assert load.lost == 0
    else:
        assert load.answered <= ring * bursts
