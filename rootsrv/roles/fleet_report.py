"""Pages of the mesh that a member's role report shows: the fleet, targets for Prometheus, planned maintenance."""

import json
import socket
from collections.abc import Iterator
from http import HTTPStatus

from rootsrv.config.file import Config
from rootsrv.http.server import Page, Request, Response
from rootsrv.mesh.maintenance import Maintenance, to_calendar
from rootsrv.telemetry.fleet_page import PAGE_HEADERS, render, targets
from rootsrv.telemetry.view import Said, Viewer

_JSON = "application/json"


class FleetReport:
    """What is under /mesh."""

    def __init__(self, config: Config, viewer: Viewer) -> None:
        self._config = config
        self._viewer = viewer

    def pages(self) -> dict[str, Page]:
        """Path → page."""
        return {
            "/mesh": self._fleet,
            "/mesh/targets": self._targets,
            "/mesh/maintenance.json": self._maintenance,
            "/mesh/maintenance.ics": self._calendar,
        }

    async def _fleet(self, _: Request) -> Response:
        page = render(self._viewer.view(), self._config.identity.nsid or socket.gethostname())
        return Response(page.encode(), "text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def _targets(self, _: Request) -> Response:
        # Prometheus keeps the targets that it has when this is not 200 (http_sd): an empty list would drop them all.
        mesh = self._viewer.role("mesh")
        if not mesh.objects("members"):
            why = b"no roster is in force, or the role mesh does not answer\n"
            return Response(why, "text/plain; charset=utf-8", HTTPStatus.SERVICE_UNAVAILABLE)
        return Response(targets(mesh, self._config.report.service).encode(), _JSON)

    async def _maintenance(self, _: Request) -> Response:
        listed = [each.to_content() | {"by": each.by} for each in _announced(self._viewer.role("mesh"))]
        return Response(json.dumps(listed).encode(), _JSON)

    async def _calendar(self, _: Request) -> Response:
        mesh = self._viewer.role("mesh")
        text = to_calendar(_announced(mesh), self._config.report.service)
        return Response(text.encode(), "text/calendar; charset=utf-8")


def _announced(mesh: Said) -> Iterator[Maintenance]:
    for each in mesh.objects("maintenance"):
        yield Maintenance(
            each.text("id"),
            tuple(each.texts("members")),
            each.number("start") or 0.0,
            each.number("end") or 0.0,
            each.text("reason"),
            each.text("by"),
            each.number("sent") or 0.0,
        )
