"""What a person should look at on one instance, worst first, each with what the runbook calls it."""

import re
from collections.abc import Iterator

from rootsrv.config.file import Config
from rootsrv.telemetry.page_style import Problem, span
from rootsrv.telemetry.view import ADMISSION, Said, View, expected_roles

STALE_SECONDS = 3900.0
"""As anycast.stale_soft_seconds, where that is not configured: RSSAC047v2 §5.4 looks for 65 minutes."""

CERTIFICATE_SECONDS = 14 * 86_400
"""Before a certificate's end it is told of."""

OUTSIDE_SECONDS = 1800.0
"""For so long other letters may be ahead of us before a page says so."""

_CAPTURE_DOWN = "RootsrvCaptureDown"


def problems(view: View, config: Config, statistics_error: str = "", capture_lost: int = 0) -> Iterator[Problem]:
    """Of the instance with *config*.

    *statistics_error*: why statistics cannot be written; *capture_lost*: queries that a capture has lost lately.
    """
    expected = expected_roles(config)
    if view.silenced:
        yield Problem("This instance has ceased to answer: a switchover failed.", "RootsrvSwitchoverFailed")
    if not view.generation:
        yield Problem("No zone is in service.", "RootsrvStale")
    for zone in view.zones:
        if zone.lease_seconds <= 0:
            yield Problem(f"Zone {zone.name} may not be served any more: it is answered SERVFAIL.", "lease over")
    for role in expected:
        if role not in view.roles:
            yield Problem(
                f"The role {role} does not answer.", _CAPTURE_DOWN if role == "capture" else "RootsrvRoleDown"
            )
    yield from _of_the_route(view, config)
    yield from _of_maintain(view, config)
    if "serve" in expected:
        yield from _of_tls(view, config)
        yield from _of_admission(view.role(ADMISSION))
    yield from _of_capture(view.role("capture"), capture_lost)
    yield from of_the_engine(view.role("mesh"))
    yield from _of_localroot(view.role("localroot"))
    late = [worker for worker in view.workers if not worker.pid or worker.active != view.generation]
    if late and view.generation:
        number = f"{len(late)} of {len(view.workers)}"
        yield Problem(f"{number} workers do not answer from the active table.", "not all workers have staged")
    for role, said in view.roles.items():
        for work, reason in said.strings("failing").items():
            yield Problem(f"The role {role} tries again ({work}): {reason}.", "attempt failed")
    if statistics_error:
        yield Problem(f"Statistics cannot be written: {statistics_error}.", "statistics cannot be written")


def _of_the_route(view: View, config: Config) -> Iterator[Problem]:
    told_by_maintain = {_kind(each) for each in view.role("maintain").texts("alarms")}
    alarms: dict[str, list[str]] = {}
    for family in view.role("advertise").objects("families"):
        name = f"IPv{family.text('ip_version')}"
        if not family.truth("announced"):
            why = family.text("reason") or family.text("state")
            yield Problem(f"{name} is not announced: {why}.", "RootsrvWithdrawn")
        elif family.text("route") != "up":
            yield Problem(f"{name} is announced {family.text('route')}: {family.text('reason')}.", "RootsrvDegraded")
        for alarm in family.texts("alarms"):
            alarms.setdefault(alarm, []).append(name)
    for alarm, names in alarms.items():
        if _kind(alarm) not in told_by_maintain:  # it has told advertise, too
            yield Problem(f"{', '.join(names)}: {alarm}", "site alarm")


def _of_maintain(view: View, config: Config) -> Iterator[Problem]:
    maintain = view.role("maintain")
    alarms = maintain.texts("alarms")
    entries = maintain.texts("alarm_entries")
    stale = config.anycast.stale_soft_seconds if config.anycast is not None else STALE_SECONDS
    for said in maintain.objects("zones"):
        if (age := said.number("known_age_seconds")) is not None and age > stale:
            text = f"Zone {said.text('name')} is stale: a newer serial has been known for {span(age)}."
            yield Problem(text, "RootsrvStale")
    # A role of another release may not say what the runbook calls them.
    entries += [""] * (len(alarms) - len(entries))
    yield from (Problem(text, entry) for text, entry in zip(alarms, entries, strict=False))


def _of_tls(view: View, config: Config) -> Iterator[Problem]:
    if config.dot is None or "serve" not in view.roles:
        return
    dot = view.role("serve").object("dot")
    if not dot:
        yield Problem("DNS over TLS is configured, and not there yet.", "DNS over TLS stays as it is")
        return
    if not (dot.truth("ready") and dot.number("active") == view.generation):
        yield Problem("DNS over TLS is not answered.", "worker replaced")
    if problem := dot.text("certificate_problem"):
        text = f"DNS over TLS shows another certificate than the configured one: {problem}."
        yield Problem(text, "certificate not reloaded")
    elif (left := dot.number("certificate_expires_seconds")) is not None and left < CERTIFICATE_SECONDS:
        yield Problem(f"The certificate of DNS over TLS expires in {span(max(0, left))}.", "certificate expires soon")


def _of_admission(admission: Said) -> Iterator[Problem]:
    if admission.object("limits").truth("falls_back"):
        yield Problem("Limits are in dry-run: too many sources are over their rate.", "RootsrvLimitsFallback")
    if rules := sum(not rule.truth("dry_run") for rule in admission.objects("rules")):
        text = "A shed rule is" if rules == 1 else f"{rules} shed rules are"
        yield Problem(f"{text} in force (rootsrv sheds).", "RootsrvShedForLong")


def _of_capture(capture: Said, lost: int) -> Iterator[Problem]:
    if capture.text("state") == "full":
        yield Problem(f"Nothing can be captured: {capture.text('why') or 'no room'}.", "RootsrvCaptureFull")
    elif lost:
        yield Problem(f"The capture has lost {lost:,} queries in the last quarter of an hour.", "RootsrvCaptureLoses")
    if capture.text("order_error"):
        yield Problem(
            f"What was ordered of the capture: {capture.text('order_error')}.", "capture order cannot be read"
        )
    if capture.text("error"):
        yield Problem(f"A file of the capture failed: {capture.text('error')}.", "capture file not finished")


def of_the_engine(mesh: Said) -> Iterator[Problem]:
    """What this member lacks of its mesh; nothing where it is in none."""
    if not mesh:
        return
    engine = mesh.object("engine")
    if not engine.truth("there"):
        yield Problem(f"The engine of the mesh is gone: {engine.text('reason')}.", "RootsrvMeshEngineGone")
    if not mesh.objects("members"):
        yield Problem("No roster is in force.", "roster not recalled")
    ahead = mesh.object("outside").number("ahead_seconds")
    if ahead is not None and ahead >= OUTSIDE_SECONDS:
        yield Problem(f"Other letters have served a newer root for {span(ahead)}.", "RootsrvOutsideAhead")


def _of_localroot(localroot: Said) -> Iterator[Problem]:
    for zone in localroot.objects("zones"):
        if zone.number("given") is None:
            text = f"Zone {zone.text('name')} is withheld: {zone.text('withheld') or 'there is none yet'}."
            yield Problem(text, "zone is withheld")
    for key, what, entry in (
        ("register", "The register cannot be read", "register cannot be read"),
        ("observations", "Observations cannot be written", "observations cannot be written"),
        ("statistics", "Statistics of subscribers cannot be written", "statistics cannot be written"),
    ):
        if reason := localroot.text(f"{key}_error"):
            yield Problem(f"{what}: {reason}.", entry)
    if lacks := localroot.text("tls_lacks"):
        yield Problem(f"Zones are not given over TLS: {lacks}.", "no transfers over TLS")


def _kind(alarm: str) -> str:
    """An alarm without its numbers: one role heard of it a second after the other."""
    return re.sub(r"-?\d+(\.\d+)?", "#", alarm)
