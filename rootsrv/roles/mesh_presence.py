"""What a member's role mesh consists of: its key, the board, what it knows of the others, and what it says itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.config.mesh import MeshConfig
from rootsrv.engine import signing_key
from rootsrv.engine.board import Board
from rootsrv.engine.etcd import Etcd, tls_context
from rootsrv.engine.fleet import Fleet
from rootsrv.engine.leader import Leader
from rootsrv.engine.tokens import TokenKeeper
from rootsrv.mesh.envelope import FUTURE_SECONDS, Envelope, EnvelopeRefused, open_envelope, seal
from rootsrv.mesh.member import Now
from rootsrv.mesh.roster import Member, Roster, RosterBook
from rootsrv.mesh.transfers import Partners, partners
from rootsrv.process import clock, log
from rootsrv.roles.outside_look import OutsideLook

_NEVER = 2.0**52

_STEP_SECONDS = 1.0
"""A clock that moved by more since the epoch was taken was not right then, or is not now."""


class CannotJoin(Exception):
    """The role cannot be started; the text names the cause."""


def boottime() -> float:
    """CLOCK_BOOTTIME, seconds."""
    return clock.boottime_ns() / 1e9


class Presence:
    """This member in the mesh."""

    def __init__(self, config: Config, settings: MeshConfig) -> None:
        """CannotJoin if its key cannot be used."""
        self.config = config
        self.settings = settings
        self.runtime = Path(config.state.runtime_directory)
        try:
            self.key = signing_key.load(Path(settings.key))
        except signing_key.SigningKeyUnusable as error:
            raise CannotJoin(str(error)) from error
        tls = None
        if settings.tls_ca:
            tls = tls_context(Path(settings.tls_ca), Path(settings.tls_certificate), Path(settings.tls_key))
        etcd = Etcd(settings.endpoints, tls, settings.request_seconds)
        self.board = Board(etcd, f"/rootsrv/v1/{settings.service}/", boottime)
        self.fleet = Fleet(
            settings.service,
            RosterBook(settings.service, settings.roster_keys),
            Path(config.state.directory) / "mesh" / "roster",
        )
        self.tokens = TokenKeeper(self.board, settings.member, boottime)
        self.leader = Leader(self.board, self.fleet, settings.member, self.sign)
        self.outside = OutsideLook(settings.outside, config.admin.addresses)
        self.now = Now(clock.validity_now(), boottime(), False)
        self.maintain = "not asked yet"
        """Why maintain cannot be asked; empty = it can."""

        self.partners_told = ""
        """Which version of `partners` maintain has; empty = none."""

        self._partners: tuple[Roster | None, Partners] = None, Partners()
        self._epoch = self._highest = self.now.wall
        """Of what we say, and the highest that there was."""

        self._offset = self._offset_now
        """Of the clocks when the epoch was taken."""

        self._seq = 0
        self._said: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """As in the roster."""
        return self.settings.member

    @property
    def me(self) -> Member | None:
        """Our line in the roster."""
        return None if self.fleet.roster is None else self.fleet.roster.find(self.name)

    @property
    def partners(self) -> Partners:
        """To whom zones go and from whom they come, by the roster in force."""
        roster, me = self.fleet.roster, self.me
        if roster is not self._partners[0]:
            found = Partners()
            if roster is not None and me is not None:
                try:
                    found = partners(roster, me, self.key)
                except ConfigError as error:
                    log.alarm("no transfers by the roster", reason=error)
            self._partners = roster, found
        return self._partners[1]

    def floors(self) -> tuple[tuple[str, int], ...]:
        """Groups of whose tokens we need one, with their k."""
        return self.fleet.book.floors(self.name, boottime()) if self.me else ()

    def wall(self) -> float:
        """The time as maintain trusts it, at this moment: seconds since 1970."""
        return self._offset_now + boottime()

    @property
    def _offset_now(self) -> float:
        return self.now.wall - self.now.boottime

    def look_at_clock(self) -> None:
        """Take another epoch if the clock was stepped: by one from before the time was known nobody is heard.

        Others refuse what is older than what we said before (Freshness), as everything is that a machine says which
        had no time when this role began.  What stands on the board is said again.
        """
        wall = self.now.wall
        stepped = abs(self._offset_now - self._offset) > _STEP_SECONDS
        overtaken = self._epoch < self._highest <= wall
        if not stepped and not overtaken:
            return
        self._offset = self._offset_now
        if self._epoch <= wall or self._epoch > wall + FUTURE_SECONDS:  # what is so far ahead was refused everywhere
            self._epoch = wall
            self._highest = max(self._highest, wall)
            self._said.clear()

    def say(self, key: str, content: dict[str, Any], *, again: bool = False) -> None:
        """Have *content* stand under *key*, if it does not, or *again*."""
        if again or self._said.get(key) != content:
            self._said[key] = content
            self.board.publish(key, self.sign_now(key, content))

    def sign_now(self, key: str, content: Mapping[str, Any]) -> bytes:
        """An envelope with the next number."""
        self._seq += 1
        return self.sign(key, self._epoch, self._seq, content)

    def sign(self, key: str, epoch: float, seq: int, content: Mapping[str, Any]) -> bytes:
        """An envelope of ours."""
        envelope = Envelope(key, self.name, epoch, seq, self.now.wall, _NEVER, content)
        return seal(envelope, self.settings.service, self.key)

    def holders(self) -> list[dict[str, str]]:
        """Who holds tokens of our floors, as they sign it; for people only."""
        if self.fleet.roster is None:
            return []
        keys = self.fleet.roster.keys_of(each.name for each in self.fleet.roster.member)
        found = []
        for key, entry in self.board.entries.items():
            if key.startswith("floor/"):
                try:
                    said = open_envelope(
                        entry.value, service=self.settings.service, key="floor", writers=keys, now=None
                    )
                    found.append({"slot": key, "member": said.sender, "reason": str(said.content.get("reason", ""))})
                except EnvelopeRefused as error:
                    found.append({"slot": key, "member": "?", "reason": str(error)})
        return found
