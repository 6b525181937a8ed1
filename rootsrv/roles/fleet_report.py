"""Pages of the mesh that a member's role report shows: the fleet, targets for Prometheus, planned maintenance."""

import asyncio
import base64
import datetime
import json
from collections.abc import Iterator
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path

from rootsrv.config.file import Config
from rootsrv.control import client
from rootsrv.http.server import Page, Request, Response
from rootsrv.mesh.maintenance import Maintenance, to_calendar
from rootsrv.process import log
from rootsrv.process.host_name import host_name
from rootsrv.telemetry import statistics_page, utilisation
from rootsrv.telemetry.daybook import find_record
from rootsrv.telemetry.fleet_page import PAGE_HEADERS, render, targets
from rootsrv.telemetry.rssac002 import RecordDamaged
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
            "/mesh/rssac002/": self._record,
            "/mesh/statistics": self._statistics,
        }

    async def _fleet(self, _: Request) -> Response:
        page = render(self._viewer.view(), self._config.identity.nsid or host_name())
        return Response(page.encode(), "text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def _targets(self, _: Request) -> Response:
        # Prometheus keeps the targets that it has when this is not 200 (http_sd): an empty list would drop them all.
        mesh = self._viewer.role("mesh")
        if not mesh.objects("members"):
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "no roster is in force, or the role mesh does not answer")
        return Response(targets(mesh, self._config.report.service).encode(), _JSON)

    async def _maintenance(self, _: Request) -> Response:
        listed = [each.to_content() | {"by": each.by} for each in _announced(self._viewer.role("mesh"))]
        return Response(json.dumps(listed).encode(), _JSON)

    async def _calendar(self, _: Request) -> Response:
        mesh = self._viewer.role("mesh")
        text = to_calendar(_announced(mesh), self._config.report.service)
        return Response(text.encode(), "text/calendar; charset=utf-8")

    async def _record(self, request: Request) -> Response:
        """The record of a day that is over, for a distribution host that has signed its request."""
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        try:
            day = datetime.datetime.strptime(request.path.rpartition("/")[2], "%Y%m%d").replace(tzinfo=datetime.UTC)
            signed = base64.b64decode(text, validate=True)
        except ValueError:
            return _refusal(HTTPStatus.BAD_REQUEST, "a day is YYYYMMDD, a request is signed and in base64")
        if kind != "Rootsrv" or not signed:
            return _refusal(HTTPStatus.UNAUTHORIZED, "only a distribution host may ask, with a signed request")
        directory = Path(self._config.report.statistics_directory)
        try:
            record = await asyncio.to_thread(find_record, directory, day.date())
            if record is None:
                return _refusal(HTTPStatus.NOT_FOUND, f"nothing is known of {day.date()}")
            used = await asyncio.to_thread(utilisation.read, directory, self._config.report.service, day.date())
            # An instance that was renamed on that day has two.
            together = {"utilisation": [asdict(each) for each in used.values()]}
            octets = json.dumps(record.to_document() | together).encode()
            wanted = {"command": "record", "day": f"{day:%Y%m%d}", "request": text}
            mesh = Path(self._config.state.runtime_directory) / "mesh.sock"
            _, sealed = await client.ask_for_octets(mesh, wanted, 10.0, octets)
        except client.NotDone as error:
            log.security("record not given", day=day.date(), reason=error)
            return _refusal(HTTPStatus.FORBIDDEN, str(error))
        except (client.NoAnswer, OSError, RecordDamaged) as error:
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        return Response(sealed, "application/octet-stream")

    async def _statistics(self, _: Request) -> Response:
        directory = Path(self._config.state.directory) / "mesh" / "statistics"
        days = await asyncio.to_thread(statistics_page.read, directory)
        page = statistics_page.render(days, self._config.report.service, self._config.report.contact)
        return Response(page.encode(), "text/html; charset=utf-8", headers=statistics_page.PAGE_HEADERS)


def _refusal(status: HTTPStatus, why: str) -> Response:
    return Response(f"{why}\n".encode(), "text/plain; charset=utf-8", status)


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
