"""The role *capture*: writes what was asked to files, as long as it is told to."""
# Over 400 lines: an order's life, from the socket over restarts to its end, is told in one place.
#
# A process of its own, on cores of its own if so configured: it reads what kernel and workers leave in shared memory,
# and nobody waits for it.  What it is told (until when, in which format) is kept beside the files, so that it goes on
# after a restart, of itself or of the machine, with what has been lost meanwhile counted.

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import ipaddress
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import rootsrv
from rootsrv.capture import formats, hand, offer, rings, sequence
from rootsrv.capture.anonymise import KeyLengthWrong, anonymiser
from rootsrv.capture.cdns import Collection
from rootsrv.capture.clocks_before import ClocksBefore
from rootsrv.capture.collector import IDLE_SECONDS, POLL_SECONDS, Collector, CollectorState
from rootsrv.capture.compression import CompressionUnavailable, compressors
from rootsrv.capture.file_names import ORDER, is_made_here
from rootsrv.capture.files import CaptureDirectory, Finisher, make_directory
from rootsrv.capture.hand import Hand
from rootsrv.capture.room import DiskSpace
from rootsrv.capture.wall_clock import STEP_NS
from rootsrv.capture.wanted import WantedCapture
from rootsrv.config.capture import CaptureConfig
from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.config.typed import build
from rootsrv.control.protocol import Command, Commands, Nothing, Order, Refused
from rootsrv.control.server import ControlServer
from rootsrv.page import counts
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.process import clocks, json_text, log, memory, service_manager, whole_file
from rootsrv.process.host_name import host_name
from rootsrv.process.persistence import failing, persistently
from rootsrv.roles.account import keep_what_is_needed
from rootsrv.zone import instant

RATE_SECONDS = 5.0
_AGAIN_SECONDS = 5.0
_DISK_SECONDS = 1.0
_ALIVE_SECONDS = 1.0
_KEPT_SECONDS = 60.0  # what a machine that stops had counted since is not in what its capture has, by the status

_LONGEST_TURN_SECONDS = 900.0
"""So long a disk may let us wait before we say no more that we are alive: an end would cost what is in hand."""

_LONGEST_SECONDS = 366 * 86_400
_BITS = {"ipv4": rings.IPV4, "ipv6": rings.IPV6, "udp": rings.UDP, "tcp": rings.TCP}


class CannotCapture(Exception):
    """It is not configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOrder:
    """`capture-start`: what of it is not given is as configured."""

    seconds: float = 0.0
    """For how long; 0 = until it is stopped."""

    at: float = 0.0
    """When it begins, seconds since 1970; 0 = now."""

    until: float = 0.0
    """Or until when, seconds since 1970."""

    format: Literal["", "cdns", "pcap"] = ""
    compression: Literal["", "none", "gzip", "zstd"] = ""
    rotation_seconds: int = 0
    name: str = ""
    every: int = 0


async def capture(config: Config, stop: asyncio.Event) -> None:
    """Capture as ordered, until *stop* is set; CannotCapture without a section [capture]."""
    settings = config.capture
    if settings is None:
        raise CannotCapture("capture: there is no section [capture]")
    memory.keep_freed()
    # Whoever answers goes first where they share a core: what finds no room is counted as lost, and that is all.
    os.setpriority(os.PRIO_PROCESS, 0, max(10, os.getpriority(os.PRIO_PROCESS, 0)))
    if settings.cores:
        try:
            os.sched_setaffinity(0, settings.cores)
        except (OSError, ValueError) as error:
            log.alarm("capture runs on any core", reason=f"capture.cores: {error}")
    directory, runtime = Path(settings.directory), Path(config.state.runtime_directory)
    with contextlib.suppress(OSError):  # it is said below
        make_directory(directory)
    if closed := keep_what_is_needed(config, directory, (runtime,), own=is_made_here):
        log.alarm("capture keeps running as root", reason=closed)
    told = ""
    while not stop.is_set():
        held = None
        try:
            held = _hold(directory)
            working = _Capture(config, settings)
        except OSError as error:
            if held is not None:
                os.close(held)
            # A disk that is not there yet, or full, ends nothing: the instance answers, and we look again.
            if told != (reason := f"{error.filename}: {error.strerror}"):
                log.alarm("capture has no directory", reason=reason, again_in=_AGAIN_SECONDS)
            told = reason
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_SECONDS):
                    await stop.wait()
            continue
        try:
            await working.run(stop)
        finally:
            os.close(held)


def _hold(directory: Path) -> int:
    """The descriptor of *directory*, while which is open no other role writes into it; OSError if one does."""
    make_directory(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OSError(errno.EBUSY, "another role capture writes into it", str(directory)) from None
    except OSError as error:  # a file system without locks
        log.event("capture directory not held", directory=directory, reason=error.strerror)
    return descriptor


class _Amounts(NamedTuple):
    """Queries of one capture."""

    items: int = 0
    lost: int = 0
    passed_over: int = 0

    @classmethod
    def of(cls, collector: Collector) -> "_Amounts":
        totals = collector.totals
        return cls(totals.items, sum(totals.lost.values()), totals.passed_over)


def _disk(directory: CaptureDirectory) -> DiskSpace:
    """What there was, when it was looked last: asking may take as long as a write does."""
    try:
        return directory.room.lately()
    except OSError:
        return DiskSpace(0, 0, 0)


class _Capture:
    """All that the role does."""

    def __init__(self, config: Config, settings: CaptureConfig) -> None:
        self._config = config
        self._settings = settings
        self._runtime = Path(config.state.runtime_directory)
        self._hand = Hand.open(self._runtime / hand.NAME)
        self._directory = CaptureDirectory(
            Path(settings.directory),
            quota_octets=settings.quota_octets,
            keep_free_octets=settings.keep_free_octets,
            retention_seconds=settings.retention_days * 86_400,
            removes_oldest=settings.when_full == "remove-oldest",
            hand=self._hand,
        )
        self._order_file = self._directory.path / ORDER
        self._finisher = Finisher(settings.recompress, self._hand)
        self._finisher.recompress(self._directory.files())
        self._collector = Collector(self._runtime / offer.NAME, self._directory, self._finisher)
        self._order: StartOrder | None = None
        self._waits = False
        """Whether the order's time is still to come."""

        self._begins_by_itself = False
        """Whether nobody ordered it: then nothing is kept that would go on when the configuration says otherwise."""

        self._unresumed = ""
        """Why what was ordered before the role began does not go on."""

        self._unkept = ""
        """Why what is ordered is not what a role after this one would go on with."""

        self._begun = 0.0
        self._before: int | None = None
        """What the instance had counted when it began."""

        self._from = self._kept = _Amounts()
        """The collector's totals when it began, and what roles before this one have told of the same capture."""

        self._settled_from = rings.Counts()
        """What was settled when it began."""

        self._kept_at = 0.0

        self._most = 0.0
        """Queries a second that plain Python takes, of the format that is written; 0: there are columns."""

        self._thread = ThreadPoolExecutor(1, "capture")
        """All that the collector does is done here, so that a disk that makes it wait delays no answer about it."""

        self._turned_at = time.monotonic()
        self._disk = _disk(self._directory)
        self._disk_at = 0.0
        self._rate = self._octets_rate = self._counted_rate = 0.0
        self._rate_from = (time.monotonic(), 0, 0, 0)

    async def run(self, stop: asyncio.Event) -> None:
        """Until *stop* is set; an order that is not over is kept."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._resume)
        tasks = [
            asyncio.create_task(persistently("collect", self._collect), name="collect"),
            asyncio.create_task(persistently("status socket", self._listen), name="status"),
            asyncio.create_task(self._say_that_it_lives(), name="alive"),
        ]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await loop.run_in_executor(self._thread, self._close)
            self._thread.shutdown()
            (self._runtime / "capture.sock").unlink(missing_ok=True)

    def _close(self) -> None:
        self._collector.close()
        if self._order is not None:
            self._keep_order()

    async def _listen(self) -> None:
        server = await ControlServer(self.commands()).listen(self._runtime / "capture.sock")
        with contextlib.closing(server):
            await asyncio.Event().wait()

    async def _collect(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await loop.run_in_executor(self._thread, self._turn)
            self._turned_at = time.monotonic()
            service_manager.ready("capture listens for orders")
            idle = self._collector.state is CollectorState.IDLE and not self._waits
            await asyncio.sleep(IDLE_SECONDS if idle else POLL_SECONDS)

    async def _say_that_it_lives(self) -> None:
        while True:
            if time.monotonic() - self._turned_at < _LONGEST_TURN_SECONDS:
                service_manager.alive()
            await asyncio.sleep(_ALIVE_SECONDS)

    def _turn(self) -> None:
        if self._waits and self._order is not None and self._order.at <= time.time():
            self._begin(self._order, resumed=False, waited=True)
            self._keep_order()
        self._collector.turn()
        if self._order is not None and not self._waits and self._order.until != self._collector.until:
            self._order = dataclasses.replace(self._order, until=self._collector.until)  # the clock was stepped
            self._keep_order()
        if self._order is not None and not self._waits and self._collector.state is CollectorState.IDLE:
            self._finisher.wait()
            self._forget_order()  # its time is over
        now = time.monotonic()
        if (self._unkept or (self._order is not None and not self._waits)) and now - self._kept_at >= _KEPT_SECONDS:
            self._keep_order()
        if now - self._disk_at >= _DISK_SECONDS:
            self._disk, self._disk_at = _disk(self._directory), now
        since, *before = self._rate_from
        if now - since >= RATE_SECONDS:
            totals = self._collector.totals
            amounts = totals.items, totals.written_octets, self._counted() or 0
            rates = [max(0, after - each) / (now - since) for after, each in zip(amounts, before, strict=True)]
            if before[2]:
                self._rate, self._octets_rate, self._counted_rate = rates
            self._rate_from = now, *amounts

    def _amounts(self) -> "_Amounts":
        """Of this capture, as far as roles before this one could tell."""
        now = _Amounts.of(self._collector)
        return _Amounts(*(kept + each - at for kept, each, at in zip(self._kept, now, self._from, strict=True)))

    def _counted_since(self) -> int | None:
        counted = self._counted()
        if counted is None or self._before is None or counted < self._before:  # counts of before the machine's start
            return None
        return counted - self._before

    # ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────

    def commands(self) -> Commands:
        """What can be asked of the role."""

        async def status(_: Order[Nothing]) -> Mapping[str, Any]:
            return self.status()

        async def start(order: Order[StartOrder]) -> Mapping[str, Any]:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._start, order.wanted)
            return self.status()

        async def stop(_: Order[Nothing]) -> Mapping[str, Any]:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._stop)
            return self.status()

        return {
            "status": Command(status, Nothing, changes=False),
            "capture-start": Command(start, StartOrder),
            "capture-stop": Command(stop, Nothing),
        }

    def _resume(self) -> None:
        """Go on with what was ordered before the role ended, or with what is configured."""
        offer.CaptureWish.withdraw(self._runtime)
        try:
            kept = json_text.parse(self._order_file.read_bytes())
            if not isinstance(kept, dict):
                raise TypeError("not an object")
            order = build(StartOrder, {key: kept[key] for key in StartOrder.__slots__ if key in kept}, "")
        except FileNotFoundError:
            kept, order = {}, StartOrder()
            if self._settings.begin != "at-once":
                return
            self._begins_by_itself = True
        except (OSError, ValueError, TypeError) as error:
            log.alarm("capture order cannot be read", file=self._order_file, reason=error)
            self._unresumed = f"{self._order_file} cannot be read: {error}"
            return
        if kept.get("stopped"):
            return
        begun = kept.get("begun")
        begun = begun if isinstance(begun, int | float) else 0.0
        order, least = self._by_the_clock(order, ClocksBefore.of(kept.get("clocks")), begun)
        if order.until and order.until <= time.time() and least is None:
            log.event("capture order is over", until=order.until)
            with contextlib.suppress(OSError):
                self._order_file.unlink(missing_ok=True)
            return
        if order.at > time.time() and not begun:  # what had begun goes on by a clock that is not set yet, too
            self._order, self._waits = order, True
            return
        try:
            self._begin(order, resumed=True, least=least)
        except Refused as error:
            log.alarm("capture cannot go on", reason=error)
            self._unresumed = f"the capture that was ordered cannot go on: {error}"
            return
        counted = kept.get("counted")
        self._before = counted if isinstance(counted, int) else self._before
        amounts = kept.get("amounts")
        if isinstance(amounts, list) and len(amounts) == len(_Amounts._fields) and {*map(type, amounts)} == {int}:
            self._kept = _Amounts(*amounts)
            settled = kept.get("settled")
            if not isinstance(settled, list) or {*map(type, settled)} != {int}:
                settled = [0]
            born, *before = settled
            if born == self._hand.born and len(before) == len(amounts):
                since = dataclasses.astuple(self._settled_from - rings.Counts(*before))
                self._kept = _Amounts(*map(sum, zip(amounts, since, strict=True)))
        self._begun = begun or self._begun

    def _by_the_clock(
        self, order: StartOrder, before: ClocksBefore | None, begun: float
    ) -> tuple[StartOrder, float | None]:
        """*order* that was kept, as its end is by the clock of now, and what time it is at least if that may be wrong.

        *before*: the clocks when it was kept, *begun*: when its capture began, if nobody kept them.
        """
        now = time.time()
        step = 0.0 if before is None else before.step(now)
        if before is None or not before.is_of_this_boot:
            # From now on it ends at a time: the first steps of this clock are those that set it.
            order = dataclasses.replace(order, seconds=0.0)
        elif order.seconds and begun and order.until and abs(step) >= STEP_NS / 1e9:
            order = dataclasses.replace(order, until=order.until + step)
        if order.seconds or self._config.clock.source == "trusted" or clocks.kernel_says_synchronised():
            return order, None
        least = begun if before is None else before.least
        return order, least if now - least >= STEP_NS / 1e9 else None

    def _start(self, order: StartOrder) -> None:
        if not 0 <= order.seconds <= _LONGEST_SECONDS:
            raise Refused(f"seconds: must be 0..{_LONGEST_SECONDS}, got {order.seconds:g}")
        now = time.time()
        until = max(now, order.at) + order.seconds if order.seconds else order.until
        for key, at in (("at", order.at), ("until", until)):
            if at and not 0 < at < instant.LAST + 1:
                raise Refused(f"{key}: must be seconds since 1970, up to the year 9999, got {at:g}")
        if until and until <= max(now, order.at):
            raise Refused("until: is over already" if until <= now else "until: is before it begins")
        if self._order is not None:
            raise Refused("a capture is under way (rootsrv capture stop ends it)")
        settled = dataclasses.replace(order, until=until)
        self._chosen(settled)
        self._begins_by_itself = False
        self._unresumed = ""
        if settled.at > time.time():
            self._order, self._waits = settled, True
        else:
            self._begin(settled, resumed=False)
        self._keep_order()

    def _keep_order(self) -> None:
        """What a role after this one shall go on with, beside the files; where that cannot be it is tried again."""
        self._kept_at = time.monotonic()
        try:
            if self._order is not None:
                if not self._begins_by_itself:
                    whole_file.replace(self._order_file, json.dumps(self._kept_document(self._order)).encode(), 0o640)
            elif self._settings.begin == "at-once":
                whole_file.replace(self._order_file, b'{"stopped": true}\n', 0o640)
            else:
                self._order_file.unlink(missing_ok=True)
        except OSError as error:
            log.alarm("capture order not kept", file=self._order_file, reason=error.strerror)
            self._unkept = f"{self._order_file} cannot be written, and a restart undoes it: {error.strerror}"
        else:
            self._unkept = ""

    def _kept_document(self, order: StartOrder) -> dict[str, Any]:
        # What is in hand is left out: a role that comes after one that was killed counts it as lost.
        settled = self._hand.settled
        since = dataclasses.astuple(settled - self._settled_from)
        amounts = (
            [before + now for before, now in zip(self._kept, since, strict=True)] if not self._waits else _Amounts()
        )
        return {
            **asdict(order),
            "begun": 0.0 if self._waits else self._begun,
            "counted": self._before,
            "clocks": ClocksBefore.now(*self._collector.clock),
            "amounts": amounts,
            "settled": [self._hand.born, *dataclasses.astuple(settled)],
        }

    def _chosen(self, order: StartOrder) -> CaptureConfig:
        """What the files shall be; Refused if they cannot be."""
        settings = self._settings
        try:
            chosen = dataclasses.replace(
                settings,
                format=order.format or settings.format,
                compression=order.compression or settings.compression,
                rotation_seconds=order.rotation_seconds or settings.rotation_seconds,
                name=order.name or settings.name,
                every=order.every or settings.every,
            )
            compressors(chosen.compression)
        except (CompressionUnavailable, ConfigError) as error:
            raise Refused(str(error)) from error
        return chosen

    def _begin(self, order: StartOrder, *, resumed: bool, waited: bool = False, least: float | None = None) -> None:
        settings, chosen = self._settings, self._chosen(order)
        how = None
        try:
            if settings.anonymisation != "none":
                how = anonymiser(settings.anonymisation, bytes.fromhex(settings.secret) if settings.secret else None)
        except KeyLengthWrong as error:
            raise Refused(f"capture.secret: {error}") from error
        service = self._config.service.addresses
        collection = Collection(
            host_id=self._config.identity.nsid or host_name(),
            interfaces=self._config.fastpath.interfaces,
            server_addresses=tuple(ipaddress.ip_address(each).packed for each in service),
            filter=settings.filter,
            sampling=f"one query of {chosen.every}, of each CPU and worker" if chosen.every > 1 else "",
            anonymiser=how,
        )

        def make_format() -> formats.Format:
            if how is None or settings.key_of == "capture":
                return formats.make(chosen.format, collection)
            its_own = anonymiser(settings.anonymisation)
            return formats.make(chosen.format, dataclasses.replace(collection, anonymiser=its_own))

        wanted = WantedCapture(
            make_format=make_format,
            begin_member=compressors(chosen.compression),
            compression=chosen.compression,
            name=chosen.name,
            rotation_seconds=chosen.rotation_seconds,
            every=chosen.every,
            bits=sum(_BITS[each] for each in (*settings.families, *settings.transports)),
            until=order.until,
            for_so_long=bool(order.seconds),
            about={
                "format": chosen.format,
                "host": collection.host_id,
                "service_addresses": list(service),
                "filter": collection.filter,
                "anonymisation": settings.anonymisation,
                "software": f"rootsrv {rootsrv.__version__}",
            },
        )
        # First the wish: of rings that come at this moment either the role serve sees it, or we see the rings.
        self._from, self._kept, self._settled_from = _Amounts.of(self._collector), _Amounts(), self._hand.settled
        with contextlib.ExitStack() as failed:
            failed.callback(offer.CaptureWish.withdraw, self._runtime)
            offer.CaptureWish(wanted.make_format().shape, wanted.every, wanted.bits).leave(self._runtime)
            self._collector.start(wanted, resumed=resumed, waited=waited, least=least)
            failed.pop_all()
        self._most = 0.0 if sequence.has_columns() else formats.rate(chosen.format)
        # Not before all is well: an order whose time has come is tried again until it is.
        self._order, self._waits, self._begun = order, False, time.time()
        self._before = self._counted()

    def _counted(self) -> int | None:
        """Queries, messages that were not understood, and those without a response that the instance has counted."""
        try:
            page = Page.open(self._runtime / "page", writable=False)
            return counts.received(counts.total(page)) + counts.received(counts.over_tls(page))
        except PageUnusable:
            return None

    def _stop(self) -> None:
        if self._order is None and not self._unresumed:
            raise Refused("nothing is captured")
        if self._order is not None and not self._waits:
            self._collector.stop()
            self._finisher.wait()
            self._collector.settle()
        self._forget_order()

    def _forget_order(self) -> None:
        self._order, self._waits, self._unresumed = None, False, ""
        offer.CaptureWish.withdraw(self._runtime)
        self._keep_order()

    def _overtime(self) -> str:
        """Why it goes on though the clock says that it is over."""
        if self._order is None or self._waits or not 0 < self._order.until <= time.time():
            return ""
        return "its time is over by a clock that may be set wrong: it goes on until that has stood for ten minutes"

    def status(self) -> dict[str, Any]:
        """What the status socket tells."""
        collector, totals, finisher = self._collector, self._collector.totals, self._finisher
        order, disk, trouble = self._order, self._disk, self._unresumed or self._unkept
        return {
            "role": "capture",
            "pid": os.getpid(),
            "version": rootsrv.__version__,
            "failing": failing | collector.failing,
            "state": collector.state.value,
            "why": "; ".join(filter(None, (trouble, self._overtime(), collector.why))),
            "order_error": trouble,
            "format": "" if order is None else order.format or self._settings.format,
            "begins": order.at if order is not None and self._waits else 0.0,
            "begun": self._begun if order is not None and not self._waits else 0.0,
            "until": 0.0 if order is None else order.until,
            "columns": sequence.has_columns(),
            "most_a_second": round(self._most),
            "rate": round(self._rate, 1),
            "octets_a_second": round(self._octets_rate, 1),
            "queries_counted": self._counted_since(),
            "queries_a_second": round(self._counted_rate, 1),
            "capture": self._amounts()._asdict(),
            **asdict(totals),
            "behind_seconds": round(collector.behind_seconds, 3),
            "ring_fill": round(collector.fill, 4),
            "directory": str(self._directory.path),
            "file": collector.file,
            "files_finished": finisher.finished,
            "files_failed": finisher.failed,
            "files_removed": self._directory.removed,
            "files_staying": self._directory.staying,
            "error": finisher.error,
            "files_packing": finisher.packing,
            "directory_octets": disk.used,
            "free_octets": disk.free,
            "room_octets": max(0, disk.more),
            "quota_octets": self._settings.quota_octets,
        }
