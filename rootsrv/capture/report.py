"""The report: one HTML document about what captures hold, whole without JavaScript or anything from elsewhere."""

import datetime
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import rootsrv
from rootsrv.capture.summary import label_text, qtype_text, rcode_text, source_text, summary
from rootsrv.capture.tally import PREFIXES, SIZE_STEP_OCTETS, Interval, Tally, prefix_text

_ROWS = 15  # of a table
_SERIES = 6  # colours of a chart
_POINTS = 360  # of a chart over time: two in three pixels of a telephone
_WIDTH, _HEIGHT = 640, 200  # of a chart, which is stretched to the room there is

_OBEYED = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys, or turns round what follows: files that others made say such things about themselves."""

_STYLE = """
:root{color-scheme:light dark;--text:#1b1f24;--dim:#59626d;--line:#d5dae0;--back:#f6f7f9;--card:#fff;
--c0:#2563a8;--c1:#d08700;--c2:#3d8b57;--c3:#a33b8f;--c4:#c4452f;--c5:#7a828c}
@media(prefers-color-scheme:dark){:root{--text:#e6e8eb;--dim:#9da6b0;--line:#333a42;--back:#14171a;--card:#1d2125;
--c0:#6cb0f5;--c1:#f0b429;--c2:#7fd39a;--c3:#e58ad4;--c4:#ff8a76;--c5:#8b949e}}
*{box-sizing:border-box}
body{margin:0;padding:1rem;background:var(--back);color:var(--text);font:15px/1.45 system-ui,sans-serif}
main{max-width:76rem;margin:auto;display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr))}
header,section,footer{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:1rem;min-width:0}
header,footer,.wide{grid-column:1/-1}
h1{font-size:1.3rem;margin:0 0 .3rem;overflow-wrap:anywhere}h2{font-size:1rem;margin:0 0 .6rem}
table+h2{margin-top:1.4rem}
p{margin:.3rem 0;overflow-wrap:anywhere}.dim,footer{color:var(--dim)}
dl{display:flex;flex-wrap:wrap;gap:.6rem 2rem;margin:.8rem 0 0}dt{color:var(--dim);font-size:.85rem}
dd{margin:0;font-size:1.15rem;font-weight:600;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{text-align:left;font-weight:400;padding:.2rem .7rem .2rem 0;border-top:1px solid var(--line)}
tr:first-child>*{border-top:0}th{overflow-wrap:anywhere}td.n{text-align:right;white-space:nowrap}
td.b{width:40%;padding-right:0}td.b svg{height:.8rem}
svg{display:block;width:100%}.chart{height:11rem;border-bottom:1px solid var(--line)}
.ticks{display:flex;justify-content:space-between;gap:.5rem}
.s0{fill:var(--c0)}.s1{fill:var(--c1)}.s2{fill:var(--c2)}.s3{fill:var(--c3)}.s4{fill:var(--c4)}.s5{fill:var(--c5)}
.key span{margin-right:.9rem;white-space:nowrap}.key span::before{content:"■ "}
.k0::before{color:var(--c0)}.k1::before{color:var(--c1)}.k2::before{color:var(--c2)}.k3::before{color:var(--c3)}
.k4::before{color:var(--c4)}.k5::before{color:var(--c5)}
@media(max-width:34rem){body{padding:.5rem}td.b{width:25%}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


def page(tally: Tally, title: str = "") -> str:
    """The document.  *title*: above it; without one, the hosts that the files name."""
    told = summary(tally)
    hosts = ", ".join(told["about"].get("host", ()))
    heading = title or (f"Queries to {hosts}" if hosts else "Queries")
    sections = [
        _section(
            "Queries by IP version and transport", _over_time(tally, lambda each: each.sources, _source), wide=True
        ),
        _section("Responses by RCODE", _over_time(tally, lambda each: each.rcodes, rcode_text), wide=True),
        _section("Types", _table(tally.qtypes, qtype_text)),
        _section("RCODEs", _table(tally.rcodes, rcode_text) + f"<h2>EDNS, DO, RD</h2>{_shares(told)}"),
        _section("Name length", _columns(_name_lengths(tally), "octets of the name", 8)),
        _section("Response length by RCODE", _columns(_response_lengths(tally), "octets", SIZE_STEP_OCTETS)),
        _section("Busiest networks", _networks(tally)),
        _section("Undelegated top-level domains", _undelegated(tally)),
    ]
    document = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(heading)}</title><style>{_STYLE}</style></head><body><main>"
        f"{_header(heading, told)}{''.join(sections)}{_footer(tally, told)}</main></body></html>\n"
    )
    return _OBEYED.sub(lambda found: f"\\x{ord(found[0]):02x}", document)


def _header(heading: str, told: Mapping[str, Any]) -> str:
    when = f"{told['first']} to {told['last']}" if told["first"] else "no time is known"
    rate = told["queries_per_second"]
    facts = [
        ("queries", f"{told['queries']:,}"),
        ("per second", "–" if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:,}"),
        ("malformed", f"{told['malformed']:,}"),
        ("lost", f"{told['lost']:,}"),
        *([("not wanted, or not in the sample", f"{told['not_sampled']:,}")] if told["not_sampled"] else []),
        ("files", f"{told['files']:,}"),
    ]
    shown = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in facts)
    return f"<header><h1>{escape(heading)}</h1><p class=dim>{escape(when)}</p><dl>{shown}</dl></header>"


def _footer(tally: Tally, told: Mapping[str, Any]) -> str:
    lines = [f"{key}: {', '.join(values)}" for key, values in told["about"].items()]
    lines += [f"{path} ends within a block" for path in told["cut_off"]]
    if unknown := told["losses_unknown"]:
        lines.append(
            f"What was lost is not known of {unknown:,} pcap files, which have no metadata (.json) beside them."
        )
    lines.append(f"One point is {tally.grain_seconds // 60} minutes or more. Made by rootsrv {rootsrv.__version__}.")
    return f"<footer>{''.join(f'<p>{escape(line)}</p>' for line in lines)}</footer>"


def _section(title: str, content: str, *, wide: bool = False) -> str:
    return f"<section{' class=wide' if wide else ''}><h2>{title}</h2>{content or '<p class=dim>None.</p>'}</section>"


def _table(counts: Counter[Any], text: Callable[[Any], str]) -> str:
    rows = [(text(thing), count) for thing, count in counts.most_common(_ROWS)]
    if rest := counts.total() - sum(count for _, count in rows):
        rows.append((f"{len(counts) - len(rows):,} others", rest))
    return _bars(rows, counts.total())


def _bars(rows: Sequence[tuple[str, int]], total: int, longest: int = 0) -> str:
    """A table with a bar a row; *total* is what 100 % is, *longest* what a whole bar is (0: the greatest count)."""
    if not rows or not total:
        return ""
    longest = longest or max(count for _, count in rows) or 1
    lines = [
        f"<tr><th scope=row>{escape(text)}</th><td class=n>{count:,}</td><td class=n>{100 * count / total:.1f} %</td>"
        '<td class=b><svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="s0" width="{100 * count / longest:.1f}" height="10"/></svg></td></tr>'
        for text, count in rows
    ]
    return f"<table>{''.join(lines)}</table>"


def _shares(told: Mapping[str, Any]) -> str:
    rows = [("with EDNS", told["edns"]), ("with DO", told["do"]), ("with RD", told["rd"])]
    return _bars(rows, told["queries"], told["queries"])


def _networks(tally: Tally) -> str:
    told = (
        f"<p class=dim>Clients are counted by /{PREFIXES[4]} and /{PREFIXES[6]}.{_doubt(tally.prefixes.forgotten)}</p>"
    )
    rows = [(prefix_text(*prefix), count) for prefix, count in tally.prefixes.most_common(_ROWS)]
    return told + bars if (bars := _bars(rows, tally.queries)) else ""


def _undelegated(tally: Tally) -> str:
    rows = [(label_text(label), count) for label, count in tally.undelegated.most_common(_ROWS)]
    share = f" of {tally.undelegated_queries:,} that were answered NXDOMAIN.{_doubt(tally.undelegated.forgotten)}"
    return f"<p class=dim>Queries{share}</p>{bars}" if (bars := _bars(rows, tally.undelegated_queries)) else ""


def _doubt(forgotten: int) -> str:
    return f" Rare ones were not kept: a count may be too low by up to {forgotten:,}." if forgotten else ""


# ── charts ──


def _source(source: tuple[int, int]) -> str:
    return source_text(*source)


def _kinds(totals: Counter[Any]) -> list[Any]:
    """The things that have a colour of their own, the most frequent first; the last colour is for all others."""
    kinds = [kind for kind, count in totals.most_common() if count]
    return kinds if len(kinds) <= _SERIES else kinds[: _SERIES - 1]


def _over_time(tally: Tally, of: Callable[[Interval], Counter[Any]], text: Callable[[Any], str]) -> str:
    """Areas on top of each other: how many a second."""
    if not tally.intervals:
        return ""
    grain = tally.grain_seconds
    first, last = min(tally.intervals), max(tally.intervals)
    width = grain * max(1, -(-((last - first) // grain + 1) // _POINTS))
    count = (last - first) // width + 1
    points: list[Counter[Any]] = [Counter() for _ in range(count)]
    for begin, interval in tally.intervals.items():
        points[(begin - first) // width].update(of(interval))
    totals: Counter[Any] = Counter()
    for point in points:
        totals.update(point)
    kinds = _kinds(totals)
    names = [text(kind) for kind in kinds] + (["others"] if len(kinds) < len(+totals) else [])
    if not names:
        return ""
    # The first and the last point may hold less than their time: what is known of it is counted.
    spans = [float(width)] * count
    if tally.first is not None and tally.last is not None:
        earliest, latest = tally.first / 10**6, tally.last / 10**6
        spans = [
            max(1.0, min(latest, first + (n + 1) * width) - max(earliest, first + n * width)) for n in range(count)
        ]
    values = []
    for point, span in zip(points, spans, strict=True):
        row = [point[kind] / span for kind in kinds]
        values.append([*row, (point.total() - sum(point[kind] for kind in kinds)) / span][: len(names)])
    top = max(map(sum, values)) or 1.0
    xs = [_WIDTH * number / count for number in range(count + 1)]
    shapes = []
    below = [0.0] * count
    for number in range(len(names)):
        above = [base + row[number] for base, row in zip(below, values, strict=True)]
        shapes.append(
            f'<polygon class="s{number}" points="{_steps(xs, above, top)} {_steps(xs, below, top, back=True)}"/>'
        )
        below = above
    ticks = [first + width * count * quarter / 4 for quarter in range(5)]
    return _chart(shapes, f"{_rate(top)}/s", [_clock(at, width * count) for at in ticks]) + _key(
        [f"{name} {_rate(sum(row[number] for row in values) / count)}/s" for number, name in enumerate(names)]
    )


def _steps(xs: Sequence[float], values: Sequence[float], top: float, *, back: bool = False) -> str:
    points = []
    for left, right, value in zip(xs, xs[1:], values, strict=False):
        y = _y(value, top)
        points += [f"{left:.1f},{y:.1f}", f"{right:.1f},{y:.1f}"]
    return " ".join(points[::-1] if back else points)


def _y(value: float, top: float) -> float:
    return _HEIGHT * (1 - value / top)


def _chart(shapes: Iterable[str], top: str, ticks: Sequence[str]) -> str:
    # Text stands beside the drawing, which is stretched: so it has one size on every screen.
    below = "".join(f"<span>{escape(tick)}</span>" for tick in ticks)
    return (
        f'<div class="dim">{escape(top)}</div><svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="at most {escape(top)}">{"".join(shapes)}</svg>'
        f'<div class="dim ticks">{below}</div>'
    )


def _key(names: Sequence[str]) -> str:
    return f'<p class="key">{" ".join(f"<span class=k{n}>{escape(name)}</span>" for n, name in enumerate(names))}</p>'


def _name_lengths(tally: Tally) -> list[tuple[str, Counter[int]]]:
    steps: Counter[int] = Counter()
    for octets, count in tally.name_octets.items():
        steps[octets // 8] += count
    return [("names", steps)] if steps else []


def _response_lengths(tally: Tally) -> list[tuple[str, Counter[int]]]:
    by_rcode: dict[int, Counter[int]] = {}
    for (rcode, step), count in tally.sizes.items():
        by_rcode.setdefault(rcode, Counter())[step] += count
    kinds = _kinds(Counter({rcode: counts.total() for rcode, counts in by_rcode.items()}))
    series = [(rcode_text(rcode), by_rcode[rcode]) for rcode in kinds]
    if others := [counts for rcode, counts in by_rcode.items() if rcode not in kinds]:
        series.append(("others", sum(others, Counter())))
    return series


_MOST_COLUMNS = 40


def _columns(series: Sequence[tuple[str, Counter[int]]], unit: str, step_octets: int) -> str:
    """Columns, stacked: how many have so many octets; the last column is for all that have more."""
    if not series:
        return ""
    count = min(_MOST_COLUMNS, 1 + max(max(counts) for _, counts in series))
    stacks = [[0] * len(series) for _ in range(count)]
    for number, (_, counts) in enumerate(series):
        for step, amount in counts.items():
            stacks[min(step, count - 1)][number] += amount
    top = max(map(sum, stacks)) or 1
    total = sum(map(sum, stacks))
    shapes = []
    width = _WIDTH / count
    for place, stack in enumerate(stacks):
        base = 0
        for number, amount in enumerate(stack):
            if amount:
                y, bottom = _y(base + amount, top), _y(base, top)
                shapes.append(
                    f'<rect class="s{number}" x="{place * width + 0.5:.1f}" y="{y:.1f}" '
                    f'width="{max(0.5, width - 1):.1f}" height="{bottom - y:.1f}"/>'
                )
            base += amount
    longer = any(step >= count for _, counts in series for step in counts)
    ticks = [str(step_octets * count * quarter // 4) for quarter in range(4)]
    ticks.append(f"{step_octets * count}{' and more' if longer else ''}")
    key = _key([f"{name} {counts.total():,}" for name, counts in series]) if len(series) > 1 else ""
    return _chart(shapes, f"{100 * top / total:.1f} % of all, by {unit}", ticks) + key


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _clock(second: float, span: float) -> str:
    """A time on an axis that is *span* seconds long; empty for one that no calendar has."""
    try:
        at = datetime.datetime.fromtimestamp(second, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return f"{at:%H:%M}" if span <= 2 * 86_400 else f"{at:%d %b %H:%M}" if span <= 10 * 86_400 else f"{at:%d %b}"
