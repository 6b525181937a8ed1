"""The relay beside root servers that lie, lag and break, and what it sends on the wire."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from bench.peers.daemon import free_port
from rootsrv.answer.question import Query
from rootsrv.hyperlocal import relay as relaying
from rootsrv.hyperlocal.relay import Relay, RelayFailed, RelayQuestion, Sent, response_to
from tests.server.live import wait_until

SERVERS = ("127.22.0.1", "127.22.0.2", "127.22.0.3", "127.22.0.4")


def query(name: str = "Www.Example.", *, edns: int = 0, **options: object) -> dns.message.Message:
    return dns.message.make_query(name, "A", use_edns=edns, want_dnssec=edns == 0, **options)  # type: ignore[arg-type]


def parsed(message: dns.message.Message) -> Query:
    return Query.parse(message.to_wire())


def asked(message: dns.message.Message) -> RelayQuestion:
    question = RelayQuestion.of(parsed(message))
    assert question is not None
    return question


def referral(octets: bytes, *, more: int = 0) -> dns.message.Message:
    """As a root server answers; *more* records make it long."""
    response = dns.message.make_response(dns.message.from_wire(octets))
    zone = dns.name.Name(response.question[0].name.labels[-2:])  # spelt as it was asked
    hosts = [f"ns{at}.nic.{zone}" for at in range(2 + more)]
    response.authority.append(dns.rrset.from_text(zone, 172800, "IN", "NS", *hosts))
    return response


Answer = Callable[[bytes], list[bytes]]
"""A query → the datagrams that come back."""


@dataclass
class Server:
    """A root server as a test wants it."""

    over_udp: Answer = lambda octets: [referral(octets).to_wire()]
    over_tcp: Answer = lambda octets: [referral(octets).to_wire()]
    queries: list[bytes] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)
    tcp_queries: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)
    """As many queries came as the relay has in flight at a time."""


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.queries.append(data)
        self._server.ports.add(addr[1])
        if len(self._server.queries) == relaying.MAX_QUESTIONS:
            self._server.full.set()
        for each in self._server.over_udp(data):
            self._transport.sendto(each, addr)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def root_servers(*servers: Server) -> AsyncIterator[tuple[Relay, "Counter[str]"]]:
    """A relay to *servers*."""
    port = free_port(SERVERS[0])
    loop = asyncio.get_running_loop()
    counters: Counter[str] = Counter()
    async with contextlib.AsyncExitStack() as stack:
        for address, server in zip(SERVERS, servers, strict=False):
            transport, _ = await loop.create_datagram_endpoint(
                lambda server=server: _Datagrams(server),  # type: ignore[misc]
                local_addr=(address, port),
            )
            stack.callback(transport.close)

            async def converse(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: Server = server
            ) -> None:
                server.tcp_queries += 1
                octets = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
                for each in server.over_tcp(octets):
                    writer.write(len(each).to_bytes(2) + each)
                with contextlib.suppress(OSError):
                    await writer.drain()
                writer.close()

            listening = await asyncio.start_server(converse, address, port)
            stack.callback(listening.close)
        relay = Relay(SERVERS[: len(servers)], counters, port=port)
        stack.push_async_callback(relay.close)
        yield relay, counters


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


def changed(octets: bytes, at: int, by: int = 1) -> bytes:
    return octets[:at] + bytes((octets[at] ^ by,)) + octets[at + 1 :]


def test_no_two_queries_share_port_id_and_spelling() -> None:
    async def test() -> None:
        server = Server()
        async with root_servers(server) as (relay, counters):
            for _ in range(40):
                await relay.ask(asked(query("a-rather-long-name-of-a-host.example.")))
            ids = {each[:2] for each in server.queries}
            names = {each[12:-15] for each in server.queries}
            assert len(ids) == 40
            assert len(names) == 40
            assert len(server.ports) >= 38  # of 64,512: two may meet
            assert len({each.lower() for each in names}) == 1
            assert max(server.ports) - min(server.ports) > 20_000
            assert counters["relayed"] == 40
            assert not counters["relay_over_tcp"]

    run(test)


FORGERIES: dict[str, Answer] = {
    "another_id": lambda octets: [changed(referral(octets).to_wire(), 1)],
    "another_spelling": lambda octets: [changed(referral(octets).to_wire(), 13, 0x20)],
    "another_name": lambda octets: [changed(referral(octets).to_wire(), 13, 3)],
    "another_type": lambda octets: [referral(octets).to_wire().replace(b"\0\0\1\0\1", b"\0\0\2\0\1", 1)],
    "a_query": lambda octets: [octets],
    "another_opcode": lambda octets: [changed(referral(octets).to_wire(), 2, 0x20)],
    "two_questions": lambda octets: [changed(referral(octets).to_wire(), 5, 3)],
    "an_octet": lambda _: [b"."],
    "a_header": lambda octets: [referral(octets).to_wire()[:12]],
    "noise": lambda _: [random.Random(1).randbytes(200)],
}


@pytest.mark.parametrize("case", FORGERIES)
def test_what_answers_no_question_of_ours_is_passed_over_and_enough_of_it_calls_for_tcp(case: str) -> None:
    forge = FORGERIES[case]

    async def test() -> None:
        few = relaying.MAX_FORGED - 1
        patient = Server(over_udp=lambda octets: [*forge(octets) * few, referral(octets).to_wire()])
        async with root_servers(patient) as (relay, counters):
            await relay.ask(asked(query()))
            assert (counters["relay_forged"], patient.tcp_queries) == (few, 0)

        attacked = Server(over_udp=lambda octets: forge(octets) * relaying.MAX_FORGED)
        async with root_servers(attacked) as (relay, counters):
            response = dns.message.from_wire(await relay.ask(asked(query())))
            assert response.authority
            assert (counters["relay_forged"], attacked.tcp_queries) == (relaying.MAX_FORGED, 1)

    run(test)


NO_USE: dict[str, Server] = {
    "refused": Server(over_udp=lambda octets: [with_rcode(octets, dns.rcode.REFUSED)]),
    "servfail": Server(over_udp=lambda octets: [with_rcode(octets, dns.rcode.SERVFAIL)]),
    "malformed": Server(over_udp=lambda octets: [referral(octets).to_wire()[:-7]]),
    "silent": Server(over_udp=lambda _: []),
    "truncated_and_no_tcp": Server(over_udp=lambda octets: [truncated(octets)], over_tcp=lambda _: []),
    "truncated_for_ever": Server(
        over_udp=lambda octets: [truncated(octets)], over_tcp=lambda octets: [truncated(octets)]
    ),
    "forged_by_tcp_too": Server(
        over_udp=lambda _: [b"."] * 4, over_tcp=lambda octets: [changed(referral(octets).to_wire(), 0)]
    ),
}


def with_rcode(octets: bytes, rcode: int) -> bytes:
    response = dns.message.make_response(dns.message.from_wire(octets))
    response.set_rcode(dns.rcode.Rcode(rcode))
    return response.to_wire()


def truncated(octets: bytes) -> bytes:
    response = dns.message.make_response(dns.message.from_wire(octets))
    response.flags |= dns.flags.TC
    return response.to_wire()


@pytest.mark.parametrize("case", NO_USE)
def test_who_is_no_use_is_passed_over_rests_and_alone_it_is_an_error(case: str) -> None:
    bad = NO_USE[case]

    async def test() -> None:
        good = Server()
        async with root_servers(bad, good) as (relay, counters):
            for _ in range(6):
                await relay.ask(asked(query()))
            assert len(good.queries) == 6
        bad.queries.clear()
        async with root_servers(bad) as (relay, counters):
            with pytest.raises(RelayFailed, match=SERVERS[0]):
                await relay.ask(asked(query()))
            assert len(bad.queries) == 1
            assert counters["relay_failed"] == 1

    run(test)


def test_a_server_that_failed_is_not_asked_while_there_is_another() -> None:
    async def test() -> None:
        bad, good = Server(over_udp=lambda octets: [with_rcode(octets, dns.rcode.REFUSED)]), Server()
        async with root_servers(bad, good) as (relay, _):
            for _ in range(30):
                await relay.ask(asked(query()))
            assert len(bad.queries) <= 1
            assert len(good.queries) == 30

    run(test)


def test_what_does_not_fit_a_datagram_is_asked_for_by_tcp() -> None:
    async def test() -> None:
        server = Server(
            over_udp=lambda octets: [truncated(octets)],
            over_tcp=lambda octets: [referral(octets, more=200).to_wire(max_size=65_535)],
        )
        async with root_servers(server) as (relay, counters):
            response = dns.message.from_wire(await relay.ask(asked(query())))
            assert len(response.authority[0]) == 202
            assert counters["relay_over_tcp"] == 1

    run(test)


def test_an_address_family_that_this_host_has_not_costs_no_attempt() -> None:
    async def test() -> None:
        async with root_servers(Server()) as (relay, _):
            relay._servers = sorted(("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", SERVERS[0]))
            for _ in range(5):
                await relay.ask(asked(query()))

    run(test)


def test_a_family_that_leads_nowhere_is_not_all_that_is_tried() -> None:
    async def test() -> None:
        six = [f"2001:db8::{at}" for at in range(1, 14)]
        relay = Relay([*SERVERS, *six], Counter())
        for _ in range(200):
            order = relay._in_turn()
            assert sorted(order) == sorted([*SERVERS, *six])
            assert {":" in each for each in order[:2]} == {True, False}
        for each in six:
            relay._rest(each)
        assert {":" in each for each in relay._in_turn()[: len(SERVERS)]} == {False}

    run(test)


def test_the_same_question_is_asked_once_at_a_time_and_not_too_many_different_ones() -> None:
    async def test() -> None:
        server = Server(over_udp=lambda _: [])
        async with root_servers(server) as (relay, _):
            waiting = [asyncio.create_task(relay.ask(asked(query("one.")))) for _ in range(50)]
            waiting += [
                asyncio.create_task(relay.ask(asked(query(f"n{at}.")))) for at in range(relaying.MAX_QUESTIONS - 1)
            ]
            await server.full.wait()
            assert len(server.queries) == relaying.MAX_QUESTIONS
            with pytest.raises(RelayFailed, match="at a time"):
                await relay.ask(asked(query("more.")))
            await relay.close()
            await asyncio.gather(*waiting, return_exceptions=True)

    run(test)


REFUSED_TYPES = ("AXFR", "IXFR", "TSIG", "TKEY", "MAILA", "MAILB")


@pytest.mark.parametrize("rtype", REFUSED_TYPES)
def test_a_transfer_or_a_meta_type_is_not_passed_on(rtype: str) -> None:
    message = dns.message.make_query(".", "A")
    message.question[0].rdtype = dns.rdatatype.from_text(rtype)
    assert RelayQuestion.of(parsed(message)) is None


def test_chaos_and_a_later_edns_are_not_passed_on() -> None:
    assert RelayQuestion.of(parsed(dns.message.make_query("version.server.", "TXT", "CH"))) is None
    assert RelayQuestion.of(parsed(dns.message.make_query(".", "NS", use_edns=1))) is None


def relayed(message: dns.message.Message, *, more: int = 0) -> bytes:
    """What a root server answers to what we make of *message*."""
    return referral(Sent(asked(message), random.Random(7)).octets, more=more).to_wire(max_size=65_535)


@pytest.mark.parametrize("flags", [0, dns.flags.RD, dns.flags.RD | dns.flags.CD])
@pytest.mark.parametrize("edns", [-1, 0])
def test_a_response_is_the_askers_own(flags: int, edns: int) -> None:
    message = query("wWw.eXample.", edns=edns)
    message.flags = dns.flags.Flag(flags)
    octets = message.to_wire()
    told = response_to(octets, parsed(message), relayed(message), 1232)
    response = dns.message.from_wire(told)
    assert message.is_response(response)
    assert told[12:25] == octets[12:25]  # spelt as asked
    assert int(response.flags) == flags | dns.flags.QR
    assert response.edns == edns
    assert (b"eXample" in told, b"EXAMPLE" in told.upper().replace(b"EXAMPLE", b"", 1)) == (True, False)
    assert not response.options
    assert bool(response.ednsflags & dns.flags.DO) == (edns == 0)


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
@pytest.mark.parametrize("edns", [-1, 0])
def test_what_a_root_server_says_of_a_name_is_said_on(rcode: int, edns: int) -> None:
    message = query(edns=edns)
    told = with_rcode(Sent(asked(message), random.Random(7)).octets, rcode)
    assert dns.message.from_wire(response_to(message.to_wire(), parsed(message), told, 1232)).rcode() == rcode


def test_a_cookie_goes_no_further() -> None:
    message = query(options=[dns.edns.GenericOption(10, b"12345678")])
    assert b"12345678" not in Sent(asked(message), random.Random(7)).octets
    assert b"12345678" not in response_to(message.to_wire(), parsed(message), relayed(message), 1232)


@pytest.mark.parametrize("limit", [512, 1232])
def test_what_the_asker_cannot_take_is_truncated(limit: int) -> None:
    message = query()
    told = response_to(message.to_wire(), parsed(message), relayed(message, more=300), limit)
    assert len(told) <= limit
    assert dns.message.from_wire(told).flags & dns.flags.TC
    assert (
        not dns.message.from_wire(
            response_to(message.to_wire(), parsed(message), relayed(message, more=300), 65_535)
        ).flags
        & dns.flags.TC
    )


def test_a_sent_query_lasts_no_longer_than_its_answer() -> None:
    async def test() -> None:
        server = Server()
        async with root_servers(server) as (relay, _):
            await relay.ask(asked(query()))
            wait_until(lambda: not relay._asking, "nobody is asked any more", 1)

    run(test)
