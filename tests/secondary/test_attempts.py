"""An attempt that ends without a verdict loses nothing that took part in it."""

import asyncio
import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.switchover import Switchover, SwitchoverVoid
from rootsrv.store.store import StoreFailed
from tests.secondary import versions
from tests.secondary.unattended import Clock, deliver, unattended
from tests.secondary.versions import FIRST

LATER = 120.0  # beyond every wait for what is put off


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def maintainer(tmp_path: Path, clock: Clock) -> Iterator[Maintainer]:
    with unattended(tmp_path, clock) as made:
        yield made


def no_process() -> int:
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def no_anchors() -> str:
    raise OSError(errno.ENOENT, "No such file")


@pytest.mark.parametrize("fault", ["no process", "no anchors"])
@pytest.mark.parametrize("waits", [False, True], ids=["queued", "waits for a root"])
def test_the_zone_of_the_hosts_is_tried_again_by_itself(
    maintainer: Maintainer, clock: Clock, fault: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, hosts = maintainer.zones.root, maintainer.zones.hosts
    assert hosts is not None
    given = deliver(hosts, versions.hosts(), clock)
    if waits:
        asyncio.run(maintainer.pipeline.take(hosts, hosts.life.queue.pop(), at_once=True))
        assert hosts.life.waiting is given
    deliver(root, versions.version(FIRST), clock)
    if fault == "no process":
        monkeypatch.setattr(os, "fork", no_process)
    else:
        root.policy = replace(root.policy, anchors=no_anchors)
    asyncio.run(maintainer.pipeline.take(root, root.life.queue.pop(), at_once=True))

    assert root.life.last_rejection.startswith(f"{FIRST} from one: ")
    assert not root.life.is_under_way(FIRST)
    clock.boottime += LATER
    maintainer.pipeline.watch()
    assert hosts.life.is_under_way(FIRST)
    assert hosts.life.queue == [given]  # as it came: it has to be kept before it is served


@pytest.mark.parametrize("differs", [False, True], ids=["could not be mapped", "answers otherwise"])
def test_no_two_tables_have_one_number_whatever_became_of_the_first(
    tmp_path: Path, clock: Clock, differs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, the kernel and who probes may have it mapped still, and know it by its number; so after a restart."""
    numbers: list[int] = []

    async def void(self: Switchover, generation: int) -> None:
        numbers.append(generation)
        self.void(generation, "a fault")
        raise SwitchoverVoid("a fault", differs=differs)

    def take(maintainer: Maintainer, serial: int) -> None:
        root = maintainer.zones.root
        deliver(root, versions.version(serial), clock)
        asyncio.run(maintainer.pipeline.take(root, root.life.queue.pop(), at_once=True))

    with unattended(tmp_path, clock) as maintainer:
        take(maintainer, FIRST)
        assert maintainer.page.active == 1
        monkeypatch.setattr(Switchover, "stage", void)
        take(maintainer, FIRST + 1)
        take(maintainer, FIRST + 2)
        assert list(maintainer.store.generations()) == [1]
    with unattended(tmp_path, clock) as maintainer:
        asyncio.run(maintainer.resume())
        take(maintainer, FIRST + 3)
    assert numbers == [2, 3, 4]


def test_a_table_whose_number_cannot_be_remembered_stays(
    maintainer: Maintainer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = maintainer.zones.root
    deliver(root, versions.version(FIRST), clock)
    asyncio.run(maintainer.pipeline.take(root, root.life.queue.pop(), at_once=True))
    write_ledger = maintainer.store.write_ledger

    def full(record: object) -> None:
        raise StoreFailed("no space left on device")

    monkeypatch.setattr(maintainer.store, "write_ledger", full)
    (maintainer.store.table(1).with_name("7.table")).write_bytes(b"of an attempt that was not to be")
    maintainer.activation.retire_others()
    assert set(maintainer.store.generations()) == {1, 7}
    monkeypatch.setattr(maintainer.store, "write_ledger", write_ledger)
    maintainer.activation.retire_others()
    assert set(maintainer.store.generations()) == {1}
    assert maintainer.records.next_generation(1) == 8
