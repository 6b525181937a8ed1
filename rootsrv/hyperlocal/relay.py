"""Asks the root servers what the resolver on this host asks us, while there is no copy to answer from (RFC 8806 §3)."""
# Theory of operation
# -------------------
# What comes back is not verified here: the resolver validates it, as it does with what it asks the root servers itself.
# So a forger must have no easier game than with the resolver (RFC 5452):
#
#   a query has a socket of its own, at a port of 64,512 taken at random, connected to the one server that it asks
#   (§9.2), a random id, and letters of random case in its name (draft-vixie-dnsext-dns0x20);
#   a response must come from there, repeat the id and the question octet by octet, and be a plain answer;
#   the same question is asked once at a time, however often it comes (§5: no birthday attack);
#   MAX_FORGED responses that do not fit are an attack: the server is asked by TCP.
#
#   UDP ──▶ fits ─────────────▶ response
#    │ TC, or MAX_FORGED that do not fit: TCP, the same server
#    └ nothing in time, REFUSED, SERVFAIL …: another server, ATTEMPTS in all; this one rests
#
# A name of few letters gains little by its case, "." nothing; id and port are 32 bits with or without.

import asyncio
import contextlib
import random
import socket
import string
import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import dns.flags
import dns.message
import dns.name
import dns.rrset

from rootsrv.answer.question import Query
from rootsrv.process import log
from rootsrv.wire import edns
from rootsrv.wire.any_rdata import DNSPYTHON_STUMBLES
from rootsrv.wire.codes import NOERROR, NXDOMAIN
from rootsrv.wire.message import AXFR, CLASS_IN, IXFR

MAX_FORGED = 4
"""UDP responses that fit no question of ours, after which the server is asked by TCP."""

UDP_SECONDS = (0.8, 1.2, 2.0)
"""How long each server has; a root server is 5 … 300 ms away."""

TCP_SECONDS = 3.0

REST_SECONDS = 30.0
"""How long a server that was no use is not asked, while there is another."""

MAX_QUESTIONS = 200
"""Different questions in flight; what comes beyond is not relayed: a resolver alone does not need so many."""

LOG_SECONDS = 60.0
"""An attack must not fill a disk."""

MAX_UDP_OCTETS = 1232
_LOWEST_PORT = 1024
_QR, _OPCODE, _TC, _RCODE = 0x8000, 0x7800, 0x0200, 0x000F
_META = frozenset((AXFR, IXFR, 250, 249, 253, 254))  # TSIG, TKEY, MAILB, MAILA: no server answers them plainly


class RelayFailed(Exception):
    """No root server gave a usable answer."""


@dataclass(frozen=True, slots=True)
class RelayQuestion:
    """What is asked, whoever asks."""

    qname: bytes
    """Wire format, lower-cased."""

    qtype: int
    do: bool

    @classmethod
    def of(cls, query: Query) -> "RelayQuestion | None":
        """The question of *query* if it may be passed on: class IN, no transfer, EDNS version 0, no TSIG."""
        if not query.question or query.qclass != CLASS_IN or query.qtype in _META or query.tsig is not None:
            return None
        if query.edns is not None and query.edns.version:
            return None
        return cls(query.qname, query.qtype, query.edns is not None and query.edns.do)


class Sent:
    """One query to one server, and whether octets that come back are its response."""

    def __init__(self, question: RelayQuestion, chance: random.Random) -> None:
        name = bytes(each ^ chance.choice((0, 0x20)) if each in _LETTERS else each for each in question.qname)
        self._expected = name + struct.pack("!HH", question.qtype, CLASS_IN)
        self._id = chance.randbytes(2)
        header = self._id + struct.pack("!5H", 0, 1, 0, 0, 1)
        self.octets = header + self._expected + edns.opt_record(MAX_UDP_OCTETS, do=question.do)

    def is_answered_by(self, octets: bytes) -> bool:
        """Whether id, opcode and question are those of this query."""
        if len(octets) < 12 + len(self._expected) or octets[:2] != self._id:
            return False
        flags, qdcount = struct.unpack_from("!HH", octets, 2)
        asked = octets[12 : 12 + len(self._expected)]
        return flags & (_QR | _OPCODE) == _QR and qdcount == 1 and asked == self._expected


# A length octet of a name is at most 63, so that no octet of these values is one.
_LETTERS = frozenset(string.ascii_letters.encode())


class Relay:
    """Asks *servers* (addresses)."""

    def __init__(
        self,
        servers: Collection[str],
        counters: "Counter[str]",
        *,
        port: int = 53,
        chance: random.Random | None = None,
    ) -> None:
        """*chance* has to be unpredictable; another one is for tests."""
        self._servers = sorted(servers)
        self._counters = counters
        self._port = port
        self._chance = chance or random.SystemRandom()
        self._tell_forged_at = 0.0
        self._rests_until: dict[str, float] = {}
        self._asking: dict[RelayQuestion, asyncio.Task[bytes]] = {}
        counters.update(dict.fromkeys(("relayed", "relay_failed", "relay_over_tcp", "relay_forged"), 0))

    async def ask(self, question: RelayQuestion) -> bytes:
        """A root server's response to *question*; RelayFailed if there is none.  Parsable, but verified by nobody."""
        task = self._asking.get(question)
        if task is None:
            if len(self._asking) >= MAX_QUESTIONS:
                raise RelayFailed(f"more than {MAX_QUESTIONS} questions at a time")
            task = asyncio.get_running_loop().create_task(self._ask(question))
            self._asking[question] = task
            task.add_done_callback(lambda ended: self._ended(question, ended))
        return await asyncio.shield(task)

    def _ended(self, question: RelayQuestion, task: "asyncio.Task[bytes]") -> None:
        self._asking.pop(question, None)
        if not task.cancelled():
            task.exception()  # it was told to all who waited; perhaps nobody does any more

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, question: RelayQuestion) -> bytes:
        reason = "no root server can be reached"
        attempts = 0
        for server in self._in_turn():
            try:
                octets = await self._ask_one(server, question, UDP_SECONDS[attempts])
            except _Unroutable as error:
                self._rest(server)  # of a family that this host has not: it costs nothing to go on
                reason = f"{server}: {error}"
                continue
            except RelayFailed as error:
                self._rest(server)
                reason = f"{server}: {error}"
                attempts += 1
                if attempts == len(UDP_SECONDS):
                    break
                continue
            self._rests_until.pop(server, None)
            self._counters["relayed"] += 1
            return octets
        self._counters["relay_failed"] += 1
        raise RelayFailed(reason)

    def _in_turn(self) -> list[str]:
        """All servers at random, IPv4 and IPv6 by turns: one of them may lead nowhere.  Those that rest come last."""
        now = asyncio.get_running_loop().time()
        shuffled = self._chance.sample(self._servers, len(self._servers))
        by_family: list[list[str]] = [[], []]
        for each in shuffled:
            by_family[":" in each].append(each)
        first = self._chance.randrange(2)
        place = {each: 2 * at + (family != first) for family in (0, 1) for at, each in enumerate(by_family[family])}
        return sorted(shuffled, key=lambda each: (self._rests_until.get(each, 0.0) > now, place[each]))

    def _rest(self, server: str) -> None:
        self._rests_until[server] = asyncio.get_running_loop().time() + REST_SECONDS

    async def _ask_one(self, server: str, question: RelayQuestion, seconds: float) -> bytes:
        sent = Sent(question, self._chance)
        try:
            async with asyncio.timeout(seconds):
                octets = await self._over_udp(server, sent)
        except TimeoutError:
            raise RelayFailed(f"no answer within {seconds} s") from None
        except OSError as error:
            raise RelayFailed(error.strerror or str(error)) from error
        if octets is None or int.from_bytes(octets[2:4]) & _TC:
            octets = await self._over_tcp(server, Sent(question, self._chance))
        rcode = int.from_bytes(octets[2:4]) & _RCODE
        if rcode not in {NOERROR, NXDOMAIN}:
            raise RelayFailed(f"RCODE {rcode}")
        try:
            dns.message.from_wire(octets)
        except DNSPYTHON_STUMBLES as error:
            raise RelayFailed(f"malformed: {type(error).__name__}") from error
        return octets

    async def _over_udp(self, server: str, sent: Sent) -> bytes | None:
        """The response; None if so much else came that TCP is called for."""
        loop = asyncio.get_running_loop()
        with contextlib.closing(self._socket(server)) as connected:
            await loop.sock_sendall(connected, sent.octets)
            for _ in range(MAX_FORGED):
                octets = await loop.sock_recv(connected, 65535)
                if sent.is_answered_by(octets):
                    return octets
                self._counters["relay_forged"] += 1
        if loop.time() >= self._tell_forged_at:
            self._tell_forged_at = loop.time() + LOG_SECONDS
            log.alarm("responses that answer no question of ours", server=server, received=MAX_FORGED, next="TCP")
        return None

    def _socket(self, server: str) -> socket.socket:
        """At a port of its own, connected to *server*; _Unroutable if there is no way to it."""
        try:
            made = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
        except OSError as error:  # no IPv6 here, or no descriptor
            raise _Unroutable(error.strerror or str(error)) from error
        try:
            made.setblocking(False)
            for _ in range(10):
                with contextlib.suppress(OSError):  # taken, or reserved: another one
                    made.bind(("", self._chance.randrange(_LOWEST_PORT, 65_536)))
                    break
            else:
                raise RelayFailed("no free port")
            made.connect((server, self._port))
        except OSError as error:
            made.close()
            raise _Unroutable(error.strerror or str(error)) from error
        except RelayFailed:
            made.close()
            raise
        return made

    async def _over_tcp(self, server: str, sent: Sent) -> bytes:
        self._counters["relay_over_tcp"] += 1
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(TCP_SECONDS):
                reader, writer = await asyncio.open_connection(server, self._port)
                writer.write(len(sent.octets).to_bytes(2) + sent.octets)
                octets = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        except TimeoutError:
            raise RelayFailed(f"TCP: no answer within {TCP_SECONDS} s") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            raise RelayFailed(f"TCP: {error}") from error
        finally:
            if writer is not None:
                writer.transport.abort()
        if not sent.is_answered_by(octets) or int.from_bytes(octets[2:4]) & _TC:
            raise RelayFailed("TCP: not the response to our query")
        return octets


class _Unroutable(RelayFailed):
    """This host has no way to the server at all."""


def response_to(octets: bytes, query: Query, relayed: bytes, max_octets: int) -> bytes:
    """*relayed*, the response to the question of *query*, as the one to *octets*: its id, flags, spelling and EDNS.

    What is hop by hop goes no further: OPT with its options (RFC 6891 §6.1.1), RA, and AD: nobody here vouches for it.
    """
    message = dns.message.from_wire(relayed)
    theirs = int.from_bytes(octets[2:4])
    rcode = message.rcode()
    message.id = int.from_bytes(octets[:2])
    message.flags = dns.flags.QR | message.flags & dns.flags.AA | theirs & (dns.flags.RD | dns.flags.CD)
    (asked,) = message.question
    # Owners equal to the name compress to it, and take over its spelling.
    spelt, _ = dns.name.from_wire(query.question, 0)
    message.question = [dns.rrset.RRset(spelt, asked.rdclass, asked.rdtype)]
    if query.edns is None:
        message.use_edns(-1)
    else:
        message.use_edns(0, dns.flags.DO if query.edns.do else 0, MAX_UDP_OCTETS)
    message.set_rcode(rcode)
    return message.to_wire(max_size=max_octets, prefer_truncation=True)
