"""One zone: asks its primaries as `zone/refresh` decides, hands over what they deliver, knows what it may serve."""

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from rootsrv.process import log
from rootsrv.secondary.preparation import Candidate, ZonePolicy
from rootsrv.secondary.primary import SerialAnswer, Transferred, describe
from rootsrv.secondary.sources import ZoneSource
from rootsrv.store.store import Provenance
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.contents import Soa, ZoneContents
from rootsrv.zone.lease import Lease, TrustedClock
from rootsrv.zone.refresh import AskSerial, Fetch, Refresh, Timers
from rootsrv.zone.transfer import TransferFailed


def _newest_first(one: "Delivery", other: "Delivery") -> int:
    return -1 if serial_is_newer(one.candidate.serial, other.candidate.serial) else 1


_NEWEST_FIRST = functools.cmp_to_key(_newest_first)


@dataclass
class Version:
    """A version that verified: in service or on its way there."""

    contents: ZoneContents = field(repr=False)
    lease: Lease
    source: str
    how: str
    alarms: tuple[str, ...] = ()
    served_since: float | None = None
    """CLOCK_BOOTTIME, seconds."""

    @property
    def serial(self) -> int:
        """The SOA serial."""
        return self.contents.serial


@dataclass
class Delivery:
    """A candidate and the primary that delivered it; '' if it was none of them."""

    candidate: Candidate
    primary: str
    confirmed_boottime: float


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

        self.floor: int | None = None
        """The newest serial that was ever served; nothing older will be."""

        self.last_rejection = ""
        self.distrusted = ""
        """Why what is kept must not be served although nothing else is there; empty if it may."""

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
        """An authenticated NOTIFY from *primary*."""
        self.refresh.notified(primary, serial, self.boottime())
        self.note_known()
        self.wake()

    def accept(self, delivery: Delivery, signatures_until: float | None, alarms: tuple[str, ...]) -> Version:
        """A delivery verified and is on its way into service."""
        candidate = delivery.candidate
        duration = float(min(candidate.expire_seconds, candidate.contents.soa.expire))
        if self.max_serve_seconds:
            duration = min(duration, self.max_serve_seconds)
        confirmed = delivery.confirmed_boottime
        lease = Lease(candidate.serial, self.clock.wall(confirmed), confirmed, duration, signatures_until)
        self.scheduled = Version(candidate.contents, lease, candidate.source, candidate.how, alarms)
        newest = self.refresh.serial
        if newest is None or newest == candidate.serial or serial_is_newer(candidate.serial, newest):
            self.refresh.accepted(candidate.serial, self._timers(candidate.contents.soa), self.boottime())
        self.held.pop(candidate.serial, None)
        self.last_rejection = ""
        self.wake()
        return self.scheduled

    def activated(self) -> None:
        """What was scheduled is in service now."""
        assert self.scheduled is not None
        self.serving, self.scheduled = self.scheduled, None
        self.serving.served_since = self.boottime()
        self.floor = self.serving.serial
        self.distrusted = ""
        self.held = {s: p for s, p in self.held.items() if serial_is_newer(s, self.serving.serial)}
        self.note_known()

    def reject(self, delivery: Delivery, reason: str) -> None:
        """A delivery did not verify."""
        serial = delivery.candidate.serial
        self.last_rejection = f"{serial} from {delivery.candidate.source}: {reason}"
        self.counters["zones_rejected"] += 1
        if delivery.primary in self.refresh.primaries:
            self.refresh.rejected(delivery.primary, serial, reason, self.boottime())
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
                            self._start(self._ask(self.refresh, self.sources[primary]))
                        case Fetch(primary, _):
                            self._start(self._fetch(self.refresh, self.sources[primary]))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.01, self.refresh.wakeup - self.boottime())):
                        await self._wake.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
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

    async def _fetch(self, refresh: Refresh, source: ZoneSource) -> None:
        base = self.newest.contents if self.newest else None
        try:
            transferred = await source.fetch(self.policy.apex, base)
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
        if refresh.answered(source.name, answer.serial, self.boottime()):
            self.confirm(answer.expire_seconds)
        elif refresh.serial is not None and serial_is_newer(refresh.serial, answer.serial):
            log.event("primary is behind", zone=self.name, primary=source.name, has=answer.serial, ours=refresh.serial)
        self.note_known()

    def _delivered(self, refresh: Refresh, source: ZoneSource, transferred: Transferred) -> None:
        now = self.boottime()
        serial, contents = transferred.serial, transferred.contents
        ours = refresh.serial
        refresh.delivered(source.name, serial, now)
        self.counters["transfers"] += 1
        self.counters["transfer_octets"] += transferred.octets
        log.event("zone received", **describe(self.policy.apex, transferred), primary=source.name, at=source.where)
        self.received, self.received_boottime = serial, now
        if serial == ours:
            self._same_again(source, transferred)
        elif contents is not None and (ours is None or serial_is_newer(serial, ours)):
            expire = contents.soa.expire
            if transferred.expire_seconds is not None:
                expire = min(expire, transferred.expire_seconds)
            wall = self.clock.wall(now)
            candidate = Candidate(contents, source.name, transferred.how, wall, expire, source.authenticated)
            self.deliver(Delivery(candidate, source.name, now))
        self.note_known()

    def _same_again(self, source: ZoneSource, transferred: Transferred) -> None:
        newest = self.newest
        if transferred.contents is None or newest is None or transferred.contents.rrsets == newest.contents.rrsets:
            self.confirm(transferred.expire_seconds)
            return
        # RFC 1982 leaves no way to say which is right; two zones of one serial are a publisher's mistake.
        self.last_rejection = f"{transferred.serial} from {source.name}: other contents under the serial in service"
        log.alarm("zone ignored", zone=self.name, serial=transferred.serial, reason=self.last_rejection)

    def deliver(self, delivery: Delivery) -> None:
        """Put *delivery* before whoever prepares tables."""
        self.deliveries = [each for each in self.deliveries if each.candidate.serial != delivery.candidate.serial]
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
