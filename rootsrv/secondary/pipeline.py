"""The pipeline: from a delivery to what the workers answer from."""
# Theory of operation
# -------------------
# One keeper per zone asks and fetches (keeper.py).  What it delivers goes through one pipeline, one at a time:
#
#   delivery ─▶ prepare in a child process ─▶ rejected: the primary is left alone for a while
#               (verify, keep, judge,       ─▶ held: waits in the store for a human
#                compile, examine)          ─▶ void: our own fault, the serial is not tried again
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

from rootsrv.process import log
from rootsrv.process.child import ChildFailed, ChildNotStarted, in_child
from rootsrv.secondary.activation import Activation
from rootsrv.secondary.delivery import Delivery
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.preparation import (
    AnchorsUnreadable,
    Preparation,
    Prepared,
    Verdict,
    is_beyond_us,
    zonemd_of,
)
from rootsrv.secondary.zones import Zones
from rootsrv.store.store import StoreFailed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import plausibility

EXPECTED = (StoreFailed, AnchorsUnreadable)
"""What a preparation may raise."""

VERIFY_AGAIN_SECONDS = 60.0
"""How soon a zone in service that could not be judged is judged again."""


class Pipeline:
    """Prepares and activates what the keepers deliver, one after the other."""

    def __init__(self, zones: Zones) -> None:
        self.zones = zones
        self.activation = Activation(zones)

        self.taking: set[tuple[str, int]] = set()
        """Zones and serials that are being prepared or activated."""

        self.verify_seconds: float | None = None
        """What it took to verify, compile and examine the latest zone; None = none yet."""

        self._verify_at = 0.0

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
        serial = delivery.serial
        again = self.activation.needs_table and self._is_of_service(keeper, delivery)
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
        if held and not delivery.kept and held == zonemd_of(delivery.contents):
            return  # the same again: somebody has to decide
        await self.attempt(keeper, delivery, at_once=at_once)

    async def attempt(self, keeper: ZoneKeeper, delivery: Delivery, *, at_once: bool) -> None:
        """Prepare and activate *delivery*; whatever goes wrong ends this attempt and nothing else."""
        serial = delivery.serial
        self.taking = {(keeper.name, serial)}
        try:
            await self.prepare_and_activate(keeper, delivery, at_once=at_once)
            return
        except StoreFailed as error:
            self.zones.state_failed(error)
            reason = f"it cannot be kept: {error}"
        except AnchorsUnreadable as error:
            reason = str(error)
            if delivery.origin.primary not in keeper.refresh.primaries:
                self.activation.put_off(keeper, delivery)  # nobody will give it again
        except (ChildFailed, TimeoutError) as error:
            reason = f"preparation failed: {error or type(error).__name__}"
            if not isinstance(error, ChildNotStarted):
                self.activation.mark_void(keeper, serial, reason)
        except Exception as error:
            reason = f"preparation failed: {type(error).__name__}: {error}"
            context = {"message": f"zone {keeper.name} {serial}: an attempt failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        finally:
            self.taking = set()
        log.alarm("preparation failed", zone=keeper.name, serial=serial, reason=reason)
        self.activation.note_outcome(keeper, delivery, reason)
        unsettled = [each for each in self.zones.keepers.values() if each.scheduled is not None]
        for each in unsettled:
            if each is not keeper and each.scheduled is not None:
                self.activation.put_off(each, each.scheduled.again())
            each.scheduled = None
        if self.zones.page.staged:
            self.zones.switchover.void(self.zones.page.staged, reason)
        self.activation.retire_others()
        if unsettled or self._is_of_service(keeper, delivery):
            # It was accepted, so no primary is asked for it again.
            self.activation.put_off(keeper, delivery)
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
        kept = self.preparation(serving.again(), None, generation=generation)
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
        self.activation.needs_table = True
        await self.attempt(self.zones.root, serving.again(), at_once=True)

    def is_under_way(self, keeper: ZoneKeeper, serial: int) -> bool:
        """Whether *serial* is being taken care of, or is next."""
        return (keeper.name, serial) in self.taking or any(each.serial == serial for each in keeper.deliveries)

    def _is_of_service(self, keeper: ZoneKeeper, delivery: Delivery) -> bool:
        """Whether *delivery* is what is in service, to be compiled again."""
        return keeper.serving is not None and keeper.serving.serial == delivery.serial

    def watch(self) -> None:
        """Called every second: what waits is tried again, and what could not be judged is judged."""
        self.activation.watch()
        now = self.zones.boottime()
        if self.zones.root.unjudged and now >= self._verify_at:
            self._verify_at = now + VERIFY_AGAIN_SECONDS
            self.zones.ask_to_verify()

    def preparation(self, root: Delivery | None, hosts: Delivery | None, *, generation: int) -> Preparation:
        """What to prepare: the deliveries, and what is in service where there is none."""
        serving_root = self.zones.root.serving
        assert root is not None or serving_root is not None
        if root is None and serving_root is not None:
            judged = serving_root.again()
        else:
            assert root is not None
            judged = root
        serving_hosts: Delivery | None = None
        if self.zones.hosts is not None and self.zones.hosts.serving is not None:
            serving_hosts = self.zones.hosts.serving.again()
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
            root=judged,
            hosts=hosts or serving_hosts,
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
            self.taking.add((self.zones.hosts.name, hosts.serial))
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
            self.activation.void(accepted, generation, prepared.void)
            return
        new_root = prepared.root if root is not None else None
        if root is not None and new_root and (fault := self.zones.root.lease_fault(root, new_root.signatures_until)):
            self._refuse(self.zones.root, root, fault)
            if self.zones.hosts and hosts is not None:
                self.zones.hosts.waiting = hosts
            self.activation.retire_others()
            return
        # A root whose hosts do not fit it was approved by a human: it goes on without them.
        if self.zones.hosts and hosts is not None and prepared.hosts is None:
            self.zones.hosts.waiting = hosts
        await self.activation.activate(accepted, generation, prepared, at_once=at_once)

    def _refuse(self, keeper: ZoneKeeper, delivery: Delivery, reason: str) -> None:
        """Not for what the zone is but for what is in service, or was."""
        log.alarm(
            "zone refused", zone=keeper.name, serial=delivery.serial, source=delivery.origin.source, reason=reason
        )
        self.zones.journal("zone refused", zone=keeper.name, serial=delivery.serial, reason=reason)
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
            approved=delivery.approved,
        )

    def _keep_held(self, keeper: ZoneKeeper, verdict: Verdict) -> None:
        with contextlib.suppress(StoreFailed):
            keeper.held[verdict.serial] = replace(
                self.zones.store.version(keeper.policy.apex, verdict.serial)[0], reasons=verdict.reasons
            )
        keeper.note_known()
