"""An engine under the test clock: what `engine/etcd.py` promises of etcd, in memory, and how it fails.

tests/mesh/test_paper_engine.py has it and the real one do the same.
"""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from rootsrv.engine.etcd import PROGRESS_SECONDS, EngineGone, Entry, KeyEvent, NodeStatus
from tests.mesh.clockwork import passes

LATENCY_SECONDS = 0.005
ENDPOINT = "https://paper.example:2379"


@dataclass
class _Lease:
    seconds: float
    ends_at: float


@dataclass
class PaperEngine:
    """All of it; made in a running loop."""

    entries: dict[str, Entry] = field(default_factory=dict)
    gone: str = ""
    """Why nobody reaches it; empty = it is there."""

    alone: bool = False
    """Of a node without the others, which still says what it has (only together with `gone`)."""

    full: bool = False
    """Nothing can be written any more."""

    cut: set[str] = field(default_factory=set)
    """Who does not reach it."""

    revision: int = 1
    _leases: dict[int, _Lease] = field(default_factory=dict)
    _watches: list[tuple[str, str, "asyncio.Queue[KeyEvent]"]] = field(default_factory=list)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1000))

    def __post_init__(self) -> None:
        self._expiring = asyncio.create_task(self._expire())

    def close(self) -> None:
        """No more."""
        self._expiring.cancel()

    def reaches(self, who: str) -> bool:
        """Whether it does."""
        return not self.gone and who not in self.cut

    def leap(self, seconds: float) -> None:
        """So much time passed in which nobody could keep a lease alive: it does not count."""
        for lease in self._leases.values():
            lease.ends_at += seconds

    def delete_all(self, prefix: str = "") -> None:
        """What somebody with a certificate can do."""
        for key in [key for key in self.entries if key.startswith(prefix)]:
            self._write(key, None)

    async def _expire(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await passes(0.25)
            if self.gone:  # leases are extended by whoever is elected then
                for lease in self._leases.values():
                    lease.ends_at = max(lease.ends_at, clock() + lease.seconds)
                continue
            for number in [number for number, lease in self._leases.items() if lease.ends_at < clock()]:
                self._revoke(number)

    def _revoke(self, number: int) -> None:
        del self._leases[number]
        for key in [key for key, entry in self.entries.items() if entry.lease == number]:
            self._write(key, None)

    def _write(self, key: str, value: bytes | None, lease: int = 0) -> int:
        self.revision += 1
        if value is None:
            self.entries.pop(key, None)
            event = KeyEvent(key, None)
        else:
            before = self.entries.get(key)
            created = self.revision if before is None else before.create_revision
            self.entries[key] = Entry(key, value, created, self.revision, lease)
            event = KeyEvent(key, self.entries[key])
        for _, prefix, queue in self._watches:
            if key.startswith(prefix):
                queue.put_nowait(event)
        return self.revision


class PaperClient:
    """What `Etcd` is, for one member."""

    def __init__(self, engine: PaperEngine, who: str, request_seconds: float = 1.0) -> None:
        self._engine = engine
        self._who = who
        self.request_seconds = request_seconds
        self.endpoints = (ENDPOINT,)
        self.endpoint = ENDPOINT

    def close(self) -> None:
        """Nothing is open."""

    async def _reach(self, *, writes: bool = False) -> PaperEngine:
        engine = self._engine
        await passes(LATENCY_SECONDS)
        if not engine.reaches(self._who):
            await passes(self.request_seconds)
            raise EngineGone(f"{ENDPOINT}: no answer in {self.request_seconds:g} s")
        if writes and engine.full:
            raise EngineGone(f"{ENDPOINT}: etcdserver: mvcc: database space exceeded")
        return engine

    async def read(self, prefix: str) -> tuple[int, list[Entry]]:
        """See Etcd."""
        engine = await self._reach()
        return engine.revision, [each for key, each in sorted(engine.entries.items()) if key.startswith(prefix)]

    async def read_without_quorum(self, prefix: str) -> list[Entry]:
        """See Etcd."""
        await passes(LATENCY_SECONDS)
        engine = self._engine
        if self._who in engine.cut or (engine.gone and not engine.alone):
            await passes(self.request_seconds)
            return []
        return [each for key, each in sorted(engine.entries.items()) if key.startswith(prefix)]

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """See Etcd."""
        engine = await self._reach(writes=True)
        if lease and lease not in engine._leases:
            raise EngineGone(f"{ENDPOINT}: etcdserver: requested lease not found")
        return engine._write(key, value, lease)

    async def create(self, key: str, value: bytes, lease: int) -> int | None:
        """See Etcd."""
        engine = await self._reach(writes=True)
        if key in engine.entries:
            return None
        if lease not in engine._leases:
            raise EngineGone(f"{ENDPOINT}: etcdserver: requested lease not found")
        return engine._write(key, value, lease)

    async def delete(self, key: str, create_revision: int) -> bool:
        """See Etcd."""
        engine = await self._reach()
        entry = engine.entries.get(key)
        if entry is None or entry.create_revision != create_revision:
            return False
        engine._write(key, None)
        return True

    async def get(self, key: str) -> Entry | None:
        """See Etcd."""
        return (await self._reach()).entries.get(key)

    async def grant(self, seconds: int) -> int:
        """See Etcd."""
        engine = await self._reach(writes=True)
        number = next(engine._ids)
        engine._leases[number] = _Lease(seconds, asyncio.get_running_loop().time() + seconds)
        return number

    async def revoke(self, lease: int) -> None:
        """See Etcd."""
        engine = await self._reach()
        if lease not in engine._leases:
            raise EngineGone(f"{ENDPOINT}: etcdserver: requested lease not found")
        engine._revoke(lease)

    async def keep_alive(self, lease: int) -> float:
        """See Etcd."""
        engine = await self._reach()
        if lease not in engine._leases:
            return 0.0
        found = engine._leases[lease]
        found.ends_at = asyncio.get_running_loop().time() + found.seconds
        return float(found.seconds)

    async def watch(self, prefix: str, start_revision: int, tell: Callable[[list[KeyEvent]], None]) -> None:
        """See Etcd.  What was written since *start_revision* is told as it stands: nothing is compacted here."""
        engine = await self._reach()
        queue: asyncio.Queue[KeyEvent] = asyncio.Queue()
        for key, entry in sorted(engine.entries.items(), key=lambda each: each[1].mod_revision):
            if key.startswith(prefix) and entry.mod_revision >= start_revision:
                queue.put_nowait(KeyEvent(key, entry))
        mine = (self._who, prefix, queue)
        engine._watches.append(mine)
        try:
            while True:
                try:
                    async with asyncio.timeout(PROGRESS_SECONDS):
                        event = await queue.get()
                except TimeoutError:
                    await self._reach()  # as the real one asks for a sign of life
                    continue
                await passes(LATENCY_SECONDS)
                if not engine.reaches(self._who):
                    await self._reach()
                tell([event])
        finally:
            engine._watches.remove(mine)

    async def compact(self, revision: int) -> None:
        """See Etcd."""
        await self._reach()

    async def status(self, prefix: str) -> list[NodeStatus | EngineGone]:
        """See Etcd."""
        try:
            await self._reach()
        except EngineGone as error:
            return [error]
        return [NodeStatus(ENDPOINT, "3.7.1", 1000, True, ())]
