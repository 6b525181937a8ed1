"""`python -m bench responder`: what one response costs, without any network.

The Responder on the root mix with and without COOKIE, on each kind of query, and on the worst query of each kind; and
what counting costs besides, in batches, for the mix, for the trust-anchor signals that cost most and for the sources.
"""

import collections
import gc
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine, report
from bench.mix import Mix
from bench.queries import Query
from bench.worst import worst_queries
from bench.zones import Zones
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.page.layout import Page
from rootsrv.server.counters import Counters
from rootsrv.server.udp import BATCH_SIZE

QUERIES = 10_000
REPEATS = 12
_MEAN = "root mix without COOKIE"
_SOURCE = bytes([198, 19, 7, 42])
_NSID = b"bench.example"


@dataclass(frozen=True)
class Cost:
    """What a series of queries costs."""

    name: str
    seconds: float
    """Of processor time per query, in the fastest round."""

    to_mean: float = 1.0
    """In terms of the mix's mean."""

    response_octets: float = 0.0

    @property
    def rate(self) -> float:
        """Per second on one core."""
        return 1 / self.seconds


def make_responder(zones: Zones) -> Responder:
    """The Responder as a worker has it some seconds after it began to answer."""
    responder = Responder(AnswerTable(compile_table(*zones.verified())), make_settings())
    collections.deque(responder.put_together(), maxlen=0)
    return responder


def make_settings() -> ResponderSettings:
    """As of a server with cookies and an NSID."""
    return ResponderSettings(nsid=_NSID, cookies=ServerCookies(bytes(range(16))))


def run(zones: Zones, *, count: int | None = None, repeats: int = REPEATS) -> dict[str, Any]:
    """All figures, as the report has them: *repeats* rounds through all series of some *count* queries (QUERIES)."""
    count = QUERIES if count is None else count
    responder, now = make_responder(zones), zones.now
    mix = Mix.read()
    series: dict[str, list[bytes]] = {}

    def add(name: str, queries: Sequence[Query]) -> None:
        messages = [query.octets for query in queries]
        series[name] = messages * -(-count // len(messages))

    add(_MEAN, _udp(mix.with_edns(cookie=0.0), zones, count))
    add("root mix, COOKIE as in the mix", _udp(mix, zones, count))
    add("root mix, COOKIE in every OPT", _udp(mix.with_edns(cookie=1.0), zones, count))
    for kind in mix.tables["kinds"]:
        add(f"only {kind}", _udp(mix.only(kind).with_edns(cookie=0.0), zones, count))
    for name, queries in worst_queries(zones.contents, now).items():
        add(f"worst: {name}", queries)
    counted: dict[str, tuple[str, _Counting | _Noting]] = {
        f"counting: {name.removeprefix('worst: ')}": (name, _Counting(responder, series[name], now))
        for name in (_MEAN, "worst: trust-anchor signal, 11 invented tags")
    }
    counted["noting sources: all of them new"] = (_MEAN, _Noting())
    gc.freeze()  # as a worker does after loading
    times: dict[str, list[float]] = {name: [] for name in series}
    result: dict[str, Any] = {"machine": machine.describe(), "zones": zones.origin}
    with report.kept(result):
        for _ in range(repeats):
            for name, messages in series.items():
                times[name].append(_time(responder, messages, now))
            for name, (_, counting) in counted.items():
                times.setdefault(name, []).append(counting.time())
    # The fastest round is the one that the rest of the machine disturbed least.
    mean = min(times[_MEAN], default=0.0)
    costs = [
        Cost(
            name,
            min(rounds),
            min(rounds) / mean,
            _mean_size(responder, series[counted[name][0] if name in counted else name], now),
        )
        for name, rounds in times.items()
        if rounds
    ]
    return result | {
        "additions_per_second": machine.additions_per_second(min(os.sched_getaffinity(0))),
        "costs": [{**asdict(cost), "rate": cost.rate} for cost in costs],
        "worst_to_mean": max((cost.to_mean for cost in costs if cost.name.startswith("worst")), default=0.0),
    }


class _Counting:
    """Counting a series in batches, as a worker does."""

    def __init__(self, responder: Responder, messages: Sequence[bytes], now: float) -> None:
        asked = list(messages)
        answered = [responder.respond(octets, _SOURCE, Transport.UDP, now) or b"" for octets in asked]
        starts = range(0, len(asked) - BATCH_SIZE, BATCH_SIZE)
        self._batches = [(asked[at : at + BATCH_SIZE], answered[at : at + BATCH_SIZE]) for at in starts]
        with tempfile.TemporaryDirectory(prefix="rootsrv-bench-") as directory:
            self._counters = Counters(Page.create(Path(directory) / "page").worker(0))
        self._counters.keep_signals(responder.table.key_tags())

    def time(self) -> float:
        """Processor seconds per message."""
        count = self._counters.count
        start = time.thread_time()
        for asked, answered in self._batches:
            count(0, asked, answered)
        return (time.thread_time() - start) / (BATCH_SIZE * len(self._batches))


class _Noting:
    """Noting sources in batches, as a worker does: any 64 of 65,536 IPv4 addresses, 64 of as many IPv6 of one /64."""

    def __init__(self) -> None:
        draw = random.Random(1)
        prefixes = (b"\xc6\x13", bytes.fromhex("2001000200000002") + bytes(6))  # three IPv4 batches for one of IPv6
        self._batches = [
            [prefixes[number % 4 == 3] + draw.randbytes(2) for _ in range(BATCH_SIZE)] for number in range(160)
        ]
        with tempfile.TemporaryDirectory(prefix="rootsrv-bench-") as directory:
            self._counters = Counters(Page.create(Path(directory) / "page").worker(0))

    def time(self) -> float:
        """Processor seconds per source."""
        note = self._counters.note_sources
        start = time.thread_time()
        for sources in self._batches:
            note(sources)
        return (time.thread_time() - start) / (BATCH_SIZE * len(self._batches))


def _time(responder: Responder, messages: Sequence[bytes], now: float) -> float:
    """Processor seconds per message, without those of the loop."""
    respond, source, transport = responder.respond, _SOURCE, Transport.UDP
    start = time.thread_time()
    for octets in messages:
        respond(octets, source, transport, now)
    end = time.thread_time()
    for _ in messages:
        pass
    return (2 * end - start - time.thread_time()) / len(messages)


def _udp(mix: Mix, zones: Zones, count: int) -> list[Query]:
    return [query for query in mix.queries(zones.tlds, count) if not query.tcp]


def _mean_size(responder: Responder, messages: Sequence[bytes], now: float) -> float:
    sizes = [len(responder.respond(octets, _SOURCE, Transport.UDP, now) or b"") for octets in messages[:5000]]
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
