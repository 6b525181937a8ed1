"""The budget of SYNs: off by default; over it they are dropped in XDP and counted, and nothing else is."""

import ipaddress
import itertools
import os
import struct
from collections.abc import Iterator

import pytest

from rootsrv.fastpath import libbpf
from rootsrv.fastpath.program import XDP_DROP, XDP_PASS
from tests.fastpath.conftest import CLIENT, SERVICE, InKernel, frame, message, wire

SECOND = 10**9
SYN, ACK, SYN_ACK, SYN_ECN = 0x02, 0x10, 0x12, 0xC2
PER_CORE = 100
_BEGINS = itertools.count(1000 * SECOND, 1000 * SECOND)


def segment(flags: int, family: int = 4, *, destination: str = "", protocol: int = 6, fragment: int = 0x4000) -> bytes:
    """A TCP segment to port 53, of which the program looks at no checksum."""
    source = ipaddress.ip_address(CLIENT[family]).packed
    to = ipaddress.ip_address(destination or SERVICE[family]).packed
    tcp = struct.pack("!HHIIBBHHH", 40_000, 53, 1, 0, 5 << 4, flags, 65_535, 0, 0)
    if family == 4:
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 40, 7, fragment, 64, protocol, 0) + source + to
    else:
        ip = struct.pack("!IHBB", 6 << 28, 20, protocol, 64) + source + to
    return bytes(12) + (b"\x08\x00" if family == 4 else b"\x86\xdd") + ip + tcp


class Budgeted:
    """The program, at a time that is told."""

    def __init__(self, kernel: InKernel) -> None:
        self.program = kernel.program
        self.now = next(_BEGINS)  # what earlier tests have spent is over
        self._test = self.program.descriptor("xdp_test")

    def verdict(self, octets: bytes) -> int:
        self.program.admission.words.test_clock = self.now
        return libbpf.run_on_packet(self._test, octets).verdict

    def dropped(self) -> list[int]:
        return list(self.program.counters(test_runs=True).syns)


@pytest.fixture
def budgeted(kernel: InKernel) -> Iterator[Budgeted]:
    # The budget is one CPU's: stay on one.
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    made = Budgeted(kernel)
    made.program.admission.set_syn_budget(PER_CORE)
    yield made
    made.program.admission.set_syn_budget(0)
    made.program.admission.words.test_clock = 0
    os.sched_setaffinity(0, before)


def test_without_a_budget_every_syn_is_passed(budgeted: Budgeted) -> None:
    budgeted.program.admission.set_syn_budget(0)
    before = budgeted.dropped()
    assert {budgeted.verdict(segment(SYN)) for _ in range(5 * PER_CORE)} == {XDP_PASS}
    assert budgeted.dropped() == before


@pytest.mark.parametrize("family", [4, 6])
def test_over_the_budget_syns_are_dropped_and_counted_and_in_time_there_is_more(
    budgeted: Budgeted, family: int
) -> None:
    before = budgeted.dropped()
    verdicts = [budgeted.verdict(segment(SYN, family)) for _ in range(50)]
    assert verdicts == [XDP_PASS] * 10 + [XDP_DROP] * 40  # a tenth of a second's at once
    assert budgeted.dropped()[family == 6] - before[family == 6] == 40
    for _ in range(20):
        budgeted.now += SECOND // PER_CORE
        assert budgeted.verdict(segment(SYN_ECN, family)) == XDP_PASS
        assert budgeted.verdict(segment(SYN, family)) == XDP_DROP


def test_nothing_but_a_syn_to_a_service_address_is_looked_at(budgeted: Budgeted) -> None:
    while budgeted.verdict(segment(SYN)) == XDP_PASS:
        pass
    for octets in (
        segment(ACK),
        segment(SYN_ACK),
        segment(0),
        segment(0x04),
        segment(SYN, destination="192.0.2.99"),
        segment(SYN, 6, destination="2001:db8::99"),
        segment(SYN, protocol=132),
        segment(SYN, 6, protocol=44),
        segment(SYN, fragment=0x2000),
        segment(SYN)[: 14 + 20 + 13],
    ):
        assert budgeted.verdict(octets) == XDP_PASS
    assert budgeted.verdict(frame(message(wire(b"com"))).to_octets()) not in {XDP_DROP, XDP_PASS}
    assert budgeted.verdict(segment(SYN, 6)) == XDP_DROP  # of both families together


def test_test_runs_spend_nothing_of_live_packets(budgeted: Budgeted) -> None:
    live = list(budgeted.program.counters().syns)
    while budgeted.verdict(segment(SYN)) == XDP_PASS:
        pass
    assert list(budgeted.program.counters().syns) == live
    budgeted.now = 0  # nothing is judged in them
    assert budgeted.verdict(segment(SYN)) == XDP_PASS
