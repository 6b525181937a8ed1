"""The controller's status socket: status, drain, undrain, withdraw."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rootsrv
from rootsrv.anycast.controller import Controller, Family
from rootsrv.anycast.floor_watch import FloorWatch
from rootsrv.anycast.wishes import Order, Orders, WishNotKept
from rootsrv.anycast.witness import boottime
from rootsrv.control import status_socket
from rootsrv.health.state import Announcement, Wish
from rootsrv.process import log
from rootsrv.zone import instant

_WISHES = {"drain": Wish.DRAIN, "undrain": Wish.SERVE, "withdraw": Wish.WITHDRAW}
_LONGEST_REQUEST_OCTETS = 65_536
_LONGEST_REASON = 500


class BadRequest(Exception):
    """The request cannot be done; the text says why."""


class Control:
    """Answers the operator: one JSON object with `command` per line, one JSON object back for each."""

    def __init__(self, controller: Controller, orders: Orders) -> None:
        self._controller = controller
        self._orders = orders

    async def listen(self, path: Path) -> asyncio.Server:
        """Listen on the Unix socket *path* (owner and group only)."""
        return await status_socket.listen(self._serve, path, _LONGEST_REQUEST_OCTETS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async for line in reader:
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # gone, or a line beyond the limit
            pass
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict) or request.get("command") not in {"status", *_WISHES}:
                raise BadRequest(f"a line is a JSON object with a command: status, {', '.join(_WISHES)}")
            if request["command"] != "status":
                await self._order(request)
        except (ValueError, BadRequest, WishNotKept) as error:
            return {"error": str(error)}
        return self.status()

    async def _order(self, request: Mapping[str, Any]) -> None:
        announced = tuple(family.version for family in self._controller.families)
        versions = request.get("versions", list(announced))
        reason = request.get("reason", "")
        if not isinstance(versions, list) or not versions or not set(versions) <= set(announced):
            raise BadRequest(f"versions: must be some of {', '.join(map(str, announced))}, got {versions!r}")
        if not isinstance(reason, str) or len(reason) > _LONGEST_REASON:
            raise BadRequest(f"reason: must be a text of at most {_LONGEST_REASON} characters")
        wish, force = _WISHES[request["command"]], request.get("force") is True
        # In a thread: a disk that hangs must not keep the controller from renewing its promise.
        await asyncio.to_thread(self._orders.give, tuple(versions), wish, reason, force=force)
        facts: dict[str, Any] = {"order": request["command"], "versions": ",".join(map(str, versions))}
        if force:
            facts["force"] = True
        log.event("operator", **facts, reason=reason)

    def status(self) -> dict[str, Any]:
        """What the controller knows, decided and did."""
        return {
            "role": "advertise",
            "pid": os.getpid(),
            "version": rootsrv.__version__,
            "families": [_family(each, self._orders[each.version]) for each in self._controller.families],
            "floor": _floor(self._controller.floor),
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


def _family(family: Family, order: Order) -> dict[str, Any]:
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
