"""What the control socket of *maintain* does: what an operator asks and orders about zones."""

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rootsrv.config.checks import ConfigError
from rootsrv.control.protocol import Command, Commands, Nothing, Order, Refused, Reply, refusing
from rootsrv.process.aside import aside
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.membership import subject_of
from rootsrv.secondary.preparation import is_beyond_us
from rootsrv.secondary.status import Status
from rootsrv.store.store import StoreFailed
from rootsrv.store.zone_file import MAX_ZONE_FILE_OCTETS
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import presentation
from rootsrv.zone.transfer import TransferFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneOrder:
    """`zone-list`, `zone-refresh`."""

    zone: str = ""
    """Domain name; empty = all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionOrder:
    """`zone-show`, `zone-approve`, `zone-reject`, `zone-export`."""

    zone: str = ""
    """Domain name; empty = the root."""

    serial: int | None = None
    """None = the one in service."""

    def __post_init__(self) -> None:
        if self.serial is not None and not 0 <= self.serial < 2**32:
            raise ConfigError(f"serial: must be 0..{2**32 - 1}, got {self.serial}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOrder:
    """`zone-import`: the file's octets follow."""

    zone: str = ""
    name: str = ""
    """What the file is called, for people."""

    now: bool = False
    """Do not wait for the set time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshOrder:
    """`mesh`."""

    told: dict[str, Any] | None = None
    """What the role mesh knows of the others."""


class ZoneControl:
    """Carries out what comes over the control socket."""

    def __init__(
        self, maintainer: Maintainer, status: Callable[[], Status], reload: Callable[[], tuple[bool, str]]
    ) -> None:
        self._maintainer = maintainer
        self._status = status
        self._reload = reload

    def commands(self) -> Commands:
        """What can be asked."""
        return {
            "status": Command(self._do_status, Nothing, changes=False),
            "reload": Command(self._do_reload, Nothing),
            "mesh": Command(self._do_mesh, MeshOrder, changes=False),
            "mesh-digest": Command(_refusing(self._do_mesh_digest), VersionOrder, changes=False),
            "zone-list": Command(_refusing(self._do_list), ZoneOrder, changes=False),
            "zone-show": Command(_refusing(self._do_show), VersionOrder, changes=False),
            "zone-refresh": Command(_refusing(self._do_refresh), ZoneOrder),
            "zone-approve": Command(_refusing(self._do_approve), VersionOrder),
            "zone-reject": Command(_refusing(self._do_reject), VersionOrder),
            "zone-import": Command(_refusing(self._do_import), ImportOrder, longest_octets=MAX_ZONE_FILE_OCTETS),
            "zone-export": Command(_refusing(self._do_export), VersionOrder, changes=False),
        }

    def _zone(self, name: str) -> ZoneKeeper:
        keepers = self._maintainer.zones.keepers
        name = name or self._maintainer.zones.root.name
        keeper = keepers.get(name) or keepers.get(f"{name}.")
        if keeper is None:
            raise Refused(f"there is no zone {name} (there are: {', '.join(keepers)})")
        return keeper

    def _zones(self, name: str) -> list[ZoneKeeper]:
        return [self._zone(name)] if name else list(self._maintainer.zones)

    async def _do_status(self, _: Order[Nothing]) -> Mapping[str, Any]:
        return asdict(self._status())

    async def _do_mesh(self, order: Order[MeshOrder]) -> Mapping[str, Any]:
        """What the role mesh tells of the others, and back what it may publish of us."""
        membership = self._maintainer.membership
        if membership is None:
            raise Refused("mesh: there is no such section in the configuration")
        if order.wanted.told is not None:
            try:
                membership.hear(order.wanted.told)
            except ValueError as error:
                raise Refused(f"mesh: {error}") from error
        return membership.to_document()

    async def _do_mesh_digest(self, order: Order[VersionOrder]) -> Mapping[str, Any]:
        """What a version is called in the mesh besides its serial: the one in service or a kept one."""
        keeper = self._zone(order.wanted.zone)
        contents = await keeper.contents(_serial(order.wanted.serial, keeper))
        return {"digest": (await aside(lambda: subject_of(keeper.name, contents))).digest}

    async def _do_reload(self, _: Order[Nothing]) -> Mapping[str, Any]:
        done, told = self._reload()
        if not done:
            raise Refused(told)
        return {"note": told}

    async def _do_list(self, order: Order[ZoneOrder]) -> Mapping[str, Any]:
        versions = []
        for keeper in self._zones(order.wanted.zone):
            for each in keeper.stored.versions():
                versions.append({**asdict(each), "state": _state(keeper, each.serial)})
        return {"versions": versions}

    async def _do_show(self, order: Order[VersionOrder]) -> Mapping[str, Any]:
        keeper = self._zone(order.wanted.zone)
        serial = _serial(order.wanted.serial, keeper)
        for each in keeper.stored.versions():
            if each.serial == serial:
                return {**asdict(each), "state": _state(keeper, serial)}
        raise Refused(f"zone {keeper.name}: serial {serial} is not kept")

    async def _do_refresh(self, order: Order[ZoneOrder]) -> Mapping[str, Any]:
        for keeper in self._zones(order.wanted.zone):
            if not keeper.sources:
                raise Refused(f"zone {keeper.name} has no primary")
            keeper.ask_all()
        return {}

    async def _do_approve(self, order: Order[VersionOrder]) -> Mapping[str, Any]:
        keeper = self._zone(order.wanted.zone)
        serial = _serial(order.wanted.serial, keeper)
        if serial not in keeper.life.held:
            raise Refused(f"zone {keeper.name}: serial {serial} is not held (held: {_list(keeper.life.held)})")
        if is_beyond_us(keeper.life.held[serial].reasons):
            raise Refused(f"zone {keeper.name}: serial {serial}: {'; '.join(keeper.life.held[serial].reasons)}")
        await self._maintainer.approve(keeper, serial)
        return {}

    async def _do_reject(self, order: Order[VersionOrder]) -> Mapping[str, Any]:
        keeper = self._zone(order.wanted.zone)
        serial = _serial(order.wanted.serial, keeper)
        if serial not in keeper.life.held:
            raise Refused(f"zone {keeper.name}: serial {serial} is not held (held: {_list(keeper.life.held)})")
        self._maintainer.reject(keeper, serial)
        return {}

    async def _do_import(self, order: Order[ImportOrder]) -> Mapping[str, Any]:
        """Answers when the zone is in service, scheduled or held, or was rejected."""
        keeper = self._zone(order.wanted.zone)
        name, now = order.wanted.name or "import", order.wanted.now
        serial, wrong = await self._maintainer.import_zone(keeper, order.octets, name, now=now)
        if wrong:
            raise Refused(wrong)
        while True:
            if keeper.life.serving is not None and keeper.life.serving.serial == serial:
                return {"serial": serial, "state": "served"}
            if serial in keeper.life.held:
                return {"serial": serial, "state": "held", "reasons": list(keeper.life.held[serial].reasons)}
            if keeper.life.last_rejection.startswith(f"{serial} from "):
                raise Refused(keeper.life.last_rejection)
            if keeper.life.scheduled is not None and keeper.life.scheduled.serial == serial and not now:
                at = self._maintainer.switchover.activate_at
                if at is not None:
                    return {"serial": serial, "state": "scheduled", "activate_at": at}
            if keeper.life.waiting is not None and keeper.life.waiting.serial == serial:
                return {"serial": serial, "state": "waiting for a root zone that it fits"}
            if keeper.life.serving is not None and serial_is_newer(keeper.life.serving.serial, serial):
                raise Refused(f"serial {serial} was overtaken by {keeper.life.serving.serial}")
            if not keeper.life.is_under_way(serial):
                # Put off, displaced by newer deliveries, or the reason was overtaken by another one's.
                state = self._maintainer.switchover
                why = f"switchover {state.state}: {state.reason}" if state.reason else "another delivery took its place"
                raise Refused(f"serial {serial} is not under way any more ({why}); see the journal")
            await asyncio.sleep(0.02)

    async def _do_export(self, order: Order[VersionOrder]) -> Reply:
        keeper = self._zone(order.wanted.zone)
        contents = await keeper.contents(order.wanted.serial)
        octets = await aside(lambda: presentation.to_text(contents).encode())
        return Reply({"serial": contents.serial, "records": contents.record_count}, octets)


_refusing = functools.partial(refusing, faults=(StoreFailed, TransferFailed, OSError))


def _serial(serial: int | None, keeper: ZoneKeeper) -> int:
    if serial is not None:
        return serial
    if keeper.life.serving is None:
        raise Refused(f"zone {keeper.name}: none is in service; name a serial")
    return keeper.life.serving.serial


def _state(keeper: ZoneKeeper, serial: int) -> str:
    """What has become of a kept version."""
    if keeper.life.serving is not None and keeper.life.serving.serial == serial:
        return "served"
    if keeper.life.scheduled is not None and keeper.life.scheduled.serial == serial:
        return "scheduled"
    if serial in keeper.life.held:
        return "held"
    if keeper.life.serving is not None and serial_is_newer(keeper.life.serving.serial, serial):
        return "retired"
    return "kept"


def _list(serials: Any) -> str:
    return ", ".join(map(str, serials)) or "none"
