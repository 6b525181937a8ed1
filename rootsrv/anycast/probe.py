"""Asks our own service addresses as a resolver would, and knows the right answers."""
# Theory of operation
# -------------------
# Each round asks, at every service address and over UDP and TCP: the SOA of ".", a name below a delegated TLD (a signed
# referral), and a name that does not exist (a signed nxdomain).  TLD and names change from probe to probe.  Each UDP
# probe has a socket of its own: another port reaches another worker.
#
# The right response is what our own Responder makes from the answer table in service.  There may be more than one:
# from staging until `grace_seconds` after the switchover both the old and the new table are right.  A response that
# fits none of them is asked for again, once, from another port; only then is it wrong data.
#
# The query must not leave the host: with the service address missing here, the same address of another instance would
# answer for us.  So an address that this host does not hold is not asked at all.

import asyncio
import contextlib
import ipaddress
import random
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import dns.exception
import dns.message
import dns.rcode

from rootsrv.answer.responder import Responder, Transport
from rootsrv.answer.table import NAME_IS_DELEGATION, TableUnusable
from rootsrv.health.evidence import Probe, ProbeOutcome, ProbeTransport
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.wire import edns

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

RETRY_SECONDS = 0.2
"""Within this time a wrong answer is asked for again."""

_TYPE_A, _TYPE_SOA = 1, 6
# Root, type OPT, 1232 octets, DO; no options: what comes back depends on the zone alone.
_OPT_DO = edns.opt_record(1232, do=True)
_RANDOM = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class ProbeQuestion:
    """A query without its id, and what it is called."""

    name: str
    octets: bytes

    def with_id(self, number: int) -> bytes:
        """The whole query."""
        return number.to_bytes(2, "big") + self.octets[2:]


def question(labels: Sequence[bytes], qtype: int, name: str) -> ProbeQuestion:
    """A query for class IN with DO."""
    qname = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    header = struct.pack("!6H", 0, 0, 1, 0, 0, 1)
    return ProbeQuestion(name, header + qname + struct.pack("!HH", qtype, 1) + _OPT_DO)


class Expectations:
    """The answer tables that may be in service now."""

    def __init__(self, page: Page, open_responder: Callable[[int], Responder], grace_seconds: float) -> None:
        """*open_responder* maps the answer table of a generation; OSError, TableUnusable."""
        self._page = page
        self._open = open_responder
        self._grace = grace_seconds
        self._responders: dict[int, Responder] = {}
        self._tlds: dict[int, tuple[bytes, ...]] = {}
        self._active = 0
        self._leaving: dict[int, float] = {}
        """Generation → until when it is still right."""

    async def refresh(self) -> None:
        """Follow the shared page.  OSError or TableUnusable if the active table cannot be used."""
        if not self._page.is_current():
            with contextlib.suppress(PageUnusable):  # what is mapped holds until its keeper puts it back
                self._page.follow()
        active, staged = self._page.active, self._page.staged
        now = time.monotonic()
        if active != self._active:
            if self._active in self._responders:
                self._leaving[self._active] = now + self._grace
            self._active = active
        self._leaving = {each: until for each, until in self._leaving.items() if until > now and each != active}
        wanted = {active, staged, *self._leaving} - {0}
        for generation in sorted(wanted - set(self._responders)):
            try:
                # In a thread: it takes a tenth of a second, and renewals must not wait.
                responder = await asyncio.to_thread(self._open, generation)
            except (OSError, TableUnusable):
                if generation == active:
                    raise
                continue  # the switchover to it will not happen, or fail, and others see to that
            self._responders[generation] = responder
            self._tlds[generation] = tuple(
                info.label for info in responder.table.names() if info.flags & NAME_IS_DELEGATION
            )
        for generation in set(self._responders) - wanted:
            del self._responders[generation], self._tlds[generation]

    def questions(self) -> tuple[ProbeQuestion, ...]:
        """One question of each kind; a name that exists in one table and not in another is as good as any."""
        tlds = self._tlds.get(self._active, ())
        token = b"".join(_RANDOM.choice((b"a", b"b", b"c", b"d", b"x", b"y", b"z")) for _ in range(12))
        made = [question((), _TYPE_SOA, ". SOA"), question((b"rs-" + token,), _TYPE_A, "a nonexistent TLD")]
        if tlds:
            tld = _RANDOM.choice(tlds)
            name = tld.decode(errors="backslashreplace")
            made.insert(1, question((b"rs-" + token, tld), _TYPE_A, f"a name below {name}."))
        return tuple(made)

    def fits(self, asked: ProbeQuestion, reply: bytes, source: bytes, transport: Transport) -> bool:
        """Whether *reply* is what one of the tables says."""
        query = asked.with_id(0)
        for responder in self._responders.values():
            expected = responder.respond(query, source, transport, 0.0)
            if expected is not None and (expected[2:] == reply[2:] or _mean_the_same(expected, reply)):
                return True
        return False

    @property
    def zones(self) -> tuple[bytes, ...]:
        """Names, in wire format, of the zones of the active table, in the order of their leases in the shared page."""
        responder = self._responders.get(self._active)
        return tuple(zone.name for zone in responder.table.zones) if responder else ()

    @property
    def ready(self) -> bool:
        """Whether there is a table to compare with."""
        return self._active in self._responders


def _mean_the_same(one: bytes, other: bytes) -> bool:
    """Whether two responses differ in id and OPT record at most (OPT depends on the configuration, not on the zone)."""
    try:
        ours, theirs = dns.message.from_wire(one), dns.message.from_wire(other)
    except (dns.exception.DNSException, ValueError):
        return False
    sections = (ours.question, ours.answer, ours.authority, ours.additional)
    return (
        ours.flags == theirs.flags
        and ours.rcode() == theirs.rcode()
        and all(
            len(mine) == len(yours) and all(each in yours for each in mine)
            for mine, yours in zip(
                sections, (theirs.question, theirs.answer, theirs.authority, theirs.additional), strict=True
            )
        )
    )


class Prober:
    """Puts one round of questions to the service addresses."""

    def __init__(self, addresses: Iterable[Address], port: int, timeout_seconds: float, expected: Expectations) -> None:
        self.addresses = tuple(addresses)
        self._port = port
        self._timeout = timeout_seconds
        self._expected = expected

    async def probe(self, host_addresses: frozenset[Address]) -> dict[Address, tuple[Probe, ...]]:
        """What became of this round's probes; *host_addresses* are those that this host holds."""
        questions = self._expected.questions()
        rounds = await asyncio.gather(*(self._probe(each, questions, host_addresses) for each in self.addresses))
        return dict(zip(self.addresses, rounds, strict=True))

    async def _probe(
        self, address: Address, questions: Sequence[ProbeQuestion], host_addresses: frozenset[Address]
    ) -> tuple[Probe, ...]:
        if address not in host_addresses:
            return (Probe(str(address), ProbeTransport.UDP, "anything", ProbeOutcome.ABSENT),)
        if not self._expected.ready:
            return (Probe(str(address), ProbeTransport.UDP, "anything", ProbeOutcome.CANNOT_TELL, "no answer table"),)
        over_tcp = asyncio.create_task(self._probe_tcp(address, questions))
        over_udp = await asyncio.gather(*(self._probe_udp(address, each) for each in questions))
        return (*over_udp, *await over_tcp)

    async def _probe_udp(self, address: Address, asked: ProbeQuestion) -> Probe:
        outcome, detail = await self._ask_udp(address, asked, self._timeout)
        return Probe(str(address), ProbeTransport.UDP, asked.name, outcome, detail)

    async def _ask_udp(
        self, address: Address, asked: ProbeQuestion, timeout: float, again: bool = False
    ) -> tuple[ProbeOutcome, str]:
        try:
            reply = await exchange_udp(address, self._port, asked, timeout)
        except (TimeoutError, ConnectionError) as error:
            detail = "refused" if isinstance(error, ConnectionError) else ""
            if again:
                return ProbeOutcome.CANNOT_TELL, f"wrong data, then {detail or 'no answer'}"
            return ProbeOutcome.SILENT, detail
        except OSError as error:
            detail = error.strerror or str(error)
            return (
                (ProbeOutcome.CANNOT_TELL, f"wrong data, then {detail}") if again else (ProbeOutcome.NOT_ASKED, detail)
            )
        if await self._is_right(asked, reply, address, Transport.UDP):
            return ProbeOutcome.RIGHT, ""
        if again:
            return ProbeOutcome.WRONG, _summary(reply)
        return await self._ask_udp(address, asked, RETRY_SECONDS, again=True)

    async def _probe_tcp(self, address: Address, questions: Sequence[ProbeQuestion]) -> tuple[Probe, ...]:
        try:
            replies, fault = await exchange_tcp(address, self._port, questions, self._timeout)
        except OSError as error:  # of ours (no descriptor, no port): it says nothing of the service
            what = error.strerror or str(error)
            return tuple(_not_asked(address, asked, what) for asked in questions)
        probes = []
        for asked, reply in zip(questions, replies, strict=True):
            outcome, detail = ProbeOutcome.SILENT, fault
            if reply is not None and await self._is_right(asked, reply, address, Transport.TCP):
                outcome, detail = ProbeOutcome.RIGHT, ""
            elif reply is not None:
                again = None
                try:
                    ((again,), fault) = await exchange_tcp(address, self._port, (asked,), RETRY_SECONDS)
                except OSError as error:
                    fault = error.strerror or str(error)
                if again is None:
                    outcome, detail = ProbeOutcome.CANNOT_TELL, f"wrong data, then {fault or 'no answer'}"
                elif await self._is_right(asked, again, address, Transport.TCP):
                    outcome, detail = ProbeOutcome.RIGHT, ""
                else:
                    outcome, detail = ProbeOutcome.WRONG, _summary(again)
            probes.append(Probe(str(address), ProbeTransport.TCP, asked.name, outcome, detail))
        return tuple(probes)

    async def _is_right(self, asked: ProbeQuestion, reply: bytes, address: Address, transport: Transport) -> bool:
        if self._expected.fits(asked, reply, address.packed, transport):
            return True
        # The switchover may have happened since the round began.
        with contextlib.suppress(OSError, TableUnusable):
            await self._expected.refresh()
        return self._expected.fits(asked, reply, address.packed, transport)


def _not_asked(address: Address, asked: ProbeQuestion, why: str) -> Probe:
    return Probe(str(address), ProbeTransport.TCP, asked.name, ProbeOutcome.NOT_ASKED, why)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, number: bytes) -> None:
        self._number = number
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, octets: bytes, _: object) -> None:
        if octets[:2] == self._number and not self.reply.done():
            self.reply.set_result(octets)

    def error_received(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


async def exchange_udp(address: Address, port: int, asked: ProbeQuestion, timeout: float) -> bytes:
    """The reply to one query from a port of its own; TimeoutError, ConnectionError (ICMP), OSError.

    It is asked from the service address itself, which no limit or shed rule is applied to (admission/gate.py).
    """
    query = asked.with_id(_RANDOM.randrange(65536))
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: _Datagrams(query[:2]), local_addr=(str(address), 0), remote_addr=(str(address), port)
        )
        try:
            transport.sendto(query)
            return await protocol.reply
        finally:
            transport.close()


async def exchange_tcp(
    address: Address, port: int, questions: Sequence[ProbeQuestion], timeout: float
) -> tuple[list[bytes | None], str]:
    """The replies to *questions*, pipelined on one connection (RFC 7766 §6.2.1.1), and what ended it early.

    OSError when there is no connection, and not because the other end does not want one.
    """
    replies: list[bytes | None] = [None] * len(questions)
    fault = ""
    writer = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(str(address), port)
            # Ids are the positions, moved by a random number, since replies may come in any order.
            first = _RANDOM.randrange(65536)
            numbers = {(first + position) % 65536: position for position in range(len(questions))}
            queries = [asked.with_id(number) for number, asked in zip(numbers, questions, strict=True)]
            writer.write(b"".join(len(query).to_bytes(2, "big") + query for query in queries))
            while None in replies:
                size = int.from_bytes(await reader.readexactly(2), "big")
                reply = await reader.readexactly(size)
                position = numbers.get(int.from_bytes(reply[:2], "big"))
                if position is not None:
                    replies[position] = reply
    except TimeoutError:
        pass
    except ConnectionRefusedError:
        fault = "refused"
    except (ConnectionError, EOFError) as error:
        fault = f"{type(error).__name__}"
    finally:
        if writer is not None:
            writer.transport.abort()
    return replies, fault


def _summary(reply: bytes) -> str:
    """What a wrong reply says, for the log."""
    try:
        message = dns.message.from_wire(reply)
    except (dns.exception.DNSException, ValueError) as error:
        return f"{len(reply)} octets that are no message: {error}"
    serials = [
        f"serial {rdata.serial}"
        for section in (message.answer, message.authority)
        for rrset in section
        for rdata in rrset
        if rrset.rdtype == _TYPE_SOA
    ]
    return ", ".join([dns.rcode.to_text(message.rcode()), f"{len(reply)} octets", *serials])
