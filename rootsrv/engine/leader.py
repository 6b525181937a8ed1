"""A distribution host in office: elected by a lease, it writes what the machine (mesh/host.py) says."""

from collections.abc import Callable, Mapping
from typing import Any

from rootsrv.engine.board import Board
from rootsrv.engine.etcd import EngineGone
from rootsrv.engine.fleet import Fleet
from rootsrv.mesh.host import Alarm, BoardView, Distribution, Stand, WriteOffer, WriteOrder
from rootsrv.mesh.member import Now
from rootsrv.mesh.orders import Subject, set_time_content
from rootsrv.process import log

LEAD = "lead"

LEASE_SECONDS = 6
"""After so long without its leader another host takes over."""

_KEEP_SECONDS = 2.0


class Leader:
    """Runs for office, and leads while it is in it."""

    def __init__(
        self, board: Board, fleet: Fleet, member: str, sign: Callable[[str, float, int, Mapping[str, Any]], bytes]
    ) -> None:
        """*sign*: an envelope for a key, of an epoch and seq, with a content."""
        self._board = board
        self._fleet = fleet
        self._member = member
        self._sign = sign
        self.distributions: dict[str, Distribution] = {}
        self.leads = False
        self._epoch = 0.0
        self._seq = 0
        self._lease = 0
        self._revision = 0
        self._kept_at = float("-inf")
        self._pending: list[tuple[str, bytes]] = []

    def verified(self, subject: Subject) -> None:
        """Our own maintain has verified and staged it."""
        zone = self.distributions.setdefault(subject.zone, Distribution(subject.zone))
        if zone.subject != subject:
            zone.verified(subject)
            if self.leads:
                self._adopt(zone)

    def received(self, zone: str, serial: int) -> None:
        """Our own maintain has something newer, and does not know yet what it is worth."""
        self.distributions.setdefault(zone, Distribution(zone)).received(serial)

    async def turn(self, now: Now, present: frozenset[str]) -> None:
        """Run for office, or lead."""
        try:
            await self._campaign(now)
            if not self.leads:
                return
            for zone in self.distributions.values():
                self._advance(zone, now, present)
            while self._pending:
                key, octets = self._pending[0]
                await self._board.write(key, octets)
                self._pending.pop(0)
        except EngineGone as error:
            self._ends(f"the engine is gone: {error}")

    def _advance(self, zone: Distribution, now: Now, present: frozenset[str]) -> None:
        roster = self._fleet.roster
        if roster is None or zone.subject is None:
            return
        before = zone.stand
        seen = BoardView(
            ready=self._fleet.ready,
            done=self._fleet.done,
            present=present,
            canaries_failed_before=self._fleet.canaries_failed_before(zone.subject),
        )
        for effect in zone.advance(seen, roster, now.wall):
            match effect:
                case WriteOffer(subject):
                    self._write(f"zone/{zone.zone}/offer", subject.to_content())
                case WriteOrder(subject, stage, at, reason, canaries_at):
                    content = set_time_content(subject, stage, at, reason, canaries_at)
                    self._write(f"zone/{zone.zone}/order", content)
                case Alarm(text):
                    log.alarm("distribution", zone=zone.zone, text=text)
        if zone.stand is not before:
            log.event("distribution", zone=zone.zone, serial=zone.subject.serial, state=f"{before}->{zone.stand}",
                      reason=zone.reason)  # fmt: skip

    def _write(self, key: str, content: Mapping[str, Any]) -> None:
        self._seq += 1
        self._pending.append((key, self._sign(key, self._epoch, self._seq, content)))

    async def _campaign(self, now: Now) -> None:
        etcd, prefix = self._board.etcd, self._board.prefix
        if self._board.gone or self._fleet.roster is None:
            self._ends(self._board.gone or "there is no roster")
            return
        entry = self._board.entries.get(LEAD)
        if self.leads:
            if now.boottime - self._kept_at < _KEEP_SECONDS:
                return
            sent = now.boottime
            ttl = await etcd.keep_alive(self._lease)
            mine = await etcd.get(prefix + LEAD)
            if ttl <= 0 or mine is None or mine.create_revision != self._revision:
                self._ends("the lease is over, or the key is gone")
            self._kept_at = sent
            return
        if entry is not None:
            # A key that was not left by an election would keep everybody out of office.
            if not entry.lease or not self._fleet.is_signed_by_a_host(LEAD, entry):
                log.security("false leader removed", lease=entry.lease)
                await self._board.remove(LEAD)
            return
        if not now.synchronised:
            # A set time by a clock that nobody vouches for, and an epoch before the last one's, that nobody obeys.
            return
        epoch = now.wall
        lease = await etcd.grant(LEASE_SECONDS)
        revision = await etcd.create(prefix + LEAD, self._sign(LEAD, epoch, 0, {"leader": self._member}), lease)
        if revision is None:
            await etcd.revoke(lease)
            return
        self.leads, self._epoch, self._seq = True, epoch, 0
        self._lease, self._revision, self._kept_at = lease, revision, now.boottime
        log.event("elected", member=self._member)
        for zone in self.distributions.values():
            self._adopt(zone)

    def _adopt(self, zone: Distribution) -> None:
        """Go on from what the leader before wrote."""
        offer = self._fleet.offers.get(zone.zone)
        if zone.subject is not None and offer is not None and offer[0] == zone.subject:
            orders = [each for each in self._fleet.orders.get(zone.zone, ()) if each.subject == zone.subject]
            zone.adopt(offer[1], orders[-1] if orders else None)

    def _ends(self, why: str) -> None:
        if self.leads:
            log.alarm("leads no more", member=self._member, reason=why)
        self.leads = False
        self._pending.clear()
        for zone in self.distributions.values():
            if zone.subject is not None and zone.stand not in (Stand.SETTLED, Stand.VOID):
                zone.stand = Stand.VERIFIED
