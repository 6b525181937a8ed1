"""Servers abreast: every figure is there, ratios are quotients, a failure or an interruption costs the rest nothing."""

import contextlib
import dataclasses
import os
import signal
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import abreast, compare, report, zones
from bench.further import TCP_LIMIT, TCP_MANNERS
from bench.network import Wire
from bench.subjects import SUBJECTS, Bench
from tests.needs import require_root, require_tool

CORES = sorted(os.sched_getaffinity(0))
OPTIONS = compare.Options(
    subjects=("NSD", "blind kernel"), step_seconds=0.1, queries=1000, generator_cpu=CORES[0], server_cpu=CORES[-1]
)

STARTS = 2

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    require_root()
    for tool in ("clang", "cc", "nsd", "ip", "ethtool", "nsenter", "taskset"):
        require_tool(tool)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> zones.Zones:
    return zones.generated(tmp_path_factory.mktemp("zones"), tlds=60)


@pytest.fixture(scope="module")
def result(served: zones.Zones) -> dict[str, Any]:
    return abreast.run(served, OPTIONS, rounds=2, starts=STARTS, turn_seconds=0.1)


def test_every_server_has_a_figure_in_every_manner_that_it_knows(result: dict[str, Any]) -> None:
    assert result["left_out"] == {}
    assert not result["interrupted"]
    assert result["manners"].keys() == {abreast.UDP, abreast.SHARED, *TCP_MANNERS}
    assert result["manners"][abreast.UDP].keys() == {"NSD", "blind kernel", TCP_LIMIT}
    for manner, servers in result["manners"].items():
        if manner in TCP_MANNERS:
            assert servers.keys() == {"NSD", TCP_LIMIT}
        for name, figures in servers.items():
            assert len(figures["rates"]) == 2 * STARTS, (manner, name)
            assert 10 < min(figures["rates"]) <= max(figures["rates"]) < 20e6, (manner, name)
            assert figures["cpu_per_response"] > 0, (manner, name)
            assert all(0 < share <= 1 for share in figures["shares"]), (manner, name)
            assert figures["wrong"] == 0, (manner, name)
    assert result["ceiling"] > 1000


def test_ratios_are_the_median_of_the_rounds_quotients(result: dict[str, Any]) -> None:
    for manner in (abreast.UDP, *TCP_MANNERS):
        servers = result["manners"][manner]
        for figures in servers.values():
            quotients = [one / each for one, each in zip(servers["NSD"]["rates"], figures["rates"], strict=True)]
            assert figures["first_to_this"] == pytest.approx(statistics.median(quotients))
        assert servers["NSD"]["first_to_this"] == 1.0


def test_what_is_as_fast_as_the_generator_is_marked(result: dict[str, Any]) -> None:
    for manner in TCP_MANNERS:
        servers = result["manners"][manner]
        near = servers["NSD"]["median"] > 0.9 * servers[TCP_LIMIT]["median"]
        assert servers["NSD"]["generator_bound"] == near


def test_the_report_has_a_table_for_each_manner(result: dict[str, Any]) -> None:
    text = abreast.to_markdown(result)

    assert all(f"## {manner}\n" in text for manner in result["manners"])
    assert text.count("| NSD 4") == 2 + len(TCP_MANNERS)


def test_what_is_offered_where_all_is_to_be_answered_is_half_of_what_each_can(result: dict[str, Any]) -> None:
    overload = result["manners"][abreast.UDP]
    for name, figures in result["manners"][abreast.SHARED].items():
        first, last = overload[name]["rates"][:2], overload[name]["rates"]
        assert figures["offered"][0] == pytest.approx(max(1000, statistics.median(first) / 2)), name
        assert figures["offered"][-1] == pytest.approx(max(1000, statistics.median(last) / 2)), name


def test_every_start_of_the_servers_has_a_cost_of_its_own(result: dict[str, Any]) -> None:
    for servers in result["manners"].values():
        for figures in servers.values():
            costs = figures["cpu_per_response_by_start"]
            assert len(set(costs)) == STARTS
            assert figures["cpu_per_response"] == statistics.median(costs)
            assert figures["cpu_spread"] == pytest.approx((max(costs) - min(costs)) / statistics.median(costs))


def test_each_server_in_the_kernel_has_a_thread_of_its_own_on_the_servers_core(
    served: zones.Zones, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        threads: list[int] = []
        for number in range(2):
            workdir = tmp_path / str(number)
            workdir.mkdir()
            bench = Bench(stack.enter_context(Wire()), served, workdir, CORES[-1], {})
            threads += stack.enter_context(SUBJECTS["blind kernel"].start(bench)).threads

        assert len(set(threads)) == 2
        assert [os.sched_getaffinity(thread) for thread in threads] == [{CORES[-1]}] * 2


def _children() -> Iterator[tuple[int, str]]:
    """Our own descendants, with their command lines."""
    parents, texts = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                texts[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    for pid, text in texts.items():
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() != pid:
            yield pid, text


def test_an_interruption_keeps_the_rounds_until_then_and_leaves_nothing(served: zones.Zones) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
    before = {pid for pid, _ in _children()}
    started: set[int] = set()
    turns = 0

    def step_done(what: str) -> None:
        nonlocal turns
        turns += abreast.UDP in what
        if turns == 4:  # the warm-up and one round of two servers
            started.update(pid for pid, text in _children() if pid not in before and "resource_tracker" not in text)
            signal.raise_signal(signal.SIGINT)

    found = abreast.run(served, OPTIONS, rounds=1000, turn_seconds=0.1, tcp=False, step_done=step_done)

    assert found["interrupted"]
    assert [len(figures["rates"]) for figures in found["manners"][abreast.UDP].values()] == [1, 1]
    assert len(started) >= 7  # per server two namespaces and two generators, and NSD
    assert started & {pid for pid, _ in _children()} == set()
    assert "**interrupted**" in report.interrupted_lines(found)[0]


def test_a_server_that_ends_is_named_and_the_others_go_on(served: zones.Zones) -> None:
    options = dataclasses.replace(OPTIONS, subjects=("blind sockets", "NSD"))
    others = {pid for pid, _ in _children()}
    turns = 0

    def step_done(what: str) -> None:
        nonlocal turns
        turns += what == f"NSD, {abreast.UDP}"
        if turns == 1:
            turns += 1
            for pid, text in _children():
                if "nsd -d" in text and pid not in others:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    found = abreast.run(served, options, rounds=2, turn_seconds=0.1, tcp=False, step_done=step_done)

    assert "ended by itself" in found["left_out"]["NSD"]
    assert min(found["manners"][abreast.UDP]["blind sockets"]["rates"]) > 0
    assert not found["interrupted"]
