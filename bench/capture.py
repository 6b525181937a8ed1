"""`python -m bench.capture`: what a capture costs the fast path, and what rate it takes on one core without a loss.

Needs root, clang and two cores: on one the fast path's program answers the mix (test runs, no network) at a given rate
and appends to its ring, on the other the role's own collector makes files of it.  What the collector itself takes of
the processor is measured besides with rows of the mix that have been made before, so that nobody else is at work; and
they are offered at rates that the program's test runs do not reach.
"""

import argparse
import itertools
import json
import mmap
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import capture_service, machine, report
from bench.arguments import number, positive, positives
from bench.capture_tables import ADDED, TITLES, to_markdown
from bench.engine_process import stand_apart
from bench.guardian import guarded
from bench.mix import Mix
from bench.parts import HOOKS, PARTS, QUERIES, Measuring
from bench.queries import Query
from bench.recording import Recording, queries_of_the_mix
from bench.zones import Zones, generated
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import AnswerTable
from rootsrv.capture import formats, offer, rings
from rootsrv.capture.cdns import Collection
from rootsrv.capture.collector import POLL_SECONDS, Collector
from rootsrv.capture.compression import compressors
from rootsrv.capture.files import CaptureDirectory, Finisher
from rootsrv.capture.wanted import WantedCapture
from rootsrv.fastpath import libbpf
from rootsrv.process import memory

CHUNKS = 256
"""16 MiB a CPU, as is configured by default."""

RATES = (100_000, 200_000, 270_000, 400_000, 600_000, 800_000, 1_000_000, 1_300_000)
SECONDS = 3.0
SLICE_SECONDS = 0.002
AT_ONCE = 16_384
"""Queries of one test run at most: each takes some 20 ms to tear down, and a ring holds eight times as many."""

KINDS = (("pcap", "none"), ("pcap", "gzip"), ("pcap", "zstd"), ("cdns", "none"), ("cdns", "gzip"), ("cdns", "zstd"))
ROUNDS = 20
LOADS = 12
"""How often each program is loaded: where the kernel puts it moves a figure by up to 100 nanoseconds."""

SHAPES = {"off": rings.OFF, "facts": rings.FACTS, "packets": rings.PACKETS}
_REPLAYED_RATE = 270_000
_REPLAYED_TURNS = 30
_REPEATS = 6


class Source:
    """The fast path with rings, and queries of the mix."""

    def __init__(self, zones: Zones, chunks: int, table: AnswerTable | None = None) -> None:
        self.measuring = Measuring(zones, 1, chunks, table)
        asked = [q for q in Mix.read().with_edns(cookie=0.0).queries(zones.tlds, QUERIES) if q.kind != "chaos"]
        families = itertools.cycle((4, 6))
        self.count = self.measuring.put([Query(q.octets, q.kind, q.rcode, next(families)) for q in asked])
        self.rings: list[rings.Ring] = []
        if chunks:
            program = self.measuring.program
            cpus = libbpf.possible_cpus()
            self.rings = rings.open_map(program.capture_rings.fd, cpus, chunks)

    def cost(self, hook: str, shape: int) -> list[float]:
        """Nanoseconds a query: to put it into its frame, and up to what is appended to an empty ring."""
        for ring in self.rings:
            ring.want(shape)
            ring.skip()
        found, _ = self.measuring.up_to(hook, (0, len(PARTS) - 1), self.count)
        return found

    def ask(self, queries: int) -> None:
        """Have so many answered."""
        self.measuring.ask("XDP", self.count, queries)


def costs(zones: Zones, loads: int = LOADS, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Nanoseconds of the fast path without capture, and what comes to them: of each load the median, all in turns.

    "off": in a program that can capture, and does not; "again": without capture, loaded once more, which is what loads
    of one program differ by; facts and packets: beside off, in one load.
    """
    table = AnswerTable(compile_table(*zones.verified()))
    found: dict[tuple[str, str], list[float]] = {}
    with on_one_core():
        for load in range(loads):
            without, again, able = (Source(zones, chunks, table) for chunks in (0, 0, CHUNKS))
            turns = [("none", without, rings.OFF), ("again", again, rings.OFF)]
            turns += [(name, able, shape) for name, shape in SHAPES.items()]
            for hook in HOOKS:
                measured: dict[str, list[list[float]]] = {}
                for turn in range(rounds):
                    first = (turn + load) % len(turns)
                    for name, source, shape in turns[first:] + turns[:first]:
                        measured.setdefault(name, []).append(source.cost(hook, shape))
                restored, whole = (statistics.median(each) for each in zip(*measured["none"], strict=True))
                found.setdefault((hook, "none"), []).append(whole - restored)
                for name, beside in (("off", "none"), ("again", "none"), ("facts", "off"), ("packets", "off")):
                    pairs = zip(measured[name], measured[beside], strict=True)
                    more = statistics.median(one[1] - other[1] for one, other in pairs)
                    found.setdefault((hook, name), []).append(more)
            for source in (without, again, able):
                source.rings.clear()
                source.measuring.program.close()
    names = ("none", "off", "again", *ADDED)
    return [{"hook": hook} | {name: sorted(found[hook, name]) for name in names} for hook in HOOKS]


@dataclass
class Load:
    """A process on one core that fills the rings at a rate."""

    pid: int
    told: socket.socket
    ending: mmap.mmap

    @classmethod
    def start(cls, ask: Callable[[int], None], rate: float, core: int) -> "Load":
        """Begin; *ask* is told how many queries are due."""
        told, telling = socket.socketpair()
        ending = mmap.mmap(-1, mmap.PAGESIZE)
        parent = os.getpid()  # before: a child whose parent is gone already has another one
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                stand_apart()
                if os.getppid() != parent:
                    raise SystemExit
                told.close()
                os.sched_setaffinity(0, {core})
                _go_first()
                sent, began = 0, time.perf_counter()
                # A signal would end a test run before its time: it is told by shared memory.
                while not ending[0]:
                    due = int((time.perf_counter() - began) * rate) - sent
                    if due > 0:
                        due = min(due, AT_ONCE)
                        ask(due)
                        sent += due
                    else:
                        time.sleep(SLICE_SECONDS)
                telling.sendall(json.dumps({"asked": sent, "seconds": time.perf_counter() - began}).encode())
                status = 0
            finally:
                os._exit(status)
        telling.close()
        return cls(pid, told, ending)

    def end(self) -> dict[str, float]:
        """How many queries it asked, in how many seconds."""
        self.ending[0] = 1
        found: dict[str, float] = json.loads(self.told.recv(4096))
        os.waitpid(self.pid, 0)
        self.told.close()
        return found


@contextmanager
def on_one_core() -> Iterator[None]:
    """On one core, before all others there."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    _go_first()
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, allowed)


def _go_first() -> None:
    """Before all others on its core: as if the core were its own, whatever else the machine does."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@contextmanager
def collecting(found: Sequence[rings.Ring], kind: str, compression: str) -> Iterator[Collector]:
    """The role's collector on *found*, under way; its files go when it ends."""
    # In memory: how fast a disk is, `rootsrv doctor` says.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        path = Path(directory)
        place = CaptureDirectory(
            path / "files", quota_octets=1 << 50, keep_free_octets=0, retention_seconds=0, removes_oldest=False
        )
        collector = Collector(path / "nowhere", place, Finisher("none"))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        collector.adopt(offer.Taken(list(found), ours))
        collector.start(
            WantedCapture(
                make_format=lambda: formats.make(kind, Collection()),
                begin_member=compressors(compression),
                compression=compression,
                name="bench",
                rotation_seconds=86_400,
            )
        )
        collector.turn()
        try:
            yield collector
        finally:
            collector.close()
            theirs.close()


def processor(zones: Zones, kinds: Any) -> list[dict[str, Any]]:
    """Of each kind of file: what a query takes of the processor, and octets; the fastest of some captures."""
    recordings = {kind: Recording(queries_of_the_mix(zones, kind), CHUNKS) for kind in {kind for kind, _ in kinds}}
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for _, (kind, compression) in itertools.product(range(_REPEATS), kinds):
        recording = recordings[kind]
        spent = 0.0
        with collecting([recording.ring], kind, compression) as collector:
            for _ in range(_REPLAYED_TURNS):
                recording.ask(int(_REPLAYED_RATE * POLL_SECONDS))
                time.sleep(POLL_SECONDS)
                spent -= time.thread_time()
                collector.turn()
                spent += time.thread_time()
            spent -= time.thread_time()
            collector.stop()
            spent += time.thread_time()
            items, octets = collector.totals.items, collector.totals.written_octets
        row = {
            "format": kind,
            "compression": compression,
            "octets": octets / items,
            "microseconds": spent / items * 1e6,
        }
        before = best.setdefault((kind, compression), row)
        best[kind, compression] = min(before, row, key=lambda each: float(each["microseconds"]))
    return list(best.values())


def captured(
    found: Sequence[rings.Ring], ask: Callable[[int], None], kind: str, compression: str, rate: float, seconds: float
) -> dict[str, Any]:
    """One capture: rate asked and written, losses, processor time and octets a query."""
    with collecting(found, kind, compression) as collector:
        before = sum((ring.counts() for ring in found), rings.Counts())
        load = Load.start(ask, rate, min(os.sched_getaffinity(0)))
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(allowed)})
        _go_first()
        began, used = time.perf_counter(), time.thread_time()
        fill = 0.0
        try:
            while time.perf_counter() - began < seconds:
                collector.turn()
                fill = max(fill, collector.fill)
                time.sleep(POLL_SECONDS)
            asked = load.end()
            collector.stop()
            used = time.thread_time() - used
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            os.sched_setaffinity(0, allowed)
        counted = sum((ring.counts() for ring in found), rings.Counts()) - before
        totals = collector.totals
    return {
        "format": kind,
        "compression": compression,
        "wanted": rate,
        "rate": asked["asked"] / asked["seconds"],
        "answered": counted.items + counted.lost,
        "lost": counted.lost + totals.lost["disk"],
        "items": totals.items,
        "microseconds": used / max(1, totals.items) * 1e6,
        "octets": totals.written_octets / max(1, totals.items),
        "fill": fill,
    }


def rates(zones: Zones, kinds: Any, ladder: Any, seconds: float, *, replayed: bool) -> list[dict[str, Any]]:
    """Of each kind of file: the steps of the ladder up to the first that lost something, or was not reached.

    *replayed*: rows that have been made before are offered, in place of what the program writes now.
    """
    source = None if replayed else Source(zones, CHUNKS)
    rows = []
    for kind, compression in kinds:
        if source is None:
            recording = Recording(queries_of_the_mix(zones, kind), CHUNKS)
            found, ask = [recording.ring], recording.ask
        else:
            found, ask = source.rings, source.ask
        for rate in ladder:
            row = captured(found, ask, kind, compression, rate, seconds) | {"replayed": replayed}
            rows.append(row)
            print(
                f"{kind} {compression} {row['rate']:.0f}/s lost {row['lost']} {row['microseconds']:.2f} us",
                file=sys.stderr,
            )
            if row["lost"] or row["rate"] < 0.9 * rate:
                break
    if source is not None:
        source.measuring.program.close()
    return rows


def main() -> int:
    """Measure what is wanted, keep it in bench/results beside what was measured before, and print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=number(0.1, 600), default=SECONDS, help=f"for each step of a rate (default {SECONDS:g})"
    )
    parser.add_argument("--only", choices=tuple(TITLES), help="this part alone (default: all)")
    parser.add_argument("--loads", type=positive, default=LOADS, help=f"of the program, for costs (default {LOADS})")
    parser.add_argument("--rounds", type=positive, default=ROUNDS, help=f"of a load, for costs (default {ROUNDS})")
    names = ",".join("-".join(kind) for kind in KINDS)
    parser.add_argument("--kinds", default=names, help=f"of files (default {names})")
    steps = ",".join(map(str, RATES))
    parser.add_argument("--rates", type=positives, default=steps, help=f"that are tried in turn (default {steps})")
    arguments = parser.parse_args()
    kinds = tuple(tuple(each.split("-")) for each in arguments.kinds.split(","))
    if any(kind not in KINDS for kind in kinds):
        parser.error(f"--kinds: known are {names}")
    result = report.kept_before("capture")
    memory.keep_freed()  # as the role does
    with tempfile.TemporaryDirectory() as directory:
        zones = generated(Path(directory))
        measuring: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "costs": lambda: costs(zones, arguments.loads, arguments.rounds),
            "processor": lambda: processor(zones, kinds),
            "rates": lambda: rates(zones, kinds, arguments.rates, arguments.seconds, replayed=False),
            "replayed": lambda: rates(zones, kinds, arguments.rates, arguments.seconds, replayed=True),
            "service": lambda: capture_service.run(zones, seconds=arguments.seconds),
        }
        for name in [arguments.only] if arguments.only else measuring:
            rows = measuring[name]()
            if name not in ("costs", "service"):  # of other kinds of file what is known stays
                before = result.get(name, {}).get("rows", ())
                rows += [row for row in before if (row["format"], row["compression"]) not in kinds]
                rows.sort(key=lambda row: KINDS.index((row["format"], row["compression"])))
            result[name] = {"machine": machine.describe(), "seconds": arguments.seconds, "rows": rows}
            if (arguments.loads, arguments.rounds) != (LOADS, ROUNDS):
                result[name]["short"] = f"--loads {arguments.loads} --rounds {arguments.rounds}"
            report.write("capture", result, to_markdown(result))
    print(to_markdown(result))
    return 0


if __name__ == "__main__":
    with guarded("ROOTSRV_BENCH_RUN"):
        sys.exit(main())
