"""`python -m bench parts`: what each part of the fast path costs per packet, and what the worst queries cost.

Both hooks, by test runs: needs root and clang, and no interface.  Every round goes through all parts; of each the
fastest counts: whatever else the machine does only ever makes a run slower.
"""

import itertools
import mmap
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
ROUNDS = 40
_REPEAT = 2048
_SERVICE = {4: "192.0.2.53", 6: "2001:db8::53"}
_CLIENT = {4: "198.51.100.7", 6: "2001:db8:1::7"}
_FRAME_ROOM = 1024
_PACKET = 2048


class Measuring:
    """The program with its parts in the kernel, and a table."""

    def __init__(self, zones: Zones, rounds: int, capture_chunks: int = 0) -> None:
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
        program.activate(program.stage(AnswerTable(compile_table(*zones.verified()))), [1 << 62] * 2)

    def put(self, queries: Sequence[Query]) -> int:
        """Make these the queries that are asked in turn; how many frames that are."""
        frames = [
            Frame(source=_CLIENT[query.family], destination=_SERVICE[query.family], payload=query.octets).to_octets()
            for query in queries[:QUERIES]
        ]
        places = self._loaded.map("queries")
        for number, octets in enumerate(frames):
            places.update(number, struct.pack("=I", len(octets)) + octets.ljust(_FRAME_ROOM, b"\0"))
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


def run(zones: Zones, *, rounds: int = ROUNDS, step_done: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """All figures: `parts` by hook and series of queries, `worst` by kind; nanoseconds."""
    measuring = Measuring(zones, rounds)
    mix = Mix.read()
    series = {"mix": mix.with_edns(cookie=0.0), "mix, cookies": mix.with_edns(cookie=1.0)}
    series |= {kind: mix.only(kind).with_edns(cookie=0.0) for kind in ("nxdomain", "referral", "apex")}
    result: dict[str, Any] = {
        "machine": machine.describe(), "zones": zones.origin, "rounds": rounds, "parts": [], "worst": [],
    }  # fmt: skip
    try:
        for (name, drawn), family in itertools.product(series.items(), (4, 6)):
            asked = [q for q in drawn.queries(zones.tlds, QUERIES) if q.kind != "chaos"]
            count = measuring.put([Query(q.octets, q.kind, q.rcode, family) for q in asked])
            for hook in HOOKS:
                sums, answered = measuring.up_to(hook, range(len(PARTS)), count)
                costs = [after - before for before, after in itertools.pairwise(sums)]
                row = {"hook": hook, "family": family, "queries": name, "restore": sums[0], "answered": answered}
                row |= {"nanoseconds": dict(zip(PARTS[1:], costs, strict=True)), "all": sums[-1] - sums[0]}
                result["parts"].append(row)
            step_done(name)
        result["worst"] = _worst(measuring, zones, step_done)
    finally:
        measuring.program.close()
    return result


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
        "| | " + " | ".join(PARTS[1:]) + " | all |", "|---|" + "--:|" * len(PARTS),
    ]  # fmt: skip
    mean: dict[str, float] = {}
    for row in result["parts"]:
        mean.setdefault(row["hook"], row["all"])
        cells = [f"{cost:.0f}" for cost in row["nanoseconds"].values()]
        lines.append(
            f"| {row['hook']}, IPv{row['family']}, {row['queries']} | {' | '.join(cells)} | {row['all']:.0f} |"
        )
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
        f"Test runs without a network, the fastest of {result['rounds']} rounds; × mean: in terms of the mix without"
        f" cookies over IPv4.  What is passed up costs the workers besides.  Zones: {result['zones']}.",
    ]
    return "\n".join(lines) + "\n"
