"""The owner of the fast path: chooses hooks, attaches, follows the shared page, renews, heals."""
# Over 400 lines: it is one state machine over the page and the kernel.
#
# Theory of operation
# -------------------
# The workers' switchover is the kernel's too.  The owner looks at the shared page (page/layout.py) when it is told of a
# change, and all the time while the workers flip, who tell nobody:
#
#   page.staged = n    table n is copied into the kernel's other generation and self-tested there by test runs
#   page.active = n    when every worker has flipped to n, the kernel flips: workers first, so that a client that comes
#                      again over TCP never meets an older zone
#   silenced, or n cannot be used here, or is not there yet although the workers have flipped: the kernel passes
#                      everything to the workers
#
# Leases are the page's, cut short to `orphan_seconds` from now and renewed every quarter of that, so the kernel stops
# when nobody is left to watch it.
#
#             attach fails: reason logged                interface gone, filter removed
#   off ◀──── retried every RETRY_SECONDS ────▶ attached ───────────────────────────────▶ off
#
# Nothing here is needed for answers: whatever fails, the kernel passes and the workers answer.

import asyncio
import contextlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rootsrv.answer.responder import ResponderSettings
from rootsrv.answer.table import TableUnusable
from rootsrv.config.fastpath import FastPathConfig
from rootsrv.fastpath.accounting import KernelSlot
from rootsrv.fastpath.attachment import (
    Attachment,
    CannotAttach,
    FoundInterface,
    HookName,
    attach,
    find_interface,
    own_addresses,
)
from rootsrv.fastpath.layout import Reason, constant
from rootsrv.fastpath.program import TABLE_ROOM, FastPathUnavailable, Program
from rootsrv.fastpath.staging import OpenTable, Staging
from rootsrv.fastpath.tap import Tap, TapSample
from rootsrv.page.changes import Changes
from rootsrv.page.day import DAY_SECONDS
from rootsrv.page.layout import Page
from rootsrv.page.unique_sources import SourcesKey
from rootsrv.process import clock, json_text, log, whole_file
from rootsrv.process.persistence import persistently

FOLLOW_SECONDS = 0.01
"""How often the page is looked at during a switchover: how far the kernel may be behind the workers then."""

LOOK_SECONDS = 0.25
"""How often it is looked at otherwise: changes are told (page/changes.py), and a look costs a core that answers."""

DUTY_SECONDS = 1.0
"""How often the time is published, leases are renewed when due, and interfaces looked at."""

REFRESH_SECONDS = 10.0
"""How often the host's addresses and the interfaces' MTU and MAC are read again."""

RETRY_SECONDS = 5.0
"""How long after a failed attempt to attach the next one follows."""

_TAILROOM_JUDGED_AT = 100
"""So many replies must have been tried before a driver is found to have no room for them."""


class FastPath:
    """Owns the program in the kernel and its attachments."""

    def __init__(
        self,
        config: FastPathConfig,
        *,
        addresses: Sequence[str],
        port: int,
        responses: ResponderSettings,
        page: Page,
        open_table: OpenTable,
        sources_key: SourcesKey,
        note: Path | None = None,
        admission: dict[str, Any] | None = None,
        cells: int | None = None,
        capture_chunks: int = 0,
        loaded: Callable[[Program | None], None] = lambda program: None,
    ) -> None:
        """*addresses*, *port*: where DNS is answered; *responses*, *sources_key*: as the workers'.

        *note*: file in the runtime directory, of which this process is the only user, that remembers what is attached.
        *admission*: limits and shed rules (Policy.to_document); *cells*: descriptor of the limits' cells, a BPF map.
        *capture_chunks*: size of the rings of a program that can capture, else 0; *loaded* is told of the program when
        it is there, and when it is no more.
        """
        self._admission, self._cells = admission, cells
        self._config = config
        self._capture_chunks = capture_chunks
        self._tell_loaded = loaded
        self._addresses = tuple(addresses)
        self._port = port
        self._responses = responses
        self._page = page
        self._sources_key = sources_key
        self.program: Program | None = None
        self._attachments: dict[str, Attachment] = {}
        self._why: dict[str, str] = {}
        """By interface: why it has this hook, or none."""

        self._note = note
        self._left_behind = frozenset(_noted(note))
        self._unavailable = "" if config.interfaces else "no interfaces are configured (fastpath.interfaces)"
        self._no_xdp: dict[str, str] = {}
        self._retry_at = 0.0
        self._active = 0
        self._renew_at = 0.0
        self._head = b""
        self._refresh_at = 0.0
        self._slot = KernelSlot(page, sources_key.id)
        self._block_changes = 0
        self._tap: Tap | None = None
        self._registers_at = 0.0
        self._counted_at = -DUTY_SECONDS
        self._detached_by_order = ""
        self._suspended_by_order = False
        self._changing = threading.RLock()
        """Held while attachments or tables change: long calls run in threads, commands come in between."""

        self._late = ThreadPoolExecutor(1, "fastpath-late")
        self._waiting: deque[Callable[[], None]] = deque()
        """Changes that wait for `changing`, in order."""

        self._staging = Staging(open_table, responses, addresses, port, self._changing)

    # ── living ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, stop: asyncio.Event) -> None:
        """Be there until *stop*; then take everything off.  Errors of the kernel are logged and tried again."""
        if self._config.mode == "off" or not self._config.interfaces:
            reason = "mode = off" if self._config.mode == "off" else self._unavailable
            self._unavailable = reason
            if self._config.interfaces or self._config.mode not in ("auto", "off"):
                log.event("fast path off", reason=reason)
            return
        counting = asyncio.create_task(persistently("counting of the fast path", self._count_on), name="fastpath-count")
        look = asyncio.Event()
        stopper = asyncio.create_task(_pass_on(stop, look), name="fastpath-stop")
        changes = self._watched(look.set)
        try:
            next_duty, failure = 0.0, ""
            while not stop.is_set():
                look.clear()
                now, failed = time.monotonic(), ""
                try:
                    if now >= next_duty:
                        next_duty = now + DUTY_SECONDS
                        await self._do_duties(now)
                    await self.follow()
                except Exception as error:
                    # Whatever it is: answers come from the workers, and we try again, told once and not all the time.
                    failed = f"{type(error).__name__}: {error}"
                    if failed != failure:
                        log.alarm("fast path failed", reason=failed)
                    with self._changing:
                        self._detach_all("failed")
                    self._retry_at = now + RETRY_SECONDS
                failure = failed
                is_urgent = not failed and (changes is None or self._is_behind())
                patience = FOLLOW_SECONDS if is_urgent else LOOK_SECONDS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await look.wait()
        finally:
            counting.cancel()
            stopper.cancel()
            if changes is not None:
                changes.close()
            self.close()

    def _watched(self, changed: Callable[[], None]) -> Changes | None:
        try:
            return Changes(self._page.watch(), changed)
        except OSError as error:  # too many watches on this host: it is looked at all the time
            log.alarm("fast path is not told of changes", reason=error.strerror, effect="looks all the time")
            return None

    def _is_behind(self) -> bool:
        """Whether the page says something that is still to be done here."""
        return self.program is not None and self._page.active != self._active

    async def _count_on(self) -> None:
        """Count each second, for what is counted in the kernel alone goes with its owner; and end each UTC day.

        Whatever is being staged or attached meanwhile, and for however long.
        """
        while True:
            left = self._counted_at + DUTY_SECONDS - time.monotonic()
            # A second at most: the clock may be stepped.
            await asyncio.sleep(min(left if left > 0 else DUTY_SECONDS, DAY_SECONDS - time.time() % DAY_SECONDS))
            if self.program is None:
                continue
            if self._slot.day_at(time.time()) != self.program.day:
                self.count()  # up to now it was the old day
                self.count()
            elif time.monotonic() >= self._counted_at + DUTY_SECONDS:
                self.count()

    def close(self) -> None:
        """Take the program off all interfaces."""
        with self._changing:
            self._suspend()
            self._detach_all("stopped")
            if self.program is not None:
                self.program.pass_everything()  # what is being answered just now is counted, too
            if self._tap is not None:
                self._tap.close()
                self._tap = None
            if self.program is not None:
                self._registers_at = 0.0
                self._publish(time.time())
                self._tell_loaded(None)
                self.program.close()
                self.program = None
            if self._note is not None:
                self._note.unlink(missing_ok=True)
        self._late.shutdown(wait=False)

    def count(self) -> None:
        """Show in the page what the program has counted up to now."""
        if self.program is not None:
            with contextlib.suppress(OSError):  # it is tried again within a second
                self._publish(time.time())

    async def _do_duties(self, now: float) -> None:
        if self.program is None:
            if now < self._retry_at or self._unavailable.startswith("the BPF program is not built"):
                return
            try:
                self.program = await asyncio.to_thread(self._load)
                self._unavailable = ""
                self._tell_loaded(self.program)
            except FastPathUnavailable as error:
                if str(error) != self._unavailable:
                    log.alarm("fast path off", reason=error)
                self._unavailable = str(error)
                self._retry_at = now + 12 * RETRY_SECONDS
                return
        if time.monotonic() >= self._counted_at + DUTY_SECONDS / 2:  # else it was done, and well
            self._publish(time.time())
        self._renew()
        await asyncio.to_thread(self._keep_attached, now)

    def _publish(self, wall_seconds: float) -> None:
        """Tell the program the time, and the page what the program counted."""
        assert self.program is not None
        program, now = self.program, time.monotonic()
        counters, day = program.counters(), self._slot.day_at(wall_seconds)
        registers = None
        if now >= self._registers_at or day != program.day:
            # Merging 96 KiB per core takes some milliseconds; at midnight it is done before they are cleared.
            self._registers_at = now + REFRESH_SECONDS
            registers = program.unique_sources(program.day)
        self._slot.publish(counters, registers, program.day)
        program.publish_time(wall_seconds, day)
        self._counted_at = time.monotonic()

    def _load(self) -> Program:
        tap = self._config.tap_every > 0
        try:
            program = Program.load(tap=tap, cells=self._cells, capture_chunks=self._capture_chunks)
        except FastPathUnavailable as error:
            if not self._capture_chunks:
                raise
            # Rings for every CPU that there might be can be more than this host has: answers come first.
            program = Program.load(tap=tap, cells=self._cells)
            log.alarm("fast path cannot be captured", reason=error)
        try:
            left_out = program.set_service(self._addresses, self._port)
            if left_out:
                log.alarm("fast path passes queries to some addresses", addresses=",".join(left_out),
                          reason=f"the program knows {constant('MAX_SERVICE_ADDRESSES')} of each family")  # fmt: skip
            program.set_responses(self._responses)
            if self._admission is not None:
                program.admission.change(self._admission)
            program.admission.set_syn_budget(self._config.syns_per_core)
            program.set_sources_key(self._sources_key.octets)
            program.control.tap_every = self._config.tap_every
            wall_seconds = time.time()
            program.publish_time(wall_seconds, self._slot.day_at(wall_seconds))
        except Exception:
            program.close()
            raise
        return program

    # ── interfaces ──────────────────────────────────────────────────────────────────────────────────────────────

    def _keep_attached(self, now: float) -> None:
        """Attach where we should be and are not; notice what has gone or changed."""
        with self._changing:
            program = self.program
            if program is None or self._detached_by_order:
                return
            for name, attachment in list(self._attachments.items()):
                if not attachment.is_there():
                    self._forget(name, "the interface or the attachment is gone")
                elif attachment.hook == "xdp" and self._config.mode == "auto" and self._lacks_tailroom():
                    self._no_xdp[name] = "its driver left no room for replies to grow in"
                    self._forget(name, self._no_xdp[name])
            missing = [name for name in self._config.interfaces if name not in self._attachments]
            if missing and now >= self._retry_at:
                self._refresh_at = 0.0
                program.set_own_addresses(own_addresses())
                for name in missing:
                    self._attach(program, name, replace=self._config.replace)
                if any(name not in self._attachments for name in missing):
                    self._retry_at = now + RETRY_SECONDS
            if now >= self._refresh_at:
                self._refresh_at = now + REFRESH_SECONDS
                program.set_own_addresses(own_addresses())
                found = []
                for name in self._attachments:
                    with contextlib.suppress(CannotAttach):  # gone this very moment: noticed at the next look
                        found.append(find_interface(name).kernel)
                program.set_interfaces(found)

    def _attach(self, program: Program, name: str, *, replace: bool) -> None:
        """Attach to one interface by the best way that it has, and note why."""
        passed_over: list[str] = []
        try:
            interface = find_interface(name)
            # The program must know the interface before its first packet.
            program.set_interfaces([each.interface.kernel for each in self._attachments.values()] + [interface.kernel])
            for hook in self._hooks(interface, passed_over):
                try:
                    attached = attach(
                        program,
                        interface,
                        hook,
                        replace=replace,
                        keep=self._config.keep_attached,
                        left_behind=self._left_behind,
                    )
                except CannotAttach as error:
                    passed_over.append(str(error))
                    continue
                self._attachments[name] = attached
                self._take_note()
                self._why[name] = "; ".join(passed_over)
                log.event("fast path attached", interface=name, hook=hook, mode=self._config.mode,
                          why=self._why[name] or "the best there is")  # fmt: skip
                return
        except CannotAttach as error:
            passed_over.append(str(error))
        reason = "; ".join(passed_over)
        if self._why.get(name) != reason:
            log.alarm("fast path not attached", interface=name, reason=reason)
        self._why[name] = reason

    def _take_note(self) -> None:
        """Remember what is attached: the owner that comes after us knows it for ours."""
        if self._note is not None:
            programs = {*self._left_behind, *(each.program for each in self._attachments.values())}
            try:
                whole_file.replace(self._note, json.dumps(sorted(programs)).encode())
            except OSError as error:  # a full /run: the owner after us finds what is left behind by its name
                log.alarm("fast path cannot take note of its programs", file=self._note, reason=error.strerror)

    def _hooks(self, interface: FoundInterface, passed_over: list[str]) -> list[HookName]:
        """The hooks to try, best first."""
        mode = self._config.mode
        if mode == "xdp":
            return ["xdp"]
        if mode == "tc":
            return ["tcx", "clsact"]
        reason = self._no_xdp.get(interface.name) or interface.why_no_xdp()
        if reason:
            passed_over.append(f"no XDP: {reason}")
            return ["tcx", "clsact"]
        return ["xdp", "tcx", "clsact"]

    def _lacks_tailroom(self) -> bool:
        """Whether replies hardly ever found room: what a driver does with a full-sized packet shows only there."""
        assert self.program is not None
        counters = self.program.counters()
        failed = int(counters.passes[Reason["NO_TAILROOM"]])
        return failed >= _TAILROOM_JUDGED_AT and failed > int(counters.answered())

    def _forget(self, name: str, reason: str) -> None:
        attachment = self._attachments.pop(name)
        attachment.detach()
        self._why[name] = reason
        self._retry_at = 0.0
        log.alarm("fast path detached", interface=name, hook=attachment.hook, reason=reason)

    def _detach_all(self, reason: str) -> None:
        for name, attachment in self._attachments.items():
            attachment.detach()
            self._why[name] = reason
            log.event("fast path detached", interface=name, hook=attachment.hook, reason=reason)
        self._attachments.clear()

    # ── switchover ──────────────────────────────────────────────────────────────────────────────────────────────

    async def follow(self) -> None:
        """Do what the page says: stage, activate, or pass everything."""
        page, program = self._page, self.program
        if program is None:
            return
        active, staged = page.active, page.staged
        if staged not in (0, self._active, self._staging.latest) and not self._staging.is_known(staged):
            await self._staging.stage(program, staged, self._hooks_in_use())
        if active != self._active and self._workers_have_flipped(active):
            if not self._staging.is_known(active):
                self._suspend()  # the workers are ahead of us: pass until the table is here
                await self._staging.stage(program, active, self._hooks_in_use())
                if page.active != active:
                    return
            self._activate(active)
        head = page.head()
        if head != self._head:
            self._head = head
            if page.silenced:
                self._suspend()  # also when the kernel is a generation behind, whose leases are not renewed
            self._renew(at_once=True)
        changes = page.block_changes
        if changes != self._block_changes:
            program.set_blocks(page.blocks())  # if it fails we are detached, and try again until it is done
            self._block_changes = changes

    def _workers_have_flipped(self, generation: int) -> bool:
        """Whether every worker that is there answers from *generation*."""
        slots = [self._page.worker(number) for number in range(self._page.workers)]
        living = [slot for slot in slots if slot.pid]
        return bool(living) and all(slot.active == generation for slot in living)

    def _hooks_in_use(self) -> list[bool]:
        """Whether each attachment is in XDP."""
        return [attachment.hook == "xdp" for attachment in self._attachments.values()]

    def _activate(self, generation: int) -> None:
        assert self.program is not None
        self._active = generation
        # What the program could not be told of limits it is told again.
        self._suspended_by_order = self._suspended_by_order and not self._admitted()
        place = self._staging.place(generation)
        if place is None:
            self._suspend()
            log.alarm("fast path passes everything", generation=generation, reason=self._staging.outcome(generation))
            return
        self.program.activate(place, self._leases())
        self._staging.forget_others(generation)
        self._renew_at = clock.boottime_ns() + self._config.orphan_seconds * 1e9 / 4
        serials = ",".join(map(str, self._staging.serials(generation)))
        log.event("fast path switched", generation=generation, serials=serials)

    def _suspend(self) -> None:
        """Pass everything to the workers."""
        if self.program is not None:
            self.program.renew(())

    def _leases(self) -> tuple[int, ...]:
        """Until when each zone may be answered from here, nanoseconds on CLOCK_BOOTTIME."""
        if self._page.silenced or self._detached_by_order or self._suspended_by_order:
            return ()
        orphaned = clock.boottime_ns() + int(self._config.orphan_seconds * 1e9)
        return tuple(min(self._page.deadline(zone), orphaned) for zone in range(2))

    def _renew(self, *, at_once: bool = False) -> None:
        """Grant more time when a quarter of it is over, or the page has changed."""
        assert self.program is not None
        self.program.note_owner()
        now = clock.boottime_ns()  # by the clock that the promise ends by: after a suspend it is over
        if not at_once and now < self._renew_at:
            return
        self._renew_at = now + self._config.orphan_seconds * 1e9 / 4
        # While the page has moved on its leases are another table's: ours is not renewed, and soon switched from.
        if self._staging.place(self._active) == self.program.active and self._page.active == self._active:
            self.program.renew(self._leases())

    # ── asked from outside ──────────────────────────────────────────────────────────────────────────────────────

    def probe(self) -> dict[str, str]:
        """What health wants to know: `state` is off, right, wrong or dead; `detail` says why (health/evidence.py)."""
        program = self.program
        if program is None or not self._attachments or self._staging.place(self._active) is None:
            return {"state": "off", "detail": self._unavailable or "not attached"}
        if self._page.silenced or self._page.active != self._active:
            return {"state": "off", "detail": "passes everything: silenced, or the workers are switching"}
        try:
            outcome = self._staging.test_again(program, self._active, self._hooks_in_use())
        except (OSError, TableUnusable) as error:
            return {"state": "dead", "detail": str(error)}
        state = "right" if outcome.passed else "wrong" if outcome.wrong else "dead"
        return {"state": state, "detail": str(outcome)}

    def detach(self, reason: str) -> None:
        """Take the program off and leave it off until `attach_again`."""
        with self._changing:
            self._detached_by_order = reason
            self._suspend()
            self._detach_all(reason)

    def suspend(self, wanted: int, reason: str) -> None:
        """Pass everything until the next switchover, unless the kernel has the generation that is *wanted*."""
        if wanted == self._active:
            return  # it followed while the order was on its way
        log.alarm("fast path passes everything", generation=self._active, reason=reason)
        self._suspended_by_order = True
        self._suspend()

    def _once_unchanging(self, work: Callable[[], None]) -> None:
        """Do *work* with `changing` held: at once if nobody holds it, else when it is free, and in order.

        A table is copied and tested for tenths of a second; the event loop, which looks after the workers, does not
        wait for it.
        """
        if not self._waiting and self._changing.acquire(blocking=False):
            try:
                work()
            finally:
                self._changing.release()
            return
        self._waiting.append(work)
        self._late.submit(self._do_late)

    def _do_late(self) -> None:
        try:
            with self._changing:
                self._waiting.popleft()()
        except Exception as error:
            log.alarm("fast path failed", reason=f"{type(error).__name__}: {error}")

    def respond_as(self, responses: ResponderSettings) -> None:
        """Respond as *responses* say, which the workers are told as well; while it changes, queries pass to them."""

        def change() -> None:
            self._responses = responses
            self._staging.expect(responses)
            program = self.program
            if program is None:
                return
            program.pass_everything()
            program.set_responses(responses)
            self._renew(at_once=True)

        self._once_unchanging(change)

    def admit_as(self, admission: dict[str, Any]) -> None:
        """Limit and shed as *admission* says (Policy.to_document), which the workers are told as well."""

        def change() -> None:
            self._admission = admission
            if self.program is not None and not self._admitted():
                self._suspended_by_order = True  # the workers obey: until the next switchover they answer alone
                self._suspend()

        self._once_unchanging(change)

    def _admitted(self) -> bool:
        """Whether the program could be told of limits and shed rules."""
        assert self.program is not None
        try:
            if self._admission is not None:
                self.program.admission.change(self._admission)
        except OSError as error:
            log.alarm("fast path cannot limit or shed", reason=error.strerror, effect="passes everything")
            return False
        return True

    def notes(self) -> list[bytes]:
        """Notes of queries since the last call (admission/samples.py); none if they cannot be had just now."""
        program = self.program
        try:
            return [] if program is None else program.notes()
        except OSError:
            return []

    def attach_again(self, *, replace: bool) -> None:
        """Attach where configured; with *replace* in the place of whoever is there."""
        with self._changing:
            self._detached_by_order = ""
            if self.program is None:
                return
            for name in self._config.interfaces:
                if name not in self._attachments:
                    self._attach(self.program, name, replace=replace)
            self._refresh_at = 0.0
            self._renew(at_once=True)

    def samples(self) -> list[TapSample]:
        """What the tap took since the last call; empty while it is off (`fastpath.tap_every`)."""
        if self.program is None or not self._config.tap_every:
            return []
        if self._tap is None:
            self._tap = Tap(self.program.tap)
        return self._tap.read()

    def status(self) -> dict[str, Any]:
        """All that is to be told, for `rootsrv fastpath status`."""
        program = self.program
        document: dict[str, Any] = {
            "mode": self._config.mode,
            "kernel": os.uname().release,
            "unavailable": self._unavailable,
            "detached_by_order": self._detached_by_order,
            "active": self._active if self._staging.place(self._active) is not None else 0,
            "serials": list(self._staging.serials(self._active)),
            "staged": self._staging.latest if self._staging.place(self._staging.latest) is not None else 0,
            "self_tests": {str(generation): str(outcome) for generation, outcome in self._staging.outcomes().items()},
            "interfaces": [
                {
                    "name": name,
                    "hook": attachment.hook if (attachment := self._attachments.get(name)) else "off",
                    "why": self._why.get(name, ""),
                }
                for name in self._config.interfaces
            ],
        }
        if program is not None:
            now = clock.boottime_ns()
            until = program.answer_until()
            document["answer_until_seconds"] = [round(max(0, each - now) / 1e9, 3) for each in until]
            document["memory_octets"] = program.memory_octets()
            document["table_octets"], document["table_room"] = self._staging.table_octets, TABLE_ROOM
            document["counters"] = program.counters().as_document()
        return document


async def _pass_on(event: asyncio.Event, other: asyncio.Event) -> None:
    await event.wait()
    other.set()


def _noted(path: Path | None) -> list[int]:
    """The programs that an earlier owner attached; none if it has left no note."""
    try:
        return [int(each) for each in json_text.parse(path.read_text(encoding="utf-8"))] if path is not None else []
    except (OSError, ValueError, TypeError):
        return []
