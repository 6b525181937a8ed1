"""Pages for everybody: what the service is, how fresh its subscribers are, what is kept of whom."""

import hashlib
from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from rootsrv.localroot import contributions
from rootsrv.localroot.observations import Fresh, ObservationsUnusable
from rootsrv.portal.accounts import SESSION_SECONDS
from rootsrv.portal.links import LINK_SECONDS
from rootsrv.portal.mails import KEPT_SECONDS
from rootsrv.portal.visits import Visit

FEWEST = 5
"""Subscribers that there must be until something is said of them all: less would be said of one."""


def home(visit: Visit) -> Response:
    """What it is."""
    return visit.page("home.html", versions=_versions(visit, 1))


def statistics(visit: Visit) -> Response:
    """How soon subscribers have a new version."""
    sums = visit.portal.contributions.sums()
    return visit.page("statistics.html", versions=_versions(visit, 30), fewest=FEWEST, sums=sums)


def privacy(visit: Visit) -> Response:
    """What is kept of whom, and for how long."""
    days = {
        "session": round(SESSION_SECONDS / 86_400),
        "link": round(LINK_SECONDS["begin"] / 86_400),
        "undo": round(LINK_SECONDS["undo"] / 86_400),
        "mail": round(KEPT_SECONDS / 86_400),
        "open": contributions.OPEN_DAYS,
        "counts": contributions.KEPT_DAYS,
        "sums": contributions.SUMS_KEPT_DAYS,
    }
    return visit.page("privacy.html", days=days, operators=contributions.FEWEST_OPERATORS)


def _versions(visit: Visit, at_most: int) -> dict[str, list[Fresh]] | None:
    """By zone; None while it cannot be read."""
    try:
        found = {zone: visit.portal.observed.fresh(zone, at_most) for zone in visit.portal.config.zones}
    except ObservationsUnusable as error:
        visit.portal.cannot_read(error)
        return None
    visit.portal.can_read(ObservationsUnusable)
    return found


_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = {
    path.name: (path.read_bytes(), _TYPES[path.suffix])
    for path in sorted((Path(__file__).parent / "static").iterdir())
    if path.suffix in _TYPES
}
"""All of them, in memory: there is no path to escape from."""


async def static(request: Request) -> Response:
    """Style and scripts."""
    found = _FILES.get(request.path_params["name"])
    if found is None:
        return Response("404 Not Found\n", HTTPStatus.NOT_FOUND, media_type="text/plain")
    octets, kind = found
    tag = f'"{hashlib.sha256(octets).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "public, max-age=300"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(octets, headers=headers, media_type=kind)
