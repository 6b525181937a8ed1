"""The picture at the top of README, drawn from the house as it is: `python -m bench.pictures` writes docs/pipeline.svg.

A box that names a file that is not there is an error, so the picture cannot outlive what it shows.
"""

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PIPELINE = REPOSITORY / "docs" / "pipeline.svg"

_WIDTH, _HEIGHT = 1000, 320
_BOX_WIDTH, _BOX_HEIGHT = 180, 84


@dataclass(frozen=True, slots=True)
class Box:
    """A step: where its middle is, what it does, and the file that does it."""

    x: int
    y: int
    title: str
    about: str
    path: str = ""
    """Below rootsrv/; empty = not ours."""


BOXES = {
    "zones in": Box(100, 80, "zones come", "primaries, mesh, files", "secondary/pipeline.py"),
    "verify": Box(300, 80, "verified", "DNSSEC, ZONEMD, or refused", "zone/verify.py"),
    "compile": Box(500, 80, "compiled once", "every answer as octets", "answer/compiler.py"),
    "table": Box(500, 240, "answer table", "a file, mapped by all", "answer/table.py"),
    "workers": Box(700, 240, "workers", "asyncio, one per core", "answer/responder.py"),
    "kernel": Box(700, 80, "kernel", "the same table, XDP and tc", "fastpath/bpf/rootsrv.bpf.c"),
    "resolvers": Box(910, 160, "resolvers", "UDP, TCP; v4, v6"),
    "health": Box(300, 240, "health", "asks as a resolver would", "health/state.py"),
    "route": Box(100, 240, "the route", "BIRD; a lease that runs out", "anycast/route.py"),
}

ARROWS = (
    ("zones in", "verify"), ("verify", "compile"), ("compile", "table"), ("compile", "kernel"), ("table", "workers"),
    ("kernel", "resolvers"), ("workers", "resolvers"), ("table", "health"), ("health", "route"),
)  # fmt: skip


def pipeline() -> str:
    """The picture as SVG; FileNotFoundError names what a box is wrong about."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        ' font-family="sans-serif" font-size="11.5" text-anchor="middle">',
        "<title>From a zone to an answer: verified, compiled once, answered by the kernel and by workers</title>",
        '<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="8" refY="4.5" orient="auto">'
        '<path d="M0,0 L9,4.5 L0,9 z" fill="#64748b"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    for start, end in ARROWS:
        (x1, y1), (x2, y2) = _edges(BOXES[start], BOXES[end])
        parts.append(
            f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="#64748b" stroke-width="1.6"'
            ' marker-end="url(#tip)"/>'
        )
    for box in BOXES.values():
        parts.append(_drawn(box))
    return "\n".join([*parts, "</svg>", ""])


def _drawn(box: Box) -> str:
    if box.path and not (REPOSITORY / "rootsrv" / box.path).is_file():
        raise FileNotFoundError(f"the picture names rootsrv/{box.path}, which is not there")
    fill, line = ("#f1f5f9", "#0f766e") if box.path else ("#ffffff", "#94a3b8")
    left, top = box.x - _width(box) / 2, box.y - _BOX_HEIGHT / 2
    texts = [(-16, 'font-size="15" font-weight="bold"', box.title), (6, "", box.about)]
    if box.path:
        texts.append((26, 'font-size="10.5" font-family="monospace" fill="#475569"', box.path))
    lines = "".join(f'<text x="{box.x}" y="{box.y + dy}" {how}>{escape(text)}</text>' for dy, how, text in texts)
    return (
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{_width(box)}" height="{_BOX_HEIGHT}" rx="8" fill="{fill}"'
        f' stroke="{line}" stroke-width="1.5"/>{lines}'
    )


def _width(box: Box) -> int:
    return _BOX_WIDTH if box.path else _BOX_WIDTH - 20


def _edges(one: Box, other: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the line between two middles leaves the first box and meets the second."""

    def edge(of: Box, to: Box) -> tuple[float, float]:
        dx, dy = to.x - of.x, to.y - of.y
        scale = min(
            (_width(of) / 2) / abs(dx) if dx else float("inf"), (_BOX_HEIGHT / 2) / abs(dy) if dy else float("inf")
        )
        return of.x + dx * scale, of.y + dy * scale

    return edge(one, other), edge(other, one)


if __name__ == "__main__":
    PIPELINE.write_text(pipeline())
    sys.exit(0)
