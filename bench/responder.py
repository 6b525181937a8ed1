"""`python -m bench responder`: what one response costs, without any network.

The Responder on the root mix with and without COOKIE, on each kind of query, and on the worst query of each kind.
"""

import gc
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import machine
from bench.mix import Mix
from bench.queries import Query
from bench.worst import worst_queries
from bench.zones import Zones
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable

QUERIES = 50_000
REPEATS = 5
_SOURCE = bytes([198, 19, 7, 42])
_NSID = b"bench.example"


@dataclass(frozen=True)
class Cost:
    """What a series of queries costs."""

    name: str
    seconds: float
    """Per query, the median of the repeats."""

    to_mean: float = 1.0
    """In terms of the mix's mean."""

    response_octets: float = 0.0

    @property
    def rate(self) -> float:
        """Per second on one core."""
        return 1 / self.seconds


def make_responder(zones: Zones) -> Responder:
    """The Responder as a worker has it."""
    return Responder(AnswerTable.from_octets(compile_table(*zones.verified())), make_settings())


def make_settings() -> ResponderSettings:
    """As of a server with cookies and an NSID."""
    return ResponderSettings(nsid=_NSID, cookies=ServerCookies(bytes(range(16))))


def cost_of(
    responder: Responder, queries: Sequence[Query], *, repeats: int = REPEATS, at_least: int = QUERIES
) -> float:
    """Seconds per query, the median of *repeats*."""
    messages = [query.octets for query in queries]
    messages *= -(-at_least // len(messages))
    respond, source, transport, now = responder.respond, _SOURCE, Transport.UDP, 1_700_000_000.5
    times = []
    gc.freeze()  # as a worker does after loading
    for _ in range(repeats):
        start = time.thread_time()
        for octets in messages:
            respond(octets, source, transport, now)
        times.append((time.thread_time() - start) / len(messages))
    # What the loop itself costs belongs to nobody.
    start = time.thread_time()
    for _ in messages:
        pass
    return statistics.median(times) - (time.thread_time() - start) / len(messages)


def run(zones: Zones, *, count: int = QUERIES, repeats: int = REPEATS) -> dict[str, Any]:
    """All figures, as the report has them."""
    responder = make_responder(zones)
    mix = Mix.read()
    plain = _udp(mix.with_edns(cookie=0.0), zones, count)
    mean = cost_of(responder, plain, repeats=repeats, at_least=count)
    costs = [Cost("root mix without COOKIE", mean, 1.0, _mean_size(responder, plain))]

    def add(name: str, queries: Sequence[Query], at_least: int = count // 5) -> None:
        seconds = cost_of(responder, queries, repeats=repeats, at_least=at_least)
        costs.append(Cost(name, seconds, seconds / mean, _mean_size(responder, queries)))

    add("root mix, COOKIE as in the mix", _udp(mix, zones, count), count)
    add("root mix, COOKIE in every OPT", _udp(mix.with_edns(cookie=1.0), zones, count), count)
    for kind in mix.tables["kinds"]:
        add(f"only {kind}", _udp(mix.only(kind).with_edns(cookie=0.0), zones, count // 5))
    for name, queries in worst_queries(zones.contents).items():
        add(f"worst: {name}", queries)
    return {
        "machine": machine.describe(),
        "zones": zones.origin,
        "additions_per_second": machine.additions_per_second(min(os.sched_getaffinity(0))),
        "costs": [{**asdict(cost), "rate": cost.rate} for cost in costs],
        "worst_to_mean": max(cost.to_mean for cost in costs if cost.name.startswith("worst")),
    }


def _udp(mix: Mix, zones: Zones, count: int) -> list[Query]:
    return [query for query in mix.queries(zones.tlds, count) if not query.tcp]


def _mean_size(responder: Responder, queries: Sequence[Query]) -> float:
    sizes = [
        len(responder.respond(query.octets, _SOURCE, Transport.UDP, 1_700_000_000.5) or b"") for query in queries[:5000]
    ]
    return statistics.mean(sizes)


def to_markdown(figures: dict[str, Any]) -> str:
    """The table for the report."""
    lines = ["| queries | µs | per second | × mean | octets |", "|---|--:|--:|--:|--:|"]
    for cost in figures["costs"]:
        lines.append(
            f"| {cost['name']} | {cost['seconds'] * 1e6:.2f} | {cost['rate']:,.0f} | {cost['to_mean']:.2f} |"
            f" {cost['response_octets']:.0f} |"
        )
    speed = figures["additions_per_second"] / 1e6
    lines += [
        "",
        f"Worst query: {figures['worst_to_mean']:.1f} × the mean of the mix.  Zones: {figures['zones']}.  A plain"
        f" Python loop did {speed:.1f} M additions/s meanwhile.",
    ]
    return "\n".join(lines) + "\n"
