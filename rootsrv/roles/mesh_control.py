"""What can be asked of the role mesh over its socket: floor, orders of operators, a new roster, status."""

import base64
import datetime
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rootsrv.control.protocol import Command, Commands, Nothing, Order, Refused, Reply, refusing
from rootsrv.engine.etcd import EngineGone
from rootsrv.mesh import maintenance
from rootsrv.mesh.envelope import Envelope, EnvelopeRefused, open_envelope
from rootsrv.mesh.maintenance import Maintenance
from rootsrv.mesh.orders import OperatorVerdict
from rootsrv.roles import mesh_status
from rootsrv.roles.fleet_records import LONGEST_RECORD_OCTETS, seal_record
from rootsrv.roles.mesh_presence import Presence, boottime

_LONGEST_SIGNED_OCTETS = 262_144

_KEPT_SECONDS = 7 * 86_400
"""So long a maintenance stays on the board after its end."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOrder:
    """`record`: our day's record follows; it comes back sealed."""

    day: str
    """YYYYMMDD."""

    request: str
    """What a distribution host has signed, in base64."""


_refusing = functools.partial(refusing, faults=(EngineGone, EnvelopeRefused))


class MeshControl:
    """Carries out what comes over mesh.sock."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def commands(self) -> Commands:
        """What can be asked."""
        return {
            "status": Command(self._do_status, Nothing, changes=False),
            "floor": Command(self._do_floor, FloorOrder, changes=False),
            "order": Command(_refusing(self._do_order), SignedOrder, longest_octets=_LONGEST_SIGNED_OCTETS),
            "record": Command(
                _refusing(self._do_record), RecordOrder, changes=False, longest_octets=LONGEST_RECORD_OCTETS
            ),
            "roster": Command(_refusing(self._do_roster), Nothing, longest_octets=_LONGEST_SIGNED_OCTETS),
        }

    async def _do_status(self, _: Order[Nothing]) -> Mapping[str, Any]:
        return mesh_status.document(self._presence)

    async def _do_floor(self, order: Order[FloorOrder]) -> Mapping[str, Any]:
        """Whether a withdrawal for a cause that can wait may rest on a token; `want` says for what one is wanted."""
        presence, tokens, gone = self._presence, self._presence.tokens, self._presence.board.gone
        tokens.want(order.wanted.want[:200])
        floors = presence.floors()
        seconds = 0.0 if gone and not tokens.counts(floors) else tokens.counts_seconds(floors)
        why = tokens.why
        if presence.me is None:
            why = "no roster lists this member"
        elif gone:
            why = f"the engine is gone: {gone}"
        return {
            "token": seconds > 0,
            "counts_seconds": round(seconds, 3),
            "counts_in_seconds": tokens.counts_in_seconds(),
            "why": why,
            "holders": presence.holders(),
        }

    async def _do_order(self, order: Order[SignedOrder]) -> Mapping[str, Any]:
        """Put an operator's order, which he has signed, on the board."""
        presence, octets, key = self._presence, order.octets, order.wanted.key
        if presence.fleet.roster is None:
            raise Refused("no roster is in force")
        envelope = open_envelope(
            octets,
            service=presence.settings.service,
            key=key,
            writers=presence.fleet.roster.operator_keys(),
            now=presence.now.wall,
        )
        if key.startswith("maintenance/"):
            return await self._announce(envelope, octets)
        verdict = OperatorVerdict.of(envelope)
        await presence.board.write(key, octets, int(presence.fleet.timing.hold))
        return {"decision": verdict.decision.value, "serial": verdict.subject.serial, "by": verdict.by}

    async def _do_record(self, order: Order[RecordOrder]) -> Reply:
        """Seal our day's record for the distribution host that has asked for it."""
        wanted = order.wanted
        try:
            day = datetime.datetime.strptime(wanted.day, "%Y%m%d").replace(tzinfo=datetime.UTC).date()
            request = base64.b64decode(wanted.request, validate=True)
        except ValueError as error:
            raise Refused(str(error)) from error
        return Reply({}, seal_record(self._presence, day, request, order.octets))

    async def _announce(self, envelope: Envelope, octets: bytes) -> Mapping[str, Any]:
        """Put a maintenance on the board, unless too many would be away at one time."""
        presence, new = self._presence, Maintenance.of(envelope)
        try:
            presence.fleet.may_maintain(new, presence.now)
        except maintenance.MaintenanceRefused as error:
            raise Refused(str(error)) from error
        left = max(0.0, new.end - presence.now.wall)
        await presence.board.write(envelope.key, octets, int(left) + _KEPT_SECONDS)
        return {"id": new.id, "by": new.by, "cancelled": new.cancelled}

    async def _do_roster(self, order: Order[Nothing]) -> Mapping[str, Any]:
        """Put a roster on the board, if it may replace the one in force."""
        presence, octets = self._presence, order.octets
        if presence.fleet.adopt_roster(octets, boottime(), "operator"):
            presence.board.dirty |= set(presence.board.entries)
        await presence.board.write("roster", octets)
        assert presence.fleet.roster is not None
        return {"version": presence.fleet.roster.version}
