"""`python -m bench.capture`: what a capture costs the fast path, and what rate it takes on one core without a loss.

Needs root, clang and two cores: on one the fast path's program answers the mix (test runs, no network) at a given rate
and appends to its ring, on the other the role's own collector makes files of it.
"""

import argparse
import itertools
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.mix import Mix
from bench.parts import PARTS, QUERIES, Measuring
from bench.queries import Query
from bench.zones import Zones, generated
from rootsrv.capture import formats, offer, rings
from rootsrv.capture.cdns import Collection
from rootsrv.capture.collector import POLL_SECONDS, Collector, Wanted
from rootsrv.capture.compression import compressors
from rootsrv.capture.files import Directory, Finisher
from rootsrv.fastpath import libbpf

CHUNKS = 256
"""16 MiB a CPU, as is configured by default."""

RATES = (100_000, 200_000, 270_000, 400_000, 600_000, 800_000, 1_000_000, 1_300_000)
SECONDS = 3.0
SLICE_SECONDS = 0.002
KINDS = (("pcap", "none"), ("pcap", "gzip"), ("pcap", "zstd"), ("cdns", "none"), ("cdns", "gzip"), ("cdns", "zstd"))
ROUNDS = 25
SHAPES = {"off": rings.OFF, "facts": rings.FACTS, "packets": rings.PACKETS}


class Source:
    """The fast path with rings, and queries of the mix."""

    def __init__(self, zones: Zones, chunks: int, rounds: int = ROUNDS) -> None:
        self.measuring = Measuring(zones, rounds, chunks)
        asked = [q for q in Mix.read().with_edns(cookie=0.0).queries(zones.tlds, QUERIES) if q.kind != "chaos"]
        families = itertools.cycle((4, 6))
        self.count = self.measuring.put([Query(q.octets, q.kind, q.rcode, next(families)) for q in asked])
        self.rings: list[rings.Ring] = []
        if chunks:
            program = self.measuring.program
            cpus = libbpf.possible_cpus()
            self.rings = rings.open_maps(program.capture_rings.fd, program.capture_rows.fd, cpus, chunks)

    def cost(self, hook: str, shape: int) -> float:
        """Nanoseconds a query, from the packet to the reply and what is appended; the ring is emptied each round."""
        best = [float("inf")] * 2
        measuring, rounds = self.measuring, self.measuring.rounds
        measuring.rounds = 1
        for ring in self.rings:
            ring.want(shape)
        for _ in range(rounds):
            for ring in self.rings:
                ring.skip()
            found, _ = measuring.up_to(hook, (0, len(PARTS) - 1), self.count)
            best = list(map(min, best, found))
        measuring.rounds = rounds
        return best[1] - best[0]


def costs(zones: Zones) -> list[dict[str, Any]]:
    """The fast path without capture, with it but off, with facts, with packets; the fastest of each counts."""
    sources = {0: Source(zones, 0), CHUNKS: Source(zones, CHUNKS)}
    rows = []
    for hook in ("XDP", "tc"):
        row: dict[str, Any] = {"hook": hook}
        row["none"] = sources[0].cost(hook, rings.OFF)
        for name, shape in SHAPES.items():
            row[name] = sources[CHUNKS].cost(hook, shape)
        row["none"] = min(row["none"], sources[0].cost(hook, rings.OFF))
        rows.append(row)
    for each in sources.values():
        each.measuring.program.close()
    return rows


@dataclass
class Load:
    """A process on one core that has the fast path answer at a rate."""

    pid: int
    asked: socket.socket

    @classmethod
    def start(cls, source: Source, rate: float, core: int) -> "Load":
        """Begin."""
        told, telling = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                told.close()
                os.sched_setaffinity(0, {core})
                stop = [False]
                signal.signal(signal.SIGTERM, lambda *_: stop.__setitem__(0, True))
                sent, began = 0, time.perf_counter()
                while not stop[0]:
                    due = int((time.perf_counter() - began) * rate) - sent
                    if due > 0:
                        due = min(due, 4096)
                        source.measuring.ask("XDP", source.count, due)
                        sent += due
                    else:
                        time.sleep(SLICE_SECONDS)
                telling.sendall(json.dumps({"asked": sent, "seconds": time.perf_counter() - began}).encode())
                status = 0
            finally:
                os._exit(status)
        telling.close()
        return cls(pid, told)

    def end(self) -> dict[str, float]:
        """How many queries it asked, in how many seconds."""
        os.kill(self.pid, signal.SIGTERM)
        found: dict[str, float] = json.loads(self.asked.recv(4096))
        os.waitpid(self.pid, 0)
        self.asked.close()
        return found


def captured(source: Source, kind: str, compression: str, rate: float, seconds: float) -> dict[str, Any]:
    """One capture: rate asked and written, losses, processor time and octets a query."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        place = Directory(
            path / "files", quota_octets=1 << 50, keep_free_octets=0, retention_seconds=0, removes_oldest=False
        )
        finisher = Finisher("none")
        collector = Collector(path / "nowhere", place, finisher)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        collector.adopt(offer.Taken(list(source.rings), ours))
        collector.start(
            Wanted(
                make_format=lambda: formats.make(kind, Collection()),
                begin_member=compressors(compression),
                compression=compression,
                name="bench",
                rotation_seconds=86_400,
            )
        )
        collector.turn()
        before = sum((ring.counts() for ring in source.rings), rings.Counts())
        load = Load.start(source, rate, min(os.sched_getaffinity(0)))
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(allowed)})
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
            os.sched_setaffinity(0, allowed)
        counted = sum((ring.counts() for ring in source.rings), rings.Counts()) - before
        collector.close()
        theirs.close()
        octets = sum(each.stat().st_size for each in place.files())
        items = collector.totals.items
    return {
        "format": kind,
        "compression": compression,
        "wanted": rate,
        "rate": asked["asked"] / asked["seconds"],
        "answered": counted.items + counted.lost,
        "lost": counted.lost + collector.totals.lost["disk"],
        "items": items,
        "microseconds": used / max(1, items) * 1e6,
        "octets": octets / max(1, items),
        "fill": fill,
    }


def rates(zones: Zones, kinds: Any, ladder: Any, seconds: float) -> list[dict[str, Any]]:
    """Of each kind of file: the steps of the ladder up to the first that lost something."""
    source = Source(zones, CHUNKS)
    rows = []
    for kind, compression in kinds:
        for rate in ladder:
            row = captured(source, kind, compression, rate, seconds)
            rows.append(row)
            print(
                f"{kind} {compression} {row['rate']:.0f}/s lost {row['lost']} {row['microseconds']:.2f} us",
                file=sys.stderr,
            )
            if row["lost"] or row["rate"] < 0.9 * rate:
                break
    source.measuring.program.close()
    return rows


def to_markdown(result: dict[str, Any]) -> str:
    """Both tables."""
    lines = ["Nanoseconds per query of the mix, packet to reply, by test runs.", ""]
    lines += ["| hook | without | with it, off | facts | packets |", "|---|--:|--:|--:|--:|"]
    for row in result["costs"]:
        lines.append("| {hook} | {none:.0f} | {off:.0f} | {facts:.0f} | {packets:.0f} |".format(**row))
    lines += [
        "", "The highest rate without a loss, one core for the collector, beside the fast path on the other.", "",
        "| file | a second, without a loss | µs of processor a query | octets a query | ring at most | next step |",
        "|---|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    for (kind, compression), group in itertools.groupby(
        result["rates"], lambda row: (row["format"], row["compression"])
    ):
        steps = list(group)
        whole = [row for row in steps if not row["lost"]]
        if not whole:
            lines.append(f"| {kind}, {compression} | – | | | | lost {steps[0]['lost']} at {steps[0]['rate']:.0f} |")
            continue
        best = max(whole, key=lambda row: float(row["rate"]))
        last = steps[-1]
        after = (
            f"{last['lost']} of {last['answered']} lost at {last['rate']:.0f}" if last["lost"] else "the source's limit"
        )
        mean = statistics.median(row["microseconds"] for row in whole[-3:])
        figures = f"{best['rate']:.0f} | {mean:.2f} | {best['octets']:.1f} | {best['fill']:.0%}"
        lines.append(f"| {kind}, {compression} | {figures} | {after} |")
    lines += ["", f"{result['seconds']:g} s each.  {result['machine']}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each step (default 3)")
    parser.add_argument("--only", choices=("costs", "rates"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        return _measure(generated(Path(directory)), arguments)


def _measure(zones: Zones, arguments: argparse.Namespace) -> int:
    result: dict[str, Any] = {"machine": machine.describe(), "seconds": arguments.seconds, "costs": [], "rates": []}
    if arguments.only != "rates":
        result["costs"] = costs(zones)
    if arguments.only != "costs":
        result["rates"] = rates(zones, KINDS, RATES, arguments.seconds)
    print(to_markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
