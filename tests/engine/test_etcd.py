"""The client against real etcd: whatever goes wrong with it is one thing, and is noticed by the client itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.peers.etcd import Cluster, cluster
from rootsrv.distribution.tls import client_context
from rootsrv.engine import etcd as client
from rootsrv.engine.board import Board
from rootsrv.engine.etcd import Compacted, EngineGone, Etcd, KeyEvent, NodeStatus, tls_context
from rootsrv.engine.messages import make


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("one"), clients=["m0", "m1"]) as started:
        yield started


@pytest.fixture
def three_nodes(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path, 3, clients=["m0"]) as started:
        yield started


def connected(started: Cluster, name: str = "m0", seconds: float = 2.0) -> Etcd:
    files = started.certificates
    return Etcd(started.endpoints, tls_context(files.ca, files.certificate(name), files.key(name)), seconds)


def run(started: Cluster, work: Callable[[Etcd], Awaitable[None]], **options: float) -> None:
    async def whole() -> None:
        etcd = connected(started, **options)  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(60):
                await work(etcd)
        finally:
            etcd.close()

    in_loop(whole())


def in_loop(work: Coroutine[Any, Any, None]) -> None:
    """In the event loop that the role has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


class Watching:
    """A watch in the background, and what it told."""

    def __init__(self, etcd: Etcd, prefix: str, revision: int) -> None:
        self.events: list[KeyEvent] = []
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(etcd.watch(prefix, revision, self._tell))

    def _tell(self, events: list[KeyEvent]) -> None:
        self.events += events
        self.changed.set()

    async def until(self, count: int) -> list[KeyEvent]:
        while len(self.events) < count:
            self.changed.clear()
            waiting = asyncio.create_task(self.changed.wait())
            done, _ = await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
            if self.task in done:
                waiting.cancel()
                await self.task
        return self.events

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def test_what_is_written_is_read_and_watched_in_order(one_node: Cluster) -> None:
    async def work(etcd: Etcd) -> None:
        revision = await etcd.put("/t1/a", b"1")
        watching = Watching(etcd, "/t1/", revision)
        await etcd.put("/t1/b", b"2")
        await etcd.put("/t1/a", b"3")
        created = (await etcd.get("/t1/b")).create_revision  # type: ignore[union-attr]
        assert not await etcd.delete("/t1/b", created + 1)
        assert await etcd.delete("/t1/b", created)
        told = [(each.key, each.entry and each.entry.value) for each in await watching.until(4)]
        assert told == [("/t1/a", b"1"), ("/t1/b", b"2"), ("/t1/a", b"3"), ("/t1/b", None)]
        _, entries = await etcd.read("/t1/")
        assert [(each.key, each.value) for each in entries] == [("/t1/a", b"3")]
        await watching.stop()

    run(one_node, work)


def test_of_many_who_race_for_a_key_exactly_one_creates_it(one_node: Cluster) -> None:
    async def work(etcd: Etcd) -> None:
        lease = await etcd.grant(10)
        won = await asyncio.gather(*(etcd.create("/t2/slot", str(n).encode(), lease) for n in range(20)))
        (revision,) = [each for each in won if each is not None]
        entry = await etcd.get("/t2/slot")
        assert entry is not None
        assert (entry.create_revision, entry.lease) == (revision, lease)

    run(one_node, work)


def test_a_lease_is_kept_alive_and_says_when_it_is_over(one_node: Cluster) -> None:
    async def work(etcd: Etcd) -> None:
        lease = await etcd.grant(20)
        await etcd.put("/t3/a", b"", lease)
        assert await etcd.keep_alive(lease) == 20
        await etcd.revoke(lease)
        assert await etcd.keep_alive(lease) == 0
        assert await etcd.get("/t3/a") is None

    run(one_node, work)


def test_a_watch_from_a_revision_that_was_compacted_says_so(one_node: Cluster) -> None:
    async def work(etcd: Etcd) -> None:
        first = await etcd.put("/t4/a", b"1")
        last = await etcd.put("/t4/a", b"2")
        await etcd.compact(last)
        with pytest.raises(Compacted):
            await etcd.watch("/t4/", first, lambda _: None)
        revision, entries = await etcd.read("/t4/")
        assert [each.value for each in entries] == [b"2"]
        watching = Watching(etcd, "/t4/", revision + 1)
        await etcd.put("/t4/a", b"3")
        assert (await watching.until(1))[0].entry.value == b"3"  # type: ignore[union-attr]
        await watching.stop()

    run(one_node, work)


def test_an_idle_watch_stays(one_node: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_five_times = asyncio.Event()
    asked = 0

    def counting(name: str, **fields: Any) -> Any:
        nonlocal asked
        asked += name == "WatchProgressRequest"
        if asked >= 5:
            asked_five_times.set()
        return make(name, **fields)

    monkeypatch.setattr(client, "PROGRESS_SECONDS", 0.05)
    monkeypatch.setattr(client, "make", counting)

    async def work(etcd: Etcd) -> None:
        watching = Watching(etcd, "/t5/", await etcd.put("/t5/a", b"") + 1)
        await asked_five_times.wait()
        assert (watching.task.done(), watching.events) == (False, [])
        await etcd.put("/t5/b", b"")
        assert [each.key for each in await watching.until(1)] == ["/t5/b"]
        await watching.stop()

    run(one_node, work)


def test_without_a_certificate_the_engine_is_gone_and_nothing_else_happens(one_node: Cluster) -> None:
    async def work() -> None:
        context = client_context("mesh.tls_ca", ca=str(one_node.certificates.ca))
        context.set_alpn_protocols(["h2"])
        etcd = Etcd(one_node.endpoints, context)
        with pytest.raises(EngineGone):
            await etcd.put("/t6/a", b"")
        etcd.close()

    in_loop(work())


def test_a_node_that_is_killed_is_left_for_the_next_one(three_nodes: Cluster) -> None:
    async def work(etcd: Etcd) -> None:
        revision = await etcd.put("/t7/a", b"")
        watching = Watching(etcd, "/t7/", revision)
        await watching.until(1)
        three_nodes.nodes[0].kill()
        with pytest.raises(EngineGone):
            await watching.task
        assert etcd.endpoint == three_nodes.endpoints[1]
        assert await _in_the_end(lambda: etcd.put("/t7/a", b"again")) > revision

    run(three_nodes, work)


async def _in_the_end(work: Callable[[], Awaitable[int]]) -> int:
    """While a new leader is elected, requests fail; then they do not."""
    until = time.monotonic() + 30
    while True:
        try:
            return await work()
        except EngineGone:
            if time.monotonic() > until:
                raise


def test_a_node_that_is_frozen_is_noticed_by_the_watch_and_by_requests(three_nodes: Cluster) -> None:
    async def work(etcd: Etcd) -> None:
        revision = await etcd.put("/t8/a", b"")
        watching = Watching(etcd, "/t8/", revision)
        await watching.until(1)
        three_nodes.nodes[0].freeze()
        # It was asked after PROGRESS_SECONDS, once, and given the seconds of a request.
        with pytest.raises(EngineGone, match="silent for 2 s when asked for a sign of life"):
            await watching.task
        assert await _in_the_end(lambda: etcd.put("/t8/a", b"again")) > revision
        three_nodes.nodes[0].thaw()

    run(three_nodes, work)


def test_without_a_quorum_the_engine_is_gone(three_nodes: Cluster) -> None:
    async def work(etcd: Etcd) -> None:
        revision = await etcd.put("/t9/a", b"")
        watching = Watching(etcd, "/t9/", revision)
        await watching.until(1)
        for node in three_nodes.nodes[1:]:
            node.kill()
        # By itself: nobody waits for the others to come back.
        with pytest.raises(EngineGone, match=r"no answer in|no leader|StreamTerminated|lost"):
            await etcd.put("/t9/a", b"again")
        with pytest.raises(EngineGone):
            await watching.task

    run(three_nodes, work)


def test_without_a_quorum_what_was_written_before_can_be_read(three_nodes: Cluster) -> None:
    """An order that one half of the mesh has heard reaches the other half, whose nodes are frozen."""

    async def work(etcd: Etcd) -> None:
        await etcd.put("/t11/order", b"at T")
        late = Board(connected(three_nodes, seconds=1.0), "/t11/", time.monotonic)
        last = connected(three_nodes)
        last.endpoints = last.endpoints[2:]
        assert await last.get("/t11/order")  # so the last node has it, too
        last.close()
        for node in three_nodes.nodes[:2]:
            node.freeze()
        running = asyncio.create_task(late.run())
        try:
            while not late.entries:
                await late.changed.wait()
                late.changed.clear()
            assert late.entries["order"].value == b"at T"
            assert (late.dirty, bool(late.gone)) == ({"order"}, True)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            for node in three_nodes.nodes[:2]:
                node.thaw()
            late.etcd.close()

    run(three_nodes, work)


def test_no_space_is_the_engine_gone_and_status_says_why(tmp_path: Path) -> None:
    with cluster(tmp_path, clients=["m0"], quota_octets=64 * 1024) as started:

        async def work(etcd: Etcd) -> None:
            async def fill() -> None:
                # It compares with what it has committed, ten times a second: how many that are is the machine's affair.
                for number in range(20_000):
                    await etcd.put(f"/t10/{number}", bytes(4096))

            with pytest.raises(EngineGone, match="space"):
                await fill()
            (status,) = await etcd.status("/t10/")
            assert isinstance(status, NodeStatus)
            assert (status.has_leader, "NOSPACE" in status.errors[0]) == (True, True)

        run(started, work)


def test_a_node_that_is_not_there_is_in_the_status_as_gone(one_node: Cluster) -> None:
    async def work() -> None:
        etcd = connected(one_node)
        etcd.endpoints = (*etcd.endpoints, "https://127.0.0.1:1")
        there, gone = await etcd.status("/")
        assert isinstance(there, NodeStatus)
        assert there.version.count(".") == 2
        assert isinstance(gone, EngineGone)
        etcd.close()

    in_loop(work())
