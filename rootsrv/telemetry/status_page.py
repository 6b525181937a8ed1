"""The status page: one HTML document, made on the server, whole without JavaScript."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import rootsrv
from rootsrv.config.file import Config
from rootsrv.page import counts
from rootsrv.telemetry import chart
from rootsrv.telemetry.chart import ChartPoint
from rootsrv.telemetry.history import PATHS, POINT_SECONDS, SAMPLE_SECONDS, SERIES, Event, Rates
from rootsrv.telemetry.page_style import (
    STYLE,
    Problem,
    mark,
    problems_list,
    rows_table,
    section,
    source_hash,
    span,
)
from rootsrv.telemetry.problems import problems
from rootsrv.telemetry.prometheus import Statistics
from rootsrv.telemetry.status_sections import capture, flood, localroot, mesh, over_tls
from rootsrv.telemetry.view import Said, ServedZone, View, expected_roles
from rootsrv.wire.codes import rcode_text
from rootsrv.zone import instant
from rootsrv.zone.lease import CAN_BE_BELIEVED

_REFRESH_SECONDS = 10
_EVENTS_SHOWN = 12

_SCRIPT = f"""
setInterval(async () => {{
  const note = document.getElementById("late");
  try {{
    const answer = await fetch("/", {{cache: "no-store"}});
    if (!answer.ok) throw 0;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.title = page.title;
  }} catch {{ if (note) note.hidden = false; }}
}}, {_REFRESH_SECONDS * 1000});
"""

_POLICY = (
    f"default-src 'none'; style-src {source_hash(STYLE)}; script-src {source_hash(_SCRIPT)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
"""Its own style and script, and nothing else."""


@dataclass(frozen=True, slots=True)
class Content:
    """What the page shows."""

    statistics: Statistics
    view: View
    hour: Sequence[Rates]
    day: Sequence[Rates]
    events: Sequence[Event]
    capture_lost: int = 0
    """Queries that a capture has lost lately."""


def render(content: Content, config: Config, name: str) -> str:
    """The page of the instance called *name*."""
    view = content.view
    wrong = list(problems(view, config, content.statistics.error, content.capture_lost))
    verdict = "well" if not wrong else f"{len(wrong)} to look at"
    told = view.role("maintain").objects("zones") or [_bare_zone(each) for each in view.zones]
    zones = [_zone(each) for each in told]
    answers = "serve" in expected_roles(config)
    parts = [
        _header(view, config, name, wrong),
        _announcement(view, config) if answers else "",
        *zones[:1],
        *(_charts(content, config) if answers else ()),
        *zones[1:],
        mesh(view, config),
        localroot(view, config),
        flood(view, config),
        over_tls(view, config),
        capture(view, config),
        _today(content.statistics) if answers else "",
        _processes(view),
        _events(content.events),
        _footer(config),
    ]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: {verdict}</title>"
        f'<noscript><meta http-equiv="refresh" content="{3 * _REFRESH_SECONDS}"></noscript>'
        f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main><script>{_SCRIPT}</script></body></html>\n"
    )


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _header(view: View, config: Config, name: str, wrong: Sequence[Problem]) -> str:
    verdict = mark(not wrong, "All is well." if not wrong else "Somebody should look:")
    what, where = config.report.service, config.service.addresses
    if config.localroot is not None:
        what, where = config.localroot.name, config.localroot.addresses
    elif config.hyperlocal is not None:
        what, where = "hyperlocal", config.service.addresses if config.hyperlocal.answer else ()
    return (
        f"<header><h1>{escape(name)}</h1>"
        f'<p class="dim">{" · ".join(map(escape, filter(None, (what, ", ".join(where)))))} · '
        f"as of <time>{escape(instant.to_text(view.now))}</time></p>"
        f'<p class="big">{verdict}</p>{problems_list(wrong)}'
        '<p id="late" class="bad" hidden>This page is not being refreshed: the server does not answer.</p></header>'
    )


def _announcement(view: View, config: Config) -> str:
    rows = []
    for family in view.role("advertise").objects("families"):
        announced = bool(family.truth("announced"))
        state = f"{family.text('state')} for {span(family.number('since_seconds'))}"
        shown = mark(announced and family.text("route") == "up", f"{family.text('route')} ({state})")
        confirmed = "" if family.truth("confirmed") else ", not confirmed by the routing daemon"
        reason = f"<br><span class=dim>{escape(family.text('reason') + confirmed)}</span>"
        rows.append((family.text("prefix") or f"IPv{family.text('ip_version')}", shown + reason))
    if not rows:
        reason = "nothing is announced from here" if config.anycast is None else "the role advertise does not answer"
        rows.append(("route", f'<span class="{"dim" if config.anycast is None else "bad"}">{reason}</span>'))
    maintain = view.role("maintain")
    if clock := maintain.text("clock"):
        rows.append(("clock", mark(clock in CAN_BE_BELIEVED, clock)))
    if maintain:
        turn = maintain.object("switchover")
        at = f", set for {turn.text('activate_at')}" if turn.text("activate_at") else ""
        reason = f" ({turn.text('reason')})" if turn.text("reason") else ""
        state = turn.text("state")
        text = f"{'none since the start' if state == 'none' else state}{at}{reason}"
        rows.append(("switchover", mark(state not in ("void", "failed"), text)))
    return section("Is it announced?", rows_table(rows))


def _bare_zone(zone: ServedZone) -> Said:
    """What the shared page alone tells of a zone, as maintain would say it."""
    return Said({"name": zone.name, "served": zone.serial, "lease_seconds": zone.lease_seconds})


def _zone(zone: Said) -> str:
    behind = zone.number("known_age_seconds")
    lease = zone.number("lease_seconds")
    fresh = behind is None and lease is not None and lease > 0
    text = "fresh" if fresh else "expired" if lease is not None and lease <= 0 else f"behind for {span(behind)}"
    rows = [("state", mark(fresh, text))]
    for stage in ("known", "received", "scheduled", "served"):
        age = zone.number(f"{stage}_age_seconds") if stage != "known" else None
        shown = escape(zone.text(stage) or "–")
        rows.append((stage, f"{shown} <span class=dim>{escape(f'{span(age)} ago') if age is not None else ''}</span>"))
    rows.append(("confirmed", f"{span(zone.number('confirmed_age_seconds'))} ago"))
    rows.append(("may be served for", span(lease)))
    if zone.text("signatures_until"):
        rows.append(("signed until", escape(zone.text("signatures_until"))))
    if zone.text("source"):
        rows.append(("from", escape(zone.text("source"))))
    for held in zone.objects("held"):
        why = "; ".join(held.texts("reasons"))
        rows.append(("held", mark(False, f"{held.text('serial')}: {why}")))
    if zone.text("last_rejection"):
        rows.append(("last rejection", mark(False, zone.text("last_rejection"))))
    rows += [("suspicious", escape(alarm)) for alarm in zone.texts("alarms")]
    for primary in zone.objects("primaries"):
        answers = primary.truth("reachable")
        told = f"{primary.text('name')}: {primary.text('serial') or 'no serial yet'}"
        trouble = f" {primary.text('last_error')}" if primary.text("last_error") else ""
        rows.append(("primary", mark(answers is not False, told + trouble)))
    return section(f"Is it fresh? Zone {zone.text('name')}", rows_table(rows))


def _charts(content: Content, config: Config) -> Iterator[str]:
    paths = PATHS if config.dot is not None else counts.PATHS
    both = (content.hour, content.day)
    queries = [
        [ChartPoint(each.at, [each.queries[path] for path in paths], each.most_queries) for each in rates]
        for rates in both
    ]
    responses = [
        [ChartPoint(each.at, [each.responses[name] for name in SERIES], each.most_responses) for each in rates]
        for rates in both
    ]
    yield _hour_and_day("Queries per second", paths, *queries)
    yield _hour_and_day("Responses per second by rcode", SERIES, *responses)


def _hour_and_day(title: str, names: Sequence[str], hour: Sequence[ChartPoint], day: Sequence[ChartPoint]) -> str:
    charts = []
    for points, least, most, interval, about in (
        (hour, 300, 3600, SAMPLE_SECONDS, ""),
        (day, 14_400, 86_400, POINT_SECONDS, "; line: busiest 10 s of each 5 min"),
    ):
        seconds = chart.span(points, least, most, interval)
        drawn = chart.areas(names, points, seconds, interval)
        charts.append(f"<div><p class=dim>last {chart.SPANS[seconds]}{about}</p>{drawn}</div>")
    now = f'<p class="key">{chart.key(names, hour[-1].values)}</p>' if hour else ""
    return section(title, f'<div class="pair">{"".join(charts)}</div>{now}', "wide")


def _today(statistics: Statistics) -> str:
    record = statistics.today
    rows = [
        (key.removeprefix("dns-").replace("-", " "), f"{amount:,}") for key, amount in record.volume.items() if amount
    ]
    rows += [(rcode_text(rcode), f"{amount:,}") for rcode, amount in sorted(record.rcodes.items()) if amount]
    rows += [(f"load time {serial}", f"{seconds:.0f} s") for serial, seconds in record.load_times.items()]
    rows += [(key.removeprefix("num-").replace("-", " "), f"≈ {n:,}") for key, n in statistics.sources.items()]
    return section(f"RSSAC002, {record.day} so far", rows_table(rows) if rows else "<p class=dim>Nothing yet.</p>")


def _processes(view: View) -> str:
    rows = [
        (each.name, f"{each.resident_octets / 1e6:.0f} MB, {each.cpu_seconds:.0f} s of processor time")
        for each in view.processes
    ]
    rows.append(("workers replaced", str(view.replaced)))
    rows.append(("answer table", f"generation {view.generation}"))
    events = view.role("maintain").numbers("security_events")
    rows += [(f"security: {name}", f"{amount:.0f}") for name, amount in events.items() if amount]
    for interface in view.role("fastpath").objects("interfaces"):
        why = f" <span class=dim>{escape(interface.text('why'))}</span>"
        rows.append((f"fast path {interface.text('name')}", escape(interface.text("hook")) + why))
    return section("Processes", rows_table(rows))


def _events(events: Sequence[Event]) -> str:
    rows = [(each.at, escape(each.text)) for each in events[:_EVENTS_SHOWN]]
    return section("Last events", rows_table(rows) if rows else "<p class=dim>None yet.</p>", "wide")


def _footer(config: Config) -> str:
    contact = escape(config.report.contact) or "no contact is configured (report.contact)"
    links = ['<a href="/docs/runbook">runbook</a>', '<a href="/metrics">metrics</a>']
    if config.mesh is not None:
        links.insert(0, '<a href="/mesh">the fleet</a>')
    return (
        f"<footer><p>Operator: {contact}</p><p>{' · '.join(links)}</p>"
        f'<p class="dim">rootsrv {escape(rootsrv.__version__)}</p></footer>'
    )
