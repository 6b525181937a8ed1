"""The parent of the workers (role *serve*): binds every socket, keeps the descriptors, takes no packet."""
# Theory of operation
# -------------------
# The parent starts one worker per slot and watches each in two ways: its end (a task per slot waits for it), and its
# heartbeat in the shared page, which a worker renews at every wake-up, at least ten times a second.  A worker that does
# not advance while datagrams or connections wait in its queues is killed; so is one that does not advance at all for
# longer.  Whatever ended it, it is replaced on the same sockets, whose queues the parent kept open meanwhile.
#
#             exit                            when replacing.py says
#   running ────────▶ counted as replaced ─────────────────────────▶ running
#      │ no heartbeat        ▲
#      └──── SIGKILL ────────┘

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import rootsrv
from rootsrv.control.protocol import Command, Commands, Nothing, Order
from rootsrv.page import counts
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.process import clock, log, real_time, service_manager
from rootsrv.process.children import describe_end, describe_error, environment
from rootsrv.process.persistence import failing, persistently
from rootsrv.server.replacing import LONGEST_SECONDS, WHY, Replacing
from rootsrv.server.sockets import ServiceSocket
from rootsrv.server.worker_orders import WorkerOrders

WATCH_SECONDS = 0.25

STUCK_SECONDS = 1.5
"""A worker without a heartbeat for so long, while queries wait for it, is replaced: fifteen missed wake-ups."""

DEAD_SECONDS = 10.0
"""Likewise with nothing waiting."""

FOLLOW_SECONDS = 5.0
"""How long what runs beside the workers may answer from another generation than the active one; no switchover waits
for it, so we do."""

BESIDE_BACK_OFF_SECONDS = 60.0
"""The longest pause before that is tried again: its port may be somebody else's, which is no reason not to serve."""

_RENEWAL_SECONDS = 15.0
"""How long the next worker waits for the one before it to be there again, when all are replaced."""

STOP_SECONDS = 6.0
"""How long workers may take to finish what is in flight; then they are killed."""


class Beside(Protocol):
    """A process that is kept beside the workers, in a slot of its own; without it all others go on."""

    name: str
    slot: int
    module: str

    def sockets(self) -> Sequence[ServiceSocket]:
        """Bound, the same ones each time; OSError."""

    def orders(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """What it is told where the workers are told *common*: the WorkerOrders that do not differ between these."""

    def status(self) -> dict[str, Any]:
        """What else is told of it."""


class Parent:
    """Starts, watches and replaces the workers, and tells who asks."""

    def __init__(
        self,
        *,
        sockets: Sequence[ServiceSocket],
        page: Page,
        tables: Path,
        orders: dict[str, Any],
        notes: Mapping[int, int] = {},
        rings: Mapping[int, int] = {},
        beside: Sequence[Beside] = (),
        cpus: Set[int] = frozenset(),
    ) -> None:
        """*tables*: directory of answer tables; *orders*: the WorkerOrders that do not differ between workers.

        *notes*: descriptors of rings for notes of queries (admission/samples.py), by slot; *rings*: of memory for what
        a capture is told (capture/rings.py).
        *cpus*: those for the workers, where this process has others; empty: the same.
        """
        self._cpus = cpus
        self._notes = notes
        self._rings = rings
        self._sockets = sockets
        self._page = page
        self._tables = tables
        self._orders = orders
        self._beside = {each.slot: each for each in beside}
        self._replaced_by = {name: dict.fromkeys(WHY, 0) for name in ("worker", *(each.name for each in beside))}
        """Since we began, what was replaced, and why."""

        self._behind_since: dict[int, int] = {}
        """Of what runs beside the workers: since when it has answered from another generation."""

        self._workers = 1 + max(each.worker for each in sockets)
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._handles: dict[int, int] = {}
        """Descriptors of the processes (pidfd_open(2)): a signal through one never reaches another process."""

        self._reasons: dict[int, tuple[str, str]] = {}
        """Why we have ended what runs in a slot: one of WHY, and what the log says."""

        self._renewal: asyncio.Task[None] | None = None
        self._stopping = False
        self._stopped = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until *stop* is set; then let the workers finish what is in flight."""
        page = self._page
        slots = [*range(self._workers), *self._beside]
        for slot in slots:
            page.worker(slot).pid = 0  # what ended with the parent before us is gone, whatever it could still say
        page.workers = self._workers
        page.parent_heartbeat = clock.boottime_ns()
        tables = os.open(self._tables, os.O_RDONLY | os.O_DIRECTORY)
        try:
            keepers = [asyncio.create_task(self._keep(slot, tables), name=f"worker-{slot}") for slot in slots]
            watcher = asyncio.create_task(persistently("watch over the workers", self._watch), name="watch")
            ended = asyncio.create_task(stop.wait())
            # None of the others ends before we stop, unless it fails: then the role goes down with its traceback.
            await asyncio.wait([ended, watcher, *keepers], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            watcher.cancel()
            await self._stop(keepers)
            for task in (watcher, *keepers):
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        finally:
            page.parent_heartbeat = 0
            os.close(tables)

    async def _stop(self, keepers: Sequence["asyncio.Task[None]"]) -> None:
        self._stopping = True
        self._stopped.set()
        for slot in list(self._processes):
            self._signal(slot, signal.SIGTERM)
            self._signal(slot, signal.SIGCONT)
        _, late = await asyncio.wait(keepers, timeout=STOP_SECONDS)
        for slot in list(self._processes) if late else ():
            self._signal(slot, signal.SIGKILL)

    def _signal(self, slot: int, number: signal.Signals) -> None:
        """Send our child in *slot* a signal; nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if (handle := self._handles.get(slot)) is not None:
                signal.pidfd_send_signal(handle, number)
            else:
                self._processes[slot].send_signal(number)

    async def _keep(self, slot: int, tables: int) -> None:
        """Have a worker in *slot* until we stop."""
        replacing = Replacing(BESIDE_BACK_OFF_SECONDS if slot in self._beside else LONGEST_SECONDS)
        while not self._stopping:
            try:
                process = await self._start(slot, tables)
            except Exception as error:  # no process, no descriptor, no memory: the others go on, and it may pass
                pause = replacing.was_never_up()
                log.alarm("worker cannot be started", slot=slot, reason=describe_error(error), pause_seconds=pause)
                await self._pause(pause)
                continue
            started = time.monotonic()
            status = await process.wait()
            del self._processes[slot]
            if (handle := self._handles.pop(slot, None)) is not None:
                os.close(handle)
            was_up = self._page.worker(slot).pid == process.pid or status == 0  # it says itself that it is gone
            self._page.worker(slot).pid = 0
            if self._stopping:
                return
            pause = replacing.was_up(time.monotonic() - started) if was_up else replacing.was_never_up()
            ended = "ended" if was_up else "never-up", describe_end(status)
            why, reason = self._reasons.pop(slot, ended)
            if slot in self._beside:
                self._replaced_by[self._beside[slot].name][why] += 1
                self._behind_since.pop(slot, None)
            else:
                self._replaced_by["worker"][why] += 1
                self._page.replaced += 1
            log.alarm("worker replaced", slot=slot, pid=process.pid, reason=reason, pause_seconds=round(pause, 2))
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    async def _start(self, slot: int, tables: int) -> asyncio.subprocess.Process:
        beside = self._beside.get(slot)
        descriptors = tuple(each.socket.fileno() for each in self._sockets_of(slot))
        page = self._page.descriptors(slot)
        with contextlib.ExitStack() as stack:
            changes = None
            with contextlib.suppress(OSError):  # too many watches on this host: it follows at its next turn
                changes = self._page.watch()
                stack.callback(os.close, changes)
            orders = WorkerOrders(
                slot=slot, parent=os.getpid(), page=page, tables=tables, sockets=descriptors, changes=changes,
                notes=self._notes.get(slot), capture=self._rings.get(slot), **self._orders_of(slot),
            )  # fmt: skip
            more = [each for each in (changes, orders.cells, orders.notes, orders.capture) if each is not None]
            self._page.worker(slot).heartbeat = clock.boottime_ns()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "rootsrv.server.worker" if beside is None else beside.module,
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(*page, tables, *descriptors, *more),
                env=environment(),
            )
        self._processes[slot] = process
        with contextlib.suppress(OSError):  # no descriptor left: its number will do
            self._handles[slot] = os.pidfd_open(process.pid)
        if self._cpus:
            with contextlib.suppress(OSError):  # it has ended, or the CPU is gone: it runs where we do
                os.sched_setaffinity(process.pid, self._cpus)
        assert process.stdin is not None
        process.stdin.write(replace(orders, **self._orders_of(slot)).to_json().encode() + b"\n")  # as they are by now
        return process

    def change_responder(self, responder: dict[str, Any]) -> None:
        """Have all workers go on with other settings (`WorkerOrders.responder`), without losing a query."""
        self._orders = {**self._orders, "responder": responder}
        for slot in self._processes:
            self.tell(slot, self._orders_of(slot)["responder"])

    def change_admission(self, admission: dict[str, Any]) -> None:
        """Have all workers go on with other limits and shed rules (`WorkerOrders.admission`)."""
        self._orders = {**self._orders, "admission": admission}
        for slot in self._processes:
            self.tell(slot, {"admission": admission})

    def tell(self, slot: int, document: dict[str, Any]) -> None:
        """A further line (worker_orders.py) for what runs in *slot*; nothing if nothing does."""
        if (process := self._processes.get(slot)) is not None:
            assert process.stdin is not None
            process.stdin.write(json.dumps(document).encode() + b"\n")

    def _orders_of(self, slot: int) -> dict[str, Any]:
        beside = self._beside.get(slot)
        return self._orders if beside is None else beside.orders(self._orders)

    def _sockets_of(self, slot: int) -> Sequence[ServiceSocket]:
        beside = self._beside.get(slot)
        return [each for each in self._sockets if each.worker == slot] if beside is None else beside.sockets()

    async def _watch(self) -> None:
        """Kill workers that do not advance."""
        before = clock.boottime_ns()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._page.parent_heartbeat = clock.boottime_ns()
            service_manager.alive()
            self._follow_head()
            if self._all_answer():
                service_manager.ready(f"{self._workers} workers answer")
            now = clock.boottime_ns()
            # After a suspend, or when we ourselves were not let run, everybody's heartbeat looks old.
            late = now - before > 4 * WATCH_SECONDS * 1e9
            before = now
            if late:
                continue
            for slot, process in list(self._processes.items()):
                words = self._page.worker(slot)
                age = (now - words.heartbeat) / 1e9
                # One that is still starting has no heartbeat yet: on a host so busy that this takes longer than
                # STUCK_SECONDS, killing it would have none ever start.
                is_started = words.pid == process.pid
                if age > DEAD_SECONDS or (is_started and age > STUCK_SECONDS and self._waiting(slot)):
                    self._reasons[slot] = "hung", f"did not advance for {age:.1f} s"
                    self._signal(slot, signal.SIGKILL)
                elif slot in self._beside and is_started and self._is_behind(slot, now):
                    self._reasons[slot] = "behind", f"did not switch to generation {self._page.active}"
                    self._signal(slot, signal.SIGKILL)

    def _is_behind(self, slot: int, now: int) -> bool:
        """Whether what runs there has answered from another generation than the active one for too long."""
        if self._page.worker(slot).active == self._page.active:
            self._behind_since.pop(slot, None)
            return False
        return (now - self._behind_since.setdefault(slot, now)) / 1e9 > FOLLOW_SECONDS

    def _follow_head(self) -> None:
        """Where the head of the page was made anew: go by that one, and have the workers do so, one after the other."""
        if not self._page.lost_head():
            return
        try:
            self._page.follow()
        except PageUnusable:  # its keeper puts it back; what is mapped holds until then
            return
        log.alarm("head of the shared page was made anew", workers="are replaced one by one")
        self._renewal = asyncio.create_task(self._renew_workers(), name="renewal")

    async def _renew_workers(self) -> None:
        for slot, process in list(self._processes.items()):
            self._reasons[slot] = "page", "the head of the shared page was made anew"
            self._signal(slot, signal.SIGTERM)
            for _ in range(round(_RENEWAL_SECONDS / WATCH_SECONDS)):
                await asyncio.sleep(WATCH_SECONDS)
                if self._page.worker(slot).pid not in {0, process.pid}:
                    break

    def _replace(self, slot: int, wanted: int) -> dict[str, Any]:
        """End a worker that does not follow to the generation wanted: whoever switches asks, and we look ourselves."""
        if slot not in self._processes:
            return {"replaced": False}
        if wanted != self._page.active or self._page.worker(slot).active == wanted:
            return {"replaced": False}
        self._reasons[slot] = "behind", f"did not switch to generation {wanted}"
        self._signal(slot, signal.SIGKILL)
        return {"replaced": True}

    def _all_answer(self) -> bool:
        slots = [(self._page.worker(slot), self._processes.get(slot)) for slot in range(self._workers)]
        return all(process is not None and words.pid == process.pid for words, process in slots)

    def _waiting(self, slot: int) -> bool:
        return any(each.waiting() for each in self._sockets_of(slot))

    def status(self) -> dict[str, Any]:
        """What the status socket tells: workers, generations, sockets, counters."""
        page = self._page
        return {
            "role": "serve",
            "pid": os.getpid(),
            "version": rootsrv.__version__,
            "test_clock_offset_seconds": clock.test_offset_seconds(),
            "active": page.active,
            "staged": page.staged,
            "silenced": page.silenced,
            "failing": dict(failing),
            "workers": [self._status_of(slot) for slot in range(self._workers)],
            "workers_replaced": page.replaced,
            "replaced_by": self._replaced_by,
            "real_time_priority": self._orders.get("real_time_priority", 0),
            "sockets": [
                {
                    "address": each.address,
                    "port": each.socket.getsockname()[1],
                    "transport": "tcp" if each.is_tcp else "udp",
                    "worker": each.worker,
                    "waiting": each.waiting(),
                }
                for each in self._sockets
            ],
            "counters": counts.as_document(counts.total(page)),
            **{each.name: self._status_of(slot) | self._more_of(each) for slot, each in self._beside.items()},
        }

    def _status_of(self, slot: int) -> dict[str, Any]:
        words, process = self._page.worker(slot), self._processes.get(slot)
        return {
            "slot": slot,
            "pid": process.pid if process else 0,
            "ready": process is not None and words.pid == process.pid,
            "heartbeat_age_seconds": round((clock.boottime_ns() - words.heartbeat) / 1e9, 3),
            "staged": words.staged,
            "active": words.active,
            **(real_time.of(process.pid) if process else {}),
        }

    def _more_of(self, beside: Beside) -> dict[str, Any]:
        counters = counts.tls_document(self._page.worker(beside.slot).counters)
        replaced = sum(self._replaced_by[beside.name].values())
        return {"replaced": replaced, "counters": counters, **beside.status()}

    def commands(self) -> Commands:
        """What the control socket of *serve* does for the workers."""

        async def status(_: Order[Nothing]) -> Mapping[str, Any]:
            return self.status()

        async def replace(order: Order[ReplaceOrder]) -> Mapping[str, Any]:
            return self._replace(order.wanted.slot, order.wanted.wanted)

        return {"status": Command(status, Nothing, changes=False), "replace-worker": Command(replace, ReplaceOrder)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceOrder:
    """`replace-worker`: end one that does not switch."""

    slot: int
    wanted: int
    """The generation that it should answer from."""
