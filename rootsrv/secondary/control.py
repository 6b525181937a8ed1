"""The control socket `maintain.sock`: what an operator asks and orders, a line of JSON each way."""
# Who may open the socket may do all of it: owner and group of the process (mode 0660), checked by the kernel.  A
# request is an object with `command`; the response is an object with `ok` and, if it did not work, `error` (but
# `status`, whose response is the Status document itself).

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rootsrv.control import status_socket
from rootsrv.process import log
from rootsrv.process.security import SecurityEvents
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.membership import subject_of
from rootsrv.secondary.preparation import is_beyond_us
from rootsrv.secondary.status import Status
from rootsrv.store.store import StoreFailed, write_atomically
from rootsrv.wire.serial import is_serial, serial_is_newer
from rootsrv.zone import presentation
from rootsrv.zone.transfer import TransferFailed

LONGEST_REQUEST_OCTETS = 65_536

Document = dict[str, Any]


class Refused(Exception):
    """The order cannot be carried out."""


class Control:
    """Carries out what comes over the control socket."""

    def __init__(
        self,
        maintainer: Maintainer,
        security: SecurityEvents,
        status: Callable[[], Status],
        reload: Callable[[], tuple[bool, str]],
    ) -> None:
        self._maintainer = maintainer
        self._security = security
        self._status = status
        self._reload = reload
        self._commands: dict[str, Callable[[Document], Awaitable[Document]]] = {
            "status": self._do_status,
            "reload": self._do_reload,
            "mesh": self._do_mesh,
            "mesh-digest": self._do_mesh_digest,
            "zone-list": self._do_list,
            "zone-show": self._do_show,
            "zone-refresh": self._do_refresh,
            "zone-approve": self._do_approve,
            "zone-reject": self._do_reject,
            "zone-import": self._do_import,
            "zone-export": self._do_export,
        }

    async def listen(self, path: Path) -> asyncio.Server:
        """Listen on the Unix socket *path*, for owner and group only."""
        return await status_socket.listen(self._converse, path, LONGEST_REQUEST_OCTETS)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asker = _asker(writer)
        try:
            async for line in reader:
                writer.write(json.dumps(await self._carry_out(line, asker)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):  # gone, or a line beyond the limit
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _carry_out(self, line: bytes, asker: str) -> Document:
        try:
            request = json.loads(line)
            command = self._commands[request["command"]]
        except (ValueError, KeyError, TypeError):
            self._security.note("control_refused", asker, "not a command")
            return _failed(f"a line is a JSON object with a command: {', '.join(sorted(self._commands))}")
        if request["command"] not in {"status", "mesh", "mesh-digest", "zone-list", "zone-show"}:
            order = " ".join(str(each) for each in request.values() if isinstance(each, str | int))
            log.event("control", by=asker, order=order)
        try:
            return await command(request)
        except (Refused, StoreFailed, TransferFailed, OSError) as error:
            return _failed(str(error))

    def _zone(self, request: Document) -> ZoneKeeper:
        name = request.get("zone") or self._maintainer.zones.root.name
        if not isinstance(name, str):
            raise Refused(f"zone: must be a name, got {name!r}")
        keeper = self._maintainer.zones.keepers.get(name) or self._maintainer.zones.keepers.get(f"{name}.")
        if keeper is None:
            raise Refused(f"there is no zone {name} (there are: {', '.join(self._maintainer.zones.keepers)})")
        return keeper

    async def _do_status(self, _: Document) -> Document:
        return asdict(self._status())

    async def _do_mesh(self, request: Document) -> Document:
        """What the role mesh tells of the others, and back what it may publish of us."""
        membership = self._maintainer.zones.membership
        if membership is None:
            raise Refused("mesh: there is no such section in the configuration")
        if "told" in request:
            try:
                membership.hear(request["told"])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise Refused(f"mesh: {type(error).__name__}: {error}") from error
        return {"ok": True, **membership.to_document()}

    async def _do_mesh_digest(self, request: Document) -> Document:
        """What a version is called in the mesh besides its serial: the one in service or a kept one."""
        keeper = self._zone(request)
        contents = self._maintainer.zones.contents(keeper, _serial(request, keeper))
        return {"ok": True, "digest": (await asyncio.to_thread(subject_of, keeper.name, contents)).digest}

    async def _do_reload(self, _: Document) -> Document:
        done, told = self._reload()
        return {"ok": True, "note": told} if done else _failed(told)

    async def _do_list(self, request: Document) -> Document:
        keepers = [self._zone(request)] if request.get("zone") else self._maintainer.zones.keepers.values()
        versions = []
        for keeper in keepers:
            for each in self._maintainer.zones.versions(keeper):
                versions.append({**asdict(each), "state": _state(keeper, each.serial)})
        return {"ok": True, "versions": versions}

    async def _do_show(self, request: Document) -> Document:
        keeper = self._zone(request)
        serial = _serial(request, keeper)
        for each in self._maintainer.zones.versions(keeper):
            if each.serial == serial:
                return {"ok": True, **asdict(each), "state": _state(keeper, serial)}
        raise Refused(f"zone {keeper.name}: serial {serial} is not kept")

    async def _do_refresh(self, request: Document) -> Document:
        keepers = [self._zone(request)] if request.get("zone") else list(self._maintainer.zones.keepers.values())
        for keeper in keepers:
            if not keeper.sources:
                raise Refused(f"zone {keeper.name} has no primary")
            keeper.refresh.demand(self._maintainer.zones.boottime())
            keeper.wake()
        return {"ok": True}

    async def _do_approve(self, request: Document) -> Document:
        keeper = self._zone(request)
        serial = _serial(request, keeper)
        if serial not in keeper.held:
            raise Refused(f"zone {keeper.name}: serial {serial} is not held (held: {_list(keeper.held)})")
        if is_beyond_us(keeper.held[serial].reasons):
            raise Refused(f"zone {keeper.name}: serial {serial}: {'; '.join(keeper.held[serial].reasons)}")
        self._maintainer.approve(keeper, serial)
        return {"ok": True}

    async def _do_reject(self, request: Document) -> Document:
        keeper = self._zone(request)
        serial = _serial(request, keeper)
        if serial not in keeper.held:
            raise Refused(f"zone {keeper.name}: serial {serial} is not held (held: {_list(keeper.held)})")
        self._maintainer.reject(keeper, serial)
        return {"ok": True}

    async def _do_import(self, request: Document) -> Document:
        """Answers when the zone is in service, scheduled or held, or was rejected."""
        keeper = self._zone(request)
        path = Path(str(request.get("file", "")))
        if not path.is_absolute():
            raise Refused(f"file: must be an absolute path, got {path}")
        serial, wrong = await self._maintainer.import_zone(keeper, path, now=bool(request.get("now")))
        if wrong:
            raise Refused(wrong)
        while True:
            if keeper.serving is not None and keeper.serving.serial == serial:
                return {"ok": True, "serial": serial, "state": "served"}
            if serial in keeper.held:
                return {"ok": True, "serial": serial, "state": "held", "reasons": list(keeper.held[serial].reasons)}
            if keeper.last_rejection.startswith(f"{serial} from "):
                raise Refused(keeper.last_rejection)
            if keeper.scheduled is not None and keeper.scheduled.serial == serial and not request.get("now"):
                at = self._maintainer.zones.switchover.activate_at
                if at is not None:
                    return {"ok": True, "serial": serial, "state": "scheduled", "activate_at": at}
            if keeper.waiting is not None and keeper.waiting.candidate.serial == serial:
                return {"ok": True, "serial": serial, "state": "waiting for a root zone that it fits"}
            if keeper.serving is not None and serial_is_newer(keeper.serving.serial, serial):
                raise Refused(f"serial {serial} was overtaken by {keeper.serving.serial}")
            await asyncio.sleep(0.02)

    async def _do_export(self, request: Document) -> Document:
        keeper = self._zone(request)
        path = Path(str(request.get("file", "")))
        if not path.is_absolute():
            raise Refused(f"file: must be an absolute path, got {path}")
        serial = None if request.get("serial") is None else _serial(request, keeper)
        contents = self._maintainer.zones.contents(keeper, serial)
        write_atomically(path, presentation.to_text(contents).encode(), mode=0o644)
        return {"ok": True, "serial": contents.serial, "records": contents.record_count}


def _serial(request: Document, keeper: ZoneKeeper) -> int:
    serial = request.get("serial")
    if serial is None and keeper.serving is not None:
        return keeper.serving.serial
    if not is_serial(serial):
        raise Refused(f"serial: must be 0..{2**32 - 1}, got {serial!r}")
    return serial


def _state(keeper: ZoneKeeper, serial: int) -> str:
    """What has become of a kept version."""
    if keeper.serving is not None and keeper.serving.serial == serial:
        return "served"
    if keeper.scheduled is not None and keeper.scheduled.serial == serial:
        return "scheduled"
    if serial in keeper.held:
        return "held"
    if keeper.serving is not None and serial_is_newer(keeper.serving.serial, serial):
        return "retired"
    return "kept"


def _list(serials: Any) -> str:
    return ", ".join(map(str, serials)) or "none"


def _failed(reason: str) -> Document:
    return {"ok": False, "error": reason}


def _asker(writer: asyncio.StreamWriter) -> str:
    """User and process at the other end (SO_PEERCRED)."""
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", raw)
    return f"uid={uid} pid={pid}"
