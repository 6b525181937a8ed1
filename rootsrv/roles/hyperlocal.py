"""Hyperlocal mode, put together: a verified root for the resolver on this host (RFC 8806).

It has the zone from us as from a primary, answers from it, and goes back to the root servers by itself (§3); or it asks
us as it would ask a root server, and we relay to the root servers while our copy is stale.
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
#
# Whoever asks us as a server keeps nothing beyond TTLs, so that there only the lease counts, not the last confirmation.

import asyncio
import dataclasses
import math
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

from rootsrv.answer.responder import ResponderSettings
from rootsrv.config.file import Config
from rootsrv.control.server import ControlServer
from rootsrv.distribution.limits import transfer_limits
from rootsrv.distribution.listener import Listener
from rootsrv.distribution.notify import NotifySender, NotifyTarget
from rootsrv.distribution.offered import OfferedZone
from rootsrv.distribution.requests import Requests
from rootsrv.http.server import CannotListen
from rootsrv.hyperlocal.generated import ROOT_SERVERS, settings_of
from rootsrv.hyperlocal.key_rolls import KeyRolls
from rootsrv.hyperlocal.loopback import ThisHost, told_address
from rootsrv.hyperlocal.over_https import ZoneOverHttps
from rootsrv.page.layout import Page
from rootsrv.process import log, memory
from rootsrv.process.aside import aside
from rootsrv.process.background import Background
from rootsrv.process.child import ChildFailed
from rootsrv.process.clocks import boot_id, clocks
from rootsrv.process.persistence import persistently
from rootsrv.process.security import SecurityEvents
from rootsrv.process.troubles import Troubles
from rootsrv.process.twice import BothDamaged, Twice
from rootsrv.roles import maintain_status
from rootsrv.secondary.confirmed import JITTER, Confirmed, stale, withheld
from rootsrv.secondary.control import ZoneControl
from rootsrv.secondary.in_turn import InTurn
from rootsrv.secondary.loading import LoadingFailed
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.preparation import AnchorsUnreadable, read_anchors
from rootsrv.store.store import Store
from rootsrv.zone import presentation

if TYPE_CHECKING:
    from rootsrv.hyperlocal.answering import LoopbackServer
    from rootsrv.hyperlocal.contributing import Contributor

WATCH_SECONDS = 0.5

NICENESS = 5

KEYS_FILE = "root.key"
"""In the state directory: the root's keys by RFC 5011."""

TRIM_SECONDS = 5.0
"""After a new root, when the resolvers have it: memory goes back."""


async def hyperlocal(config: Config, path: Path, stop: asyncio.Event) -> None:
    """Keep the root current and give it to this host until *stop* is set.

    Raises StoreFailed, LoadingFailed, CannotListen or ConfigError when it cannot start.
    """
    os.nice(NICENESS)
    store = Store(Path(config.state.directory))
    try:
        await Hyperlocal(config, path, store).run(stop)
    finally:
        store.close()


class Hyperlocal:
    """All parts of the role."""

    def __init__(self, config: Config, path: Path, store: Store) -> None:
        self._path = path
        self._settings = settings_of(config)
        self._told = [told_address(each) for each in self._settings.notify]
        self.keys_file = Twice(Path(config.state.directory) / KEYS_FILE, 0o644)
        self._socket = Path(config.state.runtime_directory) / "maintain.sock"
        page = Page.keep_head(Path(config.state.runtime_directory) / "page")
        self.maintainer = Maintainer(config, store, page, clocks(config.clock.source))
        self.maintainer.files.append(self.keys_file)
        self.root = self.maintainer.zones.root
        in_turn = InTurn(list(self.root.sources.values()), lambda: self.root.refresh.serial, self._spread)
        self.root.set_sources({in_turn.name: in_turn})
        self.rolls = self._kept_keys() if self._settings.follow_key_rolls else None
        if self.rolls is not None:
            self.root.policy = dataclasses.replace(self.root.policy, anchors=self.rolls.anchors)
        self.security = SecurityEvents()
        self.offering = Confirmed(self.maintainer.zones, self.maintainer.time, self.security)
        self.sender = NotifySender(config.admin.addresses)
        self.requests = Requests(
            self.offering.zone,
            ThisHost(self.maintainer.zones.counters),
            self.security,
            limits=transfer_limits(config.admin),
        )
        self.listener = Listener(config.admin, self.requests)
        self._contributor: Contributor | None = None
        self.server = self._server(config) if self._settings.answer else None
        self._zone_file = ZoneOverHttps(self._text, Path(config.state.runtime_directory))
        self._trim_at = math.inf
        self._boot = boot_id()
        self._background = Background()
        self._unwritten_keys = Troubles(
            "kept keys of the root cannot be written", "kept keys of the root are written again"
        )
        self.maintainer.activation.on_activated.append(lambda _: self._tell_resolvers())

    def _kept_keys(self) -> KeyRolls:
        """Of the last run, or from what came with the software.  LoadingFailed if that cannot be read."""
        try:
            shipped = read_anchors(self.root.policy)
        except AnchorsUnreadable as error:
            raise LoadingFailed(str(error)) from error
        try:
            kept = self.keys_file.read(lambda octets: KeyRolls.from_text(octets.decode(), shipped))
        except BothDamaged as error:
            log.alarm("kept keys of the root unusable", reason=error, goes_on_from="shipped ones")
            kept = None
        return KeyRolls(shipped) if kept is None else kept

    def _look_at_keys(self) -> None:
        """What the root says of its keys, each time that a publisher has confirmed it."""
        serving = self.root.life.serving
        if self.rolls is None or serving is None or stale(self.root, self.maintainer.time.boottime()):
            return
        confirmed, looked = serving.lease.confirmed_boottime, self.rolls.looked
        if looked is not None and looked.boot == self._boot and confirmed <= looked.boottime:
            return
        for change in self.rolls.observe(serving.contents, self._boot, confirmed, self.maintainer.time.now()):
            if change.endswith("START -> VALID"):  # of one that was shipped
                log.event("the root's keys change (RFC 5011)", serial=serving.serial, change=change)
            else:
                log.alarm("the root's keys change (RFC 5011)", serial=serving.serial, change=change)
        try:
            self.keys_file.write(self.rolls.to_text().encode())
        except OSError as error:
            self._unwritten_keys.met(error)
        else:
            self._unwritten_keys.over()

    def _server(self, config: Config) -> "LoopbackServer":
        """What answers queries."""
        # Who only gives the zone out has no use for the memory that this takes.
        from rootsrv.hyperlocal.answering import Answering, LoopbackServer
        from rootsrv.hyperlocal.relay import Relay

        counters, page = self.maintainer.zones.counters, self.maintainer.page
        count = None
        if self._settings.contribute_to:
            from rootsrv.hyperlocal.contributing import FILE, Contributor, DayCounter

            counter = DayCounter(Path(config.state.directory) / FILE, self.maintainer.time.now)
            count = lambda asker, response: counter.count(  # noqa: E731
                asker.address, over_tcp=asker.over_tcp, response=response
            )
            token_file = Path(self._settings.token_file)
            self._contributor = Contributor(counter, self._settings.contribute_to, token_file, self.maintainer.store)
        relay = Relay(ROOT_SERVERS, counters) if self._settings.on_stale == "relay" else None
        answering = Answering(
            ResponderSettings(max_udp_response_octets=config.service.max_udp_response_octets),
            lambda: page.active,
            self.maintainer.store.open_table,
            lambda: bool(stale(self.root, self.maintainer.time.boottime())),
            relay,
            counters,
            self.security,
            count,
        )
        return LoopbackServer(config.service, answering, relay)

    def _spread(self) -> None:
        self.root.refresh.next_refresh += random.SystemRandom().uniform(0, JITTER) * self.root.refresh.timers.refresh

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set."""
        status = lambda: maintain_status.status(self.maintainer, (), self.security, "")  # noqa: E731
        commands = ZoneControl(self.maintainer, status, self._reload).commands()
        refused = lambda caller, reason: self.security.note("control_refused", caller, reason)  # noqa: E731
        control = ControlServer(commands, refused)
        control.start(self._socket)
        await self.listener.start()
        if self.server is not None:
            await self.server.start()
        if self._settings.https_port:
            await self._give_by_https()
        working = [asyncio.create_task(persistently("watch", self._watch), name="watch")]
        if self._contributor is not None:
            working.append(
                asyncio.create_task(persistently("contributing", self._contributor.run), name="contributing")
            )
        try:
            await self.maintainer.run(stop)
        except* LoadingFailed as group:
            raise group.exceptions[0] from None
        finally:
            control.close()
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            await self._background.cancel()
            self._zone_file.close()
            await self.listener.close()
            if self.server is not None:
                await self.server.close()
            await self.sender.close()

    async def _give_by_https(self) -> None:
        """Few need it, so that it is no reason not to run."""
        addresses, store = self.maintainer.config.admin.addresses, self.maintainer.store
        try:
            await self._zone_file.start(addresses, self._settings.https_port, store)
        except (CannotListen, OSError, ChildFailed, TimeoutError) as error:
            log.alarm("the zone is not given by https", reason=error)
        else:
            log.event("zone by https", addresses=",".join(addresses), port=self._settings.https_port)

    async def _text(self) -> bytes | None:
        """The zone file, while it is given out."""
        serving, now = self.root.life.serving, self.maintainer.time.boottime()
        if serving is None or withheld(self.root, now):
            return None
        self._trim_at = now + TRIM_SECONDS
        return await aside(lambda: presentation.to_text(serving.contents).encode())

    def _reload(self) -> tuple[bool, str]:
        return False, "hyperlocal reads its configuration at the start only: restart it"

    async def _watch(self) -> None:
        """Say when the copy is withheld and when it is given again (RFC 8806 §3: the operator has to know)."""
        given: bool | None = None
        seen: int | None = None
        answered: bool | None = None
        while True:
            now = self.maintainer.time.boottime()
            reason = withheld(self.root, now)
            serial = self.root.life.serving.serial if self.root.life.serving else None
            if given is not (given := not reason):
                if given:
                    log.event("copy is given out", serial=serial)
                    self._tell_resolvers()
                else:
                    log.alarm("copy is withheld", serial=serial, reason=reason, resolver="asks the root servers")
            reason = stale(self.root, now)
            if self.server is not None and answered is not (answered := not reason):
                if answered:
                    log.event("copy answers", serial=serial)
                else:
                    log.alarm("copy is stale", serial=serial, reason=reason, queries=self._settings.on_stale)
            self._look_at_keys()
            if seen != (seen := serial):
                self._trim_at = now + TRIM_SECONDS
            elif now >= self._trim_at:
                self._trim_at = math.inf
                memory.give_back()
            await asyncio.sleep(WATCH_SECONDS)

    def _tell_resolvers(self) -> None:
        zone = self.offering.zone(self.root.policy.apex)
        if zone is not None and zone.offer is not None and self._told:
            self._background.begin(self._tell(zone))

    async def _tell(self, zone: OfferedZone) -> None:
        if zone.offer is None:
            return
        await zone.whole()  # ready before the resolver comes for it
        targets = [NotifyTarget(f"{each}@{port}", each, port, None, lambda _: None) for each, port in self._told]
        self.sender.tell(zone, targets)
