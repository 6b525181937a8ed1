"""From a prepared table to service: stage, wait for T, flip, read back; and what did not get there."""
# The ledger is on disk before the flip, or there is no flip: a crash at any instant finds either the old zone in
# service or the new one scheduled, never a way back to an older serial.  Where it cannot be written the delivery is put
# off until it can.

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import rootsrv
from rootsrv.answer.table import FORMAT_VERSION
from rootsrv.config.file import Config
from rootsrv.mesh.tables import StagedTable
from rootsrv.page.layout import Page
from rootsrv.process import log
from rootsrv.secondary.in_step import InStep, Waited
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.membership import Membership, SwitchoverOutcome, subject_of
from rootsrv.secondary.preparation import Assessment, PreparedTable
from rootsrv.secondary.switchover import Switchover, SwitchoverVoid
from rootsrv.secondary.zones import Zones
from rootsrv.store.ledger import Next
from rootsrv.store.records import WRITE_AGAIN_SECONDS, Records
from rootsrv.store.store import Store, StoreFailed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import instant
from rootsrv.zone.delivery import Delivery
from rootsrv.zone.life import Before, InService

RESTAGE_SECONDS = 60.0
"""How soon a table that no worker could map is tried again."""

OUR_FAULT = f"rootsrv {rootsrv.__version__}"
"""What the reason of a void version begins with: another version of the software may do better."""

_BY_THE_MESH = instant.LAST
"""T in the ledger of what waits for the mesh and does not know its T yet: a restart stages it, and it waits, again."""

Accepted = list[tuple[ZoneKeeper, Delivery, Assessment]]
"""What one table brings into service: the root, the zone of its hosts, or both."""


class Activation:
    """Takes prepared tables into service, one after the other."""

    def __init__(
        self,
        zones: Zones,
        *,
        store: Store,
        records: Records,
        page: Page,
        switchover: Switchover,
        membership: Membership | None,
        config: Config,
    ) -> None:
        self.zones = zones
        self._store = store
        self._records = records
        self._time = records.time
        self._page = page
        self._switchover = switchover
        self._membership = membership
        self._keep_versions = config.switchover.keep_versions
        self.on_activated: list[Callable[[ZoneKeeper], None]] = []
        """Told when a zone has a new version in service."""

        self.on_staged: list[Callable[[ZoneKeeper], None]] = []
        """Told when a version waits for the mesh: whoever distributes it gives it out from then on."""

        self.in_step: InStep | None = None
        if membership is not None:
            self.in_step = InStep(membership, records, switchover, config.hold)

        self.now_please: set[tuple[str, int]] = set()
        """Zones and serials that an operator wants without waiting for the set time."""

        self.needs_table = False
        """Whether what is in service has no table any more and could not be compiled again yet."""

        self.confirm_seconds: float | None = None
        """From the latest switchover until every worker was seen to answer from the new table."""

        self._put_off: list[tuple[ZoneKeeper, Delivery]] = []
        """What waits until the state directory can be written."""

        self._put_off_until = 0.0
        self._put_off_seconds = WRITE_AGAIN_SECONDS

    def configure(self, config: Config) -> None:
        """Go on as *config* says."""
        self._keep_versions = config.switchover.keep_versions
        self._switchover.settings = config.switchover
        if self.in_step is not None:
            self.in_step.hold = config.hold

    def watch(self) -> None:
        """Called every second: what was put off is tried again once the ledger could be written."""
        now = self._time.boottime()
        if self._put_off and now >= self._put_off_until and not self._records.unwritten:
            put_off, self._put_off = self._put_off, []
            for keeper, delivery in put_off:
                keeper.deliver(delivery)

    async def activate(
        self,
        accepted: Accepted,
        generation: int,
        prepared: PreparedTable,
        *,
        at_once: bool,
    ) -> None:
        """Stage, wait for T, flip, read back."""
        versions = {
            keeper.name: keeper.accept(delivery, verdict.signatures_until, verdict.alarms)
            for keeper, delivery, verdict in accepted
        }
        self._records.ledger.highest = max(self._records.ledger.highest, generation)
        hurried = {(keeper.name, delivery.serial) for keeper, delivery, _ in accepted} & self.now_please
        self.now_please -= hurried
        try:
            await self._switchover.stage(generation)
        except SwitchoverVoid as error:
            for keeper, _, _ in accepted:
                keeper.life.let_go()
            if error.differs:
                self.void(accepted, generation, str(error))
                return
            self._not_now(accepted, str(error))
            return
        # Where nothing is answered there is nothing to keep in step with: every second is one of SERVFAIL.
        silent = self._page.active == 0 or self._page.silenced
        unanswered = silent or (self.zones.root.deadline() or 0.0) <= self._time.boottime()
        in_step = None if at_once or hurried or unanswered else self.in_step
        if in_step is not None:
            activate_at: float | None = _BY_THE_MESH
        else:
            activate_at = None if at_once or hurried or unanswered else self._switchover.schedule()
        if not self._note_next(generation, activate_at):
            self._unwritten(accepted, generation)
            return
        shown = "now" if activate_at is None else instant.to_text(activate_at)
        for keeper, _, _ in accepted:
            by = "the mesh" if in_step is not None else shown
            log.event("zone scheduled", zone=keeper.name, serial=versions[keeper.name].serial, activate_at=by)
        if in_step is not None:
            for keeper, _, _ in accepted:
                for tell in self.on_staged:
                    tell(keeper)
            first = accepted[0][0]
            subject = await asyncio.to_thread(in_step.subject, first)

            def note(at: float | None) -> bool:
                return self._note_next(generation, _BY_THE_MESH if at is None else at)

            waited = await in_step.wait(first, StagedTable(subject, self._made_of(), prepared.table_digest), note)
            if waited is Waited.UNWRITTEN:
                self._unwritten(accepted, generation)
                return
            if waited is not Waited.GOES:
                self._unstage(accepted, generation)
                if waited is Waited.MADE_AGAIN:
                    for keeper, delivery, _ in accepted:
                        keeper.deliver(replace(delivery, kept=True))
                return
            shown = "now" if (at := self._switchover.activate_at) is None else instant.to_text(at)
        else:
            await self._switchover.wait_until(activate_at)
        before = self._page.active
        had_hosts = self.zones.has_hosts
        self.zones.has_hosts = prepared.has_hosts
        restore = [(keeper, keeper.activated()) for keeper, _, _ in accepted]
        flipped, flipped_at = time.monotonic(), self._time.now()
        self._switchover.flip(generation, self.zones.grant)
        self._records.ledger.generation, self._records.ledger.next = generation, None
        written = self.zones.write_ledger()
        self.needs_table, self._put_off_seconds = False, WRITE_AGAIN_SECONDS
        self.zones.counters["switchovers"] += 1
        log.event(
            "zones in service",
            generation=f"{before}->{generation}",
            serials=self.zones.serials(),
            was_due=shown,
            flipped_at=f"{flipped_at:.3f}",
        )
        for keeper, delivery, _ in accepted:
            self._records.journal("zone served", zone=keeper.name, serial=delivery.serial, generation=generation)
        if self.zones.hosts is not None and any(keeper is self.zones.hosts for keeper, _, _ in accepted):
            self.zones.hosts.life.waiting = None
        alone = self._failing_alone(accepted) if in_step is not None and before else lambda: ""
        try:
            confirmed = await self._switchover.confirm(generation, alone)
        except SwitchoverVoid as error:
            if self._stay(accepted, restore, had_hosts, before, str(error)):
                return
            confirmed = await self._switchover.confirm(generation)
        for keeper, delivery, _ in accepted:
            self.note_outcome(keeper, delivery, "" if confirmed else self._switchover.reason, flipped_at)
        if confirmed:
            self.confirm_seconds = time.monotonic() - flipped
        else:
            self.zones.counters["switchovers_failed"] += 1
            self._records.journal("switchover failed", generation=generation, reason=self._switchover.reason)
        if written:
            # Else the ledger on disk still names what was in service before: it stays until there is another one.
            self.retire_others()
        for keeper, _, _ in accepted:
            if written:
                self._forget_old(keeper)
            for tell in self.on_activated:
                tell(keeper)
            for serial in list(keeper.life.held):
                await keeper.redeliver(serial, approved=False)

    def _note_next(self, generation: int, activate_at: float | None) -> bool:
        """Write down what goes into service next, and when; whether it is on disk when this returns."""
        leases = {each.name: newest.lease for each in self.zones if (newest := each.life.newest) is not None}
        self._records.ledger.next = Next(generation, activate_at, leases)
        return self.zones.write_ledger()

    def _made_of(self) -> str:
        """What a table depends on: members that say the same here have the same one."""
        serials = (f"{each.name}={newest.serial}" for each in self.zones if (newest := each.life.newest) is not None)
        return f"format={FORMAT_VERSION} version={rootsrv.__version__} {' '.join(serials)}"

    def void(self, accepted: Accepted, generation: int, reason: str) -> None:
        self._switchover.void(generation, reason)
        self.zones.counters["switchovers_void"] += 1
        for keeper, delivery, verdict in accepted:
            self.note_outcome(keeper, delivery, reason)
            keeper.reject(delivery, f"void: {reason}")
            keeper.drop(verdict.serial)
            self.mark_void(keeper, verdict.serial, reason)
            self._records.journal("switchover void", zone=keeper.name, serial=verdict.serial, reason=reason)
        self.retire_others()

    def mark_void(self, keeper: ZoneKeeper, serial: int, reason: str) -> None:
        """What is kept of *serial* is not tried again by this version of the software, unless a primary gives it."""
        if keeper.life.is_served(serial):
            return
        with contextlib.suppress(StoreFailed):  # nothing is kept of it, or there is no room: it is tried again then
            keeper.stored.mark(serial, "void", f"{OUR_FAULT}: {reason}")

    def _not_now(self, accepted: Accepted, reason: str) -> None:
        """The zones are good; the workers may be able to take them later."""
        self.zones.counters["switchovers_void"] += 1
        self.retire_others()
        for keeper, delivery, _ in accepted:
            serial = delivery.serial
            self._records.journal("switchover void", zone=keeper.name, serial=serial, reason=reason)
            log.event("zone put off", zone=keeper.name, serial=serial, again_in_seconds=RESTAGE_SECONDS, reason=reason)
            self.note_outcome(keeper, delivery, reason)
            again = replace(delivery, kept=True)
            asyncio.get_running_loop().call_later(RESTAGE_SECONDS, keeper.deliver, again)

    def _unstage(self, accepted: Accepted, generation: int) -> None:
        """What was staged will not go into service."""
        self._switchover.void(generation, "overtaken, or not wanted")
        for keeper, _, _ in accepted:
            keeper.life.let_go()
        self._records.ledger.next = None
        self.zones.write_ledger()
        self.retire_others()

    def _unwritten(self, accepted: Accepted, generation: int) -> None:
        """No flip unless the ledger on disk knows of it: whoever starts after a crash would go back."""
        self._records.ledger.next = None
        reason = f"it cannot be kept: {self._records.error}"
        self._switchover.void(generation, reason)
        self.zones.counters["switchovers_void"] += 1
        self.retire_others()
        for keeper, delivery, _ in accepted:
            self.note_outcome(keeper, delivery, reason)
            keeper.life.let_go()
            keeper.life.last_rejection = f"{delivery.serial} from {delivery.origin.source}: {reason}"
            self.put_off(keeper, replace(delivery, kept=True))

    def _failing_alone(self, accepted: Accepted) -> Callable[[], str]:
        """Asks whether the failure is proven to be ours alone; the text says why it is not."""
        keeper = accepted[0][0]

        def alone() -> str:
            assert self._membership is not None
            assert keeper.life.serving is not None
            silence = self._membership.may_fall_silent(subject_of(keeper.name, keeper.life.serving.contents))
            return "" if silence.allowed else silence.why

        return alone

    def _stay(
        self,
        accepted: Accepted,
        restore: list[tuple[ZoneKeeper, Before]],
        had_hosts: bool,
        generation: int,
        reason: str,
    ) -> bool:
        """Nobody here has flipped, and others may fail alike: all go on with the zone that they answer from.

        False: somebody has flipped after all, and nothing was changed.
        """

        def go_back() -> None:
            self.zones.has_hosts = had_hosts
            for keeper, before in restore:
                keeper.stayed(before)
            self.zones.grant()

        if not self._switchover.stay(generation, go_back, reason):
            return False
        self._records.ledger.generation = generation
        self.zones.write_ledger()
        self._not_now(accepted, reason)
        return True

    def note_outcome(
        self, keeper: ZoneKeeper, delivery: Delivery, reason: str, flipped_at: float | None = None
    ) -> None:
        """For the mesh: what became of it here, and when; *reason* empty = it is in service."""
        if self._membership is not None:
            now = self._time.now()
            took = None if flipped_at is None else now - flipped_at
            subject = subject_of(keeper.name, delivery.contents)
            self._membership.outcome = SwitchoverOutcome(subject, not reason, reason, flipped_at or now, took)

    def resumed(self, generation: int, unrecorded: Sequence[ZoneKeeper]) -> None:
        """*generation* is in service again after a restart: whoever is told of a switchover is told once more.

        It may have ended between the flip and the telling, and what a member has not signed as done counts as not done.
        Of *unrecorded* the T came while nobody was there to write that down.
        """
        for keeper in self.zones:
            service = keeper.life.service
            if not isinstance(service, InService):
                continue
            serial = service.version.serial
            if keeper in unrecorded:
                self._records.journal("zone served", zone=keeper.name, serial=serial, generation=generation)
            if self._membership is not None and (keeper is self.zones.root or keeper in unrecorded):
                reason = keeper.life.distrusted
                since = self._time.now() - (self._time.boottime() - service.since)
                subject = subject_of(keeper.name, service.version.contents)
                self._membership.outcome = SwitchoverOutcome(subject, not reason, reason, since)
            if not keeper.life.distrusted:
                for tell in self.on_activated:
                    tell(keeper)
        if unrecorded:
            self.zones.counters["switchovers"] += 1
            self.zones.write_ledger()

    def put_off(self, keeper: ZoneKeeper, delivery: Delivery) -> None:
        """Put *delivery* off until the state directory can be written, or for a while if it can."""
        self._put_off.append((keeper, delivery))
        self._put_off_until = self._time.boottime() + self._put_off_seconds
        self._put_off_seconds = min(2 * self._put_off_seconds, RESTAGE_SECONDS)

    def retire_others(self) -> None:
        """Remove the tables that are neither in service nor were."""
        kept = {self._page.active, self._records.ledger.generation}
        if not self._records.remember_generations():
            # A number that is forgotten would be given again: while it cannot be written down, its table tells it.
            kept.add(max(self._store.generations(), default=0))
        try:
            self._store.retire_tables(kept)
        except StoreFailed as error:
            self._records.failed(error)

    def _forget_old(self, keeper: ZoneKeeper) -> None:
        assert keeper.life.serving is not None
        served = keeper.life.serving.serial
        old = [each for each in keeper.stored.versions() if not serial_is_newer(each.serial, served)]
        for provenance in old[: -self._keep_versions]:
            if provenance.serial != served:
                try:
                    keeper.stored.forget(provenance.serial)
                except StoreFailed as error:
                    self._records.failed(error)
