"""Sections of the status page about what an instance may have besides: capture, limits, DNS over TLS, mesh, LocalRoot.

Each is empty where that is not configured.
"""

from collections.abc import Iterator
from html import escape

from rootsrv.admission.samples import DIMENSIONS, PREFIX_DIMENSIONS
from rootsrv.config.file import Config
from rootsrv.page import counts
from rootsrv.telemetry.capture_room import room_octets
from rootsrv.telemetry.page_style import mark, rate, rows_table, section, span
from rootsrv.telemetry.view import ADMISSION, Said, View
from rootsrv.zone import instant

_VALUES_SHOWN = 3
_GIGABYTE = 1e9


def flood(view: View, config: Config) -> str:
    """Who asks what over UDP, from samples of the last minute; limits and shed rules."""
    said = view.role(ADMISSION)
    if not said:
        return ""
    limits, seen = said.object("limits"), said.object("flood")
    rows = []
    if limits.text("mode") not in ("", "off"):
        rows += list(_limits(limits))
    for rule in said.objects("rules"):
        does = "dry run" if rule.truth("dry_run") else rule.text("do")
        share = rule.number("share")
        hits = f"{rule.number('hits') or 0:,.0f} hits" + (f", {share:.0%} of all" if share is not None else "")
        told = f"{does}, {hits}, ends in {span(rule.number('ends_in_seconds'))}: {rule.text('reason')}"
        match = _match(rule.text("match"), show_prefixes=config.limits.publish_prefixes)
        rows.append((f"shed {rule.text('rule')}", f"{escape(match)}<br>{_dim(told)}"))
    if config.limits.sample_every:
        rows += list(_top(seen, show_prefixes=config.limits.publish_prefixes))
    if not rows:
        return ""
    return section("Limits and floods: UDP, last minute", rows_table(rows))


def _match(match: str, *, show_prefixes: bool) -> str:
    """What a rule is about; a prefix in it says who asks, too."""
    conditions = match.split()
    return " ".join("prefix=…" if each.startswith("prefix=") and not show_prefixes else each for each in conditions)


def _limits(limits: Said) -> Iterator[tuple[str, str]]:
    in_force = limits.text("in_force")
    if in_force == limits.text("mode"):
        yield "limits", escape(in_force)
    else:
        yield "limits", mark(False, f"{in_force}, and not {limits.text('mode')} as configured")
    kept = limits.number("limited") or 0
    would = limits.number("would_be_limited") or 0
    judged = limits.number("judged") or 0
    if kept or in_force == "on":
        yield "sent to TCP", f"{kept:,.0f} of {judged:,.0f} queries"
    if would or in_force == "dry-run":
        yield "would have been", f"{would:,.0f} of {judged:,.0f} queries"
    yield "cells over", f"{limits.number('cells_over') or 0:.1%}"


def _top(seen: Said, *, show_prefixes: bool) -> Iterator[tuple[str, str]]:
    yield "queries", rate(seen.number("queries_per_second") or 0.0)
    yield "with a good cookie", f"{seen.number('with_cookie') or 0:.1%}"
    for dimension in DIMENSIONS:
        if dimension in PREFIX_DIMENSIONS and not show_prefixes:
            continue
        values = [
            f"{escape(each.text('value'))} {each.number('share') or 0:.0%}"
            for each in seen.object("top").objects(dimension)[:_VALUES_SHOWN]
        ]
        if values:
            yield dimension, ", ".join(values)
    # A command that names a prefix says who asks, too.
    suggested = [each for each in seen.texts("suggestions") if show_prefixes or "prefix=" not in each]
    if suggested := suggested[:_VALUES_SHOWN]:
        commands = "<br>".join(f"<code>{escape(each)}</code>" for each in suggested)
        hint = f'{_dim("needless while no query is lost;")} <a href="/docs/under-attack">when, and how</a>'
        yield "what could be shed", f"{hint}<br>{commands}"


def over_tls(view: View, config: Config) -> str:
    """DNS over TLS."""
    said = view.role("serve").object("dot")
    if config.dot is None or not said:
        return ""
    words = view.tls_words
    shakes = {name: words[counts.TLS + at] for at, name in enumerate(counts.TLS_COUNTERS)}
    spent = shakes.pop("microseconds") / 1e6
    done = shakes.pop("handshakes")
    tcp = {name: words[counts.TCP + at] for at, name in enumerate(counts.TCP_COUNTERS)}
    answers = bool(said.truth("ready")) and said.number("active") == view.generation
    problem = said.text("certificate_problem")
    shown = f"{said.text('certificate')}, until {said.text('certificate_until')}"
    failed = ", ".join(f"{name.replace('-', ' ')} {number:,}" for name, number in shakes.items() if number)
    by_why = view.role("serve").object("replaced_by").numbers("dot")
    replaced = ", ".join(f"{why}: {number:,.0f}" for why, number in by_why.items() if number) or "never"
    each = f", {1000 * spent / done:.1f} ms of processor time each" if done else ""
    rows = [
        ("state", mark(answers, "answered" if answers else "not answered")),
        ("queries", f"{sum(words[counts.QUERIES : counts.QUERIES + 4]):,}"),
        ("connections", f"{tcp['open']:,} open, {tcp['accepted']:,} since the machine started"),
        ("handshakes", f"{done:,}{each}"),
        ("not completed", escape(failed) or "none"),
        ("replaced", replaced),
        ("certificate", mark(not problem, shown)),
    ]
    return section(f"DNS over TLS, port {said.text('port')}", rows_table(rows))


def capture(view: View, config: Config) -> str:
    """What is asked, in files."""
    if config.capture is None:
        return ""
    said = view.role("capture")
    if not said:
        return section("Capture", _silent("capture"))
    rows = [("state", _capture_state(said, view.now))]
    if said.number("until"):
        rows.append(("until", escape(instant.to_text(said.number("until") or 0.0))))
    if said.text("state") == "capturing":
        of = f" of {rate(said.number('queries_a_second') or 0.0)} that come"
        rows.append(("rate", f"{rate(said.number('rate') or 0.0)}{of}"))
    rows.append(("captured", f"{said.number('items') or 0:,.0f} queries since the role started"))
    lost = said.numbers("lost")
    told = ", ".join(f"{where} {number:,.0f}" for where, number in lost.items() if number)
    rows.append(("lost", mark(not told, told or "none")))
    if said.number("passed_over"):
        rows.append(("left out on purpose", f"{said.number('passed_over'):,.0f}"))
    if said.text("state") == "capturing":
        behind = f"{said.number('behind_seconds') or 0:.1f} s behind, fullest ring {said.number('ring_fill') or 0:.0%}"
        rows.append(("how it keeps up", behind))
    amounts = {what: said.number(f"files_{what}") or 0 for what in ("finished", "failed", "removed")}
    files = ", ".join(f"{number:,.0f} {what}" for what, number in amounts.items() if number or what == "finished")
    now = f"<br>{_dim(said.text('file'))}" if said.text("file") else ""
    rows.append(("files", mark(False, files) + now if amounts["failed"] else files + now))
    rows.append(("disk", _disk(said)))
    return section("Capture", rows_table(rows))


def _capture_state(said: Said, now: float) -> str:
    state, begins = said.text("state"), said.number("begins") or 0.0
    if begins > now:
        return f"waits for {escape(instant.to_text(begins))}"
    if state == "capturing":
        return mark(True, f"capturing as {said.text('format')}")
    if state == "full":
        return mark(False, f"nothing is captured: {said.text('why')}")
    return f"{escape(state)} {_dim('rootsrv capture start begins one')}"


def _disk(said: Said) -> str:
    used, quota = said.number("directory_octets") or 0.0, said.number("quota_octets") or 0.0
    free, speed = said.number("free_octets") or 0.0, said.number("octets_a_second") or 0.0
    left = f"; room for {span(room_octets(said.number) / speed)}" if speed else ""
    text = f"{used / _GIGABYTE:,.2f} GB of {quota / _GIGABYTE:,.2f}, {free / _GIGABYTE:,.1f} GB free{left}"
    return f"{escape(text)}<br>{_dim(said.text('directory'))}"


def mesh(view: View, config: Config) -> str:
    """This member in its mesh; all of it is on the fleet page."""
    if config.mesh is None:
        return ""
    said = view.role("mesh")
    if not said:
        return section("Mesh", _silent("mesh"))
    engine = said.object("engine")
    there = bool(engine.truth("there"))
    since = f"{'there' if there else 'gone'} for {span(engine.number('since_seconds'))}"
    members = said.objects("members")
    present = sum(bool(each.truth("present")) for each in members)
    me = next((each for each in members if each.text("name") == said.text("member")), Said())
    fleet = '<a href="/mesh">the fleet</a>'
    heard = mark(bool(members) and present == len(members), f"{present} of {len(members)} are heard of")
    rows = [
        ("this member", f"{escape(said.text('member'))} {_dim(_part_in(said, me))}"),
        ("engine", mark(there, since)),
        ("roster", f"version {escape(said.text('roster_version'))}" if members else mark(False, "none is in force")),
        ("members", f"{heard}, {fleet}"),
        *_set_times(said, me, view.now),
        *_tokens(said, me.text("group")),
    ]
    if refused := said.number("refused"):
        rows.append(("refused on the board", mark(False, f"{refused:,.0f} values since the role started")))
    return section(f"Mesh {said.text('service')}", rows_table(rows))


def _part_in(said: Said, me: Said) -> str:
    if not me:
        return "the roster does not list it"
    parts = [name for key, name in (("canary", "canary"), ("distribution_host", "distribution host")) if me.truth(key)]
    if me.truth("distribution_host"):
        parts.append("leads" if said.truth("leads") else "does not lead")
    where = " in ".join(filter(None, (me.text("group"), me.text("site"))))
    return ", ".join([*(parts or ["member"]), where])


def _set_times(said: Said, me: Said, now: float) -> Iterator[tuple[str, str]]:
    """The last order for each zone, and how this member followed."""
    stage = "canary" if me.truth("canary") else "all"
    latest = {
        each.text("zone"): each for each in said.objects("orders") if each.text("stage") in (stage, "all", "emergency")
    }
    done = me.object("done")
    for zone, order in latest.items():
        at = order.number("at") or 0.0
        when = f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"
        text = (
            f"{order.text('serial')} for {order.text('stage')} at {instant.to_text(at)} ({when}) by {order.text('by')}"
        )
        followed = ""
        if done.text("serial") == order.text("serial") and done.text("zone") == zone:
            flipped = me.number("flipped_at")
            took = f" {1000 * (flipped - at):+.0f} ms" if flipped is not None and order.text("stage") == stage else ""
            good = done.truth("ok") is not False
            followed = "<br>" + mark(good, f"served{took}" if good else f"failed: {done.text('reason')}")
        yield f"set time, {zone}", escape(text) + followed


def _tokens(said: Said, group: str) -> Iterator[tuple[str, str]]:
    """Who of this member's group may be withdrawn for what can wait."""
    for each in said.objects("groups"):
        if each.text("name") != group:
            continue
        held = [token for token in said.objects("tokens") if token.text("slot").startswith(f"floor/{group}/")]
        by = "".join(f"<br>{_dim(token.text('member') + ': ' + token.text('reason'))}" for token in held)
        text = f"{len(held)} of {each.text('k')} taken, {each.text('n')} members"
        yield f"tokens of {group}", escape(text) + by


def localroot(view: View, config: Config) -> str:
    """A LocalRoot service: its zones, who has them, and what is on its way."""
    if config.localroot is None:
        return ""
    said = view.role("localroot")
    if not said:
        return section("LocalRoot", _silent("localroot"))
    rows = []
    for zone in said.objects("zones"):
        given = zone.number("given")
        if given is None:
            rows.append((zone.text("name"), mark(False, f"withheld: {zone.text('withheld')}")))
            continue
        have = f"{zone.number('with_newest') or 0:,.0f} of {zone.number('subscribers') or 0:,.0f} servers have it"
        age = f"since {span(zone.number('newest_age_seconds'))}"
        rows.append((zone.text("name"), f"{mark(True, f'{given:.0f}')} {_dim(f'{age}; {have}')}"))
        if zone.text("last_rejection"):
            rows.append(("", mark(False, zone.text("last_rejection"))))
    counted = said.numbers("counters")
    transfers = sum(number for name, number in counted.items() if name.startswith("transfers "))
    notifies = {
        outcome: sum(
            number for name, number in counted.items() if name.startswith("notify ") and name.endswith(f" {outcome}")
        )
        for outcome in ("confirmed", "refused", "not-confirmed")
    }
    rows += [
        ("signed up", f"{said.number('servers') or 0:,.0f} servers, {said.number('keys') or 0:,.0f} keys"),
        ("addresses that NOTIFY goes to", f"{said.number('proved_addresses') or 0:,.0f}"),
        ("transfers", f"{said.number('transfers_running') or 0:,.0f} now, {transfers:,.0f} since the role started"),
        ("NOTIFYs", f"{said.number('notify_on_their_way') or 0:,.0f} on their way"
         + "".join(f", {number:,.0f} {name.replace('-', ' ')}" for name, number in notifies.items() if number)),
    ]  # fmt: skip
    return section(f"LocalRoot {config.localroot.name}", rows_table(rows))


def _dim(text: str) -> str:
    return f'<span class="dim">{escape(text)}</span>'


def _silent(role: str) -> str:
    return f"<p>{mark(False, f'the role {role} does not answer')}</p>"
