"""Hyperlocal mode, put together: a verified root for the resolver on this host, which has it from us as from a primary.

The resolver's own auth-zone or mirror answers from it, and goes back to the root servers by itself (RFC 8806 §3).
"""
# Theory of operation
# -------------------
# Everything up to a verified version in service is what `maintain` does too.  There are no workers, so that "in
# service" means given out.
#
#                    a publisher confirms it, or a newer one verified
#     WITHHELD ────────────────────────────────────────────────────────▶ GIVEN  (NOTIFY)
#        ▲                                                                 │
#        └─────────────────────────────────────────────────────────────────┘
#          nobody confirmed it for one refresh and two retries, its lease is over, or a newer root is beyond us
#
# WITHHELD answers SERVFAIL, also to SOA, long before the lease is over.  A resolver counts SOA expire from our last
# answer (Unbound knows no EXPIRE): if we said "current" up to the end of our lease, it would use the zone for twice as
# long as RFC 8806 §3 allows.  So it counts from about when a publisher last confirmed the zone, as we do.

import asyncio
import os
import random
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from rootsrv.config.file import Config
from rootsrv.control.server import ControlServer
from rootsrv.distribution.limits import transfer_limits
from rootsrv.distribution.listener import Listener
from rootsrv.distribution.notify import NotifySender, Target
from rootsrv.distribution.offered import OfferedZone
from rootsrv.distribution.requests import Requests
from rootsrv.hyperlocal.loopback import ThisHost
from rootsrv.page.layout import Page
from rootsrv.process import log
from rootsrv.process.clocks import clocks
from rootsrv.process.security import SecurityEvents
from rootsrv.roles import maintain_status
from rootsrv.secondary.control import Control
from rootsrv.secondary.delivery import Version
from rootsrv.secondary.in_turn import InTurn
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.loading import LoadingFailed
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.offering import Offering
from rootsrv.secondary.preparation import is_beyond_us
from rootsrv.store.store import Store

WATCH_SECONDS = 0.5

JITTER = 0.1
"""Of a refresh, at most: so much later the next publisher is asked, so that hosts started together drift apart."""

NICENESS = 5


async def hyperlocal(config: Config, path: Path, told: Sequence[tuple[str, int]], stop: asyncio.Event) -> None:
    """Keep the root current and give it to this host until *stop* is set; *told* are the resolvers that hear NOTIFY.

    Raises StoreFailed, LoadingFailed, CannotListen or ConfigError when it cannot start.
    """
    os.nice(NICENESS)
    store = Store(Path(config.state.directory))
    try:
        await Hyperlocal(config, path, told, store).run(stop)
    finally:
        store.close()


def withheld(keeper: ZoneKeeper) -> str:
    """Why what is in service is not given out; empty if it is."""
    serving = keeper.serving
    if serving is None:
        return "no root has been verified yet"
    beyond = [reason for each in keeper.held.values() if is_beyond_us(each.reasons) for reason in each.reasons]
    if beyond:
        return f"a newer root is beyond this version of the software: {beyond[0]}"
    if keeper.is_over():
        return "its lease is over"
    timers = keeper.refresh.timers
    unconfirmed = keeper.boottime() - serving.lease.confirmed_boottime
    if unconfirmed > timers.refresh * (1 + JITTER) + 2 * timers.retry:
        why = f" ({keeper.last_rejection})" if keeper.last_rejection else ""
        return f"no publisher has confirmed it for {unconfirmed:.0f} s{why}"
    return ""


class Confirmed(Offering):
    """Gives out only what a publisher has confirmed lately."""

    def _left(self, keeper: ZoneKeeper, version: Version) -> float:
        return 0.0 if withheld(keeper) else super()._left(keeper, version)


class Hyperlocal:
    """All parts of the role."""

    def __init__(self, config: Config, path: Path, told: Sequence[tuple[str, int]], store: Store) -> None:
        self._path = path
        self._told = told
        self._socket = Path(config.state.runtime_directory) / "maintain.sock"
        page = Page.keep_head(Path(config.state.runtime_directory) / "page")
        self.maintainer = Maintainer(config, store, page, clocks(config.clock.source))
        self.root = self.maintainer.zones.root
        in_turn = InTurn(list(self.root.sources.values()), lambda: self.root.refresh.serial, self._spread)
        self.root.set_sources({in_turn.name: in_turn})
        self.security = SecurityEvents()
        self.offering = Confirmed(self.maintainer.zones, self.security)
        self.sender = NotifySender(config.admin.addresses)
        self.requests = Requests(
            self.offering.zone,
            ThisHost(self.maintainer.zones.counters),
            self.security,
            limits=transfer_limits(config.admin),
        )
        self.listener = Listener(config.admin, self.requests)
        self._background: set[asyncio.Task[None]] = set()
        self.maintainer.pipeline.activation.on_activated.append(lambda _: self._tell_resolvers())

    def _spread(self) -> None:
        self.root.refresh.next_refresh += random.SystemRandom().uniform(0, JITTER) * self.root.refresh.timers.refresh

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set."""
        status = lambda: maintain_status.status(self.maintainer, (), self.security, "")  # noqa: E731
        commands = Control(self.maintainer, status, self._reload).commands()
        refused = lambda caller, reason: self.security.note("control_refused", caller, reason)  # noqa: E731
        control = ControlServer(commands, refused)
        control.start(self._socket)
        await self.listener.start()
        watching = asyncio.create_task(self._watch(), name="watch")
        try:
            await self.maintainer.run(stop)
        except* LoadingFailed as group:
            raise group.exceptions[0] from None
        finally:
            control.close()
            for task in (watching, *self._background):
                task.cancel()
            await asyncio.gather(watching, *self._background, return_exceptions=True)
            await self.listener.close()
            await self.sender.close()

    def _reload(self) -> tuple[bool, str]:
        return False, "hyperlocal reads its configuration at the start only: restart it"

    async def _watch(self) -> None:
        """Say when the copy is withheld and when it is given again (RFC 8806 §3: the operator has to know)."""
        given: bool | None = None
        while True:
            reason = withheld(self.root)
            serial = self.root.serving.serial if self.root.serving else None
            if given is not (given := not reason):
                if given:
                    log.event("copy is given out", serial=serial)
                    self._tell_resolvers()
                else:
                    log.alarm("copy is withheld", serial=serial, reason=reason, resolver="asks the root servers")
            await asyncio.sleep(WATCH_SECONDS)

    def _tell_resolvers(self) -> None:
        zone = self.offering.zone(self.root.policy.apex)
        if zone is not None and zone.offer is not None and self._told:
            self._in_background(self._tell(zone))

    async def _tell(self, zone: OfferedZone) -> None:
        if zone.offer is None:
            return
        await zone.whole()  # ready before the resolver comes for it
        targets = [Target(f"{each}@{port}", each, port, None, lambda _: None) for each, port in self._told]
        self.sender.tell(zone, targets)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "something in the background failed", "exception": error, "task": task}
            asyncio.get_running_loop().call_exception_handler(context)
