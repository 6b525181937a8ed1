"""Zones that are kept and given out, and never answered: verified by the DS in their parent (`[[distribute]]`)."""
# Theory of operation
# -------------------
# A keeper asks and fetches for each, as for the root.  What it delivers takes a short way: there is no table, nobody to
# keep in step with and nothing to hold, since nobody answers from it.
#
#   delivery ─▶ its parent is not in service yet: waits
#            ─▶ older than what was ever given out, or on a lease that is over: refused
#            ─▶ verified and kept in a child process ─▶ rejected: the primary is left alone for a while
#                                                    ─▶ cannot be kept (disk): tried again, what is given out goes on
#                                                    ─▶ in the ledger, then given out
#
# A parent that says another DS has its children verified again: what is not proved any more is not given out.

import asyncio
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rootsrv.config.file import Config
from rootsrv.config.localroot import DistributeConfig
from rootsrv.process import log
from rootsrv.process.child import ChildFailed, in_child
from rootsrv.process.persistence import persistently
from rootsrv.process.troubles import Troubles
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.preparation import ZonePolicy, zonemd_of
from rootsrv.secondary.sources import MadeSource, ZoneSource, source_at_start
from rootsrv.secondary.stored import StoredVersions
from rootsrv.store.ledger import Served
from rootsrv.store.records import Records
from rootsrv.store.store import Provenance, Store, StoreFailed
from rootsrv.wire import name as names
from rootsrv.wire.rdata import DS
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import presentation
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.delivery import Delivery, Origin
from rootsrv.zone.verify import ZoneRejected, verify_delegated

TICK_SECONDS = 0.5
AGAIN_SECONDS = 5.0
"""How soon a version is tried again that could not be judged or kept."""

SAVE_SECONDS = 60.0
"""How often the ledger is told that a zone was confirmed."""


class NoParent(Exception):
    """The zone cannot be judged yet: its parent is not in service."""


@dataclass(frozen=True, slots=True)
class _Judged:
    signatures_until: float | None
    alarms: tuple[str, ...]
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OwnZone:
    """A zone that is made here: nobody above has to delegate it."""

    settings: DistributeConfig
    source: MadeSource
    delegation: RRset
    """The DS RRset of its own key."""


class DistributedZones:
    """All zones of `[[distribute]]`."""

    def __init__(
        self,
        config: Config,
        store: Store,
        records: Records,
        root: ZoneKeeper,
        counters: Counter[str],
        own: Iterable[OwnZone] = (),
    ) -> None:
        """*root*: what the others are proved by; *counters* count what happens; *own*: those that are made here."""
        self._own = {each.settings.name: each for each in own}
        self._store = store
        self._records = records
        self._time = records.time
        self._root = root
        self._counters = counters
        self._keep_versions = config.switchover.keep_versions
        self._wake = asyncio.Event()
        self._waiting = Troubles("zone waits", "zone waits no more")
        self.settings: Mapping[str, DistributeConfig] = {
            each.name: each for each in (*config.distribute, *(each.settings for each in self._own.values()))
        }
        self.keepers = {name: self._keeper(each, config) for name, each in self.settings.items()}
        self.on_given: list[Callable[[ZoneKeeper], None]] = []
        """Told when a zone has a new version."""

        self._proved_by: dict[str, tuple[bytes, ...]] = {}
        """By zone: the DS that what is given out was verified by."""

        self._saved_at = self._time.boottime()

    def _keeper(self, each: DistributeConfig, config: Config) -> ZoneKeeper:
        apex = names.from_text(each.name)
        limits = dataclasses.replace(config.refresh, max_octets=each.max_octets, max_records=each.max_records)
        of_zone = dataclasses.replace(config, refresh=limits)

        def anchors() -> str:
            raise OSError(f"zone {each.name}: its anchor is the DS in its parent")

        refresh = config.refresh
        sources: dict[str, ZoneSource] = {
            primary.name: source_at_start(primary, of_zone, self._store)
            for primary in config.primary
            if each.name in primary.zones
        }
        if (own := self._own.get(each.name)) is not None:
            sources = {own.source.name: own.source}
        return ZoneKeeper(
            ZonePolicy(each.name, apex, "required", "required", anchors),
            sources,
            StoredVersions(self._store, apex),
            time=self._time,
            offer=self._wake.set,
            renewed=lambda _: None,
            counters=self._counters,
            bounds=(refresh.min_seconds, refresh.max_seconds),
            max_serve_seconds=config.switchover.max_serve_seconds,
            backoff_seconds=refresh.backoff_seconds,
        )

    async def run(self) -> None:
        """Until cancelled."""
        await self._resume()
        async with asyncio.TaskGroup() as tasks:
            for keeper in self.keepers.values():
                tasks.create_task(keeper.run(), name=f"zone {keeper.name}")
            tasks.create_task(persistently("distributed zones", self._take_all), name="distributed zones")
            tasks.create_task(persistently("leases of distributed zones", self._tick_forever), name="tick")

    async def _resume(self) -> None:
        """What was given out before a restart goes through the same door, with what is left of its lease."""
        for keeper in self.keepers.values():
            lease = self._records.ledger.leases.get(keeper.name)
            if lease is None or keeper.life.serving is not None:
                continue
            keeper.life.recall_floor(lease.serial)
            if (own := self._own.get(keeper.name)) is not None:
                own.source.newest = lease.serial
            try:
                provenance, contents = await keeper.read_kept(lease.serial)
            except StoreFailed as error:
                log.alarm("kept zone unusable", zone=keeper.name, serial=lease.serial, reason=error)
                continue
            origin = Origin(provenance.source, provenance.how, provenance.received_at, lease.confirmed_boottime)
            keeper.deliver(Delivery(contents, origin, int(lease.duration_seconds), authenticated=True, kept=True))

    # Taking in.

    async def _take_all(self) -> None:
        while True:
            self._wake.clear()
            for keeper in self.keepers.values():
                if keeper.life.queue:
                    await self._take(keeper, keeper.life.queue.pop(0))
                    self._wake.set()
            await self._wake.wait()

    def _delegation(self, keeper: ZoneKeeper) -> RRset | None:
        """Its DS in the nearest zone above that is kept here; NoParent if that is not in service."""
        if (own := self._own.get(keeper.name)) is not None:
            return own.delegation
        apex = keeper.policy.apex
        above = [each for each in self.keepers.values() if each is not keeper and _is_below(apex, each.policy.apex)]
        parent = max(above, key=lambda each: len(each.policy.apex), default=self._root)
        serving = parent.life.serving
        if serving is None or parent.life.is_over(self._time.boottime()):
            raise NoParent(f"{parent.name} is not in service")
        return serving.contents.rrset(apex, DS)

    async def _take(self, keeper: ZoneKeeper, delivery: Delivery) -> None:
        life, serial = keeper.life, delivery.serial
        again = life.is_served(serial) and delivery.kept
        if life.serving is not None and not again and not serial_is_newer(serial, life.serving.serial):
            return
        if life.floor is not None and serial_is_newer(life.floor, serial):
            self._refuse(keeper, delivery, f"older than {life.floor}, which was given out before")
            return
        if not again and (fault := keeper.lease_fault(delivery)):
            self._refuse(keeper, delivery, fault)
            return
        try:
            delegation = self._delegation(keeper)
        except NoParent:
            life.waiting = delivery
            return
        life.take(delivery)
        try:
            judged = await in_child(
                functools.partial(self._judge, keeper, delivery, delegation),
                self._store,
                expected=(ZoneRejected, StoreFailed),
            )
        except ZoneRejected as error:
            fault = (type(error).__doc__ or type(error).__name__).split("\n")[0].rstrip(".")
            self._reject(keeper, delivery, f"{fault}: {error}")
            return
        except (ChildFailed, TimeoutError, StoreFailed) as error:
            self._later(keeper, delivery, error)
            return
        finally:
            life.let_go()
        self._proved_by[keeper.name] = delegation.rdatas if delegation is not None else ()
        if again:
            if life.distrusted:
                life.trust()
                self._tell(keeper)
            return
        if fault := keeper.lease_fault(delivery, judged.signatures_until):
            self._refuse(keeper, delivery, fault)
            return
        self._give(keeper, delivery, judged)

    def _judge(self, keeper: ZoneKeeper, delivery: Delivery, delegation: RRset | None) -> _Judged:
        """In a process of its own: verify and keep.  ZoneRejected, StoreFailed."""
        settings = self.settings[keeper.name]
        announced = settings.zonemd == "required" or any(each.zonemd for each in keeper.stored.versions())
        needed = announced or not delivery.authenticated
        now = self._time.now()
        zone = verify_delegated(delivery.contents, delegation, now, zonemd="required" if needed else "if-supported")
        if not delivery.kept:
            provenance = Provenance(
                zone=keeper.name,
                serial=delivery.serial,
                source=delivery.origin.source,
                how=delivery.origin.how,
                received_at=delivery.origin.received_at,
                verified_at=now,
                signatures_until=zone.signatures_until,
                expire_seconds=delivery.expire_seconds,
                verdict="accepted",
                alarms=zone.alarms,
                zonemd=zonemd_of(delivery.contents),
                records=delivery.contents.record_count,
            )
            self._store.put_version(keeper.policy.apex, provenance, presentation.to_text(delivery.contents).encode())
        return _Judged(zone.signatures_until, zone.alarms, zone.checks)

    def _give(self, keeper: ZoneKeeper, delivery: Delivery, judged: _Judged) -> None:
        version = keeper.accept(delivery, judged.signatures_until, judged.alarms)
        now = self._time.now()
        ledger = self._records.ledger
        was = ledger.leases.get(keeper.name)
        if delivery.kept and was is not None and was.serial == delivery.serial:
            # Its own lease goes on, which may be one that goes by the wall clock.
            version.lease = dataclasses.replace(was, signatures_until=judged.signatures_until)
        before = dict(ledger.leases), dict(ledger.served)
        ledger.leases[keeper.name] = version.lease
        ledger.served[keeper.name] = Served(delivery.serial, now, keeper.life.heard_of.get(delivery.serial))
        if not self._records.save():
            # What a restart does not know of could go back to an older one: it waits until it can be written down.
            keeper.life.let_go()
            ledger.leases, ledger.served = before
            self._later(keeper, dataclasses.replace(delivery, kept=True), StoreFailed(self._records.error))
            return
        keeper.activated()
        self._waiting.over(keeper.name, zone=keeper.name, serial=delivery.serial)
        self._counters["distributed_zones_verified"] += 1
        for alarm in judged.alarms:
            log.alarm("zone suspicious", zone=keeper.name, serial=delivery.serial, sign=alarm)
        facts: dict[str, Any] = {"zone": keeper.name, "serial": delivery.serial, "from": delivery.origin.source}
        log.event("zone given out", **facts, owner=self.settings[keeper.name].owner)
        self._records.journal("zone given out", **facts, checks=list(judged.checks))
        self._forget_old(keeper)
        self._tell(keeper)

    def _tell(self, keeper: ZoneKeeper) -> None:
        for tell in self.on_given:
            tell(keeper)

    def _reject(self, keeper: ZoneKeeper, delivery: Delivery, reason: str) -> None:
        serial = delivery.serial
        log.alarm("zone rejected", zone=keeper.name, serial=serial, source=delivery.origin.source, reason=reason)
        self._records.journal("zone rejected", zone=keeper.name, serial=serial, reason=reason)
        if keeper.life.is_served(serial):
            keeper.life.distrust(f"not proved by its parent any more: {reason}")
        keeper.reject(delivery, reason)

    def _refuse(self, keeper: ZoneKeeper, delivery: Delivery, reason: str) -> None:
        source = delivery.origin.source
        log.alarm("zone refused", zone=keeper.name, serial=delivery.serial, source=source, reason=reason)
        keeper.reject(delivery, reason)

    def _later(self, keeper: ZoneKeeper, delivery: Delivery, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._waiting.met(
            reason, key=keeper.name, zone=keeper.name, serial=delivery.serial, again_seconds=AGAIN_SECONDS
        )
        keeper.life.last_rejection = f"{delivery.serial} from {delivery.origin.source}: {reason}"
        asyncio.get_running_loop().call_later(AGAIN_SECONDS, keeper.deliver, delivery)

    def _forget_old(self, keeper: ZoneKeeper) -> None:
        assert keeper.life.serving is not None
        served = keeper.life.serving.serial
        old = [each for each in keeper.stored.versions() if each.serial != served]
        for provenance in old[: max(0, len(old) + 1 - self._keep_versions)]:
            try:
                keeper.stored.forget(provenance.serial)
            except StoreFailed as error:
                self._records.failed(error)

    # Time.

    async def _tick_forever(self) -> None:
        while True:
            self._tick()
            await asyncio.sleep(TICK_SECONDS)

    def _tick(self) -> None:
        for keeper in self.keepers.values():
            keeper.watch_lease()
            keeper.note_known()
            self._look_at_parent(keeper)
        now = self._time.boottime()
        if now >= self._saved_at + SAVE_SECONDS:
            self._saved_at = now
            serving = {each.name: each.life.serving for each in self.keepers.values()}
            leases = {name: version.lease for name, version in serving.items() if version is not None}
            if any(self._records.ledger.leases.get(name) != lease for name, lease in leases.items()):
                self._records.ledger.leases |= leases
                self._records.save()

    def _look_at_parent(self, keeper: ZoneKeeper) -> None:
        """What waits for a parent, and what the parent proves otherwise now, is taken in (again)."""
        try:
            delegation = self._delegation(keeper)
        except NoParent:
            return
        if keeper.life.waiting is not None:
            waiting, keeper.life.waiting = keeper.life.waiting, None
            keeper.deliver(waiting)
            return
        proved_by = delegation.rdatas if delegation is not None else ()
        serving = keeper.life.serving
        if serving is not None and self._proved_by.get(keeper.name) != proved_by:
            self._proved_by[keeper.name] = proved_by
            keeper.deliver(serving.again())

    def contents(self, name: str) -> ZoneContents | None:
        """What is given out of the zone *name*."""
        serving = self.keepers[name].life.serving
        return serving.contents if serving is not None else None


def _is_below(apex: bytes, other: bytes) -> bool:
    return apex != other and names.is_at_or_below(apex, other)
