"""`python -m bench transfers`: processor time of a primary per AXFR, signed and not, rootsrv beside NSD and Knot.

All run at once on loopback and are asked in short turns by one client, which connects, asks, reads all and closes; what
counts is the run time that the scheduler gave the server's processes.  *Made for each* is what rootsrv 0.1 did for
every request, without its fork, its pipe and its sockets: pack the zone, compressing an owner only where it equals the
one before, and have dnspython sign each message.
"""

import asyncio
import contextlib
import multiprocessing
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TSIG
import dns.tsig
import uvloop

from bench import machine, processes, report
from bench.engine_process import stand_apart
from bench.peers import PeerFailed
from bench.peers.daemon import free_port
from bench.peers.primaries import KEY, KEY_NAME, hidden_primary
from bench.zones import Zones
from rootsrv.config.zones import AdminConfig
from rootsrv.distribution.limits import TransferLimits
from rootsrv.distribution.listener import Listener
from rootsrv.distribution.offered import OfferedZone, OfferState
from rootsrv.distribution.requests import Asker, Given, Requests
from rootsrv.process.security import SecurityEvents
from rootsrv.wire import name
from rootsrv.wire.message import AXFR, CLASS_IN, parse
from rootsrv.wire.record import Record
from rootsrv.wire.tsig import Key, Signer, TsigRefused
from rootsrv.zone import presentation
from rootsrv.zone.transfer import Inbound
from rootsrv.zone.transfer_out import DIFFERENCE_OCTETS, QR, transfer_records

ROUNDS = 5
IN_A_TURN = 20
_CONTEXT = multiprocessing.get_context("spawn")
_dnspython_sign: Any = dns.tsig.sign  # dnspython has no types for these
_Tsig: Any = dns.rdtypes.ANY.TSIG.TSIG


@dataclass(frozen=True)
class _Subject:
    kind: str
    signed: bool
    port: int
    pid: int


def run(zones: Zones, *, rounds: int = ROUNDS, in_a_turn: int = IN_A_TURN) -> dict[str, Any]:
    """Milliseconds of processor time per AXFR by subject, each of *rounds* turns of *in_a_turn* transfers."""
    result: dict[str, Any] = {"machine": machine.describe(), "zones": zones.origin, "subjects": {}, "left_out": {}}
    result["in_a_turn"] = in_a_turn
    with (
        report.kept(result),
        tempfile.TemporaryDirectory(prefix="rs-bench-transfers-") as directory,
        contextlib.ExitStack() as stack,
    ):
        subjects = []
        for kind, serve in (("rootsrv", _rootsrv), ("NSD", _peer("NSD")), ("Knot", _peer("Knot"))):
            for signed in (False, True):
                label = f"{kind}, {'signed' if signed else 'unsigned'}"
                try:
                    workdir = Path(directory) / label.replace(", ", "-")
                    workdir.mkdir()
                    subject = stack.enter_context(serve(zones.root, workdir, signed))
                    first = _first(subject)
                except (PeerFailed, OSError, EOFError) as error:
                    result["left_out"][label] = str(error)[-300:]
                    continue
                subjects.append((label, subject))
                result["subjects"][label] = first | {"milliseconds": []}
        for _ in range(rounds):
            for label, subject in subjects:
                figures = result["subjects"][label]
                figures["milliseconds"].append(_turn(subject, figures["octets"], in_a_turn))
            _made_for_each(zones, result)
    return result


# The subjects.


class _Anybody:
    """Gives the zone to everybody, signed where the request is."""

    name = "anybody"
    proved = True
    over_tcp_only = False

    def __init__(self, key: Key) -> None:
        self._key = key

    def key(self, _: bytes) -> Key | None:
        return self._key

    def recipient(self, asker: Asker, key: Key | None, apex: bytes) -> "_Anybody":
        return self

    def told(self, zone: str, serial: int) -> None:
        """Nobody asks."""

    def given(self, what: Given) -> None:
        """Nobody asks."""

    def tsig_failed(self, asker: Asker, owner: bytes, refused: TsigRefused) -> None:
        """Does not happen here."""


def _serve(ready: Connection, path: Path, port: int) -> None:
    stand_apart()

    async def serve() -> None:
        contents = presentation.from_text(path.read_bytes(), name.ROOT)
        zone = OfferedZone(name.ROOT)
        zone.put(contents, OfferState.DISTRIBUTE_ONLY, lambda: 3600.0)
        directory = _Anybody(_key())
        limits = TransferLimits(whole_per_serial=0)
        requests = Requests(lambda _: zone, directory, SecurityEvents(), limits=limits)
        await Listener(AdminConfig(addresses=("127.0.0.1",), port=port), requests).start()
        began = time.process_time()
        await zone.whole()
        ready.send(time.process_time() - began)
        await asyncio.Event().wait()

    uvloop.run(serve())


@contextlib.contextmanager
def _rootsrv(path: Path, workdir: Path, signed: bool) -> Iterator[_Subject]:
    port = free_port()
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_serve, args=(theirs, path, port), daemon=True)
    process.start()
    try:
        ours.recv()
        assert process.pid is not None
        yield _Subject("rootsrv", signed, port, process.pid)
    finally:
        process.kill()
        process.join()


def _peer(kind: str) -> Callable[[Path, Path, bool], "contextlib.AbstractContextManager[_Subject]"]:
    @contextlib.contextmanager
    def serve(path: Path, workdir: Path, signed: bool) -> Iterator[_Subject]:
        with hidden_primary(kind, {".": path.read_bytes()}, workdir, tsig=signed) as running:
            yield _Subject(kind, signed, running.port, running.pid)

    return serve


def _key() -> Key:
    return Key.make(name.from_text(KEY_NAME), "hmac-sha256", KEY.secret)


# The client.


def _ask(subject: _Subject) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", subject.port), timeout=20)
    query = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + name.ROOT + struct.pack("!HH", AXFR, 1)
    if subject.signed:
        query = Signer(_key()).sign(query, time.time())
    client.sendall(len(query).to_bytes(2, "big") + query)
    return client


def _first(subject: _Subject) -> dict[str, int]:
    """One transfer that is read as a secondary does: how many messages and octets it has."""
    inbound = Inbound(name.ROOT, AXFR, 1)
    octets = 0
    with _ask(subject) as client, client.makefile("rb") as stream:
        while not inbound.complete:
            head = stream.read(2)
            if len(head) < 2:
                raise EOFError(f"{subject.kind}: {inbound.messages} messages, then nothing more")
            message = stream.read(int.from_bytes(head, "big"))
            if rcode := parse(message).rcode:
                raise OSError(f"{subject.kind}: rcode {rcode}")
            inbound.receive_message(message, time.time())
            octets += 2 + len(message)
    return {"messages": inbound.messages, "octets": octets}


def _turn(subject: _Subject, octets: int, transfers: int) -> float:
    """Milliseconds of the server's processor time per transfer."""
    buffer = bytearray(1 << 20)
    before = tree_nanoseconds(subject.pid)
    for _ in range(transfers):
        left = octets
        with _ask(subject) as client:
            while left > 0:
                got = client.recv_into(buffer)
                if not got:
                    raise EOFError(f"{subject.kind}: {left} octets are missing")
                left -= got
    return (tree_nanoseconds(subject.pid) - before) / 1e6 / transfers


def tree_nanoseconds(pid: int) -> int:
    """Run time of *pid* and all processes that it began and that still are."""
    return sum(map(processes.cpu_nanoseconds, processes.tree(pid)))


# As it was.


def _made_for_each(zones: Zones, result: dict[str, Any]) -> None:
    contents = zones.contents
    for signed in (False, True):
        label = f"made for each, {'signed' if signed else 'unsigned'}"
        figures = result["subjects"].setdefault(label, {"milliseconds": []})
        began = time.process_time()
        messages = list(_packed_as_before(transfer_records(contents)))
        if signed:
            messages = _signed_by_dnspython(messages)
        figures["milliseconds"].append((time.process_time() - began) * 1000)
        figures |= {"messages": len(messages), "octets": sum(2 + len(each) for each in messages)}


def _packed_as_before(records: Iterable[Record]) -> Iterator[bytes]:
    body: list[bytes] = []
    size = 12
    owner_at: tuple[bytes, int] = (b"", 0)
    for owner, rtype, ttl, rdata in records:
        if owner == owner_at[0]:
            shown = struct.pack("!H", 0xC000 | owner_at[1])
        else:
            shown = owner
            owner_at = (owner, size) if len(owner) > 2 else (b"", 0)
        octets = shown + struct.pack("!HHIH", rtype, CLASS_IN, ttl, len(rdata)) + rdata
        body.append(octets)
        size += len(octets)
        if size >= DIFFERENCE_OCTETS:
            yield struct.pack("!HHHHHH", 1, QR, 0, len(body), 0, 0) + b"".join(body)
            body, size, owner_at = [], 12, (b"", 0)
    if body:
        yield struct.pack("!HHHHHH", 1, QR, 0, len(body), 0, 0) + b"".join(body)


def _signed_by_dnspython(messages: list[bytes]) -> list[bytes]:
    context = None
    now = int(time.time())
    made = []
    for octets in messages:
        blank = _Tsig(dns.rdataclass.ANY, dns.rdatatype.TSIG, KEY.algorithm, now, 300, b"", 1, 0, b"")
        rdata, context = _dnspython_sign(octets, KEY, blank, now, b"m" * 32, context, True)
        wire = rdata.to_wire()
        made.append(octets + (KEY.name.to_wire() or b"") + struct.pack("!HHIH", 250, 255, 0, len(wire)) + wire)
    return made


def to_markdown(result: dict[str, Any]) -> str:
    """A table."""
    lines = [
        f"Zone: {result['zones']}.  Turns of {result['in_a_turn']} transfers, in turns; medians of the turns.",
        "",
        "| primary | ms of processor time per AXFR | range | messages | octets |",
        "|---|---|---|---|---|",
    ]
    for label, figures in result["subjects"].items():
        measured = figures["milliseconds"]
        if measured:
            spread = f"{min(measured):.2f} … {max(measured):.2f}"
            middle = f"{statistics.median(measured):.2f}"
            lines.append(f"| {label} | {middle} | {spread} | {figures['messages']} | {figures['octets']:,} |")
    lines += [f"\nLeft out: {label}: {why}" for label, why in result["left_out"].items()]
    return "\n".join(lines) + "\n"
