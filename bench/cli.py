"""The commands of `python -m bench`."""
# Over 500 lines: every benchmark has its command and its options here, one after the other.

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import (
    abreast,
    cdns,
    compare,
    dot,
    fleet,
    flood,
    hyperlocal,
    limits,
    localroot,
    measure,
    notify,
    offer,
    parts,
    peak,
    report,
    responder,
    startup,
    transfers,
    zones,
)
from bench.arguments import decimal, natural, number, positive, whole
from bench.bpf_object import CompilerMissing
from bench.engine_kernel import MAX_RING, Card, KernelEngineUnavailable
from bench.mix import Mix, MixUnusable
from bench.network import NetworkUnavailable
from bench.peers import PeerFailed
from bench.peers.daemon import ToolMissing, tool
from bench.queries import QueriesUnusable, Query, read_names, read_pcap
from bench.subjects import SUBJECTS, SubjectUnavailable
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import AnswerTable
from rootsrv.demo import generate, signed
from rootsrv.fastpath.libbpf import BpfUnavailable
from rootsrv.wire import digits
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.verify import verify, verify_hosts

_console = Console(stderr=True)
_QUERIES = 65_536
_MAX_GATHER_MICROSECONDS = 10_000
_INTERRUPTED = 130  # as a shell reports SIGINT
_ENDINGS = (signal.SIGTERM, signal.SIGINT)
_UNAVAILABLE = (
    NetworkUnavailable, KernelEngineUnavailable, CompilerMissing, BpfUnavailable, PeerFailed, SubjectUnavailable,
    ToolMissing,
)  # fmt: skip
_MAX_TLDS = 10_000  # with 18 records each; no zone has more than 250,000 (rootsrv/zone/builder.py)


class _Refused(Exception):
    """What was asked for is not done; the text says why."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: done (and passed); 1: measured, but not passed or not measurable; 2: the command is wrong."""
    parsed = _parser().parse_args(arguments)
    before = {number: signal.signal(number, _end) for number in _ENDINGS}
    try:
        if hasattr(parsed, "results"):
            _check_results(parsed)
        status: int = parsed.command(parsed)
    except (_Refused, offer.NotOurs, offer.CannotLoad, MixUnusable, QueriesUnusable, zones.ZonesUnusable) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except (*_UNAVAILABLE, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything it made is gone", file=sys.stderr)
        return _INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status


def _end(number: int, frame: FrameType | None) -> None:
    # Once: what cleans up is not to be interrupted again (SIGKILL ends everything at once, see bench/network.py).
    for each in _ENDINGS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description="Load, and what servers make of it.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    loading = commands.add_parser("load", help="offer load to one server")
    loading.add_argument("--target", action="append", required=True, metavar="ADDRESS", help="once per family")
    loading.add_argument("--port", type=natural, default=53)
    loading.add_argument("--rate", type=decimal, help="queries per second; default: as many as get answers")
    loading.add_argument("--seconds", type=decimal, default=10.0)
    loading.add_argument("--packets", type=natural, default=0, help="send so many at most")
    loading.add_argument("--engine", choices=("socket", "kernel", "tcp", "tcp-once"), default="socket")
    loading.add_argument("--connections", type=positive, default=32, help="of the tcp engines")
    loading.add_argument("--window", type=positive, default=1, help="queries outstanding per connection")
    loading.add_argument("--interface", help="where the kernel engine sends and receives")
    loading.add_argument("--source-prefix", action="append", default=[], help="of the kernel engine, once per family")
    loading.add_argument("--i-own-this-target", action="store_true", help="needed for anything but loopback")
    loading.add_argument("--json", action="store_true", help="print the result as JSON")
    loading.add_argument("--zone", type=Path, metavar="FILE", help="root zone whose TLDs to ask; default: the demo's")
    _add_queries(loading)
    loading.set_defaults(command=_load)

    flooding = commands.add_parser("flood", help="on loopback: connections that ask nothing, and clients that do, late")
    flooding.add_argument("--port", type=natural, required=True, help="where 127.0.0.1 answers")
    flooding.add_argument("--rate", type=decimal, default=flood.Flood.rate, help="connections per second")
    flooding.add_argument("--prefixes", type=natural, default=flood.Flood.prefixes, help="/24 that they come from")
    flooding.add_argument("--addresses", type=natural, default=flood.Flood.addresses, help="of all prefixes together")
    flooding.add_argument("--seconds", type=decimal, default=flood.Flood.seconds)
    flooding.add_argument("--clients", type=natural, default=flood.Flood.clients)
    flooding.add_argument("--manner", choices=flood.MANNERS, default=flood.Flood.manner, help="what each of them does")
    flooding.add_argument(
        "--farm", type=natural, default=flood.Flood.farm, help="connections of one /24 that ask all the time"
    )
    flooding.add_argument(
        "--both-families",
        action="store_true",
        help=f"every other one over IPv6, from {flood.LOCAL_IPV6}, which must be local",
    )  # fmt: skip
    flooding.set_defaults(command=_flood)

    limiting = commands.add_parser("limits", help="what rate limits cost, and how many innocents they hit")
    limiting.add_argument("--seconds", type=number(0.01, 600), default=0.5, help="for each figure of the worker")
    limiting.set_defaults(command=_limits)

    encrypting = commands.add_parser("dot", help="DNS over TLS: processor time by engine, beside NSD")
    encrypting.add_argument("--rounds", type=positive, default=3)
    encrypting.add_argument("--handshakes", type=positive, default=300, help="of each server in a round")
    encrypting.add_argument("--queries", type=positive, default=16_000, help="likewise, in either other manner")
    encrypting.add_argument("--knot", metavar="PATH", help="the knotd to measure, 3.4 or newer")
    encrypting.set_defaults(command=_dot)

    comparing = commands.add_parser("compare", help="every server in turn on the same wire")
    comparing.add_argument("--servers", default=",".join(SUBJECTS), help=f"of: {', '.join(SUBJECTS)}")
    comparing.add_argument("--repeats", type=positive, default=3)
    comparing.add_argument("--step-seconds", type=number(0.05, 60), default=0.6)
    comparing.add_argument("--further", action="store_true", help="also TCP, the nxdomain flood, the worst queries")
    comparing.add_argument("--engine", choices=("kernel", "socket"), default="kernel")
    comparing.add_argument("--cores", default="0,1", help="generator's and server's core")
    for name in ("nsd", "knot", "bind", "powerdns"):
        comparing.add_argument(f"--{name}", metavar="PATH", help=f"the {name} program to measure")
    _add_queries(comparing)
    _add_zones(comparing)
    _add_results(comparing)
    comparing.set_defaults(command=_compare)

    turns = commands.add_parser("abreast", help="servers that run at once, loaded in short turns: their ratios")
    turns.add_argument(
        "--servers", default="rootsrv,NSD,Knot", help=f"the first is compared with: {', '.join(SUBJECTS)}"
    )
    turns.add_argument("--rounds", type=positive, default=8, help="of each start")
    turns.add_argument("--starts", type=positive, default=3, help="of all servers, loading their tables anew")
    turns.add_argument("--turn-seconds", type=number(0.05, 60), default=0.4)
    only = turns.add_mutually_exclusive_group()
    only.add_argument("--no-tcp", action="store_true", help="UDP only")
    only.add_argument("--tcp-only", action="store_true", help="TCP in its three manners only")
    turns.add_argument("--cores", default="0,1", help="generator's and server's core")
    for name in ("nsd", "knot", "bind", "powerdns"):
        turns.add_argument(f"--{name}", metavar="PATH", help=f"the {name} program to measure")
    _add_queries(turns)
    _add_zones(turns)
    _add_results(turns)
    turns.set_defaults(command=_abreast)

    peaking = commands.add_parser("peak", help="1, 2 and 3 times a peak while the zone changes (D40)")
    peaking.add_argument(
        "--server", choices=[n for n, s in SUBJECTS.items() if s.kind == "rootsrv"], default="rootsrv XDP"
    )
    peaking.add_argument("--peak", type=decimal, default=peak.DEFAULT_PEAK, help="queries per second")
    peaking.add_argument("--multiples", default="1,2,3")
    peaking.add_argument("--seconds", type=decimal, default=60.0, help="of each multiple")
    peaking.add_argument(
        "--ring", type=natural, default=Card.ring, help="places of the network card's ring; 0: veth's 256"
    )
    peaking.add_argument(
        "--gather", type=decimal, default=Card.gather_seconds * 1e6, metavar="MICROSECONDS",
        help="between two bursts of the network card (ethtool -C rx-usecs)",
    )  # fmt: skip
    order = peaking.add_mutually_exclusive_group()
    for option, name in ("--share", peak.SHARED), ("--in-turns", peak.IN_TURNS):
        order.add_argument(
            option, action="store_const", dest="order", const=name, default=peak.KERNEL_FIRST,
            help=f"the kernel's threads do not go before the workers: they {peak.ORDERS[name]}",
        )  # fmt: skip
    peaking.add_argument("--cores", default="0,1", help="what answers has the second for itself")
    peaking.add_argument("--tlds", type=_tlds, default=signed.REAL_ROOT_TLDS, help="of the generated zone")
    _add_results(peaking)
    peaking.set_defaults(command=_peak)

    starting = commands.add_parser("startup", help="from zone file and from table file to answers")
    starting.add_argument("--repeats", type=positive, default=5)
    _add_zones(starting)
    _add_results(starting)
    starting.set_defaults(command=_startup)

    beside = commands.add_parser("hyperlocal", help="start and memory of `rootsrv hyperlocal`")
    beside.add_argument("--repeats", type=positive, default=3)
    _add_zones(beside)
    _add_results(beside)
    beside.set_defaults(command=_hyperlocal)

    distributing = commands.add_parser("localroot", help="a new root to thousands of subscribers")
    distributing.add_argument("--subscribers", type=natural, default=10_000, help="of rootsrv alone; 0 = none")
    distributing.add_argument("--beside", type=natural, default=500, help="of rootsrv, NSD and Knot each; 0 = none")
    distributing.add_argument(
        "--mbit", type=number(0, 100_000), default=0.0, help="what NOTIFYs are paced to; 0 = not at all"
    )
    distributing.add_argument("--tlds", type=_tlds, default=1440, help="of the generated zone")
    _add_results(distributing)
    distributing.set_defaults(command=_localroot)

    notifying = commands.add_parser("notify", help="from NOTIFY until the new zone is answered")
    notifying.add_argument("--repeats", type=positive, default=5)
    notifying.add_argument("--tlds", type=_tlds, default=1440, help="of the generated zone")
    _add_results(notifying)
    notifying.set_defaults(command=_notify)

    transferring = commands.add_parser("transfers", help="processor time per AXFR, beside NSD and Knot as primaries")
    transferring.add_argument("--rounds", type=positive, default=transfers.ROUNDS)
    transferring.add_argument("--in-a-turn", type=positive, default=transfers.IN_A_TURN, help="transfers in a turn")
    _add_zones(transferring)
    _add_results(transferring)
    transferring.set_defaults(command=_transfers)

    meshing = commands.add_parser("fleet", help="a mesh of simulated members on real etcd, and their transfers at once")
    meshing.add_argument("--members", type=positive, default=fleet.MEMBERS)
    meshing.add_argument("--seconds", type=number(0.1, 3600), default=fleet.SECONDS)
    meshing.add_argument(
        "--every", type=number(0.01, 3600), default=fleet.EVERY_SECONDS, help="seconds between a member's statuses"
    )
    meshing.add_argument("--transfers", type=positive, default=fleet.MEMBERS, help="that are asked for at once")
    _add_zones(meshing)
    _add_results(meshing)
    meshing.set_defaults(command=_fleet)

    taking_apart = commands.add_parser(
        "parts", help="what each part of the kernel fast path costs, and its worst queries"
    )
    taking_apart.add_argument("--rounds", type=positive, default=parts.ROUNDS)
    taking_apart.add_argument("--loads", type=positive, default=parts.LOADS, help="of the program")
    _add_zones(taking_apart)
    _add_results(taking_apart)
    taking_apart.set_defaults(command=_parts)

    for name, module, text, title in (
        ("cdns", cdns, "what a query costs as C-DNS", "What a query costs as C-DNS"),
        ("responder", responder, "what one response costs, without a network", "What a response costs"),
    ):
        alone = commands.add_parser(name, help=text)
        alone.add_argument("--repeats", type=positive, default=module.REPEATS, help="rounds")
        _add_zones(alone)
        _add_results(alone)
        alone.set_defaults(command=_costs, measured=(name, module, title))
    return top


_tlds = whole(generate.MIN_TLDS, _MAX_TLDS)


def _check_results(arguments: argparse.Namespace) -> None:
    """Refuse at once what could not be written when all is measured."""
    if arguments.name is not None and ("/" in arguments.name or arguments.name in ("", ".", "..")):
        raise _Refused(f"--name: a file's name without a directory, got {arguments.name!r}")
    try:
        arguments.results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _Refused(f"--results: {arguments.results}: {error.strerror}") from error


def _add_queries(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mix", default="root", help='"root" or a mix file (see bench/mixes/root.toml)')
    parser.add_argument("--seed", type=natural, default=1)
    parser.add_argument("--count", type=positive, default=_QUERIES, help="different queries (at most 65536)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--queries", type=Path, metavar="FILE", help="lines of `name type`, as dnsperf reads them")
    source.add_argument("--pcap", type=Path, metavar="FILE", help="the UDP queries in a capture")


def _add_zones(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--zone", type=Path, metavar="FILE", help="root zone to serve; default: a generated one")
    parser.add_argument("--tlds", type=_tlds, default=1440, help="of the generated zone")
    parser.add_argument("--signed-twice", action="store_true", help="it has two signatures of each kind: a roll")
    parser.add_argument("--hosts", type=Path, metavar="FILE", help="zone of root-servers.net (with --zone)")
    parser.add_argument("--anchors", type=Path, metavar="FILE", help="trust anchors (with --zone)")
    parser.add_argument("--clock", metavar="INSTANT", help="when the zone verifies, such as 2025-09-20T12:00:00Z")


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=report.RESULTS, metavar="DIRECTORY")
    parser.add_argument("--name", help="stem of the result files; default: the command")


def _cores(arguments: argparse.Namespace) -> tuple[int, int]:
    try:
        generator_cpu, server_cpu = (digits.whole(core) for core in arguments.cores.split(","))
    except ValueError:
        raise _Refused(f"--cores: expected two core numbers such as 0,1; got {arguments.cores!r}") from None
    available = os.sched_getaffinity(0)
    for core in (generator_cpu, server_cpu):
        if core not in available:
            raise _Refused(
                f"--cores: there is no core {core} here (there are {', '.join(map(str, sorted(available)))})"
            )
    return generator_cpu, server_cpu


def _mix(arguments: argparse.Namespace) -> Mix:
    return Mix.read() if arguments.mix == "root" else Mix.read(Path(arguments.mix))


def _own_queries(arguments: argparse.Namespace) -> tuple[Query, ...]:
    if arguments.queries:
        return tuple(read_names(arguments.queries))
    return tuple(read_pcap(arguments.pcap)) if arguments.pcap else ()


@contextlib.contextmanager
def _zones(arguments: argparse.Namespace) -> Iterator[zones.Zones]:
    with tempfile.TemporaryDirectory(prefix="rs-bench-zones-") as directory:
        if arguments.zone is None:
            with _console.status("generating and signing a root zone"):
                made = zones.generated(Path(directory), arguments.tlds, signed_twice=arguments.signed_twice)
            yield made
            return
        if arguments.hosts is None or arguments.anchors is None:
            raise _Refused("--zone needs --hosts and --anchors")
        yield zones.own(Path(directory), arguments.zone, arguments.hosts, arguments.anchors, arguments.clock)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=_console,
    )  # fmt: skip


def _load(arguments: argparse.Namespace) -> int:
    order = offer.Order(
        targets=tuple(arguments.target),
        port=arguments.port,
        rate=arguments.rate,
        seconds=arguments.seconds,
        packets=arguments.packets,
        engine=arguments.engine,
        interface=arguments.interface,
        source_prefixes=tuple(arguments.source_prefix),
        connections=arguments.connections,
        window=arguments.window,
        owned=arguments.i_own_this_target,
    )
    order.check()
    queries = _own_queries(arguments)
    if not queries:
        tlds = zones.tlds_of(arguments.zone) if arguments.zone else zones.demo_tlds()
        queries = tuple(_mix(arguments).queries(tlds, arguments.count, arguments.seed))
    engine = offer.make_engine(order, queries)
    try:
        with _console.status(f"loading {', '.join(order.targets)} for {order.bounded_seconds:g} s"):
            load = engine.run(order.rate, order.bounded_seconds)
    finally:
        engine.close()
    print(json.dumps(asdict(load)) if arguments.json else offer.to_text(load), end="\n" if arguments.json else "")
    return 0 if load.answered else 1


def _limits(arguments: argparse.Namespace) -> int:
    for hit in limits.innocents():
        state = "falls back to dry-run" if hit.falls_back else "limits"
        print(
            f"{hit.heavy:>9,} keys over their limit: {hit.cells_over:.1%} of the cells, {hit.innocents:.3%} of innocent"
            f" keys hit; {state}"
        )
    now = time.time()
    made = signed.generate_root(inception=now - 3600, expiration=now + 86_400 * 10, tlds=200)
    root = verify(made.root, TrustAnchors.from_text(made.trust_anchor), now)
    table = AnswerTable(compile_table(root, verify_hosts(made.hosts, root, now)))
    for what, microseconds in limits.worker_microseconds(table, arguments.seconds):
        print(f"worker, {what}: {microseconds:.2f} us per query")
    for mode, few, many in limits.kernel_nanoseconds(table):
        print(f"kernel, {mode}: {few:.0f} ns per test run with 16 sources, {many:.0f} ns with 20,000 (medians)")
    return 0


def _dot(arguments: argparse.Namespace) -> int:
    now = time.time()
    made = signed.generate_root(inception=now - 3600, expiration=now + 86_400 * 10, tlds=200)
    root = verify(made.root, TrustAnchors.from_text(made.trust_anchor), now)
    table = compile_table(root, verify_hosts(made.hosts, root, now))
    with tempfile.TemporaryDirectory(prefix="rootsrv-bench-") as name:
        served = dot.Zones(Path(name), made, table)
        knotd = arguments.knot
        with contextlib.suppress(ToolMissing):
            knotd = knotd or tool("knotd")
        found = dot.run(
            served, rounds=arguments.rounds, handshakes=arguments.handshakes, queries=arguments.queries, knotd=knotd
        )
    print(dot.to_text(found))
    return 0


def _flood(arguments: argparse.Namespace) -> int:
    order = flood.Flood(
        port=arguments.port,
        rate=arguments.rate,
        prefixes=arguments.prefixes,
        addresses=arguments.addresses,
        seconds=arguments.seconds,
        clients=arguments.clients,
        manner=arguments.manner,
        farm=arguments.farm,
        both_families=arguments.both_families,
    )
    if refused := flood.refusal(order):
        raise _Refused(refused)
    found = flood.run(order)
    print(flood.to_text(order, found))
    return 1 if found.failed else 0


def _options(arguments: argparse.Namespace) -> compare.Options:
    """What `compare` and `abreast` have in common."""
    servers = tuple(name.strip() for name in arguments.servers.split(","))
    for name in servers:
        if name not in SUBJECTS:
            raise _Refused(f"--servers: {name!r} is not one of {', '.join(SUBJECTS)}")
    generator_cpu, server_cpu = _cores(arguments)
    return compare.Options(
        subjects=servers,
        queries=arguments.count,
        seed=arguments.seed,
        generator_cpu=generator_cpu,
        server_cpu=server_cpu,
        programs={name: path for name in ("nsd", "knot", "bind", "powerdns") if (path := getattr(arguments, name))},
        mix=_mix(arguments),
        own_queries=_own_queries(arguments),
    )


def _abreast(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    with _zones(arguments) as served, _progress() as progress:
        task = progress.add_task("abreast", total=None)
        result = abreast.run(
            served,
            options,
            rounds=arguments.rounds,
            starts=arguments.starts,
            turn_seconds=arguments.turn_seconds,
            udp=not arguments.tcp_only,
            tcp=not arguments.no_tcp,
            step_done=lambda what: progress.update(task, advance=1, description=f"abreast: {what}"),
        )
    measured = any(figures["rates"] for servers in result["manners"].values() for figures in servers.values())
    return _finish(arguments, "abreast", "Servers abreast", result, abreast.to_markdown, measured=measured)


def _compare(arguments: argparse.Namespace) -> int:
    options = replace(
        _options(arguments),
        repeats=arguments.repeats,
        step_seconds=arguments.step_seconds,
        engine=arguments.engine,
        further=arguments.further,
    )
    servers = options.subjects
    _console.print(f"this takes about {compare.expected_seconds(options) / 60:.0f} minutes")
    with _zones(arguments) as served, _progress() as progress:
        task = progress.add_task("comparing", total=len(servers) * options.repeats * measure.STEPS)

        def step_done(subject: str) -> None:
            progress.update(task, advance=1, description=f"comparing: {subject}")

        result = compare.run(served, options, step_done)
    stem = _stem(arguments, "compare", result)
    drawn = _plot(result, arguments.results / stem)

    def to_markdown(found: dict[str, Any]) -> str:
        return report.comparison_to_markdown(found, stem if drawn else "")

    return _finish(arguments, "compare", "Comparison", result, to_markdown, measured=bool(result["subjects"]))


def _stem(arguments: argparse.Namespace, command: str, result: dict[str, Any]) -> str:
    """Of the result files: an interrupted run does not take the place of a whole one."""
    return (arguments.name or command) + ("-interrupted" if result["interrupted"] else "")


def _finish(
    arguments: argparse.Namespace,
    command: str,
    title: str,
    result: dict[str, Any],
    to_markdown: Callable[[dict[str, Any]], str],
    *,
    measured: bool,
) -> int:
    """Write and show *result*, unless it was interrupted before anything was measured; the exit status."""
    if result["interrupted"] and not measured:
        raise KeyboardInterrupt
    head = [*report.machine_lines(result["machine"]), *report.interrupted_lines(result)]
    text = "\n".join([f"# {title}", "", *head, "", to_markdown(result)])
    print(report.write(_stem(arguments, command, result), result, text, arguments.results).read_text())
    if result["interrupted"]:
        print("bench: interrupted; what was measured is written, everything else it made is gone", file=sys.stderr)
        return _INTERRUPTED
    return 0 if measured else 1


def _plot(result: dict[str, Any], stem: Path) -> bool:
    stem.parent.mkdir(parents=True, exist_ok=True)
    try:
        from bench import plots
    except ImportError:
        _console.print("matplotlib is not installed (the `bench` extra): no plots")
        return False
    if not result["subjects"]:
        return False
    plots.comparison(result, stem)
    return True


def _peak(arguments: argparse.Namespace) -> int:
    try:
        multiples = tuple(digits.decimal(each) for each in arguments.multiples.split(","))
    except ValueError:
        raise _Refused(f"--multiples: expected numbers such as 1,2,3; got {arguments.multiples!r}") from None
    if not all(multiples):
        raise _Refused(f"--multiples: must be above 0, got {arguments.multiples!r}")
    if not 1 <= arguments.peak * max(multiples) <= offer.MAX_RATE:
        raise _Refused(f"--peak: 1 up to {offer.MAX_RATE:,.0f} queries/s are possible, also times --multiples")
    if not 1 <= arguments.seconds <= offer.MAX_SECONDS:
        raise _Refused(f"--seconds: must be 1..{offer.MAX_SECONDS:.0f}, got {arguments.seconds:g}")
    if not 0 <= arguments.ring <= MAX_RING:
        raise _Refused(f"--ring: must be 0..{MAX_RING}, got {arguments.ring}")
    if not 0 <= arguments.gather <= _MAX_GATHER_MICROSECONDS:
        raise _Refused(f"--gather: must be 0..{_MAX_GATHER_MICROSECONDS}, got {arguments.gather:g}")
    generator_cpu, server_cpu = _cores(arguments)
    options = peak.Options(
        arguments.server,
        arguments.peak,
        multiples,
        arguments.seconds,
        generator_cpu=generator_cpu,
        server_cpu=server_cpu,
        card=Card(arguments.ring, arguments.gather / 1e6) if arguments.ring else None,
        order=arguments.order,
        tlds=arguments.tlds,
    )
    with _progress() as progress:
        task = progress.add_task("peak: preparing", total=options.seconds)
        try:
            result = peak.run(
                options,
                lambda step, seconds: progress.update(task, completed=seconds, description=f"peak: {step}"),
            )
        except (SubjectUnavailable, PeerFailed) as error:
            raise _Refused(f"{arguments.server}: {error}") from error
    status = _finish(
        arguments, "peak", "Three times the peak (D40)", result, peak.to_markdown, measured=bool(result["steps"])
    )
    return status or (0 if result["passed"] else 1)


def _startup(arguments: argparse.Namespace) -> int:
    with _zones(arguments) as served, _console.status("starting"):
        result = startup.run(served, repeats=arguments.repeats)
    return _finish(arguments, "startup", "Start", result, startup.to_markdown, measured=result["repeats"] > 0)


def _hyperlocal(arguments: argparse.Namespace) -> int:
    with _zones(arguments) as served, _console.status("starting"):
        result = hyperlocal.run(served, repeats=arguments.repeats)
    return _finish(
        arguments, "hyperlocal", "Hyperlocal mode", result, hyperlocal.to_markdown, measured=result["repeats"] > 0
    )


def _localroot(arguments: argparse.Namespace) -> int:
    with _console.status("distributing"):
        result = localroot.run(
            subscribers=arguments.subscribers, beside=arguments.beside, mbit=arguments.mbit, tlds=arguments.tlds
        )
    return _finish(
        arguments, "localroot", "LocalRoot", result, localroot.to_markdown, measured=bool(result["subjects"])
    )


def _notify(arguments: argparse.Namespace) -> int:
    with _console.status("notifying"):
        result = notify.run(repeats=arguments.repeats, tlds=arguments.tlds)
    return _finish(
        arguments, "notify", "From NOTIFY to served", result, notify.to_markdown, measured=bool(result["seconds"])
    )


def _transfers(arguments: argparse.Namespace) -> int:
    with _zones(arguments) as served, _console.status("transferring"):
        result = transfers.run(served, rounds=arguments.rounds, in_a_turn=arguments.in_a_turn)
    return _finish(
        arguments, "transfers", "Transfers out", result, transfers.to_markdown, measured=bool(result["subjects"])
    )


def _fleet(arguments: argparse.Namespace) -> int:
    with _zones(arguments) as served, _console.status("a fleet"):
        result = fleet.run(
            served,
            members=arguments.members,
            seconds=arguments.seconds,
            every=arguments.every,
            transfers=arguments.transfers,
        )
    return _finish(arguments, "fleet", "A fleet", result, fleet.to_markdown, measured=bool(result.get("transfers")))


def _parts(arguments: argparse.Namespace) -> int:
    with _zones(arguments) as served, _progress() as progress:
        task = progress.add_task("parts", total=None)
        result = parts.run(
            served,
            rounds=arguments.rounds,
            loads=arguments.loads,
            step_done=lambda what: progress.update(task, advance=1, description=f"parts: {what}"),
        )
    result["interrupted"] = False  # half of its rounds would be of nothing to compare with: then there is no result
    return _finish(arguments, "parts", "What the fast path costs", result, parts.to_markdown, measured=True)


def _costs(arguments: argparse.Namespace) -> int:
    name, module, title = arguments.measured
    with _zones(arguments) as served, _console.status(f"measuring: {name}"):
        result = module.run(served, repeats=arguments.repeats)
    return _finish(arguments, name, title, result, module.to_markdown, measured=bool(result["costs"]))
