"""`python -m bench compare`: every server in turn on the same wire, with the same zone and queries, in the same run."""
# Theory of operation
# -------------------
# Two namespaces, one veth pair.  The generator has a core and so has the server: a server with sockets runs on the
# server core while its packets are received by softirqs on the generator's core (as a network card's interrupts would
# be elsewhere); a responder in the kernel runs in a kernel thread on the server core (threaded NAPI).  The responses
# are taken by the sink on whatever core sent them, so the sink's cost is every server's alike.
#
# Servers are measured one after the other, and the whole row is repeated: what changes slowly on the machine (heat,
# neighbours) meets all of them.  Medians are reported, with their spread, and the speed of a plain loop beside them.

import contextlib
import functools
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench import further, machine, measure, network, report
from bench.bpf_object import compiled
from bench.engine_kernel import KernelEngine
from bench.engine_process import EngineFailed, EngineProcess
from bench.engine_socket import SocketEngine
from bench.load import Target
from bench.mix import Mix
from bench.network import CLIENT_INTERFACE, CLIENT_MAC, SERVER_INTERFACE, SERVER_IPV4, SERVER_IPV6, SERVER_MAC, Wire
from bench.queries import Query, same_response
from bench.responder import make_responder
from bench.subjects import FAILURES, LOOKUP, LOOKUP_TC, SUBJECTS, Bench, Running, Subject, inside
from bench.zones import Zones
from rootsrv.answer.responder import Transport
from rootsrv.fastpath import libbpf

TARGET = Target(SERVER_IPV4, SERVER_IPV6)
SOURCES = (network.SOURCE_PREFIX_IPV4, network.SOURCE_PREFIX_IPV6)


@dataclass(frozen=True)
class Options:
    """What is compared and how long."""

    subjects: tuple[str, ...] = tuple(SUBJECTS)
    repeats: int = 3
    step_seconds: float = 1.0
    queries: int = 65536
    seed: int = 1
    engine: Literal["kernel", "socket"] = "kernel"
    generator_cpu: int = 0
    server_cpu: int = 1
    programs: Mapping[str, str] = field(default_factory=dict)
    further: bool = False
    """TCP, the nxdomain flood and the worst queries besides."""

    mix: Mix | None = None
    own_queries: tuple[Query, ...] = ()


_STEADY = 0.15
"""How far apart a plain loop's speed before and after a measurement may be for it to count."""

# Measured on two cores at 2.5 GHz, with 65,536 queries: what comes besides the steps.
_START_SECONDS, _STEP_MORE_SECONDS, _FURTHER_SECONDS, _FURTHER_STEPS = 4.0, 0.05, 30.0, 30


def expected_seconds(options: Options) -> float:
    """How long `run` takes, roughly."""
    step = options.step_seconds + _STEP_MORE_SECONDS
    one = _START_SECONDS + measure.STEPS * step
    further_ones = sum(SUBJECTS[name].kind != "limit" for name in options.subjects) if options.further else 0
    return options.repeats * len(options.subjects) * one + further_ones * (_FURTHER_SECONDS + _FURTHER_STEPS * step)


class Comparison:
    """The wire and the generators, for as long as servers are measured on it."""

    def __init__(self, zones: Zones, options: Options, stack: contextlib.ExitStack) -> None:
        self.zones, self.options = zones, options
        drawn = list(options.own_queries) or (options.mix or Mix.read()).queries(
            zones.tlds, options.queries, options.seed
        )
        self.queries = [query for query in drawn if not query.tcp]
        self.wire = stack.enter_context(Wire())
        self._responder = make_responder(zones)
        self.sockets = stack.enter_context(
            self._process(functools.partial(SocketEngine, self.queries, TARGET, sources=SOURCES))
        )
        self.kernel: EngineProcess | None = None
        self.remarks: list[str] = []
        if options.engine == "kernel":
            try:
                self.kernel = stack.enter_context(
                    self._process(
                        functools.partial(
                            KernelEngine,
                            self.queries,
                            TARGET,
                            interface=CLIENT_INTERFACE,
                            macs=(CLIENT_MAC, SERVER_MAC),
                            sources=SOURCES,
                        )
                    )
                )
            except EngineFailed as error:
                self.remarks.append(f"kernel engine left out, the socket engine is used instead: {error}")

    def _process(self, build: Callable[[], Any]) -> EngineProcess:
        return EngineProcess(build, namespace=self.wire.client.path, cpu=self.options.generator_cpu)

    @property
    def generator(self) -> EngineProcess:
        """The engine that loads."""
        return self.kernel or self.sockets

    def ceiling(self) -> float | None:
        """What the generator itself can do, per second; None = not to be known.

        The kernel engine sends to an interface that throws everything away; the socket engine, which waits for
        responses, asks the reflector that looks at nothing.
        """
        if self.kernel is None:
            try:
                with self.serving(SUBJECTS["blind sockets"], self.mean_reply_octets()):
                    return self.sockets.run(None, self.options.step_seconds).answer_rate
            except FAILURES as error:
                self.remarks.append(f"the generator's own ceiling is not known: {error}")
                return None
        with libbpf.BpfObject.open(compiled("load"), "load") as programs:
            programs.load(only="discard")
            with inside(self.wire.server, self.options.server_cpu):
                ifindex = socket.if_nametoindex(SERVER_INTERFACE)
                link = libbpf.link(programs.program("discard"), ifindex, libbpf.ATTACH_XDP, libbpf.XDP_DRIVER_MODE)
            try:
                return self.kernel.run(None, self.options.step_seconds).offered_rate
            finally:
                os.close(link)

    @contextlib.contextmanager
    def serving(self, subject: Subject, reply_octets: int) -> Iterator[Running]:
        """*subject*, started afresh."""
        with tempfile.TemporaryDirectory(prefix="rs-bench-") as workdir:
            options = self.options
            bench = Bench(
                self.wire, self.zones, Path(workdir), options.server_cpu, options.programs, reply_octets=reply_octets
            )
            with subject.start(bench) as running:
                yield running

    @contextlib.contextmanager
    def sending(self, queries: Sequence[Query]) -> Iterator[EngineProcess]:
        """The engine that loads, with *queries* in the place of the comparison's own."""
        if self.kernel is None:
            with self._process(functools.partial(SocketEngine, queries, TARGET, sources=SOURCES)) as engine:
                yield engine
            return
        self.kernel.call("use", list(queries))
        try:
            yield self.kernel
        finally:
            self.kernel.call("use", self.queries)

    def teach(self, subject: Subject) -> dict[str, int]:
        """Ask every query once and expect what came from now on; how many were wrong already, by what."""
        if subject.kind == "limit":
            return {}  # what looks at nothing answers nothing
        references: list[bytes | None] = self.sockets.call("reference", within=120)
        wrong: dict[str, int] = {}
        missing = sum(reference is None for reference in references)
        if missing:
            wrong["no answer"] = missing
        if subject.kind == "rootsrv":
            different = sum(
                reference is not None and not self._is_ours(query, reference)
                for query, reference in zip(self.queries, references, strict=True)
            )
            if different:
                wrong["not what the Responder says"] = different
        if self.kernel is not None:
            self.kernel.call("expect", references, self._stable_sizes(references))
        return wrong

    def _stable_sizes(self, references: Sequence[bytes | None]) -> list[int]:
        """Sizes of responses that have the same size when asked again (records in random order compress otherwise)."""
        again: list[bytes | None] = self.sockets.call("reference", within=120)
        return [
            len(first) if first and second and len(first) == len(second) else 0
            for first, second in zip(references, again, strict=True)
        ]

    def _is_ours(self, query: Query, reference: bytes) -> bool:
        # Server cookies differ by secret and time; everything else is the same octets.
        source = bytes(4 if query.family == 4 else 16)
        ours = self._responder.respond(query.octets, source, Transport.UDP, self.zones.now)
        return ours is not None and len(ours) == len(reference) and same_response(query, ours, reference)

    def mean_reply_octets(self) -> int:
        """Of the Responder's answers to the queries."""
        sizes = [
            len(self._responder.respond(query.octets, bytes(4), Transport.UDP, self.zones.now) or b"")
            for query in self.queries[:4096]
        ]
        return round(sum(sizes) / len(sizes))


def run(zones: Zones, options: Options, step_done: Callable[[str], None] = lambda subject: None) -> dict[str, Any]:
    """Measure all subjects; the result as it is written to bench/results.

    KeyboardInterrupt ends it early: `interrupted` is set and what was measured to its end stays.
    """
    result: dict[str, Any] = {
        "machine": machine.describe(),
        "zones": zones.origin,
        "options": {"repeats": options.repeats, "step_seconds": options.step_seconds, "seed": options.seed,
                    "queries": options.queries, "cores": [options.generator_cpu, options.server_cpu]},
        "engine": options.engine, "ceiling": None, "mean_reply_octets": 0, "remarks": [],
        "subjects": {},
        "left_out": {},
    }  # fmt: skip
    speeds: list[float] = []
    with report.kept(result):
        _measure_all(zones, options, result, speeds, step_done)
    for entry in result["subjects"].values():
        entry["median"], entry["spread"] = _summary(entry["runs"])
    result["machine_speed"] = {"median": measure.median(speeds), "spread": measure.spread(speeds)}
    _add_ratios(result)
    return result


def _measure_all(
    zones: Zones, options: Options, result: dict[str, Any], speeds: list[float], step_done: Callable[[str], None]
) -> None:
    with contextlib.ExitStack() as stack:
        comparison = Comparison(zones, options, stack)
        result["engine"] = "kernel" if comparison.kernel else "socket"
        result["remarks"] = comparison.remarks
        result["ceiling"] = ceiling = comparison.ceiling()
        reply_octets = comparison.mean_reply_octets()
        result["mean_reply_octets"] = reply_octets
        for _ in range(options.repeats):
            for name in options.subjects:
                if name in result["left_out"]:
                    continue
                subject = SUBJECTS[name]
                before = machine.additions_per_second(options.server_cpu)
                try:
                    figures = _measure_one(comparison, subject, reply_octets, ceiling, step_done)
                except FAILURES as error:
                    result["left_out"][name] = str(error) or type(error).__name__
                    continue
                entry = result["subjects"].setdefault(
                    name, {"kind": subject.kind, "remark": subject.remark, "in_kernel": subject.in_kernel, "runs": []}
                )
                after = machine.additions_per_second(options.server_cpu)
                speeds += [before, after]
                entry["version"] = figures.version
                entry["runs"].append(asdict(figures) | {"steady": abs(after / before - 1) < _STEADY})
        if options.further:
            rows = further.Rows()
            try:
                further.measure_all(
                    comparison,
                    [name for name in options.subjects if name not in result["left_out"]],
                    reply_octets,
                    rows,
                )
            finally:
                result["further"] = further.tables(rows)


def _measure_one(
    comparison: Comparison, subject: Subject, reply_octets: int, ceiling: float | None, step_done: Callable[[str], None]
) -> measure.Figures:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        step_done(subject.name)

    with comparison.serving(subject, reply_octets) as running:
        wrong_before = comparison.teach(subject)
        before = network.interface_counters(comparison.wire.server, SERVER_INTERFACE)
        figures = measure.measure(
            running,
            comparison.generator,
            overload=subject.overload,
            ceiling=ceiling,
            step_seconds=comparison.options.step_seconds,
            step_done=step,
        )
        after = network.interface_counters(comparison.wire.server, SERVER_INTERFACE)
    while done < measure.STEPS:
        step()
    if subject.kind == "limit":
        figures.wrong = {}  # it answers nothing, so nothing can be right
    for what, count in wrong_before.items():
        figures.wrong[what] = figures.wrong.get(what, 0) + count
    arrived = sum(after.get(name, 0) - before.get(name, 0) for name in ("rx_packets", "rx_dropped"))
    figures.interface_received = arrived
    return figures


_SUMMED_UP = (
    "answered_rate", "peak_rate", "cpu_per_reply", "cpu_per_reply_at_peak", "memory_octets", "worker_octets",
    "latency_p50",
    "latency_p99",
)  # fmt: skip


def _summary(runs: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    # A walk during which the machine became faster or slower says nothing, unless there is no other.
    steady = [run for run in runs if run["steady"]] or runs
    columns = {name: [float(run[name]) for run in steady] for name in _SUMMED_UP}
    return (
        {name: measure.median(values) for name, values in columns.items()},
        {name: measure.spread(values) for name, values in columns.items()},
    )


def _add_ratios(result: dict[str, Any]) -> None:
    """Each server's rates in terms of the best peer's, of the limit's and, in the kernel, of the bare look-up's."""
    subjects = result["subjects"]

    def best(figure: str, kind: str, in_kernel: bool | None = None) -> float:
        rates = [
            entry["median"][figure]
            for entry in subjects.values()
            if entry["kind"] == kind and in_kernel in (None, entry["in_kernel"])
        ]
        return max(rates, default=0.0)

    for name, entry in subjects.items():
        entry["ratios"] = {}
        lookup = LOOKUP_TC if name.endswith(" tc") else LOOKUP
        for figure in ("answered_rate", "peak_rate"):
            for label, reference in (
                ("best peer", best(figure, "peer")),
                ("limit", best(figure, "limit", entry["in_kernel"])),
                ("look-up", subjects[lookup]["median"][figure] if lookup in subjects and entry["in_kernel"] else 0.0),
            ):
                if reference:
                    entry["ratios"][f"{figure} / {label}"] = entry["median"][figure] / reference
