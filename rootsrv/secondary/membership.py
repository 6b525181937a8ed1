"""This instance as a member of a mesh, in maintain: what the role mesh told, and what follows for a staged zone."""
# The role mesh verifies what stands on the board and tells it here; the rule itself (mesh/member.py) runs in this
# process.  So a mesh role that dies costs nothing but news: orders that were heard stand, and the local rule goes on.
# Who has not heard anything since its start does not know the roster's waits and takes the defaults, which are long.

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rootsrv.config.checks import ConfigError
from rootsrv.config.typed import build
from rootsrv.mesh.member import Action, Known, Now, Ready, Ruling, decide
from rootsrv.mesh.orders import Decision, OperatorVerdict, SetTime, Stage, Subject
from rootsrv.mesh.quorum import Silence
from rootsrv.mesh.roster import Timing
from rootsrv.mesh.tables import StagedTable
from rootsrv.mesh.transfers import Partners
from rootsrv.wire.rdata import ZONEMD
from rootsrv.zone import digest
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.lease import TrustedClock

SILENT_SECONDS = 5.0
"""After so long without a word from the role mesh nothing is known of the others."""

_REMEMBERED = 16
"""Subjects whose first readiness is kept in mind."""


@dataclass
class SwitchoverOutcome:
    """What became of the latest switchover here."""

    subject: Subject
    ok: bool
    reason: str
    flipped_at: float
    """Seconds since 1970."""

    confirm_seconds: float | None = None


@dataclass
class Membership:
    """What is known, and the rule applied to it."""

    clock: TrustedClock
    boottime: Callable[[], float]
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when something was heard that may change an answer."""

    known: Known = field(default_factory=Known)
    heard_at: float = float("-inf")
    """CLOCK_BOOTTIME, seconds."""

    engine: str = "the role mesh has not said anything yet"
    """Why the engine is gone; empty = it is there."""

    ready: dict[str, Ready] = field(default_factory=dict)
    """What is staged, by zone."""

    tables: dict[str, StagedTable] = field(default_factory=dict)
    """The tables of that, by zone."""

    outcome: SwitchoverOutcome | None = None
    partners: Partners = field(default_factory=Partners)
    """To whom zones go and from whom they come, by the roster."""

    on_partners: Callable[[], None] = lambda: None
    """Called when those have changed."""

    _first: dict[Subject, float] = field(default_factory=dict)
    _canaries_failed: dict[Subject, int] = field(default_factory=dict)
    _silence: dict[Subject, Silence] = field(default_factory=dict)
    _differing: dict[str, str] = field(default_factory=dict)
    """By digest of a table of ours: why it is another one than others made of the same."""

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take what the role mesh tells; ValueError if it is not what it should be, and nothing of it is taken then."""
        try:
            known = Known(
                timing=build(Timing, dict(told["timing"]), "timing."),
                canary=bool(told["canary"]),
                wave=int(told["wave"]),
                orders=tuple(_order(each) for each in told["orders"]),
                offers={_subject(each): float(each["at"]) for each in told["offers"]},
                verdicts=tuple(_verdict(each) for each in told["verdicts"]),
            )
            failed = {_subject(each): int(each["failed"]) for each in told["canaries_failed"]}
            silence = {_subject(each): Silence(bool(each["allowed"]), str(each["why"])) for each in told["silence"]}
            differing = {str(each["table"]): str(each["why"]) for each in told.get("tables_differ", ())}
            engine = str(told["engine"])
            listed = told.get("partners")
            partners = self.partners if listed is None else Partners.from_document(listed)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        is_news = (known, differing) != (self.known, self._differing)
        self.known, self._differing = known, differing
        self._canaries_failed, self._silence = failed, silence
        self.engine, self.heard_at = engine, self.boottime()
        if is_news:
            self.changed.set()
        if partners != self.partners:
            self.partners = partners
            self.on_partners()

    def staged(self, table: StagedTable) -> Ready:
        """*table* is staged here; since when its subject is ready counts from the first time."""
        subject = table.subject
        self.tables[subject.zone] = table
        since = self._first.setdefault(subject, self.boottime())
        while len(self._first) > _REMEMBERED:
            del self._first[next(iter(self._first))]
        self.ready[subject.zone] = Ready(subject, since)
        return self.ready[subject.zone]

    def unstaged(self, zone: str) -> None:
        """Nothing is staged of *zone* any more."""
        self.ready.pop(zone, None)
        self.tables.pop(zone, None)

    def decide(self, ready: Ready, too_old_since: float | None) -> Ruling:
        """What to do with what is *ready*."""
        boottime = self.boottime()
        known = replace(
            self.known,
            canaries_failed=self._canaries_failed.get(ready.subject, 0),
            too_old_since=too_old_since,
        )
        return decide(ready, known, Now(self.clock.wall(boottime), boottime, self.clock.synchronised))

    def table_differs(self, table: StagedTable) -> str:
        """Why *table* is another one than others made of the same; empty if it is not."""
        return self._differing.get(table.digest, "")

    def may_fall_silent(self, subject: Subject) -> Silence:
        """Whether the failure to switch to *subject* is proven to be ours alone."""
        if self.boottime() - self.heard_at > SILENT_SECONDS:
            return Silence(False, "the role mesh does not answer: whether others switched is not known")
        return self._silence.get(subject, Silence(False, "not asked yet whether others switched"))

    def verdict_on(self, zone: str, serial: int) -> OperatorVerdict | None:
        """The latest that decides on *serial*, whatever the digest: that is to be compared.

        An order for canaries is an approval at those that are.
        """
        decide = {Decision.APPROVE, Decision.REJECT} | ({Decision.CANARY} if self.known.canary else set())
        found = [
            each
            for each in self.known.verdicts
            if (each.subject.zone, each.subject.serial) == (zone, serial) and each.decision in decide
        ]
        return max(found, key=lambda each: each.sent, default=None)

    def overtaking(self, zone: str, serials: frozenset[int]) -> bool:
        """Whether an emergency is ordered for one of *serials*."""
        return any(
            each.decision is Decision.EMERGENCY and each.subject.zone == zone and each.subject.serial in serials
            for each in self.known.verdicts
        )

    def to_document(self) -> dict[str, Any]:
        """For the role mesh: what it may publish."""
        boottime = self.boottime()
        outcome = self.outcome
        return {
            "wall": self.clock.wall(boottime),
            "boottime": boottime,
            "synchronised": self.clock.synchronised,
            "partners": self.partners.version,
            "ready": [
                {**each.subject.to_content(), "table": self.tables[zone].digest, "made_of": self.tables[zone].made_of}
                for zone, each in self.ready.items()
            ],
            "outcome": None if outcome is None else {**asdict(outcome), "subject": outcome.subject.to_content()},
        }


def subject_of(zone: str, contents: ZoneContents) -> Subject:
    """What a version is called in the mesh.  Its own ZONEMD, which was verified, or else the same digest computed."""
    rrset = contents.rrset(contents.apex, ZONEMD)
    if rrset is not None and rrset.rdatas:
        return Subject(zone, contents.serial, min(rrset.rdatas)[6:].hex())
    return Subject(zone, contents.serial, digest.compute(contents, 1).hex())


def is_held(answer: Ruling) -> bool:
    """Whether nobody knows when it will go: something newer need not wait behind it."""
    return answer.action is Action.WAIT or answer.why.startswith("void ")


def _subject(told: Mapping[str, Any]) -> Subject:
    return Subject(str(told["zone"]), int(told["serial"]), str(told["digest"]))


def _order(told: Mapping[str, Any]) -> SetTime:
    return SetTime(
        _subject(told),
        Stage(told["stage"]),
        float(told["at"]),
        str(told["by"]),
        float(told["epoch"]),
        int(told["seq"]),
        str(told["reason"]),
        float(told["canaries_at"]) if told.get("canaries_at") is not None else None,
    )


def _verdict(told: Mapping[str, Any]) -> OperatorVerdict:
    return OperatorVerdict(
        _subject(told),
        Decision(told["decision"]),
        str(told["by"]),
        float(told["sent"]),
        str(told["reason"]),
        float(told["at"]),
    )
