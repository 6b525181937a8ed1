"""The pipeline: from a delivery to what the workers answer from."""
# Over 400 lines: every turn of one pipeline, from a delivery to what comes of it.
#
# Theory of operation
# -------------------
# One keeper per zone asks and fetches (keeper.py).  What it delivers goes through one pipeline, one at a time:
#
#   delivery ─▶ prepare in a child process ─▶ rejected: the primary is left alone for a while
#               (verify, keep, judge,       ─▶ held: waits in the store for a human
#                compile, examine)          ─▶ void: our own fault, the serial is not tried again
#                                           ─▶ hindered (no memory, a file not read): put off, tried again
#                                           ─▶ accepted ─▶ stage ─▶ ledger.next ─▶ T ─▶ flip ─▶ read back ─▶ ledger
#                                                          (activation.py)
#
# Whatever exception a preparation ends with ends that one attempt: the delivery is rejected, what was kept of it is
# marked, and what is in service goes on.
# Everything else (leases, holds that time out, the clock) happens in `_tick`, once a second.

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Any

from rootsrv.answer.table import TableUnusable
from rootsrv.config.zones import HoldConfig
from rootsrv.page.layout import Page
from rootsrv.process import log
from rootsrv.process.child import ChildFailed, ChildHindered, in_child
from rootsrv.secondary.activation import Activation
from rootsrv.secondary.agenda import Agenda
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.preparation import (
    AnchorsUnreadable,
    Assessment,
    Preparation,
    PreparedTable,
    is_beyond_us,
    zonemd_of,
)
from rootsrv.secondary.switchover import Switchover, SwitchoverState
from rootsrv.secondary.zones import Zones
from rootsrv.store.records import Records
from rootsrv.store.store import Store, StoreFailed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import plausibility
from rootsrv.zone.delivery import Delivery
from rootsrv.zone.life import Judged, Scheduled

EXPECTED = (StoreFailed, AnchorsUnreadable)
"""What a preparation may raise."""

TABLE_SECONDS = 5.0
"""How often the table in force is looked at while a worker does not answer from it."""

VERIFY_AGAIN_SECONDS = 60.0
"""How soon a zone in service that could not be judged is judged again."""


class Pipeline:
    """Prepares and activates what the keepers deliver, one after the other."""

    def __init__(
        self,
        zones: Zones,
        activation: Activation,
        agenda: Agenda,
        *,
        store: Store,
        records: Records,
        page: Page,
        switchover: Switchover,
        hold: HoldConfig,
    ) -> None:
        self.zones = zones
        self.activation = activation
        self.hold = hold
        self._agenda = agenda
        self._store = store
        self._records = records
        self._time = records.time
        self._page = page
        self._switchover = switchover
        self.verify_seconds: float | None = None
        """What it took to verify, compile and examine the latest zone; None = none yet."""

        self._verify_at = self._look_at = 0.0

    async def run(self) -> None:
        """Take deliveries one after the other, the root's first, newest first."""
        while True:
            self._agenda.begin_turn()
            try:
                worked = await self._turn()
            except Exception as error:  # one turn, not the role
                worked = True
                context = {"message": "a turn of the pipeline failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            if not worked:
                await self._agenda.wait()

    async def _turn(self) -> bool:
        """Do the next thing; False if there was none."""
        if self._agenda.take_verification():
            await self.verify_again()
            return True
        if self._agenda.take_table():
            await self._have_table()
            return True
        for keeper in self.zones:
            if keeper.life.queue:
                await self.take(keeper, keeper.life.queue.pop(0), at_once=False)
                return True
        return False

    async def take(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> None:
        serial = delivery.serial
        life = keeper.life
        again = self.activation.needs_table and life.is_served(serial)
        if life.serving is not None and not again and not serial_is_newer(serial, life.serving.serial):
            return
        if life.floor is not None and serial_is_newer(life.floor, serial):
            self._refuse(keeper, delivery, f"older than {life.floor}, which was served before")
            return
        if fault := keeper.lease_fault(delivery):
            self._refuse(keeper, delivery, fault)
            return
        if keeper is self.zones.hosts and self.zones.root.life.serving is None:
            life.waiting = delivery
            return
        held = life.held[serial].zonemd if serial in life.held else ""
        if held and not delivery.kept and held == zonemd_of(delivery.contents):
            return  # the same again: somebody has to decide
        await self.attempt(keeper, delivery, at_once=at_once)

    async def attempt(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> None:
        """Prepare and activate *delivery*; whatever goes wrong ends this attempt and nothing else."""
        keeper.life.take(delivery)
        try:
            reason, put_off = await self._attempt(keeper, delivery, at_once=at_once)
            if reason:
                self._settle(keeper, delivery, reason, put_off=put_off)
        finally:
            for each in self.zones:
                each.life.let_go()

    async def _attempt(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> tuple[str, bool]:
        """Why it ended without a verdict (empty if it did not), and whether the delivery was put off."""
        serial = delivery.serial
        try:
            await self.prepare_and_activate(keeper, delivery, at_once=at_once)
            return "", False
        except StoreFailed as error:
            self._records.failed(error)
            return f"it cannot be kept: {error}", False
        except AnchorsUnreadable as error:
            if delivery.origin.primary not in keeper.refresh.primaries:
                self.activation.put_off(keeper, delivery)  # nobody will give it again
            return str(error), False
        except ChildHindered as error:
            self.activation.put_off(keeper, delivery)
            return f"preparation failed: {error}", True
        except (ChildFailed, TimeoutError) as error:
            reason = f"preparation failed: {error or type(error).__name__}"
            self.activation.mark_void(keeper, serial, reason)
            return reason, False
        except Exception as error:
            context = {"message": f"zone {keeper.name} {serial}: an attempt failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
            return f"preparation failed: {type(error).__name__}: {error}", False

    def _settle(self, keeper: ZoneKeeper, delivery: Delivery, reason: str, *, put_off: bool) -> None:
        """An attempt ended without a verdict: what took part in it is not lost, and nothing of it stays staged."""
        log.alarm("preparation failed", zone=keeper.name, serial=delivery.serial, reason=reason)
        self.activation.note_outcome(keeper, delivery, reason)
        accepted = False
        for each in self.zones:
            match each.life.coming:
                case Scheduled(version):
                    accepted = True
                    if each is not keeper:
                        self.activation.put_off(each, version.again())
                case Judged(other) if each is not keeper:
                    each.life.waiting = None
                    self.activation.put_off(each, other)
            each.life.let_go()
        if self._page.staged:
            self._switchover.void(self._page.staged, reason)
        self.activation.retire_others()
        if accepted or keeper.life.is_served(delivery.serial):
            # It was accepted, so no primary is asked for it again.
            self.activation.put_off(keeper, replace(delivery, kept=True))
        if put_off:
            # The machine's fault, of which no primary knows: none is left alone for it.
            keeper.life.last_rejection = f"{delivery.serial} from {delivery.origin.source}: {reason}"
        else:
            keeper.reject(delivery, reason)

    async def verify_again(self, *, at_start: bool = False) -> None:
        """Verify the root in service again: at the start, after a reload, when what is distrusted is confirmed.

        A table that would come out otherwise is replaced.  At the start a zone that does not verify is not answered
        from; while it is served that is an alarm only: what was good when it came is not silenced by a file.  That
        nothing can be judged is no judgement.
        """
        root = self.zones.root
        serving = root.life.serving
        if serving is None:
            return
        generation = self._records.ledger.generation if at_start else 0
        kept = self.preparation(serving.again(), None, generation=generation)
        try:
            prepared = await in_child(replace(kept, keep_only=True).run, self._store, expected=EXPECTED)
        except (ChildFailed, StoreFailed, AnchorsUnreadable, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            if reason != root.life.unjudged:
                log.alarm("zone in service could not be verified again", zone=root.name, reason=reason)
            root.life.judged_again(reason)
            self._verify_at = self._time.boottime() + VERIFY_AGAIN_SECONDS
            return
        if root.life.serving is not serving or prepared.root is None:
            return
        root.life.judged_again()
        if prepared.differs and prepared.has_hosts == self.zones.has_hosts:
            log.alarm("stored table is replaced", generation=generation, reason="the kept zones make another one")
            await self.make_table_again()
        if prepared.root.outcome != "rejected":
            serving.alarms = prepared.root.alarms
            if root.life.distrusted:
                log.event("zone is trusted again", zone=root.name, serial=serving.serial)
                root.life.trust()
                self.zones.grant()
            return
        reason = f"kept {serving.serial}: {prepared.root.reasons[0]}"
        if root.life.distrusted != reason:
            root.life.last_rejection = reason
            log.alarm("kept zone does not verify", zone=root.name, reason=reason)
        until = serving.lease.signatures_until
        if at_start and not (until is not None and until <= self._time.now()):
            # Its lease ends it in the ordinary way when its time is over; anything else is new knowledge.
            root.life.distrust(reason)
            self.zones.grant()

    async def make_table_again(self) -> None:
        """Compile what is in service again: its table is gone, or not what it should be."""
        serving = self.zones.root.life.serving
        assert serving is not None
        self.activation.needs_table = True
        await self.attempt(self.zones.root, serving.again(), at_once=True)

    def _is_table_wanted(self) -> bool:
        """Whether a worker does not answer from the table in force, and not because a switchover failed (D25)."""
        is_failed = self._page.silenced or self._switchover.state is SwitchoverState.FAILED
        is_serving = self._page.active > 0 and self.zones.root.life.serving is not None
        return is_serving and not is_failed and bool(self._switchover.behind())

    async def _have_table(self) -> None:
        """Make the table in force again if its file is gone or damaged: who starts anew finds nothing there."""
        active = self._page.active
        if not self._is_table_wanted():
            return
        try:
            await asyncio.to_thread(self._store.open_table, active)
        except (OSError, TableUnusable) as error:
            log.alarm("table unusable", generation=active, reason=error, effect="it is made again")
            # Look again only then: where it cannot be made, trying takes a core for seconds.
            self._look_at = self._time.boottime() + VERIFY_AGAIN_SECONDS
            await self.make_table_again()

    def watch(self) -> None:
        """Called every second: what waits is tried again, what could not be judged is judged, what was lost is made."""
        self.activation.watch()
        now = self._time.boottime()
        if self.zones.root.life.unjudged and now >= self._verify_at:
            self._verify_at = now + VERIFY_AGAIN_SECONDS
            self._agenda.ask_to_verify()
        if now >= self._look_at and self._is_table_wanted():
            self._look_at = now + TABLE_SECONDS
            self._agenda.ask_for_table()

    def preparation(self, root: Delivery | None, hosts: Delivery | None, *, generation: int) -> Preparation:
        """What to prepare: the deliveries, and what is in service where there is none."""
        serving_root = self.zones.root.life.serving
        assert root is not None or serving_root is not None
        if root is None and serving_root is not None:
            judged = serving_root.again()
        else:
            assert root is not None
            judged = root
        serving_hosts: Delivery | None = None
        if self.zones.hosts is not None and self.zones.hosts.life.serving is not None:
            serving_hosts = self.zones.hosts.life.serving.again()
        hold = self.hold
        return Preparation(
            store=self._store,
            generation=generation,
            now=self._time.now(),
            root_policy=self.zones.root.policy,
            hosts_policy=self.zones.hosts.policy if self.zones.hosts else None,
            limits=plausibility.ChangeLimits(
                tlds_gone_percent=hold.tlds_gone_percent,
                ds_gone_percent=hold.ds_gone_percent,
                tlds_without_address_percent=hold.tlds_without_address_percent,
                apex_ns_changed=hold.apex_ns_changed,
                shrink_percent=hold.shrink_percent,
                signatures_left_seconds=hold.signatures_left_seconds,
            ),
            root=judged,
            hosts=hosts or serving_hosts,
            new_root=root is not None,
            new_hosts=hosts is not None,
            serving_root=serving_root.contents if serving_root else None,
            serving_hosts=serving_hosts,
        )

    async def prepare_and_activate(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> None:
        generation = self._records.next_generation(self._page.active)
        root = delivery if keeper is self.zones.root else None
        hosts = delivery if keeper is self.zones.hosts else self._waiting_hosts()
        if hosts is not None and self.zones.hosts is not None:
            self.zones.hosts.life.take(hosts)
        preparation = self.preparation(root, hosts, generation=generation)
        began = time.monotonic()
        prepared = await in_child(preparation.run, self._store, expected=EXPECTED)
        self.verify_seconds = time.monotonic() - began
        took = round(1000 * self.verify_seconds)
        for each, what, verdict in ((self.zones.root, root, prepared.root), (self.zones.hosts, hosts, prepared.hosts)):
            if each is not None and what is not None and verdict is not None:
                await self._note_verdict(each, what, verdict, took, prepared)
        if not prepared.table_octets and not prepared.void:
            if root is not None and hosts is not None and self.zones.hosts is not None:
                self.zones.hosts.life.waiting = hosts
            return
        accepted: list[tuple[ZoneKeeper, Delivery, Assessment]] = []
        if root is not None and prepared.root is not None and prepared.root.outcome == "accepted":
            accepted.append((self.zones.root, root, prepared.root))
        if (
            self.zones.hosts
            and hosts is not None
            and prepared.hosts is not None
            and prepared.hosts.outcome == "accepted"
        ):
            accepted.append((self.zones.hosts, hosts, prepared.hosts))
        if prepared.void:
            self.activation.void(accepted, generation, prepared.void)
            return
        new_root = prepared.root if root is not None else None
        if root is not None and new_root and (fault := self.zones.root.lease_fault(root, new_root.signatures_until)):
            self._refuse(self.zones.root, root, fault)
            if self.zones.hosts and hosts is not None:
                self.zones.hosts.life.waiting = hosts
            self.activation.retire_others()
            return
        # A root whose hosts do not fit it was approved by a human: it goes on without them.
        if self.zones.hosts and hosts is not None and prepared.hosts is None:
            self.zones.hosts.life.waiting = hosts
        await self.activation.activate(accepted, generation, prepared, at_once=at_once)

    def _refuse(self, keeper: ZoneKeeper, delivery: Delivery, reason: str) -> None:
        """Not for what the zone is but for what is in service, or was."""
        log.alarm(
            "zone refused", zone=keeper.name, serial=delivery.serial, source=delivery.origin.source, reason=reason
        )
        self._records.journal("zone refused", zone=keeper.name, serial=delivery.serial, reason=reason)
        keeper.reject(delivery, reason)

    def _waiting_hosts(self) -> Delivery | None:
        """The zone of the hosts that a new root may bring into service with it."""
        keeper = self.zones.hosts
        if keeper is None:
            return None
        if keeper.life.waiting is not None and (fault := keeper.lease_fault(keeper.life.waiting)):
            self._refuse(keeper, keeper.life.waiting, fault)
            keeper.life.waiting = None
        if keeper.life.waiting is not None:
            return keeper.life.waiting
        if keeper.life.serving is None and keeper.life.queue and not keeper.lease_fault(keeper.life.queue[0]):
            return keeper.life.queue.pop(0)
        return None

    async def _note_verdict(
        self, keeper: ZoneKeeper, delivery: Delivery, verdict: Assessment, took: int, prepared: PreparedTable
    ) -> None:
        facts: dict[str, Any] = {
            "zone": keeper.name,
            "serial": verdict.serial,
            "from": delivery.origin.source,
            "transfer": delivery.origin.how,
        }
        for alarm in verdict.alarms:
            log.alarm("zone suspicious", zone=keeper.name, serial=verdict.serial, sign=alarm)
        match verdict.outcome:
            case "accepted":
                steps = ",".join(f"{step}:{each}" for step, each in prepared.milliseconds.items())
                log.event("zone verified", **facts, took_ms=took, steps=steps)
                self.zones.counters["zones_verified"] += 1
            case "held":
                self.zones.counters["zones_held"] += 1
                reasons = "; ".join(verdict.reasons)
                decide = f"rootsrv zone approve|reject {verdict.serial}"
                if is_beyond_us(verdict.reasons):
                    decide = "install newer software; rootsrv zone list shows what is held"
                known = keeper.life.held.get(verdict.serial)
                self._keep_held(keeper, verdict)
                if known is not None and known.reasons == verdict.reasons:
                    return
                log.alarm("zone held", **facts, reason=reasons, decide=decide)
            case "rejected":
                if keeper is self.zones.hosts and verdict.reasons and prepared.root is None:
                    # It may be the zone for a root that is still to come.
                    keeper.life.waiting = delivery
                    for serial in list(self.zones.root.life.held):
                        await self.zones.root.redeliver(serial, approved=False)
                log.alarm("zone rejected", **facts, reason=verdict.reasons[0])
                keeper.reject(delivery, verdict.reasons[0])
        self._records.journal(
            f"zone {verdict.outcome}",
            **facts,
            reasons=list(verdict.reasons),
            alarms=list(verdict.alarms),
            checks=list(verdict.checks),
            approved=delivery.approved,
        )

    def _keep_held(self, keeper: ZoneKeeper, verdict: Assessment) -> None:
        with contextlib.suppress(StoreFailed):
            keeper.life.hold(keeper.stored.held(verdict.serial, verdict.reasons))
        keeper.note_known()
