"""What a worker answers from at this instant (generation, leases, silence): the shared page, once per wake-up."""
# Theory of operation
# -------------------
# Whatever wakes the worker (datagrams, a read on a connection, the timer) calls `read_page` first and then answers all
# it has from what that left: so a batch never mixes two generations, and nothing sent later than one wake-up after the
# flip comes from the old one.
#
#             STAGED = n                       ACTIVE = n
#   serving ────────────▶ n mapped in a thread ──────────▶ serving n; the old one is let go
#                         (slot.staged = n)                (slot.active = n)
#
# A generation that becomes active without having been staged (start, a missed turn) is mapped on the spot.  One that
# cannot be used leaves the worker on the old generation: slot.active tells, and whoever switched decides what follows.
#
# What a responder sends is prepared after it was mapped, a little at a time between the turns (preparing.py), unless
# somebody asks for it before; in the end it is taken apart a little at each tick.
#
# A zone whose lease is over is answered SERVFAIL (D27); a new lease heals that at the next wake-up.
#
# Other settings (a cookie secret, the NSID) take the same way as another generation: the active one is mapped once
# more, in the thread, and the old answers go on until it is there.

import asyncio
import collections
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

from rootsrv.admission.blocks import Matcher
from rootsrv.admission.gate import Gate
from rootsrv.answer.responder import Responder, ResponderSettings, Transport, not_ready
from rootsrv.answer.table import TableUnusable
from rootsrv.page.layout import MAX_ZONES, Page, WorkerSlot
from rootsrv.process import log
from rootsrv.server.counters import Counters
from rootsrv.server.preparing import Preparing
from rootsrv.store.table_file import open_table, table_name

_NEVER = 1 << 63
_RETRY_SECONDS = 1.0
_RETRY_FIRST_SECONDS = 0.25  # while there is none to answer from
_FAULT_LOG_SECONDS = 10.0  # one faulty message a second in the log is one too many: a packet must not fill a disk

Respond = Callable[[bytes, bytes, Transport, float], bytes | None]


class Serving:
    """The generation, the leases and the silence that the shared page commands."""

    def __init__(
        self,
        page: Page,
        slot: WorkerSlot,
        counters: Counters,
        tables_descriptor: int,
        settings: ResponderSettings,
        gate: Gate | None = None,
    ) -> None:
        """*gate*: limits and shed rules; None: there are none."""
        self._page = page
        self._slot = slot
        self._counters = counters
        self._tables = tables_descriptor
        self._settings = settings
        self._head = b""
        self._now = 0.0
        self.woken_at = 0
        """CLOCK_BOOTTIME of the latest `read_page`, nanoseconds."""

        self.gate = gate or Gate(slot.counters, None, None)
        self._generation = 0
        self._responder: Responder | None = None
        self._respond: Respond = _not_ready
        self._zone_count = 0
        self._expired: frozenset[int] | None = None
        self._next_deadline = _NEVER
        self._outdated = False  # whether the responder has other settings than it should
        self._mapped: tuple[int, Responder] | None = None
        self._mapping: asyncio.Future[Responder | None] | None = None
        self._retry_at = 0.0
        self._retired: Iterator[None] = iter(())
        self.preparing = Preparing(self._note_fault)
        self._blocks = Matcher((), 0)
        self._fault_logged_at = -_FAULT_LOG_SECONDS

    def change_settings(self, settings: ResponderSettings) -> None:
        """Respond with *settings* as soon as the table is mapped once more."""
        self._settings = settings
        self._outdated = self._responder is not None
        self._drop_mapped()
        self._head = b""

    @property
    def lacks_table(self) -> bool:
        """Whether there is a table in service, and this process could not map any yet."""
        return self._responder is None and self._page.active != 0

    def read_page(self) -> None:
        """Read the page.  Everything answered until the next call comes from what it says now."""
        self._slot.heartbeat = self.woken_at = boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._now = time.time()
        self._counters.turn_day(self._now)
        head = self._page.head()
        if head != self._head:
            self._head = head
            self._follow()
            self._judge_leases(boottime)
            self._blocks = Matcher(self._page.blocks(), boottime)
        elif boottime >= self._next_deadline:
            self._judge_leases(boottime)
        if boottime >= self._blocks.next_end:
            self._blocks = Matcher(self._page.blocks(), boottime)

    def respond_to_all(
        self,
        requests: Sequence[bytes],
        sources: Sequence[bytes],
        transport: Transport,
        ports: Callable[[], Sequence[int]] = tuple,
    ) -> list[bytes | None]:
        """One response or None for each request.  Raises nothing, whatever the octets.

        *ports* gives the source ports of datagrams, if somebody wants to know.
        """
        responses = self._answers_to(requests, sources, transport)
        if transport is Transport.UDP and not self.gate.is_open:
            self._judge(requests, sources, ports(), responses)
        return responses

    def refuses_connection(self, source: bytes) -> bool:
        """Whether a new TCP connection from *source* is one too many.  Raises nothing."""
        if self.gate.is_open:
            return False
        try:
            return self.gate.refuses_connection(source, self.woken_at)
        except Exception as error:
            self._note_fault(error, b"")
            return False

    def refuses_handshake(self, source: bytes, microseconds: int) -> bool:
        """Whether *source* is blocked, or a TLS handshake of so much processor time is too much for it."""
        if self._blocks and self._blocks.blocks(source):
            return True
        if self.gate.is_open:
            return False
        try:
            return self.gate.refuses_handshake(source, self.woken_at, microseconds)
        except Exception as error:
            self._note_fault(error, b"")
            return False

    def _judge(
        self,
        requests: Sequence[bytes],
        sources: Sequence[bytes],
        ports: Sequence[int],
        responses: list[bytes | None],
    ) -> None:
        """Limits and shed rules have the last word on *responses*."""
        responder = self._responder
        try:
            self.gate.judge(
                requests, sources, ports, responses, boottime=self.woken_at, now=self._now,
                cookies=self._settings.cookies,
                truncate=None if responder is None or self._page.silenced else responder.respond_truncated,
            )  # fmt: skip
        except Exception as error:
            self._note_fault(error, b"")  # what was not judged yet is answered as ever

    def _answers_to(
        self, requests: Sequence[bytes], sources: Sequence[bytes], transport: Transport
    ) -> list[bytes | None]:
        """What the zone says to each."""
        if self._blocks and any(map(self._blocks.blocks, sources)):
            return self._respond_to_unblocked(requests, sources, transport)
        try:
            responses = list(map(self._respond, requests, sources, repeat(transport), repeat(self._now)))
        except Exception:
            responses = [
                self._respond_guarded(octets, source, transport)
                for octets, source in zip(requests, sources, strict=True)
            ]
        if not all(responses):
            reason = "silenced" if self._page.silenced else "silent"
            self._counters.count_dropped(reason, responses.count(None))
        return responses

    def respond_to(self, octets: bytes, source: bytes, transport: Transport, port: int = 0) -> bytes | None:
        """The response to one request, or None.  Raises nothing, whatever the octets."""
        response = self._answer_to(octets, source, transport)
        if transport is Transport.UDP and not self.gate.is_open:
            responses = [response]
            self._judge((octets,), (source,), (port,), responses)
            response = responses[0]
        return response

    def _answer_to(self, octets: bytes, source: bytes, transport: Transport) -> bytes | None:
        if self._blocks and self._blocks.blocks(source):
            self._counters.count_dropped("blocked")
            return None
        try:
            response = self._respond(octets, source, transport, self._now)
        except Exception:
            response = self._respond_guarded(octets, source, transport)
        if response is None:
            self._counters.count_dropped("silenced" if self._page.silenced else "silent")
        return response

    def _respond_to_unblocked(
        self, requests: Sequence[bytes], sources: Sequence[bytes], transport: Transport
    ) -> list[bytes | None]:
        """`_answers_to` where some of *sources* are blocked: they get nothing."""
        good = [number for number, source in enumerate(sources) if not self._blocks.blocks(source)]
        self._counters.count_dropped("blocked", len(sources) - len(good))
        responses: list[bytes | None] = [None] * len(requests)
        if good:
            answers = self._answers_to([requests[n] for n in good], [sources[n] for n in good], transport)
            for number, answer in zip(good, answers, strict=True):
                responses[number] = answer
        return responses

    def _respond_guarded(self, octets: bytes, source: bytes, transport: Transport) -> bytes | None:
        try:
            return self._respond(octets, source, transport, self._now)
        except Exception as error:
            self._note_fault(error, octets)
            # QR and SERVFAIL; the id, opcode and RD are the client's, and there is nothing behind the header.
            if len(octets) < 12 or octets[2] & 0x80:
                return None
            return octets[:2] + bytes((octets[2] & 0x79 | 0x80, 2)) + bytes(8)

    def _note_fault(self, error: Exception, octets: bytes) -> None:
        self._counters.count_fault()
        if self._now - self._fault_logged_at >= _FAULT_LOG_SECONDS:
            self._fault_logged_at = self._now
            log.alarm("responder failed", error=f"{type(error).__name__}: {error}", message=octets[:512].hex())

    def _follow(self) -> None:
        """Switch to the active generation; start mapping the staged one."""
        page = self._page
        active = page.active
        if active != self._generation:
            self._switch(active)
        staged = page.staged
        if staged == 0 and self._mapped is not None:  # void, or overtaken
            self._drop_mapped()
            self._slot.staged = self._generation
        already = staged in {0, self._generation} or (self._mapped is not None and self._mapped[0] == staged)
        if self._mapping is None and self._outdated:
            self._stage(self._generation)
        elif self._mapping is None and not already:
            self._stage(staged)

    def _switch(self, generation: int) -> None:
        responder: Responder | None = None
        if generation:
            if self._mapped is not None and self._mapped[0] == generation:
                responder, self._mapped = self._mapped[1], None
            else:
                responder = self._map(generation)
                self._drop_mapped()
                if responder is not None:
                    self.preparing.begin(responder)
            if responder is None:
                self._retry_at = time.monotonic() + (_RETRY_SECONDS if self._generation else _RETRY_FIRST_SECONDS)
                return
        # Told before it is done: whoever takes the flip back because nobody has followed (Switchover.stay) looks for
        # this first.  Mapping takes some milliseconds, in which that may have happened.
        self._slot.active = generation
        if self._page.active != generation:
            self._slot.active = self._generation
            self._retire(responder)
            self._head = b""
            return
        self._adopt(generation, responder)

    def _adopt(self, generation: int, responder: Responder | None) -> None:
        """Answer with *responder* from now on; None: there is nothing to answer from."""
        self._retire(self._responder)
        self._generation, self._responder = generation, responder
        self._outdated = False
        self._zone_count = 0 if responder is None else min(len(responder.table.zones), MAX_ZONES)
        if responder is not None:
            self._counters.keep_signals(responder.table.key_tags())
        self._expired = None
        self._slot.staged = self._slot.active = generation

    def _map(self, generation: int) -> Responder | None:
        """A Responder on answer table *generation*; None, with an alarm, if that cannot be used."""

        def make() -> Responder:
            return Responder(open_table(table_name(generation), directory=self._tables), self._settings)

        try:
            return self.preparing.made(make)
        except (OSError, TableUnusable) as error:
            log.alarm("table unusable", generation=generation, serving=self._generation, error=error)
            return None

    def _drop_mapped(self) -> None:
        """What was mapped will not be switched to."""
        if self._mapped is not None:
            self._retire(self._mapped[1])
            self._mapped = None

    def _retire(self, responder: Responder | None) -> None:
        """Nobody is or will be answered from *responder*."""
        if responder is not None:
            self.preparing.let_go(responder)
            collections.deque(self._retired, maxlen=0)  # what is left of the one before: two in memory are enough
            self._retired = responder.take_apart()

    def _stage(self, generation: int) -> None:
        # In a thread: to read the file may take long, and to find out what stands in it takes 5 ms of Python.
        loop = asyncio.get_running_loop()
        settings = self._settings
        self._mapping = loop.run_in_executor(None, self._map, generation)

        def mapped(done: asyncio.Future[Responder | None]) -> None:
            self._mapping = None
            responder = done.result()
            if responder is None:
                self._retry_at = time.monotonic() + _RETRY_SECONDS
                return
            self.preparing.begin(responder)
            self._head = b""
            if settings is not self._settings:
                self._retire(responder)  # they changed meanwhile: the next wake-up begins again
            elif generation == self._generation:
                self._adopt(generation, responder)
            elif generation == self._page.staged:
                self._drop_mapped()
                self._mapped = (generation, responder)
                self._slot.staged = generation
            else:
                self._retire(responder)

        self._mapping.add_done_callback(mapped)

    def _judge_leases(self, boottime: int) -> None:
        """SERVFAIL for the zones whose lease is over, answers for the others."""
        deadlines = [self._page.deadline(zone) for zone in range(self._zone_count)]
        expired = frozenset(zone for zone, deadline in enumerate(deadlines) if deadline <= boottime)
        if self._responder is not None and expired != self._expired:
            self._responder.set_expired(expired)
            self._expired = expired
        self._bind()
        self._next_deadline = min((deadline for deadline in deadlines if deadline > boottime), default=_NEVER)

    def _bind(self) -> None:
        if self._page.silenced:
            self._respond = _silence
        else:
            self._respond = _not_ready if self._responder is None else self._responder.respond

    def tick(self) -> None:
        """What the timer calls at least every 100 ms, so that an idle worker follows as a busy one does."""
        if self._retry_at and time.monotonic() >= self._retry_at:
            self._retry_at = 0.0
            self._head = b""
        self.read_page()
        next(self._retired, None)


def _not_ready(octets: bytes, source: bytes, transport: Transport, now: float) -> bytes | None:
    return not_ready(octets)


def _silence(octets: bytes, source: bytes, transport: Transport, now: float) -> bytes | None:
    return None
