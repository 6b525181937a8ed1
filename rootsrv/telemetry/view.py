"""What is known of the instance at one moment: counters, zones in service, what the roles last said, the host.

Whatever is absent – a role that does not answer, a key that an older or newer one does not have – is simply not known.
"""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootsrv.answer.table import TableUnusable
from rootsrv.config.file import Config
from rootsrv.control.client import NoAnswer, ask
from rootsrv.page import counts
from rootsrv.page.layout import COUNTER_WORDS, MAX_ZONES, Page, PageUnusable
from rootsrv.process import clock
from rootsrv.store.table_file import open_table
from rootsrv.telemetry.host import Process, Sockets, processes, read_sockets
from rootsrv.wire import name as names
from rootsrv.zone import instant

ROLES = ("serve", "maintain", "advertise", "mesh", "capture", "localroot", "portal")


def expected_roles(config: Config) -> list[str]:
    """Those of ROLES that tell something where *config* is in force."""
    beside = config.localroot is not None or config.hyperlocal is not None
    absent = {
        "serve": beside,
        "advertise": beside or config.anycast is None,
        "mesh": beside or config.mesh is None,
        "capture": beside or config.capture is None,
        "localroot": config.localroot is None,
        "portal": config.portal is None,
    }
    return [role for role in ROLES if not absent.get(role, False)]


KERNEL = "fastpath"
"""Asked over the socket of serve, which owns it."""

ADMISSION = "admission"
"""Limits, shed rules, who floods; asked over the same socket."""

COUNT_KERNEL_SECONDS = 0.02
"""How long a scrape waits for the kernel's counters."""

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 5.0
"""After so long without a word from a role it counts as gone; until then what it said last stands."""


class Said:
    """A JSON object that a role sent, read without trust in its shape."""

    def __init__(self, document: Any = None) -> None:
        self._document: Mapping[str, Any] = document if isinstance(document, dict) else {}

    def __bool__(self) -> bool:
        return bool(self._document)

    def number(self, key: str) -> float | None:
        """A finite number, or None."""
        value = self._document.get(key)
        if isinstance(value, bool):
            return float(value)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def text(self, key: str) -> str:
        """A string (numbers as text); "" if there is none."""
        value = self._document.get(key)
        return "" if value is None or isinstance(value, dict | list) else str(value)

    def instant(self, key: str) -> float | None:
        """An RFC 3339 instant as seconds since 1970, or None."""
        try:
            return instant.from_text(self.text(key))
        except (ValueError, OverflowError):
            return None

    def truth(self, key: str) -> bool | None:
        """True, False, or None."""
        value = self._document.get(key)
        return value if isinstance(value, bool) else None

    def object(self, key: str) -> "Said":
        """A nested object; an empty one if there is none."""
        return Said(self._document.get(key))

    def objects(self, key: str) -> "list[Said]":
        """A list of objects."""
        value = self._document.get(key)
        return [Said(each) for each in value if isinstance(each, dict)] if isinstance(value, list) else []

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self._document.get(key)
        return [str(each) for each in value] if isinstance(value, list) else []

    def numbers(self, key: str) -> dict[str, float]:
        """An object of numbers."""
        inner = self.object(key)
        found = ((name, inner.number(name)) for name in inner._document)
        return {name: value for name, value in found if value is not None}

    def strings(self, key: str) -> dict[str, str]:
        """An object of strings."""
        inner = self.object(key)
        return {name: value for name, value in inner._document.items() if isinstance(value, str)}


@dataclass(frozen=True, slots=True)
class ServedZone:
    """A zone of the active answer table."""

    name: str
    serial: int
    signatures_until: int
    """Seconds since 1970; 0 for an unsigned zone."""

    lease_seconds: float
    """What is left of its lease; not above 0: answered SERVFAIL."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's slot."""

    slot: int
    pid: int
    heartbeat_age_seconds: float
    active: int


@dataclass(frozen=True, slots=True)
class View:
    """The instance, as far as it is known now."""

    now: float
    """Wall clock, seconds since 1970."""

    words: Sequence[int] = (0,) * COUNTER_WORDS
    """All workers' counters (page/counts.py)."""

    tls_words: Sequence[int] = (0,) * COUNTER_WORDS
    """Those of DNS over TLS."""

    generation: int = 0
    silenced: bool = False
    replaced: int = 0
    workers: Sequence[Worker] = ()
    zones: Sequence[ServedZone] = ()
    roles: Mapping[str, Said] = field(default_factory=dict)
    """What roles said within PATIENCE_SECONDS."""

    processes: Sequence[Process] = ()
    sockets: Sockets = field(default_factory=Sockets)

    def role(self, name: str) -> Said:
        """What role *name* says of itself; an empty object if it does not answer."""
        return self.roles.get(name) or Said()


class Viewer:
    """Looks at the shared page whenever asked, and at everything else once a second."""

    def __init__(self, runtime: Path, state: Path, service_addresses: Sequence[str], port: int) -> None:
        self._runtime = runtime
        self._tables = state / "tables"
        self._service = (tuple(service_addresses), port)
        self._page: Page | None = None
        self._zones: tuple[int, tuple[tuple[str, int, int], ...]] = (0, ())
        self._heard: dict[str, tuple[float, Said]] = {}
        self._sockets = Sockets()

    def page(self) -> Page | None:
        """The shared page; None if there is none.  Made anew by somebody, it is mapped anew."""
        path = self._runtime / "page"
        try:
            if self._page is None or not self._page.is_current():
                self._page = Page.open(path, writable=False)
        except PageUnusable:
            return None
        return self._page

    async def watch(self) -> None:
        """Ask the roles and the host, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(POLL_SECONDS)

    async def refresh(self) -> None:
        """Ask the roles and the host once."""
        await asyncio.gather(
            *(self._ask(role, self._runtime / f"{role}.sock", "status") for role in ROLES),
            self._ask(KERNEL, self._runtime / "serve.sock", "fastpath-status"),
            self._ask(ADMISSION, self._runtime / "serve.sock", "top"),
        )
        self._sockets = read_sockets(*self._service)

    async def _ask(self, who: str, path: Path, command: str) -> None:
        try:
            said = await ask(path, {"command": command})
        except NoAnswer:
            return
        self._heard[who] = (time.monotonic(), Said(said))

    async def count_kernel(self) -> None:
        """Have what the kernel has answered up to now put into the page; else it is at most a second old."""
        if self.role(KERNEL).object("counters"):
            with contextlib.suppress(NoAnswer):
                await ask(self._runtime / "serve.sock", {"command": "fastpath-count"}, timeout=COUNT_KERNEL_SECONDS)

    def role(self, who: str) -> Said:
        """What a role, or the kernel's owner, said lately; an empty object if it does not answer."""
        at, said = self._heard.get(who, (0.0, Said()))
        return said if at > time.monotonic() - PATIENCE_SECONDS else Said()

    def view(self) -> View:
        """What is known now: counters as of this moment, the rest at most a second old."""
        now = time.time()
        recent = time.monotonic() - PATIENCE_SECONDS
        roles = {role: said for role, (at, said) in self._heard.items() if at > recent}
        page = self.page()
        pids = {role: int(said.number("pid") or 0) for role, said in roles.items() if role in ROLES} | {
            "report": os.getpid()
        }
        if serve := roles.get("serve"):
            pids["dot"] = int(serve.object("dot").number("pid") or 0)
        if page is None:
            return View(now, roles=roles, processes=processes(pids, ()), sockets=self._sockets)
        boottime = clock.boottime_ns()
        workers = []
        for number in range(page.workers):
            slot = page.worker(number)
            workers.append(Worker(number, slot.pid, (boottime - slot.heartbeat) / 1e9, slot.active))
        return View(
            now,
            counts.total(page),
            counts.over_tls(page),
            page.active,
            page.silenced,
            page.replaced,
            workers,
            tuple(self._served(page, boottime)),
            roles,
            processes(pids, [worker.pid for worker in workers]),
            self._sockets,
        )

    def _served(self, page: Page, boottime: int) -> Iterator[ServedZone]:
        generation = page.active
        if generation != self._zones[0]:
            self._zones = (generation, _zones_of(self._tables / f"{generation}.table"))
        for number, (name, serial, until) in enumerate(self._zones[1][:MAX_ZONES]):
            yield ServedZone(name, serial, until, (page.deadline(number) - boottime) / 1e9)


def _zones_of(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, serial and end of signatures of the zones of the table at *path*; none if it cannot be read."""
    try:
        zones = open_table(path).zones
    except (OSError, TableUnusable):
        return ()
    return tuple((names.to_text(each.name), each.serial, each.signatures_until) for each in zones)
