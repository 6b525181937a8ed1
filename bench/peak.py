"""`python -m bench peak`: once, twice and three times a peak, while the zone changes and statistics are taken (D40)."""
# Theory of operation
# -------------------
# UDP comes from the kernel engine (or the socket engine), the TCP share over persistent connections from the TCP
# engine beside it.  The kernel engine stands for a network card: a ring of 4,096 where veth has one of 256, bursts
# every 50 µs, and queues enough that TCP does not wait behind UDP.
#
# Two cores hold all of it.  What answers (the kernel's threads and the workers) has one, all else the other: generator,
# clients, the server's other roles and the import.  There the TCP client goes first, since it has little to do and
# stands for many machines, and the import last.
#
# On the first core the kernel's threads go before the worker, as softirqs do: each burst of the card takes the core
# from it, and what TCP waits for is that.  So the report says how often, and how long the worker was ready and had no
# core.  As ordinary processes, which is what threaded NAPI has them be, they share the core with it.  In turns
# (real-time, all of one priority) neither takes the core from the other before that has nothing to do, or, for the
# kernel's threads, a clock tick is over: a third less time in the kernel, for caches stay warm, but what comes while a
# worker is busy waits in the card's ring.  So the worker leaves the core by itself after each turn of its connections
# (rootsrv/server/leaving.py), and no tick ends a turn (SCHED_FIFO).
#
# Real-time threads that have had 95 % of a second are stopped by Linux for the rest of it, where it was built so: 50 ms
# in which a core answers nothing, as soon as it is that busy (docs/install.md).  Here that is switched off meanwhile,
# and the generator's session goes before the server's, whose processes verify and compile beside it: between sessions
# nice does nothing (sched(7), autogroup).
#
# A virtual machine's cores are now in one complex of the host's and now in two, which a step cannot choose
# (distance.py).  It begins when they are near, and one that failed while they were not is tried again; the report has
# all of them.
#
# A third of the way through each minute a successor zone is imported, as an operator would; two thirds through, the
# metrics are scraped where there are any.  Responses may come from either zone: the Responder says beforehand what each
# would answer, and every response sampled must be one or the other.

import contextlib
import dataclasses
import functools
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rdataclass
import dns.rdatatype

from bench import cores, distance, machine, measure, processes, report
from bench.compare import SOURCES, TARGET
from bench.engine_kernel import Card, KernelEngine
from bench.engine_process import EngineFailed, EngineProcess
from bench.engine_socket import SocketEngine
from bench.engine_tcp import TcpEngine
from bench.load import Load
from bench.mix import Mix
from bench.network import CLIENT_INTERFACE, CLIENT_MAC, SERVER_IPV4, SERVER_MAC, Wire
from bench.queries import Query
from bench.report import thousands
from bench.responder import make_responder
from bench.subjects import METRICS_PORT, SUBJECTS, Bench, Running, inside
from bench.zones import Zones, generated
from rootsrv.answer.responder import Transport
from rootsrv.demo import signed

# F-root's daily average over all its sites on 2026-06-15 (RSSAC002): the yardstick of D40.
DEFAULT_PEAK = 269_908.0
TCP_SHARE = 0.0217

PASS_SHARE = 0.9999
PASS_P99_SECONDS = 0.010
KERNEL_FIRST, SHARED, IN_TURNS = "kernel first", "shared", "in turns"
ORDERS = {
    KERNEL_FIRST: "run before the workers (SCHED_FIFO)",
    SHARED: "run as ordinary processes",
    IN_TURNS: "run in turns with the workers (SCHED_RR for a clock tick at most, and SCHED_FIFO, of one priority)",
}
"""Who has the server's core when the kernel's threads and the workers want it, and how a report puts it."""

_SLICE = Path("/proc/sys/kernel/sched_rr_timeslice_ms")
_REAL_TIME_LIMIT = Path("/proc/sys/kernel/sched_rt_runtime_us")
_ATTEMPTS, _NEAR_SHARE = 4, 0.98
_SWITCH_WITHIN_SECONDS = 30.0
_GENERATOR_NICENESS, _IMPORT_NICENESS, _GROUP_NICENESS = -10, 15, -20


@dataclass(frozen=True)
class Options:
    """What is offered."""

    subject: str
    peak: float = DEFAULT_PEAK
    multiples: tuple[float, ...] = (1.0, 2.0, 3.0)
    seconds: float = 60.0
    seed: int = 1
    queries: int = 65536
    generator_cpu: int = 0
    server_cpu: int = 1
    card: Card | None = field(default_factory=Card)
    """None = each query goes when it is due, and what finds veth's ring of 256 full is lost."""

    order: str = KERNEL_FIRST
    """Who has the core when both want it, one of `ORDERS`."""

    tlds: int = signed.REAL_ROOT_TLDS


@dataclass
class Step:
    """One multiple of the peak."""

    multiple: float
    udp: Load
    tcp: Load
    switched: str
    """What became of the zone switchover; empty = it happened."""

    scraped: str
    """What became of the scrape; empty = it happened."""

    cpu_seconds: float
    cores: dict[str, dict[str, float]]
    """Who had how much of each core's time, see bench/cores.py."""

    workers_waited: float
    """Share of the time in which a worker was ready and had no core."""

    workers_preempted: float
    """How often one had to leave it, per second."""

    round_trip_before: float | None = None
    """How far the two cores were apart before, nanoseconds (distance.py); None: not known."""

    round_trips: list[float] = field(default_factory=list)
    """And meanwhile, some times a second."""

    @property
    def were_near(self) -> bool:
        """Whether the two cores had a cache in common for all of the time but some moments, as far as is known."""
        share = distance.near_share(self.round_trips)
        return share is None or share >= _NEAR_SHARE

    @property
    def answered_share(self) -> float:
        """Of everything that was sent."""
        return (self.udp.answered + self.tcp.answered) / max(1, self.udp.sent + self.tcp.sent)

    def failures(self) -> list[str]:
        """Why this step did not pass."""
        found = []
        wanted = (self.udp.asked_rate or 0) + (self.tcp.asked_rate or 0)
        offered = self.udp.offered_rate + self.tcp.offered_rate
        if offered < 0.99 * wanted:
            found.append(f"only {offered:,.0f}/s of {wanted:,.0f}/s were offered: the generator did not keep up")
        if self.answered_share < PASS_SHARE:
            found.append(f"{self.answered_share:.4%} answered, {PASS_SHARE:.2%} needed")
        for what, count in (*self.udp.wrong.items(), *self.tcp.wrong.items()):
            found.append(f"{count:,} responses wrong: {what}")
        for name, load in (("UDP", self.udp), ("TCP", self.tcp)):
            if not load.latency_at(0.99) < PASS_P99_SECONDS:
                found.append(f"{name} p99 {load.latency_at(0.99) * 1e3:.1f} ms, under 10 ms needed")
        if self.switched:
            found.append(f"zone switchover: {self.switched}")
        if self.scraped:
            found.append(f"scrape: {self.scraped}")
        return found


def run(options: Options, progress: Callable[[str, float], None] = lambda step, seconds: None) -> dict[str, Any]:
    """Offer each multiple of the peak in turn; the result as it is written to bench/results."""
    result: dict[str, Any] = {"machine": machine.describe(), "peak": options.peak, "seconds": options.seconds,
                              "server": options.subject, "order": options.order,
                              "card": dataclasses.asdict(options.card) if options.card else None,
                              "steps": [], "remarks": []}  # fmt: skip
    with report.kept(result), contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rs-bench-peak-")))
        zones = generated(directory, options.tlds)
        queries = Mix.read().queries(zones.tlds, options.queries, options.seed)
        udp = [query for query in queries if not query.tcp]
        references = _references(zones, udp)
        wire = stack.enter_context(Wire(tcp_apart=True))
        wire.send_apart_from(options.generator_cpu)
        subject = SUBJECTS[options.subject]
        if options.generator_cpu == options.server_cpu or (machine.describe()["cores"] or 1) < 3:
            result["remarks"].append(
                "generator, TCP clients, scraper and zone compiler share the machine's cores with the server: a real"
                " server has them for itself"
            )
        bench = Bench(wire, zones, directory / "server", options.server_cpu, {})
        bench.workdir.mkdir()
        running = stack.enter_context(subject.start(bench))
        generator = stack.enter_context(_udp_engine(udp, wire, options))
        connections = functools.partial(TcpEngine, queries, TARGET, sources=SOURCES, connections=64, window=8)
        tcp = stack.enter_context(EngineProcess(connections, namespace=wire.client.path, cpu=options.generator_cpu))
        stack.enter_context(_placed(running, generator.process, tcp, options))
        for multiple in options.multiples:

            def take(multiple: float = multiple) -> Step:
                nonlocal zones, references
                zones, before = zones.successor(directory), references
                references = _references(zones, udp)
                if generator.is_kernel:
                    generator.process.call("expect", *_either(before, references))
                return _step(options, multiple, generator.process, tcp, running, bench, zones, progress)

            for step, again in tried(take):
                result["steps"].append(_to_plain(step) | {"again": again})
    result["passed"] = not result["interrupted"] and all(
        not step["failures"] for step in result["steps"] if not step["again"]
    )
    return result


def tried(take: Callable[[], Step]) -> Iterator[tuple[Step, bool]]:
    """What *take* gives until one counts, and whether it does not and is tried again.

    What failed while the cores were apart says less of the server than of the host, but not for ever.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        step = take()
        again = bool(step.failures()) and not step.were_near and attempt < _ATTEMPTS
        yield step, again
        if not again:
            return


@contextlib.contextmanager
def _placed(running: Running, udp: EngineProcess, tcp: EngineProcess, options: Options) -> Iterator[None]:
    """What answers has the server's core for itself; see above who goes first on it, and on the other."""
    workers = []
    for pid in processes.of_session(running.session):
        if cores.is_worker(pid):
            workers.append(pid)
        else:
            for task in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(task), {options.generator_cpu})
    os.setpriority(os.PRIO_PROCESS, udp.pid, _GENERATOR_NICENESS)
    os.sched_setscheduler(tcp.pid, os.SCHED_FIFO, os.sched_param(1))
    with contextlib.ExitStack() as stack:
        session = Path(f"/proc/{udp.pid}/autogroup")
        if session.exists():
            stack.enter_context(_set(session, str(_GROUP_NICENESS)))
        if options.order == SHARED:
            for thread in running.threads:
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        else:
            stack.enter_context(_set(_REAL_TIME_LIMIT, "-1"))
        if options.order == IN_TURNS:
            stack.enter_context(_set(_SLICE, "1"))  # rounded up to a tick of the clock
            # Threads that a worker starts are ordinary: one maps a new table, which takes long.
            for policy, those in (os.SCHED_RR, running.threads), (os.SCHED_FIFO, workers):
                for pid in those:
                    os.sched_setscheduler(pid, policy | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        yield


@contextlib.contextmanager
def _set(setting: Path, value: str) -> Iterator[None]:
    """The kernel's *setting* is *value* meanwhile, and then what it was, also when this process is killed."""
    before = setting.read_text().split()[-1]  # an autogroup has its name before it
    # It waits for the end of its input, which is ours; without bench's mark (guardian.py), it outlives what is ended.
    words = ["sh", "-c", 'cat; printf %s "$1" > "$2"', "sh", before, str(setting)]
    restorer = subprocess.Popen(words, stdin=subprocess.PIPE, env={}, start_new_session=True)
    try:
        setting.write_text(value)
        yield
    finally:
        restorer.communicate()


def _references(zones: Zones, queries: list[Query]) -> list[bytes | None]:
    """What the Responder answers from *zones*."""
    responder = make_responder(zones)
    return [
        responder.respond(query.octets, bytes(4 if query.family == 4 else 16), Transport.UDP, zones.now)
        for query in queries
    ]


def _either(before: list[bytes | None], after: list[bytes | None]) -> tuple[list[tuple[bytes, ...] | None], list[int]]:
    """Both right responses by slot, and their size where it is the same."""
    pairs = [None if a is None or b is None else (a, b) for a, b in zip(before, after, strict=True)]
    return list(pairs), [len(pair[0]) if pair and len(pair[0]) == len(pair[1]) else 0 for pair in pairs]


@dataclass(frozen=True)
class _UdpEngine:
    process: EngineProcess
    is_kernel: bool


@contextlib.contextmanager
def _udp_engine(queries: list[Query], wire: Wire, options: Options) -> Iterator[_UdpEngine]:
    build: Callable[[], Any] = functools.partial(
        KernelEngine, queries, TARGET, interface=CLIENT_INTERFACE, macs=(CLIENT_MAC, SERVER_MAC), sources=SOURCES,
        card=options.card,
    )  # fmt: skip
    try:
        process, is_kernel = EngineProcess(build, namespace=wire.client.path, cpu=options.generator_cpu), True
    except EngineFailed:
        build = functools.partial(SocketEngine, queries, TARGET, sources=SOURCES)
        process, is_kernel = EngineProcess(build, namespace=wire.client.path, cpu=options.generator_cpu), False
    with process:
        yield _UdpEngine(process, is_kernel)


def _step(
    options: Options, multiple: float, udp: EngineProcess, tcp: EngineProcess, running: Running, bench: Bench,
    successor: Zones, progress: Callable[[str, float], None],
) -> Step:  # fmt: skip
    rate = multiple * options.peak
    both = options.generator_cpu, options.server_cpu
    before = distance.await_near(functools.partial(distance.round_trip_ns, *both))
    watched = cores.Cores(
        running, server_cpu=options.server_cpu, generator_cpu=options.generator_cpu,
        clients={"UDP generator": udp.pid, "TCP client": tcp.pid},
    )  # fmt: skip
    workers = [pid for pid in processes.of_session(running.session) if cores.is_worker(pid)]
    held_up = [cores.held_up(pid) for pid in workers]
    used, start = measure.cpu_seconds(running), time.monotonic()
    udp.start(rate * (1 - TCP_SHARE), options.seconds)
    tcp.start(rate * TCP_SHARE, options.seconds)

    def wait_until(share: float) -> None:
        while (passed := time.monotonic() - start) < share * options.seconds:
            progress(f"{multiple:g} × peak", passed)
            time.sleep(0.1)

    with distance.watched(*both) as round_trips:
        wait_until(1 / 3)
        switched = _switch(bench, successor, options.generator_cpu)
        wait_until(2 / 3)
        scraped = _scrape(bench)
        wait_until(1.0)
    used, shares = measure.cpu_seconds(running) - used, watched.shares()
    passed = time.monotonic() - start
    more = [(now[0] - was[0], now[1] - was[1]) for now, was in zip(map(cores.held_up, workers), held_up, strict=True)]
    waited, preempted = sum(each for each, _ in more) / 1e9 / passed, sum(each for _, each in more) / passed
    answered = udp.finish(30), tcp.finish(30)
    return Step(multiple, *answered, switched, scraped, used, shares, waited, preempted, before, round_trips)


def _switch(bench: Bench, successor: Zones, generator_cpu: int) -> str:
    """Import the successor and wait until the service address answers from it; what went wrong."""
    command = ["taskset", "--cpu-list", str(generator_cpu), "nice", "-n", str(_IMPORT_NICENESS), sys.executable]
    command += ["-m", "rootsrv", "zone", "import", str(successor.root), "--now"]
    command += ["--config", str(bench.workdir / "rootsrv.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        return (done.stdout + done.stderr).strip()
    deadline = time.monotonic() + _SWITCH_WITHIN_SECONDS
    wanted = successor.contents.serial
    while time.monotonic() < deadline:
        with inside(bench.wire.client, bench.server_cpu), contextlib.suppress(OSError, dns.exception.DNSException):
            response = dns.query.tcp(dns.message.make_query(".", "SOA"), SERVER_IPV4, timeout=5)
            soa = response.get_rrset(response.answer, dns.name.root, dns.rdataclass.IN, dns.rdatatype.SOA)
            if soa is not None and soa[0].serial == wanted:
                return ""
        time.sleep(0.2)
    return f"serial {wanted} was not served within {_SWITCH_WITHIN_SECONDS:.0f} s"


def _scrape(bench: Bench) -> str:
    """Take the metrics, as Prometheus would; what went wrong."""
    with inside(bench.wire.server, bench.server_cpu):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=10) as response:
                return "" if b"rootsrv_" in response.read() else "no metrics of rootsrv in it"
        except (OSError, urllib.error.URLError) as error:
            return str(error)


def _to_plain(step: Step) -> dict[str, Any]:
    def plain(load: Load) -> dict[str, Any]:
        return {
            "asked_rate": load.asked_rate, "offered_rate": load.offered_rate, "sent": load.sent,
            "answered": load.answered, "lost": load.lost, "ring_drops": load.ring_drops, "wrong": load.wrong,
            "compared": load.compared, "rcodes": load.rcodes, "p50": load.latency_at(0.5), "p99": load.latency_at(0.99),
        }  # fmt: skip

    return {
        "multiple": step.multiple, "udp": plain(step.udp), "tcp": plain(step.tcp),
        "answered_share": step.answered_share, "cpu_seconds": step.cpu_seconds, "cores": step.cores,
        "workers_waited": step.workers_waited, "workers_preempted": step.workers_preempted,
        "round_trip_before": step.round_trip_before, "round_trips": step.round_trips, "failures": step.failures(),
    }  # fmt: skip


def to_markdown(result: dict[str, Any]) -> str:
    """The report."""
    lines = [f"* peak {result['peak']:,.0f} queries/s, {result['seconds']:g} s each, {TCP_SHARE:.2%} of it TCP over"
              f" persistent connections; server: {result['server']}"]  # fmt: skip
    if (card := result.get("card")) is not None:
        lines.append(f"* network card: bursts every {card['gather_seconds'] * 1e6:g} µs, a ring of {card['ring']:,}")
    lines.append(f"* the kernel's threads that answer {ORDERS[result.get('order', KERNEL_FIRST)]}")
    lines += [f"* {remark}" for remark in result["remarks"]]
    lines += ["", f"**{'passed' if result['passed'] else 'not passed'}**", "",
              "| × peak | offered/s | answered | lost | of those in the ring | wrong | compared whole | UDP p99 ms |"
              " TCP p99 ms | server CPU s |", "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for step in result["steps"]:
        udp, tcp = step["udp"], step["tcp"]
        lines.append(
            f"| {step['multiple']:g} | {thousands(udp['offered_rate'] + tcp['offered_rate'])} |"
            f" {step['answered_share']:.4%} | {udp['lost'] + tcp['lost']:,} | {udp['ring_drops']:,} |"
            f" {sum(udp['wrong'].values()) + sum(tcp['wrong'].values())} | {udp['compared']:,} |"
            f" {(udp['p99'] or 0) * 1e3:.2f} | {(tcp['p99'] or 0) * 1e3:.2f} | {step['cpu_seconds']:.1f} |"
        )
    lines.append("")
    for step in result["steps"]:
        held_up = (f"workers: ready and without a core {step['workers_waited']:.0%} of the time, had to leave it"
                   f" {step['workers_preempted']:,.0f} times a second")  # fmt: skip
        apart = distance.to_text(step["round_trip_before"], step["round_trips"])
        said = [*step["failures"], *cores.to_text(step["cores"]), held_up, apart]
        if step["again"]:
            said.append("the cores were apart: tried again")
        lines += [f"* {step['multiple']:g} ×: {line}" for line in said]
    return "\n".join(lines) + "\n"
