"""An attempt that ends without a verdict loses nothing that took part in it."""

import asyncio
import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.config.file import load
from rootsrv.page.layout import Page
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.store.store import Store
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.delivery import Delivery, Origin
from rootsrv.zone.lease import Reading
from tests.secondary import versions
from tests.secondary.maintained import configure
from tests.secondary.versions import FIRST

LATER = 120.0  # beyond every wait for what is put off

PRIMARY = """
[[primary]]
name = "one"
address = "127.0.0.1"
key = "transfer.example."
zones = [".", "root-servers.net."]
[[zone]]
name = "root-servers.net."
validation = "none"
"""


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.boottime = 1_000.0

    def __call__(self) -> Reading:
        return Reading(1_800_000_000.0 + self.boottime, self.boottime, True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def maintainer(tmp_path: Path, clock: Clock) -> Iterator[Maintainer]:
    """One with both zones, which nobody runs."""
    (tmp_path / "run").mkdir()
    config = load(configure(tmp_path, PRIMARY, service=("127.0.0.2", 5300), admin=("127.0.0.1", 5301)))
    store = Store(tmp_path / "state")
    try:
        yield Maintainer(config, store, Page.keep_head(tmp_path / "run" / "page"), clock)
    finally:
        store.close()


def delivered(keeper: ZoneKeeper, contents: ZoneContents, clock: Clock) -> Delivery:
    reading = clock()
    origin = Origin("one", "axfr", reading.wall, reading.boottime, "one")
    delivery = Delivery(contents, origin, contents.soa.expire, authenticated=True)
    keeper.refresh.delivered("one", contents.serial, reading.boottime)
    keeper.deliver(delivery)
    return delivery


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
    given = delivered(hosts, versions.hosts(), clock)
    if waits:
        asyncio.run(maintainer.pipeline.take(hosts, hosts.life.queue.pop(), at_once=True))
        assert hosts.life.waiting is given
    delivered(root, versions.version(FIRST), clock)
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
