"""`python -m bench abreast`: servers that all run at once and are loaded in turns of a fraction of a second.

Where the machine itself becomes faster and slower within a minute (a virtual machine with neighbours), rates that were
measured minutes apart cannot be compared.  Here every server has a wire and a generator of its own and all wait
together; only one is loaded at a time, each for a moment, over and over.  What is reported is the median over the
rounds of the ratio to the first server in the same round: what changes more slowly than a round meets all of them.

Overload says what a server can do at most; what a response costs where all are answered is another matter, above all
for those in the kernel, which take packets faster than they can be asked for.  So each server is also offered a fixed
share of what it did under overload, and the processor time per response is what counts then.  (The highest rate of
which all was answered differed by a factor of three from run to run: one hiccup of the machine ends it.)

Where a table's pages come to lie is settled when it is loaded, and is worth a fifth of the time per packet: all servers
are ended and started anew between rounds, and how far the starts lie apart stands beside their median.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from bench import machine, measure, report
from bench.compare import SOURCES, TARGET, Comparison, Options
from bench.engine_process import EngineProcess
from bench.engine_tcp import TcpEngine
from bench.further import TCP_LIMIT, TCP_MANNERS
from bench.load import Load
from bench.report import thousands
from bench.subjects import FAILURES, SUBJECTS, Running
from bench.zones import Zones

UDP = "UDP, overload"
SHARE = 0.5
"""Of what a server does under overload: what it is offered where all is to be answered."""

SHARED = "UDP, half of what it can"
_OVERLOAD = 300_000  # queries per second for a server with sockets: more than any takes, and little in vain


@dataclass
class _Lane:
    """One server with its wire and generators."""

    name: str
    running: Running
    comparison: Comparison
    tcp: dict[str, EngineProcess]
    ceiling: float | None
    """What the generator itself can do, where that was measured."""

    stack: contextlib.ExitStack
    share: float = 1000.0
    """Queries per second that are SHARE of what it can."""

    def load(self, manner: str, seconds: float) -> Load:
        """One turn."""
        if manner == UDP:
            overload = None if SUBJECTS[self.name].in_kernel else _OVERLOAD
            return self.comparison.generator.run(overload, seconds)
        if manner == SHARED:
            return self.comparison.generator.run(self.share, seconds)
        return self.tcp[manner].run(None, seconds)


@dataclass
class _Turns:
    """What one server did in one manner, round by round."""

    starts: list[int] = field(default_factory=list)
    """Which start of the server each round belongs to."""

    offered: list[float] = field(default_factory=list)
    """Queries per second, where that is a share of what the server can."""

    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    lost_in_ring: int = 0
    wrong: int = 0

    def costs_by_start(self) -> list[float]:
        """The median processor time per response of each start."""
        return [
            measure.median([cost for cost, its in zip(self.costs, self.starts, strict=True) if its == start])
            for start in dict.fromkeys(self.starts)
        ]

    def count(self, load: Load, used_seconds: float, start: int) -> None:
        self.starts.append(start)
        self.rates.append(load.answer_rate)
        self.costs.append(used_seconds / max(1, load.answered))
        self.shares.append(load.answered_share)
        self.lost_in_ring += load.ring_drops
        self.wrong += load.wrong_count


class _Breadth:
    """All lanes, as long as they last: a server that fails is taken out, and the others go on."""

    def __init__(self, result: dict[str, Any], step_done: Callable[[str], None]) -> None:
        self.result, self.step_done = result, step_done
        self.lanes: list[_Lane] = []
        self.start = -1
        self.turns: dict[str, dict[str, _Turns]] = {}
        """By manner and server."""

    def open(self, zones: Zones, options: Options, *, tcp: bool) -> None:
        # What the TCP client gets from the server that looks at nothing is the client's own ceiling.
        beside = (TCP_LIMIT,) if tcp and TCP_LIMIT not in options.subjects else ()
        self.start += 1
        for name in (*options.subjects, *beside):
            if name in self.result["left_out"]:
                continue
            try:
                lane = _lane(zones, options, name, tcp=tcp, ceiling=not self.lanes and not self.start)
            except FAILURES as error:
                self.leave_out(name, error)
            else:
                self.lanes.append(lane)
                self.result["versions"][name] = lane.running.version
            self.step_done(name)

    def close(self) -> None:
        while self.lanes:
            self._close(self.lanes.pop())

    def _close(self, lane: _Lane) -> None:
        try:
            lane.stack.close()
        except FAILURES as error:
            self.leave_out(lane.name, error)  # a server that had ended by itself is found out here

    def leave_out(self, name: str, error: BaseException) -> None:
        self.result["left_out"].setdefault(name, str(error) or type(error).__name__)

    def rounds(self, manner: str, rounds: int, seconds: float) -> None:
        lanes = [lane for lane in self.lanes if manner in (UDP, SHARED) or manner in lane.tcp]
        turns = self.turns.setdefault(manner, {})
        for lane in lanes:
            turns.setdefault(lane.name, _Turns())
        try:
            for number in range(rounds + 1):
                for lane in list(lanes):
                    try:
                        used = measure.cpu_seconds(lane.running)
                        load = lane.load(manner, seconds)
                        if number:  # the first round is the warm-up
                            turns[lane.name].count(load, measure.cpu_seconds(lane.running) - used, self.start)
                            turns[lane.name].offered += [lane.share] if manner == SHARED else []
                    except FAILURES as error:
                        self.leave_out(lane.name, error)
                        lanes.remove(lane)
                        self.lanes.remove(lane)
                        self._close(lane)
                    self.step_done(f"{lane.name}, {manner}")
        finally:
            for name, found in turns.items():
                if SUBJECTS[name].kind == "limit":
                    found.wrong = 0  # it answers nothing, so nothing can be right
            self.result["manners"][manner] = _figures(turns, manner)


def run(
    zones: Zones,
    options: Options,
    *,
    rounds: int,
    starts: int = 1,
    turn_seconds: float = 0.4,
    udp: bool = True,
    tcp: bool = True,
    step_done: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Load `options.subjects` in turns; rates, ratios to the first and processor time per response, by manner.

    *rounds* of each of *starts*, between which all servers end and start anew.
    KeyboardInterrupt ends it early: `interrupted` is set and the rounds until then stay.
    """
    result: dict[str, Any] = {
        "machine": machine.describe(), "zones": zones.origin, "rounds": rounds, "starts": starts,
        "turn_seconds": turn_seconds,
        "cores": [options.generator_cpu, options.server_cpu], "engine": options.engine, "ceiling": None,
        "versions": {}, "left_out": {}, "manners": {},
    }  # fmt: skip
    breadth = _Breadth(result, step_done)
    with report.kept(result):
        try:
            for _ in range(starts):
                breadth.open(zones, options, tcp=tcp)
                if breadth.lanes and not breadth.start:
                    result["engine"] = "kernel" if breadth.lanes[0].comparison.kernel else "socket"
                    result["ceiling"] = breadth.lanes[0].ceiling
                if udp:
                    breadth.rounds(UDP, rounds, turn_seconds)
                    for lane in breadth.lanes:
                        lane.share = max(lane.share, SHARE * result["manners"][UDP][lane.name]["median"])
                    breadth.rounds(SHARED, rounds, turn_seconds)
                for manner in TCP_MANNERS if tcp else ():
                    breadth.rounds(manner, rounds, turn_seconds)
                breadth.close()
        finally:
            breadth.close()
    _mark_bound(result)
    return result


def _lane(zones: Zones, options: Options, name: str, *, tcp: bool, ceiling: bool) -> _Lane:
    """*name* served on a wire of its own; all of it ends with the lane's `stack`."""
    subject = SUBJECTS[name]
    with contextlib.ExitStack() as stack:
        comparison = Comparison(zones, replace(options, subjects=(name,)), stack)
        can_send = comparison.ceiling() if ceiling else None
        running = stack.enter_context(comparison.serving(subject, comparison.mean_reply_octets()))
        engines: dict[str, EngineProcess] = {}
        if tcp and not subject.in_kernel:
            for manner, settings in TCP_MANNERS.items():
                build = functools.partial(TcpEngine, comparison.queries, TARGET, sources=SOURCES, **settings)
                engines[manner] = stack.enter_context(
                    EngineProcess(build, namespace=comparison.wire.client.path, cpu=options.generator_cpu)
                )
        return _Lane(name, running, comparison, engines, can_send, stack.pop_all())


def _figures(turns: dict[str, _Turns], manner: str) -> dict[str, dict[str, Any]]:
    first = next(iter(turns.values()), _Turns())
    figures = {}
    for name, found in turns.items():
        ratios = [one / each for one, each in zip(first.rates, found.rates, strict=False) if each]
        by_start = found.costs_by_start()
        figures[name] = {
            "rates": found.rates,
            "offered": found.offered,
            "shares": found.shares,
            "median": measure.median(found.rates),
            "best": max(found.rates, default=0.0),
            "share": measure.median(found.shares),
            "lost_in_ring": found.lost_in_ring,
            "wrong": found.wrong,
            "cpu_per_response": measure.median(by_start),
            "cpu_per_response_by_start": by_start,
            "cpu_spread": measure.spread(by_start),
            "cpu_to_first": measure.median(
                [each / one for one, each in zip(first.costs, found.costs, strict=False) if one and each]
            ),
            "first_to_this": measure.median(ratios),
            "quartiles": _quartiles(ratios),
            "generator_bound": False,
        }  # fmt: skip
    return figures


def _mark_bound(result: dict[str, Any]) -> None:
    for manner, servers in result["manners"].items():
        ceiling = result["ceiling"]
        if manner in TCP_MANNERS:
            ceiling = servers.get(TCP_LIMIT, {}).get("median")
        for name, figures in servers.items():
            if manner not in TCP_MANNERS or name != TCP_LIMIT:
                figures["generator_bound"] = measure.generator_bound(figures["median"], ceiling or None)


def _quartiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values) or [0.0]
    return ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


def to_markdown(result: dict[str, Any]) -> str:
    """The tables for the report."""
    lines = []
    for manner, servers in result["manners"].items():
        if not servers:
            continue
        first = next(iter(servers))
        lines += [
            f"## {manner}", "",
            f"| server | median/s | best/s | answered | µs/response | ± | of {first} | {first} / this | quartiles"
            " | wrong |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]  # fmt: skip
        for name, figures in servers.items():
            low, high = figures["quartiles"]
            lines.append(
                f"| {name} {result['versions'][name]}{' †' if figures['generator_bound'] else ''}"
                f" | {thousands(figures['median'])} | {thousands(figures['best'])} | {figures['share']:.2%}"
                f" | {figures['cpu_per_response'] * 1e6:.2f} | {figures['cpu_spread']:.0%}"
                f" | {figures['cpu_to_first']:.2f} |"
                f" {figures['first_to_this']:.2f} | {low:.2f} … {high:.2f} | {figures['wrong']:,} |"
            )
        lines.append("")
    lines.append(
        f"{result['starts']} starts of all servers, in each {result['rounds']} rounds of {result['turn_seconds']:g} s"
        " per server, all of them running; one worker each,"
        f" server on core {result['cores'][1]}, generator on core {result['cores'][0]}.  Zones: {result['zones']}."
        "  Processor time: of the server's processes or of the kernel thread that answers;"
        " how many times that of the first server in the same round stands beside it."
    )
    lines.append(
        "The median of the starts' medians of processor time per response; ± is (largest − smallest) / median of those."
        f"  *{SHARED}*: each server is offered {SHARE:.0%} of its own median under overload."
    )
    if result["ceiling"]:
        lines.append(
            f"The generator itself, UDP: {thousands(result['ceiling'])}/s ({result['engine']} engine).  TCP:"
            f" what the client gets from {TCP_LIMIT}.  † within 10 % of that: it may be the generator that is"
            " measured."
        )
    lines += [f"* {name} was left out: {reason.splitlines()[0]}" for name, reason in result["left_out"].items()]
    return "\n".join(lines) + "\n"
