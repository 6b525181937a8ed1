"""Plots of a comparison, PNG and SVG (matplotlib, from the `bench` extra)."""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

_COLOURS = {"rootsrv": "#c2410c", "peer": "#1d4ed8", "limit": "#6b7280"}
_MARKERS = "osv^Dx*P"


def comparison(result: dict[str, Any], stem: Path) -> list[Path]:
    """Responses and latency over offered load, and bars of the highest rates with the limits drawn in."""
    return [*_rates(result, stem), *_latency(result, stem), *_bars(result, stem)]


def _save(figure: Any, stem: Path, name: str) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}-{name}.{kind}") for kind in ("png", "svg")]
    figure.tight_layout()
    for path in paths:
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


Step = tuple[float, float, float, float]
"""Offered and answered per second, p50 and p99 in seconds: as `measure.Figures.walk` has it."""


def medians(runs: Sequence[dict[str, Any]]) -> list[tuple[Step, Step, Step]]:
    """Median, smallest and largest of each step of the walk over all repeats; of offered rates the median thrice.

    The n-th step is the same share of the overload in every repeat; where one stopped earlier, it is of those that took
    it.
    """
    steps = []
    for taken in itertools.zip_longest(*(run["walk"] for run in runs)):
        columns = list(zip(*(step for step in taken if step is not None), strict=True))
        known = [[value for value in column if value is not None and math.isfinite(value)] for column in columns]
        offered = statistics.median(known[0])
        low, middle, high = (
            (offered, *(pick(values) if values else math.nan for values in known[1:]))
            for pick in (min, statistics.median, max)
        )
        steps.append((middle, low, high))
    return sorted(steps)


def _lines(result: dict[str, Any]) -> Iterator[tuple[str, list[tuple[Step, Step, Step]], dict[str, Any]]]:
    for number, (name, entry) in enumerate(result["subjects"].items()):
        style = {"color": _COLOURS[entry["kind"]], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 4}
        if entry["kind"] == "limit":
            style["linestyle"] = ":"
        yield name, medians(entry["runs"]), style


def _draw(axes: Any, steps: Sequence[tuple[Step, Step, Step]], column: int, unit: float, **style: Any) -> None:
    """The median as a line, smallest to largest as a band."""
    offered = [middle[0] / 1000 for middle, _, _ in steps]
    axes.plot(offered, [middle[column] * unit for middle, _, _ in steps], **style)
    low, high = ([step[side][column] * unit for step in steps] for side in (1, 2))
    axes.fill_between(offered, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _finish(figure: Any, axes: Any, label: str, stem: Path, name: str) -> list[Path]:
    axes.set_xlabel("queries offered, thousands per second (lines: median, bands: all repeats)")
    axes.set_ylabel(label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    return _save(figure, stem, name)


def _rates(result: dict[str, Any], stem: Path) -> list[Path]:
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, steps, style in _lines(result):
        _draw(axes, steps, 1, 1e-3, label=name, **style)
    return _finish(figure, axes, "responses, thousands per second", stem, "rates")


def _latency(result: dict[str, Any], stem: Path) -> list[Path]:
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, steps, style in _lines(result):
        _draw(axes, steps, 3, 1e6, label=f"{name}, p99", **style)
        offered = [middle[0] / 1000 for middle, _, _ in steps]
        axes.plot(offered, [middle[2] * 1e6 for middle, _, _ in steps], color=style["color"], alpha=0.35, linewidth=1)
    return _finish(figure, axes, "microseconds (thin: p50)", stem, "latency")


def _bars(result: dict[str, Any], stem: Path) -> list[Path]:
    servers = {name: entry for name, entry in result["subjects"].items() if entry["kind"] != "limit"}
    ordered = sorted(servers, key=lambda name: servers[name]["median"]["answered_rate"])
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(ordered) + 1.8))
    for place, name in enumerate(ordered):
        entry = servers[name]
        values = [run["answered_rate"] / 1000 for run in entry["runs"]]
        middle = entry["median"]["answered_rate"] / 1000
        error = [[middle - min(values)], [max(values) - middle]]
        axes.barh(place, middle, color=_COLOURS[entry["kind"]], xerr=error, capsize=3)
        axes.text(max(values), place, f"  {middle:,.0f}", va="center", fontsize=8)
    for name, entry in result["subjects"].items():
        if entry["kind"] == "limit":
            limit = entry["median"]["answered_rate"] / 1000
            axes.axvline(limit, color=_COLOURS["limit"], linestyle=":")
            axes.text(limit, len(ordered) - 0.45, name, rotation=0, fontsize=7, ha="right", color=_COLOURS["limit"])
    axes.set_yticks(range(len(ordered)), ordered)
    axes.set_xlabel("highest rate answered ≥ 99.9 %, thousands per second (median; whiskers: all repeats)")
    return _save(figure, stem, "bars")
