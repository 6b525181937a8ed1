"""`python -m bench.owner`: what the process that looks after the kernel's program does to the latency of its answers.

A whole instance answers on a wire of two namespaces, from XDP and from tc: the kernel's thread that answers and the
worker have one core, the generator has the other.  It is offered a share of what it answers under overload, in turns:
while its owner runs on the core that answers, and while it is kept off, as `fastpath.owner_cpus` does.  `--before DIR`
has an instance of another tree take turns with these, on the core that answers, such as one from before the owner was
told of changes in the page: it looked at it a hundred times a second.  Needs root, clang and two cores.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import machine, processes, report, subjects
from bench.arguments import number, positive
from bench.compare import Comparison, Options
from bench.guardian import guarded
from bench.subjects import FAILURES, HERE, Subject
from bench.zones import generated

MODES = ("xdp", "tc")
ON, OFF, BEFORE = "on the core that answers", "off it", "of the tree before, on the core that answers"
SHARE = 0.8
SECONDS = 1.5
LOADS = 6
ROUNDS = 2
QUANTILES = 0.5, 0.99, 0.999, 0.9999

_OVERLOAD_SECONDS = 0.5
_OVERLOADS = 3


def run(
    *,
    loads: int = LOADS,
    rounds: int = ROUNDS,
    share: float = SHARE,
    seconds: float = SECONDS,
    before: Path | None = None,
) -> list[dict[str, Any]]:
    """For each way to answer and each place of the owner: rates, shares and latencies of every load."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        comparison = Comparison(generated(Path(directory)), Options(subjects=()), stack)
        places = {ON: comparison.options.server_cpu, OFF: comparison.options.generator_cpu}
        for mode in MODES:
            found: dict[str, list[dict[str, Any]]] = {place: [] for place in (*places, *([BEFORE] if before else []))}
            rate = 0.0
            for _ in range(rounds):
                with _serving(comparison, mode, HERE.parent) as running:
                    rate = rate or share * _overload(comparison)
                    for _ in range(loads):
                        for place, cpu in places.items():
                            move(owner_of(running), cpu)
                            found[place].append(_figures(comparison, rate, seconds))
                if before is not None:
                    with _serving(comparison, mode, before):
                        found[BEFORE] += [_figures(comparison, rate, seconds) for _ in range(loads)]
            rows += [{"answers": mode, "owner": place, "rate": rate, "loads": each} for place, each in found.items()]
    return rows


@contextlib.contextmanager
def _serving(comparison: Comparison, mode: str, tree: Path) -> Iterator[subjects.Running]:
    @contextlib.contextmanager
    def start(bench: subjects.Bench) -> Iterator[subjects.Running]:
        with subjects.instance(bench, mode, tree=tree) as (running, _):
            yield running

    subject = Subject(f"rootsrv {mode}", start, "rootsrv", in_kernel=True)
    with comparison.serving(subject, comparison.mean_reply_octets()) as running:
        yield running


def owner_of(running: subjects.Running) -> int:
    """The process that looks after program and workers."""
    for pid in processes.of_session(running.session):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"rootsrv" in words and b"serve" in words:
                return pid
    raise subjects.SubjectUnavailable("no role serve is running")


def move(pid: int, cpu: int) -> None:
    """Have all threads of a process run on *cpu*, as `fastpath.owner_cpus` has it from its start."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task), {cpu})


def _overload(comparison: Comparison) -> float:
    return statistics.median(comparison.generator.run(None, _OVERLOAD_SECONDS).answer_rate for _ in range(_OVERLOADS))


def _figures(comparison: Comparison, rate: float, seconds: float) -> dict[str, Any]:
    load = comparison.generator.run(rate, seconds)
    return {
        "sent": load.sent,
        "answered": load.answered,
        "in_ring": load.ring_drops,
        "microseconds": {f"{at}": load.latency_at(at) * 1e6 for at in QUANTILES},
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The table, and how it came about."""
    heads = " | ".join(f"p{at * 100:g} µs" for at in QUANTILES)
    lines = [
        "# The owner of the kernel's program, and latency",
        "",
        *report.machine_lines(result["machine"]),
        "",
        f"| answers | its owner | offered/s | answered | {heads} | its quartiles |",
        "|---|---|--:|--:|" + "--:|" * (len(QUANTILES) + 1),
    ]
    for row in result["rows"]:
        loads = row["loads"]
        share = sum(each["answered"] for each in loads) / max(1, sum(each["sent"] for each in loads))
        medians = " | ".join(
            f"{statistics.median(each['microseconds'][f'{at}'] for each in loads):.0f}" for at in QUANTILES
        )
        spread = statistics.quantiles((each["microseconds"]["0.999"] for each in loads), n=4, method="inclusive")
        lines.append(
            f"| {row['answers']} | {row['owner']} | {row['rate']:,.0f} | {share:.4%} | {medians}"
            f" | {spread[0]:.0f} … {spread[-1]:.0f} |"
        )
    return "\n".join([
        *lines,
        "",
        f"Offered is {result['share']:.0%} of what was answered under overload; {result['rounds']} starts with"
        f" {result['loads']} loads of each, {result['seconds']:g} s, in turns: medians of the loads, latencies of every"
        " 16th response.  The kernel's thread that answers goes before all others, as a card's interrupts do; an owner"
        " that is off that core shares the generator's.",
        "",
    ])  # fmt: skip


def main() -> int:
    """Measure, keep it in bench/results, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=number(0.1, 600), default=SECONDS, help=f"of a load (default {SECONDS:g})")
    parser.add_argument("--loads", type=positive, default=LOADS, help=f"of each after a start (default {LOADS})")
    parser.add_argument("--rounds", type=positive, default=ROUNDS, help=f"starts (default {ROUNDS})")
    parser.add_argument("--share", type=number(0.01, 1), default=SHARE, help=f"of overload (default {SHARE})")
    parser.add_argument("--before", type=Path, metavar="DIR", help="another tree, its BPF program compiled")
    parser.add_argument("--name", default="owner", help="stem of the result files (default owner)")
    parser.add_argument("--results", type=Path, default=report.RESULTS, metavar="DIRECTORY")
    arguments = parser.parse_args()
    described = machine.describe()
    wanted = {
        "share": arguments.share, "seconds": arguments.seconds, "loads": arguments.loads, "rounds": arguments.rounds,
    }  # fmt: skip
    try:
        rows = run(**wanted, before=arguments.before and arguments.before.resolve())
    except FAILURES as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 1
    result = {"machine": described, **wanted, "rows": rows}
    markdown = to_markdown(result)
    report.write(arguments.name, result, markdown, arguments.results)
    print(markdown)
    return 0


if __name__ == "__main__":
    with guarded("ROOTSRV_BENCH_RUN"):
        sys.exit(main())
