"""`python -m bench parts`: what each part of the fast path costs per packet, and what the worst queries cost.

Both hooks, by test runs: needs root and clang, and no interface.  Every round goes through all parts; of a load of the
program the fastest round counts (whatever else the machine does, and cold caches, only ever make a run slower), of
several loads the median.
"""

import itertools
import mmap
import statistics
import struct
from collections.abc import Callable, Sequence
from typing import Any

from bench import machine
from bench.bpf_object import compiled
from bench.frames import Frame
from bench.mix import Mix
from bench.queries import Query
from bench.responder import make_settings
from bench.worst import alternating_families, worst_queries
from bench.zones import Zones
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import AnswerTable
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.layout import Reason
from rootsrv.fastpath.program import TEST_IFINDEX, Interface, Program, prepare_capture

PARTS = ("restore", "headers", "question", "find", "checksum", "OPT", "cut, sums", "send", "count")
HOOKS = {"XDP": "parts_xdp", "tc": "parts_tc"}
QUERIES = 2048
ROUNDS = 5
LOADS = 5
DIFFERENT = (64, 1024, 16_000)
"""Numbers of different queries: what of the table they need is in the nearest cache, in the next, and in neither."""

_PLACES = 16_384
_REPEAT = 20_480
"""Packets in a call at least: its first thousands find cold caches and branches that nobody has guessed yet."""

_SERVICE = {4: "192.0.2.53", 6: "2001:db8::53"}
_CLIENT = {4: "198.51.100.7", 6: "2001:db8:1::7"}
_CACHE_LINE = 64
_PACKET = 2048


class Measuring:
    """The program with its parts in the kernel, and a table."""

    def __init__(self, zones: Zones, rounds: int, capture_chunks: int = 0, table: AnswerTable | None = None) -> None:
        opened = libbpf.BpfObject.open(compiled("parts"), "rootsrv")
        if capture_chunks:
            prepare_capture(opened, capture_chunks)
        self._loaded = opened.load()
        self.program = program = Program(self._loaded)
        self.rounds = rounds
        program.set_service(list(_SERVICE.values()), 53)
        program.set_responses(make_settings())
        program.set_interfaces([Interface(TEST_IFINDEX, 65_536, bytes(6), virtual=True, loopback=False)])
        program.publish_time(zones.now)
        program.activate(program.stage(table or AnswerTable(compile_table(*zones.verified()))), [1 << 62] * 2)

    def put(self, queries: Sequence[Query]) -> int:
        """Make these the queries that are asked in turn; how many frames that are."""
        frames = [
            Frame(source=_CLIENT[query.family], destination=_SERVICE[query.family], payload=query.octets).to_octets()
            for query in queries[:_PLACES]
        ]
        places, room, end = self._loaded.map("queries"), self._loaded.map("frames"), 0
        with mmap.mmap(room.fd, -(-room.value_size // mmap.PAGESIZE) * mmap.PAGESIZE) as together:
            for number, octets in enumerate(frames):
                places.update(number, struct.pack("=2I", end, len(octets)))
                together[end : end + len(octets)] = octets
                end += -(-len(octets) // _CACHE_LINE) * _CACHE_LINE
        return len(frames)

    def ask(self, hook: str, count: int, amount: int) -> None:
        """Have *amount* queries answered, in turn of the *count* that were put."""
        with mmap.mmap(self._loaded.map(".data.parts").fd, mmap.PAGESIZE) as block:
            block[:12] = struct.pack("=3I", count, 0, len(PARTS) - 1)
        libbpf.run_on_packet(self.program.descriptor(HOOKS[hook]), bytes(_PACKET), repeat=amount)

    def up_to(self, hook: str, parts: Sequence[int], count: int) -> tuple[list[float], float]:
        """Nanoseconds per packet up to each of *parts*, and the share that was answered at the last."""
        descriptor, best = self.program.descriptor(HOOKS[hook]), [float("inf")] * len(parts)
        repeat = -(-_REPEAT // count) * count
        with mmap.mmap(self._loaded.map(".data.parts").fd, mmap.PAGESIZE) as block:
            for _ in range(self.rounds):
                for place, part in enumerate(parts):
                    block[:16] = struct.pack("=4I", count, 0, part, 0)
                    run = libbpf.run_on_packet(descriptor, bytes(_PACKET), repeat=repeat)
                    best[place] = min(best[place], run.nanoseconds)
            (answered,) = struct.unpack_from("=I", block, 12)
        return best, answered / repeat

    def why_passed(self, hook: str, query: Query) -> str:
        """The reason for which the program itself passes *query* up."""
        before = self.program.counters(test_runs=True).passed()
        octets = Frame(
            source=_CLIENT[query.family], destination=_SERVICE[query.family], payload=query.octets
        ).to_octets()
        self.program.control.test_generation = self.program.active
        libbpf.run_on_packet(self.program.descriptor({"XDP": "xdp_test", "tc": "tc_test"}[hook]), octets)
        after = self.program.counters(test_runs=True).passed()
        return next((reason for reason, count in after.items() if count != before.get(reason, 0)), "")


def run(
    zones: Zones,
    *,
    rounds: int = ROUNDS,
    loads: int = LOADS,
    step_done: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """All figures: `parts` by hook and series of queries, `different` by their number, `worst` by kind; nanoseconds."""
    table = AnswerTable(compile_table(*zones.verified()))
    mix = Mix.read()
    series = {"mix": mix.with_edns(cookie=0.0), "mix, cookies": mix.with_edns(cookie=1.0)}
    series |= {kind: mix.only(kind).with_edns(cookie=0.0) for kind in ("nxdomain", "referral", "apex")}
    asked = {
        name: [query for query in drawn.queries(zones.tlds, max(DIFFERENT)) if query.kind != "chaos"]
        for name, drawn in series.items()
    }
    sums: dict[tuple[str, int, str], list[list[float]]] = {}
    answered: dict[tuple[str, int, str], float] = {}
    different: dict[tuple[str, str, int], list[float]] = {}
    result: dict[str, Any] = {
        "machine": machine.describe(), "zones": zones.origin, "rounds": rounds, "loads": loads, "parts": [],
        "different": [], "worst": [], "table_octets": len(table.octets),
    }  # fmt: skip
    for load in range(loads):
        measuring = Measuring(zones, rounds, table=table)
        try:
            for (name, queries), family in itertools.product(asked.items(), (4, 6)):
                count = measuring.put([Query(q.octets, q.kind, q.rcode, family) for q in queries[:QUERIES]])
                for hook in HOOKS:
                    found, answered[hook, family, name] = measuring.up_to(hook, range(len(PARTS)), count)
                    sums.setdefault((hook, family, name), []).append(found)
                step_done(f"{name}, load {load + 1}")
            for name, many in itertools.product(("mix", "nxdomain", "referral"), DIFFERENT):
                count = measuring.put([Query(q.octets, q.kind, q.rcode, 4) for q in asked[name][:many]])
                for hook in HOOKS:
                    (restored, whole), _ = measuring.up_to(hook, (0, len(PARTS) - 1), count)
                    different.setdefault((hook, name, many), []).append(whole - restored)
            step_done(f"different queries, load {load + 1}")
            if load == loads - 1:
                result["worst"] = _worst(measuring, zones, step_done)
        finally:
            measuring.program.close()
    for (hook, family, name), found_sums in sums.items():
        medians = [statistics.median(each) for each in zip(*found_sums, strict=True)]
        costs = dict(zip(PARTS[1:], (after - before for before, after in itertools.pairwise(medians)), strict=True))
        row = {"hook": hook, "family": family, "queries": name, "restore": medians[0], "nanoseconds": costs}
        row |= {"answered": answered[hook, family, name], "all": medians[-1] - medians[0]}
        result["parts"].append(row | {"spread": _spread([each[-1] - each[0] for each in found_sums])})
    result["different"] = [
        {"hook": hook, "queries": name, "different": many, "all": statistics.median(each), "spread": _spread(each)}
        for (hook, name, many), each in different.items()
    ]
    return result


def _spread(figures: Sequence[float]) -> tuple[float, float]:
    return min(figures), max(figures)


def _worst(measuring: Measuring, zones: Zones, step_done: Callable[[str], None]) -> list[dict[str, Any]]:
    rows = []
    for kind, queries in worst_queries(zones.contents, zones.now).items():
        count = measuring.put(alternating_families(queries))
        row: dict[str, Any] = {"kind": kind}
        for hook in HOOKS:
            (restored, whole), row["answered"] = measuring.up_to(hook, (0, len(PARTS) - 1), count)
            row[hook] = whole - restored
        row["passed"] = measuring.why_passed("XDP", queries[0])
        rows.append(row)
        step_done(kind)
    return sorted(rows, key=lambda each: -float(each["XDP"]))


def to_markdown(result: dict[str, Any]) -> str:
    """Both tables."""
    lines = [
        "Nanoseconds per packet, by part.", "",
        "| | " + " | ".join(PARTS[1:]) + " | all | of all loads |", "|---|" + "--:|" * (len(PARTS) + 1),
    ]  # fmt: skip
    mean: dict[str, float] = {}
    for row in result["parts"]:
        mean.setdefault(row["hook"], row["all"])
        cells = [f"{cost:.0f}" for cost in row["nanoseconds"].values()]
        lines.append(
            f"| {row['hook']}, IPv{row['family']}, {row['queries']} | {' | '.join(cells)} | {row['all']:.0f}"
            f" | {_range(row['spread'])} |"
        )
    lines += [
        "", "Nanoseconds per packet by how many different queries are asked (IPv4): median, and all loads.", "",
        "| | " + " | ".join(f"{many:,}" for many in DIFFERENT) + " |", "|---|" + "--:|" * len(DIFFERENT),
    ]  # fmt: skip
    for hook, name in dict.fromkeys((row["hook"], row["queries"]) for row in result["different"]):
        cells = [
            f"{row['all']:.0f} ({_range(row['spread'])})"
            for row in result["different"]
            if (row["hook"], row["queries"]) == (hook, name)
        ]
        lines.append(f"| {hook}, {name} | {' | '.join(cells)} |")
    lines += [
        "", "Worst queries of each kind, nanoseconds from the packet to the reply, or until it is passed up.", "",
        "| query | XDP | × mean | tc | × mean | |", "|---|--:|--:|--:|--:|---|",
    ]  # fmt: skip
    for row in result["worst"]:
        what = f"passed up: {Reason[row['passed'].upper()].name.lower()}" if row["passed"] else "answered"
        lines.append(
            f"| {row['kind']} | {row['XDP']:.0f} | {row['XDP'] / mean['XDP']:.1f}"
            f" | {row['tc']:.0f} | {row['tc'] / mean['tc']:.1f} | {what} |"
        )
    lines += [
        "",
        f"Test runs without a network, {result['loads']} loads of the program, of each the fastest of"
        f" {result['rounds']} rounds; a table of {result['table_octets']:,} octets; × mean: in terms of the mix without"
        f" cookies over IPv4.  What is passed up costs the workers besides.  Zones: {result['zones']}.",
    ]
    return "\n".join(lines) + "\n"


def _range(spread: Sequence[float]) -> str:
    return f"{spread[0]:.0f} … {spread[1]:.0f}"
