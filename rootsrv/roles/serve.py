"""The role *serve*: a parent that binds every socket and takes no packet, its workers, the owner of the fast path."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootsrv.admission.blocks import Blocks
from rootsrv.admission.limits import make_shared_cells, map_cells
from rootsrv.admission.policy import Policy
from rootsrv.admission.samples import NotesReader, make_ring
from rootsrv.capture.offer import NAME, BufferOffer
from rootsrv.capture.rings import make_memory
from rootsrv.config.checks import ConfigError
from rootsrv.config.dot import DotConfig
from rootsrv.config.file import Config, load
from rootsrv.config.limits import LimitsConfig
from rootsrv.control.protocol import Command, Commands, Nothing, Order, Refused
from rootsrv.control.server import ControlServer
from rootsrv.fastpath.admission import make_cells
from rootsrv.fastpath.control import commands as fastpath_commands
from rootsrv.fastpath.owner import FastPath
from rootsrv.fastpath.program import Program
from rootsrv.page import counts
from rootsrv.page.layout import TLS_SLOT, Page, PageUnusable
from rootsrv.page.unique_sources import key_name
from rootsrv.process import held_back, log, privileges
from rootsrv.process.persistence import persistently
from rootsrv.server.held_tables import HeldTables
from rootsrv.server.parent import Parent
from rootsrv.server.sockets import bind_all
from rootsrv.server.worker import responder_settings
from rootsrv.server.worker_orders import responder_orders
from rootsrv.store import sources_key, zone_file
from rootsrv.store.table_file import open_generation
from rootsrv.zone.anchors import AnchorsMalformed

if TYPE_CHECKING:  # and imported where it is configured: cryptography takes a seventh of the start
    from rootsrv.dot.beside import DnsOverTls

_PAGE_POLL_SECONDS = 0.1
_CERTIFICATE_SECONDS = 60.0


async def serve(config: Config, path: Path, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """The role *serve*: bind, start the workers, keep them; read *path* again when *reload* is set."""
    account = privileges.account(config.service.user)
    cpus = os.sched_getaffinity(0)
    workers = config.service.workers or len(cpus)
    runtime = Path(config.state.runtime_directory)
    tables = Path(config.state.directory) / "tables"
    page = await _page_to_serve(runtime / "page", tables, stop)
    if page is None:
        return
    sockets = bind_all(config.service.addresses, config.service.port, workers)
    answers = _Answers(config, path)
    key = sources_key.find(config.report.sources_key_file, Path(config.state.directory))
    orders: dict[str, Any] = {
        "account": account,
        "responder": answers.orders,
        "anchor_tags": _anchor_tags(config),
        "sources_key": key.octets.hex(),
        "real_time_priority": config.service.real_time_priority,
        "tcp": {
            "connections": config.service.tcp_max_connections,
            "connections_per_client": config.service.tcp_max_connections_per_client,
            "idle_seconds": config.service.tcp_idle_seconds,
        },
    }
    admission = _Admission(config, page, runtime, workers)
    orders |= {"admission": admission.policy.to_document(), "cells": admission.cells}
    dot = None
    if config.dot is not None:
        from rootsrv.dot.beside import DnsOverTls

        identity = bytes.fromhex(answers.orders["nsid"]).decode()
        dot = DnsOverTls(config.dot, addresses=config.service.addresses, identity=identity)
    slots = [*range(workers), *([] if dot is None else [dot.slot])]
    rings = _rings(config, slots)
    parent = Parent(
        sockets=sockets, page=page, tables=tables, orders=orders, notes=admission.notes, rings=rings,
        beside=[] if dot is None else [dot], cpus=cpus if _stand_aside(config.fastpath.owner_cpus) else frozenset(),
    )  # fmt: skip
    if dot is not None:
        dot.show = lambda certificate: parent.tell(TLS_SLOT, {"tls": certificate})
        answers.dot = dot
    offer = BufferOffer(runtime / NAME)
    offer.set_workers(rings)
    fastpath = FastPath(
        config.fastpath,
        addresses=config.service.addresses,
        port=config.service.port,
        responses=responder_settings(answers.orders),
        page=page,
        sources_key=key,
        open_table=lambda generation: open_generation(tables, generation),
        note=runtime / "fastpath.json",
        admission=admission.policy.to_document(),
        cells=admission.cells if admission.is_map else None,
        capture_chunks=0 if config.capture is None else config.capture.ring_chunks,
        loaded=lambda program: offer.set_kernel(_kernel_rings(program)),
    )
    blocks = Blocks(page, runtime / "blocks.json", own=config.service.addresses)
    answers.users += (parent.change_responder, lambda orders: fastpath.respond_as(responder_settings(orders)))
    admission.policy.users += (parent.change_admission, fastpath.admit_as)
    admission.kernel_notes, admission.policy.count = fastpath.notes, fastpath.count
    answers.limits = admission.policy.reconfigure
    commands = {
        **parent.commands(),
        **fastpath_commands(fastpath),
        **blocks.commands(),
        **admission.policy.commands(),
        **answers.commands(),
    }
    control = ControlServer(commands)
    control.start(runtime / "serve.sock")

    def watch_addresses() -> Coroutine[Any, Any, None]:
        return held_back.watch("service", config.service.addresses)

    async def offer_rings() -> None:
        offer.listen()

    log.event("serving", addresses=",".join(config.service.addresses), port=config.service.port, workers=workers,
              sources_key=key_name(key.id))  # fmt: skip
    beside = [
        asyncio.create_task(persistently("fast path", lambda: fastpath.run(stop)), name="fastpath"),
        asyncio.create_task(persistently("addresses", watch_addresses), name="addresses"),
        asyncio.create_task(persistently("blocks", lambda: _end_blocks(blocks)), name="blocks"),
        asyncio.create_task(persistently("limits", admission.run), name="limits"),
        asyncio.create_task(persistently("tables in memory", HeldTables(page, tables).run), name="tables"),
        asyncio.create_task(persistently("reload", lambda: answers.follow(reload)), name="reload"),
    ]
    if dot is not None:
        beside.append(asyncio.create_task(persistently("certificate", lambda: _watch_certificate(dot)), name="dot"))
    if config.capture is not None:
        beside.append(asyncio.create_task(persistently("capture rings", offer_rings), name="rings"))
    try:
        await parent.run(stop)
    finally:
        for task in beside:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        control.close()
        offer.close()
        if dot is not None:
            dot.close()
        for each in sockets:
            each.socket.close()
        log.event("stopped serving")


def _stand_aside(cpus: Sequence[int]) -> bool:
    """Have this process, and threads that it starts, run on *cpus* alone; whether it does."""
    if not cpus:
        return False
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError) as error:
        log.alarm("fast path's owner runs on any core", reason=f"fastpath.owner_cpus: {error}")
        return False
    return True


def _rings(config: Config, slots: Sequence[int]) -> dict[int, int]:
    """Memory for what each worker tells a capture; none where that is not configured, or not to be had."""
    found: dict[int, int] = {}
    if config.capture is not None:
        try:
            for slot in slots:
                found[slot] = make_memory(config.capture.ring_rows)
        except OSError as error:
            log.alarm("no memory for capture", workers=len(slots), have=len(found), reason=error.strerror)
    return found


def _kernel_rings(program: Program | None) -> tuple[int, int, int] | None:
    """What `Offer.set_kernel` wants."""
    if program is None or not program.capture_chunks:
        return None
    return program.capture_rings.fd, program.capture_rings.max_entries, program.capture_chunks


def _anchor_tags(config: Config) -> tuple[int, ...]:
    """Key tags of the root's trust anchors; none if they cannot be read, which is for the role *maintain* to say."""
    files = [Path(zone.trust_anchors) for zone in config.zone if zone.name == "." and zone.trust_anchors]
    try:
        return tuple(anchor.key_tag for file in files for anchor in zone_file.read_trust_anchors(file).anchors)
    except (AnchorsMalformed, zone_file.FileUnusable):
        return ()


async def _page_to_serve(path: Path, tables: Path, stop: asyncio.Event) -> Page | None:
    """The page, and the directory of tables is there; None when *stop* came first.

    Head and tables are the role maintain's.  Where we may not make them, or cannot, we wait until they are there.
    """
    told = False
    while not stop.is_set():
        is_ours = os.geteuid() in {0, tables.parent.stat().st_uid}
        try:
            if is_ours:
                with contextlib.suppress(OSError):  # for us the state may be there for reading only
                    tables.mkdir(exist_ok=True, mode=0o755)
            if not tables.is_dir():
                raise PageUnusable(f"{tables}: is not there yet")
            return Page.keep_serving(path, may_make_head=is_ours)
        except PageUnusable as error:
            if not told:
                log.alarm("waiting for the role maintain", reason=error)
            told = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PAGE_POLL_SECONDS):
                await stop.wait()
    return None


async def _watch_certificate(dot: "DnsOverTls") -> None:
    """Look after the certificate of DNS over TLS, until cancelled."""
    while True:
        dot.tick()
        await asyncio.sleep(_CERTIFICATE_SECONDS)


async def _end_blocks(blocks: Blocks) -> None:
    """Forget blocks when their time is over, until cancelled."""
    while True:
        await asyncio.sleep(1)
        blocks.expire()


class _Admission:
    """Limits, shed rules and notes of queries: their memory, and what is done about them every second."""

    def __init__(self, config: Config, page: Page, runtime: Path, workers: int) -> None:
        self._page = page
        self._looked_at = 0
        self.kernel_notes: Callable[[], list[bytes]] = list
        self.cells: int | None = None
        """Descriptor of the limits' cells; None where there are none."""

        self.is_map = False
        """Whether they are a BPF map, which the kernel can use as well."""

        # Also where limits are off: a reload may switch them on, and a program that is loaded takes no other map.
        if config.fastpath.mode != "off" and config.fastpath.interfaces:
            self.cells = _descriptor_of("limits that the kernel shares", make_cells)
        self.is_map = self.cells is not None
        if self.cells is None:
            self.cells = _descriptor_of("limits", make_shared_cells)

        self.notes: dict[int, int] = {}
        """Descriptors of the rings in which workers note queries, by slot."""

        for slot in range(workers):
            if (ring := _descriptor_of("notes of queries", make_ring)) is not None:
                self.notes[slot] = ring
        self._readers = [NotesReader(each) for each in self.notes.values()]
        self.policy = Policy(
            config.limits, service_addresses=config.service.addresses, page=page, path=runtime / "sheds.json",
            cells=None if self.cells is None else map_cells(self.cells),
        )  # fmt: skip

    async def run(self) -> None:
        """Look after them until cancelled."""
        while True:
            await asyncio.sleep(1)
            self.policy.tick()
            notes = [note for reader in self._readers for note in reader.read()] + self.kernel_notes()
            looked_at = counts.total(self._page)[counts.LOOKED_AT]
            self.policy.flood.take(notes, max(0, looked_at - self._looked_at))
            self._looked_at = looked_at


def _descriptor_of(what: str, make: Callable[[], int]) -> int | None:
    """A descriptor that *make* makes; None where it cannot be had, which is no reason not to answer."""
    try:
        return make()
    except OSError as error:
        log.alarm(f"{what} cannot be had", reason=error.strerror)
        return None


class _Answers:
    """How queries are answered, as far as the configuration says; identity and cookies may change meanwhile."""

    def __init__(self, config: Config, path: Path) -> None:
        self._path = path
        self._own_secret = secrets.token_hex(16)  # in case that none is configured
        self.orders = responder_orders(config, self._own_secret)
        """`WorkerOrders.responder`."""

        self.users: list[Callable[[dict[str, Any]], None]] = []
        """Called with the orders when these have changed."""

        self.limits: Callable[[LimitsConfig], None] = lambda limits: None
        """Called with what the file says of limits."""

        self.dot: DnsOverTls | None = None

    async def follow(self, reload: asyncio.Event) -> None:
        """Read the file whenever *reload* is set, until cancelled."""
        while True:
            await reload.wait()
            reload.clear()
            with contextlib.suppress(Refused):
                self.reload()

    def commands(self) -> Commands:
        """What the control socket does for the configuration."""

        async def reload(_: Order[Nothing]) -> Mapping[str, Any]:
            problem = self.reload()
            return {"certificate_problem": problem} if problem else {}

        return {"reload": Command(reload, Nothing)}

    def reload(self) -> str:
        """Read the file now; Refused where there is an error in it, and nothing changes then.

        Why the old certificate of DNS over TLS stays, else empty: all else has changed.
        """
        try:
            config = load(self._path)
            read = responder_orders(config, self._own_secret)
        except ConfigError as error:
            log.alarm("reload refused", reason=error)
            raise Refused(str(error)) from error
        self.limits(config.limits)
        orders = self.orders | {key: read[key] for key in _CHANGEABLE}
        if orders != self.orders:
            self.orders = orders
            for use in self.users:
                use(orders)
            log.event("identity and cookies reloaded", file=self._path)
        return self._reload_certificate(config.dot)

    def _reload_certificate(self, config: DotConfig | None) -> str:
        if self.dot is None or config is None:
            if self.dot is not None or config is not None:
                log.alarm("DNS over TLS stays as it is", reason="[dot] came or went: restart rootsrv-serve")
            return ""
        return self.dot.reload(config)


_CHANGEABLE = ("nsid", "version", "cookie_secrets", "require_server_cookie")
"""Of `WorkerOrders.responder`.  The rest is of `[service]`, as sockets and limits are, which only a restart changes."""
