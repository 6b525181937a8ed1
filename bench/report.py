"""Results as Markdown and JSON under bench/results/, also of a run that was interrupted."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(name: str, result: dict[str, Any], markdown: str, directory: Path = RESULTS) -> Path:
    """Write NAME.json and NAME.md; the Markdown file's path."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(_plain(result), indent=1) + "\n")
    path = directory / f"{name}.md"
    path.write_text(markdown)
    return path


def kept_before(name: str, directory: Path = RESULTS) -> dict[str, Any]:
    """What was written under that name before; empty if nothing was."""
    path = directory / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return found


@contextlib.contextmanager
def kept(result: dict[str, Any]) -> Iterator[None]:
    """The block in which *result* is filled: KeyboardInterrupt ends it and sets `interrupted`; what is there stays.

    What the block opens is to be closed in it.
    """
    result["interrupted"] = False
    try:
        yield
    except KeyboardInterrupt:
        result["interrupted"] = True


def _plain(value: Any) -> Any:
    """Without NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def machine_lines(described: dict[str, Any]) -> list[str]:
    """The machine and how the result came about."""
    kind = "virtual machine" if described["virtual"] else "machine"
    return [
        f"* {described['started']}, `{described['command']}`",
        f"* {described['processor']}, {described['cores']} cores, {described['memory_octets'] / 2**30:.0f} GiB"
        f" ({kind}); {described['system']}, Linux {described['kernel']}, Python {described['python']}",
    ]


def interrupted_lines(result: dict[str, Any]) -> list[str]:
    """What a reader must know first about a result that is not whole."""
    return ["* **interrupted**: what follows was measured until then"] if result.get("interrupted") else []


_CEILING = {"kernel": "an interface that drops", "socket": "a reflector that looks at nothing"}


def thousands(rate: float) -> str:
    """A rate in thousands per second."""
    return f"{rate / 1000:,.1f} k"


def comparison_to_markdown(result: dict[str, Any], figures: str = "") -> str:
    """The body of the report of `compare`; *figures* is the stem of the plots beside it."""
    options = result["options"]
    lines = [
        f"* zones: {result['zones']}; {options['queries']:,} different queries (seed {options['seed']}), mean response"
        f" {result['mean_reply_octets']} octets",
        f"* {result['engine']} engine; generator on core {options['cores'][0]}, server on core {options['cores'][1]};"
        f" {options['repeats']} interleaved repeats, {options['step_seconds']:g} s per step",
    ]
    if result.get("ceiling"):
        lines.append(
            f"* the generator itself, against {_CEILING[result['engine']]}: {thousands(result['ceiling'])} queries/s"
        )
    speed = result["machine_speed"]
    lines.append(
        f"* steadiness: a plain Python loop ran {speed['median'] / 1e6:.1f} M additions/s around each measurement,"
        f" spread {speed['spread']:.0%}; {_unsteady(result)}"
    )
    lines += [f"* {remark}" for remark in result["remarks"]]
    lines += [
        "",
        "Medians; ± is (largest − smallest) / median.  Rates per second.  *≥ 99.9 %* is the highest rate of which that"
        " share was answered.",
        "",
        "| server | ≥ 99.9 % | ± | peak | ± | µs/reply | ± | MiB | worker MiB | p50 µs | p99 µs | / best peer"
        " | / limit | / look-up | wrong |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    ordered = sorted(result["subjects"].items(), key=lambda item: -item[1]["median"]["answered_rate"])
    for name, entry in ordered:
        median, spread, ratios = entry["median"], entry["spread"], entry["ratios"]
        bound = " †" if any(run["generator_bound"] for run in entry["runs"]) else ""
        wrong = sum(sum(run["wrong"].values()) for run in entry["runs"])
        lines.append(
            f"| {name} {entry['version']}{bound} | {thousands(median['answered_rate'])} | {spread['answered_rate']:.0%}"
            f" | {thousands(median['peak_rate'])} | {spread['peak_rate']:.0%} | {median['cpu_per_reply'] * 1e6:.2f}"
            f" | {spread['cpu_per_reply']:.0%}"
            f" | {median['memory_octets'] / 2**20:.0f}"
            f" | {median['worker_octets'] / 2**20:.0f} | {median['latency_p50'] * 1e6:.0f}"
            f" | {median['latency_p99'] * 1e6:.0f} | {_ratio(ratios, 'answered_rate / best peer')}"
            f" | {_ratio(ratios, 'answered_rate / limit')} | {_ratio(ratios, 'answered_rate / look-up')} | {wrong} |"
        )
    lines += [
        "",
        "Latency and processor time per reply at half of what came back under overload, each repeat on a server started"
        " (and a table loaded) anew; MiB is the"
        " proportional set size of all processes, worker MiB the resident set of the busiest.",
    ]
    if any(run["generator_bound"] for entry in result["subjects"].values() for run in entry["runs"]):
        lines.append("† within 10 % of what the generator can do: it may be the generator that is measured.")
    for name, entry in ordered:
        if entry["remark"]:
            lines.append(f"* {name}: {entry['remark']}.")
    for name, entry in ordered:
        wrong_by: dict[str, int] = {}
        for run in entry["runs"]:
            for what, count in run["wrong"].items():
                wrong_by[what] = wrong_by.get(what, 0) + count
        if wrong_by:
            lines.append(
                f"* {name}, wrong: " + ", ".join(f"{what} {count:,}" for what, count in wrong_by.items()) + "."
            )
    lines += [f"* {name} was left out: {reason.splitlines()[0]}" for name, reason in result["left_out"].items()]
    for title, table in result.get("further", {}).items():
        lines += ["", f"## {title}", "", *_table(table)]
    if figures:
        lines += ["", f"![Responses over queries offered]({figures}-rates.svg)", "",
                  f"![Latency over queries offered]({figures}-latency.svg)", "",
                  f"![Highest rates, with the limits]({figures}-bars.svg)"]  # fmt: skip
    return "\n".join(lines) + "\n"


def _unsteady(result: dict[str, Any]) -> str:
    runs = [run["steady"] for entry in result["subjects"].values() for run in entry["runs"]]
    return (
        f"{runs.count(False)} of {len(runs)} measurements, in which it changed by more than 15 %, count only where a"
        " server has no other"
    )


def _ratio(ratios: dict[str, float], name: str) -> str:
    return f"{ratios[name]:.2f}" if name in ratios else ""


def _table(table: dict[str, Any]) -> list[str]:
    head = table["columns"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table["rows"]]
    return [*lines, *(["", table["remark"]] if table.get("remark") else [])]
