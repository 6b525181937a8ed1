"""The fleet page: all members of a mesh, as one of them sees them; whole without JavaScript."""
# The map has no tiles: nothing is fetched from elsewhere.  Its outlines are in the public domain (outlines.py).
# Equirectangular: x is the longitude, y the latitude.

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from rootsrv.telemetry.outlines import COUNTRIES, PER_DEGREE
from rootsrv.telemetry.page_style import (
    STYLE,
    Problem,
    mark,
    problems_list,
    rows_table,
    section,
    span,
    still_headers,
)
from rootsrv.telemetry.problems import of_the_engine
from rootsrv.telemetry.view import Said, View
from rootsrv.zone import instant
from rootsrv.zone.lease import CAN_BE_BELIEVED

REFRESH_SECONDS = 15

OLD_SECONDS = 130.0
"""A status is written at least once a minute; one that is older was not renewed."""

_WIDTH, _HEIGHT = 720, 360
_ORDERS_SHOWN = 6
_PROBLEMS_SHOWN = 20
_LAND = f'<path class="country" transform="scale({_WIDTH / (360 * PER_DEGREE):g})" d="{COUNTRIES}"/>'

_FLEET_STYLE = (
    STYLE
    + """
main{max-width:96rem}.scroll{overflow-x:auto}.fleet td,.fleet th{white-space:nowrap;overflow-wrap:normal}
.fleet thead th{border-top:0;color:var(--dim)}.sea{fill:var(--back)}
.country{fill:var(--line);stroke:var(--back);stroke-width:1.2}.axis{stroke-opacity:.6}
.site-good{fill:var(--good)}.site-bad{fill:var(--bad)}
.site-name{font-size:11px;fill:var(--text)}summary{cursor:pointer}details table{margin:.3rem 0 .6rem 1rem}
.fleet td.said{white-space:normal;min-width:14rem}.other{font-size:.8rem}
@media(max-width:40rem){.site-name{font-size:21px}svg text{font-size:18px}}
"""
)

PAGE_HEADERS = still_headers(_FLEET_STYLE)


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member, as the page shows it."""

    said: Said
    trouble: tuple[Problem, ...]
    """What is wrong with it; empty = nothing."""

    is_last: bool = False
    """No other box of its cluster is announced."""

    @property
    def name(self) -> str:
        """As in the roster."""
        return self.said.text("name")


def render(view: View, address: str) -> str:
    """The page; *address*: how this instance calls itself."""
    mesh = view.role("mesh")
    rows = members(mesh)
    wrong = list(problems(mesh, rows))
    verdict = "well" if not wrong else f"{len(wrong)} to look at"
    title = f"{mesh.text('service') or 'mesh'}: {verdict}"
    parts = [
        _header(mesh, address, wrong),
        section("Sites", _map(mesh, rows), "wide"),
        section("Members", _table(mesh, rows), "wide"),
        section("Floor", _floor(mesh)),
        section("Distribution", _distribution(mesh)),
        section("Last orders", _orders(mesh), "wide"),
        section("Planned maintenance", _maintenance(mesh), "wide"),
    ]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
        f"<style>{_FLEET_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def members(mesh: Said) -> list[MemberRow]:
    """All that the roster lists, in its order."""
    said = mesh.objects("members")
    newest = newest_serials(said)
    rows = [MemberRow(each, tuple(troubles(each, newest))) for each in said]
    announced: dict[str, list[str]] = {}
    for each in said:
        if each.text("cluster") and is_announced(each):
            announced.setdefault(each.text("cluster"), []).append(each.text("name"))
    clusters = [each.text("cluster") for each in said]
    return [
        MemberRow(row.said, row.trouble, announced.get(cluster) == [row.name] and clusters.count(cluster) > 1)
        for row, cluster in zip(rows, clusters, strict=True)
    ]


def newest_serials(said: Sequence[Said]) -> dict[str, float]:
    """By zone, the serial that most members serve, or the newest of those that as many do."""
    served: dict[str, list[float]] = {}
    for each in said:
        for zone, serial in each.object("status").numbers("serials").items():
            served.setdefault(zone, []).append(serial)
    return {zone: max(serials, key=lambda one: (serials.count(one), one)) for zone, serials in served.items()}


def is_announced(member: Said) -> bool:
    """Whether any prefix of it is, as far as it has told."""
    routes = member.object("status").strings("routes")
    return bool(member.truth("present")) and any(route != "withdrawn" for route in routes.values())


def troubles(member: Said, newest: dict[str, float]) -> Iterator[Problem]:
    """What is wrong with one member."""
    if not member.truth("present"):
        yield Problem("missing", "RootsrvMeshMembersMissing")
        return
    status = member.object("status")
    age = member.number("age_seconds")
    if age is not None and age > OLD_SECONDS:
        yield Problem(f"said nothing for {span(age)}", "RootsrvMeshMembersMissing")
    for version, route in status.strings("routes").items():
        if route != "up":
            entry = "RootsrvWithdrawn" if route == "withdrawn" else "RootsrvDegraded"
            yield Problem(f"IPv{version} {route}", entry)
    for zone, serial in status.numbers("serials").items():
        if serial != newest.get(zone):
            yield Problem(f"zone {zone} {serial:.0f}, others {newest.get(zone, 0):.0f}", "RootsrvFleetSkew")
    if status.text("clock") not in {"", *CAN_BE_BELIEVED}:
        yield Problem(f"clock {status.text('clock')}", "RootsrvClockUnsynchronised")
    if status.truth("sep_covered") is False:
        yield Problem("a SEP key is covered by no trust anchor", "RootsrvUncoveredSepKey")
    done = member.object("done")
    if done.truth("ok") is False:
        yield Problem(f"serial {done.text('serial')} failed: {done.text('reason')}", "RootsrvSwitchoverVoid")
    yield from map(Problem, status.texts("alarms"))  # its own page leads to what can be done


def problems(mesh: Said, rows: Sequence[MemberRow]) -> Iterator[Problem]:
    """What a person should look at, worst first."""
    if not mesh:
        yield Problem("The role mesh of this instance does not answer.", "RootsrvRoleDown")
        return
    yield from of_the_engine(mesh)
    for group in mesh.objects("groups"):
        of_group = [row for row in rows if row.said.text("group") == group.text("name")]
        there = [row for row in of_group if is_announced(row.said)]
        tells = [row for row in of_group if row.said.object("status").strings("routes")]
        n, k = int(group.number("n") or 0), int(group.number("k") or 0)
        if tells and len(there) < n - k:
            text = f"Only {len(there)} of {n} members of {group.text('name')} are announced (k is {k})."
            yield Problem(text, "RootsrvFleetFewAnnounced")
    for row in rows:
        if row.trouble:
            more = f" (and {len(row.trouble) - 1} more)" if len(row.trouble) > 1 else ""
            yield Problem(f"{row.name}: {row.trouble[0].text}{more}.", row.trouble[0].entry)
        if row.is_last:
            text = f"{row.name} is the last box of {row.said.text('cluster')} that is announced."
            yield Problem(text, "RootsrvFleetFewAnnounced")
    for what, name in (("version", "versions"), ("configuration", "configurations"), ("anchors", "trust anchors")):
        values = {row.said.object("status").text(what) for row in rows} - {""}
        if len(values) > 1 and what != "configuration":
            text = f"Members have different {name}: {', '.join(sorted(values))}."
            yield Problem(text, "RootsrvFleetAnchorsDiffer" if what == "anchors" else "")


def targets(mesh: Said, service: str) -> str:
    """For Prometheus' http_sd: one group for each member that says where its metrics are (JSON)."""
    sites = {each.text("name"): each for each in mesh.objects("sites")}
    groups = []
    for each in mesh.objects("members"):
        if not each.text("metrics"):
            continue
        site = sites.get(each.text("site"), Said())
        groups.append(
            {
                "targets": [each.text("metrics")],
                "labels": {
                    "service": service,
                    "site": each.text("site"),
                    "member": each.text("name"),
                    "group": each.text("group"),
                    "country": site.text("country"),
                    "canary": str(bool(each.truth("canary"))).lower(),
                },
            }
        )
    return json.dumps(groups)


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _header(mesh: Said, address: str, wrong: Sequence[Problem]) -> str:
    engine = mesh.object("engine")
    said = mark(not wrong, "All is well." if not wrong else "Somebody should look:")
    shown = list(wrong[:_PROBLEMS_SHOWN])
    if len(wrong) > len(shown):
        shown.append(Problem(f"and {len(wrong) - len(shown)} more"))
    since = f"since {span(engine.number('since_seconds'))}"
    there = mark(bool(engine.truth("there")), f"engine {'there' if engine.truth('there') else 'gone'} {since}")
    return (
        f"<header><h1>{escape(mesh.text('service'))}</h1><p class=dim>as {escape(mesh.text('member') or address)} "
        f"sees it at <time>{escape(mesh.text('now'))}</time> · roster version {escape(mesh.text('roster_version'))} · "
        f'{there}</p><p class="big">{said}</p>{problems_list(shown)}</header>'
    )


def _map(mesh: Said, rows: Sequence[MemberRow]) -> str:
    lines = [
        f'<line class="axis" x1="{x}" x2="{x}" y1="0" y2="{_HEIGHT}"/>' for x in range(0, _WIDTH + 1, _WIDTH // 12)
    ]
    lines += [
        f'<line class="axis" y1="{y}" y2="{y}" x1="0" x2="{_WIDTH}"/>' for y in range(0, _HEIGHT + 1, _HEIGHT // 6)
    ]
    equator = f'<text x="3" y="{_HEIGHT // 2 - 3}">equator</text><text x="{_WIDTH // 2 + 3}" y="11">0°</text>'
    places = []
    for site in mesh.objects("sites"):
        here = [row for row in rows if row.said.text("site") == site.text("name")]
        well = sum(not row.trouble for row in here)
        x = (site.number("longitude") or 0.0) * _WIDTH / 360 + _WIDTH / 2
        y = _HEIGHT / 2 - (site.number("latitude") or 0.0) * _HEIGHT / 180
        good = well == len(here)
        where = ", ".join(filter(None, (site.text("city"), site.text("country"))))
        label = f"{site.text('name')} ({where}): {well} of {len(here)} well"
        # A cross besides the colour: red and green are one to many.
        shape = (
            f'<circle class="site-good" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
            if good
            else f'<path class="site-bad" d="M{x - 7:.1f} {y - 4:.1f}l3 -3 4 4 4 -4 3 3 -4 4 4 4 -3 3 -4 -4 -4 4 -3 -3 '
            f'4 -4z"/>'
        )
        left = x > _WIDTH - 90
        anchor = ' text-anchor="end"' if left else ""
        places.append(
            f"<g><title>{escape(label)}</title>{shape}"
            f'<text class="site-name" x="{x + (-10 if left else 10):.1f}" y="{y + 4:.1f}"{anchor}>'
            f"{escape(site.text('name'))}{'' if good else f' {well}/{len(here)}'}</text></g>"
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Sites by latitude and longitude">'
        f'<rect class="sea" width="{_WIDTH}" height="{_HEIGHT}"/>{_LAND}'
        f"{''.join(lines)}{equator}{''.join(places)}</svg>"
    )


_COLUMNS = ("member", "trouble", "serial", "route", "site", "as", "clock", "version", "anchors", "SEP", "said")


def _table(mesh: Said, rows: Sequence[MemberRow]) -> str:
    """A line for each member; the boxes of a cluster are one that unfolds."""
    clusters: dict[str, list[MemberRow]] = {}
    for row in rows:
        clusters.setdefault(row.said.text("cluster") or f"\0{row.name}", []).append(row)
    head = "<thead><tr>" + "".join(f"<th>{each}</th>" for each in _COLUMNS) + "</tr></thead>"
    lines = []
    for name, inside in clusters.items():
        if name.startswith("\0"):
            lines.append(_line(inside[0]))
            continue
        ill = sum(bool(row.trouble) for row in inside)
        there = sum(is_announced(row.said) for row in inside)
        unfold = "".join(_line(row) for row in inside)
        said = f"{len(inside)} boxes, {there} announced" + (f", {ill} to look at" if ill else "")
        opened = " open" if ill or there == 1 else ""
        lines.append(
            f'<tr><td colspan="{len(_COLUMNS)}"><details{opened}><summary>{mark(not ill, name)} '
            f"<span class=dim>{escape(said)}</span></summary><table>{head}{unfold}</table></details></td></tr>"
        )
    return f'<div class="scroll"><table class="fleet">{head}{"".join(lines)}</table></div>'


def _line(row: MemberRow) -> str:
    said, status = row.said, row.said.object("status")
    kinds = [name for name in ("canary", "distribution_host") if said.truth(name)]
    serials = "<br>".join(
        f"{serial:.0f}" if zone == "." else f'<span class="dim other">{serial:.0f} {escape(zone)}</span>'
        for zone, serial in status.numbers("serials").items()
    )
    routes = ", ".join(f"v{version} {route}" for version, route in status.strings("routes").items()) or "–"
    last = ' <span class="bad">last box</span>' if row.is_last else ""
    error = status.number("clock_error_seconds")
    clock = status.text("clock") + (f" ±{error:.3f} s" if error is not None else "")
    covered = status.truth("sep_covered")
    cells = [
        escape("; ".join(each.text for each in row.trouble)[:300]),
        serials or "–",
        escape(routes),
        escape(said.text("site")),
        escape(", ".join(kinds).replace("_", " ")),
        escape(clock),
        escape(status.text("version")),
        f"<code>{escape(status.text('anchors')[:8])}</code>",
        "" if covered is None else mark(covered, "covered" if covered else "uncovered"),
        escape(f"{span(said.number('age_seconds'))} ago" if said.truth("present") else "–"),
    ]
    kind = ' class="said"' if row.trouble else ""
    first = f"<td>{mark(not row.trouble, row.name)}{last}</td><td{kind}>{cells[0]}</td>"
    return f"<tr>{first}" + "".join(f"<td>{each}</td>" for each in cells[1:]) + "</tr>"


def _floor(mesh: Said) -> str:
    rows = []
    tokens = mesh.objects("tokens")
    for group in mesh.objects("groups"):
        name = group.text("name")
        held = [each for each in tokens if each.text("slot").startswith(f"floor/{name}/")]
        said = f"{group.text('n')} members, {len(held)} of {group.text('k')} tokens taken"
        rows.append((name, escape(said)))
        rows += [("", escape(f"{each.text('member')}: {each.text('reason')}")) for each in held]
    return rows_table(rows)


def _distribution(mesh: Said) -> str:
    rows = [
        (
            f"zone {each.text('zone')}",
            escape(f"serial {each.text('serial')} {each.text('state')} {each.text('reason')}".rstrip()),
        )
        for each in mesh.objects("distribution")
    ]
    leads = "this host leads" if mesh.truth("leads") else "another host leads" if mesh.truth("leader_elected") else ""
    rows.append(("leader", mark(bool(leads), leads or "nobody leads")))
    for each in mesh.object("outside").objects("seen"):
        said = f"{each.text('serial')} {span(each.number('age_seconds'))} ago {each.text('fault')}".strip()
        rows.append((f"outside: {each.text('name')}", escape(said)))
    return rows_table(rows)


def _orders(mesh: Said) -> str:
    """With how long each member took."""
    orders = [each for each in mesh.objects("orders") if each.text("stage") != "void"][-_ORDERS_SHOWN:]
    verdicts = mesh.objects("verdicts")[-_ORDERS_SHOWN:]
    if not orders and not verdicts:
        return "<p class=dim>None yet.</p>"
    rows = []
    for order in reversed(orders):
        at, serial = order.number("at") or 0.0, order.number("serial")
        took = []
        for member in mesh.objects("members"):
            done, flipped = member.object("done"), member.number("flipped_at")
            meant = order.text("stage") != "canary" or member.truth("canary")
            meant = meant and not (order.text("stage") == "all" and member.truth("canary"))
            if meant and done.number("serial") == serial and flipped is not None and done.truth("ok"):
                took.append(f"{member.text('name')} {1000 * (flipped - at):+.0f} ms")
        said = f"{order.text('serial')} for {order.text('stage')} at {instant.to_text(at)} by {order.text('by')}"
        rows.append((said, escape(", ".join(took) or "–")))
    for each in reversed(verdicts):
        said = f"{each.text('decision')} {each.text('serial')} by {each.text('by')}"
        rows.append((said, escape(each.text("reason"))))
    return rows_table(rows)


def _maintenance(mesh: Said) -> str:
    rows = [
        (
            f"{instant.to_text(each.number('start') or 0)} – {instant.to_text(each.number('end') or 0)}",
            escape(f"{', '.join(each.texts('members'))}: {each.text('reason')} ({each.text('id')}, {each.text('by')})"),
        )
        for each in mesh.objects("maintenance")
    ]
    links = '<p><a href="/mesh/maintenance.ics">iCalendar</a> · <a href="/mesh/maintenance.json">JSON</a></p>'
    return (rows_table(rows) if rows else "<p class=dim>None is announced.</p>") + links
