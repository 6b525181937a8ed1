"""The role *maintain*: keepers ask and fetch, the pipeline activates, the clock ticks, an operator decides."""

import asyncio
import contextlib
from dataclasses import fields, replace

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.mesh.orders import Decision
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.process import log, service_manager
from rootsrv.process.clocks import Clocks
from rootsrv.secondary.activation import Activation
from rootsrv.secondary.agenda import Agenda
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.membership import Membership
from rootsrv.secondary.partners import completed
from rootsrv.secondary.pipeline import Pipeline
from rootsrv.secondary.preparation import is_beyond_us
from rootsrv.secondary.resume import Resumption
from rootsrv.secondary.sources import HandedSource
from rootsrv.secondary.switchover import Switchover
from rootsrv.secondary.zones import Zones
from rootsrv.store.records import Records
from rootsrv.store.store import Store, StoreFailed
from rootsrv.store.zone_file import check_trust_anchors
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import instant
from rootsrv.zone.lease import ClockState
from rootsrv.zone.plausibility import why_hold_ends

TICK_SECONDS = 0.5

WAIT_TO_SERVE_SECONDS = 20.0
"""How long after the start the service manager is told that we are ready although no primary gave us a zone yet."""

_AT_ONCE = frozenset(
    ("admin", "cookies", "hold", "identity", "key", "limits", "peer", "primary", "refresh", "switchover", "zone")
)
"""Sections that a reload puts in force, by this role or by serve; of [dot] besides the certificate and its key."""


class Maintainer:
    """Keeps the zones of one instance current."""

    def __init__(self, config: Config, store: Store, page: Page, clocks: Clocks) -> None:
        """StoreFailed if what is kept cannot be read."""
        self._page_lost = ""
        """Why the head of the page, which is lost, cannot be put back."""

        self.config = config
        self._started_with = config
        self.store = store
        self.files = [store.ledger_file]
        """What is kept twice for the next start."""

        self.page = page
        self.records = Records(store, clocks)
        self.time = self.records.time
        self.agenda = Agenda()
        self.zones = Zones(config, store, self.records, page, self.agenda)
        self.switchover = Switchover(page, config.switchover, self.time.trusted, self.time.boottime)
        self.membership = None if config.mesh is None else Membership(self.time.trusted, self.time.boottime)
        self.activation = Activation(
            self.zones,
            store=store,
            records=self.records,
            page=page,
            switchover=self.switchover,
            membership=self.membership,
            config=config,
        )
        self.pipeline = Pipeline(
            self.zones,
            self.activation,
            self.agenda,
            store=store,
            records=self.records,
            page=page,
            switchover=self.switchover,
            hold=config.hold,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set.  LoadingFailed when there is nothing to serve and nothing to get it from."""
        await self._wait_for_clock()
        await self.resume()
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self.pipeline.run(), name="pipeline"),
                tasks.create_task(self._tick_forever(), name="tick"),
                *(tasks.create_task(each.run(), name=f"zone {each.name}") for each in self.zones),
            ]
            await stop.wait()
            for task in running:
                task.cancel()
        self.records.end()
        self.zones.write_ledger()

    async def resume(self) -> None:
        """Go on from what is kept, else from files.  LoadingFailed as in `run`."""
        resumption = Resumption(
            self.pipeline,
            store=self.store,
            records=self.records,
            page=self.page,
            switchover=self.switchover,
            files={zone.name: zone.file for zone in self.config.zone if zone.file},
            others_may_come=self.membership is not None,
        )
        await resumption.run()

    async def _wait_for_clock(self) -> None:
        # Counted from the boot: whoever synchronises the clock had that long, and does not begin when we do.
        wait = self.config.clock.clock_wait_seconds
        if self.time.trusted.state is ClockState.UNKNOWN and not self.page.active and self.time.boottime() < wait:
            log.alarm("waiting for the clock to be synchronised", seconds=round(wait - self.time.boottime()))
        while self.time.trusted.state is ClockState.UNKNOWN and not self.page.active and self.time.boottime() < wait:
            await asyncio.sleep(0.2)
            self.time.observe()
        self.time.trusted.settle()
        if not self.time.trusted.synchronised:
            log.alarm(
                "clock is not synchronised",
                state=self.time.trusted.state,
                going_on_from=instant.to_text(self.time.now()),
            )

    async def _tick_forever(self) -> None:
        began = self.time.boottime()
        failed = ""
        while True:
            try:
                await self._tick()
                failed = ""
            except Exception as error:  # one turn, not the role: the next one may go well
                if failed != (failed := f"{type(error).__name__}: {error}"):
                    context = {"message": "a turn of the clock failed", "exception": error}
                    asyncio.get_running_loop().call_exception_handler(context)
            service_manager.alive()
            if self.zones.root.life.serving is not None:
                service_manager.ready("zones are loaded")
            elif self.time.boottime() > began + WAIT_TO_SERVE_SECONDS:
                service_manager.ready("no zone yet: waiting for the primaries")
            await asyncio.sleep(TICK_SECONDS)

    async def _tick(self) -> None:
        self._keep_page()
        state = self.time.trusted.state
        self.time.observe()
        if self.time.trusted.state is not state:
            tell = log.event if self.time.trusted.synchronised else log.alarm
            tell(
                "clock changed",
                state=f"{state}->{self.time.trusted.state}",
                off_by_seconds=round(self.time.trusted.distance, 1),
            )
        self.zones.grant()
        self.switchover.watch()
        if self.records.is_due():
            self.zones.write_ledger()
        self.pipeline.watch()
        for keeper in self.zones:
            keeper.watch_lease()
            keeper.note_known()
            await self._end_hold(keeper)
            await self._follow_mesh(keeper)

    def _keep_page(self) -> None:
        if not self.page.lost_head():
            return
        try:
            self.page.put_back()
        except (PageUnusable, OSError) as error:  # workers go by the one that is mapped; the next turn tries again
            if self._page_lost != (reason := str(error)):
                log.alarm("shared page is lost, and cannot be put back", reason=reason)
            self._page_lost = reason
        else:
            self._page_lost = ""
            log.alarm("shared page was lost, and is put back", generation=self.page.active)

    async def _end_hold(self, keeper: ZoneKeeper) -> None:
        """A hold that nobody decided, when the zone in service gets too old."""
        # What is beyond this version of the software stays held, however old what is in service gets.
        held = {serial: each for serial, each in keeper.life.held.items() if not is_beyond_us(each.reasons)}
        if not held or keeper.life.queue or self.config.hold.on_hold_timeout == "keep":
            return
        if keeper.life.scheduled is not None:
            return
        since = min(each.received_at for each in held.values())
        deadline = keeper.deadline()
        left = None if deadline is None else deadline - self.time.boottime()
        why = why_hold_ends(self.time.now() - since, left, self.config.hold.stale_hard_seconds)
        if not why:
            return
        newest = max(held, key=lambda serial: sum(serial_is_newer(serial, each) for each in held))
        log.alarm("hold ended without a decision", zone=keeper.name, serial=newest, reason=why)
        self.records.journal("hold timed out", zone=keeper.name, serial=newest, reason=why)
        keeper.life.decided(newest)
        await keeper.redeliver(newest, approved=True)

    async def _follow_mesh(self, keeper: ZoneKeeper) -> None:
        """What the mesh's operator decided of a held zone."""
        in_step = self.activation.in_step
        decided = await in_step.decide_held(keeper) if in_step is not None and keeper.life.held else None
        if decided is not None:
            serial, decision = decided
            with contextlib.suppress(StoreFailed):  # told by who could not write; the next turn tries again
                if decision is Decision.REJECT:
                    self.reject(keeper, serial)
                else:
                    await self.approve(keeper, serial)

    async def import_zone(self, keeper: ZoneKeeper, octets: bytes, name: str, *, now: bool) -> tuple[int, str]:
        """Take the zone file *octets*, called *name*: its serial, and what is wrong at first sight.

        Raises TransferFailed if it cannot be read.
        """
        read = await HandedSource(name, octets, self.store).fetch(keeper.policy.apex)
        assert read.contents is not None
        if now:
            self.activation.now_please.add((keeper.name, read.contents.serial))
            self.switchover.hurry()
        keeper.life.last_rejection = ""
        return read.contents.serial, keeper.offer_file(read, "import")

    async def approve(self, keeper: ZoneKeeper, serial: int) -> None:
        """Activate a held zone; KeyError if *serial* is not held."""
        keeper.life.decided(serial)
        self.records.journal("zone approved", zone=keeper.name, serial=serial)
        await keeper.redeliver(serial, approved=True)

    def reject(self, keeper: ZoneKeeper, serial: int) -> None:
        """Drop a held zone; KeyError if *serial* is not held, StoreFailed if the decision cannot be written down."""
        held = keeper.life.decided(serial)
        keeper.drop(serial)
        if not self.zones.write_ledger():
            keeper.life.hold(held)
            keeper.refresh.undropped(serial)
            raise StoreFailed(self.records.error)
        keeper.stored.forget(serial)
        self.records.journal("zone dropped", zone=keeper.name, serial=serial)

    def completed(self, config: Config) -> Config:
        """*config* with whom the roster names for transfers; ConfigError if it does not go together."""
        return config if self.membership is None else completed(config, self.membership.partners)

    def reload(self, config: Config) -> list[str]:
        """Go on with another configuration; the sections that only a restart makes effective.  ConfigError: refused."""
        if [each.name for each in config.zone] != [each.name for each in self.config.zone]:
            raise ConfigError("zone: zones cannot be added, removed or renamed without a restart")
        for told in check_trust_anchors(config.zone):
            log.alarm("trust anchors", reason=told)
        self.zones.configure(self.completed(config))
        self.config = config
        self.activation.configure(config)
        self.pipeline.hold = config.hold
        self.agenda.ask_to_verify()
        self.records.journal("configuration reloaded")
        return _only_after_restart(self._started_with, config)


def _only_after_restart(started_with: Config, wanted: Config) -> list[str]:
    """The sections in which the two differ and which are read at the start alone."""

    def without_certificate(config: Config) -> Config:
        return config if config.dot is None else replace(config, dot=replace(config.dot, certificate="", key=""))

    running, wanted = without_certificate(started_with), without_certificate(wanted)
    later = sorted(each.name for each in fields(Config) if each.name not in _AT_ONCE)
    return [name for name in later if getattr(running, name) != getattr(wanted, name)]
