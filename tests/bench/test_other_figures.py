"""The benchmarks without a generator: each figure is there, and the parts make the whole."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from bench import cdns, cores, notify, parts, peak, plots, responder, startup, zones
from bench.cli import main
from bench.worst import worst_queries
from rootsrv.answer.responder import Transport
from tests.needs import require_root, require_tool


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> zones.Zones:
    return zones.generated(tmp_path_factory.mktemp("zones"), tlds=40)


def test_what_a_response_costs(served: zones.Zones) -> None:
    figures = responder.run(served, count=500, repeats=1)

    by_name = {cost["name"]: cost for cost in figures["costs"]}
    assert all(cost["rate"] > 0 and cost["response_octets"] > 0 for cost in figures["costs"])
    assert by_name["root mix without COOKIE"]["to_mean"] == 1.0
    assert figures["worst_to_mean"] == max(c["to_mean"] for name, c in by_name.items() if name.startswith("worst"))
    assert "root mix, COOKIE in every OPT" in responder.to_markdown(figures)


def test_every_worst_query_gets_the_response_that_it_is_said_to_get(served: zones.Zones) -> None:
    answering = responder.make_responder(served)

    for kind, queries in worst_queries(served.contents, served.now).items():
        for query in queries[:8]:
            response = answering.respond(query.octets, bytes(4), Transport.UDP, served.now)
            assert response is not None, kind
            if query.rcode is not None:
                assert response[3] & 15 == query.rcode, kind
            if kind.startswith("most cuts"):
                assert response[2] & 2 or len(response) > 400, kind


def test_start_from_zone_and_from_table(served: zones.Zones) -> None:
    figures = startup.run(served, repeats=1)

    cold = figures["from_zone"]
    assert cold["total"] == pytest.approx(cold["read"] + cold["verify"] + cold["compile"])
    assert min(cold.values()) > 0
    assert figures["from_table"]["total"] > 0
    assert "read + verify + compile" in startup.to_markdown(figures)


def test_what_a_query_costs_as_cdns(served: zones.Zones) -> None:
    figures = cdns.run(served, count=400, repeats=1)

    by_name = {cost["name"]: cost for cost in figures["costs"]}
    assert all(cost["rate"] > 0 for cost in figures["costs"])
    assert by_name["columns, gzip (isal 2)"]["octets"] < by_name["columns, none"]["octets"]
    assert by_name["columns, truncated addresses"]["octets"] < by_name["columns, none"]["octets"]
    assert "plain Python, none" in cdns.to_markdown(figures)


def test_from_notify_to_served() -> None:
    require_tool("nsd")
    require_root()

    result = notify.run(repeats=1, tlds=40, kinds=("rootsrv", "NSD"))

    assert result["left_out"] == {}
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in result["seconds"].values())
    assert "| rootsrv |" in notify.to_markdown(result)


def test_plots_draw_the_median_of_all_repeats_and_how_far_they_lie_apart() -> None:
    walks = (
        [(10.0, 10.0, 1.0, 2.0), (20.0, 19.0, 1.5, 9.0)],
        [(12.0, 12.0, 3.0, 4.0), (22.0, 15.0, 2.5, 7.0)],
        [(11.0, 8.0, 2.0, float("nan"))],
    )

    steps = plots.medians([{"walk": walk} for walk in walks])

    assert steps == [
        ((11.0, 10.0, 2.0, 3.0), (11.0, 8.0, 1.0, 2.0), (11.0, 12.0, 3.0, 4.0)),
        ((21.0, 17.0, 2.0, 8.0), (21.0, 15.0, 1.5, 7.0), (21.0, 19.0, 2.5, 9.0)),
    ]


def test_who_shares_a_core_is_seen_to_wait_for_it_and_to_leave_it() -> None:
    core = min(os.sched_getaffinity(0))
    busy = ["taskset", "--cpu-list", str(core), sys.executable, "-c", "while True: pass"]
    both = [subprocess.Popen(busy), subprocess.Popen(busy)]
    try:
        deadline = time.monotonic() + 60
        waited = preempted = 0
        while not (waited > 1_000_000 and preempted > 1):
            assert time.monotonic() < deadline, (waited, preempted)
            waited, preempted = cores.held_up(both[0].pid)
    finally:
        for each in both:
            each.kill()
            each.wait()

    assert cores.held_up(both[0].pid) == (0, 0)  # it is gone


@pytest.mark.parametrize(
    ("command", "module", "measuring"),
    [
        ("startup", startup, "_in_fresh_process"),
        ("responder", responder, "_time"),
        ("notify", notify, "_notify"),
        pytest.param("peak", peak, "_step", marks=pytest.mark.long),
    ],
)
def test_what_was_measured_before_an_interruption_is_written(
    command: str, module: ModuleType, measuring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    require_tool("nsd")
    options = ["--tlds", "40", *(["--peak", "100", "--seconds", "1", "--in-turns"] if command == "peak" else [])]
    settings = [Path("/proc/sys/kernel") / name for name in ("sched_rr_timeslice_ms", "sched_rt_runtime_us")]
    settings += [each for each in (Path("/proc/self/autogroup"),) if each.exists()]
    before = [each.read_text() for each in settings]
    enough = {"responder": 30, "startup": 3}.get(command, 1)
    genuine, calls = getattr(module, measuring), 0

    def interrupted_later(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls > enough:
            raise KeyboardInterrupt
        return genuine(*arguments)

    monkeypatch.setattr(module, measuring, interrupted_later)
    monkeypatch.setattr(responder, "QUERIES", 500)

    assert main([command, *options, "--results", str(tmp_path)]) == 130
    assert json.loads((tmp_path / f"{command}-interrupted.json").read_text())["interrupted"]
    assert "**interrupted**" in (tmp_path / f"{command}-interrupted.md").read_text()
    assert not (tmp_path / f"{command}.md").exists()
    assert [each.read_text() for each in settings] == before


def test_own_zones_that_cannot_be_believed_are_refused(served: zones.Zones, tmp_path: Path) -> None:
    broken = tmp_path / "root.zone"
    text = served.root.read_text().splitlines(keepends=True)
    broken.write_text("".join(line for line in text if "ZONEMD" not in line or "RRSIG" in line))

    with pytest.raises(zones.ZonesUnusable, match=str(broken)):
        zones.own(tmp_path, broken, served.hosts, served.anchors, None)


@pytest.mark.long
def test_what_the_parts_of_the_fast_path_cost_and_its_worst_queries(served: zones.Zones) -> None:
    require_root()
    require_tool("clang")

    figures = parts.run(served, rounds=1, loads=2)

    assert {row["hook"] for row in figures["parts"]} == {"XDP", "tc"}
    for row in figures["parts"]:
        # A sum of 16 bits that is right in two ways is left to the stack, and a few queries are cut to nothing.
        assert row["answered"] > 0.98, row
        assert sum(row["nanoseconds"].values()) == pytest.approx(row["all"])
        assert row["spread"][0] <= row["all"] <= row["spread"][1]
    assert {row["different"] for row in figures["different"]} == set(parts.DIFFERENT)
    worst = {row["kind"]: row for row in figures["worst"]}
    assert worst["longest qname, referral"]["answered"] == 1
    assert worst["CHAOS"]["passed"] == "qclass"
    assert worst["CHAOS"]["answered"] == 0
    assert "| tc, IPv6, mix, cookies |" in parts.to_markdown(figures)
