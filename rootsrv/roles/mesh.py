"""The role *mesh*: this instance in touch with the others, by way of the engine.  Nobody waits for it."""
# Theory of operation
# -------------------
#            ┌────────────── board.py: mirror of the service's keys ◀──────────────▶ etcd
#            ▼
#   fleet.py: what is signed by who may say it
#            │ orders, verdicts, whether others switched
#            ▼
#   maintain ◀──── this loop, each turn ────▶ publishes ready, done, status (mesh_status.py)
#            │ what is staged                 leader.py, on a distribution host
#            ▼
#   advertise ──▶ asks here (mesh_control.py: floor) whether a token counts: tokens.py
#
# The loop is told by events and turns at least every TURN_SECONDS.  An exception nobody expected ends one attempt.

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootsrv.config.file import Config
from rootsrv.control import client
from rootsrv.control.client import NoAnswer
from rootsrv.control.server import ControlServer
from rootsrv.mesh.member import Now
from rootsrv.mesh.orders import Subject
from rootsrv.process import clock, log, service_manager
from rootsrv.process.persistence import persistently
from rootsrv.roles import mesh_status
from rootsrv.roles.fleet_records import FleetRecords
from rootsrv.roles.mesh_control import MeshControl
from rootsrv.roles.mesh_presence import CannotJoin, Presence, boottime
from rootsrv.roles.outside_look import ASK_SECONDS
from rootsrv.wire.serial import is_serial

TURN_SECONDS = 0.25

STATUS_SECONDS = (5.0, 60.0)
"""A status that changed is published after the first, one that did not after the second."""

_ROSTER_FILE_SECONDS = 5.0
_OUTCOME = ("ok", "reason", "flipped_at", "confirm_seconds")


async def mesh(config: Config, path: Path, stop: asyncio.Event) -> None:
    """Be in touch until *stop* is set; CannotJoin or ConfigError if that cannot be begun."""
    if config.mesh is None:
        raise CannotJoin("mesh: there is no such section in the configuration")
    await MeshRole(Presence(config, config.mesh)).run(stop)


class MeshRole:
    """The loop."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._records = FleetRecords(presence, presence.config.report.service)
        self._subjects: dict[str, Subject] = {}
        """What was staged last, by zone: whether others switched to it may be asked after it went into service."""

        self._status: dict[str, Any] = {}
        self._status_said_at = float("-inf")
        self._roster_read_at = float("-inf")
        self._gathered_at = float("-inf")

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set."""
        presence = self._presence
        presence.fleet.recall(presence.now)
        path = presence.runtime / "mesh.sock"
        control = ControlServer(MeshControl(presence).commands())
        control.start(path)
        tasks = [
            asyncio.create_task(persistently("board", presence.board.run), name="board"),
            asyncio.create_task(persistently("tokens", self._keep_tokens), name="tokens"),
            asyncio.create_task(persistently("turns", self._turns), name="turns"),
            asyncio.create_task(persistently("records", self._records.run), name="records"),
            asyncio.create_task(persistently("outside", self._look_outside), name="outside"),
        ]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            control.close()
            presence.board.etcd.close()

    async def _keep_tokens(self) -> None:
        presence, fleet = self._presence, self._presence.fleet
        await presence.tokens.run(
            presence.floors,
            lambda: fleet.timing.token,
            lambda group, reason: presence.sign_now("floor", {"group": group, "reason": reason}),
            lambda group: tuple(m.name for m in fleet.roster.members_of(group)) if fleet.roster else (),
        )

    async def _look_outside(self) -> None:
        presence = self._presence
        while presence.outside.seen:
            served = [status.content.get("serials", {}).get(".") for status in presence.fleet.statuses.values()]
            serials = [each for each in served if is_serial(each)]
            ours = max(serials, key=serials.count, default=None)
            await presence.outside.look(ours, boottime())
            await asyncio.sleep(ASK_SECONDS)

    async def _turns(self) -> None:
        board = self._presence.board
        while True:
            board.changed.clear()
            await self._turn()
            service_manager.alive()
            service_manager.ready("in the mesh")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN_SECONDS):
                    await board.changed.wait()

    async def _turn(self) -> None:
        presence, board, fleet = self._presence, self._presence.board, self._presence.fleet
        self._read_roster_file()
        while board.dirty:
            key = board.dirty.pop()
            had = fleet.roster
            fleet.take(key, board.entries.get(key), presence.now)
            if fleet.roster is not had:
                board.dirty |= set(board.entries) - {key}
        told = await self._exchange()
        if told is not None:
            self._publish(told)
        if presence.me is not None and presence.me.distribution_host:
            await presence.leader.turn(presence.now, frozenset(fleet.statuses))
        await self._gather()

    def _read_roster_file(self) -> None:
        settings, board, now = self._presence.settings, self._presence.board, boottime()
        if not settings.roster or now - self._roster_read_at < _ROSTER_FILE_SECONDS:
            return
        self._roster_read_at = now
        with contextlib.suppress(OSError):
            if self._presence.fleet.offer_roster(Path(settings.roster).read_bytes(), now, settings.roster):
                board.dirty |= set(board.entries)

    async def _exchange(self) -> Mapping[str, Any] | None:
        """Tell maintain what is known of the others, and hear what there is to say of us."""
        presence = self._presence
        try:
            request = {"command": "mesh", "told": mesh_status.for_maintain(presence, self._subjects)}
            told = await client.ask(presence.runtime / "maintain.sock", request, timeout=2.0)
        except NoAnswer as error:
            if not presence.maintain:
                log.alarm("maintain does not answer", reason=error)
            presence.maintain = str(error)
            presence.now = Now(clock.validity_now(), boottime(), presence.now.synchronised)
            return None
        presence.maintain, presence.partners_told = "", str(told["partners"])
        presence.now = Now(float(told["wall"]), float(told["boottime"]), bool(told["synchronised"]))
        presence.look_at_clock()
        return told

    def _publish(self, told: Mapping[str, Any]) -> None:
        presence = self._presence
        for each in told["ready"]:
            subject = Subject(each["zone"], each["serial"], each["digest"])
            self._subjects[subject.zone] = subject
            made = {
                key: each[key] for key in ("table", "made_of") if key in each
            }  # one of an older version does not say
            presence.say(f"member/{presence.name}/ready", {**subject.to_content(), **made})
            if presence.me is not None and presence.me.distribution_host:
                presence.leader.verified(subject)
        outcome = told["outcome"]
        if outcome is not None:
            presence.say(f"member/{presence.name}/done", {**outcome["subject"], **{k: outcome[k] for k in _OUTCOME}})

    async def _gather(self) -> None:
        """What all roles here tell, looked at once a second; published when it changed."""
        now = boottime()
        if now - self._gathered_at < 1.0:
            return
        self._gathered_at = now
        found = await mesh_status.of_this_member(self._presence)
        changed = found != self._status
        if now - self._status_said_at >= STATUS_SECONDS[0 if changed else 1]:
            self._status, self._status_said_at = found, now
            self._presence.say(f"member/{self._presence.name}/status", found, again=True)
