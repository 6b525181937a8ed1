"""A short comparison: every figure is there, the sums add up with the interface's counters, nothing is left behind."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import compare, offer, peak, plots, report, zones
from bench.engine_process import EngineProcess
from bench.frames import Frame
from bench.mix import Mix
from bench.network import (
    CLIENT_INTERFACE,
    SERVER_IPV4,
    SERVER_IPV6,
    SOURCE_PREFIX_IPV4,
    SOURCE_PREFIX_IPV6,
    Namespace,
    NetworkUnavailable,
    Wire,
)
from bench.responder import make_responder
from bench.subjects import SUBJECTS, Bench, lookup_program
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.responder import Transport
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.program import TC_REDIRECT, XDP_TX
from tests.needs import REPOSITORY, require_root, require_tool

FIGURES = (
    "answered_rate", "peak_rate", "cpu_per_reply", "cpu_per_reply_at_peak", "memory_octets", "latency_p50",
    "latency_p99",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    require_root()
    for tool in ("clang", "nsd", "ip", "ethtool", "nsenter", "taskset"):
        require_tool(tool)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> zones.Zones:
    return zones.generated(tmp_path_factory.mktemp("zones"), tlds=60)


@pytest.fixture(scope="module")
def result(served: zones.Zones) -> dict[str, object]:
    cores = sorted(os.sched_getaffinity(0))
    options = compare.Options(
        subjects=("NSD", "blind kernel"), repeats=1, step_seconds=0.15, queries=2000,
        generator_cpu=cores[0], server_cpu=cores[-1],
    )  # fmt: skip
    return compare.run(served, options)


@pytest.mark.parametrize("name", ["NSD", "blind kernel"])
def test_every_figure_is_there_and_the_sums_add_up(result: dict[str, dict[str, dict[str, object]]], name: str) -> None:
    assert result["left_out"] == {}
    assert result["engine"] == "kernel"
    (run,) = result["subjects"][name]["runs"]  # type: ignore[misc]

    for figure in FIGURES:
        if name == "NSD" or figure != "memory_octets":
            assert run[figure] > 0, figure  # type: ignore[index]
    assert run["sent"] == run["answered"] + run["lost"]  # type: ignore[index]
    # Neighbour discovery and the like come besides.
    assert 0 <= run["interface_received"] - run["sent"] <= 50  # type: ignore[index]
    assert run["wrong"] == {}  # type: ignore[index]
    assert len(run["walk"]) >= 3  # type: ignore[index]


def test_the_ceiling_of_the_generator_is_measured(result: dict[str, float]) -> None:
    assert result["ceiling"] > 1000


@pytest.mark.parametrize(("hook", "replies"), [("xdp", XDP_TX), ("tc", TC_REDIRECT)])
def test_the_bare_look_up_in_the_kernel_sends_bodies_of_the_right_size(
    served: zones.Zones, hook: str, replies: int
) -> None:
    require_tool("clang")
    table = compile_table(*served.verified())
    answering = make_responder(served)
    queries = [query for query in Mix.read().with_edns(cookie=0.0).queries(served.tlds, 2000) if query.kind != "chaos"]
    same = 0
    with lookup_program(table) as loaded:
        for query in queries:
            addresses = {6: {"source": "2001:db8:1::7", "destination": "2001:db8::53"}}.get(query.family, {})
            sent = Frame(payload=query.octets, **addresses)
            run = libbpf.run_on_packet(loaded.program(f"look_up_{hook}"), sent.to_octets())
            assert run.verdict == replies, query
            received = Frame.from_octets(run.packet).payload
            expected = answering.respond(query.octets, bytes(4), Transport.UDP, served.now)
            assert expected is not None
            same += len(received) == len(expected) and received[:12] == expected[:12]
    # The others would have been cut or have an NSID.
    assert same > 0.85 * len(queries)


def test_ratios_to_the_best_peer_are_given(result: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    assert result["subjects"]["NSD"]["ratios"]["answered_rate / best peer"] == 1.0


def test_servers_in_the_kernel_are_compared_with_the_bare_look_up() -> None:
    rates = {
        "NSD": 100.0,
        "rootsrv": 80.0,
        "rootsrv XDP": 900.0,
        "look-up kernel": 1000.0,
        "blind kernel": 2000.0,
        "rootsrv tc": 400.0,
        "look-up kernel tc": 500.0,
    }
    subjects = {
        name: {"median": {"answered_rate": rate, "peak_rate": rate}, "kind": SUBJECTS[name].kind,
               "in_kernel": SUBJECTS[name].in_kernel}
        for name, rate in rates.items()
    }  # fmt: skip

    compare._add_ratios({"subjects": subjects})

    ratios: dict[str, float] = subjects["rootsrv XDP"]["ratios"]  # type: ignore[assignment]
    assert ratios["answered_rate / look-up"] == 0.9
    assert subjects["rootsrv tc"]["ratios"]["answered_rate / look-up"] == 0.8  # type: ignore[index]
    assert ratios["answered_rate / limit"] == 0.45
    assert ratios["answered_rate / best peer"] == 9.0
    assert "answered_rate / look-up" not in subjects["rootsrv"]["ratios"]  # type: ignore[operator]


def test_the_report_and_the_plots_are_written(result: dict[str, object], tmp_path: Path) -> None:
    drawn = plots.comparison(result, tmp_path / "compare")
    path = report.write("compare", result, report.comparison_to_markdown(result, "compare"), tmp_path)

    assert {each.suffix for each in drawn} == {".png", ".svg"}
    assert all(each.stat().st_size > 1000 for each in drawn)
    assert "| NSD 4" in path.read_text() or "| NSD " in path.read_text()
    assert json.loads((tmp_path / "compare.json").read_text())["subjects"].keys() == {"NSD", "blind kernel"}


def test_a_missing_program_is_left_out_with_the_reason_and_the_rest_goes_on(served: zones.Zones) -> None:
    cores = sorted(os.sched_getaffinity(0))
    options = compare.Options(
        subjects=("Knot", "blind sockets"), repeats=1, step_seconds=0.05, queries=300,
        generator_cpu=cores[0], server_cpu=cores[-1], programs={"knot": "/nonexistent/knotd"},
    )  # fmt: skip

    found = compare.run(served, options)

    assert "/nonexistent/knotd" in found["left_out"]["Knot"]
    assert found["subjects"].keys() == {"blind sockets"}
    assert "Knot was left out" in report.comparison_to_markdown(found)


def test_the_kernel_engine_finds_its_way_to_a_server_of_ones_own(served: zones.Zones, tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    queries = Mix.read().queries(served.tlds, 500)
    order = offer.Order(
        targets=(SERVER_IPV4, SERVER_IPV6), engine="kernel", interface=CLIENT_INTERFACE, owned=True,
        source_prefixes=(SOURCE_PREFIX_IPV4, SOURCE_PREFIX_IPV6),
    )  # fmt: skip
    with Wire() as wire, SUBJECTS["NSD"].start(Bench(wire, served, tmp_path, cpu, {})):
        with EngineProcess(functools.partial(offer.make_engine, order, queries), namespace=wire.client.path) as engine:
            load = engine.run(500, 0.4)
            limited = engine.call("run", 5000, 0.2, 10)

    assert load.sent == load.answered + load.lost
    assert load.answered > 20
    assert load.wrong == {}
    assert limited.sent == 10


@pytest.mark.long
def test_three_times_a_peak_while_the_zone_changes(served: zones.Zones) -> None:
    cores = sorted(os.sched_getaffinity(0))
    options = peak.Options(
        "rootsrv", peak=300, multiples=(1.0, 3.0), seconds=2.0, queries=500, tlds=60,
        generator_cpu=cores[0], server_cpu=cores[-1],
    )  # fmt: skip

    result = peak.run(options)

    for step in result["steps"]:
        for load in (step["udp"], step["tcp"]):
            assert load["sent"] == load["answered"] + load["lost"]
            assert load["answered"] > 0
            assert load["wrong"] == {}
        assert step["udp"]["compared"] > 100
        assert not any("switchover" in failure for failure in step["failures"]), step["failures"]
    # What failed while the host had the cores apart is tried again, and does not count.
    assert result["passed"] == (not any(step["failures"] for step in result["steps"] if not step["again"]))
    assert "| × peak |" in peak.to_markdown(result)
    assert "server's core: " in peak.to_markdown(result)
    assert "workers: ready and without a core " in peak.to_markdown(result)


def _children(pid: int) -> Iterator[tuple[int, str]]:
    """All descendants, with their command lines."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    yield int(entry.name), command
                    yield from _children(int(entry.name))


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        signal.SIGKILL,
    ],
    ids=lambda number: number.name,
)
def test_nothing_is_left_after_an_interruption(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "compare", "--servers", "NSD", "--step-seconds", "5", "--tlds", "60",
         "--count", "500", "--results", str(tmp_path)],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # who is killed leaves his files
    )  # fmt: skip
    try:
        started: dict[int, str] = {}
        deadline = time.monotonic() + 120
        while not any("nsd -d" in command for command in started.values()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            started.update(_children(process.pid))
            time.sleep(0.02)
        started.update(_children(process.pid))
        namespaces = {os.stat(f"/proc/{pid}/ns/net").st_ino for pid, text in started.items() if "sleep inf" in text}
        assert len(namespaces) == 2
        process.send_signal(number)
        status = process.wait(30)
    finally:
        process.kill()
        process.wait()

    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    deadline = time.monotonic() + 15
    while left := [command for pid, command in started.items() if Path(f"/proc/{pid}/exe").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    assert not namespaces & _namespaces()


@pytest.mark.long
def test_what_was_measured_before_an_interruption_is_written_beside_an_earlier_result(tmp_path: Path) -> None:
    whole = tmp_path / "compare.md"
    whole.write_text("an earlier result")
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "compare", "--servers", "blind sockets,NSD", "--step-seconds", "0.05",
         "--tlds", "60", "--count", "500", "--repeats", "100", "--results", str(tmp_path)],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not any("nsd -d" in command for _, command in _children(process.pid)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for number in (signal.SIGINT, signal.SIGTERM):  # to all of the foreground, as Ctrl-C and timeout(1) send them
            os.killpg(process.pid, number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 130
    assert "what was measured is written" in said
    found = json.loads((tmp_path / "compare-interrupted.json").read_text())
    assert found["interrupted"]
    assert found["subjects"]["blind sockets"]["median"]["peak_rate"] > 0
    assert "NSD" not in found["left_out"]
    assert "**interrupted**" in (tmp_path / "compare-interrupted.md").read_text()
    assert whole.read_text() == "an earlier result"


def _namespaces() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found.add((entry / "ns" / "net").stat().st_ino)
    return found


def test_what_ends_a_terminals_foreground_leaves_namespaces_to_who_cleans_up() -> None:
    require_root()
    namespace = Namespace()
    try:
        holder = int(namespace.path.split("/")[2])
        assert os.getsid(holder) != os.getsid(0)
    finally:
        namespace.close()


def test_a_wire_that_cannot_be_finished_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.network.SERVER_IPV4", "not-an-address")

    with pytest.raises(NetworkUnavailable, match="not-an-address"):
        Wire()

    assert not any("sleep inf" in command for _, command in _children(os.getpid()))
