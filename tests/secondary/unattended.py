"""A Maintainer with a real state directory and page that nobody runs: what happens to it, and when, is the test's."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rootsrv.config.file import load
from rootsrv.page.layout import Page
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.store.store import Store
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.delivery import Delivery, Origin
from rootsrv.zone.lease import Reading
from tests.secondary.maintained import configure

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


@dataclass
class Clock:
    """Both clocks, moved by hand."""

    boottime: float = 1_000.0
    began: float = field(default_factory=time.time)

    def __call__(self) -> Reading:
        return Reading(self.began + self.boottime, self.boottime, True)


@contextlib.contextmanager
def unattended(
    directory: Path, clock: Callable[[], Reading], switchover: str = "align_seconds = 0", more: str = ""
) -> Iterator[Maintainer]:
    """One with the root and the zone of its hosts in *directory*, which is let go of at the end.

    *more*: sections of the configuration.
    """
    (directory / "run").mkdir(parents=True, exist_ok=True)
    settings = {"service": ("127.0.0.2", 5300), "admin": ("127.0.0.1", 5301), "switchover": switchover}
    config = load(configure(directory, PRIMARY + more, **settings))  # type: ignore[arg-type]
    store = Store(directory / "state")
    try:
        yield Maintainer(config, store, Page.keep_head(directory / "run" / "page"), clock)
    finally:
        store.close()


def deliver(keeper: ZoneKeeper, contents: ZoneContents, clock: Clock) -> Delivery:
    """*contents* as they come from the primary."""
    reading = clock()
    origin = Origin("one", "axfr", reading.wall, reading.boottime, "one")
    delivery = Delivery(contents, origin, contents.soa.expire, authenticated=True)
    keeper.refresh.delivered("one", contents.serial, reading.boottime)
    keeper.deliver(delivery)
    return delivery


def take_all(maintainer: Maintainer) -> None:
    """Take what was delivered, as the pipeline does, until nothing is left."""
    for keeper in maintainer.zones:
        while keeper.life.queue:
            asyncio.run(maintainer.pipeline.take(keeper, keeper.life.queue.pop(0), at_once=False))
