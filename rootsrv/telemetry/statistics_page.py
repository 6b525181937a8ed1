"""The public page of a service's statistics: the last day and the last 30, all instances together (RSSAC002v5)."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from rootsrv.process import json_text
from rootsrv.telemetry.page_style import STYLE, rows_table, section, still_headers
from rootsrv.telemetry.rssac002 import SOURCE_KEYS, DayRecord, RecordDamaged
from rootsrv.telemetry.utilisation import Utilisation
from rootsrv.wire.codes import rcode_text

SHOWN_DAYS = 30
_WIDTH, _HEIGHT = 720, 160
_PATHS = ("udp-ipv4", "udp-ipv6", "tcp-ipv4", "tcp-ipv6")
_BIN_OCTETS = 16

PAGE_HEADERS = still_headers(STYLE)


@dataclass(frozen=True, slots=True)
class FleetDay:
    """One day of all instances."""

    record: DayRecord
    instances: tuple[str, ...]
    """Those that are counted."""

    missing: tuple[str, ...] = ()
    refused: Mapping[str, str] | None = None
    """By name, why a record is left out."""

    used: Mapping[str, Utilisation] = field(default_factory=dict)
    """By name, what instances used of their machines."""


def read(directory: Path) -> list[FleetDay]:
    """The last days in *directory*, oldest first; a file that cannot be read is passed over."""
    days = []
    for path in sorted(directory.glob("????????.json"))[-SHOWN_DAYS:]:
        try:
            document = json_text.parse(path.read_bytes())
            days.append(
                FleetDay(
                    DayRecord.from_document(document["record"]),
                    tuple(map(str, document["instances"])),
                    tuple(map(str, document["missing"])),
                    {str(name): str(why) for name, why in document["refused"].items()},
                    {str(n): Utilisation.from_document(each) for n, each in document.get("utilisation", {}).items()},
                )
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecordDamaged):
            continue
    return days


def render(days: Sequence[FleetDay], service: str, contact: str) -> str:
    """The page of *service*; *days* oldest first."""
    parts = [f'<header><h1>{escape(service)}</h1><p class="dim">Statistics by RSSAC002v5, all instances</p></header>']
    if not days:
        parts.append(section("Statistics", "<p class=dim>No day is over yet.</p>", "wide"))
    else:
        parts += _day(days[-1])
        parts += _month(days)
    parts.append(f"<footer><p>{escape(contact) or 'no contact is configured'}</p></footer>")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(service)}: statistics</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _day(day: FleetDay) -> list[str]:
    record = day.record
    volumes = [
        (path.replace("-", " "), f"{queries(record, path):,} queries, {responses(record, path):,} responses")
        for path in _PATHS
    ]
    total = sum(record.rcodes.values()) or 1
    codes = [
        (rcode_text(rcode), f"{amount:,} ({100 * amount / total:.2f} %)")
        for rcode, amount in sorted(record.rcodes.items(), key=lambda each: -each[1])
    ]
    sources = [(key.removeprefix("num-").replace("-", " "), f"≈ {n:,}") for key, n in record.unique_sources().items()]
    loads = [(str(serial), f"{seconds:.0f} s") for serial, seconds in sorted(record.load_times.items())]
    counted = f"{len(day.instances)} instances" + (f"; missing: {', '.join(day.missing)}" if day.missing else "")
    left_out = [(name, escape(why)) for name, why in (day.refused or {}).items()]
    return [
        section(f"{record.day}: volume", rows_table([*volumes, ("counted", escape(counted))])),
        section("Responses by rcode", rows_table(codes)),
        section("Unique sources", rows_table(sources)),
        section("Load time, by serial (95 % of instances)", rows_table(loads or [("–", "no new serial")])),
        section("UDP responses by size, octets", _sizes(record.sizes.get("udp-response-sizes", {})), "wide"),
        *([section("Left out", rows_table(left_out), "wide")] if left_out else []),
        *([section("Use of machines (RFC 2870 §4)", _use(day.used), "wide")] if day.used else []),
    ]


def _use(used: Mapping[str, Utilisation]) -> str:
    """A line for each instance."""
    head = "".join(f"<th>{each}</th>" for each in ("instance", "processor", "memory", "disk", "received", "sent"))
    rows = []
    for name, each in sorted(used.items()):
        disk = 100 * each.disk_octets_used / (each.disk_octets_total or 1)
        cells = (
            f"{each.processor_percent:.1f} %, at most {each.processor_percent_peak:.0f} % of {each.processors}",
            f"{each.memory_octets_peak / 1e6:,.0f} MB; machine at most {each.memory_percent_peak:.0f} %",
            f"{disk:.0f} % of {each.disk_octets_total / 1e9:,.0f} GB",
            f"{each.network_octets_received / 1e9:,.2f} GB",
            f"{each.network_octets_sent / 1e9:,.2f} GB; at most {each.network_bits_per_second_peak / 1e6:,.1f} Mbit/s",
        )
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def queries(record: DayRecord, path: str) -> int:
    """Received on *path* (udp-ipv4 …)."""
    transport, family = path.split("-")
    return record.volume.get(f"dns-{transport}-queries-received-{family}", 0)


def responses(record: DayRecord, path: str) -> int:
    """Sent on *path*."""
    transport, family = path.split("-")
    return record.volume.get(f"dns-{transport}-responses-sent-{family}", 0)


def _month(days: Sequence[FleetDay]) -> list[str]:
    labels = [each.record.day for each in days]
    by_path = {path: [queries(each.record, path) for each in days] for path in _PATHS}
    sources = {key.removeprefix("num-"): [each.record.unique_sources()[key] for each in days] for key in SOURCE_KEYS}
    codes = sorted({rcode for each in days for rcode, amount in each.record.rcodes.items() if amount})[:4]
    by_rcode = {rcode_text(code): [each.record.rcodes.get(code, 0) for each in days] for code in codes}
    return [
        section(f"Queries a day, last {len(days)} days", bars(labels, by_path), "wide"),
        section("Responses a day by rcode", bars(labels, by_rcode), "wide"),
        section("Unique sources a day", lines(labels, sources), "wide"),
    ]


def bars(labels: Sequence[datetime.date], series: Mapping[str, Sequence[int]]) -> str:
    """A bar for each day, its parts on top of each other."""
    top = max((sum(each) for each in zip(*series.values(), strict=True)), default=0) or 1
    step = _WIDTH / len(labels)
    shapes = []
    for number, day in enumerate(labels):
        below = 0.0
        for kind, values in enumerate(series.values()):
            height = (_HEIGHT - 20) * values[number] / top
            below += height
            shapes.append(
                f'<rect class="s{kind}" x="{number * step + 1:.1f}" width="{max(1.0, step - 2):.1f}" '
                f'y="{_HEIGHT - below:.1f}" height="{height:.1f}"><title>{day}: {values[number]:,}</title></rect>'
            )
    return _framed("".join(shapes), labels, top, list(series))


def lines(labels: Sequence[datetime.date], series: Mapping[str, Sequence[int]]) -> str:
    """A line for each of *series*."""
    top = max((max(values) for values in series.values()), default=0) or 1
    step = _WIDTH / max(1, len(labels))
    shapes = []
    for kind, values in enumerate(series.values()):
        for number, value in enumerate(values):
            x, y = (number + 0.5) * step, _HEIGHT - (_HEIGHT - 20) * value / top
            shapes.append(f'<circle class="s{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{value:,}</title></circle>')
    return _framed("".join(shapes), labels, top, list(series))


def _sizes(bins: Mapping[int, int]) -> str:
    """How many responses had how many octets."""
    if not bins:
        return "<p class=dim>None.</p>"
    last = max(bins)
    top = max(bins.values()) or 1
    step = _WIDTH / (last + 1)
    shapes = "".join(
        f'<rect class="s0" x="{number * step:.1f}" width="{max(0.7, step - 0.4):.2f}" '
        f'y="{_HEIGHT - (_HEIGHT - 20) * amount / top:.1f}" height="{(_HEIGHT - 20) * amount / top:.1f}">'
        f"<title>{number * _BIN_OCTETS} octets: {amount:,}</title></rect>"
        for number, amount in sorted(bins.items())
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 18}" role="img" aria-label="by size, at most {top:,}">{shapes}'
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
        f'<text x="2" y="12">{top:,}</text><text x="2" y="{_HEIGHT + 14}">0</text>'
        f'<text x="{_WIDTH - 2}" y="{_HEIGHT + 14}" text-anchor="end">{(last + 1) * _BIN_OCTETS}</text></svg>'
    )


def _framed(shapes: str, labels: Sequence[datetime.date], top: int, names: Sequence[str]) -> str:
    key = " ".join(f'<span class="k{kind}">{escape(name)}</span>' for kind, name in enumerate(names))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 18}" role="img" aria-label="at most {top:,} a day">{shapes}'
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
        f'<text x="2" y="12">{top:,}</text><text x="2" y="{_HEIGHT + 14}">{labels[0]}</text>'
        f'<text x="{_WIDTH - 2}" y="{_HEIGHT + 14}" text-anchor="end">{labels[-1]}</text></svg><p class="key">{key}</p>'
    )
