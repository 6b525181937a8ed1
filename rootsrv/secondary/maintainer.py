"""The role *maintain*: from what the primaries deliver to what the workers answer from."""
# Theory of operation
# -------------------
# One keeper per zone asks and fetches (keeper.py).  What it delivers goes through one pipeline, one at a time:
#
#   delivery ─▶ prepare in a child process ─▶ rejected: the primary is left alone for a while
#               (verify, keep, judge,       ─▶ held: waits in the store for a human
#                compile, examine)          ─▶ void: our own fault, the serial is not tried again
#                                           ─▶ accepted ─▶ stage ─▶ ledger.next ─▶ T ─▶ flip ─▶ read back ─▶ ledger
#
# The ledger is written before the flip, so that a crash at any instant finds either the old zone in service or the new
# one scheduled: never a way back to an older serial.
# Everything else (leases, holds that time out, the clock) happens in `_tick`, once a second.

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rootsrv import log, notification
from rootsrv.answer.table import AnswerTable, TableUnusable
from rootsrv.config import Config, ZoneConfig
from rootsrv.config_checks import ConfigError
from rootsrv.page import Page
from rootsrv.secondary.child import ChildFailed, in_child
from rootsrv.secondary.clocks import Clocks, boot_id
from rootsrv.secondary.keeper import Delivery, Version, ZoneKeeper
from rootsrv.secondary.ledger import Ledger, Next
from rootsrv.secondary.loading import LoadingFailed
from rootsrv.secondary.preparation import Candidate, Preparation, Prepared, Verdict, ZonePolicy, read_version
from rootsrv.secondary.primary import Transferred
from rootsrv.secondary.sources import FileSource, ZoneSource, source_of
from rootsrv.secondary.store import Provenance, Store, StoreFailed
from rootsrv.secondary.switchover import Switchover, SwitchoverVoid
from rootsrv.zone import instant, plausibility
from rootsrv.zone import name as names
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.lease import ClockState, TrustedClock
from rootsrv.zone.serial import serial_is_newer
from rootsrv.zone.transfer import TransferFailed

TICK_SECONDS = 0.5

LAST_SEEN_SECONDS = 600.0
"""How often the ledger notes that time has passed, if nothing else does: what a reboot with a wrong clock costs."""

WAIT_TO_SERVE_SECONDS = 20.0
"""How long after the start the service manager is told that we are ready although no primary gave us a zone yet."""

RESTAGE_SECONDS = 60.0
"""How soon a table that no worker could map is tried again."""

HOLD_LEASE_SECONDS = 86_400.0
"""A hold ends when the lease of what is in service has no more than this left (D23)."""

HOLD_MARGIN_SECONDS = 60.0
"""A hold ends so long before `stale_hard_seconds`, at which the route would be withdrawn."""


class Maintainer:
    """Keeps the zones of one instance current."""

    def __init__(self, config: Config, store: Store, page: Page, clocks: Clocks) -> None:
        """ConfigError if keys or certificates cannot be had, StoreFailed if what is kept cannot be read."""
        self.config = config
        self.store = store
        self.page = page
        self._clocks = clocks
        self.counters: Counter[str] = Counter()
        self.verify_seconds: float | None = None
        self.confirm_seconds: float | None = None
        self.state_error = ""
        """Why the state directory could not be written last; empty = it could."""

        record = store.read_ledger()
        reading = clocks()
        last_seen = record.get("last_seen_wall", 0.0)
        self.clock = TrustedClock(reading, last_seen if isinstance(last_seen, float) else 0.0)
        self._boot = boot_id()
        self.ledger = Ledger.from_record(record, self._boot, self.clock, reading.boottime)
        self.switchover = Switchover(page, config.switchover, self.clock, self.boottime)
        self.keepers: dict[str, ZoneKeeper] = {}
        for zone in config.zone:
            self.keepers[zone.name] = self._keeper(zone)
        self.root = next(iter(self.keepers.values()))
        self.hosts = next((each for each in self.keepers.values() if each is not self.root), None)
        self.has_hosts = False
        """Whether the table in service answers for the zone of the hosts."""

        self.on_activated: list[Callable[[ZoneKeeper], None]] = []
        """Told when a zone has a new version in service."""

        self._work = asyncio.Event()
        self._was_next: dict[str, int] = {}
        self._now_please: set[tuple[str, int]] = set()
        self._last_written = reading.boottime

    # Making the parts.

    def boottime(self) -> float:
        """CLOCK_BOOTTIME, seconds."""
        return self._clocks().boottime

    def now(self) -> float:
        """The time that is trusted, seconds since 1970."""
        return self.clock.wall(self.boottime())

    def _keeper(self, zone: ZoneConfig) -> ZoneKeeper:
        refresh = self.config.refresh
        return ZoneKeeper(
            policy_of(zone),
            self._sources(zone),
            clock=self.clock,
            boottime=self.boottime,
            offer=lambda _: self._work.set(),
            renewed=self._renewed,
            counters=self.counters,
            bounds=(refresh.min_seconds, refresh.max_seconds),
            max_serve_seconds=self.config.switchover.max_serve_seconds,
            backoff_seconds=refresh.backoff_seconds,
        )

    def _sources(self, zone: ZoneConfig) -> dict[str, ZoneSource]:
        found = {
            each.name: source_of(each, self.config, self.store)
            for each in self.config.primary
            if zone.name in each.zones
        }
        if not found and zone.file:
            found["file"] = FileSource(Path(zone.file), self.store)
        return found

    # The life of the role.

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set.  LoadingFailed when there is nothing to serve and nothing to get it from."""
        await self._wait_for_clock()
        await self._resume()
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._pipeline(), name="pipeline"),
                tasks.create_task(self._tick_forever(), name="tick"),
                *(tasks.create_task(each.run(), name=f"zone {each.name}") for each in self.keepers.values()),
            ]
            await stop.wait()
            for task in running:
                task.cancel()
        self._write_ledger()

    async def _wait_for_clock(self) -> None:
        # Counted from the boot: whoever synchronises the clock had that long, and does not begin when we do.
        wait = self.config.clock.clock_wait_seconds
        if self.clock.state is ClockState.UNKNOWN and not self.page.active and self.boottime() < wait:
            log.alarm("waiting for the clock to be synchronised", seconds=round(wait - self.boottime()))
        while self.clock.state is ClockState.UNKNOWN and not self.page.active and self.boottime() < wait:
            await asyncio.sleep(0.2)
            self.clock.observe(self._clocks())
        self.clock.settle()
        if not self.clock.synchronised:
            log.alarm("clock is not synchronised", state=self.clock.state, going_on_from=instant.to_text(self.now()))

    async def _resume(self) -> None:
        """Go on from what is kept: the table at once, the zones verified anew; else from files."""
        self._finish_next()
        for keeper in self.keepers.values():
            self._recall(keeper)
        if self.root.serving is not None:
            if not self._adopt_table():
                await self._rebuild_table()
            elif not await self._verify_kept():
                return
        for keeper in self.keepers.values():
            await self._load_file(keeper)
        if self.root.serving is None and not self.root.deliveries and set(self.root.sources) <= {"file"}:
            raise LoadingFailed(f"zone {self.root.name}: {self.root.last_rejection or 'there is nothing to load'}")
        while self.root.serving is None and self.root.deliveries:
            await self._take(self.root, self.root.deliveries.pop(0), at_once=True)
            if self.root.serving is None and not self.root.deliveries and set(self.root.sources) <= {"file"}:
                raise LoadingFailed(f"zone {self.root.name}: {self.root.last_rejection or 'is held'}")

    def _finish_next(self) -> None:
        """What was staged for T when we ended goes into service now if T has passed or it is there already."""
        following = self.ledger.next
        if following is None:
            return
        reached = following.activate_at is None or following.activate_at <= self.now()
        if self.page.active == following.generation or (reached and self.store.table(following.generation).exists()):
            self.ledger.generation, self.ledger.leases = following.generation, following.leases
        else:
            self._was_next = {name: lease.serial for name, lease in following.leases.items()}
        self.ledger.next = None
        self._save_ledger()

    def _recall(self, keeper: ZoneKeeper) -> None:
        """The version in service, and those that were kept but not (yet) served."""
        lease = self.ledger.leases.get(keeper.name)
        for serial in self.ledger.dropped.get(keeper.name, []):
            keeper.refresh.dropped(serial)
        if lease is not None:
            keeper.floor = lease.serial
            try:
                provenance, contents = read_version(self.store, keeper.policy, lease.serial)
            except StoreFailed as error:
                log.alarm("kept zone unusable", zone=keeper.name, serial=lease.serial, reason=error)
                # Nothing older may be served: only what is newer will do, or the same again from a primary.
            else:
                keeper.serving = Version(contents, lease, provenance.source, provenance.how, provenance.alarms)
                keeper.serving.served_since = self.boottime()
                keeper.set_sources(keeper.sources)
                for serial in self.ledger.dropped.get(keeper.name, []):
                    keeper.refresh.dropped(serial)
        for provenance in self.store.versions(keeper.policy.apex):
            newer = lease is None or serial_is_newer(provenance.serial, lease.serial)
            if not newer or provenance.serial in self.ledger.dropped.get(keeper.name, []):
                continue
            if self._was_next.get(keeper.name) == provenance.serial:
                self._redeliver(keeper, provenance.serial, approved=True)  # it was staged: nobody need decide again
            elif provenance.verdict == "held":
                keeper.held[provenance.serial] = provenance
            else:
                self._redeliver(keeper, provenance.serial, approved=False)

    def _redeliver(self, keeper: ZoneKeeper, serial: int, *, approved: bool) -> None:
        """Put a kept version before the pipeline again.  StoreFailed is told in the log."""
        try:
            provenance, contents = read_version(self.store, keeper.policy, serial)
        except StoreFailed as error:
            log.alarm("kept zone unusable", zone=keeper.name, serial=serial, reason=error)
            return
        age = max(0.0, self.now() - provenance.received_at)
        candidate = Candidate(
            contents,
            provenance.source,
            provenance.how,
            provenance.received_at,
            provenance.expire_seconds,
            authenticated=True,  # it verified when it was kept, by the rule for its source
            approved=approved,
            kept=True,
        )
        keeper.deliver(Delivery(candidate, "", self.boottime() - age))

    def _adopt_table(self) -> bool:
        """Answer from the table of the last run, if it is there and fits: no zone need be parsed for that."""
        generation = self.ledger.generation
        try:
            table = AnswerTable.open(self.store.table(generation))
        except (OSError, TableUnusable) as error:
            log.alarm("table unusable", generation=generation, reason=error)
            return False
        serials = tuple(info.serial for info in table.zones)
        kept = [each.serving.serial for each in self.keepers.values() if each.serving is not None]
        if list(serials) != kept[: len(serials)]:
            log.alarm("table is of other zones", generation=generation, serials=serials, kept=kept)
            return False
        self.has_hosts = len(serials) > 1
        if self.page.active != generation:
            self.switchover.flip(generation, self._grant)
        self._grant()
        log.event("zones in service", generation=generation, serials=self._serials(), source="stored table")
        return True

    async def _verify_kept(self) -> bool:
        """Verify what is in service again.  False: it must not be served, and is not any more."""
        assert self.root.serving is not None
        preparation = replace(self._preparation(None, None, generation=0), keep_only=True)
        try:
            policy = replace(preparation, new_root=True)
            prepared = await in_child(policy.run, self.store)
        except (ChildFailed, StoreFailed, TimeoutError) as error:
            log.alarm("kept zone could not be verified again", reason=error)
            return True
        if prepared.root is not None and prepared.root.outcome == "rejected":
            lease = self.root.serving.lease
            over = lease.signatures_until is not None and lease.signatures_until <= self.now()
            self.root.last_rejection = f"kept {self.root.serving.serial}: {prepared.root.reasons[0]}"
            log.alarm("kept zone does not verify", zone=self.root.name, reason=self.root.last_rejection)
            if not over:
                # Its lease ends it in the ordinary way when its time is over; anything else is new knowledge.
                self.root.distrusted = self.root.last_rejection
                self._grant()
        return True

    async def _rebuild_table(self) -> None:
        """Compile the kept zones again: their table is gone."""
        assert self.root.serving is not None
        root = self._delivery_of(self.root.serving)
        await self._prepare_and_activate(self.root, root, at_once=True)

    def _delivery_of(self, version: Version) -> Delivery:
        candidate = Candidate(
            version.contents,
            version.source,
            version.how,
            version.lease.confirmed_wall,
            int(version.lease.duration_seconds),
            authenticated=True,
            approved=True,
            kept=True,
        )
        return Delivery(candidate, "", version.lease.confirmed_boottime)

    async def _load_file(self, keeper: ZoneKeeper) -> None:
        """At start: a zone from a file, if it has no primary or nothing is kept yet."""
        zone = next(each for each in self.config.zone if each.name == keeper.name)
        if not zone.file or ("file" not in keeper.sources and (keeper.serving is not None or keeper.deliveries)):
            return
        source = keeper.sources.get("file") or FileSource(Path(zone.file), self.store)
        try:
            read = await source.fetch(keeper.policy.apex, None)
        except TransferFailed as error:
            keeper.last_rejection = f"file: {error}"
            log.alarm("zone file unusable", zone=keeper.name, reason=error)
            return
        self.offer_file(keeper, read, "file")

    def offer_file(self, keeper: ZoneKeeper, read: Transferred, how: str, *, approved: bool = False) -> str:
        """A zone that was read from a file; what is wrong with it at first sight, or nothing."""
        contents = read.contents
        assert contents is not None
        serving = keeper.serving
        if serving is not None and contents.serial == serving.serial:
            if contents.rrsets != serving.contents.rrsets:
                return f"serial {contents.serial} is in service with other contents"
            keeper.confirm(None)
            return f"serial {contents.serial} is in service already"
        if serving is not None and not serial_is_newer(contents.serial, serving.serial):
            return f"serial {contents.serial} is older than {serving.serial}, which is in service"
        keeper.received, keeper.received_boottime = contents.serial, self.boottime()
        candidate = Candidate(contents, "file", how, self.now(), contents.soa.expire, True, approved)
        keeper.deliver(Delivery(candidate, "file" if "file" in keeper.sources else "", self.boottime()))
        return ""

    # The pipeline.

    async def _pipeline(self) -> None:
        """Take deliveries one after the other, the root's first, newest first."""
        while True:
            self._work.clear()
            taken = False
            for keeper in self.keepers.values():
                if keeper.deliveries:
                    await self._take(keeper, keeper.deliveries.pop(0), at_once=False)
                    taken = True
                    break
            if not taken:
                await self._work.wait()

    async def _take(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> None:
        serial = delivery.candidate.serial
        if keeper.serving is not None and not serial_is_newer(serial, keeper.serving.serial):
            return
        if keeper.floor is not None and serial_is_newer(keeper.floor, serial):
            keeper.reject(delivery, f"older than {keeper.floor}, which was served before")
            return
        if keeper is self.hosts and self.root.serving is None:
            keeper.waiting = delivery
            return
        try:
            await self._prepare_and_activate(keeper, delivery, at_once=at_once)
        except StoreFailed as error:
            self._state_failed(error)
            keeper.reject(delivery, f"it cannot be kept: {error}")
        except (ChildFailed, TimeoutError) as error:
            log.alarm("preparation failed", zone=keeper.name, serial=serial, reason=error or type(error).__name__)
            keeper.reject(delivery, f"preparation failed: {error or type(error).__name__}")

    def _preparation(self, root: Delivery | None, hosts: Delivery | None, *, generation: int) -> Preparation:
        """What to prepare: the deliveries, and what is in service where there is none."""
        serving_root = self.root.serving
        assert root is not None or serving_root is not None
        if root is None and serving_root is not None:
            root_candidate = self._delivery_of(serving_root).candidate
        else:
            assert root is not None
            root_candidate = root.candidate
        hosts_candidate: Candidate | None = hosts.candidate if hosts else None
        if hosts_candidate is None and self.hosts is not None and self.hosts.serving is not None:
            hosts_candidate = self._delivery_of(self.hosts.serving).candidate
        hold = self.config.hold
        return Preparation(
            store=self.store,
            generation=generation,
            now=self.now(),
            root_policy=self.root.policy,
            hosts_policy=self.hosts.policy if self.hosts else None,
            limits=plausibility.Limits(
                tlds_gone_percent=hold.tlds_gone_percent,
                ds_gone_percent=hold.ds_gone_percent,
                tlds_without_address_percent=hold.tlds_without_address_percent,
                apex_ns_changed=hold.apex_ns_changed,
                shrink_percent=hold.shrink_percent,
                signatures_left_seconds=hold.signatures_left_seconds,
            ),
            root=root_candidate,
            hosts=hosts_candidate,
            new_root=root is not None,
            new_hosts=hosts is not None,
            serving_root=serving_root.contents if serving_root else None,
        )

    async def _prepare_and_activate(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> None:
        generation = 1 + max([self.ledger.generation, self.page.active, *self.store.generations()])
        root = delivery if keeper is self.root else None
        hosts = delivery if keeper is self.hosts else None
        if root is not None and self.hosts is not None and self.hosts.waiting is not None:
            hosts = self.hosts.waiting
        elif root is not None and self.hosts is not None and self.hosts.serving is None and self.hosts.deliveries:
            hosts = self.hosts.deliveries.pop(0)
        preparation = self._preparation(root, hosts, generation=generation)
        began = time.monotonic()
        prepared = await in_child(preparation.run, self.store)
        self.state_error = ""
        self.verify_seconds = time.monotonic() - began
        took = round(1000 * self.verify_seconds)
        for each, what, verdict in ((self.root, root, prepared.root), (self.hosts, hosts, prepared.hosts)):
            if each is not None and what is not None and verdict is not None:
                self._note_verdict(each, what, verdict, took, prepared)
        if not prepared.table_octets:
            if root is not None and hosts is not None and self.hosts is not None:
                self.hosts.waiting = hosts
            return
        accepted: list[tuple[ZoneKeeper, Delivery, Verdict]] = []
        if root is not None and prepared.root is not None and prepared.root.outcome == "accepted":
            accepted.append((self.root, root, prepared.root))
        if self.hosts and hosts is not None and prepared.hosts is not None and prepared.hosts.outcome == "accepted":
            accepted.append((self.hosts, hosts, prepared.hosts))
        if prepared.void:
            self._void(accepted, generation, prepared.void)
            return
        # A root whose hosts do not fit it was approved by a human: it goes on without them.
        if self.hosts and hosts is not None and prepared.hosts is None:
            self.hosts.waiting = hosts
        await self._activate(accepted, generation, prepared, at_once=at_once)

    def _note_verdict(
        self, keeper: ZoneKeeper, delivery: Delivery, verdict: Verdict, took: int, prepared: Prepared
    ) -> None:
        candidate = delivery.candidate
        facts: dict[str, Any] = {
            "zone": keeper.name,
            "serial": verdict.serial,
            "from": candidate.source,
            "transfer": candidate.how,
        }
        for alarm in verdict.alarms:
            log.alarm("zone suspicious", zone=keeper.name, serial=verdict.serial, sign=alarm)
        match verdict.outcome:
            case "accepted":
                log.event("zone verified", **facts, took_ms=took)
                self.counters["zones_verified"] += 1
            case "held":
                self.counters["zones_held"] += 1
                reasons = "; ".join(verdict.reasons)
                log.alarm("zone held", **facts, reason=reasons, decide=f"rootsrv zone approve|reject {verdict.serial}")
                self._keep_held(keeper, verdict)
            case "rejected":
                if keeper is self.hosts and verdict.reasons and prepared.root is None:
                    # It may be the zone for a root that is still to come.
                    keeper.waiting = delivery
                    for serial in list(self.root.held):
                        self._redeliver(self.root, serial, approved=False)
                log.alarm("zone rejected", **facts, reason=verdict.reasons[0])
                keeper.reject(delivery, verdict.reasons[0])
        self._journal(
            f"zone {verdict.outcome}",
            **facts,
            reasons=list(verdict.reasons),
            alarms=list(verdict.alarms),
            checks=list(verdict.checks),
            approved=candidate.approved,
        )

    def _keep_held(self, keeper: ZoneKeeper, verdict: Verdict) -> None:
        with contextlib.suppress(StoreFailed):
            keeper.held[verdict.serial] = replace(
                self.store.version(keeper.policy.apex, verdict.serial)[0], reasons=verdict.reasons
            )
        keeper.note_known()

    def _void(self, accepted: list[tuple[ZoneKeeper, Delivery, Verdict]], generation: int, reason: str) -> None:
        self.switchover.void(generation, reason)
        self.counters["switchovers_void"] += 1
        for keeper, delivery, verdict in accepted:
            keeper.reject(delivery, f"void: {reason}")
            keeper.drop(verdict.serial)
            self._journal("switchover void", zone=keeper.name, serial=verdict.serial, reason=reason)
        self.store.retire_tables({self.page.active, self.ledger.generation})

    async def _activate(
        self,
        accepted: list[tuple[ZoneKeeper, Delivery, Verdict]],
        generation: int,
        prepared: Prepared,
        *,
        at_once: bool,
    ) -> None:
        """Stage, wait for T, flip, read back."""
        versions = {
            keeper.name: keeper.accept(delivery, verdict.signatures_until, verdict.alarms)
            for keeper, delivery, verdict in accepted
        }
        hurried = {(keeper.name, delivery.candidate.serial) for keeper, delivery, _ in accepted} & self._now_please
        self._now_please -= hurried
        try:
            await self.switchover.stage(generation)
        except SwitchoverVoid as error:
            self.counters["switchovers_void"] += 1
            self._journal("switchover void", generation=generation, reason=str(error))
            self.store.retire_tables({self.page.active, self.ledger.generation})
            for keeper, delivery, _ in accepted:
                keeper.scheduled = None
                # The zone is good; the workers may be able to map it later.
                again = replace(delivery, candidate=replace(delivery.candidate, kept=True))
                asyncio.get_running_loop().call_later(RESTAGE_SECONDS, keeper.deliver, again)
            return
        activate_at = None if at_once or hurried else self.switchover.schedule()
        leases = {each.name: newest.lease for each in self.keepers.values() if (newest := each.newest) is not None}
        self.ledger.next = Next(generation, activate_at, leases)
        self._write_ledger()
        shown = instant.to_text(activate_at) if activate_at else "now"
        for keeper, _, _ in accepted:
            log.event("zone scheduled", zone=keeper.name, serial=versions[keeper.name].serial, activate_at=shown)
        await self.switchover.wait_until(activate_at)
        before = self.page.active
        self.has_hosts = prepared.has_hosts
        for keeper, _, _ in accepted:
            keeper.activated()
        flipped = time.monotonic()
        self.switchover.flip(generation, self._grant)
        self.ledger.generation, self.ledger.next = generation, None
        self._write_ledger()
        self.counters["switchovers"] += 1
        log.event("zones in service", generation=f"{before}->{generation}", serials=self._serials(), was_due=shown)
        for keeper, delivery, _ in accepted:
            self._journal("zone served", zone=keeper.name, serial=delivery.candidate.serial, generation=generation)
        if self.hosts is not None and self.hosts.waiting is not None and prepared.has_hosts:
            self.hosts.waiting = None
        if await self.switchover.confirm(generation):
            self.confirm_seconds = time.monotonic() - flipped
        else:
            self.counters["switchovers_failed"] += 1
            self._journal("switchover failed", generation=generation, reason=self.switchover.reason)
        self.store.retire_tables({generation})
        for keeper, _, _ in accepted:
            self._forget_old(keeper)
            for tell in self.on_activated:
                tell(keeper)
            for serial in list(keeper.held):
                self._redeliver(keeper, serial, approved=False)

    def _forget_old(self, keeper: ZoneKeeper) -> None:
        assert keeper.serving is not None
        served = keeper.serving.serial
        old = [each for each in self.store.versions(keeper.policy.apex) if not serial_is_newer(each.serial, served)]
        for provenance in old[: -self.config.switchover.keep_versions]:
            if provenance.serial != served:
                self.store.forget_version(keeper.policy.apex, provenance.serial)

    # Leases, holds, the clock.

    async def _tick_forever(self) -> None:
        began = self.boottime()
        while True:
            self._tick()
            notification.alive()
            if self.root.serving is not None:
                notification.ready("zones are loaded")
            elif self.boottime() > began + WAIT_TO_SERVE_SECONDS:
                notification.ready("no zone yet: waiting for the primaries")
            await asyncio.sleep(TICK_SECONDS)

    def _tick(self) -> None:
        state = self.clock.state
        self.clock.observe(self._clocks())
        if self.clock.state is not state:
            tell = log.event if self.clock.synchronised else log.alarm
            tell("clock changed", state=f"{state}->{self.clock.state}", off_by_seconds=round(self.clock.distance, 1))
        self._grant()
        self.switchover.watch()
        for keeper in self.keepers.values():
            keeper.note_known()
            self._end_hold(keeper)
        if self.boottime() - self._last_written > LAST_SEEN_SECONDS:
            self._write_ledger()

    def _grant(self) -> None:
        """Store the deadlines of what is in service."""
        for number, keeper in enumerate(self._in_table()):
            deadline = keeper.deadline()
            nanoseconds = max(0, int((deadline or 0.0) * 1e9))
            # The clocks' readings differ by microseconds from turn to turn; a word that moves is read by all workers.
            if abs(self.page.deadline(number) - nanoseconds) > 1_000_000:
                self.page.set_deadline(number, nanoseconds)

    def _in_table(self) -> Iterable[ZoneKeeper]:
        yield self.root
        if self.has_hosts and self.hosts is not None:
            yield self.hosts

    def _end_hold(self, keeper: ZoneKeeper) -> None:
        """A hold that nobody decided, when the zone in service gets too old."""
        if not keeper.held or keeper.deliveries or self.config.hold.on_hold_timeout == "keep":
            return
        if keeper.scheduled is not None:
            return
        since = min(each.received_at for each in keeper.held.values())
        too_old = self.now() - since >= self.config.hold.stale_hard_seconds - HOLD_MARGIN_SECONDS
        deadline = keeper.deadline()
        ending = deadline is None or deadline - self.boottime() <= HOLD_LEASE_SECONDS
        if not too_old and not ending:
            return
        newest = max(keeper.held, key=lambda serial: sum(serial_is_newer(serial, each) for each in keeper.held))
        why = "a newer zone was held too long" if too_old else "the lease of the zone in service ends within a day"
        log.alarm("hold ended without a decision", zone=keeper.name, serial=newest, reason=why)
        self._journal("hold timed out", zone=keeper.name, serial=newest, reason=why)
        keeper.held.pop(newest)
        self._redeliver(keeper, newest, approved=True)

    def _renewed(self, keeper: ZoneKeeper) -> None:
        assert keeper.serving is not None
        self._grant()
        self._write_ledger()

    # What is written down.

    def _write_ledger(self) -> None:
        """On disk when this returns; a disk that cannot be written is an alarm and stops nothing."""
        self.ledger.leases |= {
            each.name: each.serving.lease for each in self.keepers.values() if each.serving is not None
        }
        self.ledger.last_seen_wall = max(self.ledger.last_seen_wall, self.now())
        self.ledger.dropped = {each.name: sorted(each.refresh.dropped_serials) for each in self.keepers.values()}
        self._save_ledger()

    def _save_ledger(self) -> None:
        self._last_written = self.boottime()
        try:
            self.store.write_ledger(self.ledger.to_record(self._boot))
            self.state_error = ""
        except StoreFailed as error:
            self._state_failed(error)

    def _journal(self, event: str, **facts: Any) -> None:
        try:
            self.store.journal(instant.to_text(self.now()), event, **facts)
        except StoreFailed as error:
            self._state_failed(error)

    def _state_failed(self, error: StoreFailed) -> None:
        if str(error) != self.state_error:
            log.alarm("state cannot be written", reason=error)
        self.state_error = str(error)

    def _serials(self) -> str:
        return ",".join(f"{each.name}={each.serving.serial}" for each in self._in_table() if each.serving is not None)

    # What an operator decides (control.py).

    async def import_zone(self, keeper: ZoneKeeper, path: Path, *, now: bool) -> tuple[int, str]:
        """Load a zone from a file: its serial, and what is wrong at first sight.  TransferFailed if unreadable."""
        read = await FileSource(path, self.store).fetch(keeper.policy.apex, None)
        assert read.contents is not None
        if now:
            self._now_please.add((keeper.name, read.contents.serial))
            self.switchover.hurry()
        keeper.last_rejection = ""
        return read.contents.serial, self.offer_file(keeper, read, "import")

    def approve(self, keeper: ZoneKeeper, serial: int) -> None:
        """Activate a held zone; KeyError if *serial* is not held."""
        keeper.held.pop(serial)
        self._journal("zone approved", zone=keeper.name, serial=serial)
        self._redeliver(keeper, serial, approved=True)

    def reject(self, keeper: ZoneKeeper, serial: int) -> None:
        """Drop a held zone; KeyError if *serial* is not held."""
        keeper.held.pop(serial)
        keeper.drop(serial)
        self.store.forget_version(keeper.policy.apex, serial)
        self._journal("zone dropped", zone=keeper.name, serial=serial)
        self._write_ledger()

    def reload(self, config: Config) -> list[str]:
        """Go on with another configuration; the sections that only a restart makes effective.  ConfigError: refused."""
        if [each.name for each in config.zone] != [each.name for each in self.config.zone]:
            raise ConfigError("zone: zones cannot be added, removed or renamed without a restart")
        old, self.config = self.config, config
        try:
            sources = {zone.name: self._sources(zone) for zone in config.zone}
        except ConfigError:
            self.config = old
            raise
        for zone in config.zone:
            keeper = self.keepers[zone.name]
            keeper.policy = policy_of(zone)
            keeper.bounds = (config.refresh.min_seconds, config.refresh.max_seconds)
            keeper.max_serve_seconds = config.switchover.max_serve_seconds
            keeper.backoff_seconds = config.refresh.backoff_seconds
            keeper.set_sources(sources[zone.name])
        self.switchover.settings = config.switchover
        self._journal("configuration reloaded")
        later = ("service", "identity", "cookies", "state", "anycast", "clock")
        return [key for key in later if getattr(old, key) != getattr(config, key)]

    def contents(self, keeper: ZoneKeeper, serial: int | None) -> ZoneContents:
        """A version: the one in service or a kept one.  StoreFailed if there is none."""
        if keeper.serving is not None and serial in {None, keeper.serving.serial}:
            return keeper.serving.contents
        if serial is None:
            raise StoreFailed(f"zone {keeper.name}: nothing is in service")
        return read_version(self.store, keeper.policy, serial)[1]

    def versions(self, keeper: ZoneKeeper) -> list[Provenance]:
        """What is kept of a zone, oldest received first."""
        return self.store.versions(keeper.policy.apex)


def policy_of(zone: ZoneConfig) -> ZonePolicy:
    """How the zone is judged."""

    def anchors() -> str:
        if not zone.trust_anchors:
            raise OSError(f"zone {zone.name}: trust_anchors is not configured")
        return Path(zone.trust_anchors).read_text()

    return ZonePolicy(zone.name, names.from_text(zone.name), zone.validation, zone.zonemd, anchors)
