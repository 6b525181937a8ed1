"""An attempt that ends without a verdict loses nothing that took part in it."""

import asyncio
import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.secondary.maintainer import Maintainer
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
