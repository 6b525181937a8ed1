"""NOTIFY to those who have zones from us (RFC 1996): from one socket, signed, tried again until they confirm it."""
# Theory of operation
# -------------------
# One UDP socket for each family, however many are told; it is there while somebody is still to be told, so that the
# port is another one each time.  What is on its way is found by (address, port, id) when an answer comes, and by a
# heap, ordered by time, when nothing comes.
#
#                 due                answer NOERROR
#      WAITING ────────▶ SENT n ───────────────────────▶ CONFIRMED
#                         ▲  │  │ NOTIMP
#        RETRY_SECONDS    └──┘  └──────────────────────▶ REFUSED        after the last try: UNCONFIRMED
#
# A newer version of a zone takes the place of the older in whatever is still on its way to the same peer.  An error of
# the socket (no descriptor, no route, no room in its buffer) is a try that failed: the next one comes.
#
# `spacing_seconds` paces: each NOTIFY is followed by a transfer, and ten thousand of them at once would only stand in
# each other's way.  Zones share the line, so a second one's begin behind what is still to be sent.

import asyncio
import enum
import heapq
import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rootsrv.config.checks import plain_address
from rootsrv.distribution.offered import OfferedZone
from rootsrv.process import log
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.codes import NOERROR, NOTIMP
from rootsrv.wire.message import CLASS_IN, Message, MessageMalformed, parse
from rootsrv.wire.tsig import Checker, Key, Signer, TsigRefused
from rootsrv.zone import transfer_out

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)  # RFC 1996 §3.6: retransmit, and give up some time

SENT_AT_A_TIME = 16
"""Datagrams between two looks at what came and at whatever else there is to do: each is a tenth of a millisecond."""

AGAIN_SECONDS = 0.01
"""When the socket's buffer has no room."""

RECEIVE_BUFFER_OCTETS = 4_000_000
"""Asked for; the kernel gives what it allows."""

_NOTIFY_FLAGS = 4 << 11 | 0x0400  # opcode NOTIFY, AA
_OPCODE_NOTIFY = 4


def spacing(octets: int, mbit_per_second: float) -> float:
    """Seconds between NOTIFYs that are each followed by a transfer of *octets*; 0 where nothing bounds them."""
    return octets * 8 / 1e6 / mbit_per_second if mbit_per_second else 0.0


class NotifyOutcome(enum.StrEnum):
    """What became of a NOTIFY."""

    SENT = "sent"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    UNCONFIRMED = "not confirmed"


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a NOTIFY by now."""

    serial: int
    outcome: NotifyOutcome
    rcode: int | None = None
    """Of the last answer that came, authenticated or not."""

    tries: int = 0
    seconds: float = 0.0
    """Since the first try."""

    reason: str = ""
    """Why the last try could not be sent; empty if it was."""

    def __str__(self) -> str:
        """The text in the status of a peer."""
        if self.outcome is NotifyOutcome.UNCONFIRMED:
            why = self.reason or ("" if self.rcode is None else f"rcode {self.rcode}")
            return f"{self.serial}: {self.outcome}{f' ({why})' if why else ''}"
        if self.outcome is NotifyOutcome.REFUSED:
            return f"{self.serial}: refused (rcode {self.rcode})"
        return f"{self.serial}: {self.reason or self.outcome}"


@dataclass(frozen=True, slots=True)
class NotifyTarget:
    """Who is to be told."""

    name: str
    address: str
    port: int
    key: Key | None
    report: Callable[[Told], None] = field(compare=False, repr=False)
    """Called at the first try and at the end, and when a try could not be sent."""


@dataclass(slots=True)
class _Pending:
    """One NOTIFY that is on its way."""

    target: NotifyTarget
    apex: bytes
    serial: int
    soa: bytes
    """The record, in wire format."""

    place: tuple[str, int, int]
    """Address, port, id."""

    tries: int = 0
    first_sent: float = 0.0
    macs: list[bytes] = field(default_factory=list)
    """Of every try: an answer may be to an earlier one."""

    rcode: int | None = None
    reason: str = ""
    over: bool = False


class NotifySender:
    """Tells peers of new versions."""

    def __init__(
        self,
        local_addresses: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
        *,
        alarms: bool = True,
    ) -> None:
        """*local_addresses*: NOTIFY leaves from the first of each family; *alarms*: whether the log has failures."""
        self._alarms = alarms
        self._clock = clock
        self._local: dict[int, str] = {}
        self.leave_from(local_addresses)
        self._sockets: dict[int, socket.socket] = {}
        self._pending: dict[tuple[str, int, int], _Pending] = {}
        self._latest: dict[tuple[str, int, bytes], _Pending] = {}
        """By address, port and apex."""

        self._heap: list[tuple[float, int, _Pending]] = []
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def leave_from(self, local_addresses: Iterable[str]) -> None:
        """From now on send from these (a socket that is in use goes on)."""
        self._local = {}
        for each in map(plain_address, local_addresses):
            self._local.setdefault(_family(each), each)

    def tell(self, zone: OfferedZone, targets: Iterable[NotifyTarget], spacing_seconds: float = 0.0) -> None:
        """Tell *targets* of what *zone* offers, one every *spacing_seconds*."""
        offer, soa = zone.offer, zone.soa  # once: before the last of ten thousand is named its time may be over
        if offer is None:
            return
        told = [(plain_address(each.address), each) for each in targets]
        for address, target in told:
            if (earlier := self._latest.get((address, target.port, zone.apex))) is not None:
                self._end(earlier)
        due = self._clock()
        if spacing_seconds:
            unsent = [at for at, _, each in self._heap if not each.over and not each.tries]
            due = max([due, *(at + spacing_seconds for at in unsent)])
        for address, target in told:
            key = (address, target.port, zone.apex)
            if (twice := self._latest.get(key)) is not None:
                self._end(twice)
            place = (address, target.port, self._new_id(address, target.port))
            pending = _Pending(target, zone.apex, offer.serial, soa, place)
            self._pending[place] = self._latest[key] = pending
            heapq.heappush(self._heap, (due, next(self._order), pending))
            due += spacing_seconds
        self._wake.set()
        if self._pending and (self._running is None or self._running.done()):
            self._running = asyncio.get_running_loop().create_task(self._run(), name="notify")
            self._running.add_done_callback(_ended)

    @property
    def on_their_way(self) -> int:
        """How many are neither confirmed nor given up."""
        return len(self._pending)

    async def close(self) -> None:
        """Tell nobody any more."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._pending.clear()
        self._latest.clear()
        self._heap.clear()
        self._close_sockets()

    def _new_id(self, address: str, port: int) -> int:
        while True:
            message_id = int.from_bytes(os.urandom(2), "big")
            if (address, port, message_id) not in self._pending:
                return message_id

    async def _run(self) -> None:
        try:
            while self._pending:
                self._wake.clear()
                self._send_due()
                now = self._clock()
                wait = max(0.0, self._heap[0][0] - now) if self._heap else None
                if wait == 0.0:
                    await asyncio.sleep(0)
                    continue
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            self._close_sockets()

    def _send_due(self) -> None:
        now = self._clock()
        for _ in range(SENT_AT_A_TIME):
            while self._heap and self._heap[0][2].over:
                heapq.heappop(self._heap)
            if not self._heap or self._heap[0][0] > now:
                return
            pending = heapq.heappop(self._heap)[2]
            if pending.tries == len(RETRY_SECONDS):
                self._finish(pending, NotifyOutcome.UNCONFIRMED)
                if self._alarms:
                    log.alarm("notify not confirmed", peer=pending.target.name, serial=pending.serial)
                continue
            try:
                self._send(pending, now)
            except BlockingIOError:
                heapq.heappush(self._heap, (now + AGAIN_SECONDS, next(self._order), pending))
                return
            except OSError as error:
                pending.reason = error.strerror or str(error)
            else:
                pending.reason = ""
            if not pending.tries:
                pending.first_sent = now
            if not pending.tries or pending.reason:
                self._report(pending, NotifyOutcome.SENT)
            wait = RETRY_SECONDS[pending.tries]
            pending.tries += 1
            heapq.heappush(self._heap, (now + wait, next(self._order), pending))

    def _send(self, pending: _Pending, now: float) -> None:
        address, port, message_id = pending.place
        carrier = self._socket(_family(address))
        question = pending.apex + struct.pack("!HH", rdatas.SOA, CLASS_IN)
        request = transfer_out.respond(message_id, question, flags=_NOTIFY_FLAGS, answers=[pending.soa])
        mac = b""
        if pending.target.key is not None:
            signer = Signer(pending.target.key)
            request = signer.sign(request, time.time())
            mac = signer.mac
        carrier.sendto(request, (address, port))
        pending.macs.append(mac)

    def _socket(self, family: int) -> socket.socket:
        carrier = self._sockets.get(family)
        if carrier is None:
            carrier = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                carrier.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_OCTETS)
                if family in self._local:
                    carrier.bind((self._local[family], 0))
            except OSError:
                carrier.close()
                raise
            self._sockets[family] = carrier
            asyncio.get_running_loop().add_reader(carrier.fileno(), self._receive, carrier)
        return carrier

    def _close_sockets(self) -> None:
        for carrier in self._sockets.values():
            asyncio.get_running_loop().remove_reader(carrier.fileno())
            carrier.close()
        self._sockets = {}

    # Answers.

    def _receive(self, carrier: socket.socket) -> None:
        for _ in range(SENT_AT_A_TIME):
            try:
                octets, source = carrier.recvfrom(65535)
            except OSError:  # nothing more
                return
            try:
                message = parse(octets)
            except MessageMalformed:
                continue
            pending = self._pending.get((plain_address(source[0]), source[1], message.id))
            if pending is not None and message.is_response and message.opcode == _OPCODE_NOTIFY:
                self._answered(pending, message, octets)

    def _answered(self, pending: _Pending, message: Message, octets: bytes) -> None:
        if message.question is not None and message.question[0].lower() != pending.apex:
            return
        pending.rcode = message.rcode
        if pending.target.key is not None and not _authentic(pending, message, octets):
            return
        if message.rcode == NOERROR:
            self._finish(pending, NotifyOutcome.CONFIRMED)
        elif message.rcode == NOTIMP:  # RFC 1996 §3.8 has no answer to it, and neither have they
            self._finish(pending, NotifyOutcome.REFUSED)
            if self._alarms:
                log.alarm("notify refused", peer=pending.target.name, serial=pending.serial, rcode=message.rcode)
        # Any other error may pass: a peer that just starts does not know the zone yet.

    def _finish(self, pending: _Pending, outcome: NotifyOutcome) -> None:
        self._end(pending)
        self._report(pending, outcome)
        self._wake.set()

    def _end(self, pending: _Pending) -> None:
        pending.over = True
        self._pending.pop(pending.place, None)
        key = (*pending.place[:2], pending.apex)
        if self._latest.get(key) is pending:
            del self._latest[key]

    def _report(self, pending: _Pending, outcome: NotifyOutcome) -> None:
        seconds = self._clock() - pending.first_sent
        told = Told(pending.serial, outcome, pending.rcode, pending.tries, seconds, pending.reason)
        pending.target.report(told)


def _authentic(pending: _Pending, message: Message, octets: bytes) -> bool:
    """Whether the answer is signed with the peer's key and fits one of our tries."""
    if message.tsig is None:
        return False
    for mac in pending.macs:
        try:
            told = Checker(pending.target.key, mac).signed(octets, message.tsig, time.time())
        except TsigRefused:
            continue
        return not told.error
    return False


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _ended(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        context = {"message": "telling peers failed", "exception": error, "task": task}
        asyncio.get_running_loop().call_exception_handler(context)
