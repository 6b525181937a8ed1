"""A staged zone waits for its turn in the mesh, and what becomes of it if that never comes."""

import asyncio
import contextlib
import enum
import math
from collections.abc import Callable

from rootsrv.config.zones import HoldConfig
from rootsrv.mesh.member import VOID_MARGIN_SECONDS, Action, Ready, Ruling
from rootsrv.mesh.orders import Decision, Subject
from rootsrv.mesh.tables import StagedTable
from rootsrv.process import log
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.membership import Membership, is_held, subject_of
from rootsrv.secondary.switchover import Switchover, SwitchoverState
from rootsrv.store.records import Records
from rootsrv.store.store import StoreFailed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import instant
from rootsrv.zone.plausibility import why_hold_ends

_TURN_SECONDS = 0.5
"""How often the rule is asked, if nothing is heard."""


_SAME_TIME_SECONDS = 0.5
"""A set time that moves by less, as the clock is corrected, need not be written down again."""

_REMEMBERED = 16
"""Subjects of which it is known that their table was made again."""


class Waited(enum.Enum):
    """What became of a staged zone that waited."""

    GOES = enum.auto()
    """Its T is here."""

    ENDED = enum.auto()
    """It is not to go into service, or something newer is."""

    MADE_AGAIN = enum.auto()
    """Its table is not the one that others made of the same: it has to be prepared again."""

    UNWRITTEN = enum.auto()
    """Its T is here, and could not be written down."""


class InStep:
    """Has staged zones wait for the mesh."""

    def __init__(self, membership: Membership, records: Records, switchover: Switchover, hold: HoldConfig) -> None:
        self.membership = membership
        self.hold = hold
        self._records = records
        self._time = records.time
        self._switchover = switchover
        self._told = ""
        self._too_old_since: dict[Subject, float] = {}
        self._made_again: dict[Subject, bool] = {}
        """Whether it was told that the second table differs as well."""

    def subject(self, keeper: ZoneKeeper) -> Subject:
        """What is scheduled, as the mesh calls it."""
        assert keeper.life.scheduled is not None
        return subject_of(keeper.name, keeper.life.scheduled.contents)

    async def wait(self, keeper: ZoneKeeper, table: StagedTable, note: Callable[[float | None], bool]) -> Waited:
        """Until the zone whose *table* is staged is to go into service, or is not.

        *note* writes T down (seconds since 1970; None = it is not known any more): whether it is on disk.  That is
        before T, so that no crash after it brings back what was answered before, and not before it is as good as
        certain (mesh/member.py), so that who was off meanwhile does not go into service with what was voided.
        """
        subject = table.subject
        switchover = self._switchover
        switchover.state, switchover.activate_at = SwitchoverState.SCHEDULED, None
        ready = self.membership.staged(table)
        noted: float | None = None
        try:
            while not switchover.hurried:
                self.membership.changed.clear()
                answer = self.membership.decide(ready, self._too_old(keeper, ready))
                self._tell(keeper, subject, answer)
                boottime = self._time.boottime()
                goes = answer.action is Action.GO
                at = switchover.activate_at = self._time.trusted.wall(boottime) + answer.at - boottime if goes else None
                if answer.action is Action.NEVER:
                    self._drop(keeper, subject, answer.why)
                    return Waited.ENDED
                if self._is_overtaken(keeper, answer):
                    log.event("zone overtaken", zone=keeper.name, serial=subject.serial, was=answer.why)
                    return Waited.ENDED
                if self._is_to_be_made_again(table):
                    return Waited.MADE_AGAIN
                left = answer.at - boottime if goes else _TURN_SECONDS
                if left > VOID_MARGIN_SECONDS:
                    at = None
                if not _is_same_time(noted, at) and note(at):
                    noted = at
                if left <= 0:
                    return Waited.GOES if _is_same_time(noted, at) else Waited.UNWRITTEN
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _TURN_SECONDS)):
                        await switchover.hurry_or(self.membership.changed)
            return Waited.GOES if note(self._time.now()) else Waited.UNWRITTEN
        finally:
            self.membership.unstaged(keeper.name)

    def _is_to_be_made_again(self, table: StagedTable) -> bool:
        """Whether it differs from the others'; once for each subject, and the second time it is only told."""
        if not (why := self.membership.table_differs(table)):
            return False
        subject = table.subject
        again = self._made_again.get(subject)
        if again:
            return False
        self._made_again[subject] = again is not None
        while len(self._made_again) > _REMEMBERED:
            del self._made_again[next(iter(self._made_again))]
        goes_on = "made again" if again is None else "goes on all the same"
        log.alarm("table differs", zone=subject.zone, serial=subject.serial, reason=why, effect=goes_on)
        self._records.journal("table differs", zone=subject.zone, serial=subject.serial, reason=why, effect=goes_on)
        return again is None

    def _too_old(self, keeper: ZoneKeeper, ready: Ready) -> float | None:
        """Since when D23's timeout has been over for what waits."""
        if self.hold.on_hold_timeout == "keep":
            return None
        boottime, deadline = self._time.boottime(), keeper.deadline()
        left = math.inf if deadline is None else deadline - boottime
        if not why_hold_ends(boottime - ready.since, left, self.hold.stale_hard_seconds):
            self._too_old_since.pop(ready.subject, None)
            return None
        # Counted from readiness: whoever is in the last day anyway must not outrun canaries.
        return self._too_old_since.setdefault(ready.subject, boottime)

    def _is_overtaken(self, keeper: ZoneKeeper, answer: Ruling) -> bool:
        assert keeper.life.scheduled is not None
        newer = frozenset(
            each.serial for each in keeper.life.queue if serial_is_newer(each.serial, keeper.life.scheduled.serial)
        )
        return bool(newer) and (is_held(answer) or self.membership.overtaking(keeper.name, newer))

    def _drop(self, keeper: ZoneKeeper, subject: Subject, why: str) -> None:
        log.alarm("zone dropped", zone=keeper.name, serial=subject.serial, reason=why)
        self._records.journal("zone dropped", zone=keeper.name, serial=subject.serial, reason=why)
        keeper.drop(subject.serial)
        with contextlib.suppress(StoreFailed):
            keeper.stored.forget(subject.serial)

    def _tell(self, keeper: ZoneKeeper, subject: Subject, answer: Ruling) -> None:
        text = f"{subject.serial} {answer.action} {answer.why}"
        if text == self._told:
            return
        self._told = text
        boottime = self._time.boottime()
        at = "never"
        if answer.action is Action.GO:
            at = instant.to_text(self._time.trusted.wall(boottime) + answer.at - boottime)
        log.event("set time", zone=keeper.name, serial=subject.serial, activate_at=at, by=answer.why)

    async def decide_held(self, keeper: ZoneKeeper) -> tuple[int, Decision] | None:
        """A decision of the mesh's operator on a zone that is held here (D23): a fleet-wide one counts as the human."""
        for serial in list(keeper.life.held):
            verdict = self.membership.verdict_on(keeper.name, serial)
            if verdict is None:
                continue
            try:
                contents = await keeper.contents(serial)
            except StoreFailed as error:
                log.alarm("kept zone unusable", zone=keeper.name, serial=serial, reason=error)
                continue
            if serial in keeper.life.held and subject_of(keeper.name, contents) == verdict.subject:
                log.event("decided by the mesh", zone=keeper.name, serial=serial, by=verdict.by, order=verdict.decision)
                return serial, verdict.decision
        return None


def _is_same_time(noted: float | None, at: float | None) -> bool:
    if noted is None or at is None:
        return noted is at
    return abs(noted - at) < _SAME_TIME_SECONDS
