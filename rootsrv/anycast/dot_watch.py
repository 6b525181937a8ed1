"""Watches DNS over TLS on our own service addresses: an alarm where it does not answer, never a reason to withdraw."""
# Resolvers that find port 853 silent ask without TLS (RFC 9539 §4), so a route that went for it would do more harm than
# good.  A question costs a handshake; so it is asked seldom, in a thread, with a plain socket: asyncio's TLS transports
# leak in Python 3.11 (CPython issue 109534).

import asyncio
import socket
from collections.abc import Sequence

from rootsrv.answer.responder import Transport
from rootsrv.answer.table import TableUnusable
from rootsrv.anycast.probe import Address, Expectations, ProbeQuestion
from rootsrv.distribution.tls import client_context

POLL_SECONDS = 10.0
AGAIN_SECONDS = 1.0
"""A failure counts when it is seen twice."""

TIMEOUT_SECONDS = 4.0
"""More than the handshake limit: a busy process is not one that is gone."""


class DotWatch:
    """What is known of it."""

    def __init__(self, addresses: Sequence[Address], port: int, expected: Expectations) -> None:
        """*expected*: the right answers, which somebody else keeps fresh."""
        self._addresses = addresses
        self._port = port
        self._expected = expected
        self._failed: dict[Address, str] = {}

    def alarms(self, version: int) -> tuple[str, ...]:
        """What is wrong at the addresses of this IP version."""
        failed = self._failed.items()
        return tuple(f"DNS over TLS {address}: {what}" for address, what in failed if address.version == version)

    async def watch(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(POLL_SECONDS)

    async def look(self) -> None:
        """Ask every service address once, and those that failed once more."""
        failed = await self._ask(self._addresses)
        if failed:
            await asyncio.sleep(AGAIN_SECONDS)
            failed = await self._ask(list(failed))
        self._failed = failed

    async def _ask(self, addresses: Sequence[Address]) -> dict[Address, str]:
        """Those that do not answer as they should, and what they did."""
        if not self._expected.ready:
            return {}
        found = await asyncio.gather(*(self._ask_one(each) for each in addresses))
        return {address: what for address, what in zip(addresses, found, strict=True) if what}

    async def _ask_one(self, address: Address) -> str:
        asked = self._expected.questions()[0]
        try:
            reply = await asyncio.to_thread(exchange_tls, address, self._port, asked, TIMEOUT_SECONDS)
        except TimeoutError:
            return "no answer"
        except (OSError, EOFError) as error:
            return getattr(error, "strerror", None) or f"{type(error).__name__}"
        try:
            await self._expected.refresh()
            return "" if self._expected.fits(asked, reply, address.packed, Transport.TCP) else "a wrong answer"
        except (OSError, TableUnusable):
            return ""  # nobody knows what would be right: the other probes tell


def exchange_tls(address: Address, port: int, asked: ProbeQuestion, timeout: float) -> bytes:
    """The response to one query over TLS 1.3, which authenticates nobody; OSError, EOFError."""
    context = client_context("server.dot", pinned=True, dot=True)
    query = asked.with_id(0)
    with (
        # From the address itself: it is exempt from limits, and where it is not this host's no other is asked.
        socket.create_connection((str(address), port), timeout, (str(address), 0)) as plain,
        context.wrap_socket(plain) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(_exactly(stream.read(2), 2), "big")
        return _exactly(stream.read(size), size)


def _exactly(octets: bytes, size: int) -> bytes:
    if len(octets) != size:
        raise EOFError
    return octets
