"""The pipeline: from a delivery to what the workers answer from."""
# Theory of operation
# -------------------
# One keeper per zone asks and fetches (keeper.py).  What it delivers goes through one pipeline, one at a time:
#
#   delivery ─▶ prepare in a child process ─▶ rejected: the primary is left alone for a while
#               (verify, keep, judge,       ─▶ held: waits in the store for a human
#                compile, examine)          ─▶ void: our own fault, the serial is not tried again
#                                           ─▶ accepted ─▶ stage ─▶ ledger.next ─▶ T ─▶ flip ─▶ read back ─▶ ledger
#
# The ledger is on disk before the flip, or there is no flip: a crash at any instant finds either the old zone in
# service or the new one scheduled, never a way back to an older serial.  Where it cannot be written the delivery is put
# off until it can.
# Whatever exception a preparation ends with ends that one attempt: the delivery is rejected, what was kept of it is
# marked, and what is in service goes on.
# Everything else (leases, holds that time out, the clock) happens in `_tick`, once a second.

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rootsrv
from rootsrv.process import log
from rootsrv.process.child import ChildFailed, ChildNotStarted, in_child
from rootsrv.secondary.in_step import InStep
from rootsrv.secondary.keeper import Before, Delivery, ZoneKeeper
from rootsrv.secondary.membership import Outcome, subject_of
from rootsrv.secondary.preparation import (
    AnchorsUnreadable,
    Candidate,
    Preparation,
    Prepared,
    Verdict,
    is_beyond_us,
    zonemd_of,
)
from rootsrv.secondary.switchover import SwitchoverVoid
from rootsrv.secondary.zones import Zones
from rootsrv.store.ledger import Next
from rootsrv.store.store import StoreFailed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import instant, plausibility

RESTAGE_SECONDS = 60.0
"""How soon a table that no worker could map is tried again."""

_BY_THE_MESH = 253_402_300_799.0  # the end of the year 9999
"""T in the ledger of what waits for the mesh: after a restart it is staged again, and waits again."""

WRITE_AGAIN_SECONDS = 5.0
"""How soon a ledger that could not be written is tried again; what waits for that, at twice the time each time."""

EXPECTED = (StoreFailed, AnchorsUnreadable)
"""What a preparation may raise."""

VERIFY_AGAIN_SECONDS = 60.0
"""How soon a zone in service that could not be judged is judged again."""

OUR_FAULT = f"rootsrv {rootsrv.__version__}"
"""What the reason of a void version begins with: another version of the software may do better."""


class Pipeline:
    """Prepares and activates what the keepers deliver, one after the other."""

    def __init__(self, zones: Zones) -> None:
        self.zones = zones
        self.on_activated: list[Callable[[ZoneKeeper], None]] = []
        """Told when a zone has a new version in service."""

        self.on_staged: list[Callable[[ZoneKeeper], None]] = []
        """Told when a version waits for the mesh: whoever distributes it gives it out from then on."""

        self.in_step = None if zones.membership is None else InStep(zones, zones.membership)

        self.now_please: set[tuple[str, int]] = set()
        """Zones and serials that an operator wants without waiting for the set time."""

        self.taking: set[tuple[str, int]] = set()
        """Zones and serials that are being prepared or activated."""

        self.needs_table = False
        """Whether what is in service has no table any more and could not be compiled again yet."""

        self.verify_seconds: float | None = None
        """What it took to verify, compile and examine the latest zone; None = none yet."""

        self.confirm_seconds: float | None = None
        """From the latest switchover until every worker was seen to answer from the new table."""

        self._put_off: list[tuple[ZoneKeeper, Delivery]] = []
        """What waits until the state directory can be written."""

        self._verify_at = 0.0
        self._put_off_until = 0.0
        self._put_off_seconds = WRITE_AGAIN_SECONDS

    async def run(self) -> None:
        """Take deliveries one after the other, the root's first, newest first."""
        while True:
            self.zones.work.clear()
            try:
                worked = await self._turn()
            except Exception as error:  # one turn, not the role
                worked = True
                context = {"message": "a turn of the pipeline failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
            if not worked:
                await self.zones.work.wait()

    async def _turn(self) -> bool:
        """Do the next thing; False if there was none."""
        if self.zones.verify_again:
            self.zones.verify_again = False
            await self.verify_again()
            return True
        for keeper in self.zones.keepers.values():
            if keeper.deliveries:
                await self.take(keeper, keeper.deliveries.pop(0), at_once=False)
                return True
        return False

    async def take(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> None:
        serial = delivery.candidate.serial
        again = self.needs_table and self._is_of_service(keeper, delivery)
        if keeper.serving is not None and not again and not serial_is_newer(serial, keeper.serving.serial):
            return
        if keeper.floor is not None and serial_is_newer(keeper.floor, serial):
            self._refuse(keeper, delivery, f"older than {keeper.floor}, which was served before")
            return
        if fault := keeper.lease_fault(delivery):
            self._refuse(keeper, delivery, fault)
            return
        if keeper is self.zones.hosts and self.zones.root.serving is None:
            keeper.waiting = delivery
            return
        held = keeper.held[serial].zonemd if serial in keeper.held else ""
        if held and not delivery.candidate.kept and held == zonemd_of(delivery.candidate.contents):
            return  # the same again: somebody has to decide
        await self.attempt(keeper, delivery, at_once=at_once)

    async def attempt(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> None:
        """Prepare and activate *delivery*; whatever goes wrong ends this attempt and nothing else."""
        serial = delivery.candidate.serial
        self.taking = {(keeper.name, serial)}
        try:
            await self.prepare_and_activate(keeper, delivery, at_once=at_once)
            return
        except StoreFailed as error:
            self.zones.state_failed(error)
            reason = f"it cannot be kept: {error}"
        except AnchorsUnreadable as error:
            reason = str(error)
            if delivery.primary not in keeper.refresh.primaries:
                self._wait_for_room(keeper, delivery)  # nobody will give it again
        except (ChildFailed, TimeoutError) as error:
            reason = f"preparation failed: {error or type(error).__name__}"
            if not isinstance(error, ChildNotStarted):
                self._mark_void(keeper, serial, reason)
        except Exception as error:
            reason = f"preparation failed: {type(error).__name__}: {error}"
            context = {"message": f"zone {keeper.name} {serial}: an attempt failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        finally:
            self.taking = set()
        log.alarm("preparation failed", zone=keeper.name, serial=serial, reason=reason)
        self._note_outcome(keeper, delivery, reason)
        unsettled = [each for each in self.zones.keepers.values() if each.scheduled is not None]
        for each in unsettled:
            if each is not keeper and each.scheduled is not None:
                self._wait_for_room(each, self.zones.delivery_of(each.scheduled))
            each.scheduled = None
        if self.zones.page.staged:
            self.zones.switchover.void(self.zones.page.staged, reason)
        self._retire_others()
        if unsettled or self._is_of_service(keeper, delivery):
            # It was accepted, so no primary is asked for it again.
            self._wait_for_room(keeper, delivery)
        keeper.reject(delivery, reason)

    async def verify_again(self, *, at_start: bool = False) -> None:
        """Verify the root in service again: at the start, after a reload, when what is distrusted is confirmed.

        A table that would come out otherwise is replaced.  At the start a zone that does not verify is not answered
        from; while it is served that is an alarm only: what was good when it came is not silenced by a file.  That
        nothing can be judged is no judgement.
        """
        root = self.zones.root
        serving = root.serving
        if serving is None:
            return
        generation = self.zones.ledger.generation if at_start else 0
        kept = self.preparation(self.zones.delivery_of(serving), None, generation=generation)
        try:
            prepared = await in_child(replace(kept, keep_only=True).run, self.zones.store, expected=EXPECTED)
        except (ChildFailed, StoreFailed, AnchorsUnreadable, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            if reason != root.unjudged:
                log.alarm("zone in service could not be verified again", zone=root.name, reason=reason)
            root.unjudged = reason
            self._verify_at = self.zones.boottime() + VERIFY_AGAIN_SECONDS
            return
        if root.serving is not serving or prepared.root is None:
            return
        root.unjudged = ""
        if prepared.differs and prepared.has_hosts == self.zones.has_hosts:
            log.alarm("stored table is replaced", generation=generation, reason="the kept zones make another one")
            await self.make_table_again()
        if prepared.root.outcome != "rejected":
            serving.alarms = prepared.root.alarms
            if root.distrusted:
                log.event("zone is trusted again", zone=root.name, serial=serving.serial)
                root.distrusted = root.last_rejection = ""
                self.zones.grant()
            return
        reason = f"kept {serving.serial}: {prepared.root.reasons[0]}"
        if root.distrusted != reason:
            root.last_rejection = reason
            log.alarm("kept zone does not verify", zone=root.name, reason=reason)
        until = serving.lease.signatures_until
        if at_start and not (until is not None and until <= self.zones.now()):
            # Its lease ends it in the ordinary way when its time is over; anything else is new knowledge.
            root.distrusted = reason
            self.zones.grant()

    async def make_table_again(self) -> None:
        """Compile what is in service again: its table is gone, or not what it should be."""
        serving = self.zones.root.serving
        assert serving is not None
        self.needs_table = True
        await self.attempt(self.zones.root, self.zones.delivery_of(serving), at_once=True)

    def is_under_way(self, keeper: ZoneKeeper, serial: int) -> bool:
        """Whether *serial* is being taken care of, or is next."""
        return (keeper.name, serial) in self.taking or any(
            each.candidate.serial == serial for each in keeper.deliveries
        )

    def _is_of_service(self, keeper: ZoneKeeper, delivery: Delivery) -> bool:
        """Whether *delivery* is what is in service, to be compiled again."""
        return keeper.serving is not None and keeper.serving.serial == delivery.candidate.serial

    def _mark_void(self, keeper: ZoneKeeper, serial: int, reason: str) -> None:
        """What is kept of *serial* is not tried again by this version of the software, unless a primary gives it."""
        if keeper.serving is not None and keeper.serving.serial == serial:
            return
        with contextlib.suppress(StoreFailed):  # nothing is kept of it, or there is no room: it is tried again then
            self.zones.store.mark_version(keeper.policy.apex, serial, "void", f"{OUR_FAULT}: {reason}")

    def _wait_for_room(self, keeper: ZoneKeeper, delivery: Delivery) -> None:
        """Put *delivery* off until the state directory can be written, or for a while if it can."""
        again = replace(delivery, candidate=replace(delivery.candidate, kept=True))
        self._put_off.append((keeper, again))
        self._put_off_until = self.zones.boottime() + self._put_off_seconds
        self._put_off_seconds = min(2 * self._put_off_seconds, RESTAGE_SECONDS)

    def watch(self) -> None:
        """Called every second: a ledger that could not be written is tried again, and then what was put off."""
        now = self.zones.boottime()
        if self.zones.root.unjudged and now >= self._verify_at:
            self._verify_at = now + VERIFY_AGAIN_SECONDS
            self.zones.ask_to_verify()
        if self.zones.ledger_unwritten and now >= self.zones.last_written + WRITE_AGAIN_SECONDS:
            self.zones.write_ledger()
        if self._put_off and now >= self._put_off_until and not self.zones.ledger_unwritten:
            put_off, self._put_off = self._put_off, []
            for keeper, delivery in put_off:
                keeper.deliver(delivery)

    def preparation(self, root: Delivery | None, hosts: Delivery | None, *, generation: int) -> Preparation:
        """What to prepare: the deliveries, and what is in service where there is none."""
        serving_root = self.zones.root.serving
        assert root is not None or serving_root is not None
        if root is None and serving_root is not None:
            root_candidate = self.zones.delivery_of(serving_root).candidate
        else:
            assert root is not None
            root_candidate = root.candidate
        serving_hosts: Candidate | None = None
        if self.zones.hosts is not None and self.zones.hosts.serving is not None:
            serving_hosts = self.zones.delivery_of(self.zones.hosts.serving).candidate
        hold = self.zones.config.hold
        return Preparation(
            store=self.zones.store,
            generation=generation,
            now=self.zones.now(),
            root_policy=self.zones.root.policy,
            hosts_policy=self.zones.hosts.policy if self.zones.hosts else None,
            limits=plausibility.Limits(
                tlds_gone_percent=hold.tlds_gone_percent,
                ds_gone_percent=hold.ds_gone_percent,
                tlds_without_address_percent=hold.tlds_without_address_percent,
                apex_ns_changed=hold.apex_ns_changed,
                shrink_percent=hold.shrink_percent,
                signatures_left_seconds=hold.signatures_left_seconds,
            ),
            root=root_candidate,
            hosts=hosts.candidate if hosts else serving_hosts,
            new_root=root is not None,
            new_hosts=hosts is not None,
            serving_root=serving_root.contents if serving_root else None,
            serving_hosts=serving_hosts,
        )

    async def prepare_and_activate(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> None:
        generation = 1 + max([self.zones.ledger.generation, self.zones.page.active, *self.zones.store.generations()])
        root = delivery if keeper is self.zones.root else None
        hosts = delivery if keeper is self.zones.hosts else self._waiting_hosts()
        if hosts is not None and self.zones.hosts is not None:
            self.taking.add((self.zones.hosts.name, hosts.candidate.serial))
        preparation = self.preparation(root, hosts, generation=generation)
        began = time.monotonic()
        prepared = await in_child(preparation.run, self.zones.store, expected=EXPECTED)
        self.verify_seconds = time.monotonic() - began
        took = round(1000 * self.verify_seconds)
        for each, what, verdict in ((self.zones.root, root, prepared.root), (self.zones.hosts, hosts, prepared.hosts)):
            if each is not None and what is not None and verdict is not None:
                self._note_verdict(each, what, verdict, took, prepared)
        if not prepared.table_octets and not prepared.void:
            if root is not None and hosts is not None and self.zones.hosts is not None:
                self.zones.hosts.waiting = hosts
            return
        accepted: list[tuple[ZoneKeeper, Delivery, Verdict]] = []
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
            self._void(accepted, generation, prepared.void)
            return
        new_root = prepared.root if root is not None else None
        if root is not None and new_root and (fault := self.zones.root.lease_fault(root, new_root.signatures_until)):
            self._refuse(self.zones.root, root, fault)
            if self.zones.hosts and hosts is not None:
                self.zones.hosts.waiting = hosts
            self._retire_others()
            return
        # A root whose hosts do not fit it was approved by a human: it goes on without them.
        if self.zones.hosts and hosts is not None and prepared.hosts is None:
            self.zones.hosts.waiting = hosts
        await self._activate(accepted, generation, prepared, at_once=at_once)

    def _refuse(self, keeper: ZoneKeeper, delivery: Delivery, reason: str) -> None:
        """Not for what the zone is but for what is in service, or was."""
        candidate = delivery.candidate
        log.alarm("zone refused", zone=keeper.name, serial=candidate.serial, source=candidate.source, reason=reason)
        self.zones.journal("zone refused", zone=keeper.name, serial=candidate.serial, reason=reason)
        keeper.reject(delivery, reason)

    def _waiting_hosts(self) -> Delivery | None:
        """The zone of the hosts that a new root may bring into service with it."""
        keeper = self.zones.hosts
        if keeper is None:
            return None
        if keeper.waiting is not None and (fault := keeper.lease_fault(keeper.waiting)):
            self._refuse(keeper, keeper.waiting, fault)
            keeper.waiting = None
        if keeper.waiting is not None:
            return keeper.waiting
        if keeper.serving is None and keeper.deliveries and not keeper.lease_fault(keeper.deliveries[0]):
            return keeper.deliveries.pop(0)
        return None

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
                steps = ",".join(f"{step}:{each}" for step, each in prepared.milliseconds.items())
                log.event("zone verified", **facts, took_ms=took, steps=steps)
                self.zones.counters["zones_verified"] += 1
            case "held":
                self.zones.counters["zones_held"] += 1
                reasons = "; ".join(verdict.reasons)
                decide = f"rootsrv zone approve|reject {verdict.serial}"
                if is_beyond_us(verdict.reasons):
                    decide = "install newer software; rootsrv zone list shows what is held"
                known = keeper.held.get(verdict.serial)
                self._keep_held(keeper, verdict)
                if known is not None and known.reasons == verdict.reasons:
                    return
                log.alarm("zone held", **facts, reason=reasons, decide=decide)
            case "rejected":
                if keeper is self.zones.hosts and verdict.reasons and prepared.root is None:
                    # It may be the zone for a root that is still to come.
                    keeper.waiting = delivery
                    for serial in list(self.zones.root.held):
                        self.zones.redeliver(self.zones.root, serial, approved=False)
                log.alarm("zone rejected", **facts, reason=verdict.reasons[0])
                keeper.reject(delivery, verdict.reasons[0])
        self.zones.journal(
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
                self.zones.store.version(keeper.policy.apex, verdict.serial)[0], reasons=verdict.reasons
            )
        keeper.note_known()

    def _void(self, accepted: list[tuple[ZoneKeeper, Delivery, Verdict]], generation: int, reason: str) -> None:
        self.zones.switchover.void(generation, reason)
        self.zones.counters["switchovers_void"] += 1
        for keeper, delivery, verdict in accepted:
            self._note_outcome(keeper, delivery, reason)
            keeper.reject(delivery, f"void: {reason}")
            keeper.drop(verdict.serial)
            self._mark_void(keeper, verdict.serial, reason)
            self.zones.journal("switchover void", zone=keeper.name, serial=verdict.serial, reason=reason)
        self._retire_others()

    def _retire_others(self) -> None:
        """Remove the tables that are neither in service nor were."""
        try:
            self.zones.store.retire_tables({self.zones.page.active, self.zones.ledger.generation})
        except StoreFailed as error:
            self.zones.state_failed(error)

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
        hurried = {(keeper.name, delivery.candidate.serial) for keeper, delivery, _ in accepted} & self.now_please
        self.now_please -= hurried
        try:
            await self.zones.switchover.stage(generation)
        except SwitchoverVoid as error:
            for keeper, _, _ in accepted:
                keeper.scheduled = None
            if error.differs:
                self._void(accepted, generation, str(error))
                return
            self._not_now(accepted, generation, str(error))
            return
        # Where nothing is answered there is nothing to keep in step with: every second is one of SERVFAIL.
        silent = self.zones.page.active == 0 or self.zones.page.silenced
        unanswered = silent or (self.zones.root.deadline() or 0.0) <= self.zones.boottime()
        in_step = None if at_once or hurried or unanswered else self.in_step
        if in_step is not None:
            activate_at: float | None = _BY_THE_MESH
        else:
            activate_at = None if at_once or hurried or unanswered else self.zones.switchover.schedule()
        leases = {
            each.name: newest.lease for each in self.zones.keepers.values() if (newest := each.newest) is not None
        }
        self.zones.ledger.next = Next(generation, activate_at, leases)
        if not self.zones.write_ledger():
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
            if not await in_step.wait(first, await asyncio.to_thread(in_step.subject, first)):
                self._unstage(accepted, generation)
                return
            shown = "now" if (at := self.zones.switchover.activate_at) is None else instant.to_text(at)
        else:
            await self.zones.switchover.wait_until(activate_at)
        before = self.zones.page.active
        restore = [(keeper, keeper.before()) for keeper, _, _ in accepted]
        had_hosts = self.zones.has_hosts
        self.zones.has_hosts = prepared.has_hosts
        for keeper, _, _ in accepted:
            keeper.activated()
        flipped, flipped_at = time.monotonic(), self.zones.now()
        self.zones.switchover.flip(generation, self.zones.grant)
        self.zones.ledger.generation, self.zones.ledger.next = generation, None
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
            self.zones.journal("zone served", zone=keeper.name, serial=delivery.candidate.serial, generation=generation)
        if self.zones.hosts is not None and any(keeper is self.zones.hosts for keeper, _, _ in accepted):
            self.zones.hosts.waiting = None
        alone = self._failing_alone(accepted) if in_step is not None and before else lambda: ""
        try:
            confirmed = await self.zones.switchover.confirm(generation, alone)
        except SwitchoverVoid as error:
            self.zones.has_hosts = had_hosts
            self._stay(accepted, restore, before, str(error))
            return
        for keeper, delivery, _ in accepted:
            self._note_outcome(keeper, delivery, "" if confirmed else self.zones.switchover.reason, flipped_at)
        if confirmed:
            self.confirm_seconds = time.monotonic() - flipped
        else:
            self.zones.counters["switchovers_failed"] += 1
            self.zones.journal("switchover failed", generation=generation, reason=self.zones.switchover.reason)
        if written:
            # Else the ledger on disk still names what was in service before: it stays until there is another one.
            self._retire_others()
        for keeper, _, _ in accepted:
            if written:
                self._forget_old(keeper)
            for tell in self.on_activated:
                tell(keeper)
            for serial in list(keeper.held):
                self.zones.redeliver(keeper, serial, approved=False)

    def _not_now(self, accepted: list[tuple[ZoneKeeper, Delivery, Verdict]], generation: int, reason: str) -> None:
        """The zones are good; the workers may be able to take them later."""
        self.zones.counters["switchovers_void"] += 1
        self.zones.journal("switchover void", generation=generation, reason=reason)
        self._retire_others()
        for keeper, delivery, _ in accepted:
            self._note_outcome(keeper, delivery, reason)
            again = replace(delivery, candidate=replace(delivery.candidate, kept=True))
            asyncio.get_running_loop().call_later(RESTAGE_SECONDS, keeper.deliver, again)

    def _unstage(self, accepted: list[tuple[ZoneKeeper, Delivery, Verdict]], generation: int) -> None:
        """What was staged will not go into service."""
        self.zones.switchover.void(generation, "overtaken, or not wanted")
        for keeper, _, _ in accepted:
            keeper.scheduled = None
        self.zones.ledger.next = None
        self.zones.write_ledger()
        self._retire_others()

    def _failing_alone(self, accepted: list[tuple[ZoneKeeper, Delivery, Verdict]]) -> Callable[[], str]:
        """Asks whether the failure is proven to be ours alone; the text says why it is not."""
        keeper = accepted[0][0]

        def alone() -> str:
            assert self.zones.membership is not None
            assert keeper.serving is not None
            silence = self.zones.membership.may_fall_silent(subject_of(keeper.name, keeper.serving.contents))
            return "" if silence.allowed else silence.why

        return alone

    def _stay(
        self,
        accepted: list[tuple[ZoneKeeper, Delivery, Verdict]],
        restore: list[tuple[ZoneKeeper, Before]],
        generation: int,
        reason: str,
    ) -> None:
        """Nobody here has flipped, and others may fail alike: all go on with the zone that they answer from."""
        for keeper, before in restore:
            keeper.stayed(before)
        self.zones.switchover.stay(generation, self.zones.grant, reason)
        self.zones.ledger.generation = generation
        self.zones.write_ledger()
        self._not_now(accepted, generation, reason)

    def _note_outcome(
        self, keeper: ZoneKeeper, delivery: Delivery, reason: str, flipped_at: float | None = None
    ) -> None:
        """For the mesh: what became of it here, and when; *reason* empty = it is in service."""
        if self.zones.membership is not None:
            now = self.zones.now()
            took = None if flipped_at is None else now - flipped_at
            subject = subject_of(keeper.name, delivery.candidate.contents)
            self.zones.membership.outcome = Outcome(subject, not reason, reason, flipped_at or now, took)

    def _unwritten(self, accepted: list[tuple[ZoneKeeper, Delivery, Verdict]], generation: int) -> None:
        """No flip unless the ledger on disk knows of it: whoever starts after a crash would go back."""
        self.zones.ledger.next = None
        reason = f"it cannot be kept: {self.zones.state_error}"
        self.zones.switchover.void(generation, reason)
        self.zones.counters["switchovers_void"] += 1
        self._retire_others()
        for keeper, delivery, _ in accepted:
            self._note_outcome(keeper, delivery, reason)
            keeper.scheduled = None
            keeper.last_rejection = f"{delivery.candidate.serial} from {delivery.candidate.source}: {reason}"
            self._wait_for_room(keeper, delivery)

    def _forget_old(self, keeper: ZoneKeeper) -> None:
        assert keeper.serving is not None
        served = keeper.serving.serial
        old = [
            each for each in self.zones.store.versions(keeper.policy.apex) if not serial_is_newer(each.serial, served)
        ]
        for provenance in old[: -self.zones.config.switchover.keep_versions]:
            if provenance.serial != served:
                try:
                    self.zones.store.forget_version(keeper.policy.apex, provenance.serial)
                except StoreFailed as error:
                    self.zones.state_failed(error)
