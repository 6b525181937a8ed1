"""The LocalRoot service, put together: verified zones, who may have them, NOTIFY, https, what is observed."""
# Over 400 lines: it is where the service is put together, and nothing else is.
#
# Theory of operation
# -------------------
# Everything up to a verified root in service is what `maintain` does too, without workers: nobody answers from it.
# Beside it go the zones that are only given out (secondary/distributed.py).  What is given out is what a publisher has
# confirmed lately (secondary/confirmed.py).
#
#     the register ──(read again when it changes)──▶ directory ◀── requests ── listeners
#                                                        │            │
#          a new version ──▶ NOTIFY, paced ◀─────────────┘            ▼
#                       └──▶ https                              observations ──▶ the pages, another process
#
# Nothing of this waits for the register, the observations or the statistics: what cannot be read stays as it was known,
# what cannot be written waits in memory.

import asyncio
import dataclasses
import math
import os
import random
import time
from pathlib import Path
from typing import Any

from rootsrv.config.file import Config
from rootsrv.config.localroot import DistributeConfig
from rootsrv.control.protocol import Command, Commands, Nothing, Order
from rootsrv.control.server import ControlServer
from rootsrv.distribution import certificates
from rootsrv.distribution.listener import Listener
from rootsrv.distribution.notify import NotifyOutcome, NotifySender, NotifyTarget, Told, spacing
from rootsrv.distribution.offered import OfferedZone, OfferState
from rootsrv.distribution.requests import ConfiguredPeers, Requests
from rootsrv.localroot import observations as observed
from rootsrv.localroot import register
from rootsrv.localroot.by_https import ZonesByHttps
from rootsrv.localroot.canary import configured_canary, keys_file
from rootsrv.localroot.directory import RegisteredServers, ZoneRule
from rootsrv.localroot.observations import Notified, Observations, ObservationsUnusable, Observed
from rootsrv.localroot.settings import limits_of, listening_of, refuse
from rootsrv.localroot.statistics import SubscriberStatistics
from rootsrv.localroot.subscribers import Subscribers
from rootsrv.page.layout import Page
from rootsrv.process import log, memory
from rootsrv.process.aside import aside
from rootsrv.process.background import Background
from rootsrv.process.clocks import clocks
from rootsrv.process.persistence import failing, persistently
from rootsrv.process.security import SecurityEvents
from rootsrv.roles import maintain_status
from rootsrv.roles.maintain import keys_of
from rootsrv.secondary.confirmed import Confirmed, withheld
from rootsrv.secondary.control import ZoneControl
from rootsrv.secondary.distributed import DistributedZones, OwnZone
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.loading import LoadingFailed
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.sources import MadeSource
from rootsrv.store.store import Store
from rootsrv.wire import rdata as rdatas
from rootsrv.zone import public_keys  # noqa: F401  (what verifies is a fork of ours, and has it then)
from rootsrv.zone.shape import has_records

NICENESS = 5
WATCH_SECONDS = 0.5
REGISTER_SECONDS = 1.0
"""How often the register is asked whether it has changed: a key that was deleted goes on for so long."""

CANARY_SECONDS = 10.0
"""How often a new version of the canary may be had: each tells all who have it."""

TOLD_AT_A_TIME = 100
"""NOTIFYs that are prepared in a turn of the event loop."""

LOOKED_AT_A_TIME = 1000
"""Servers of which is asked in a turn whether they have the version already: a millisecond or two."""

AGAIN_SECONDS = 5.0
"""How soon addresses or certificates are tried again that could not be had."""


async def localroot(config: Config, path: Path, stop: asyncio.Event) -> None:
    """Keep the zones current and give them out until *stop* is set.

    Raises StoreFailed, LoadingFailed or ConfigError when it cannot start.
    """
    os.nice(NICENESS)
    refuse(config)
    store = Store(Path(config.state.directory))
    try:
        await LocalRoot(config, path, store).run(stop)
    finally:
        store.close()


class LocalRoot:
    """All parts of the role."""

    def __init__(self, config: Config, path: Path, store: Store) -> None:
        self.settings = refuse(config)
        # There is nobody to go into service in step with.
        at_once = dataclasses.replace(config.switchover, align_seconds=0, lead_seconds=0)
        config = dataclasses.replace(config, switchover=at_once)
        state = Path(config.state.directory)
        canary_keys = keys_file(state)
        canary = configured_canary(self.settings, canary_keys)
        self._runtime = Path(config.state.runtime_directory)
        page = Page.keep_head(self._runtime / "page")
        self.maintainer = Maintainer(config, store, page, clocks(config.clock.source))
        zones = self.maintainer.zones
        own = []
        if canary is not None:
            self.maintainer.files.append(canary_keys)
            made = MadeSource(lambda newest: canary.make(newest, self.maintainer.time.now()))
            of_ours = DistributeConfig(name=canary.zone, owner=self.settings.name, zonemd="required")
            own.append(OwnZone(of_ours, made, canary.delegation))
        self.distributed = DistributedZones(config, store, self.maintainer.records, zones.root, zones.counters, own)
        self.keepers: list[ZoneKeeper] = [*zones, *self.distributed.keepers.values()]
        self.security = SecurityEvents()
        self.offering = Confirmed(self.keepers, self.maintainer.time, self.security, state=OfferState.DISTRIBUTE_ONLY)
        self.offering.configure(config.primary)
        self.observations = Observations(state / observed.FILE)
        self.statistics = SubscriberStatistics(
            self.settings.name, self.observations, Path(self.settings.statistics_directory), time.time
        )
        self.servers = RegisteredServers(self.observations, self.statistics, self._rule, is_open=self.settings.open)
        self._recall()
        self._subscribers = Subscribers(state / register.DIRECTORY)
        self._register_error = ""
        self.requests = Requests(self.offering.zone, self.servers, self.security, limits=limits_of(self.settings))
        self.listener = Listener(
            listening_of(self.settings), self.requests, key="localroot.addresses", called="LocalRoot service"
        )
        peers = ConfiguredPeers(self.maintainer.time.now)
        peers.configure(keys_of(config, missing_ok=True), ())
        self._admin = Listener(config.admin, Requests(self.offering.zone, peers, self.security, self.offering.notified))
        self.sender = NotifySender(self.settings.addresses, alarms=False)  # each is observed, and there are thousands
        self._background = Background()
        self._canary_wanted_at = -math.inf
        self._given: dict[str, int | None] = {each.name: None for each in self.keepers}
        """By zone: the serial that is given out; None: nothing is."""

        self.https = ZonesByHttps(self.settings, store, self._given, self.statistics.fetched)
        self._news = asyncio.Event()
        self.maintainer.activation.on_activated.append(lambda _: self._news.set())
        self.distributed.on_given.append(lambda _: self._news.set())

    def _recall(self) -> None:
        """What was observed before a restart: which addresses are proved, who had what."""
        before = Observed(self.observations.path)
        try:
            self.servers.recall(before.all(observed.Proved), before.all(observed.TransferSeen))
            for keeper in self.keepers:
                if newest := before.fresh(keeper.name, 1):
                    self.statistics.recall_fresh(newest[0])
        except ObservationsUnusable as error:
            log.alarm("observations cannot be read", reason=error, effect="addresses have to be proved again")

    def _rule(self, apex: bytes) -> ZoneRule | None:
        for keeper in self.keepers:
            if keeper.policy.apex == apex:
                serving = keeper.life.serving
                whole = (
                    serving is not None
                    and keeper.policy.validation == "required"
                    and keeper.policy.zonemd != "off"
                    and has_records(serving.contents, apex, rdatas.ZONEMD)
                )
                return ZoneRule(keeper.name, whole)
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set."""
        status = lambda: maintain_status.status(self.maintainer, (), self.security, "")  # noqa: E731
        controls = [
            (ZoneControl(self.maintainer, status, self._reload).commands(), "maintain.sock"),
            (self._commands(), "localroot.sock"),
        ]
        refused = lambda caller, reason: self.security.note("control_refused", caller, reason)  # noqa: E731
        servers = []
        for commands, name in controls:
            servers.append(ControlServer(commands, refused))
            servers[-1].start(self._runtime / name)
        working = [
            asyncio.create_task(persistently(name, attempt), name=name)
            for name, attempt in (
                ("listening", lambda: self._listen(self.listener)),
                ("administrative addresses", lambda: self._listen(self._admin)),
                ("distributed", self.distributed.run),
                ("register", self._follow_register),
                ("observations", self._write_forever),
                *([("https", self.https.run)] if self.settings.https_port else []),
                ("watch", self._watch),
                *([("certificates", self._follow_certificates)] if self.settings.tls_certificate else []),
            )
        ]
        try:
            await self.maintainer.run(stop)
        except* LoadingFailed as group:
            raise group.exceptions[0] from None
        finally:
            for server in servers:
                server.close()
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            await self._background.cancel()
            for listener in (self.listener, self._admin):
                await listener.close()
            await self.sender.close()
            await asyncio.to_thread(self.observations.close)

    def _reload(self) -> tuple[bool, str]:
        return False, "localroot reads its configuration at the start only (keys and certificates always): restart it"

    async def _listen(self, listener: Listener) -> None:
        """What cannot be had yet is tried again: an address, a certificate."""
        await listener.close()
        await listener.start(without_tls_if_need_be=True)
        while listener.lacks:
            await asyncio.sleep(AGAIN_SECONDS)
            await listener.close()
            await listener.start(without_tls_if_need_be=True)

    # Who there is.

    async def _follow_register(self) -> None:
        known, loaded_at = -1, 0.0
        nudge: int | None = None
        while True:
            try:
                changes = await asyncio.to_thread(self._subscribers.changes)
                if not changes and known > 0:
                    # Nobody deletes all accounts that way: what is observed of them must not go with a lost file.
                    raise register.RegisterUnusable(f"{self._subscribers.path}: is gone")
                if changes not in (0, known):
                    loaded_at = time.time()
                    subscriptions = await asyncio.to_thread(self._subscribers.load, loaded_at)
                    self.servers.take(await aside(lambda made=subscriptions: self.servers.learned(made)))  # type: ignore[misc]
                    if known < 0:
                        memory.is_loaded()
                    known = subscriptions.changes
                    counts = self.servers.counts
                    log.event("register read", servers=counts["servers"], keys=counts["keys"])
                nudges = await asyncio.to_thread(self._subscribers.nudges, nudge or 0)
                if nudge is None:
                    # What was asked for before we ran is over; by number, since the clock may have been ahead then.
                    nudge, nudges = (nudges[-1].id if nudges else 0), []
            except register.RegisterUnusable as error:
                if self._register_error != (reason := str(error)):
                    log.alarm("register cannot be read", reason=reason, effect="what was known of it goes on")
                self._register_error = reason
            else:
                self._register_error = ""
                for each in nudges:
                    nudge = each.id
                    if each.zone != self.settings.canary_zone or not self._make_canary():
                        self._tell(each.zone, only=each.server)
            await asyncio.sleep(REGISTER_SECONDS)

    async def _write_forever(self) -> None:
        while True:
            await asyncio.to_thread(self.observations.write)
            if self.statistics.tick():
                await asyncio.to_thread(self.statistics.write)
            await asyncio.sleep(1.0)

    # What is given out.

    async def _watch(self) -> None:
        """Say when a zone is given out and when it is withheld; tell who wants to know."""
        while True:
            self._news.clear()
            for keeper in self.keepers:
                self._look_at(keeper)
            try:
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _look_at(self, keeper: ZoneKeeper) -> None:
        zone = self.offering.zone(keeper.policy.apex)
        offer = zone.offer if zone is not None else None
        serial = offer.serial if offer is not None else None
        before = self._given[keeper.name]
        if serial == before:
            return
        self._given[keeper.name] = serial
        if serial is None:
            reason = withheld(keeper, self.maintainer.time.boottime())
            log.alarm(
                "zone is withheld", zone=keeper.name, serial=before, reason=reason, resolvers="use what they have"
            )
            return
        log.event("zone is given out", zone=keeper.name, serial=serial)
        since = self.statistics.published(keeper.name, serial)
        self._tell(keeper.name)
        if self.settings.https_port and offer is not None:
            self._background.begin(self.https.publish(keeper.name, offer.contents, since))

    def _make_canary(self) -> bool:
        """Have another version of the canary made, of which all are told who have it; False: there is a new one."""
        keeper = self.distributed.keepers[self.settings.canary_zone]
        now = self.maintainer.time.boottime()
        if now < self._canary_wanted_at + CANARY_SECONDS:
            return False
        self._canary_wanted_at = now
        keeper.ask_all()
        return True

    def _tell(self, name: str, only: int | None = None) -> None:
        keeper = next((each for each in self.keepers if each.name == name), None)
        zone = self.offering.zone(keeper.policy.apex) if keeper is not None else None
        if zone is not None and zone.offer is not None:
            self._background.begin(self._notify(zone, only))

    async def _notify(self, zone: OfferedZone, only: int | None) -> None:
        offer = zone.offer
        if offer is None:
            return
        octets = (await zone.whole()).octets  # ready before the first one comes for it
        found = await self._servers_by_address(zone.name, offer.serial, only)
        addresses = list(found)
        random.shuffle(addresses)  # nobody is always the last
        if addresses:
            log.event("notify", zone=zone.name, serial=offer.serial, addresses=len(addresses))
        for at in range(0, len(addresses), TOLD_AT_A_TIME):
            told = [self._target(zone.name, each, found[each]) for each in addresses[at : at + TOLD_AT_A_TIME]]
            self.sender.tell(zone, told, spacing(octets, self.settings.mbit_per_second))
            await asyncio.sleep(0)  # ten thousand take half a second

    async def _servers_by_address(self, zone: str, serial: int, only: int | None) -> "dict[str, list[tuple[int, Any]]]":
        """Who is to be told, with the key to sign with; a little at a time."""
        found: dict[str, list[tuple[int, Any]]] = {}
        for at, (server, address, key) in enumerate(self.servers.to_notify(zone, only)):
            if at % LOOKED_AT_A_TIME == LOOKED_AT_A_TIME - 1:
                await asyncio.sleep(0)
            if only is not None or not self.statistics.has(server, zone, serial):
                found.setdefault(address, []).append((server, key))
        return found

    def _target(self, zone: str, address: str, servers: "list[tuple[int, Any]]") -> NotifyTarget:
        """Where several servers share an address, all are told what became of it."""
        ids = [server for server, _ in servers]
        key = servers[0][1] if len(servers) == 1 else None

        def report(told: Told) -> None:
            self._told(zone, address, ids, told)

        return NotifyTarget(f"server {ids[0]} {address}", address, self.settings.notify_port, key, report)

    def _told(self, zone: str, address: str, servers: list[int], told: Told) -> None:
        first = time.time() - told.seconds
        self.statistics.notified(zone, told)
        for server in servers:
            if told.outcome is NotifyOutcome.SENT:
                self.servers.notified(server, zone, told.serial, first)
            self.observations.note(
                Notified(
                    server,
                    address,
                    zone,
                    told.serial,
                    first,
                    str(told.outcome),
                    told.rcode,
                    told.tries,
                    told.seconds,
                    told.reason,
                )
            )

    async def _follow_certificates(self) -> None:
        def reload() -> None:
            self.listener.reload_certificate()
            self.https.reload_certificate()

        await certificates.follow((Path(self.settings.tls_certificate), Path(self.settings.tls_key)), reload)

    # Status.

    def _commands(self) -> Commands:
        """Of its control socket."""

        async def status(order: Order[Nothing]) -> dict[str, Any]:
            return self.status()

        return {"status": Command(status, Nothing, changes=False)}

    def status(self) -> dict[str, Any]:
        """Everything as it is now."""
        now = self.maintainer.time.boottime()
        return {
            "role": "localroot",
            "pid": os.getpid(),
            "zones": [self._status_of(keeper, now) for keeper in self.keepers],
            **{key: self.servers.counts[key] for key in ("servers", "keys", "proved_addresses")},
            "transfers_running": self.requests.counts.running,
            "notify_on_their_way": self.sender.on_their_way,
            "counters": dict(self.statistics.total),
            "security_events": dict(self.security.counts),
            "register_error": self._register_error,
            "observations_error": self.observations.error,
            "statistics_error": self.statistics.error,
            "tls_lacks": self.listener.lacks,
            "failing": dict(failing),
        }

    def _status_of(self, keeper: ZoneKeeper, now: float) -> dict[str, Any]:
        settings = self.distributed.settings.get(keeper.name)
        given = self._given[keeper.name]
        _, subscribers, with_newest, age = self.statistics.freshness().get(keeper.name, (0, 0, 0, 0.0))
        return {
            "name": keeper.name,
            "owner": settings.owner if settings is not None else "",
            "given": given,
            "withheld": withheld(keeper, now) if given is None else "",
            "last_rejection": keeper.life.last_rejection,
            "subscribers": subscribers,
            "with_newest": with_newest,
            "newest_age_seconds": round(age, 1),
        }
