"""Turns of the event loop: what is answered in one comes from one reading of the page, and is counted at its end."""
# A turn of the loop finds some readable connections and hands us what was read, one after the other.  Reading the page
# and counting cost as much for one query as for fifty, so both are done once per turn: a turn is for TCP what a batch
# of datagrams is for UDP (udp.py), also for what a worker that is killed has not yet counted.

import asyncio
from collections.abc import Sequence

from rootsrv.answer.responder import Transport
from rootsrv.server.counters import Counters
from rootsrv.server.serving import Serving

_PATHS = 4


class Turns:
    """The event loop's turns, for everything that comes in one message at a time."""

    def __init__(self, serving: Serving, counters: Counters) -> None:
        self._serving = serving
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._begun = False
        self._requests: tuple[list[bytes], ...] = tuple([] for _ in range(_PATHS))
        self._responses: tuple[list[bytes], ...] = tuple([] for _ in range(_PATHS))
        self._sources: set[bytes] = set()

    @property
    def woken_at(self) -> int:
        """When this turn began, CLOCK_BOOTTIME, nanoseconds."""
        return self._serving.woken_at

    def begin(self) -> None:
        """Something came in: read the page, unless that was done in this turn."""
        if not self._begun:
            self._begun = True
            self._loop.call_soon(self.end)
            self._serving.read_page()

    def begin_here(self) -> None:
        """`begin` for who calls `end` itself, before the loop goes on."""
        if not self._begun:
            self._begun = True
            self._serving.read_page()

    def respond(self, path: int, octets: bytes, source: bytes, transport: Transport, port: int = 0) -> bytes | None:
        """The response to one message, counted with those of this turn (`begin` has been called)."""
        response = self._serving.respond_to(octets, source, transport, port)
        if response is not None:
            self._requests[path].append(octets)
            self._responses[path].append(response)
            self._sources.add(source)
        return response

    def respond_to_all(
        self, path: int, requests: list[bytes], sources: Sequence[bytes], transport: Transport
    ) -> list[bytes | None]:
        """`respond` for many messages, each with its source."""
        responses = self._serving.respond_to_all(requests, sources, transport)
        if not all(responses):
            for request, source, response in zip(requests, sources, responses, strict=True):
                if response is not None:
                    self._requests[path].append(request)
                    self._responses[path].append(response)
                    self._sources.add(source)
        else:
            self._requests[path].extend(requests)
            self._responses[path].extend(responses)  # type: ignore[arg-type]
            self._sources.update(sources)
        return responses

    def refuses_connection(self, source: bytes) -> bool:
        """Whether a new connection from *source* is one too many (limits.connections); `begin_here` has been called."""
        return self._serving.refuses_connection(source)

    def refuses_handshake(self, source: bytes, microseconds: int) -> bool:
        """Whether a TLS handshake that takes so much processor time is too much for *source*, or it is blocked."""
        return self._serving.refuses_handshake(source, microseconds)

    def end(self) -> None:
        """Count what was answered."""
        self._begun = False
        for path in range(_PATHS):
            if self._requests[path]:
                self._counters.count(path, self._requests[path], self._responses[path])
                self._requests[path].clear()
                self._responses[path].clear()
        if self._sources:
            self._counters.note_sources(self._sources)
            self._sources.clear()
