"""The role *mesh*: this instance in touch with the others, by way of the engine.  Nobody waits for it."""
# Over 400 lines: it is one loop, and each of its turns goes through all that is below.
#
# Theory of operation
# -------------------
#            ┌────────────── board.py: mirror of the service's keys ◀──────────────▶ etcd
#            ▼
#   fleet.py: what is signed by who may say it
#            │ orders, verdicts, whether others switched
#            ▼
#   maintain ◀──── this loop, each turn ────▶ publishes ready, done, status
#            │ what is staged                 leader.py, on a distribution host
#            ▼
#   advertise ──▶ asks here (mesh.sock: floor) whether a token counts: tokens.py
#
# The loop is told by events and turns at least every TURN_SECONDS.  An exception nobody expected ends one attempt.

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rootsrv
from rootsrv.config.file import Config
from rootsrv.config.mesh import MeshConfig
from rootsrv.control import client
from rootsrv.control.client import NoAnswer
from rootsrv.control.protocol import Command, Commands, Nothing, Order, Refused
from rootsrv.control.server import ControlServer
from rootsrv.engine import signing_key
from rootsrv.engine.board import Board
from rootsrv.engine.etcd import EngineGone, Etcd, tls_context
from rootsrv.engine.fleet import Fleet
from rootsrv.engine.leader import LEAD, Leader
from rootsrv.engine.tokens import TokenKeeper
from rootsrv.mesh.envelope import Envelope, EnvelopeRefused, open_envelope, seal
from rootsrv.mesh.member import Now
from rootsrv.mesh.orders import Subject, Verdict
from rootsrv.mesh.quorum import may_fall_silent
from rootsrv.mesh.roster import Group, Member, Roster, RosterBook, public_text
from rootsrv.process import clock, log, service_manager
from rootsrv.process.persistence import failing, persistently
from rootsrv.zone import instant

TURN_SECONDS = 0.25

STATUS_SECONDS = (5.0, 60.0)
"""A status that changed is published after the first, one that did not after the second."""

_ROSTER_FILE_SECONDS = 5.0
_LONGEST_SIGNED_OCTETS = 262_144
_NEVER = 2.0**52


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorOrder:
    """`floor`: may a withdrawal for a cause that can wait rest on a token?"""

    want: str = ""
    """For what one is wanted; empty = none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOrder:
    """`order`: what an operator has signed follows."""

    key: str
    """Where it goes on the board."""


def _refusing(
    run: Callable[[Order[Any]], Awaitable[Mapping[str, Any]]],
) -> Callable[[Order[Any]], Awaitable[Mapping[str, Any]]]:
    """What the engine and signatures refuse is told to who asked."""

    async def refusing(order: Order[Any]) -> Mapping[str, Any]:
        try:
            return await run(order)
        except (EngineGone, EnvelopeRefused) as error:
            raise Refused(str(error)) from error

    return refusing


class CannotJoin(Exception):
    """The role cannot be started; the text names the cause."""


async def mesh(config: Config, path: Path, stop: asyncio.Event) -> None:
    """Be in touch until *stop* is set; CannotJoin or ConfigError if that cannot be begun."""
    if config.mesh is None:
        raise CannotJoin("mesh: there is no such section in the configuration")
    await Role(config, config.mesh).run(stop)


def _boottime() -> float:
    return clock.boottime_ns() / 1e9


class Role:
    """All parts of the role."""

    def __init__(self, config: Config, settings: MeshConfig) -> None:
        self._config = config
        self._settings = settings
        self._runtime = Path(config.state.runtime_directory)
        try:
            self._key = signing_key.load(Path(settings.key))
        except signing_key.KeyUnusable as error:
            raise CannotJoin(str(error)) from error
        tls = None
        if settings.tls_ca:
            tls = tls_context(Path(settings.tls_ca), Path(settings.tls_certificate), Path(settings.tls_key))
        etcd = Etcd(settings.endpoints, tls, settings.request_seconds)
        self.board = Board(etcd, f"/rootsrv/v1/{settings.service}/", _boottime)
        self.fleet = Fleet(
            settings.service,
            RosterBook(settings.service, settings.roster_keys),
            Path(config.state.directory) / "mesh" / "roster",
        )
        self.tokens = TokenKeeper(self.board, settings.member, _boottime)
        self.leader = Leader(self.board, self.fleet, settings.member, self._sign)
        self._now = Now(clock.validity_now(), _boottime(), False)
        self._epoch = self._now.wall
        self._seq = 0
        self._subjects: dict[str, Subject] = {}
        """What was staged last, by zone: whether others switched to it may be asked after it went into service."""

        self._said: dict[str, Any] = {}
        self._status: dict[str, Any] = {}
        self._status_said_at = float("-inf")
        self._roster_read_at = float("-inf")
        self._gathered_at = float("-inf")
        self._maintain = "not asked yet"
        """Why maintain cannot be asked; empty = it can."""

    @property
    def me(self) -> Member | None:
        """Our line in the roster."""
        return None if self.fleet.roster is None else self.fleet.roster.find(self._settings.member)

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set."""
        self.fleet.recall()
        path = self._runtime / "mesh.sock"
        control = await ControlServer(self._commands()).listen(path)
        tasks = [
            asyncio.create_task(persistently("board", self.board.run), name="board"),
            asyncio.create_task(persistently("tokens", self._keep_tokens), name="tokens"),
            asyncio.create_task(persistently("turns", self._turns), name="turns"),
        ]
        service_manager.ready("in the mesh")
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            control.close()
            path.unlink(missing_ok=True)
            self.board.etcd.close()

    async def _keep_tokens(self) -> None:
        await self.tokens.run(
            lambda: self.fleet.book.floors(self._settings.member, _boottime()) if self.me else (),
            lambda: self.fleet.timing.token,
            lambda group, reason: self._sign("floor", self._epoch, self._next(), {"group": group, "reason": reason}),
            lambda group: tuple(m.name for m in self.fleet.roster.members_of(group)) if self.fleet.roster else (),
        )

    async def _turns(self) -> None:
        while True:
            self.board.changed.clear()
            await self._turn()
            service_manager.alive()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN_SECONDS):
                    await self.board.changed.wait()

    async def _turn(self) -> None:
        self._read_roster_file()
        while self.board.dirty:
            key = self.board.dirty.pop()
            had = self.fleet.roster
            self.fleet.take(key, self.board.entries.get(key), self._now)
            if self.fleet.roster is not had:
                self.board.dirty |= set(self.board.entries) - {key}
        told = await self._exchange()
        if told is not None:
            self._publish(told)
        if self.me is not None and self.me.distribution_host:
            await self.leader.turn(self._now, frozenset(self.fleet.statuses))
        await self._gather()

    def _read_roster_file(self) -> None:
        now = _boottime()
        if not self._settings.roster or now - self._roster_read_at < _ROSTER_FILE_SECONDS:
            return
        self._roster_read_at = now
        with contextlib.suppress(OSError):
            if self.fleet.offer_roster(Path(self._settings.roster).read_bytes(), now, self._settings.roster):
                self.board.dirty |= set(self.board.entries)

    # ── maintain ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _exchange(self) -> Mapping[str, Any] | None:
        """Tell maintain what is known of the others, and hear what there is to say of us."""
        try:
            request = {"command": "mesh", "told": self._known()}
            told = await client.ask(self._runtime / "maintain.sock", request, timeout=2.0)
        except NoAnswer as error:
            if not self._maintain:
                log.alarm("maintain does not answer", reason=error)
            self._maintain = str(error)
            self._now = Now(clock.validity_now(), _boottime(), self._now.synchronised)
            return None
        self._maintain = ""
        self._now = Now(float(told["wall"]), float(told["boottime"]), bool(told["synchronised"]))
        return told

    def _known(self) -> dict[str, Any]:
        me, roster = self.me, self.fleet.roster
        done = None if self.board.gone else self.fleet.done
        name = self._settings.member
        silence = []
        for subject in self._subjects.values():
            silent = may_fall_silent(subject, name, roster, done)
            silence.append({**subject.to_content(), "allowed": silent.allowed, "why": silent.why})
        return {
            "timing": asdict(self.fleet.timing),
            "canary": me is not None and me.canary,
            "wave": 0 if roster is None else roster.wave_of(name),
            "orders": [_order(each) for zone in self.fleet.orders.values() for each in zone] if me else [],
            "verdicts": [_verdict(each) for each in self.fleet.verdicts] if me else [],
            "canaries_failed": [
                {**each.to_content(), "failed": self.fleet.canaries_failed(each)} for each in self._subjects.values()
            ],
            "silence": silence,
            "engine": self.board.gone,
        }

    def _publish(self, told: Mapping[str, Any]) -> None:
        name = self._settings.member
        for each in told["ready"]:
            subject = Subject(each["zone"], each["serial"], each["digest"])
            self._subjects[subject.zone] = subject
            self._say(f"member/{name}/ready", subject.to_content())
            if self.me is not None and self.me.distribution_host:
                self.leader.verified(subject)
        outcome = told["outcome"]
        if outcome is not None:
            self._say(f"member/{name}/done", {**outcome["subject"], **{k: outcome[k] for k in _OUTCOME}})

    def _say(self, key: str, content: dict[str, Any]) -> None:
        if self._said.get(key) != content:
            self._said[key] = content
            self.board.publish(key, self._sign(key, self._epoch, self._next(), content))

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _sign(self, key: str, epoch: float, seq: int, content: Mapping[str, Any]) -> bytes:
        envelope = Envelope(key, self._settings.member, epoch, seq, self._now.wall, _NEVER, content)
        return seal(envelope, self._settings.service, self._key)

    # ── status ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _gather(self) -> None:
        """What all roles here tell, once a second; published when it changed."""
        now = _boottime()
        if now - self._gathered_at < 1.0:
            return
        self._gathered_at = now
        found: dict[str, Any] = {"version": rootsrv.__version__, "synchronised": self._now.synchronised}
        with contextlib.suppress(NoAnswer):
            told = await client.ask(self._runtime / "maintain.sock", {"command": "status"}, timeout=2.0)
            found |= {
                "configuration": told["configuration_digest"],
                "clock": told["clock"],
                "serials": {each["name"]: each["served"] for each in told["zones"]},
                "scheduled": {each["name"]: each["scheduled"] for each in told["zones"] if each["scheduled"]},
                "alarms": told["alarms"][:8],
            }
            for each in told["zones"]:
                if each["received"] not in {None, each["served"], each["scheduled"]}:
                    self.leader.received(each["name"], each["received"])
        if self._config.anycast is not None:
            with contextlib.suppress(NoAnswer):
                told = await client.ask(self._runtime / "advertise.sock", {"command": "status"}, timeout=2.0)
                found["routes"] = {str(each["ip_version"]): each["route"] for each in told["families"]}
        changed = found != self._status
        if now - self._status_said_at >= STATUS_SECONDS[0 if changed else 1]:
            self._status, self._status_said_at = found, now
            key = f"member/{self._settings.member}/status"
            self.board.publish(key, self._sign(key, self._epoch, self._next(), found))

    # ── mesh.sock ───────────────────────────────────────────────────────────────────────────────────────────────

    def _commands(self) -> Commands:
        return {
            "status": Command(self._do_status, Nothing, changes=False),
            "floor": Command(self._do_floor, FloorOrder, changes=False),
            "order": Command(_refusing(self._do_order), SignedOrder, longest_octets=_LONGEST_SIGNED_OCTETS),
            "roster": Command(_refusing(self._do_roster), Nothing, longest_octets=_LONGEST_SIGNED_OCTETS),
        }

    async def _do_floor(self, order: Order[FloorOrder]) -> Mapping[str, Any]:
        """Whether a withdrawal for a cause that can wait may rest on a token; `want` says for what one is wanted."""
        self.tokens.want(order.wanted.want[:200])
        floors = self.fleet.book.floors(self._settings.member, _boottime()) if self.me else ()
        seconds = 0.0 if self.board.gone and not self.tokens.counts(floors) else self.tokens.counts_seconds(floors)
        why = self.tokens.why
        if self.me is None:
            why = "no roster lists this member"
        elif self.board.gone:
            why = f"the engine is gone: {self.board.gone}"
        return {
            "token": seconds > 0,
            "counts_seconds": round(seconds, 3),
            "counts_in_seconds": self.tokens.counts_in_seconds(),
            "why": why,
            "holders": self._holders(),
        }

    def _holders(self) -> list[dict[str, str]]:
        """Who holds tokens of our floors, as they sign it; for people only."""
        if self.fleet.roster is None:
            return []
        keys = self.fleet.roster.keys_of(each.name for each in self.fleet.roster.member)
        found = []
        for key, entry in self.board.entries.items():
            if key.startswith("floor/"):
                try:
                    said = open_envelope(
                        entry.value, service=self._settings.service, key="floor", writers=keys, now=None
                    )
                    found.append({"slot": key, "member": said.sender, "reason": str(said.content.get("reason", ""))})
                except EnvelopeRefused as error:
                    found.append({"slot": key, "member": "?", "reason": str(error)})
        return found

    async def _do_order(self, order: Order[SignedOrder]) -> Mapping[str, Any]:
        """Put an operator's order, which he has signed, on the board."""
        octets, key = order.octets, order.wanted.key
        if self.fleet.roster is None:
            raise Refused("no roster is in force")
        envelope = open_envelope(
            octets,
            service=self._settings.service,
            key=key,
            writers=self.fleet.roster.operator_keys(),
            now=self._now.wall,
        )
        verdict = Verdict.of(envelope)
        await self.board.write(key, octets, int(self.fleet.timing.hold))
        return {"decision": verdict.decision.value, "serial": verdict.subject.serial, "by": verdict.by}

    async def _do_roster(self, order: Order[Nothing]) -> Mapping[str, Any]:
        """Put a roster on the board, if it may replace the one in force."""
        octets = order.octets
        if self.fleet.adopt_roster(octets, _boottime(), "operator"):
            self.board.dirty |= set(self.board.entries)
        await self.board.write("roster", octets)
        assert self.fleet.roster is not None
        return {"version": self.fleet.roster.version}

    async def _do_status(self, _: Order[Nothing]) -> Mapping[str, Any]:
        """Everything that is known of the mesh."""
        roster, now = self.fleet.roster, self._now
        lead = self.board.entries.get(LEAD)
        return {
            "role": "mesh",
            "pid": os.getpid(),
            "version": rootsrv.__version__,
            "service": self._settings.service,
            "member": self._settings.member,
            "public_key": public_text(self._key),
            "now": instant.to_text(now.wall),
            "synchronised": now.synchronised,
            "engine": {
                "there": not self.board.gone,
                "reason": self.board.gone,
                "endpoint": self.board.etcd.endpoint,
                "since_seconds": round(now.boottime - self.board.since, 1),
                "keys": len(self.board.entries),
            },
            "maintain": self._maintain or "answers",
            "failing": dict(failing),
            "roster_version": None if roster is None else roster.version,
            "hold_seconds": self.fleet.timing.hold,
            "operators": {}
            if roster is None
            else {public_text(key): name for name, key in roster.operator_keys().items()},
            "refused": self.fleet.refused,
            "leads": self.leader.leads,
            "leader_elected": lead is not None,
            "distribution": [
                {
                    "zone": each.zone,
                    "state": each.stand.value,
                    "reason": each.reason,
                    "serial": each.subject.serial if each.subject else None,
                }
                for each in self.leader.distributions.values()
            ],
            "orders": [_order(each) for zone in self.fleet.orders.values() for each in zone[-3:]],
            "verdicts": [_verdict(each) for each in self.fleet.verdicts[-8:]],
            "tokens": self._holders(),
            "members": [self._member(each) for each in roster.member] if roster is not None else [],
            "groups": [
                {"name": each.name, "k": each.k, "n": len(roster.members_of(each.name))} for each in roster.group
            ]
            if roster is not None
            else [],
        }

    def _member(self, member: Member) -> dict[str, Any]:
        status = self.fleet.statuses.get(member.name)
        ready, done = self.fleet.ready.get(member.name), self.fleet.done.get(member.name)
        return {
            "name": member.name,
            "site": member.site,
            "group": member.group,
            "cluster": member.cluster,
            "canary": member.canary,
            "distribution_host": member.distribution_host,
            "present": status is not None,
            "age_seconds": None if status is None else round(self._now.wall - status.sent, 1),
            "status": {} if status is None else dict(status.content),
            "ready": None if ready is None else ready.to_content(),
            "done": None if done is None else {**done.subject.to_content(), "ok": done.ok, "reason": done.reason},
            "flipped_at": self.fleet.flipped_at.get(member.name),
        }


_OUTCOME = ("ok", "reason", "flipped_at", "confirm_seconds")


def _group(roster: Roster, group: Group) -> dict[str, Any]:
    return {"name": group.name, "k": group.k, "n": len(roster.members_of(group.name))}


def _order(order: Any) -> dict[str, Any]:
    return {**order.to_content(), "by": order.by, "epoch": order.epoch, "seq": order.seq}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {**verdict.to_content(), "by": verdict.by, "sent": verdict.sent}
