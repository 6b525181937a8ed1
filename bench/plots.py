"""Plots of a comparison, PNG and SVG (matplotlib, from the `bench` extra)."""

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


def _lines(result: dict[str, Any]) -> Any:
    for number, (name, entry) in enumerate(result["subjects"].items()):
        walk = sorted(entry["runs"][-1]["walk"])
        style = {"color": _COLOURS[entry["kind"]], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 4}
        if entry["kind"] == "limit":
            style["linestyle"] = ":"
        yield name, walk, style


def _rates(result: dict[str, Any], stem: Path) -> list[Path]:
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, walk, style in _lines(result):
        axes.plot([step[0] / 1000 for step in walk], [step[1] / 1000 for step in walk], label=name, **style)
    axes.set_xlabel("queries offered, thousands per second")
    axes.set_ylabel("responses, thousands per second")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    return _save(figure, stem, "rates")


def _latency(result: dict[str, Any], stem: Path) -> list[Path]:
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, walk, style in _lines(result):
        rates = [step[0] / 1000 for step in walk]
        axes.plot(rates, [(step[3] or 0) * 1e6 for step in walk], label=f"{name}, p99", **style)
        axes.plot(rates, [(step[2] or 0) * 1e6 for step in walk], color=style["color"], alpha=0.35, linewidth=1)
    axes.set_xlabel("queries offered, thousands per second")
    axes.set_ylabel("microseconds (thin: p50)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    return _save(figure, stem, "latency")


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
