"""The role *maintain* for an instance whose zones come from files only: load, activate, load again when told to."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rootsrv import clock, log
from rootsrv.page import Page
from rootsrv.secondary.loading import Loaded, LoadingFailed
from rootsrv.zone import instant
from rootsrv.zone.name import to_text

STAGE_SECONDS = 5.0
"""How long workers may take to map a staged table before it is activated all the same: they then map it on the spot."""

_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class FileMaintainer:
    """Keeps what is in the zone files in service."""

    load: Callable[[bool], Loaded]
    """load(confirm) → the table to serve; LoadingFailed."""

    retire: Callable[[set[int]], None]
    """retire(kept generations): remove the other tables."""

    page: Page

    async def run(self, stop: asyncio.Event, reload: asyncio.Event) -> None:
        """Serve the files' zones until *stop*; LoadingFailed at start only: later what is served stays served."""
        loaded = self.load(False)
        await self._activate(loaded)
        while True:
            waits = [asyncio.create_task(each.wait()) for each in (stop, reload)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()
            if stop.is_set():
                return
            reload.clear()
            try:
                loaded = await asyncio.to_thread(self.load, True)
            except LoadingFailed as error:
                log.alarm("reload refused", reason=error, serving=self.page.active)
                continue
            await self._activate(loaded)

    async def _activate(self, loaded: Loaded) -> None:
        """Stage, wait for the workers, flip, grant the leases: in the order that page.py explains."""
        page, generation = self.page, loaded.note.generation
        before = page.active
        if before == 0:
            self._grant(loaded)
            page.active = generation
        elif before != generation:
            page.staged = generation
            await self._staged_by_all(generation)
            page.active = generation
            page.staged = 0
        self._grant(loaded)
        serials = ",".join(f"{to_text(zone.name)}={zone.serial}" for zone in loaded.table.zones)
        until = ",".join(instant.to_text(loaded.valid_until(zone)) for zone in range(len(loaded.table.zones)))
        log.event(
            "zones in service",
            generation=f"{before}->{generation}",
            serials=serials,
            valid_until=until,
            source="files" if loaded.made else "stored table",
        )
        self.retire({before, generation})

    async def _staged_by_all(self, generation: int) -> None:
        for _ in range(round(STAGE_SECONDS / _POLL_SECONDS)):
            if not any(self._lags(slot, generation) for slot in range(self.page.workers)):
                return
            await asyncio.sleep(_POLL_SECONDS)  # a page has no events: whoever reads it looks
        log.alarm("not all workers have staged", generation=generation, waited_seconds=STAGE_SECONDS)

    def _lags(self, slot: int, generation: int) -> bool:
        worker = self.page.worker(slot)
        return bool(worker.pid) and worker.staged != generation

    def _grant(self, loaded: Loaded) -> None:
        for zone in range(len(loaded.table.zones)):
            self.page.set_deadline(zone, clock.boottime_deadline_ns(loaded.valid_until(zone)))
