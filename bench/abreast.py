"""`python -m bench abreast`: servers that all run at once and are loaded in turns of a fraction of a second.

Where the machine itself becomes faster and slower within a minute (a virtual machine with neighbours), rates that were
measured minutes apart cannot be compared.  Here every server has a wire and a generator of its own and all wait
together; only one is loaded at a time, each for a moment, over and over.  What is reported is the median over the
rounds of the ratio to the first server in the same round: what changes more slowly than a round meets all of them.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from bench import machine, measure
from bench.compare import SOURCES, TARGET, Comparison, Options
from bench.engine_process import EngineFailed, EngineProcess
from bench.engine_tcp import TcpEngine
from bench.further import TCP_MANNERS
from bench.network import NetworkUnavailable
from bench.report import thousands
from bench.subjects import SUBJECTS, Running, SubjectUnavailable
from bench.zones import Zones
from tests.peers import PeerFailed

UDP = "UDP, overload"
_OVERLOAD = 300_000  # queries per second for a server with sockets: more than any takes, and little in vain


@dataclass
class _Lane:
    """One server with its wire and generators."""

    name: str
    running: Running
    comparison: Comparison
    tcp: dict[str, EngineProcess]

    def load(self, manner: str, seconds: float) -> float:
        """Responses per second."""
        if manner != UDP:
            return self.tcp[manner].run(None, seconds).answer_rate
        overload = None if SUBJECTS[self.name].in_kernel else _OVERLOAD
        return self.comparison.generator.run(overload, seconds).answer_rate


def run(
    zones: Zones,
    options: Options,
    *,
    rounds: int,
    turn_seconds: float = 0.4,
    tcp: bool = True,
    step_done: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Load `options.subjects` in turns; rates, ratios to the first and processor time per response, by manner."""
    result: dict[str, Any] = {
        "machine": machine.describe(), "zones": zones.origin, "rounds": rounds, "turn_seconds": turn_seconds,
        "cores": [options.generator_cpu, options.server_cpu], "left_out": {}, "manners": {},
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        lanes: list[_Lane] = []
        for name in options.subjects:
            try:
                lanes.append(stack.enter_context(_lane(zones, options, name, tcp=tcp)))
            except (SubjectUnavailable, PeerFailed, EngineFailed, NetworkUnavailable, OSError) as error:
                result["left_out"][name] = str(error)
            step_done(name)
        for manner in (UDP, *(TCP_MANNERS if tcp else ())):
            result["manners"][manner] = _rounds(
                [lane for lane in lanes if manner == UDP or manner in lane.tcp], manner, rounds, turn_seconds, step_done
            )
        result["versions"] = {lane.name: lane.running.version for lane in lanes}
    return result


@contextlib.contextmanager
def _lane(zones: Zones, options: Options, name: str, *, tcp: bool) -> Iterator[_Lane]:
    subject = SUBJECTS[name]
    with contextlib.ExitStack() as stack:
        comparison = Comparison(zones, replace(options, subjects=(name,)), stack)
        running = stack.enter_context(comparison.serving(subject, comparison.mean_reply_octets()))
        engines: dict[str, EngineProcess] = {}
        if tcp and not subject.in_kernel and subject.kind != "limit":
            for manner, settings in TCP_MANNERS.items():
                build = functools.partial(TcpEngine, comparison.queries, TARGET, sources=SOURCES, **settings)
                engines[manner] = stack.enter_context(
                    EngineProcess(build, namespace=comparison.wire.client.path, cpu=options.generator_cpu)
                )
        yield _Lane(name, running, comparison, engines)


def _rounds(
    lanes: list[_Lane], manner: str, rounds: int, seconds: float, step_done: Callable[[str], None]
) -> dict[str, Any]:
    rates: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    costs: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    for number in range(rounds + 1):
        for lane in lanes:
            used = measure.cpu_seconds(lane.running)
            rate = lane.load(manner, seconds)
            if number:  # the first round is the warm-up
                rates[lane.name].append(rate)
                costs[lane.name].append((measure.cpu_seconds(lane.running) - used) / max(1.0, rate * seconds))
            step_done(f"{lane.name}, {manner}")
    first = rates[lanes[0].name] if lanes else []
    return {
        name: {
            "rates": values,
            "median": measure.median(values),
            "best": max(values, default=0.0),
            "cpu_per_response": measure.median(costs[name]),
            "first_to_this": measure.median([one / each for one, each in zip(first, values, strict=True) if each]),
            "quartiles": _quartiles([one / each for one, each in zip(first, values, strict=True) if each]),
        }
        for name, values in rates.items()
    }


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
            f"| server | median/s | best/s | µs/response | {first} / this | quartiles |", "|---|--:|--:|--:|--:|--:|",
        ]  # fmt: skip
        for name, figures in servers.items():
            low, high = figures["quartiles"]
            lines.append(
                f"| {name} {result['versions'][name]} | {thousands(figures['median'])} | {thousands(figures['best'])}"
                f" | {figures['cpu_per_response'] * 1e6:.2f} | {figures['first_to_this']:.2f}"
                f" | {low:.2f} … {high:.2f} |"
            )
        lines.append("")
    lines.append(
        f"{result['rounds']} rounds of {result['turn_seconds']:g} s per server, all servers running; one worker each,"
        f" server on core {result['cores'][1]}, generator on core {result['cores'][0]}.  Zones: {result['zones']}."
        "  Processor time: of the server's processes.  TCP: the client is Python, too."
    )
    lines += [f"* {name} was left out: {reason.splitlines()[0]}" for name, reason in result["left_out"].items()]
    return "\n".join(lines) + "\n"
