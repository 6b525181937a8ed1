"""`python -m bench fleet`: a mesh of many members, simulated, on real etcd; and all of them fetching a zone at once.

Each simulated member (fleet_members.py) has its own connection (mutual TLS), watch and lease; it writes a status of the
usual size every so often and keeps its lease alive.  One host gives orders meanwhile: how long until the last member
has heard.  Members do not verify what they read: that is 0.2 ms on each of their own machines.

The members' processor time is this machine's as well: latencies are upper bounds, and without a wide-area network.
"""

import asyncio
import contextlib
import itertools
import math
import multiprocessing
import os
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from bench import fleet_members, machine, report
from bench.engine_process import stand_apart
from bench.peers.daemon import free_port
from bench.peers.etcd import Cluster, cluster
from bench.processes import cpu_nanoseconds, memory_octets
from bench.zones import Zones
from rootsrv.config.zones import AdminConfig
from rootsrv.distribution.limits import TransferLimits
from rootsrv.distribution.listener import Listener
from rootsrv.distribution.offered import OfferedZone, OfferState
from rootsrv.distribution.requests import Asker, Given, Requests
from rootsrv.engine.etcd import Etcd, tls_context
from rootsrv.mesh.transfers import SECRET_OCTETS
from rootsrv.process.security import SecurityEvents
from rootsrv.wire import name
from rootsrv.wire.message import AXFR
from rootsrv.wire.tsig import Key, Signer, TsigRefused
from rootsrv.zone import presentation
from rootsrv.zone.transfer import Inbound

MEMBERS = 200
SECONDS = 15.0
EVERY_SECONDS = 5.0
"""The least between two statuses of one member; one that does not change is written once a minute."""

ORDER_SECONDS = 2.0
ORDER_OCTETS = 300
AGAIN_SECONDS = 0.5
"""After SERVFAIL: all places at the host are taken."""

_CONTEXT = multiprocessing.get_context("spawn")


def run(
    zones: Zones,
    *,
    members: int = MEMBERS,
    seconds: float = SECONDS,
    every: float = EVERY_SECONDS,
    transfers: int = MEMBERS,
) -> dict[str, Any]:
    """Both parts; *transfers*: how many fetch the zone at once."""
    result: dict[str, Any] = {
        "machine": machine.describe(), "members": members, "every": every, "zones": zones.origin,
    }  # fmt: skip
    with report.kept(result), tempfile.TemporaryDirectory(prefix="rs-bench-fleet-") as directory:
        with cluster(Path(directory) / "engine", 3, clients=["member"]) as engine:
            result["engine"] = _engine(engine, members, seconds, every)
        result["transfers"] = _transfers(zones.root, transfers)
    return result


# The engine.


def _engine(engine: Cluster, members: int, seconds: float, every: float) -> dict[str, Any]:
    files = engine.certificates
    ca, certificate, key = files.ca, files.certificate("member"), files.key("member")
    began = time.monotonic()
    with fleet_members.members(
        members, endpoints=engine.endpoints, ca=ca, certificate=certificate, key=key, every=every
    ) as simulated:
        simulated.wait()
        joined = time.monotonic() - began
        before = [cpu_nanoseconds(node.pid) for node in engine.nodes]
        simulated.measure()
        began = time.monotonic()
        written = uvloop.run(_orders(Etcd(engine.endpoints, tls_context(ca, certificate, key), 10.0), seconds))
        took = time.monotonic() - began
        spent = [(cpu_nanoseconds(n.pid) - b) / 1e9 / took for n, b in zip(engine.nodes, before, strict=True)]
        memory = [memory_octets(node.pid, "VmRSS") for node in engine.nodes]
        heard = simulated.heard()
    reached = [
        heard.orders[number][1] - at for number, at in written.items() if heard.orders.get(number, (0,))[0] == members
    ]
    return {
        "seconds": took,
        "join_seconds": joined,
        "processes": math.ceil(members / fleet_members.PER_PROCESS),
        "writes_per_second": len(heard.put_seconds) / took,
        "events_per_second": heard.events / took,
        "octets_per_second": heard.octets / took,
        "put_milliseconds": _percentiles(heard.put_seconds),
        "order_milliseconds": _percentiles(reached),
        "orders": len(reached),
        "orders_not_heard_by_all": len(written) - len(reached),
        "failures": heard.failures,
        "node_cores": spent,
        "node_memory_octets": memory,
        "members_cores": heard.processor_seconds / took,
    }


async def _orders(host: Etcd, seconds: float) -> dict[int, float]:
    """Write one every so often: when each was begun (CLOCK_MONOTONIC), by number."""
    written = {}
    began = time.monotonic()
    try:
        for number in itertools.count():
            left = seconds - (time.monotonic() - began)
            if left <= 0:
                break
            written[number] = time.monotonic()
            order = fleet_members.ORDER_MARK + number.to_bytes(8, "big") + os.urandom(ORDER_OCTETS)
            await host.put(f"{fleet_members.PREFIX}zone/./order", order)
            await asyncio.sleep(min(ORDER_SECONDS, max(left, 0.0)))
        # The last one has as long as the others.
        await asyncio.sleep(ORDER_SECONDS)
    finally:
        host.close()
    return written


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(1000 * each for each in seconds)
    return {
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "max": ordered[-1],
    }


# The transfers.


def _key(number: int) -> Key:
    return Key.make(name.from_text(f"m{number:04}.host.bench."), "hmac-sha256", number.to_bytes(SECRET_OCTETS, "big"))


def _address(number: int) -> str:
    """Each in a prefix of its own, as members at different sites are."""
    return f"127.{1 + number // 250}.{number % 250}.2"


class _Taker:
    proved = True
    over_tcp_only = False

    def __init__(self, number: int) -> None:
        self.name = f"m{number}"

    def given(self, what: Given) -> None:
        """Nobody asks."""

    def told(self, zone: str, serial: int) -> None:
        """Nobody asks."""


class _Roster:
    """All members, by their keys."""

    def __init__(self, members: int) -> None:
        self._keys = {(key := _key(number)).name: (key, _Taker(number)) for number in range(members)}

    def key(self, owner: bytes) -> Key | None:
        return self._keys[owner][0] if owner in self._keys else None

    def recipient(self, asker: Asker, key: Key | None, apex: bytes) -> _Taker | None:
        return self._keys[key.name][1] if key is not None else None

    def tsig_failed(self, asker: Asker, owner: bytes, refused: TsigRefused) -> None:
        """Does not happen here."""


def _serve(ready: Connection, path: Path, port: int, members: int) -> None:
    stand_apart()

    async def serve() -> None:
        zone = OfferedZone(name.ROOT)
        zone.put(presentation.from_text(path.read_bytes(), name.ROOT), OfferState.DISTRIBUTE_ONLY, lambda: 3600.0)
        requests = Requests(lambda _: zone, _Roster(members), SecurityEvents(), limits=TransferLimits())
        await Listener(AdminConfig(addresses=("127.0.0.1",), port=port, max_connections=4096), requests).start()
        await zone.whole()
        ready.send(b"")
        await asyncio.Event().wait()

    uvloop.run(serve())


@contextlib.contextmanager
def _host(path: Path, members: int) -> Iterator[tuple[int, int]]:
    """Port and process id."""
    port = free_port()
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_serve, args=(theirs, path, port, members), daemon=True)
    process.start()
    try:
        ours.recv()
        assert process.pid is not None
        yield port, process.pid
    finally:
        process.kill()
        process.join()


def _transfers(path: Path, members: int) -> dict[str, Any]:
    with _host(path, members) as (port, pid):
        before, memory = cpu_nanoseconds(pid), memory_octets(pid, "VmRSS")
        began, own = time.monotonic(), time.process_time()
        took, refused, octets = uvloop.run(_fetch_all(port, members))
        return {
            "members": members,
            "seconds": time.monotonic() - began,
            "each_seconds": {key: value / 1000 for key, value in _percentiles(took).items()},
            "refused": refused,
            "octets": octets,
            "host_processor_seconds": (cpu_nanoseconds(pid) - before) / 1e9,
            "host_memory_octets": (memory, memory_octets(pid, "VmHWM")),
            "members_processor_seconds": time.process_time() - own,
        }


async def _fetch_all(port: int, members: int) -> tuple[list[float], int, int]:
    """Seconds of each, how often all had to ask again, octets of one."""
    octets = await _first(port)
    fetched = await asyncio.gather(*(_fetch(port, number, octets) for number in range(members)))
    return [took for took, _ in fetched], sum(again for _, again in fetched), octets


@contextlib.asynccontextmanager
async def _asking(port: int, number: int) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(_address(number), 0), family=socket.AF_INET
    )
    try:
        query = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + name.ROOT + struct.pack("!HH", AXFR, 1)
        query = Signer(_key(number)).sign(query, time.time())
        writer.write(len(query).to_bytes(2, "big") + query)
        yield reader
    finally:
        writer.close()


async def _first(port: int) -> int:
    """One that is read as a secondary does: octets that all have, since names of keys are equally long."""
    inbound, octets = Inbound(name.ROOT, AXFR, 1), 0
    async with _asking(port, 0) as reader:
        while not inbound.complete:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            inbound.receive_message(await reader.readexactly(size), time.time())
            octets += 2 + size
    return octets


async def _fetch(port: int, number: int, octets: int) -> tuple[float, int]:
    """Seconds, and how often it had to ask again."""
    began = time.monotonic()
    for again in itertools.count():
        async with _asking(port, number) as reader:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            message = await reader.readexactly(size)
            left = 0 if message[3] & 15 else octets - 2 - size
            while left > 0:
                left -= len(await reader.readexactly(min(left, 65_536)))
            if not message[3] & 15:
                return time.monotonic() - began, again
        await asyncio.sleep(AGAIN_SECONDS)
    raise AssertionError("unreachable")


def to_markdown(result: dict[str, Any]) -> str:
    """Two tables."""
    engine, given = result["engine"], result["transfers"]
    put, order = engine["put_milliseconds"], engine["order_milliseconds"]
    cores = ", ".join(f"{each:.2f}" for each in engine["node_cores"])
    memory = ", ".join(f"{each / 1e6:.0f}" for each in engine["node_memory_octets"])
    each = given["each_seconds"]
    lines = [
        f"{result['members']} members on three nodes of etcd, a status of {fleet_members.STATUS_OCTETS} octets every "
        f"{result['every']:g} s each, {engine['seconds']:.0f} s, after {engine['join_seconds']:.1f} s in which "
        f"all joined (processes: {engine['processes']}).",
        "",
        "| figure | |",
        "|---|---|",
        f"| writes/s; events/s and MB/s at all members | {engine['writes_per_second']:.0f}; "
        f"{engine['events_per_second']:,.0f}, {engine['octets_per_second'] / 1e6:.1f} |",
        f"| ms for a write: median, p99, worst | {put['median']:.1f}, {put['p99']:.0f}, {put['max']:.0f} |",
        f"| ms until an order has reached all: median, worst of {engine['orders']} | "
        f"{order.get('median', 0):.0f}, {order.get('max', 0):.0f} |",
        f"| orders that had not reached all at the end, writes that failed | {engine['orders_not_heard_by_all']}, "
        f"{engine['failures']} |",
        f"| cores of each node, and of all members together | {cores}; {engine['members_cores']:.2f} |",
        f"| MB resident of each node | {memory} |",
        "",
        f"{given['members']} AXFRs at once from one distribution host, signed, each by a key of its own; zone: "
        f"{result['zones']}.",
        "",
        "| figure | |",
        "|---|---|",
        f"| s until all have it; each: median, worst | {given['seconds']:.1f}; {each['median']:.1f}, "
        f"{each['max']:.1f} |",
        f"| octets of each; asked again after SERVFAIL (64 at a time) | {given['octets']:,}; {given['refused']} |",
        f"| s of the host's processor time, of all members' | {given['host_processor_seconds']:.2f}, "
        f"{given['members_processor_seconds']:.2f} |",
        f"| MB resident of the host: before, at most | {given['host_memory_octets'][0] / 1e6:.0f}, "
        f"{given['host_memory_octets'][1] / 1e6:.0f} |",
    ]
    return "\n".join(lines) + "\n"
