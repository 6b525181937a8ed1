"""The tap copies one in N of the kernel's answers, with their queries, and nothing else."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.fastpath.tap import Tap, clocks, to_pcap
from tests.fastpath.conftest import (
    CLIENT,
    NOW,
    SERVICE,
    Hook,
    InKernel,
    Zones,
    frame,
    in_kernel,
    message,
    opt,
    wire,
)
from tests.fastpath.test_accounting import LIVE
from tests.needs import require_tool


@pytest.fixture
def tapped(zones: Zones) -> Iterator[InKernel]:
    with in_kernel(zones.table, now=NOW, tap=True) as made:
        yield made


def test_every_answer_is_copied_with_its_query_when_asked_for(tapped: InKernel, hook: Hook, tmp_path: Path) -> None:
    tapped.program.control.tap_every = 1
    tap = Tap(tapped.program.tap)
    asked = []
    for family in (4, 6):
        for name in (wire(), wire(b"com"), wire(b"www", b"nosuch")):
            query = message(name, 2, opt=opt())
            assert tapped.run(LIVE[hook], frame(query, family).to_octets()).verdict == hook.reply
            asked.append((CLIENT[family], SERVICE[family], query, tapped.expected(query, family)))
    passed = message(wire(b"version", b"bind"), 16, qclass=3)
    assert tapped.run(LIVE[hook], frame(passed).to_octets()).verdict == hook.passed

    samples = tap.read()

    assert [(each.source, each.service, each.query, each.response) for each in samples] == asked
    assert {(each.source_port, each.service_port) for each in samples} == {(40000, 53)}
    assert tapped.program.counters().tapped == len(asked)
    capture = tmp_path / "tap.pcap"
    capture.write_bytes(to_pcap(samples, *clocks()))
    printed = subprocess.run(
        (require_tool("tcpdump"), "-nr", capture), capture_output=True, text=True, timeout=20, check=True
    ).stdout
    assert len(printed.splitlines()) == 2 * len(asked)
    assert "NS? com." in printed
    assert "NXDomain" in printed
    tap.close()


def test_off_is_off_and_one_in_n_is_a_sample(tapped: InKernel, hook: Hook) -> None:
    octets = frame(message(wire(b"com"), opt=opt())).to_octets()
    tap = Tap(tapped.program.tap)
    for _ in range(50):
        tapped.run(LIVE[hook], octets)
    assert tap.read() == []
    tapped.program.control.tap_every = 8
    for _ in range(4000):
        tapped.run(LIVE[hook], octets)
        if tapped.program.counters().tapped % 64 == 0:
            tap.read()
    counters = tapped.program.counters()
    assert 300 < counters.tapped + counters.tap_lost < 700
    tap.close()


def test_a_full_tap_loses_samples_and_no_answers(tapped: InKernel, hook: Hook) -> None:
    tapped.program.control.tap_every = 1
    octets = frame(message(wire(b"nosuch"), opt=opt())).to_octets()
    for _ in range(1500):
        assert tapped.run(LIVE[hook], octets).verdict == hook.reply
    counters = tapped.program.counters()
    assert counters.tap_lost > 0
    assert counters.tapped + counters.tap_lost == counters.answered() == 1500
