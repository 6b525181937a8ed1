"""One zone: asks its primaries as `zone/refresh` decides, hands over what they deliver, knows what it may serve."""
# Over 400 lines: what a zone is told and what it asks change the same state.

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from rootsrv.process import log
from rootsrv.process.children import describe_error
from rootsrv.secondary.delivery import Delivery, Origin, Version
from rootsrv.secondary.preparation import ZonePolicy
from rootsrv.secondary.primary import SerialAnswer, Transferred, describe
from rootsrv.secondary.sources import ZoneSource
from rootsrv.store.store import Provenance
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.contents import Soa
from rootsrv.zone.lease import Lease, TrustedClock
from rootsrv.zone.refresh import AskSerial, Fetch, Refresh, Timers
from rootsrv.zone.transfer import TransferFailed


class PrimaryStale(TransferFailed):
    """The primary's own lease on the zone is all but over (RFC 7314): another one may have it fresh."""


def _newest_first(one: Delivery, other: Delivery) -> int:
    return -1 if serial_is_newer(one.serial, other.serial) else 1


_NEWEST_FIRST = functools.cmp_to_key(_newest_first)


def _staleness(soa: Soa, expire_seconds: int | None) -> str:
    """Why a primary that says EXPIRE *expire_seconds* of a zone is not to be relied on; empty if it is.

    Whoever has less left than one refresh has not been able to refresh for long, or says so without being authentic.
    """
    if expire_seconds is None or expire_seconds >= min(soa.refresh, soa.expire):
        return ""
    return f"EXPIRE of {expire_seconds} s, less than one refresh of the zone ({soa.refresh} s)"


class ConversationFailed(TransferFailed):
    """A conversation with a primary ended as none should, by a fault of ours or of this host."""


@dataclass(frozen=True)
class Before:
    """What `activated` changes."""

    serving: Version | None
    floor: int | None
    held: dict[int, Provenance]


class ZoneKeeper:
    """Keeps one zone current."""

    def __init__(
        self,
        policy: ZonePolicy,
        sources: Mapping[str, ZoneSource],
        *,
        clock: TrustedClock,
        boottime: Callable[[], float],
        offer: Callable[["ZoneKeeper"], None],
        renewed: Callable[["ZoneKeeper"], None],
        counters: Counter[str],
        bounds: tuple[float, float] = (60.0, 86_400.0),
        max_serve_seconds: float = 0.0,
        backoff_seconds: float = 10.0,
    ) -> None:
        """*offer* is told when `deliveries` has something new, *renewed* when the lease of what is served changed.

        *bounds*: the least and the most that SOA refresh and retry count as.
        """
        self.policy = policy
        self.clock = clock
        self.boottime = boottime
        self.counters = counters
        self.bounds = bounds
        self.max_serve_seconds = max_serve_seconds
        self.backoff_seconds = backoff_seconds
        self.serving: Version | None = None
        self.scheduled: Version | None = None
        self.deliveries: list[Delivery] = []
        """What primaries delivered and nobody looked at yet, newest serial first."""

        self.held: dict[int, Provenance] = {}
        self.waiting: Delivery | None = None
        """A zone of hosts that fits no root yet."""

        self.received: int | None = None
        self.received_boottime: float | None = None
        self.known_since: float | None = None
        """CLOCK_BOOTTIME since when a newer serial than the one in service has been known."""

        self.timer_of: ZoneKeeper = self
        """The zone whose SOA says how long one refresh is, in `lease_fault`; a signed one if this one is not."""

        self.expired = False
        """Whether the lease of what is in service was over when `watch_lease` looked last."""

        self._ask_again = 0.0
        self._told_expire: dict[str, tuple[int, int | None]] = {}
        """By primary: the serial in its SOA and the EXPIRE that came with it, for transfers that come without."""

        self.floor: int | None = None
        """The newest serial that was ever served; nothing older will be."""

        self.last_rejection = ""
        self.distrusted = ""
        """Why what is kept must not be served although nothing else is there; empty if it may."""

        self.unjudged = ""
        """Why what is in service could not be verified again; empty if it could."""

        self._offer = offer
        self._renewed = renewed
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sources: dict[str, ZoneSource] = {}
        self.refresh = Refresh((), Timers(*bounds), self.boottime())
        self.set_sources(sources)

    @property
    def name(self) -> str:
        """As configured."""
        return self.policy.name

    def set_sources(self, sources: Mapping[str, ZoneSource]) -> None:
        """From now on ask these; what is known of others is forgotten."""
        previous = self.refresh
        self.sources = dict(sources)
        newest = self.newest
        timers = self._timers(newest.contents.soa) if newest else Timers(*self.bounds)
        self.refresh = Refresh(
            tuple(sources), timers, self.boottime(), newest.serial if newest else None, self.backoff_seconds
        )
        for serial in previous.dropped_serials:
            self.refresh.dropped(serial)
        self._wake.set()

    @property
    def newest(self) -> Version | None:
        """What is scheduled, else what is served."""
        return self.scheduled or self.serving

    def _timers(self, soa: Soa) -> Timers:
        return Timers(float(soa.refresh), float(soa.retry)).bounded(*self.bounds)

    # Told from outside.

    def wake(self) -> None:
        """Something was told to `refresh`."""
        self._wake.set()

    def notified(self, primary: str, serial: int | None) -> None:
        """A NOTIFY from *primary*; *serial* only if it was signed with the key of that primary alone."""
        self.refresh.notified(primary, serial, self.boottime(), expired=self.is_over())
        self.note_known()
        self.wake()

    def accept(self, delivery: Delivery, signatures_until: float | None, alarms: tuple[str, ...]) -> Version:
        """A delivery verified and is on its way into service."""
        lease = self._lease_of(delivery, signatures_until)
        self.scheduled = Version(delivery, lease, alarms)
        newest = self.refresh.serial
        if newest is None or newest == delivery.serial or serial_is_newer(delivery.serial, newest):
            now = self.boottime()
            self.refresh.accepted(delivery.serial, self._timers(delivery.contents.soa), now)
            # A primary with little left gives little: all are asked again before half of that is gone.
            half = (lease.confirmed_boottime + lease.duration_seconds - now) / 2
            self.refresh.next_refresh = min(self.refresh.next_refresh, now + max(half, 0.0))
        self.held.pop(delivery.serial, None)
        self.last_rejection = ""
        self.wake()
        return self.scheduled

    def _lease_of(self, delivery: Delivery, signatures_until: float | None) -> Lease:
        """The lease that *delivery* would be served on."""
        duration = float(min(delivery.expire_seconds, delivery.contents.soa.expire))
        if self.max_serve_seconds:
            duration = min(duration, self.max_serve_seconds)
        confirmed = delivery.origin.confirmed_boottime
        return Lease(delivery.serial, self.clock.wall(confirmed), confirmed, duration, signatures_until)

    def lease_fault(self, delivery: Delivery, signatures_until: float | None = None) -> str:
        """Why *delivery* must not take the place of what is in service: its lease; empty if that is good enough.

        A zone is as genuine as its signatures, but how long it may be served can depend on what nobody signed: EXPIRE
        of a primary without key, the SOA of an unsigned zone.  So nothing goes into service on a lease that is over,
        or that is shorter than both what is left of the present one and one refresh.
        """
        serving, now = self.serving, self.boottime()
        if serving is not None and serving.serial == delivery.serial:
            return ""
        new = self._lease_of(delivery, signatures_until).deadline(self.clock, now) - now
        if new <= 0:
            return "its lease is over (SOA expire, EXPIRE of the primary or the end of signatures)"
        if serving is None:
            return ""
        left = (self.deadline() or 0.0) - now
        timer = self.timer_of.serving or serving
        if new < min(left, timer.contents.soa.refresh):
            return f"its lease would end in {new:.0f} s, that of {serving.serial} in {left:.0f} s"
        return ""

    def is_over(self) -> bool:
        """Whether something is in service whose lease is over."""
        deadline = self.deadline()
        return deadline is not None and deadline <= self.boottime()

    def watch_lease(self) -> None:
        """Called every second: the end of a lease is told, and all primaries are asked at once, and every retry."""
        over, now = self.is_over(), self.boottime()
        if over and now >= (self._ask_again if self.expired else now):
            self._ask_again = now + self.refresh.timers.retry
            self.refresh.demand(now)
            self.wake()
        if over is self.expired or self.serving is None:
            return
        self.expired = over
        if not over:
            log.event("lease renewed", zone=self.name, serial=self.serving.serial)
            return
        lease = self.serving.lease
        until = lease.signatures_until
        reason = self.distrusted or (
            "its signatures have ended"
            if until is not None and until <= self.clock.wall(now)
            else "no primary has confirmed it in time"
        )
        log.alarm("lease over", zone=self.name, serial=self.serving.serial, answers="SERVFAIL", reason=reason)

    def activated(self) -> None:
        """What was scheduled is in service now."""
        assert self.scheduled is not None
        self.serving, self.scheduled = self.scheduled, None
        self.serving.served_since = self.boottime()
        self.floor = self.serving.serial
        self.distrusted = self.unjudged = ""
        self.held = {s: p for s, p in self.held.items() if serial_is_newer(s, self.serving.serial)}
        self.note_known()

    def before(self) -> "Before":
        """What is in service, for `stayed`."""
        return Before(self.serving, self.floor, dict(self.held))

    def stayed(self, before: "Before") -> None:
        """What was activated has answered nobody: what was in service still is."""
        self.serving, self.floor, self.held = before.serving, before.floor, before.held
        self.scheduled = None
        self.note_known()

    def reject(self, delivery: Delivery, reason: str) -> None:
        """A delivery did not verify."""
        serial = delivery.serial
        self.last_rejection = f"{serial} from {delivery.origin.source}: {reason}"
        self.counters["zones_rejected"] += 1
        if delivery.origin.primary in self.refresh.primaries:
            self.refresh.rejected(delivery.origin.primary, serial, reason, self.boottime())
        self.wake()

    def drop(self, serial: int) -> None:
        """Nobody wants *serial*."""
        self.held.pop(serial, None)
        self.refresh.dropped(serial)
        self.note_known()

    def deadline(self) -> float | None:
        """Until when (CLOCK_BOOTTIME, seconds) what is in service may be answered from."""
        if self.serving is None:
            return None
        if self.distrusted:
            return 0.0
        return self.serving.lease.deadline(self.clock, self.boottime())

    @property
    def known(self) -> int | None:
        """The newest serial that is known to exist."""
        known = self.refresh.known
        for serial in self.held:
            if known is None or serial_is_newer(serial, known):
                known = serial
        return known

    def note_known(self) -> None:
        """Keep `known_since` true."""
        known = self.known
        served = self.serving.serial if self.serving else None
        behind = known is not None and (served is None or serial_is_newer(known, served))
        if not behind:
            self.known_since = None
        elif self.known_since is None:
            self.known_since = self.boottime()

    # Asking and fetching.

    async def run(self) -> None:
        """Ask and fetch until cancelled.  A primary that fails is tried again later and is not an error here."""
        try:
            while True:
                self._wake.clear()
                for action in self.refresh.decide(self.boottime()):
                    match action:
                        case AskSerial(primary):
                            source = self.sources[primary]
                            self._start(functools.partial(self._ask, self.refresh, source), self.refresh, source)
                        case Fetch(primary, serial):
                            source = self.sources[primary]
                            fetch = functools.partial(self._fetch, self.refresh, source, serial)
                            self._start(fetch, self.refresh, source)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.01, self.refresh.wakeup - self.boottime())):
                        await self._wake.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Callable[[], Coroutine[Any, Any, None]], refresh: Refresh, source: ZoneSource) -> None:
        async def conversation() -> None:
            try:
                await work()
            except Exception as error:
                # However it ended it is over: a primary that nobody is told of is never asked again.
                self._failed(refresh, source, ConversationFailed(describe_error(error)))

        task = asyncio.create_task(conversation())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"zone {self.name}: a conversation failed", "exception": error, "task": task}
            )

    async def _ask(self, refresh: Refresh, source: ZoneSource) -> None:
        try:
            answer = await source.ask(self.policy.apex)
        except TransferFailed as error:
            self._failed(refresh, source, error)
            return
        if refresh is not self.refresh:
            return
        if isinstance(answer, Transferred):
            self._delivered(refresh, source, answer)
        else:
            self._answered(refresh, source, answer)

    async def _fetch(self, refresh: Refresh, source: ZoneSource, wanted: int) -> None:
        base = self.newest.contents if self.newest else None
        try:
            transferred = await source.fetch(self.policy.apex, base, wanted)
        except TransferFailed as error:
            self._failed(refresh, source, error)
            return
        if refresh is self.refresh:
            self._delivered(refresh, source, transferred)

    def _failed(self, refresh: Refresh, source: ZoneSource, error: TransferFailed) -> None:
        primary = source.name
        reason = f"{type(error).__name__}: {error}"
        wanted = refresh.primaries[primary].fetching
        self.counters["transfers_failed" if wanted is not None else "refreshes_failed"] += 1
        refresh.failed(primary, reason, self.boottime())
        if wanted is not None:
            self.last_rejection = f"{wanted} from {source.name}: {reason}"
        state = refresh.primaries[primary]
        log.alarm(
            "primary failed",
            zone=self.name,
            primary=primary,
            at=source.where,
            reason=reason,
            failures=state.failures,
            again_in_seconds=round(state.not_before - self.boottime(), 1),
        )

    def _answered(self, refresh: Refresh, source: ZoneSource, answer: SerialAnswer) -> None:
        self.counters["refreshes"] += 1
        self._told_expire[source.name] = answer.serial, answer.expire_seconds
        newest = self.newest if answer.serial == refresh.serial else None
        if newest is not None and (stale := _staleness(newest.contents.soa, answer.expire_seconds)):
            self._failed(refresh, source, PrimaryStale(stale))
            refresh.ask_others(source.name)
            return
        if refresh.answered(source.name, answer.serial, self.boottime()):
            self.confirm(answer.expire_seconds)
        elif refresh.serial is not None and serial_is_newer(refresh.serial, answer.serial):
            log.event("primary is behind", zone=self.name, primary=source.name, has=answer.serial, ours=refresh.serial)
        self.note_known()

    def _delivered(self, refresh: Refresh, source: ZoneSource, transferred: Transferred) -> None:
        now = self.boottime()
        serial, contents = transferred.serial, transferred.contents
        ours = refresh.serial
        expire = transferred.expire_seconds
        told_serial, told_expire = self._told_expire.get(source.name, (None, None))
        if expire is None and told_serial == serial:
            expire = told_expire
        self.counters["transfers"] += 1
        self.counters["transfer_octets"] += transferred.octets
        log.event("zone received", **describe(self.policy.apex, transferred), primary=source.name, at=source.where)
        self.received, self.received_boottime = serial, now
        about = contents if contents is not None or self.newest is None else self.newest.contents
        stale = _staleness(about.soa, expire) if about is not None else ""
        if stale:
            self._failed(refresh, source, PrimaryStale(stale))
            refresh.ask_others(source.name)
            left = 0.0 if self.serving is None else (self.deadline() or 0.0) - now
            if expire is None or expire <= left:
                self.note_known()
                return
            # Better than what we have, and than silence; the others are asked all the same.
        else:
            refresh.delivered(source.name, serial, now)
        if serial == ours:
            self._same_again(source, transferred, expire)
        elif contents is not None and (ours is None or serial_is_newer(serial, ours)):
            seconds = contents.soa.expire if expire is None else min(contents.soa.expire, expire)
            wall = self.clock.wall(now)
            origin = Origin(source.name, transferred.how, wall, now, primary=source.name)
            self.deliver(Delivery(contents, origin, seconds, source.authenticated))
        self.note_known()

    def _same_again(self, source: ZoneSource, transferred: Transferred, expire_seconds: int | None) -> None:
        newest = self.newest
        if transferred.contents is None or newest is None or transferred.contents.rrsets == newest.contents.rrsets:
            self.confirm(expire_seconds)
            return
        # RFC 1982 leaves no way to say which is right; two zones of one serial are a publisher's mistake.
        self.last_rejection = f"{transferred.serial} from {source.name}: other contents under the serial in service"
        log.alarm("zone ignored", zone=self.name, serial=transferred.serial, reason=self.last_rejection)

    def deliver(self, delivery: Delivery) -> None:
        """Put *delivery* before whoever prepares tables."""
        self.deliveries = [each for each in self.deliveries if each.serial != delivery.serial]
        self.deliveries.append(delivery)
        self.deliveries.sort(key=_NEWEST_FIRST)
        del self.deliveries[len(self.sources) + 1 :]
        self._offer(self)

    def confirm(self, expire_seconds: int | None) -> None:
        """A primary said that the newest of ours is current."""
        newest = self.newest
        if newest is None or newest.serial != self.refresh.serial:
            return
        duration = float(newest.contents.soa.expire)
        if expire_seconds is not None:
            duration = min(duration, float(expire_seconds))
        if self.max_serve_seconds:
            duration = min(duration, self.max_serve_seconds)
        newest.lease = newest.lease.renewed(self.clock, self.boottime(), duration)
        self.last_rejection = ""
        if newest is self.serving:
            self._renewed(self)
