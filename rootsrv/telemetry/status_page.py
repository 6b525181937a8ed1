"""The status page: one HTML document, made on the server, whole without JavaScript."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import rootsrv
from rootsrv.admission.samples import DIMENSIONS, PREFIX_DIMENSIONS
from rootsrv.config.file import Config
from rootsrv.page import counts
from rootsrv.telemetry.history import SERIES, Event, Rates
from rootsrv.telemetry.page_style import STYLE, mark, rate, rows_table, section, source_hash, span
from rootsrv.telemetry.prometheus import RCODES, Statistics
from rootsrv.telemetry.view import ADMISSION, Said, ServedZone, View
from rootsrv.zone import instant

STALE_SECONDS = 3900.0
"""As anycast.stale_soft_seconds, where that is not configured: RSSAC047v2 §5.4 looks for 65 minutes."""

CERTIFICATE_SECONDS = 14 * 86_400
"""Before a certificate's end it is told of."""

_REFRESH_SECONDS = 10
_EVENTS_SHOWN = 12
_VALUES_SHOWN = 3
_WIDTH, _HEIGHT, _LABEL = 360, 100, 16  # of a chart; the label stands above it

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
    rates: Sequence[Rates]
    events: Sequence[Event]


def render(content: Content, config: Config, name: str) -> str:
    """The page of the instance called *name*."""
    view = content.view
    wrong = list(problems(content, config))
    verdict = "well" if not wrong else f"{len(wrong)} to look at"
    told = view.role("maintain").objects("zones") or [_bare_zone(each) for each in view.zones]
    zones = [_zone(each) for each in told]
    parts = [
        _header(view, config, name, wrong),
        _announcement(view, config),
        *zones[:1],
        section("Queries per second, last hour", _queries_chart(content.rates)),
        section("Responses per second by rcode, last hour", _rcodes_chart(content.rates)),
        *zones[1:],
        _today(content.statistics),
        _flood(view, config),
        _over_tls(view),
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


def problems(content: Content, config: Config) -> Iterator[str]:
    """What a person should look at, worst first."""
    view = content.view
    maintain, advertise = view.role("maintain"), view.role("advertise")
    if view.silenced:
        yield "This instance has ceased to answer: a switchover failed."
    if not view.generation:
        yield "No zone is in service."
    for zone in view.zones:
        if zone.lease_seconds <= 0:
            yield f"Zone {zone.name} may not be served any more: it is answered SERVFAIL."
    for role in ("serve", "maintain", *(["advertise"] if config.anycast is not None else [])):
        if role not in view.roles:
            yield f"The role {role} does not answer."
    for family in advertise.objects("families"):
        name = f"IPv{family.text('ip_version')}"
        if not family.truth("announced"):
            yield f"{name} is not announced: {family.text('reason') or family.text('state')}."
        elif family.text("route") != "up":
            yield f"{name} is announced {family.text('route')}: {family.text('reason')}."
        yield from (f"{name}: {alarm}" for alarm in family.texts("alarms"))
    stale = config.anycast.stale_soft_seconds if config.anycast is not None else STALE_SECONDS
    for said in maintain.objects("zones"):
        if (age := said.number("known_age_seconds")) is not None and age > stale:
            yield f"Zone {said.text('name')} is stale: a newer serial has been known for {span(age)}."
        if held := said.objects("held"):
            serials = ", ".join(each.text("serial") for each in held)
            yield f"Zone {said.text('name')}: serial {serials} is held and waits for a decision."
    if config.dot is not None and "serve" in view.roles:
        dot = view.role("serve").object("dot")
        if not (dot.truth("ready") and dot.number("active") == view.generation):
            yield "DNS over TLS is not answered."
        if problem := dot.text("certificate_problem"):
            yield f"DNS over TLS shows another certificate than the configured one: {problem}."
        elif (left := dot.number("certificate_expires_seconds")) is not None and left < CERTIFICATE_SECONDS:
            yield f"The certificate of DNS over TLS expires in {span(max(0, left))}."
    admission = view.role(ADMISSION)
    if admission.object("limits").truth("falls_back"):
        yield "Limits are in dry-run: too many sources are over their rate."
    if rules := sum(not rule.truth("dry_run") for rule in admission.objects("rules")):
        yield f"{rules} shed rules are in force (rootsrv sheds)."
    yield from maintain.texts("alarms")
    late = [worker for worker in view.workers if not worker.pid or worker.active != view.generation]
    if late and view.generation:
        yield f"{len(late)} of {len(view.workers)} workers do not answer from the active table."
    if content.statistics.error:
        yield f"Statistics cannot be written: {content.statistics.error}."


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _header(view: View, config: Config, name: str, wrong: Sequence[str]) -> str:
    verdict = mark(not wrong, "All is well." if not wrong else "Somebody should look:")
    listed = "".join(f"<li>{escape(each)}</li>" for each in wrong)
    return (
        f"<header><h1>{escape(name)}</h1>"
        f'<p class="dim">{escape(config.report.service)} · {", ".join(map(escape, config.service.addresses))} · '
        f"as of <time>{escape(instant.to_text(view.now))}</time></p>"
        f'<p class="big">{verdict}</p>{f"<ul>{listed}</ul>" if listed else ""}'
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
        rows.append(("clock", mark(clock == "synchronised", clock)))
    if maintain:
        turn = maintain.object("switchover")
        at = f", set for {turn.text('activate_at')}" if turn.text("activate_at") else ""
        reason = f" ({turn.text('reason')})" if turn.text("reason") else ""
        text = f"{turn.text('state')}{at}{reason}"
        rows.append(("switchover", mark(turn.text("state") not in ("void", "failed"), text)))
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


def _queries_chart(rates: Sequence[Rates]) -> str:
    return _chart(list(counts.PATHS), [(each.at, [each.queries[path] for path in counts.PATHS]) for each in rates])


def _rcodes_chart(rates: Sequence[Rates]) -> str:
    return _chart(list(SERIES), [(each.at, [each.responses[name] for name in SERIES]) for each in rates])


def _chart(names: Sequence[str], points: Sequence[tuple[float, Sequence[float]]]) -> str:
    """Areas on top of each other over the last hour."""
    if not points:
        return "<p class=dim>The first minute is still being counted.</p>"
    newest = points[-1][0]
    points = [each for each in points if each[0] > newest - 3600]
    top = max(sum(values) for _, values in points) or 1.0
    shapes = []
    below = [0.0] * len(points)
    xs = [_WIDTH * (1 - (newest - at) / 3600) for at, _ in points]
    # One point alone would be a line without width.
    left = [max(0.0, xs[0] - _WIDTH / 360), *xs]
    for number in range(len(names)):
        above = [base + values[number] for base, (_, values) in zip(below, points, strict=True)]
        upper = _path(left, [above[0], *above], top)
        lower = _path(left[::-1], [*below[::-1], below[0]], top)
        shapes.append(f'<polygon class="s{number}" points="{upper} {lower}"/>')
        below = above
    label = f"{', '.join(names)}: {rate(sum(points[-1][1]))} now, at most {rate(top)}"
    key = " ".join(
        f'<span class="k{number}">{escape(name)} {rate(points[-1][1][number])}</span>'
        for number, name in enumerate(names)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 18}" role="img" aria-label="{escape(label)}">{"".join(shapes)}'
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
        f'<text x="2" y="12">{rate(top)}</text><text x="2" y="{_HEIGHT + 14}">1 h ago</text>'
        f'<text x="{_WIDTH - 2}" y="{_HEIGHT + 14}" text-anchor="end">now</text></svg><p class="key">{key}</p>'
    )


def _path(xs: Sequence[float], values: Sequence[float], top: float) -> str:
    return " ".join(
        f"{x:.1f},{_HEIGHT - (_HEIGHT - _LABEL) * value / top:.1f}" for x, value in zip(xs, values, strict=True)
    )


def _today(statistics: Statistics) -> str:
    record = statistics.today
    rows = [
        (key.removeprefix("dns-").replace("-", " "), f"{amount:,}") for key, amount in record.volume.items() if amount
    ]
    rows += [
        (RCODES.get(rcode, f"rcode {rcode}"), f"{amount:,}")
        for rcode, amount in sorted(record.rcodes.items())
        if amount
    ]
    rows += [(f"load time {serial}", f"{seconds:.0f} s") for serial, seconds in record.load_times.items()]
    rows += [(key.removeprefix("num-").replace("-", " "), f"≈ {n:,}") for key, n in statistics.sources.items()]
    return section(f"RSSAC002, {record.day} so far", rows_table(rows) if rows else "<p class=dim>Nothing yet.</p>")


def _flood(view: View, config: Config) -> str:
    """Who asks what over UDP, from samples of the last minute; limits and shed rules."""
    said = view.role(ADMISSION)
    if not said:
        return ""
    limits, flood = said.object("limits"), said.object("flood")
    rows = [
        ("queries per second", f"{flood.number('queries_per_second') or 0:,.0f}"),
        ("with a good cookie", f"{flood.number('with_cookie') or 0:.1%}"),
        ("limits", escape(limits.text("in_force"))),
    ]
    for rule in said.objects("rules"):
        does = "dry run" if rule.truth("dry_run") else rule.text("do")
        told = f"{does}, {rule.number('hits') or 0:,.0f} hits, ends in {span(rule.number('ends_in_seconds'))}"
        rows.append((rule.text("match"), escape(f"{told}: {rule.text('reason')}")))
    for dimension in DIMENSIONS:
        if dimension in PREFIX_DIMENSIONS and not config.limits.publish_prefixes:
            continue
        values = [
            f"{escape(each.text('value'))} {each.number('share') or 0:.0%}"
            for each in flood.object("top").objects(dimension)[:_VALUES_SHOWN]
        ]
        if values:
            rows.append((dimension, ", ".join(values)))
    return section("UDP, last minute", rows_table(rows))


def _over_tls(view: View) -> str:
    """DNS over TLS; nothing where it is not configured."""
    said = view.role("serve").object("dot")
    if not said:
        return ""
    words = view.tls_words
    shakes = {name: words[counts.TLS + at] for at, name in enumerate(counts.TLS_COUNTERS)}
    spent = shakes.pop("microseconds") / 1e6
    shown = f"{said.text('certificate')}, until {said.text('certificate_until')}"
    rows = [
        ("queries", f"{sum(words[counts.QUERIES : counts.QUERIES + 4]):,}"),
        ("open connections", f"{words[counts.TCP + counts.TCP_COUNTERS.index('open')]:,}"),
        *((name.replace("-", " "), f"{number:,}") for name, number in shakes.items()),
        ("spent on handshakes", f"{spent:.0f} s of processor time"),
        ("certificate", escape(shown)),
    ]
    return section(f"DNS over TLS, port {said.text('port')}", rows_table(rows))


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
    return f'<footer><p>Operator: {contact}</p><p class="dim">rootsrv {escape(rootsrv.__version__)}</p></footer>'
