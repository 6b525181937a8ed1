"""From the maintainer to its status document."""

import os
from collections.abc import Iterable, Iterator

import rootsrv
from rootsrv.distribution.requests import PeerRecord
from rootsrv.process import clock
from rootsrv.process.security import SecurityEvents
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.status import (
    HealthStatus,
    HeldStatus,
    PeerStatus,
    PrimaryStatus,
    Status,
    SwitchoverStatus,
    WorkerStatus,
    ZoneStatus,
)
from rootsrv.secondary.switchover import SwitchoverState
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import instant
from rootsrv.zone.dnssec import UNCOVERED
from rootsrv.zone.life import InService


def status(
    maintainer: Maintainer, peers: Iterable[PeerRecord], security: SecurityEvents, configuration_digest: str
) -> Status:
    """Everything as it is now."""
    boottime = maintainer.time.boottime()
    page, switchover = maintainer.page, maintainer.switchover
    alarms = [*_alarms(maintainer)]
    return Status(
        role="maintain",
        pid=os.getpid(),
        version=rootsrv.__version__,
        configuration_digest=configuration_digest,
        now=instant.to_text(maintainer.time.now()),
        test_clock_offset_seconds=clock.test_offset_seconds(),
        clock=str(maintainer.time.trusted.state),
        clock_distance_seconds=round(maintainer.time.trusted.distance, 3),
        generation=page.active,
        silenced=page.silenced,
        switchover=SwitchoverStatus(
            state=str(switchover.state),
            generation=switchover.generation,
            activate_at=_instant(switchover.activate_at),
            reason=switchover.reason,
            verify_seconds=maintainer.pipeline.verify_seconds,
            confirm_seconds=maintainer.activation.confirm_seconds,
        ),
        zones=[_zone(maintainer, each, boottime) for each in maintainer.zones],
        workers=[
            WorkerStatus(
                slot=slot,
                pid=page.worker(slot).pid,
                staged=page.worker(slot).staged,
                active=page.worker(slot).active,
                heartbeat_age_seconds=round(boottime - page.worker(slot).heartbeat / 1e9, 3),
            )
            for slot in range(page.workers)
        ],
        workers_replaced=page.replaced,
        peers=[_peer(each) for each in peers],
        security_events=dict(security.counts),
        counters=dict(maintainer.zones.counters),
        state_writable=not maintainer.records.error,
        files=[each.as_document() for each in maintainer.files],
        alarms=[text for text, _ in alarms],
        alarm_entries=[entry for _, entry in alarms],
        health=_health(maintainer, boottime),
    )


def _zone(maintainer: Maintainer, keeper: ZoneKeeper, boottime: float) -> ZoneStatus:
    serving, scheduled, refresh = keeper.life.serving, keeper.life.scheduled, keeper.refresh
    in_service = keeper.life.service if isinstance(keeper.life.service, InService) else None
    received = keeper.life.received
    deadline = keeper.deadline()
    left = None if deadline is None else deadline - boottime
    return ZoneStatus(
        name=keeper.name,
        known=keeper.known,
        received=received.serial if received else None,
        scheduled=scheduled.serial if scheduled else None,
        served=serving.serial if serving else None,
        known_age_seconds=_age(boottime, keeper.life.known_since),
        received_age_seconds=_age(boottime, received.at if received else None),
        served_age_seconds=_age(boottime, in_service.since if in_service else None),
        served_at=_precise(maintainer.time.now() - boottime + in_service.since if in_service else None),
        served_known_at=_precise(in_service.known_at if in_service else None),
        confirmed_age_seconds=_age(boottime, serving.lease.confirmed_boottime if serving else None),
        lease_seconds=None if left is None else round(left, 1),
        lease_until=None if left is None else instant.to_text(maintainer.time.now() + left),
        signatures_until=_instant(serving.lease.signatures_until if serving else None),
        refresh_in_seconds=round(max(0.0, refresh.next_refresh - boottime), 1),
        source=f"{serving.delivery.origin.source} ({serving.delivery.origin.how})" if serving else "",
        held=[
            HeldStatus(
                serial=each.serial,
                reasons=list(each.reasons),
                source=each.source,
                received_at=instant.to_text(each.received_at),
            )
            for each in keeper.life.held.values()
        ],
        last_rejection=keeper.life.last_rejection,
        alarms=list(serving.alarms) if serving else [],
        primaries=[
            PrimaryStatus(
                name=peer.name,
                where=keeper.sources[peer.name].where,
                authenticated=keeper.sources[peer.name].authenticated,
                serial=peer.named,
                reachable=_reachable(peer.failures, peer.last_success),
                failures=peer.failures,
                backoff_seconds=round(max(0.0, peer.not_before - boottime), 1) if peer.failures else 0.0,
                last_success_seconds=_age(boottime, peer.last_success),
                notified_seconds=_age(boottime, peer.notified_at),
                last_error=peer.last_error,
            )
            for peer in refresh.primaries.values()
        ],
    )


def _peer(record: PeerRecord) -> PeerStatus:
    return PeerStatus(
        name=record.config.name,
        address=record.config.address,
        zones=list(record.config.zones),
        last_transfer_at=_instant(record.last_transfer_at),
        last_transfer=record.last_transfer,
        notify=record.notify,
    )


def _alarms(maintainer: Maintainer) -> Iterator[tuple[str, str]]:
    """What a person should look at, and what docs/runbook.md has it under."""
    trusted, switchover = maintainer.time.trusted, maintainer.switchover
    if not trusted.synchronised:
        yield f"clock {trusted.state}, {abs(trusted.distance):.1f} s off the trusted time", "RootsrvClockUnsynchronised"
    if maintainer.records.error:
        yield f"state cannot be written: {maintainer.records.error}", "state cannot be written"
    for file in maintainer.files:
        if file.trouble:
            yield f"one good copy of two: {file.trouble}", "file damaged, its twin was read"
    if switchover.state in {SwitchoverState.VOID, SwitchoverState.FAILED}:
        entry = "switchover void" if switchover.state is SwitchoverState.VOID else "switchover failed"
        yield f"switchover {switchover.state}: {switchover.reason}", entry
    for keeper in maintainer.zones:
        name, life = keeper.name, keeper.life
        for held in life.held.values():
            yield f"zone {name} {held.serial} is held: {'; '.join(held.reasons)}", "zone held"
        if life.last_rejection:
            yield f"zone {name} rejected: {life.last_rejection}", "zone rejected"
        if life.unjudged:
            entry = "zone in service could not be verified again"
            yield f"zone {name} could not be verified again: {life.unjudged}", entry
        if life.distrusted:
            yield f"zone {name} is not answered: {life.distrusted}", "kept zone does not verify"
        deadline = keeper.deadline()
        if deadline is not None and deadline <= maintainer.time.boottime():
            yield f"zone {name}: the lease is over, answered SERVFAIL", "lease over"
        for primary in keeper.refresh.primaries.values():
            if primary.failures:
                yield f"primary {primary.name}: {primary.last_error}", "primary failed"
        if life.serving is not None:
            for each in life.serving.alarms:
                yield f"zone {name}: {each}", "RootsrvUncoveredSepKey" if UNCOVERED in each else "zone suspicious"


def _health(maintainer: Maintainer, boottime: float) -> HealthStatus:
    root = maintainer.zones.root
    held = sorted(root.life.held)
    known = root.known
    only_held = known is not None and any(each == known or serial_is_newer(each, known) for each in held)
    behind = 0.0 if root.life.known_since is None or only_held else boottime - root.life.known_since
    asked = [
        reachable
        for peer in root.refresh.primaries.values()
        if (reachable := _reachable(peer.failures, peer.last_success)) is not None
    ]
    return HealthStatus(
        behind_seconds=round(behind, 1),
        held_serials=held,
        switchover_failed=maintainer.switchover.state is SwitchoverState.FAILED,
        primaries_reachable=any(asked) if asked else None,
        clock_synchronised=maintainer.time.trusted.synchronised,
        alarms=[text for text, _ in _alarms(maintainer)],
    )


def _reachable(failures: int, last_success: float | None) -> bool | None:
    if failures:
        return False
    return None if last_success is None else True


def _age(boottime: float, since: float | None) -> float | None:
    return None if since is None else round(boottime - since, 3)


def _instant(seconds: float | None) -> str | None:
    return None if seconds is None else instant.to_text(seconds)


def _precise(seconds: float | None) -> str | None:
    return None if seconds is None else instant.to_text_precise(seconds)
