"""A worker: one unprivileged process that answers on the sockets which its parent bound.

The parent starts it as `python -m rootsrv.server.worker` with the sockets, the shared page and the directory of tables
as inherited descriptors, and gives it a WorkerOrders document (a line of JSON) on standard input.  Each further line is
a new value of `WorkerOrders.responder`.
"""

import asyncio
import dataclasses
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvloop

from rootsrv.admission.gate import Gate
from rootsrv.admission.limits import map_cells
from rootsrv.admission.samples import NotesWriter, map_ring
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import ResponderSettings
from rootsrv.capture.messages import MessageWriter
from rootsrv.capture.rings import RingWriter
from rootsrv.page.changes import Changes
from rootsrv.page.layout import Page, WorkerSlot
from rootsrv.page.unique_sources import SourcesKey
from rootsrv.process import log, privileges, real_time, sandbox, time_slice
from rootsrv.process.descriptors import raise_limit
from rootsrv.server import mmsg
from rootsrv.server.counters import Counters
from rootsrv.server.leaving import Leaving
from rootsrv.server.serving import Serving
from rootsrv.server.tcp import Connections, TcpLimits
from rootsrv.server.turns import Turns
from rootsrv.server.udp import BATCH_SIZE, BatchedDatagrams, Datagrams, answer_what_waits
from rootsrv.server.worker_orders import LONGEST_LINE_OCTETS, WorkerOrders

TICK_SECONDS = 0.1
"""How often an idle worker reads the shared page, and everyone looks after time limits."""

PREPARE_SECONDS = 0.001
"""How often a worker with a new table prepares the answers of one name, in some 50 µs: a root in about 1.6 s."""

SLICE_SECONDS = 0.0001
"""How long who answers runs at a time where others want the core: a turn with a query or two takes about as long."""

GIL_SECONDS = 50e-6
"""How long who answers waits for the thread that maps the next table; Python has 5 ms, at each system call anew."""

FIRST_TABLE_SECONDS = 2.0
"""How long a new worker tries to map the table in service before it says SERVFAIL: a moment without memory or
descriptors costs whoever asks a delay, and not an answer that sends him away."""

DRAIN_UDP_SECONDS = 0.5
DRAIN_TCP_SECONDS = 3.0
"""How long a worker that is told to stop answers what is queued and sends what is written."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A process that has its orders, and has given up all that it does not need."""

    orders: WorkerOrders
    lines: asyncio.StreamReader
    stop: asyncio.Event
    slot: WorkerSlot
    serving: Serving
    counters: Counters
    told: MessageWriter | None
    """Where a capture is told of what came."""


async def begin(serves: type[Serving] = Serving, prepare: Callable[[WorkerOrders], None] | None = None) -> Begun | None:
    """Take the orders on standard input, map what is shared, confine this process; None: the parent is gone.

    *serves*: what answers; *prepare*: what is to be done while files can still be opened.
    """
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=LONGEST_LINE_OCTETS)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    orders = WorkerOrders.from_json(await lines.readline())
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    page = Page.from_descriptors(*orders.page, slot=orders.slot)
    for descriptor in orders.page:
        os.close(descriptor)  # what is mapped is enough, and with the last of them the slot could be cut short
    slot = page.worker(orders.slot)
    told = None
    if orders.capture is not None:
        told = MessageWriter(RingWriter(orders.capture))
        os.close(orders.capture)
    serving, counters = _prepare(orders, page, serves)
    if prepare is not None:
        prepare(orders)
    time_slice.ask_for(SLICE_SECONDS)
    if orders.real_time_priority and (reason := real_time.take(orders.real_time_priority)):
        log.alarm("worker has no real-time priority", slot=orders.slot, wanted=orders.real_time_priority, reason=reason)
    real_time.keep_to_this_thread()  # to map a table takes long
    real_time.confine()
    confinement = sandbox.Confinement((orders.tables,))
    if orders.account is not None:
        privileges.drop(*orders.account)
    privileges.give_up_capabilities()
    if not privileges.die_with_parent(orders.parent):
        return None
    if missing := confinement.enter():
        log.alarm("worker is not confined", slot=orders.slot, missing=missing)
    serving.tick()
    slot.pid = os.getpid()
    patience = loop.time() + FIRST_TABLE_SECONDS
    while serving.lacks_table and loop.time() < patience and not stop.is_set():
        await asyncio.sleep(TICK_SECONDS)
        serving.tick()
    return Begun(orders, lines, stop, slot, serving, counters, told)


async def work() -> None:
    """Follow the orders on standard input until told to stop (SIGTERM, SIGINT, or the parent is gone)."""
    begun = await begin()
    if begun is None:
        return
    loop = asyncio.get_running_loop()
    orders, serving, counters, told = begun.orders, begun.serving, begun.counters, begun.told

    follower = follow_changes(begun)
    turns = Turns(serving, counters)
    connections = Connections(turns, counters, tcp_limits(orders), told)
    leaving = Leaving(connections)
    sockets = [socket.socket(fileno=descriptor) for descriptor in orders.sockets]
    readers: list[Callable[[], int]] = []
    endpoints: list[asyncio.DatagramTransport] = []
    batches: dict[int, mmsg.Batch] = {}
    for each in sockets:
        if each.type != socket.SOCK_DGRAM:
            continue
        if orders.batched and mmsg.available():
            if each.family not in batches:
                batches[each.family] = mmsg.Batch(BATCH_SIZE, each.family)
            reader = BatchedDatagrams(each, batches[each.family], serving, counters, told).on_readable
            loop.add_reader(each.fileno(), leaving.datagrams(reader))
            readers.append(reader)
        else:
            endpoint, _ = await loop.create_datagram_endpoint(
                lambda sock=each: Datagrams(sock, turns, counters, told),  # type: ignore[misc]
                sock=each,
            )
            endpoints.append(endpoint)
    connections.listen([each for each in sockets if each.type == socket.SOCK_STREAM])
    await tick_until_stopped(begun, connections, leaving)
    follower.cancel()
    # What is in flight is answered: datagrams queued, connections the kernel has accepted, responses written.
    answer_what_waits(DRAIN_UDP_SECONDS, readers)
    await asyncio.sleep(TICK_SECONDS)
    connections.stop_listening()
    for endpoint in endpoints:
        endpoint.close()
    await finish(connections, lambda: answer_what_waits(0, readers))
    begun.slot.pid = 0


async def tick_until_stopped(begun: Begun, connections: Connections, turns: Leaving) -> None:
    """Take turns of *connections*; follow the page at once; do what is to be done ten times a second.

    Until told to stop, or the parent is gone.
    """
    if begun.orders.changes is not None:
        Changes(begun.orders.changes, begun.serving.read_page)
    while not begun.stop.is_set():
        begun.serving.tick()
        connections.tick()
        turns.look()
        if os.getppid() != begun.orders.parent:
            break
        try:
            async with asyncio.timeout(TICK_SECONDS):
                while begun.serving.preparing.step():  # noqa: ASYNC110  (a step is work)
                    await asyncio.sleep(PREPARE_SECONDS)
                await begun.stop.wait()
        except TimeoutError:
            pass


async def finish(connections: Connections, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Close all connections when what is written has been sent, or at the end of patience."""
    connections.close_all()
    for _ in range(round(DRAIN_TCP_SECONDS / TICK_SECONDS)):
        meanwhile()
        if not connections.unsent:
            break
        await asyncio.sleep(TICK_SECONDS)
    connections.abort_all()
    await asyncio.sleep(0)


def follow_changes(begun: Begun, on_tls: Callable[[dict[str, Any]], None] | None = None) -> "asyncio.Task[None]":
    """Take further orders until they end; *on_tls*: called with another value of `WorkerOrders.tls`.

    Who can take no more of them stops: the next one has all of them from the beginning.
    """

    def ended(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.alarm("worker cannot follow", slot=begun.orders.slot, error=f"{type(error).__name__}: {error}")
            begun.stop.set()

    task = asyncio.create_task(_follow(begun.lines, begun.serving, on_tls), name="orders")
    task.add_done_callback(ended)
    return task


async def _follow(
    lines: asyncio.StreamReader, serving: Serving, on_tls: Callable[[dict[str, Any]], None] | None
) -> None:
    while line := await lines.readline():
        document = json.loads(line)
        if "admission" in document:
            serving.gate.change(document["admission"])
        elif "tls" in document:
            if on_tls is not None:
                on_tls(document["tls"])
        else:
            serving.change_settings(responder_settings(document))


def tcp_limits(orders: WorkerOrders) -> TcpLimits:
    """What is configured, as far as the files allow that a process may have open."""
    configured = TcpLimits(**orders.tcp)
    descriptors = raise_limit()
    possible = configured.possible(descriptors)
    if possible < configured.connections:
        log.alarm(
            "fewer TCP connections than configured", slot=orders.slot, configured=configured.connections,
            possible=possible, open_files=descriptors,
        )  # fmt: skip
    return dataclasses.replace(configured, connections=possible)


def _prepare(orders: WorkerOrders, page: Page, serves: type[Serving]) -> tuple[Serving, Counters]:
    slot = page.worker(orders.slot)
    slot.staged = slot.active = 0
    counters = Counters(slot, orders.anchor_tags, SourcesKey.of(bytes.fromhex(orders.sources_key)))
    counters.forget_open_connections()
    settings = responder_settings(orders.responder)
    return serves(page, slot, counters, orders.tables, settings, _gate(orders, slot)), counters


def _gate(orders: WorkerOrders, slot: WorkerSlot) -> Gate:
    """What judges responses; without limits, or without notes, where their memory cannot be had."""
    cells = notes = None
    for name in ("cells", "notes"):
        if (descriptor := getattr(orders, name)) is None:
            continue
        try:
            if name == "cells":
                cells = map_cells(descriptor)
            else:
                notes = NotesWriter(map_ring(descriptor), 0)
        except OSError as error:
            if name == "cells":
                log.alarm("worker goes without limits", slot=orders.slot, reason=error.strerror)
            else:
                log.alarm("worker goes without notes", slot=orders.slot, reason=error.strerror)
        os.close(descriptor)  # what is mapped is enough
    gate = Gate(slot.counters, cells, notes)
    if orders.admission:
        gate.change(orders.admission)
    return gate


def responder_settings(document: dict[str, Any]) -> ResponderSettings:
    """ResponderSettings from WorkerOrders.responder."""
    fields = dict(document)
    for key in ("nsid", "version"):
        fields[key] = bytes.fromhex(fields[key])
    secret, *previous = map(bytes.fromhex, fields.pop("cookie_secrets"))
    return ResponderSettings(cookies=ServerCookies(secret, tuple(previous)), **fields)


def main() -> int:
    """Be a worker; returns the exit status."""
    log.to_standard_error()
    sys.setswitchinterval(GIL_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
    return 0


if __name__ == "__main__":
    sys.exit(main())
