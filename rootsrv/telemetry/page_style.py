"""How the pages look, and what all of them are made of: style, sections, rows, marks, durations."""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root{color-scheme:light dark;--text:#1b1f24;--dim:#5b636d;--line:#d5dae0;--back:#f6f7f9;--card:#fff;--good:#17803d;
--bad:#c62828;--link:#1d4f91;--c0:#2563a8;--c1:#d08700;--c2:#a33b8f;--c3:#4b8f5b;--c4:#c4452f}
@media(prefers-color-scheme:dark){:root{--text:#e6e8eb;--dim:#9aa3ad;--line:#333a42;--back:#14171a;--card:#1d2125;
--good:#5fcf85;--bad:#ff7b72;--link:#8cc2ff;--c0:#6cb0f5;--c1:#f0b429;--c2:#e58ad4;--c3:#86d19a;--c4:#ff8a76}}
*{box-sizing:border-box}
body{margin:0;padding:1rem;background:var(--back);color:var(--text);font:15px/1.45 system-ui,sans-serif}
main{max-width:64rem;margin:auto;display:grid;gap:1rem;
grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr))}
header,section,footer{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.9rem 1rem;
min-width:0}
header,footer,.wide{grid-column:1/-1}
h1{font-size:1.25rem;margin:0}h2{font-size:.85rem;margin:0 0 .6rem;color:var(--dim);font-weight:600;
text-transform:uppercase;letter-spacing:.04em}
p{margin:.3rem 0}.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}
.big{font-size:1.15rem;font-weight:600}a{color:var(--link)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{text-align:left;padding:.2rem .6rem .2rem 0;vertical-align:top;border-top:1px solid var(--line);
overflow-wrap:anywhere}
tr:first-child>*{border-top:0}th{font-weight:400;color:var(--dim);overflow-wrap:normal}
ul{margin:0;padding-left:1.1rem}li{overflow-wrap:anywhere}svg{display:block;width:100%;height:auto}
text{fill:var(--dim);font-size:12px}.axis{stroke:var(--line)}
.s0{fill:var(--c0)}.s1{fill:var(--c1)}.s2{fill:var(--c2)}.s3{fill:var(--c3)}.s4{fill:var(--c4)}
.most{fill:none;stroke:var(--dim)}
.pair{display:grid;gap:.6rem 1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr))}
.key span::before{content:"■ "}.k0::before{color:var(--c0)}.k1::before{color:var(--c1)}.k2::before{color:var(--c2)}
.k3::before{color:var(--c3)}.k4::before{color:var(--c4)}.key span{margin-right:.8rem;white-space:nowrap}
"""


def source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def still_headers(style: str) -> dict[str, str]:
    """Of a page without a script: its own *style*, and nothing else."""
    nothing_else = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    policy = f"default-src 'none'; style-src {source_hash(style)}; {nothing_else}"
    return {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}


def runbook_entry(name: str) -> str:
    """Where in the page of the runbook the alarm or alert called *name* is: what stands behind the #."""
    return re.sub(r"[^a-z0-9]+", "-", f"on {name}".lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Problem:
    """What a person should look at."""

    text: str
    entry: str = ""
    """The alarm or alert that the runbook has it under; empty = none."""


def problems_list(problems: Sequence[Problem]) -> str:
    """As HTML, each with the way to what can be done about it."""
    lines = []
    for each in problems:
        place = f"/docs/runbook#{runbook_entry(each.entry)}"
        link = f' <a href="{place}" title="{escape(each.entry)}">what to do</a>' if each.entry else ""
        lines.append(f"<li>{escape(each.text)}{link}</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def section(title: str, body: str, kind: str = "") -> str:
    return f"<section{f' class={kind}' if kind else ''}><h2>{escape(title)}</h2>{body}</section>"


def rows_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values; values are HTML already."""
    return "<table>" + "".join(f"<tr><th>{escape(name)}</th><td>{value}</td></tr>" for name, value in rows) + "</table>"


def mark(good: bool, text: str) -> str:
    """*text* with a sign that does not rest on colour alone."""
    return f'<span class="{"good" if good else "bad"}">{"✓" if good else "✗"} {escape(text)}</span>'


def span(seconds: float | None) -> str:
    """A duration, to two places."""
    if seconds is None:
        return "–"
    if seconds < 0:
        return f"−{span(-seconds)}"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def rate(value: float) -> str:
    """A rate, short."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}/s"
    return f"{value:.0f}/s" if value >= 10 or value == 0 else f"{value:.1f}/s"
