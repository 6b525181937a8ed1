"""Answers this host's resolver, where it has to have a server: from the copy, or while that is stale from elsewhere."""
# Each query is judged by itself: the copy's answer while the copy may be used, else what `on_stale` says.  There is no
# worker and no page in between: one resolver asks a few dozen times a second at most (tests/hyperlocal).

import collections
import mmap
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable

from rootsrv.answer.question import Query, QueryMalformed
from rootsrv.answer.responder import Responder, ResponderSettings, Transport, not_ready
from rootsrv.answer.table import AnswerTable, TableUnusable
from rootsrv.config.checks import plain_address
from rootsrv.config.file import ServiceConfig
from rootsrv.config.zones import AdminConfig
from rootsrv.distribution.listener import Listener
from rootsrv.distribution.requests import Asker, Batch
from rootsrv.hyperlocal.relay import Relay, RelayFailed, RelayQuestion, response_to
from rootsrv.process import log
from rootsrv.process.security import SecurityEvents
from rootsrv.wire import edns
from rootsrv.wire.any_rdata import DNSPYTHON_STUMBLES

MAX_CONNECTIONS = 100

TRY_AGAIN_SECONDS = 1.0
"""When a table that could not be mapped is tried again."""

_HEADER_OCTETS = 12


class Answering:
    """Responses to queries; what `Listener` asks for."""

    def __init__(
        self,
        settings: ResponderSettings,
        generation: Callable[[], int],
        open_table: Callable[[int], AnswerTable],
        is_stale: Callable[[], bool],
        relay: Relay | None,
        counters: "Counter[str]",
        security: SecurityEvents,
        count: "Callable[[Asker, bytes], None] | None" = None,
    ) -> None:
        """*generation*: number of the table in service, 0 = none.  Without *relay* what is stale is SERVFAIL.

        *count* is told of each response.
        """
        self.security = security
        self._settings = settings
        self._active = generation
        self._open_table = open_table
        self._is_stale = is_stale
        self._relay = relay
        self._counters = counters
        self._count = count
        self._generation = 0
        self._try_again_at = 0.0
        self._cannot_relay = False
        self._responder: Responder | None = None
        counters.update({"answered": 0, "answered_servfail": 0})

    async def answer(self, octets: bytes, asker: Asker) -> AsyncGenerator[Batch, None]:
        """The response to *octets*, if it deserves one."""
        if not plain_address(asker.address).startswith("127.") and asker.address != "::1":
            self.security.note("request_refused", asker.address, "hyperlocal answers this host only")
            return
        transport = Transport.TCP if asker.over_tcp else Transport.UDP
        responder = None if self._is_stale() else self._current()
        if responder is not None:
            source = bytes(4)  # of use for cookies, of which there are none here
            response = responder.respond(octets, source, transport, time.time())
            self._counters["answered"] += response is not None
        else:
            response = await self._stale(octets, transport)
        if response is not None:
            if self._count is not None:
                self._count(asker, response)
            yield [(response,)]

    def _current(self) -> Responder | None:
        """On the table in service."""
        generation = self._active()
        if generation == self._generation or time.monotonic() < self._try_again_at:
            return self._responder
        responder: Responder | None = None
        if generation:
            try:
                responder = Responder(self._open_table(generation), self._settings)
            except (OSError, TableUnusable) as error:
                log.alarm("table unusable", generation=generation, serving=self._generation, error=error)
                self._try_again_at = time.monotonic() + TRY_AGAIN_SECONDS
                return self._responder  # the one before: it may be a moment without descriptors or memory
            else:
                if isinstance(mapping := responder.table.octets.obj, mmap.mmap):
                    mapping.madvise(mmap.MADV_DONTNEED)  # what is still read is paged in again
        if self._responder is not None:
            collections.deque(self._responder.take_apart(), maxlen=0)
        self._generation, self._responder = generation, responder
        return responder

    async def _stale(self, octets: bytes, transport: Transport) -> bytes | None:
        """The response while there is nothing to answer from."""
        refused = not_ready(octets, self._settings.max_udp_response_octets)
        query = _relayable(octets)
        question = RelayQuestion.of(query) if query is not None else None
        if self._relay is None or query is None or question is None:
            self._counters["answered_servfail"] += refused is not None
            return refused
        try:
            relayed = await self._relay.ask(question)
        except RelayFailed as error:
            self._counters["answered_servfail"] += 1
            if not self._cannot_relay:
                log.alarm("cannot relay", reason=error, queries="SERVFAIL")
            self._cannot_relay = True
            return refused
        if self._cannot_relay:
            log.event("relays again")
            self._cannot_relay = False
        limit = 65_535
        if transport is Transport.UDP:
            asked = edns.MIN_UDP_OCTETS if query.edns is None else query.edns.udp_octets
            limit = min(asked, self._settings.max_udp_response_octets)
        try:
            return response_to(octets, query, relayed, limit)
        except DNSPYTHON_STUMBLES as error:
            self._counters["answered_servfail"] += 1
            log.alarm(
                "relayed response cannot be made", error=f"{type(error).__name__}: {error}", message=relayed.hex()
            )
            return refused


class LoopbackServer:
    """A root server for this host alone, at the addresses of *service*."""

    def __init__(self, service: ServiceConfig, answering: Answering, relay: Relay | None) -> None:
        self._relay = relay
        sockets = AdminConfig(
            addresses=service.addresses,
            port=service.port,
            max_connections=MAX_CONNECTIONS,
            idle_seconds=service.tcp_idle_seconds,
        )
        self._listener = Listener(sockets, answering, key="service.addresses", called="server for this host")

    async def start(self) -> None:
        """CannotListen if an address cannot be bound."""
        await self._listener.start()

    async def close(self) -> None:
        """Answer no more."""
        await self._listener.close()
        if self._relay is not None:
            await self._relay.close()


def _relayable(octets: bytes) -> Query | None:
    """The query in *octets*, if it is a well-formed one of opcode QUERY."""
    if len(octets) < _HEADER_OCTETS or octets[2] & 0xF8:
        return None
    try:
        return Query.parse(octets)
    except QueryMalformed:
        return None
