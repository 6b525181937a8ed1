"""What the control socket of *advertise* does: status, drain, undrain, withdraw."""

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rootsrv
from rootsrv.anycast import wishes
from rootsrv.anycast.controller import Controller, Family
from rootsrv.anycast.floor_watch import FloorWatch
from rootsrv.anycast.witness import boottime
from rootsrv.control.protocol import Command, Commands, Nothing, Order, Refused
from rootsrv.health.state import Announcement, Wish
from rootsrv.zone import instant

_WISHES = {"drain": Wish.DRAIN, "undrain": Wish.SERVE, "withdraw": Wish.WITHDRAW}


@dataclass(frozen=True, slots=True, kw_only=True)
class WishOrder:
    """`drain`, `undrain` and `withdraw`."""

    versions: tuple[int, ...] = ()
    """IP versions; none = all that are announced."""

    reason: str = ""
    force: bool = False
    """In a mesh: without a token, whoever else is withdrawn."""


class RouteControl:
    """Carries out what the operator asks of the controller."""

    def __init__(self, controller: Controller, standing: wishes.Orders) -> None:
        self._controller = controller
        self._standing = standing

    def commands(self) -> Commands:
        """What can be asked."""

        async def status(_: Order[Nothing]) -> Mapping[str, Any]:
            return self.status()

        def wishing(wish: Wish) -> Command[WishOrder]:
            return Command(lambda order: self._wish(wish, order), WishOrder)

        return {
            "status": Command(status, Nothing, changes=False),
            **{name: wishing(wish) for name, wish in _WISHES.items()},
        }

    async def _wish(self, wish: Wish, order: Order[WishOrder]) -> Mapping[str, Any]:
        announced = tuple(family.version for family in self._controller.families)
        versions = order.wanted.versions or announced
        if not set(versions) <= set(announced):
            raise Refused(f"versions: must be some of {', '.join(map(str, announced))}, got {list(versions)}")
        # In a thread: a disk that hangs must not keep the controller from renewing its promise.
        wanted = order.wanted
        await asyncio.to_thread(
            self._standing.give, versions, wish, wanted.reason, str(order.caller), force=wanted.force
        )
        return self.status()

    def status(self) -> dict[str, Any]:
        """What the controller knows, decided and did."""
        return {
            "role": "advertise",
            "pid": os.getpid(),
            "version": rootsrv.__version__,
            "families": [_family(each, self._standing[each.version]) for each in self._controller.families],
            "floor": _floor(self._controller.floor),
            "files": [self._standing.file.as_document()],
        }


def _floor(watch: FloorWatch | None) -> dict[str, Any] | None:
    """Whether a token of the mesh's floor is held, and who holds the others; None: there is no mesh."""
    if watch is None:
        return None
    return {
        "token": watch.observe().token,
        "why": watch.why,
        "counts_in_seconds": watch.counts_in_seconds,
        "holders": watch.holders,
    }


def _family(family: Family, order: wishes.FamilyWish) -> dict[str, Any]:
    now = boottime()
    health = family.health
    return {
        "ip_version": family.version,
        "prefix": family.route.prefix,
        "state": health.state.value,
        "announced": health.announcement is not Announcement.WITHDRAWN,
        "route": health.announcement.value,
        "since": instant.to_text(time.time() - (now - health.since)),
        "since_seconds": round(now - health.since, 1),
        "reason": health.reason,
        "next": health.outlook(now),
        "order": order.wish.value,
        "order_reason": order.reason,
        "order_by": order.by,
        "order_since": instant.to_text(order.since) if order.since else None,
        "promise_seconds": round(health.promise(now), 1),
        "hold_down_seconds": round(health.hold_down_left(now), 1),
        "withdrawals": health.flaps.withdrawals,
        "changes": [
            {"route": announcement.value, "reason": cause.value, "count": number}
            for (announcement, cause), number in health.changes.items()
        ],
        "anchor_held": family.held,
        "fault": family.fault,
        "confirmed": family.reading.confirmed and family.reading.wanted is health.announcement,
        "bird": family.reading.detail,
        "sessions": dict(family.reading.sessions),
        "replies_per_second": round(family.traffic.rate(), 1),
        "probes": [str(probe) for probe in family.probes],
        "alarms": list(family.alarms),
    }
