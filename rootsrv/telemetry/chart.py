"""Charts of the pages: areas on top of each other over a span of time, as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rootsrv.telemetry.page_style import rate

_WIDTH, _HEIGHT, _LABEL = 360, 100, 16  # the label stands above what is drawn


@dataclass(frozen=True, slots=True)
class ChartPoint:
    """What was measured over an interval that ends at `at` (seconds since 1970)."""

    at: float
    values: Sequence[float]
    """Per second, one for each name of the chart."""

    most: float = 0.0
    """The greatest sum within the interval."""


SPANS = {300: "5 minutes", 900: "15 minutes", 3600: "hour", 14_400: "4 hours", 86_400: "day"}
"""What a chart shows at most, in seconds, and how that is called."""


def span(points: Sequence[ChartPoint], least: int, most: int, interval_seconds: float) -> int:
    """The shortest of SPANS, from *least* to *most*, in which all *points* have room.

    Who has just started sees what there is, and not the edge of an empty hour.
    """
    age = points[-1].at - points[0].at + interval_seconds if points else 0
    return next((each for each in SPANS if each >= least and (each >= age or each == most)), most)


def areas(names: Sequence[str], points: Sequence[ChartPoint], seconds: float, interval_seconds: float) -> str:
    """The last *seconds* of *points*; *interval_seconds*: how long the first of them lasted."""
    if not points:
        return "<p class=dim>The first minute is still being counted.</p>"
    newest = points[-1].at
    points = [each for each in points if each.at > newest - seconds]
    top = max(max(sum(each.values), each.most) for each in points) or 1.0
    shapes = []
    below = [0.0] * len(points)
    xs = [_WIDTH * (1 - (newest - each.at) / seconds) for each in points]
    # One point alone would be a line without width.
    left = [max(0.0, xs[0] - _WIDTH * interval_seconds / seconds), *xs]
    for number in range(len(names)):
        above = [base + each.values[number] for base, each in zip(below, points, strict=True)]
        upper = _path(left, [above[0], *above], top)
        lower = _path(left[::-1], [*below[::-1], below[0]], top)
        shapes.append(f'<polygon class="s{number}" points="{upper} {lower}"/>')
        below = above
    if any(each.most > 1.01 * sum(each.values) for each in points):
        most = [max(sum(each.values), each.most) for each in points]
        shapes.append(f'<polyline class="most" points="{_path(left, [most[0], *most], top)}"/>')
    ago = f"{seconds / 3600:.0f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
    label = f"last {ago}: {', '.join(names)}: {rate(sum(points[-1].values))} now, at most {rate(top)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 18}" role="img" aria-label="{escape(label)}">{"".join(shapes)}'
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
        f'<text x="2" y="12">{rate(top)}</text><text x="2" y="{_HEIGHT + 14}">{ago} ago</text>'
        f'<text x="{_WIDTH - 2}" y="{_HEIGHT + 14}" text-anchor="end">now</text></svg>'
    )


def key(names: Sequence[str], values: Sequence[float]) -> str:
    """Which colour is what, and how much of it there is now."""
    return "".join(
        f'<span class="k{number}">{escape(name)} {rate(value)}</span> '
        for number, (name, value) in enumerate(zip(names, values, strict=True))
    )


def _path(xs: Sequence[float], values: Sequence[float], top: float) -> str:
    return " ".join(
        f"{x:.1f},{_HEIGHT - (_HEIGHT - _LABEL) * value / top:.1f}" for x, value in zip(xs, values, strict=True)
    )
