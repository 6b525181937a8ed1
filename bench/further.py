"""What `compare` reports besides, and judges by nothing: TCP, the nxdomain flood, the worst query of each kind."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bench import independent, network
from bench.engine_process import EngineProcess
from bench.engine_tcp import TcpEngine
from bench.load import Target
from bench.measure import generator_bound
from bench.mix import Mix
from bench.network import SERVER_IPV4, SERVER_IPV6
from bench.queries import Query
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


_DRAIN_TURNS = 5  # of up to 0.6 s each, where nothing is answered
_WORST_QUERIES = 4096  # making frames of them takes longer than sending them


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
        kind: alternating_families((queries * 64)[:_WORST_QUERIES])
        for kind, queries in worst_queries(comparison.zones.contents, comparison.zones.now).items()
    }
    rows.series = ["root mix", "only nxdomain", *worst]
    with contextlib.ExitStack() as stack:
        # kxdpgun wants a client's interface without a program on it.
        options = replace(comparison.options, engine="socket", subjects=())
        _measure_servers(
            comparison,
            type(comparison)(comparison.zones, options, stack),
            names,
            reply_octets,
            rows,
            [comparison.queries, flood, *worst.values()],
        )


def _measure_servers(
    comparison: Comparison, second: Comparison, names: Sequence[str], reply_octets: int, rows: Rows,
    series: Sequence[Sequence[Query]],
) -> None:  # fmt: skip
    for name in (*(name for name in names if SUBJECTS[name].kind != "limit"), TCP_LIMIT):
        subject = SUBJECTS[name]
        try:
            with comparison.serving(subject, reply_octets):
                if not subject.in_kernel:
                    rows.tcp[name] = []
                    for rate in _tcp(comparison):
                        rows.tcp[name].append(rate)
                if subject.kind != "limit":
                    rows.floods[name] = []
                    if not subject.in_kernel:  # what sockets send over veth does not reach it, see bench/README.md
                        rows.independent.append([name, *_independent(comparison, second, subject, reply_octets)])
                    for rate in _floods(comparison, subject, series):
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
            "remark": f"One worker each; the root mix; the client has the other core.  {TCP_LIMIT}: what"
            f" the client gets from a server that looks at nothing; † within 10 % of that, so it may be the client that"
            f" was measured.{left_out}",
        },
        "An independent generator": {
            "columns": [
                "responses/s",
                "dnsperf",
                "socket engine",
                "dnsperf / socket engine",
                "kxdpgun",
                "our generator",
                "kxdpgun / our generator",
            ],
            "rows": rows.independent,
            "remark": "In turns, medians, over IPv4, same names and EDNS options: dnsperf and the socket engine keep"
            " 512 queries outstanding; kxdpgun offers what the generator of the comparison"
            " really offered when it was asked for 0.7 of that."
            f"  ‡ they are more than {independent.AGREEMENT:.0%} apart.",
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
        # A server works off what the flood before left in its sockets' buffers; later its answers are nobody's.
        for _ in range(_DRAIN_TURNS):
            if comparison.kernel.run(2_000, 0.1).answered_share > 0.99:
                break
        yield comparison.kernel.run(subject.overload, comparison.options.step_seconds).answer_rate


def _independent(comparison: Comparison, second: Comparison, subject: Subject, reply_octets: int) -> list[str]:
    """dnsperf, the socket engine, their quotient; kxdpgun, the kernel engine, theirs."""
    try:
        beside_dnsperf = independent.beside_dnsperf(comparison)
    except independent.ToolFailed as error:
        return [str(error), *[""] * 5]
    rate = 0.7 * beside_dnsperf.ours  # well below what it can answer
    try:
        beside_kxdpgun = independent.beside_kxdpgun(comparison, second, subject, reply_octets, rate)
    except independent.ToolFailed as error:
        return [*_cells(beside_dnsperf), str(error), "", ""]
    return [*_cells(beside_dnsperf), *_cells(beside_kxdpgun)]


def _cells(found: independent.Agreement) -> list[str]:
    return [f"{found.theirs:,.0f}", f"{found.ours:,.0f}", f"{found.ratio:.2f}{'' if found.good else ' ‡'}"]
