"""The role *report*: answers scrapers and browsers on the administrative interface, and keeps the statistics."""
# A process of its own: what a scraper does – ask too often, never read, send nonsense – costs neither the workers nor
# the zones anything but a core's spare time, and a zone that is being verified delays no scrape.  It holds no secret
# and changes nothing of what it looks at.  If the address cannot be bound (the interface may come later), statistics
# go on.

import asyncio
import contextlib
import hashlib
import time
from http import HTTPStatus
from pathlib import Path

from rootsrv.config.file import Config
from rootsrv.http.server import CannotListen, HttpServer, Page, Request, Response
from rootsrv.page.day import day_of
from rootsrv.process import log, privileges, service_manager
from rootsrv.process.host_name import host_name
from rootsrv.process.persistence import persistently
from rootsrv.roles.account import keep_what_is_needed
from rootsrv.roles.fleet_report import FleetReport
from rootsrv.telemetry.daybook import DayBook
from rootsrv.telemetry.documentation import DOCUMENT_HEADERS, Documentation
from rootsrv.telemetry.history import Events, History
from rootsrv.telemetry.host import read_machine
from rootsrv.telemetry.load_times import LoadTimes
from rootsrv.telemetry.prometheus import Exposition, Statistics
from rootsrv.telemetry.rssac002 import DayRecord
from rootsrv.telemetry.status_page import PAGE_HEADERS, Content, render
from rootsrv.telemetry.utilisation import UtilisationBook, UtilisationSample
from rootsrv.telemetry.view import Viewer

LOOK_SECONDS = 1.0
WRITE_SECONDS = 10.0
"""How often the day's book is written: after a crash of ours the page still has what came since."""

UTILISATION_SECONDS = 60.0
"""How often what the machine is used for is written."""

_LISTEN_AGAIN_SECONDS = 5.0


async def report(config: Config, path: Path, stop: asyncio.Event) -> None:
    """Metrics, status page and statistics, until *stop* is set: it reads what others write, and nobody waits for it."""
    making = Report(config, path)
    statistics = Path(config.report.statistics_directory)
    reads = (Path(config.state.directory), Path(config.state.runtime_directory))
    capability = privileges.NET_BIND_SERVICE if config.report.port < 1024 else None
    if closed := keep_what_is_needed(config, statistics, reads, capability=capability):
        log.alarm("report keeps running as root", reason=closed)
    await making.run(stop)


class Report:
    """All that the role does."""

    def __init__(self, config: Config, path: Path) -> None:
        """*path*: the configuration file."""
        self._config = config
        state = Path(config.state.directory)
        self._viewer = Viewer(
            Path(config.state.runtime_directory), state, config.service.addresses, config.service.port
        )
        self._book = DayBook(Path(config.report.statistics_directory), config.report.service)
        self._exposition = Exposition(config, hashlib.sha256(path.read_bytes()).hexdigest()[:16])
        pages: dict[str, Page] = {"/": self._status_page, "/metrics": self._metrics}
        self._documentation = Documentation.installed()
        pages["/docs/"] = self._document
        if config.mesh is not None:
            pages |= FleetReport(config, self._viewer).pages()
        self._server = HttpServer(pages)
        statistics, name = self._book.directory, instance_name(config)
        self._utilisation = UtilisationBook(statistics, config.report.service, name)
        self._load_times = LoadTimes(self._book.served)
        self._sources: dict[str, int] = {}
        self._writing = False
        self._use_written = 0.0
        self._use_error = ""
        self._history = History()
        self._events = Events(state / "journal.jsonl")

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set; then the book is written."""
        await self._viewer.refresh()
        tasks: list[asyncio.Task[None]] = [
            asyncio.create_task(persistently("watch", self._viewer.watch), name="watch"),
            asyncio.create_task(persistently("statistics", self._keep_book), name="book"),
            asyncio.create_task(persistently("listen", self._listen), name="listen"),
        ]
        ended = asyncio.create_task(stop.wait())
        try:
            # None of the others ends before we stop, unless it fails: then the role goes down with its traceback.
            await asyncio.wait([ended, tasks[0], tasks[1]], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            ended.cancel()
            for task in tasks:
                task.cancel()
            self._server.close()
            self._look(with_sources=True)
            self._book.write(time.time())
            with contextlib.suppress(OSError):
                self._utilisation.write()

    async def _listen(self) -> None:
        addresses = self._config.report.addresses or self._config.admin.addresses
        complained = False
        while addresses:
            try:
                await self._server.listen(addresses, self._config.report.port)
            except CannotListen as error:
                if not complained:
                    log.alarm("cannot report", reason=error, again_seconds=_LISTEN_AGAIN_SECONDS)
                complained = True
                await asyncio.sleep(_LISTEN_AGAIN_SECONDS)
                continue
            log.event("reporting", addresses=",".join(addresses), port=self._config.report.port)
            return

    async def _keep_book(self) -> None:
        written = 0.0
        while True:
            due = time.monotonic() >= written + WRITE_SECONDS
            self._look(with_sources=due)
            self._hear_of_root()
            view = self._viewer.view()
            lost = view.role("capture").numbers("lost")
            self._history.note(view.now, view.words, view.tls_words, round(sum(lost.values())) if lost else None)
            self._events.note(view)
            if self._utilisation.is_due(view.now):
                machine = await asyncio.to_thread(read_machine, self._book.directory)
                self._note_use(UtilisationSample.of(view.now, machine, view.processes))
            service_manager.alive()
            service_manager.ready("statistics are kept")
            if due:
                await self._write()
                written = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)

    def _note_use(self, sample: UtilisationSample) -> None:
        """What is used is worth knowing, and nothing else waits for it."""
        try:
            self._utilisation.note(sample)
            if sample.at >= self._use_written + UTILISATION_SECONDS or sample.at < self._use_written:
                self._use_written = sample.at
                self._utilisation.write()
        except OSError as error:
            if self._use_error != (reason := error.strerror or str(error)):
                log.alarm("utilisation cannot be written", reason=reason)
            self._use_error = reason
        else:
            self._use_error = ""

    async def _write(self) -> None:
        """Write the book in a thread: a slow disk delays no scrape.  Nothing is added to it meanwhile."""
        self._writing = True
        try:
            await asyncio.to_thread(self._book.write, time.time())
        finally:
            self._writing = False

    def _look(self, *, with_sources: bool) -> None:
        page = self._viewer.page()
        if page is None or self._writing:
            return
        self._book.look(page)
        if with_sources:
            self._book.look_at_sources(page)
            self._sources = self._today().unique_sources()

    def _hear_of_root(self) -> None:
        """Note the load time of a root zone that has gone into service."""
        for zone in self._viewer.role("maintain").objects("zones"):
            if zone.text("name") == ".":
                loaded = self._load_times.hear(zone)
                if loaded is not None:
                    self._book.note_load_time(loaded.serial, loaded.known_at, loaded.seconds)
                    log.event("root zone loaded", serial=loaded.serial, seconds=round(loaded.seconds, 1))
                self._book.note_served(self._load_times.served)

    def _today(self) -> DayRecord:
        return self._book.record(day_of(time.time()))

    async def _metrics(self, request: Request) -> Response:
        statistics = await self._statistics()
        body, content_type = self._exposition.text(self._viewer.view(), statistics, request.headers.get("accept", ""))
        return Response(body, content_type)

    async def _status_page(self, request: Request) -> Response:
        history = self._history
        content = Content(
            await self._statistics(),
            self._viewer.view(),
            history.hour(),
            history.day(),
            self._events.latest(20),
            history.lost_lately(),
        )
        page = render(content, self._config, instance_name(self._config))
        return Response(page.encode(), "text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def _document(self, request: Request) -> Response:
        page = await asyncio.to_thread(self._documentation.page, request.path.rpartition("/")[2])
        if page is None:
            text = "share/rootsrv/docs of this installation has no such document\n"
            return Response(text.encode(), "text/plain; charset=utf-8", HTTPStatus.NOT_FOUND)
        return Response(page.encode(), "text/html; charset=utf-8", headers=DOCUMENT_HEADERS)

    async def _statistics(self) -> Statistics:
        await self._viewer.count_kernel()
        self._look(with_sources=False)
        return Statistics(self._today(), self._sources, self._book.error)


def instance_name(config: Config) -> str:
    """What this instance is called among others."""
    return config.identity.nsid or host_name()
