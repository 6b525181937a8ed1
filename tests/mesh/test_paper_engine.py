"""The engine under the test clock does what etcd does: one script of requests, both, and the same answers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from bench.peers.etcd import Cluster, cluster
from rootsrv.engine.etcd import EngineGone, Entry, Etcd, KeyEvent, tls_context
from tests.mesh.paper_engine import PaperClient, PaperEngine

PREFIX = "/t/"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("engine"), 1, clients=["member"]) as started:
        yield started


def seen(entry: Entry | None) -> Any:
    return None if entry is None else (entry.key, entry.value, entry.mod_revision == entry.create_revision)


async def outcome(request: Awaitable[Any]) -> Any:
    """What it gives; every failure is one."""
    try:
        return await request
    except EngineGone:
        return EngineGone


async def script(etcd: Etcd) -> list[Any]:
    """What a client sees of: keys, compare-and-swap, leases, a watch."""
    told: list[Any] = []
    answers: list[Any] = []
    changed = asyncio.Event()

    def tell(events: list[KeyEvent]) -> None:
        told.extend((event.key, seen(event.entry)) for event in events)
        changed.set()

    async def wait_for(count: int) -> None:
        async with asyncio.timeout(10):
            while len(told) < count:
                changed.clear()
                await changed.wait()

    first = await etcd.put(PREFIX + "a", b"1")
    watching = asyncio.create_task(etcd.watch(PREFIX, first, tell))
    try:
        await wait_for(1)
        answers.append(await etcd.put(PREFIX + "a", b"2") - first)
        lease = await etcd.grant(60)
        created = await etcd.create(PREFIX + "slot", b"mine", lease)
        answers.append(created is not None)
        answers.append(await etcd.create(PREFIX + "slot", b"theirs", lease))
        answers.append(seen(await etcd.get(PREFIX + "slot")))
        answers.append(seen(await etcd.get(PREFIX + "nothing")))
        answers.append(await etcd.keep_alive(lease))
        assert created is not None
        answers.append(await etcd.delete(PREFIX + "slot", created + 1))
        answers.append(await etcd.delete(PREFIX + "slot", created))
        # The key is gone and the lease lives on (etcd issue 14758).
        answers.append(await etcd.keep_alive(lease))
        await etcd.put(PREFIX + "b", b"leased", lease)
        await wait_for(5)
        await etcd.revoke(lease)
        answers.append(await etcd.keep_alive(lease))
        answers.append(await outcome(etcd.put(PREFIX + "c", b"no such lease", lease)))
        answers.append(await outcome(etcd.create(PREFIX + "c", b"no such lease", lease)))
        answers.append(await outcome(etcd.revoke(lease)))
        revision, entries = await etcd.read(PREFIX)
        answers.append((revision - first, [seen(each) for each in entries]))
        answers.append([seen(each) for each in await etcd.read_without_quorum(PREFIX)])
        await wait_for(6)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        etcd.close()
    return [*answers, told]


def run(work: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
    async def inside() -> list[Any]:
        return await work()

    return asyncio.run(inside())


def test_both_answer_alike(real: Cluster, tmp_path: Path) -> None:
    files = real.certificates
    tls = tls_context(files.ca, files.certificate("member"), files.key("member"))
    theirs = run(lambda: script(Etcd(real.endpoints, tls, 10.0)))

    async def on_paper() -> list[Any]:
        engine = PaperEngine()
        try:
            return await script(cast(Etcd, PaperClient(engine, "m0")))
        finally:
            engine.close()

    assert run(on_paper) == theirs


def test_what_is_lost_is_gone_alike() -> None:
    async def work() -> list[Any]:
        engine = PaperEngine()
        etcd, other = PaperClient(engine, "m0", 0.05), PaperClient(engine, "m1", 0.05)
        try:
            await etcd.put("/t/a", b"1")
            engine.cut.add("m0")
            cut = [await outcome(etcd.put("/t/a", b"2")), await outcome(other.put("/t/a", b"3"))]
            engine.cut.clear()
            engine.full = True
            full = [await outcome(etcd.put("/t/a", b"4")), seen(await etcd.get("/t/a"))]
            engine.gone, engine.alone = "no quorum", True
            left = [await outcome(etcd.get("/t/a")), [seen(each) for each in await etcd.read_without_quorum("/t/")]]
            engine.alone = False
            return [*cut, *full, *left, await etcd.read_without_quorum("/t/")]
        finally:
            engine.close()

    old = ("/t/a", b"3", False)
    assert run(work) == [EngineGone, 3, EngineGone, old, EngineGone, [old], []]
