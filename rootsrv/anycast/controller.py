"""The controller (role *advertise*): probes, decides, holds the lease in the kernel, steers BIRD, says what it does."""
# Over 400 lines: it is one loop, and the order of its steps is the promise.
#
# Theory of operation
# -------------------
# One loop does everything that the promise rests on, in this order and at fixed intervals:
#
#   probe ──▶ judge ──▶ observe (health/state) ──▶ renew the anchor's lifetime, or remove it
#
# so a renewal is never older than the evidence for it, and whatever stops the loop stops the renewals.  Beside it and
# never in its way: asking the other roles (witness.py) and steering BIRD.  BIRD may be slow, stopped or gone: the
# anchor alone decides whether there is a route, and removing it needs nobody's help.  Only before a prefix is announced
# anew is BIRD asked first, since a route must not come up with the attributes of another state.

import asyncio
import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rootsrv.answer.table import TableUnusable
from rootsrv.anycast.bird import Bird, BirdError
from rootsrv.anycast.dot_watch import DotWatch
from rootsrv.anycast.fastpath_watch import FastPathWatch
from rootsrv.anycast.flaps import keep_flaps
from rootsrv.anycast.floor_watch import FloorWatch
from rootsrv.anycast.netlink import Interface, NetlinkFailed, ServiceInterface, full_accept_queues
from rootsrv.anycast.probe import Address, Expectations, Prober
from rootsrv.anycast.route import Route, RouteReading
from rootsrv.anycast.traffic import Traffic
from rootsrv.anycast.wishes import Orders
from rootsrv.anycast.witness import Witness, boottime
from rootsrv.config.anycast import AnycastConfig
from rootsrv.health.evidence import (
    Cause,
    EvidencePolicy,
    Instance,
    Judgement,
    Load,
    Probe,
    ProbeOutcome,
    ProbeTransport,
    Round,
    RoundVerdict,
    judge,
)
from rootsrv.health.floor import CLASSES, Class, Floor, failed, needs_token, soften
from rootsrv.health.state import Announcement, Change, Flaps, Health, Steadiness, Wish
from rootsrv.process import log, service_manager
from rootsrv.process.children import describe_error
from rootsrv.process.persistence import persistently
from rootsrv.process.troubles import Troubles

CONFIRM_SECONDS = 3.0
"""After so long without a confirmation from BIRD there is an alarm: a change takes it a few milliseconds."""

_STEER_AGAIN_SECONDS = 0.1

_MAX_NETLINK_FAULTS = 5
"""After so many rounds in which the kernel could not be asked the role ends, to be started with another socket."""

Replies = Callable[[], Mapping[tuple[ProbeTransport, int], int]]
"""Replies that all workers have sent since ever, by transport and IP version."""


@dataclass
class Family:
    """One IP version: its service addresses, its prefix, its state."""

    version: int
    anchor: Interface
    prober: Prober
    health: Health
    route: Route
    traffic: Traffic = field(default_factory=Traffic)
    judgement: Judgement | None = None
    probes: tuple[Probe, ...] = ()
    by_token: bool = False
    """It is withdrawn for a cause that can wait, with a token of the mesh's floor."""

    held: bool = False
    """Whether the anchor is there, as far as we know."""

    reading: RouteReading = field(default_factory=lambda: RouteReading(Announcement.WITHDRAWN, False, "not asked yet"))
    unconfirmed_since: float | None = None
    alarmed: bool = False
    fault: str = ""
    """Why the kernel does not do what was decided; empty = it does."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    read: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever BIRD was read back."""

    own: int = 0
    """Replies to our own probes, since start."""

    alarms: tuple[str, ...] = ()


class Controller:
    """Runs all families until stopped."""

    def __init__(
        self,
        *,
        config: AnycastConfig,
        port: int,
        addresses: tuple[Address, ...],
        expected: Expectations,
        witness: Witness,
        fastpath: FastPathWatch,
        floor: FloorWatch | None,
        interface: ServiceInterface,
        bird: Bird,
        replies: Replies,
        orders: Orders,
        flaps: dict[int, Flaps],
        flaps_path: Path,
        boot_id: str,
        dot: DotWatch | None = None,
    ) -> None:
        """*dot*: watches DNS over TLS; None: there is none."""
        self._config = config
        self._dot = dot
        self._port = port
        self._expected = expected
        self._witness = witness
        self._fastpath = fastpath
        self.floor = floor
        """Of the mesh; None: this instance is in none."""

        self._interface = interface
        self._replies = replies
        self._orders = orders
        self._flaps_path = flaps_path
        self._failing = Troubles("round failed", "rounds are made again")
        self._boot_id = boot_id
        self._kept_flaps: dict[int, Flaps] = {}
        self._netlink_faults = 0
        self._policy = EvidencePolicy(
            stale_soft_seconds=config.stale_soft_seconds,
            stale_hard_seconds=config.stale_hard_seconds,
            transport_dead_fails=config.on_transport_dead == "withdraw",
            stale_soft_degrades=config.on_stale_soft == "degrade",
            stale_hard_withdraws=config.on_stale_hard == "withdraw",
            fastpath_wrong_detaches=config.on_fastpath_wrong == "detach",
        )
        limits = Steadiness(
            rise=config.rise,
            fall=config.fall,
            hold_down_seconds=config.hold_down_seconds,
            hold_down_max_seconds=config.hold_down_max_seconds,
            flap_memory_seconds=config.flap_memory_seconds,
            lease_seconds=config.lease_seconds,
        )
        self.families = tuple(
            self._family(version, limits, bird, addresses, flaps.get(version)) for version in config.versions()
        )

    def _family(
        self, version: int, limits: Steadiness, bird: Bird, addresses: tuple[Address, ...], flaps: Flaps | None
    ) -> Family:
        config = self._config
        anchor = config.anchor(version)
        assert anchor is not None
        inside = [each for each in addresses if each.version == version and each in anchor.network]
        prober = Prober(inside, self._port, config.probe_timeout_seconds, self._expected)
        direct, bgp = (config.direct_v4, config.bgp_v4) if version == 4 else (config.direct_v6, config.bgp_v6)
        route = Route(bird, str(anchor.network), direct, bgp)
        return Family(version, anchor, prober, Health(limits, boottime(), flaps), route)

    async def run(self, stop: asyncio.Event) -> None:
        """Announce while the service is right, until *stop* is set; then withdraw, confirm, linger (D35)."""
        there = await self._interface.addresses()
        for family in self.families:
            family.held = family.anchor in there  # left by a controller that was killed
        floors = [] if self.floor is None else [self.floor]
        dots = [] if self._dot is None else [self._dot]
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(persistently("witness", self._witness.watch), name="witness"),
                tasks.create_task(persistently("fast path watch", self._fastpath.watch), name="fast-path"),
                *(tasks.create_task(persistently("floor", each.watch), name="floor") for each in floors),
                *(tasks.create_task(persistently("DNS over TLS", each.watch), name="dot") for each in dots),
                *(tasks.create_task(self._steered(each)) for each in self.families),
            ]
            try:
                await self._rounds(stop)
            finally:
                await self._withdraw_all()
                for task in background:
                    task.cancel()

    async def _steered(self, family: Family) -> None:
        """BIRD, for ever."""
        await persistently(f"steering BIRD, IPv{family.version}", functools.partial(self._steer, family))

    async def _rounds(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            try:
                await self._round()
                self._failing.over()
            except NetlinkFailed:
                raise
            except Exception as error:
                # One round, not the role: what it promises is a lease, which ends by itself when no round renews it.
                self._failing.met(describe_error(error))
            service_manager.alive()
            service_manager.ready("the service is judged")
            # A late round moves the next ones; they are never made up for in a burst.
            due = max(due + self._config.probe_interval_seconds, loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await stop.wait()

    async def _round(self) -> None:
        alarms: list[str] = []
        try:
            host = await self._interface.host_addresses()
            self._netlink_faults = 0
        except NetlinkFailed as error:
            self._netlink_faults += 1
            if self._netlink_faults >= _MAX_NETLINK_FAULTS:
                raise
            host = frozenset()
            alarms.append(str(error))
        try:
            await self._expected.refresh()
        except (OSError, TableUnusable) as error:
            alarms.append(f"answer table: {error}")
        # Only replies sent while the probes waited tell a busy service from one that died since the last round.
        before = self._replies()
        await asyncio.gather(*(self._probe(family, host) for family in self.families))
        after = self._replies()
        instance = self._observe_instance()
        now = boottime()
        for family in self.families:
            load = await self._load(family, before, after)
            family.judgement = judge(Round(family.probes, load), instance, self._policy)
        floor = self._observe_floor()
        for family in self.families:
            assert family.judgement is not None
            # Whoever is not announced has to earn it; but what only a token lets be withdrawn counts as announced.
            announced = family.health.announcement is not Announcement.WITHDRAWN
            if floor is not None and (announced or family.by_token):
                family.judgement = soften(family.judgement, floor)
            family.traffic.sample(now, self._replies_to_others(family, after))
            self._observe(family, family.judgement, now, floor)
            over_tls = () if self._dot is None else self._dot.alarms(family.version)
            self._report_alarms(family, (*alarms, *self._orders.alarms, *over_tls, *family.judgement.alarms))
        await asyncio.gather(*(self._act(family) for family in self.families))
        self._keep_flaps()

    def _observe_floor(self) -> Floor | None:
        """What the mesh lets us do; says what for a token is wanted, before anything is softened."""
        if self.floor is None:
            return None
        wanted = [needs_token(each.judgement) for each in self.families if each.judgement is not None]
        wishes = [self._orders[each.version] for each in self.families]
        wanted += [each.reason for each in wishes if each.wish is not Wish.SERVE and not each.force]
        self.floor.want(next((each for each in wanted if each), ""))
        return self.floor.observe()

    def _observe_instance(self) -> Instance:
        fastpath = self._fastpath
        seen = self._witness.observe()
        return replace(
            seen,
            fastpath=fastpath.state,
            fastpath_detail=fastpath.detail,
            fastpath_stuck=fastpath.stuck,
            alarms=seen.alarms + ((fastpath.alarm,) if fastpath.alarm else ()),
        )

    async def _probe(self, family: Family, host: frozenset[Address]) -> None:
        probed = await family.prober.probe(host)
        family.probes = tuple(probe for probes in probed.values() for probe in probes)
        family.own += sum(probe.outcome is ProbeOutcome.RIGHT for probe in family.probes)

    async def _load(
        self,
        family: Family,
        before: Mapping[tuple[ProbeTransport, int], int],
        after: Mapping[tuple[ProbeTransport, int], int],
    ) -> dict[ProbeTransport, Load]:
        load = {}
        for transport in ProbeTransport:
            path = (transport, family.version)
            full = False
            if transport is ProbeTransport.TCP and any(
                probe.outcome is ProbeOutcome.SILENT for probe in family.probes if probe.transport is transport
            ):
                with contextlib.suppress(NetlinkFailed):
                    full = any((await full_accept_queues(self._port, family.prober.addresses)).values())
            load[transport] = Load(max(0, after[path] - before[path]), full)
        return load

    def _replies_to_others(self, family: Family, replies: Mapping[tuple[ProbeTransport, int], int]) -> int:
        workers = sum(replies[transport, family.version] for transport in ProbeTransport)
        return workers + self._fastpath.replies[family.version] - family.own

    def _observe(self, family: Family, judgement: Judgement, now: float, floor: Floor | None) -> None:
        order = self._orders[family.version]
        drained = False
        if order.wish is not Wish.SERVE and floor is not None and not floor.token and not order.force:
            # What can wait, waits, degraded: the wish stands, and is followed when there is a token.
            judgement = replace(judgement, degrade=(*judgement.degrade, f"{order.reason} ({floor.why})"))
            order = replace(order, wish=Wish.SERVE)
        if order.wish is Wish.DRAIN:
            family.traffic.begin_drain(now)
            drained = family.traffic.has_fallen(now, self._config.drain_fraction, self._config.drain_seconds)
            # A drain that BIRD does not show to the neighbours moves no traffic: what is left is to withdraw.
            drained |= family.alarmed and family.health.announcement is Announcement.DRAINING
        else:
            family.traffic.end_drain()
        change = family.health.observe(
            judgement,
            now,
            wish=order.wish,
            wish_reason=order.reason,
            drained=drained,
            must_announce=family.by_token and floor is not None and not floor.token and not failed(judgement),
        )
        if change is not None and change.announcement is not change.before:
            withdrawn = change.announcement is Announcement.WITHDRAWN
            soft = CLASSES[family.health.cause] is Class.SOFT
            family.by_token = floor is not None and withdrawn and soft and not order.force
        if change is not None:
            self._report(family, change)
            family.changed.set()

    # ── acting ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _act(self, family: Family) -> None:
        """Make the kernel hold the anchor, for as long as it may be promised, or not at all."""
        health = family.health
        # Whole seconds, rounded down: the kernel must not promise longer than the evidence is worth.
        seconds = int(health.promise(boottime()) + 0.05)
        try:
            if health.announcement is Announcement.WITHDRAWN or seconds < 1:
                if family.held:
                    await self._interface.remove(family.anchor)
                    family.held = False
            else:
                if not family.held:
                    await family.route.prepare(health.announcement)
                    family.changed.set()
                await self._interface.promise(family.anchor, seconds)
                family.held = True
            fault = ""
        except (NetlinkFailed, BirdError) as error:
            # Nothing is renewed: if the anchor is still there, it lapses.
            fault = str(error)
        if fault and fault != family.fault:
            log.alarm("route not changed", prefix=family.route.prefix, wanted=health.announcement.value, reason=fault)
        family.fault = fault

    async def _steer(self, family: Family) -> None:
        """Keep BIRD's direct protocols as wanted, and know what it announces."""
        while True:
            family.changed.clear()
            announcement = family.health.announcement
            reading = await family.route.steer(announcement)
            self._confirm(family, announcement, reading)
            # While it is not as it should be, look again soon; else once per interval.
            soon = not reading.confirmed and not family.alarmed
            pause = _STEER_AGAIN_SECONDS if soon else self._config.probe_interval_seconds
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await family.changed.wait()

    def _confirm(self, family: Family, announcement: Announcement, reading: RouteReading) -> None:
        before, family.reading = family.reading, reading
        family.read.set()
        if announcement is not family.health.announcement:
            return  # decided anew meanwhile
        now = boottime()
        if reading.confirmed:
            if not before.confirmed or family.alarmed or before.detail != reading.detail:
                log.event(
                    "route confirmed", prefix=family.route.prefix, announced=announcement.value, bird=reading.detail
                )
            family.unconfirmed_since, family.alarmed = None, False
            return
        family.unconfirmed_since = family.unconfirmed_since or now
        if not family.alarmed and now - family.unconfirmed_since >= CONFIRM_SECONDS:
            family.alarmed = True
            log.alarm("route not confirmed", prefix=family.route.prefix, wanted=announcement.value, bird=reading.detail)

    async def _withdraw_all(self) -> None:
        """The end: withdraw, have it confirmed, and leave time for packets that are on their way."""
        unseen = Judgement(RoundVerdict.UNSURE)
        for family in self.families:
            change = family.health.observe(
                unseen, boottime(), wish=Wish.WITHDRAW, wish_reason="stopping", wish_cause=Cause.STOPPING
            )
            if change is not None:
                self._report(family, change)
        was_announced = any(family.held for family in self.families)
        await asyncio.gather(*(self._act(family) for family in self.families))
        for family in self.families:
            family.changed.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_SECONDS):
                for family in self.families:
                    while not self._is_withdrawn(family):
                        family.read.clear()
                        await family.read.wait()
        self._keep_flaps()
        if was_announced:
            await asyncio.sleep(self._config.stop_linger_seconds)

    @staticmethod
    def _is_withdrawn(family: Family) -> bool:
        return family.reading.confirmed and family.reading.wanted is Announcement.WITHDRAWN

    # ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _report(self, family: Family, change: Change) -> None:
        what = "site withdrawn" if change.announcement is Announcement.WITHDRAWN else "site announced"
        log.event(
            what if change.announcement is not change.before else "site",
            prefix=family.route.prefix,
            state=f"{change.old.value}->{change.new.value}",
            route=change.announcement.value,
            reason=change.reason,
        )

    def _report_alarms(self, family: Family, alarms: tuple[str, ...]) -> None:
        down = tuple(f"BGP session {name} is not established" for name, up in family.reading.sessions.items() if not up)
        before = {_kind(each) for each in family.alarms}
        family.alarms = alarms + down
        now = {_kind(each): each for each in family.alarms}
        for kind, text in now.items():
            if kind not in before:
                log.alarm("site alarm", prefix=family.route.prefix, text=text)
        for kind in before - set(now):
            log.event("site alarm over", prefix=family.route.prefix, text=kind)

    def _keep_flaps(self) -> None:
        flaps = {family.version: family.health.flaps for family in self.families}
        if flaps != self._kept_flaps:
            self._kept_flaps = flaps
            try:
                keep_flaps(self._flaps_path, self._boot_id, flaps)
            except OSError as error:
                log.alarm("hold-down not kept", path=self._flaps_path, error=error.strerror)


def _kind(alarm: str) -> str:
    """An alarm without its numbers, so that one whose numbers change is not a new one each second."""
    return re.sub(r"-?\d+(\.\d+)?", "#", alarm)
