"""The role *maintain*: keepers ask and fetch, the pipeline activates, the clock ticks, an operator decides."""

import asyncio

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.mesh.orders import Decision
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.process import log, service_manager
from rootsrv.process.clocks import Clocks
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.pipeline import Pipeline
from rootsrv.secondary.preparation import is_beyond_us
from rootsrv.secondary.resume import Resumption
from rootsrv.secondary.sources import HandedSource
from rootsrv.secondary.zones import Zones, policy_of
from rootsrv.store.store import Store, StoreFailed
from rootsrv.store.zone_file import check_trust_anchors
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import instant
from rootsrv.zone.lease import ClockState

TICK_SECONDS = 0.5

LAST_SEEN_SECONDS = 600.0
"""How often the ledger notes that time has passed, if nothing else does: what a reboot with a wrong clock costs."""

WAIT_TO_SERVE_SECONDS = 20.0
"""How long after the start the service manager is told that we are ready although no primary gave us a zone yet."""

HOLD_LEASE_SECONDS = 86_400.0
"""A hold ends when the lease of what is in service has no more than this left (D23)."""

HOLD_MARGIN_SECONDS = 60.0
"""A hold ends so long before `stale_hard_seconds`, at which the route would be withdrawn."""


class Maintainer:
    """Keeps the zones of one instance current."""

    def __init__(self, config: Config, store: Store, page: Page, clocks: Clocks) -> None:
        """StoreFailed if what is kept cannot be read."""
        self._page_lost = ""
        """Why the head of the page, which is lost, cannot be put back."""

        self.zones = Zones(config, store, page, clocks)
        self.pipeline = Pipeline(self.zones)

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set.  LoadingFailed when there is nothing to serve and nothing to get it from."""
        await self._wait_for_clock()
        await Resumption(self.pipeline).run()
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self.pipeline.run(), name="pipeline"),
                tasks.create_task(self._tick_forever(), name="tick"),
                *(tasks.create_task(each.run(), name=f"zone {each.name}") for each in self.zones.keepers.values()),
            ]
            await stop.wait()
            for task in running:
                task.cancel()
        self.zones.write_ledger()

    async def _wait_for_clock(self) -> None:
        # Counted from the boot: whoever synchronises the clock had that long, and does not begin when we do.
        wait = self.zones.config.clock.clock_wait_seconds
        if self.zones.clock.state is ClockState.UNKNOWN and not self.zones.page.active and self.zones.boottime() < wait:
            log.alarm("waiting for the clock to be synchronised", seconds=round(wait - self.zones.boottime()))
        while (
            self.zones.clock.state is ClockState.UNKNOWN and not self.zones.page.active and self.zones.boottime() < wait
        ):
            await asyncio.sleep(0.2)
            self.zones.clock.observe(self.zones.clocks())
        self.zones.clock.settle()
        if not self.zones.clock.synchronised:
            log.alarm(
                "clock is not synchronised",
                state=self.zones.clock.state,
                going_on_from=instant.to_text(self.zones.now()),
            )

    async def _tick_forever(self) -> None:
        began = self.zones.boottime()
        failed = ""
        while True:
            try:
                self._tick()
                failed = ""
            except Exception as error:  # one turn, not the role: the next one may go well
                if failed != (failed := f"{type(error).__name__}: {error}"):
                    context = {"message": "a turn of the clock failed", "exception": error}
                    asyncio.get_running_loop().call_exception_handler(context)
            service_manager.alive()
            if self.zones.root.serving is not None:
                service_manager.ready("zones are loaded")
            elif self.zones.boottime() > began + WAIT_TO_SERVE_SECONDS:
                service_manager.ready("no zone yet: waiting for the primaries")
            await asyncio.sleep(TICK_SECONDS)

    def _tick(self) -> None:
        self._keep_page()
        state = self.zones.clock.state
        self.zones.clock.observe(self.zones.clocks())
        if self.zones.clock.state is not state:
            tell = log.event if self.zones.clock.synchronised else log.alarm
            tell(
                "clock changed",
                state=f"{state}->{self.zones.clock.state}",
                off_by_seconds=round(self.zones.clock.distance, 1),
            )
        self.zones.grant()
        self.zones.switchover.watch()
        self.pipeline.watch()
        for keeper in self.zones.keepers.values():
            keeper.watch_lease()
            keeper.note_known()
            self._end_hold(keeper)
            self._follow_mesh(keeper)
        if self.zones.boottime() - self.zones.last_written > LAST_SEEN_SECONDS:
            self.zones.write_ledger()

    def _keep_page(self) -> None:
        page = self.zones.page
        if not page.lost_head():
            return
        try:
            page.put_back()
        except (PageUnusable, OSError) as error:  # workers go by the one that is mapped; the next turn tries again
            if self._page_lost != (reason := str(error)):
                log.alarm("shared page is lost, and cannot be put back", reason=reason)
            self._page_lost = reason
        else:
            self._page_lost = ""
            log.alarm("shared page was lost, and is put back", generation=page.active)

    def _end_hold(self, keeper: ZoneKeeper) -> None:
        """A hold that nobody decided, when the zone in service gets too old."""
        # What is beyond this version of the software stays held, however old what is in service gets.
        held = {serial: each for serial, each in keeper.held.items() if not is_beyond_us(each.reasons)}
        if not held or keeper.deliveries or self.zones.config.hold.on_hold_timeout == "keep":
            return
        if keeper.scheduled is not None:
            return
        since = min(each.received_at for each in held.values())
        too_old = self.zones.now() - since >= self.zones.config.hold.stale_hard_seconds - HOLD_MARGIN_SECONDS
        deadline = keeper.deadline()
        ending = deadline is None or deadline - self.zones.boottime() <= HOLD_LEASE_SECONDS
        if not too_old and not ending:
            return
        newest = max(held, key=lambda serial: sum(serial_is_newer(serial, each) for each in held))
        why = "a newer zone was held too long" if too_old else "the lease of the zone in service ends within a day"
        log.alarm("hold ended without a decision", zone=keeper.name, serial=newest, reason=why)
        self.zones.journal("hold timed out", zone=keeper.name, serial=newest, reason=why)
        keeper.held.pop(newest)
        self.zones.redeliver(keeper, newest, approved=True)

    def _follow_mesh(self, keeper: ZoneKeeper) -> None:
        """What the mesh's operator decided of a held zone."""
        in_step = self.pipeline.activation.in_step
        decided = in_step.decide_held(keeper) if in_step is not None and keeper.held else None
        if decided is not None:
            serial, decision = decided
            (self.reject if decision is Decision.REJECT else self.approve)(keeper, serial)

    async def import_zone(self, keeper: ZoneKeeper, octets: bytes, name: str, *, now: bool) -> tuple[int, str]:
        """Take the zone file *octets*, called *name*: its serial, and what is wrong at first sight.

        Raises TransferFailed if it cannot be read.
        """
        read = await HandedSource(name, octets, self.zones.store).fetch(keeper.policy.apex)
        assert read.contents is not None
        if now:
            self.pipeline.activation.now_please.add((keeper.name, read.contents.serial))
            self.zones.switchover.hurry()
        keeper.last_rejection = ""
        return read.contents.serial, self.zones.offer_file(keeper, read, "import")

    def approve(self, keeper: ZoneKeeper, serial: int) -> None:
        """Activate a held zone; KeyError if *serial* is not held."""
        keeper.held.pop(serial)
        self.zones.journal("zone approved", zone=keeper.name, serial=serial)
        self.zones.redeliver(keeper, serial, approved=True)

    def reject(self, keeper: ZoneKeeper, serial: int) -> None:
        """Drop a held zone; KeyError if *serial* is not held, StoreFailed if the decision cannot be written down."""
        held = keeper.held.pop(serial)
        keeper.drop(serial)
        if not self.zones.write_ledger():
            keeper.held[serial] = held
            keeper.refresh.undropped(serial)
            raise StoreFailed(self.zones.state_error)
        self.zones.store.forget_version(keeper.policy.apex, serial)
        self.zones.journal("zone dropped", zone=keeper.name, serial=serial)

    def reload(self, config: Config) -> list[str]:
        """Go on with another configuration; the sections that only a restart makes effective.  ConfigError: refused."""
        if [each.name for each in config.zone] != [each.name for each in self.zones.config.zone]:
            raise ConfigError("zone: zones cannot be added, removed or renamed without a restart")
        for told in check_trust_anchors(config.zone):
            log.alarm("trust anchors", reason=told)
        old, self.zones.config = self.zones.config, config
        try:
            sources = {zone.name: self.zones.sources_of(zone) for zone in config.zone}
        except ConfigError:
            self.zones.config = old
            raise
        for zone in config.zone:
            keeper = self.zones.keepers[zone.name]
            keeper.policy = policy_of(zone)
            keeper.bounds = (config.refresh.min_seconds, config.refresh.max_seconds)
            keeper.max_serve_seconds = config.switchover.max_serve_seconds
            keeper.backoff_seconds = config.refresh.backoff_seconds
            keeper.set_sources(sources[zone.name])
        self.zones.switchover.settings = config.switchover
        self.zones.ask_to_verify()
        self.zones.journal("configuration reloaded")
        later = ("service", "state", "anycast", "mesh", "clock")
        return [key for key in later if getattr(old, key) != getattr(config, key)]
