"""One zone: asks its primaries as `zone/refresh` decides, hands over what they deliver, knows what it may serve."""
# Over 400 lines: one zone's conversations and what follows from them, in one place, whichever way it comes in.

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from rootsrv.process import log
from rootsrv.process.aside import aside
from rootsrv.process.children import describe_error
from rootsrv.process.clocks import Timekeeper
from rootsrv.secondary.preparation import ZonePolicy
from rootsrv.secondary.primary import SerialAnswer, Transferred, describe
from rootsrv.secondary.sources import ZoneSource
from rootsrv.secondary.stored import StoredVersions, delivery_of
from rootsrv.store.store import Provenance, StoreFailed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.contents import Soa, ZoneContents
from rootsrv.zone.delivery import Delivery, Origin, Version
from rootsrv.zone.life import Before, ZoneLife
from rootsrv.zone.refresh import AskSerial, Fetch, Refresh, Timers
from rootsrv.zone.transfer import TransferFailed

FAILED_SECONDS = 5.0
"""How soon after a turn that failed as none should the primaries are looked at again."""

LOOK_SECONDS = 10.0
"""How soon at the latest it is looked what is due: timers of the loop stand while the machine is suspended."""


class PrimaryStale(TransferFailed):
    """The primary's own lease on the zone is all but over (RFC 7314): another one may have it fresh."""


def _staleness(soa: Soa, expire_seconds: int | None) -> str:
    """Why a primary that says EXPIRE *expire_seconds* of a zone is not to be relied on; empty if it is.

    Whoever has less left than one refresh has not been able to refresh for long, or says so without being authentic.
    """
    if expire_seconds is None or expire_seconds >= min(soa.refresh, soa.expire):
        return ""
    return f"EXPIRE of {expire_seconds} s, less than one refresh of the zone ({soa.refresh} s)"


class ConversationFailed(TransferFailed):
    """A conversation with a primary ended as none should, by a fault of ours or of this host."""


class ZoneKeeper:
    """Keeps one zone current."""

    def __init__(
        self,
        policy: ZonePolicy,
        sources: Mapping[str, ZoneSource],
        stored: StoredVersions,
        *,
        time: Timekeeper,
        offer: Callable[[], None],
        renewed: Callable[["ZoneKeeper"], None],
        counters: Counter[str],
        bounds: tuple[float, float] = (60.0, 86_400.0),
        max_serve_seconds: float = 0.0,
        backoff_seconds: float = 10.0,
    ) -> None:
        """*offer* is told when the queue has something new, *renewed* when the lease of what is served changed.

        *bounds*: the least and the most that SOA refresh and retry count as.
        """
        self.policy = policy
        self.stored = stored
        self.counters = counters
        self.bounds = bounds
        self.backoff_seconds = backoff_seconds
        self.life = ZoneLife(time.trusted, max_serve_seconds)
        self.timer_of: ZoneKeeper = self
        """The zone whose SOA says how long one refresh is, in `lease_fault`; a signed one if this one is not."""

        self._time = time
        self._told_expire: dict[str, tuple[int, int | None]] = {}
        """By primary: the serial in its SOA and the EXPIRE that came with it, for transfers that come without."""

        self._offer = offer
        self._renewed = renewed
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sources: dict[str, ZoneSource] = {}
        self.refresh = Refresh((), Timers(*bounds), time.boottime())
        self.set_sources(sources)

    @property
    def name(self) -> str:
        """As configured."""
        return self.policy.name

    def set_sources(self, sources: Mapping[str, ZoneSource]) -> None:
        """From now on ask these; what is known of others is forgotten."""
        previous = self.refresh
        self.sources = dict(sources)
        newest = self.life.newest
        timers = self._timers(newest.contents.soa) if newest else Timers(*self.bounds)
        self.refresh = Refresh(
            tuple(sources), timers, self._time.boottime(), newest.serial if newest else None, self.backoff_seconds
        )
        for serial in previous.dropped_serials:
            self.refresh.dropped(serial)
        self._wake.set()

    def _timers(self, soa: Soa) -> Timers:
        return Timers(float(soa.refresh), float(soa.retry)).bounded(*self.bounds)

    # Told from outside.

    def wake(self) -> None:
        """Something was told to `refresh`."""
        self._wake.set()

    def ask_all(self) -> None:
        """Ask every primary now, back-off or not."""
        self.refresh.demand(self._time.boottime())
        self.wake()

    def notified(self, primary: str, serial: int | None) -> None:
        """A NOTIFY from *primary*; *serial* only if it was signed with the key of that primary alone."""
        now = self._time.boottime()
        self.refresh.notified(primary, serial, now, expired=self.life.is_over(now))
        self.note_known()
        self.wake()

    def accept(self, delivery: Delivery, signatures_until: float | None, alarms: tuple[str, ...]) -> Version:
        """A delivery verified and is on its way into service."""
        version = self.life.accept(delivery, signatures_until, alarms)
        newest = self.refresh.serial
        if newest is None or newest == delivery.serial or serial_is_newer(delivery.serial, newest):
            now, lease = self._time.boottime(), version.lease
            self.refresh.accepted(delivery.serial, self._timers(delivery.contents.soa), now)
            # A primary with little left gives little: all are asked again before half of that is gone.
            half = (lease.confirmed_boottime + lease.duration_seconds - now) / 2
            self.refresh.next_refresh = min(self.refresh.next_refresh, now + max(half, 0.0))
        self.wake()
        return version

    def lease_fault(self, delivery: Delivery, signatures_until: float | None = None) -> str:
        """Why *delivery* must not take the place of what is in service: its lease; empty if that is good enough."""
        timer = self.timer_of.life.serving
        refresh = None if timer is None else timer.contents.soa.refresh
        return self.life.lease_fault(delivery, self._time.boottime(), refresh, signatures_until)

    def deadline(self) -> float | None:
        """Until when (CLOCK_BOOTTIME, seconds) what is in service may be answered from."""
        return self.life.deadline(self._time.boottime())

    def watch_lease(self) -> None:
        """Called every second: the end of a lease is told, and all primaries are asked at once, and every retry."""
        found = self.life.watch(self._time.boottime(), self.refresh.timers.retry)
        if found.ask:
            self.ask_all()
        serving = self.life.serving
        if serving is None:
            return
        if found.renewed:
            log.event("lease renewed", zone=self.name, serial=serving.serial)
        if found.over:
            log.alarm("lease over", zone=self.name, serial=serving.serial, answers="SERVFAIL", reason=found.over)

    def activated(self) -> Before:
        """What was scheduled is in service now; what was before, for `stayed`."""
        before = self.life.activated(self._time.boottime())
        self.note_known()
        return before

    def stayed(self, before: Before) -> None:
        """What was activated has answered nobody: what was in service still is."""
        self.life.stayed(before)
        self.note_known()

    def reject(self, delivery: Delivery, reason: str) -> None:
        """A delivery did not verify."""
        serial = delivery.serial
        self.life.last_rejection = f"{serial} from {delivery.origin.source}: {reason}"
        self.counters["zones_rejected"] += 1
        if delivery.origin.primary in self.refresh.primaries:
            self.refresh.rejected(delivery.origin.primary, serial, reason, self._time.boottime())
        self.wake()

    def drop(self, serial: int) -> None:
        """Nobody wants *serial*."""
        self.life.held.pop(serial, None)
        self.refresh.dropped(serial)
        self.note_known()

    @property
    def known(self) -> int | None:
        """The newest serial that is known to exist."""
        return self.life.known(self.refresh.known)

    def note_known(self) -> None:
        """Keep `known_since` true."""
        self.life.note_known(self.refresh.known, self._time.boottime())

    async def contents(self, serial: int | None) -> ZoneContents:
        """A version: the one in service (None) or a kept one.  StoreFailed if there is none."""
        serving = self.life.serving
        if serving is not None and serial in {None, serving.serial}:
            return serving.contents
        if serial is None:
            raise StoreFailed(f"zone {self.name}: nothing is in service")
        return (await self.read_kept(serial))[1]

    async def read_kept(self, serial: int) -> tuple[Provenance, ZoneContents]:
        """A kept version, and where it came from, read beside the loop.  StoreFailed."""
        return await aside(lambda: self.stored.read(serial))

    # Delivered from outside.

    def deliver(self, delivery: Delivery) -> None:
        """Put *delivery* before whoever prepares tables."""
        self.life.queue_up(delivery, len(self.sources) + 1)
        self._offer()

    async def redeliver(self, serial: int, *, approved: bool) -> None:
        """Put a kept version before the pipeline again; one that cannot be read is told, and fetched again."""
        try:
            provenance, contents = await self.read_kept(serial)
        except StoreFailed as error:
            log.alarm("kept zone unusable", zone=self.name, serial=serial, reason=error)
            self.refresh.lost(serial)
            self.note_known()
            self.wake()
            return
        self.life.hear_of(serial, provenance.received_at)
        age = max(0.0, self._time.now() - provenance.received_at)
        self.deliver(delivery_of(provenance, contents, self._time.boottime() - age, approved=approved))

    def offer_file(self, read: Transferred, how: str) -> str:
        """A zone that was read from a file; what is wrong with it at first sight, or nothing."""
        contents = read.contents
        assert contents is not None
        serving = self.life.serving
        if serving is not None and contents.serial == serving.serial:
            if contents.rrsets != serving.contents.rrsets:
                return f"serial {contents.serial} is in service with other contents"
            self._confirm(None)
            return f"serial {contents.serial} is in service already"
        if serving is not None and not serial_is_newer(contents.serial, serving.serial):
            return f"serial {contents.serial} is older than {serving.serial}, which is in service"
        self.life.receive(contents.serial, self._time.boottime())
        primary = "file" if "file" in self.sources else ""
        origin = Origin("file", how, self._time.now(), self._time.boottime(), primary)
        self.deliver(Delivery(contents, origin, contents.soa.expire, authenticated=True))
        return ""

    # Asking and fetching.

    async def run(self) -> None:
        """Ask and fetch until cancelled.  A primary that fails is tried again later and is not an error here."""
        try:
            while True:
                self._wake.clear()
                try:
                    wait = min(LOOK_SECONDS, max(0.01, self._begin() - self._time.boottime()))
                except Exception as error:  # one turn, not the role: the next one may go well
                    wait = FAILED_SECONDS
                    context = {"message": f"zone {self.name}: a turn of its refresh failed", "exception": error}
                    asyncio.get_running_loop().call_exception_handler(context)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self) -> float:
        """Begin what is due; when to look again (CLOCK_BOOTTIME, seconds) if nothing happens before."""
        for action in self.refresh.decide(self._time.boottime()):
            match action:
                case AskSerial(primary):
                    source = self.sources[primary]
                    self._start(functools.partial(self._ask, self.refresh, source), self.refresh, source)
                case Fetch(primary, serial):
                    source = self.sources[primary]
                    fetch = functools.partial(self._fetch, self.refresh, source, serial)
                    self._start(fetch, self.refresh, source)
        return self.refresh.wakeup

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
        base = self.life.newest.contents if self.life.newest else None
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
        refresh.failed(primary, reason, self._time.boottime())
        if wanted is not None:
            self.life.last_rejection = f"{wanted} from {source.name}: {reason}"
        state = refresh.primaries[primary]
        log.alarm(
            "primary failed",
            zone=self.name,
            primary=primary,
            at=source.where,
            reason=reason,
            failures=state.failures,
            again_in_seconds=round(state.not_before - self._time.boottime(), 1),
        )

    def _answered(self, refresh: Refresh, source: ZoneSource, answer: SerialAnswer) -> None:
        self.counters["refreshes"] += 1
        self._told_expire[source.name] = answer.serial, answer.expire_seconds
        newest = self.life.newest if answer.serial == refresh.serial else None
        if newest is not None and (stale := _staleness(newest.contents.soa, answer.expire_seconds)):
            self._failed(refresh, source, PrimaryStale(stale))
            refresh.ask_others(source.name)
            return
        if refresh.answered(source.name, answer.serial, self._time.boottime()):
            self._confirm(answer.expire_seconds)
        promised = refresh.primaries[source.name].promised
        if promised is not None and serial_is_newer(promised, answer.serial):
            log.event(
                "primary is behind its NOTIFY", zone=self.name, primary=source.name, has=answer.serial, named=promised
            )
        elif refresh.serial is not None and serial_is_newer(refresh.serial, answer.serial):
            log.event("primary is behind", zone=self.name, primary=source.name, has=answer.serial, ours=refresh.serial)
        self.note_known()

    def _delivered(self, refresh: Refresh, source: ZoneSource, transferred: Transferred) -> None:
        now = self._time.boottime()
        serial, contents = transferred.serial, transferred.contents
        ours = refresh.serial
        expire = transferred.expire_seconds
        told_serial, told_expire = self._told_expire.get(source.name, (None, None))
        if expire is None and told_serial == serial:
            expire = told_expire
        self.counters["transfers"] += 1
        self.counters["transfer_octets"] += transferred.octets
        log.event("zone received", **describe(self.policy.apex, transferred), primary=source.name, at=source.where)
        self.life.receive(serial, now)
        about = contents if contents is not None or self.life.newest is None else self.life.newest.contents
        stale = _staleness(about.soa, expire) if about is not None else ""
        if stale:
            self._failed(refresh, source, PrimaryStale(stale))
            refresh.ask_others(source.name)
            left = 0.0 if self.life.serving is None else (self.deadline() or 0.0) - now
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
            wall = self._time.trusted.wall(now)
            origin = Origin(source.name, transferred.how, wall, now, primary=source.name)
            self.deliver(Delivery(contents, origin, seconds, source.authenticated))
        self.note_known()

    def _same_again(self, source: ZoneSource, transferred: Transferred, expire_seconds: int | None) -> None:
        newest = self.life.newest
        if transferred.contents is None or newest is None or transferred.contents.rrsets == newest.contents.rrsets:
            self._confirm(expire_seconds)
            return
        # RFC 1982 leaves no way to say which is right; two zones of one serial are a publisher's mistake.
        self.life.last_rejection = (
            f"{transferred.serial} from {source.name}: other contents under the serial in service"
        )
        log.alarm("zone ignored", zone=self.name, serial=transferred.serial, reason=self.life.last_rejection)

    def _confirm(self, expire_seconds: int | None) -> None:
        """A primary said that the newest of ours is current."""
        newest = self.life.newest
        if newest is None or newest.serial != self.refresh.serial:
            return
        if self.life.confirm(expire_seconds, self._time.boottime()):
            self._renewed(self)
