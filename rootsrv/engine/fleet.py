"""What the board says, as far as it is signed by who may say it: orders, verdicts, and what members are ready for."""
# Law 1  What was accepted is remembered here: a key that is deleted, or overwritten with garbage, takes nothing back.
# Law 2  What is refused is a security event, once for each value, and nothing else happens.
# Law 3  What belongs to a member's life (status, ready, done) goes with its key: its lease is its life.

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rootsrv.config.checks import ConfigError
from rootsrv.engine.etcd import Entry
from rootsrv.mesh import maintenance
from rootsrv.mesh.envelope import Envelope, EnvelopeMalformed, EnvelopeRefused, Freshness, Replayed, open_envelope
from rootsrv.mesh.maintenance import Maintenance
from rootsrv.mesh.member import Now, admitted
from rootsrv.mesh.orders import OperatorVerdict, SetTime, Stage, Subject
from rootsrv.mesh.quorum import Done, failed_canaries
from rootsrv.mesh.roster import KEY, Roster, RosterBook, Timing, public_key
from rootsrv.mesh.tables import StagedTable
from rootsrv.process import log, whole_file
from rootsrv.process.twice import BothDamaged, Twice
from rootsrv.zone import instant

_MOST_MAINTENANCES = 1000

_PAST_SECONDS = 7 * 86_400
"""So long a maintenance that is over is remembered."""

_VERDICTS = 64
"""That are remembered; they end by themselves after a day."""


@dataclass
class Fleet:
    """The others, as they sign that they are."""

    service: str
    book: RosterBook
    remembered: Path
    """Where the roster in force is kept over restarts."""

    orders: dict[str, tuple[SetTime, ...]] = field(default_factory=dict)
    """By zone, those that count, in order."""

    offers: dict[str, tuple[Subject, float]] = field(default_factory=dict)
    """By zone: what was offered last, and when (seconds since 1970)."""

    verdicts: tuple[OperatorVerdict, ...] = ()
    maintenance: dict[str, Maintenance] = field(default_factory=dict)
    """By id, those that were announced or cancelled."""

    ready: dict[str, Subject] = field(default_factory=dict)
    tables: dict[str, StagedTable] = field(default_factory=dict)
    """What they have staged, by member, where they say so."""

    done: dict[str, Done] = field(default_factory=dict)
    flipped_at: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, Envelope] = field(default_factory=dict)
    refused: int = 0
    """Values that were refused, since start."""

    _last: dict[str, tuple[bytes, Envelope]] = field(default_factory=dict)
    """By key, what was accepted last."""

    _fresh: Freshness = field(default_factory=Freshness)
    _last_failed: dict[str, tuple[Subject, bool]] = field(default_factory=dict)
    """By member: the subject before its present one, and whether it failed with it."""

    _public: dict[str, Ed25519PublicKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kept_roster = Twice(self.remembered)
        self._kept_signers = Twice(_signers_file(self.remembered))

    @property
    def files(self) -> tuple[Twice, ...]:
        """What is kept for the next start."""
        return self._kept_signers, self._kept_roster

    @property
    def roster(self) -> Roster | None:
        """The one in force."""
        return self.book.roster

    @property
    def timing(self) -> Timing:
        """The roster's, or long ones as long as there is none."""
        return Timing() if self.roster is None else self.roster.timing

    def recall(self, now: Now) -> None:
        """Take the roster that was in force when we ended, and the maintenance that had been announced."""

        def parse(octets: bytes) -> bool:
            try:
                return self.adopt_roster(octets, float("-inf"), "remembered")
            except EnvelopeRefused as error:
                raise ValueError(str(error)) from error

        try:
            # Its signer may be one that the configuration has never heard of: a roster before it had named it.
            with contextlib.suppress(BothDamaged):
                self.book.trust(self._kept_signers.read(_listed) or ())
            self._kept_roster.read(parse)
        except BothDamaged as error:
            self.refused += 1
            log.alarm("roster not recalled", path=self.remembered, reason=error)
        with contextlib.suppress(OSError):
            for path in sorted(self._announced.iterdir())[:_MOST_MAINTENANCES]:
                key = maintenance.board_key(path.name)
                self.take(key, Entry(key, path.read_bytes(), 0, 0, 0), now)

    @property
    def _announced(self) -> Path:
        """Where maintenance is remembered, a signed value each."""
        return self.remembered.with_name("maintenance")

    def offer_roster(self, octets: bytes, now: float, source: str) -> bool:
        """As `adopt_roster`; what is refused is a security event."""
        try:
            return self.adopt_roster(octets, now, source)
        except EnvelopeRefused as error:
            self._refuse(KEY, error, source)
            return False

    def adopt_roster(self, octets: bytes, now: float, source: str) -> bool:
        """Take a roster if it may replace the one in force: whether it did.  EnvelopeRefused.

        *now*: CLOCK_BOOTTIME, seconds.
        """
        signers = self.book.signers
        if not self.book.offer(octets, now):
            return False
        assert self.roster is not None
        self._public = self.roster.keys_of(each.name for each in self.roster.member)
        # Of whom it does not list any more nothing counts, nor what was signed before.
        for kept in (self.ready, self.tables, self.done, self.flipped_at, self.statuses, self._last_failed):
            for name in kept.keys() - self._public.keys():
                del kept[name]
        log.event("roster in force", version=self.roster.version, members=len(self.roster.member), source=source)
        if source != "remembered":
            try:
                self.remembered.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                self._kept_signers.write("".join(f"{each}\n" for each in signers).encode())
                self._kept_roster.write(octets)
            except OSError as error:
                log.alarm("roster not remembered", path=self.remembered, reason=error.strerror)
        return True

    def take(self, key: str, entry: Entry | None, now: Now) -> None:
        """Read what stands under *key*; None: nothing any more."""
        if key == KEY:
            if entry is not None and self.offer_roster(entry.value, now.boottime, "engine"):
                # What somebody wrote whom the roster now lists was refused before.
                self._fresh, self._last = Freshness(), {}
            return
        if self.roster is None:
            return
        parts = key.split("/")
        try:
            match parts:
                case ["zone", zone, "order"] if entry is not None:
                    self._order(zone, self._opened(key, entry, self._hosts(), now, shared=True), now)
                case ["zone", zone, "offer"] if entry is not None:
                    envelope = self._opened(key, entry, self._hosts(), now, shared=True)
                    self.offers[zone] = (Subject.of(envelope.content, key), envelope.sent)
                case ["zone", _, "verdict", _, _] if entry is not None:
                    verdict = OperatorVerdict.of(self._opened(key, entry, self.roster.operator_keys(), now))
                    if verdict in self.verdicts:
                        return
                    self.verdicts = (*self.verdicts[-_VERDICTS + 1 :], verdict)
                    log.event("operator's order", by=verdict.by, decision=verdict.decision, zone=verdict.subject.zone,
                              serial=verdict.subject.serial, reason=verdict.reason)  # fmt: skip
                case ["maintenance", identifier] if entry is not None:
                    envelope = self._opened(key, entry, self.roster.operator_keys(), now)
                    self._maintenance(identifier, Maintenance.of(envelope), entry.value, now)
                case ["member", member, kind] if kind in {"ready", "done", "status"}:
                    self._member(member, kind, key, entry, now)
        except Replayed as error:
            self._refuse(key, error, "replayed")
        except EnvelopeRefused as error:
            self._refuse(key, error, type(error).__name__)

    def is_signed_by_a_host(self, key: str, entry: Entry) -> bool:
        """Whether what stands there is, whatever its time; a security event if it is not.

        A host whose own clock is behind would take the one in office for a false one.
        """
        try:
            open_envelope(entry.value, service=self.service, key=key, writers=self._hosts(), now=None)
        except EnvelopeRefused as error:
            self._refuse(key, error, type(error).__name__)
            return False
        return True

    def _hosts(self) -> dict[str, Ed25519PublicKey]:
        assert self.roster is not None
        return {name: self._public[name] for name in self.roster.distribution_hosts}

    def _opened(
        self, key: str, entry: Entry, writers: Mapping[str, Ed25519PublicKey], now: Now, *, shared: bool = False
    ) -> Envelope:
        last = self._last.get(key)
        if last is not None and last[0] == entry.value:  # written again, or read again after the engine was gone
            return last[1]
        envelope = open_envelope(entry.value, service=self.service, key=key, writers=writers, now=now.wall)
        self._fresh.admit(envelope, shared=shared)
        self._last[key] = (entry.value, envelope)
        return envelope

    def _order(self, zone: str, envelope: Envelope, now: Now) -> None:
        order = SetTime.of(envelope)
        if order in self.orders.get(zone, ()):
            return
        if order.subject.zone != zone:
            raise EnvelopeMalformed(f"{envelope.key}: is of zone {order.subject.zone}")
        self.orders[zone] = admitted(self.orders.get(zone, ()), order, now)
        counts, serial = self.orders[zone][-1] is order, order.subject.serial
        facts: dict[str, Any] = {}
        if order.stage is not Stage.VOID and now.wall >= order.at:
            # Who hears of it after its T goes at once, and so later than the others.
            facts["late_seconds"] = round(now.wall - order.at, 3)
        log.event("order", zone=zone, serial=serial, stage=order.stage, at=round(order.at, 3), by=order.by,
                  reason=order.reason, counts=counts, **facts)  # fmt: skip

    def _maintenance(self, identifier: str, new: Maintenance, octets: bytes, now: Now) -> None:
        if new == self.maintenance.get(identifier):
            return
        over = {name for name, each in self.maintenance.items() if each.end <= now.wall - _PAST_SECONDS}
        self.maintenance = {name: each for name, each in self.maintenance.items() if name not in over}
        self.maintenance[identifier] = new
        try:
            self._announced.mkdir(parents=True, exist_ok=True, mode=0o755)
            whole_file.replace(self._announced / identifier, octets)
            for name in over - {identifier}:
                (self._announced / name).unlink(missing_ok=True)
        except OSError as error:
            log.alarm("maintenance not remembered", id=identifier, reason=error.strerror)
        log.event("maintenance cancelled" if new.cancelled else "maintenance", id=identifier, by=new.by,
                  members=",".join(new.members), start=instant.to_text(new.start), end=instant.to_text(new.end),
                  reason=new.reason)  # fmt: skip

    def may_maintain(self, new: Maintenance, now: Now) -> None:
        """maintenance.Refused if *new* may not be announced as things stand."""
        if self.roster is None:
            raise maintenance.MaintenanceRefused("no roster is in force")
        if not new.cancelled:
            maintenance.check(new, self.maintenance.values(), self.roster, now.wall)

    def _member(self, member: str, kind: str, key: str, entry: Entry | None, now: Now) -> None:
        if entry is None:
            kept: dict[str, dict[str, Any]] = {"ready": self.ready, "done": self.done, "status": self.statuses}
            kept[kind].pop(member, None)
            if kind == "ready":
                self.tables.pop(member, None)
            return
        if member not in self._public:
            raise EnvelopeMalformed(f"{key}: the roster lists no such member")
        envelope = self._opened(key, entry, {member: self._public[member]}, now)
        match kind:
            case "ready":
                self._ready(member, envelope)
            case "done":
                self._done(member, envelope)
            case _:
                self.statuses[member] = envelope

    def _ready(self, member: str, envelope: Envelope) -> None:
        content = envelope.content
        subject = self.ready[member] = Subject.of(content, envelope.key)
        made_of, digest = content.get("made_of"), content.get("table")
        self.tables.pop(member, None)  # a member of an older version does not say
        if isinstance(made_of, str) and isinstance(digest, str) and len(digest) == 64:
            self.tables[member] = StagedTable(subject, made_of[:500], digest)

    def _done(self, member: str, envelope: Envelope) -> None:
        content = envelope.content
        done = Done(Subject.of(content, envelope.key), content.get("ok") is True, str(content.get("reason", ""))[:500])
        before = self.done.get(member)
        if before is not None and before.subject != done.subject:
            self._last_failed[member] = (before.subject, not before.ok)
        self.done[member] = done
        flipped = content.get("flipped_at")
        if isinstance(flipped, int | float) and not isinstance(flipped, bool) and 0 <= flipped <= instant.LAST:
            self.flipped_at[member] = float(flipped)

    def _refuse(self, key: str, error: EnvelopeRefused, kind: str) -> None:
        self.refused += 1
        log.security("board refused", key=key, kind=kind, reason=error)

    def canaries_failed_before(self, subject: Subject) -> frozenset[str]:
        """Members that failed with the zone before *subject*."""
        failed = {name for name, (before, failed) in self._last_failed.items() if failed and before != subject}
        # One that has not signed anything of this subject yet: what it signed last is of the one before.
        failed |= {name for name, done in self.done.items() if not done.ok and done.subject != subject}
        return frozenset(failed)

    def canaries_failed(self, subject: Subject) -> int:
        """Canaries that failed with *subject*, without those that failed with the one before."""
        if self.roster is None:
            return 0
        return failed_canaries(subject, self.roster, self.done, self.canaries_failed_before(subject))


def _signers_file(remembered: Path) -> Path:
    """Where it is remembered whose signature the remembered roster needed when it was taken."""
    return remembered.with_name("roster-signers")


def signers_of(remembered: Path) -> tuple[str, ...]:
    """The public keys of those; none if that is not known."""
    try:
        return _listed(_signers_file(remembered).read_bytes())
    except (OSError, ValueError):
        return ()


def _listed(octets: bytes) -> tuple[str, ...]:
    """The public keys in *octets*, one a line; ValueError if one is none."""
    listed = tuple(octets.decode().split())
    for each in listed:
        try:
            public_key(each, "a remembered signer")
        except ConfigError as error:
            raise ValueError(str(error)) from error
    return listed
