"""Whole members of a mesh in one process, under the test clock (clockwork.py).

Each is what `rootsrv run` makes of its configuration file: the role maintain (fetches by the roster with TSIG, verifies
and compiles in a child, keeps, stages, switches over, gives out), the role mesh (orders, readiness, election), and what
a worker answers from (server/serving.py), on a state directory and shared page of its own.  What is not real: the
engine (paper_engine.py), and that a worker is no process: it has no sockets, and nobody attaches a program for it.
"""

import asyncio
import base64
import contextlib
import contextvars
import json
import logging
import os
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.instance import configure
from bench.peers.daemon import free_port
from bench.peers.primaries import KEY_NAME, SECRET
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.config.file import load
from rootsrv.config.zones import AdminConfig
from rootsrv.distribution.limits import TransferLimits
from rootsrv.distribution.listener import Listener
from rootsrv.distribution.offered import OfferedZone, OfferState
from rootsrv.distribution.requests import Asker, Given, Requests
from rootsrv.engine.etcd import Etcd
from rootsrv.page.layout import Page
from rootsrv.process import clock
from rootsrv.process.clocks import Clocks
from rootsrv.process.security import SecurityEvents
from rootsrv.roles import maintain as maintain_role
from rootsrv.roles import mesh as mesh_role
from rootsrv.roles.maintain import MaintainRole
from rootsrv.roles.mesh import MeshRole
from rootsrv.roles.mesh_presence import Presence
from rootsrv.server.counters import Counters
from rootsrv.server.serving import Serving
from rootsrv.store.store import Store
from rootsrv.wire import name as names
from rootsrv.wire.tsig import Key, TsigRefused
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.lease import Reading
from tests.mesh.clockwork import WHO, ClockworkLoop, passes
from tests.mesh.mesh_of import SERVICE, Mesh, key_of
from tests.mesh.paper_engine import PaperClient, PaperEngine

LIMITS = """
[refresh]
min_seconds = 60
max_seconds = 3600
backoff_seconds = 1
query_timeout_seconds = 5
transfer_seconds = 60
stall_seconds = 20
[hold]
tlds_gone_percent = 100
ds_gone_percent = 100
tlds_without_address_percent = 100
apex_ns_changed = 1000
shrink_percent = 100
"""
"""A genuine root and a small one that was made follow each other: nothing is too gross a change here."""

TURN_SECONDS = 1.0
"""Of the role mesh, which turns four times as often in the field: what changes wakes it anyway."""

_TICK_SECONDS = 0.1
_SOA_QUERY = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + names.ROOT + struct.pack("!HH", 6, 1)


class WorkerUnderTest(Serving):
    """What a worker answers from; it can lose its table and get no other, as one that was replaced does."""

    loses: frozenset[int] | None = frozenset()
    """Serials of which it cannot map the table; None = none whatever."""

    def lose(self, serials: frozenset[int] | None) -> None:
        """From now on; what was mapped for the next switchover is gone."""
        self.loses = serials
        self._drop_mapped()
        self._slot.staged = 0
        self._head = b""

    def _map(self, generation: int) -> Responder | None:
        responder = None if self.loses is None else super()._map(generation)
        if responder is not None and self.loses and _serial_of(responder.respond) in self.loses:
            return None
        return responder

    def serial(self) -> int | None:
        """What it answers for the root's SOA; None without a good answer."""
        self.read_page()
        return _serial_of(lambda octets, source, transport, _: self.respond_to(octets, source, transport))


def _serial_of(respond: Callable[[bytes, bytes, Transport, float], bytes | None]) -> int | None:
    response = respond(_SOA_QUERY, bytes(4), Transport.TCP, 0.0)
    if response is None or response[3] & 15 or not response[7]:
        return None
    # Behind the question: the root's name, type, class and TTL, size, rdata, of which five numbers are the end.
    rdata_at = len(_SOA_QUERY) + 11
    end = rdata_at + int.from_bytes(response[rdata_at - 2 : rdata_at], "big")
    return int.from_bytes(response[end - 20 : end - 16], "big")


@dataclass
class WholeMember:
    """One of them."""

    name: str
    number: int
    path: Path
    """Its configuration file."""

    fleet: "WholeFleet"
    history: list[int] = field(default_factory=list)
    """Serials that went into service, in order."""

    went: dict[int, float] = field(default_factory=dict)
    """And when, seconds since 1970."""

    log: list[str] = field(default_factory=list)
    maintain: MaintainRole | None = None
    presence: Presence | None = None
    _stops: dict[str, tuple[asyncio.Event, "asyncio.Task[None]"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._context = contextvars.copy_context()
        self._context.run(WHO.set, self.name)

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.path.parent / "state"

    def journal(self) -> list[dict[str, Any]]:
        """All decisions."""
        return [json.loads(line) for line in (self.state / "journal.jsonl").read_text().splitlines()]

    # The roles.

    def start(self) -> None:
        """All of them."""
        self._serve()
        self.start_maintain()
        self.start_mesh()

    def _task(self, role: str, coroutine: Any) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(coroutine, name=f"{self.name} {role}", context=self._context)

    def _serve(self) -> None:
        run = self.path.parent / "run"
        run.mkdir()
        page = self.page = Page.keep_serving(run / "page", may_make_head=True)
        page.workers = 1
        slot = page.worker(0)
        slot.pid = os.getpid()
        (self.state / "tables").mkdir(parents=True)
        tables = os.open(self.state / "tables", os.O_RDONLY | os.O_DIRECTORY)
        self.worker = WorkerUnderTest(page, slot, Counters(slot), tables, ResponderSettings())

        async def tick() -> None:
            try:
                while True:
                    page.parent_heartbeat = clock.boottime_ns()
                    self.worker.tick()
                    await passes(_TICK_SECONDS)
            finally:
                os.close(tables)

        self._stops["serve"] = asyncio.Event(), self._task("serve", tick())

    def start_maintain(self) -> None:
        """The role maintain."""
        stop = asyncio.Event()

        def make() -> MaintainRole:
            return MaintainRole(load(self.path), self.path, Store(self.state))

        role = self.maintain = self._context.run(make)
        role.maintainer.activation.on_activated.append(self._went)

        async def run() -> None:
            try:
                await role.run(stop, asyncio.Event())
            finally:
                role.maintainer.store.close()

        self._stops["maintain"] = stop, self._task("maintain", run())

    def _went(self, keeper: Any) -> None:
        serial = keeper.life.serving.serial
        if self.history[-1:] == [serial]:
            return  # in service again after a restart
        self.history.append(serial)
        assert self.maintain is not None
        membership = self.maintain.maintainer.membership
        assert membership is not None
        assert membership.outcome is not None
        self.went[serial] = membership.outcome.flipped_at

    def start_mesh(self) -> None:
        """The role mesh."""
        stop = asyncio.Event()

        def make() -> Presence:
            config = load(self.path)
            assert config.mesh is not None
            return Presence(config, config.mesh)

        self.presence = self._context.run(make)
        self.presence.board.etcd = cast(Etcd, PaperClient(self.fleet.engine, self.name))
        self._stops["mesh"] = stop, self._task("mesh", MeshRole(self.presence).run(stop))

    def is_running(self, role: str) -> bool:
        """Whether it is."""
        return role in self._stops

    async def end(self, role: str, *, killed: bool = False) -> None:
        """As SIGTERM does, or (*killed*) in the middle of whatever it does."""
        if role not in self._stops:
            return
        stop, task = self._stops.pop(role)
        if killed or role == "serve":
            task.cancel()
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def end_all(self) -> None:
        """Everything."""
        for role in ("mesh", "maintain", "serve"):
            await self.end(role, killed=True)

    # What it says.

    def has(self, serial: int) -> bool:
        """Whether it is in service with it and answers it."""
        return self.history[-1] == serial == self.worker.serial()

    @property
    def leads(self) -> bool:
        """Whether it does."""
        return self.is_running("mesh") and self.presence is not None and self.presence.leader.leads

    def stand(self) -> str:
        """Where the distribution of the latest serial stands here; empty unless it leads."""
        if self.presence is None or not self.leads:
            return ""
        found = [each.stand.value for each in self.presence.leader.distributions.values()]
        return found[0] if found else ""


class _Members:
    """The primary gives to all who have the tests' key."""

    def __init__(self) -> None:
        self._key = Key.make(names.from_text(KEY_NAME), "hmac-sha256", base64.b64decode(SECRET))
        self.proved = True
        self.over_tcp_only = False
        self.name = "a host"

    def key(self, owner: bytes) -> Key | None:
        """Requests asks by name."""
        return self._key if owner == self._key.name else None

    def recipient(self, asker: Asker, key: Key | None, apex: bytes) -> Any:
        """Who asks."""
        return self if key is not None else None

    def given(self, what: Given) -> None:
        """Nobody asks."""

    def told(self, zone: str, serial: int) -> None:
        """Nobody asks."""

    def tsig_failed(self, asker: Asker, owner: bytes, refused: TsigRefused) -> None:
        """Does not happen here."""
        raise AssertionError(refused)


class _Log(logging.Handler):
    """To whose task it is that logs."""

    def __init__(self, fleet: "WholeFleet") -> None:
        super().__init__()
        self._fleet = fleet

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{self._fleet.loop.wall():.2f} {record.levelname} {record.getMessage()}"
        if record.exc_info:
            line += f" {logging.Formatter().formatException(record.exc_info)}"
        member = self._fleet.members.get(WHO.get())
        (self._fleet.log if member is None else member.log).append(line)


@dataclass
class WholeFleet:
    """All members, their engine and the primary of their distribution hosts."""

    loop: ClockworkLoop
    mesh: Mesh
    engine: PaperEngine
    primary: OfferedZone
    members: dict[str, WholeMember] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    """What nobody's task logged."""

    unsynchronised: set[str] = field(default_factory=set)
    without_transfers: set[str] = field(default_factory=set)
    """Members that reach no distribution host."""

    transfer_ports: frozenset[int] = frozenset()

    def clocks(self, source: str) -> Clocks:
        """As `process/clocks.py`, and a clock that nobody says is right at some."""
        who = WHO.get()
        return lambda: Reading(self.loop.wall(), self.loop.time(), who not in self.unsynchronised)

    def publish(self, contents: ZoneContents) -> None:
        """A new version at the primary, for which the distribution hosts ask."""
        self.primary.put(contents, OfferState.DISTRIBUTE_ONLY, lambda: float(contents.soa.expire))
        for name in self.mesh.roster.distribution_hosts:
            self.refresh(name)

    def refresh(self, name: str) -> None:
        """As `rootsrv zone refresh`."""
        member = self.members[name]
        if member.is_running("maintain") and member.maintain is not None:
            member.maintain.maintainer.zones.root.ask_all()

    def leader(self) -> WholeMember | None:
        """Who leads."""
        return next((each for each in self.members.values() if each.leads), None)

    async def wait(self, condition: Any, what: str, seconds: float) -> None:
        """Until *condition*."""
        deadline = self.loop.time() + seconds
        while not condition():
            if self.loop.time() > deadline:
                logs = "\n".join(f"--- {name}\n" + "\n".join(m.log[-25:]) for name, m in self.members.items())
                raise AssertionError(f"not within {seconds} s: {what}\n{logs}\n" + "\n".join(self.log[-10:]))
            await passes(0.5)

    async def let_pass(self, seconds: float) -> None:
        """Time in which nothing happens to anybody."""
        await self.wait(lambda: not self.loop.is_working(), "nobody works", 60)
        self.engine.leap(seconds)
        self.loop.leap(seconds)
        await passes(5.0)  # signs of life, and whatever is due


def _write_member(mesh: Mesh, name: str, home: Path, admin: tuple[str, int], number: int, sections: str, anchors: str
                  ) -> Path:  # fmt: skip
    key = home / "member.key"
    home.mkdir(parents=True)
    key.touch(mode=0o600)
    key.write_bytes(key_of(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (home / "roster").write_bytes(mesh.octets)
    for each in ("ca", "certificate", "tls.key"):
        (home / each).write_text("")
    sections += f"""
[mesh]
service = "{SERVICE}"
member = "{name}"
key = "{key}"
roster = "{home / "roster"}"
roster_keys = ["{mesh.roster.signing_keys[0]}"]
endpoints = ["http://127.0.0.1:2379"]
"""
    return configure(
        home, sections, service=(f"127.0.29.{100 + number}", 53), admin=admin, anchors=anchors,
        switchover="align_seconds = 0\ngrace_seconds = 3", limits=LIMITS,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def whole_fleet(
    directory: Path, loop: ClockworkLoop, mesh: Mesh, first: ZoneContents, anchors: str
) -> AsyncIterator[WholeFleet]:
    """All of it, with all members answering *first*; the loop runs, and is everybody's clock."""
    at = {each.name: f"127.0.29.{10 + number}" for number, each in enumerate(mesh.roster.member)}
    admins = {name: (address, free_port(address)) for name, address in at.items()}
    listed = (replace(e, transfers=f"{admins[e.name][0]}:{admins[e.name][1]}") for e in mesh.roster.member)
    mesh = mesh.changed(member=tuple(listed))
    primary = OfferedZone(names.ROOT)
    fleet = WholeFleet(loop, mesh, PaperEngine(), primary)
    fleet.transfer_ports = frozenset(
        port for name, (_, port) in admins.items() if name in mesh.roster.distribution_hosts
    )
    loop.is_cut = lambda who, port: who in fleet.without_transfers and port in fleet.transfer_ports
    handler = _Log(fleet)
    requests = Requests(lambda _: primary, _Members(), SecurityEvents(), limits=TransferLimits())
    port = free_port()
    listener = Listener(AdminConfig(addresses=("127.0.0.1",), port=port), requests)
    section = f'[[primary]]\nname = "a"\naddress = "127.0.0.1"\nport = {port}\nzones = ["."]\nkey = "{KEY_NAME}"\n'
    with (
        _logging_to(handler),
        mock.patch.object(maintain_role, "clocks", fleet.clocks),
        mock.patch.object(mesh_role, "TURN_SECONDS", TURN_SECONDS),
    ):
        try:
            await listener.start()
            primary.put(first, OfferState.DISTRIBUTE_ONLY, lambda: float(first.soa.expire))
            for number, (name, admin) in enumerate(admins.items()):
                sections = section if name in mesh.roster.distribution_hosts else ""
                path = _write_member(mesh, name, directory / name, admin, number, sections, anchors)
                fleet.members[name] = WholeMember(name, number, path, fleet)
            for member in fleet.members.values():
                member.start()
            everybody = fleet.members.values()
            await fleet.wait(lambda: all(m.worker.serial() == first.serial for m in everybody), "all answer", 600)
            await fleet.wait(fleet.leader, "somebody leads", 60)
            yield fleet
        finally:
            for member in fleet.members.values():
                await member.end_all()
            await listener.close()
            fleet.engine.close()


@contextlib.contextmanager
def _logging_to(handler: logging.Handler) -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
