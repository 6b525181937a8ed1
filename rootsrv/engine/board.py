"""The board: what stands in the engine under the prefix of one service, mirrored here and written to with a lease."""
# Theory of operation
# -------------------
#   GONE ──▶ read all keys, lease ──▶ watch from there ──▶ THERE ──▶ any failure ──▶ GONE (what was read stays)
#
# The mirror is octets: nothing is believed here.  What is GONE stays readable, with its age, because what was signed
# stays signed; whoever asks decides whether age matters.
#
# A node that has lost the others still has what was written before: an order that some members have heard must not be
# one that the others, whose node is frozen, go without.  So while the engine is GONE every node is asked for what it
# has (what is signed does not get worse by being old), and what is newer than all that was seen here is taken; nothing
# is taken away, nor comes back that was deleted.
#
# Everything that this member publishes hangs on one lease, so that it goes when we do.  The lease is kept alive every
# third of its time; when it is lost, all is published again under a new one.

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from rootsrv.engine.etcd import Compacted, EngineGone, Entry, Etcd, KeyEvent
from rootsrv.process import log

LEASE_SECONDS = 30

RETRY_SECONDS = (0.2, 5.0)
"""First and longest pause before the engine is tried again."""


@dataclass
class Board:
    """The keys of one service."""

    etcd: Etcd
    prefix: str
    """Ends in a slash."""

    clock: Callable[[], float]
    """CLOCK_BOOTTIME, seconds."""

    entries: dict[str, Entry] = field(default_factory=dict)
    """By key without the prefix."""

    gone: str = "not asked yet"
    """Why the engine is gone; empty = it is there."""

    since: float = 0.0
    """When that changed, on the clock."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    dirty: set[str] = field(default_factory=set)
    """Keys that changed; whoever has read them takes them out."""

    _seen: int = 0
    """The newest revision that was read here."""

    _published: dict[str, bytes] = field(default_factory=dict)
    _written: dict[str, bytes] = field(default_factory=dict)
    _to_write: asyncio.Event = field(default_factory=asyncio.Event)

    def publish(self, key: str, octets: bytes) -> None:
        """Have *octets* stand under *key* as long as this process lives."""
        self._published[key] = octets
        self._to_write.set()

    def retract(self, key: str) -> None:
        """Have the key vanish with the lease, and not come back."""
        self._published.pop(key, None)
        self._written.pop(key, None)

    async def run(self) -> None:
        """Mirror and publish, until cancelled."""
        pause, longest = RETRY_SECONDS
        while True:
            try:
                await self._one_life()
            except (EngineGone, Compacted) as error:
                if isinstance(error, EngineGone):
                    self._is_gone(str(error))
                    await self._take_what_is_left()
                else:
                    log.event("engine compacted", reason=error)
                    continue
            began = self.since
            await asyncio.sleep(pause)
            pause = RETRY_SECONDS[0] if self.clock() - began > longest else min(longest, 2 * pause)

    def _is_gone(self, why: str) -> None:
        if not self.gone:
            log.alarm("engine gone", reason=why, going_on="alone")
        if not self.gone or self.since == 0.0:
            self.since = self.clock()
        self.gone = why
        self.changed.set()

    async def _take_what_is_left(self) -> None:
        left = await self.etcd.read_without_quorum(self.prefix)
        newer = [each for each in left if each.mod_revision > self._seen]
        self._take([KeyEvent(each.key, each) for each in newer])

    async def _one_life(self) -> None:
        revision, entries = await self.etcd.read(self.prefix)
        lease = await self.etcd.grant(LEASE_SECONDS)
        self._seen = revision
        before, self.entries = self.entries, {each.key.removeprefix(self.prefix): each for each in entries}
        self.dirty |= {key for key in {*before, *self.entries} if before.get(key) != self.entries.get(key)}
        if self.gone:
            log.event("engine there", endpoint=self.etcd.endpoint, keys=len(entries))
            self.gone, self.since = "", self.clock()
        self.changed.set()
        self._written = {}
        self._to_write.set()
        tasks = [
            asyncio.ensure_future(self.etcd.watch(self.prefix, revision + 1, self._take)),
            asyncio.ensure_future(self._write_all(lease)),
            asyncio.ensure_future(self._keep(lease)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, events: list[KeyEvent]) -> None:
        for event in events:
            key = event.key.removeprefix(self.prefix)
            self.dirty.add(key)
            if event.entry is None:
                self.entries.pop(key, None)
                if key in self._published:  # somebody deleted what is ours
                    self._written.pop(key, None)
                    self._to_write.set()
            else:
                self.entries[key] = event.entry
                self._seen = max(self._seen, event.entry.mod_revision)
                if key in self._published and event.entry.value != self._published[key]:
                    self._written.pop(key, None)  # somebody wrote over it, or it is an older value on its way
                    self._to_write.set()
        self.changed.set()

    async def _write_all(self, lease: int) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            for key, octets in list(self._published.items()):
                if self._written.get(key) != octets:
                    await self.etcd.put(self.prefix + key, octets, lease)
                    self._written[key] = octets
            # Whoever fights over a key gets one answer a second, and no more.
            await asyncio.sleep(0.05)

    async def _keep(self, lease: int) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            if await self.etcd.keep_alive(lease) <= 0:
                raise EngineGone("our lease is over")

    async def write(self, key: str, octets: bytes, lease_seconds: int = 0) -> None:
        """Write once, to stay there for *lease_seconds* (0 = for ever); EngineGone."""
        lease = await self.etcd.grant(lease_seconds) if lease_seconds else 0
        await self.etcd.put(self.prefix + key, octets, lease)

    async def remove(self, key: str) -> None:
        """Delete what stands under *key* now; EngineGone."""
        entry = self.entries.get(key)
        if entry is not None:
            with contextlib.suppress(KeyError):
                await self.etcd.delete(self.prefix + key, entry.create_revision)
