"""What the kernel engine makes of responses, fed to its sink one by one."""

import ipaddress
from collections.abc import Iterator

import numpy
import pytest

from bench.bpf_object import compiled
from bench.engine_kernel import CONTROL, SAMPLED, STAMP
from bench.load import BINS
from rootsrv.fastpath import libbpf
from tests.fastpath.frames import Frame
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
        frame = Frame(
            payload=message, source="198.18.0.53", destination=address, source_port=53, destination_port=port
        )
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
