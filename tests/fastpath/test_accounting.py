"""What the kernel counts is what a worker would have counted."""

import dataclasses
import ipaddress
import random
from collections import Counter
from pathlib import Path

from bench.mix import Mix
from rootsrv.fastpath.accounting import KernelSlot, words_of
from rootsrv.fastpath.layout import COUNTERS_OCTETS, KernelCounters, ffi
from rootsrv.page import counts, unique_sources
from rootsrv.page.layout import KERNEL_SLOT, REGISTERS, Page
from tests.fastpath.conftest import NOW, TC, XDP, Hook, InKernel, Zones, frame, message, opt, option, wire

LIVE = {XDP: dataclasses.replace(XDP, program="rootsrv_xdp"), TC: dataclasses.replace(TC, program="rootsrv_tc")}


def difference(after: KernelCounters, before: KernelCounters) -> dict[int, int]:
    new, old = words_of(after), words_of(before)
    return {word: new[word] - old[word] for word in new if new[word] != old[word]}


def test_counters_are_those_of_the_same_queries_at_a_worker(kernel: InKernel, hook: Hook, zones: Zones) -> None:
    queries = Mix.read().queries([tld.decode() for tld in zones.tlds], 600, seed=5)
    queries += [dataclasses.replace(query, octets=message(wire(b"com"), opt=opt(512))) for query in queries[:20]]
    before = kernel.program.counters()
    expected: Counter[int] = Counter()
    for query in queries:
        sent = frame(query.octets, query.family)
        run = kernel.run(LIVE[hook], sent.to_octets())
        if run.verdict == hook.passed:
            continue
        response = kernel.reply(sent, run.packet)
        path = 0 if query.family == 4 else 1
        truncated = counts.TRUNCATED_BIT if response[2] & 2 else 0
        expected[counts.QUERIES + path] += 1
        expected[counts.RESPONSES + path] += 1
        expected[counts.RCODES + path * counts.RCODES_PER_PATH + (response[3] & 15) + truncated] += 1
        expected[counts.REQUEST_SIZES + min(len(query.octets) // 16, counts.REQUEST_BINS - 1)] += 1
        expected[counts.RESPONSE_SIZES + min(len(response) // 16, counts.RESPONSE_BINS - 1)] += 1

    assert difference(kernel.program.counters(), before) == dict(expected)


def test_unique_sources_are_noted_with_the_hash_that_workers_use(kernel: InKernel, hook: Hook) -> None:
    rng = random.Random(hook.name)
    kernel.program.publish_time(NOW + 86_400 * rng.randrange(1, 9999))  # another day: empty registers
    sources = [f"100.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}" for _ in range(3000)]
    sources += [f"2600:{rng.randrange(999)}::{rng.randrange(9)}:{rng.randrange(1, 65535):x}" for _ in range(3000)]
    packed = []
    for source in sources:
        family = 6 if ":" in source else 4
        sent = dataclasses.replace(frame(message(wire()), family), source=source)
        run = kernel.run(LIVE[hook], sent.to_octets())
        if run.verdict == hook.reply:
            packed.append(ipaddress.ip_address(source).packed)
    key = bytes(ffi.buffer(kernel.program.control.sources_key))
    expected = bytearray(3 * REGISTERS)
    unique_sources.observe(memoryview(expected), packed, key)

    found = b"".join(kernel.program.unique_sources(kernel.program.day))

    assert len(packed) > 5900
    assert found == bytes(expected)


def test_the_first_query_of_a_day_finds_empty_registers(kernel: InKernel) -> None:
    for _ in range(3):
        kernel.run(LIVE[TC], frame(message(wire())).to_octets())
        assert any(map(any, kernel.program.unique_sources(kernel.program.day)))
        kernel.program.publish_time((kernel.program.day + 1) * 86_400.0)
        assert not any(map(any, kernel.program.unique_sources(kernel.program.day)))


def test_the_page_shows_the_kernels_counts_with_the_workers(kernel: InKernel, tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    zeros = KernelCounters(bytes(COUNTERS_OCTETS))
    slot = KernelSlot(page, 7)
    slot.publish(zeros, None, 20_000)
    kernel.run(LIVE[TC], frame(message(wire())).to_octets())
    slot.publish(kernel.program.counters(), kernel.program.unique_sources(kernel.program.day), 20_000)
    first = counts.total(page)
    assert first[counts.RESPONSES] == sum(kernel.program.counters().replies[0]) > 0

    assert page.worker(63).sketches(20_000) == {7: b"".join(kernel.program.unique_sources(kernel.program.day))}

    # A later program begins at zero; the page goes on from where it was.
    KernelSlot(page, 7).publish(zeros, None, 20_001)
    assert counts.total(page) == first
    day_start = page.worker(63).day_start.tolist()
    assert day_start[counts.RESPONSES] == first[counts.RESPONSES]


def test_a_clock_that_steps_back_over_midnight_goes_on_counting_for_the_later_day(
    kernel: InKernel, tmp_path: Path
) -> None:
    page = Page.create(tmp_path / "page")
    slot, midnight = KernelSlot(page, 7), 20_001 * 86_400.0

    def count(wall_seconds: float) -> int:
        """As the owner does; the day that the page shows."""
        program = kernel.program
        kernel.run(LIVE[TC], frame(message(wire())).to_octets())
        slot.publish(program.counters(), program.unique_sources(program.day), program.day)
        program.publish_time(wall_seconds, slot.day_at(wall_seconds))
        return page.worker(KERNEL_SLOT).day

    kernel.program.publish_time(midnight - 5, slot.day_at(midnight - 5))
    assert [count(midnight + at) for at in (-4, 0, 1)] == [20_000, 20_000, 20_001]
    before = page.worker(KERNEL_SLOT).day_start.tolist()
    assert [count(midnight + at) for at in (-3, -2, -86_400, 4)] == [20_001] * 4
    assert page.worker(KERNEL_SLOT).day_start.tolist() == before
    assert any(page.worker(KERNEL_SLOT).sketches(20_001)[7])

    # The owner's next program goes on with that day too, whatever its clock says.
    later = KernelSlot(page, 7)
    assert later.day_at(midnight - 1) == 20_001
    assert later.day_at(midnight - 2 * 86_400) == 19_999


def test_cookies_and_cuts_are_counted(kernel: InKernel, hook: Hook) -> None:
    before = kernel.program.counters(test_runs=True)
    asked = opt(options=option(10, bytes(8)))
    for query in (message(wire(b"com"), opt=asked), message(wire(b"com"), opt=opt(512)), message(wire(), 2)):
        kernel.ask(hook, query)
    after = kernel.program.counters(test_runs=True)

    assert after.made_cookies == before.made_cookies + 1
    total = after.whole + after.cut + after.truncated - before.whole - before.cut - before.truncated
    assert total == 3
    assert after.cut > before.cut  # the root's own addresses may be left out without TC
