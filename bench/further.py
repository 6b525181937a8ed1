"""What `compare` reports besides, and judges by nothing: TCP, the nxdomain flood, the worst query of each kind."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import network
from bench.engine_process import EngineProcess
from bench.engine_socket import SocketEngine
from bench.engine_tcp import TcpEngine
from bench.load import Target
from bench.measure import generator_bound
from bench.mix import Mix
from bench.network import SERVER_IPV4, SERVER_IPV6
from bench.queries import Query, read_names, write_names
from bench.subjects import FAILURES, SUBJECTS, Subject
from bench.worst import alternating_families, worst_queries

if TYPE_CHECKING:
    from bench.compare import Comparison

TARGET = Target(SERVER_IPV4, SERVER_IPV6)
SOURCES = (network.SOURCE_PREFIX_IPV4, network.SOURCE_PREFIX_IPV6)

# How clients use TCP: a busy forwarder pipelines, most have one query outstanding, many close after one.
TCP_MANNERS: dict[str, dict[str, Any]] = {
    "32 connections, 32 outstanding": {"connections": 32, "window": 32},
    "32 connections, 1 outstanding": {"connections": 32, "window": 1},
    "one query per connection": {"connections": 32, "persistent": False},
}


TCP_LIMIT = "blind sockets"
"""The server that looks at nothing: what the TCP client gets from it is the client's own ceiling."""

AGREEMENT = 0.15
"""How far an independent generator may be from ours."""


@dataclass
class Rows:
    """What was found so far; rates per second."""

    tcp: dict[str, list[float]] = field(default_factory=dict)
    floods: dict[str, list[float]] = field(default_factory=dict)
    series: list[str] = field(default_factory=list)
    independent: list[list[str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def measure_all(comparison: Comparison, names: Sequence[str], reply_octets: int, rows: Rows) -> None:
    """Fill *rows*, server by server."""
    flood = [query for query in Mix.read().only("nxdomain").queries(comparison.zones.tlds, 65536) if not query.tcp]
    worst = {
        kind: alternating_families(queries * 64) for kind, queries in worst_queries(comparison.zones.contents).items()
    }
    rows.series = ["root mix", "only nxdomain", *worst]
    for name in (*(name for name in names if SUBJECTS[name].kind != "limit"), TCP_LIMIT):
        subject = SUBJECTS[name]
        try:
            with comparison.serving(subject, reply_octets):
                if not subject.in_kernel:
                    rows.tcp[name] = []
                    for rate in _tcp(comparison):
                        rows.tcp[name].append(rate)
                    rows.independent.append([name, *_dnsperf(comparison)])
                if subject.kind != "limit":
                    rows.floods[name] = []
                    for rate in _floods(comparison, subject, [comparison.queries, flood, *worst.values()]):
                        rows.floods[name].append(rate)
        except FAILURES as error:
            rows.left_out[name] = str(error) or type(error).__name__
    if comparison.kernel is not None:
        comparison.kernel.call("use", comparison.queries)


def tables(rows: Rows) -> dict[str, Any]:
    """Tables by title."""
    ceilings = rows.tcp.get(TCP_LIMIT, [])

    def cell(rates: Sequence[float], place: int) -> str:
        return f"{rates[place]:,.0f}" if place < len(rates) else ""

    def tcp_cell(name: str, place: int) -> str:
        rates = rows.tcp[name]
        bound = (
            name != TCP_LIMIT
            and place < min(len(rates), len(ceilings))
            and generator_bound(rates[place], ceilings[place])
        )
        return cell(rates, place) + (" †" if bound else "")

    left_out = "".join(f"  {name} was left out: {reason.splitlines()[0]}" for name, reason in rows.left_out.items())
    return {
        "TCP": {
            "columns": ["responses/s", *TCP_MANNERS],
            "rows": [[name, *(tcp_cell(name, place) for place in range(len(TCP_MANNERS)))] for name in rows.tcp],
            "remark": f"One worker each; the root mix; the client, in Python, has the other core.  {TCP_LIMIT}: what"
            f" the client gets from a server that looks at nothing; † within 10 % of that, so it may be the client that"
            f" was measured.{left_out}",
        },
        "An independent generator": {
            "columns": ["responses/s", "dnsperf", "socket engine", "dnsperf / socket engine"],
            "rows": rows.independent,
            "remark": "Both keep 512 queries outstanding from one core, over IPv4, same names and EDNS options;"
            f" ‡ they are more than {AGREEMENT:.0%} apart.",
        },
        "Floods": {
            "columns": ["responses/s under overload", *rows.floods],
            "rows": [
                [kind, *(cell(rates, place) for rates in rows.floods.values())]
                for place, kind in enumerate(rows.series)
            ],
            "remark": "UDP, each series of queries alone.",
        },
    }


def _tcp(comparison: Comparison) -> Iterator[float]:
    for manner in TCP_MANNERS.values():
        build = functools.partial(TcpEngine, comparison.queries, TARGET, sources=SOURCES, **manner)
        options = comparison.options
        with EngineProcess(build, namespace=comparison.wire.client.path, cpu=options.generator_cpu) as engine:
            engine.run(None, options.step_seconds / 2)
            yield engine.run(None, options.step_seconds).answer_rate


def _floods(comparison: Comparison, subject: Subject, series: Sequence[Sequence[Query]]) -> Iterator[float]:
    for queries in series:
        if comparison.kernel is None:
            yield float("nan")
            continue
        comparison.kernel.call("use", list(queries))
        comparison.kernel.run(20_000, 0.1)
        yield comparison.kernel.run(subject.overload, comparison.options.step_seconds).answer_rate


def _dnsperf(comparison: Comparison) -> list[str]:
    """Responses per second that dnsperf gets, what our socket engine gets, and their ratio."""
    program = shutil.which("dnsperf")
    if program is None:
        return ["not installed", "", ""]
    options = comparison.options
    with tempfile.TemporaryDirectory(prefix="rs-bench-dnsperf-") as directory:
        names = Path(directory) / "names"
        write_names([query for query in comparison.queries if query.rcode is not None][:20_000], names)
        command = [program, "-s", SERVER_IPV4, "-d", str(names), "-c", "16", "-T", "1", "-q", "512", "-e", "-D"]
        command += ["-l", str(max(1, round(options.step_seconds)))]
        process = comparison.wire.client.spawn(
            command, cpu=options.generator_cpu, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            output, _ = process.communicate(timeout=options.step_seconds + 60)
        finally:
            process.kill()
        found = re.search(rb"Queries per second:\s+([0-9.]+)", output)
        if found is None:
            return [output.decode(errors="replace").strip().splitlines()[-1][:80], "", ""]
        queries = [replace(query, family=4) for query in read_names(names, payload=4096)]
    theirs = float(found[1])
    build = functools.partial(SocketEngine, queries, Target(SERVER_IPV4, None), sources=SOURCES)
    with EngineProcess(build, namespace=comparison.wire.client.path, cpu=options.generator_cpu) as engine:
        ours = engine.run(None, options.step_seconds).answer_rate
    apart = "" if ours and abs(theirs / ours - 1) <= AGREEMENT else " ‡"
    return [f"{theirs:,.0f}", f"{ours:,.0f}", f"{theirs / ours:.2f}{apart}" if ours else ""]
