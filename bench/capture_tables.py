"""`python -m bench.capture`: its tables."""

import itertools
import statistics
from typing import Any

from bench import capture_service, report

ADDED = ("facts", "packets")
"""What a row may hold."""


def to_markdown(result: dict[str, Any]) -> str:
    """A table of each part that has been measured."""
    parts = {
        "costs": _costs,
        "processor": _processor,
        "rates": _rates,
        "replayed": _rates,
        "service": capture_service.to_lines,
    }
    lines = ["# What a capture costs, and what it takes", ""]
    for name, part in parts.items():
        if measured := result.get(name):
            seconds = f" --seconds {measured['seconds']:g}" if name in TIMED else ""
            if name == "costs" and measured.get("short"):
                seconds = f" {measured['short']}"
            told = measured["machine"]
            lines += [f"## {TITLES[name]}", "", *part(measured["rows"]), ""]
            lines += [f"{told['started']}, `python -m bench.capture --only {name}{seconds}`", ""]
    lines += report.machine_lines(told)[1:]
    return "\n".join(lines) + "\n"


TITLES = {
    "costs": "Nanoseconds per query of the mix, by test runs; what comes to them: medians of the loads (quartiles)",
    "processor": "Processor time of the collector, files included, alone on its core",
    "rates": "Highest rate without a loss, beside the fast path on the other core",
    "replayed": "Highest rate without a loss, of rows that were made before",
    "service": "Service beside a capture, and without",
}
TIMED = ("rates", "replayed", "service")


def _costs(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| hook | without | off | the same, loaded again | a row of facts | of packets |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = []
        for name in ("none", "off", "again", *ADDED):
            lower, _, upper = statistics.quantiles(row[name], n=4)
            cells.append(f"{statistics.median(row[name]):.1f} ({lower:.1f} … {upper:.1f})")
        lines.append(f"| {row['hook']} | {' | '.join(cells)} |")
    return lines


def _processor(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| file | µs per query | queries per second | octets per query |", "|---|--:|--:|--:|"]
    for row in rows:
        each = row["microseconds"]
        lines.append(f"| {_kind(row)} | {each:.2f} | {1e6 / each:,.0f} | {row['octets']:.1f} |")
    return lines


def _rates(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| file | a second, without a loss | µs of processor a query | octets a query | ring at most | next step |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for kind, group in itertools.groupby(rows, _kind):
        steps = list(group)
        whole = [row for row in steps if not row["lost"]]
        last = steps[-1]
        after = f"{last['lost']} of {last['answered']} lost at {last['rate']:,.0f}" if last["lost"] else "not offered"
        if not whole:
            lines.append(f"| {kind} | – | | | | {after} |")
            continue
        best = max(whole, key=lambda row: float(row["rate"]))
        mean = statistics.median(row["microseconds"] for row in whole[-3:])
        lines.append(
            f"| {kind} | {best['rate']:,.0f} | {mean:.2f} | {best['octets']:.1f} | {best['fill']:.0%} | {after} |"
        )
    return lines


def _kind(row: dict[str, Any]) -> str:
    return f"{row['format']}, {row['compression']}"
