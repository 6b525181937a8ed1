"""DNS over TCP: RFC 7766, RFC 9210, and clients that mean no good."""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import dns.edns
import dns.message
import dns.rcode
import pytest

from bench.processes import memory_octets
from rootsrv.server import tcp
from rootsrv.server.connection import MAX_MESSAGE_OCTETS
from tests import framing
from tests.server.live import Instance, serving, wait_until

IDLE_SECONDS = 1.0


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that takes few connections, and few of one client."""
    service = f"tcp_max_connections = 6\ntcp_max_connections_per_client = 4\ntcp_idle_seconds = {IDLE_SECONDS}"
    with serving(tmp_path_factory.mktemp("limited"), service=service) as instance:
        yield instance


@pytest.fixture(autouse=True)
def nobody_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test begins and ends with no connection open."""
    yield
    for name in {"instance", "limited"} & set(request.fixturenames):
        served = request.getfixturevalue(name)
        wait_until(lambda served=served: counted(served, "open") == 0, "all connections closed", 20)


def counted(instance: Instance, name: str) -> int:
    tcp_counters: dict[str, int] = instance.status()["counters"]["tcp"]
    return tcp_counters[name]


def query(number: int = 1, name: str = ".", rtype: str = "SOA", **options: object) -> bytes:
    message = dns.message.make_query(name, rtype, **options)  # type: ignore[arg-type]
    message.id = number
    return framing.framed(message.to_wire())


def receive(connection: socket.socket) -> bytes | None:
    """The next message, or None at the end of the stream."""
    try:
        return framing.receive(connection)
    except EOFError:
        return None


def is_answered(connection: socket.socket) -> bool:
    """Whether it is there still, and a query on it gets a response."""
    try:
        connection.sendall(query())
        return receive(connection) is not None
    except OSError:
        return False


def is_closed(connection: socket.socket, seconds: float) -> bool:
    """Whether the server closes *connection* within *seconds*, sending nothing more."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_many_queries_in_one_segment_are_all_answered(instance: Instance) -> None:
    with instance.connect() as connection:
        connection.sendall(b"".join(query(number, f"n{number}.example.", "A") for number in range(500)))
        ids = [int.from_bytes((receive(connection) or b"")[:2], "big") for _ in range(500)]

    assert sorted(ids) == list(range(500))


def test_a_query_that_arrives_octet_by_octet_is_answered(instance: Instance) -> None:
    with instance.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in query(7) + query(8):
            connection.send(bytes((octet,)))
        assert [(receive(connection) or b"")[:2] for _ in range(2)] == [b"\0\7", b"\0\x08"]


def test_a_client_that_has_closed_its_half_still_gets_its_answers(instance: Instance) -> None:
    with instance.connect() as connection:
        connection.sendall(b"".join(query(number) for number in range(100)))
        connection.shutdown(socket.SHUT_WR)
        received = 0
        while receive(connection):
            received += 1

    assert received == 100


def test_keepalive_says_how_long_an_idle_connection_stays(limited: Instance) -> None:
    with limited.connect() as connection:
        connection.sendall(query(1, options=[dns.edns.GenericOption(11, b"")], use_edns=0))
        response = dns.message.from_wire(receive(connection) or b"")

    (keepalive,) = (option for option in response.options if option.otype == 11)
    assert keepalive.to_wire() == struct.pack("!H", round(IDLE_SECONDS * 10))


def test_an_idle_connection_is_closed_and_an_active_one_stays(limited: Instance) -> None:
    with limited.connect() as idle, limited.connect() as active:
        before = counted(limited, "closed-idle")
        for number in range(15):
            active.sendall(query(number))
            assert receive(active)
            time.sleep(IDLE_SECONDS / 8)
        assert is_closed(idle, 0.5)
        assert counted(limited, "closed-idle") == before + 1
        active.sendall(query(99))
        assert receive(active)


def test_over_the_limit_the_connection_idle_longest_goes(limited: Instance) -> None:
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(limited.connect()) for _ in range(3)]
        other = [stack.enter_context(limited.connect("::1")) for _ in range(3)]
        for number in (1, 2, 0):  # so that 1 of the first is the one idle longest, among those that asked …
            for connection in (other[number], first[number]):
                connection.sendall(query(number))
                assert receive(connection)
        newest = stack.enter_context(limited.connect())
        newest.sendall(query(5))
        assert receive(newest)

        assert is_closed(other[1], 0.5)
        first[1].sendall(query(6))
        assert receive(first[1])
    assert counted(limited, "closed-for-another") == 1


def test_a_client_over_its_own_limit_is_refused_and_others_are_not(limited: Instance) -> None:
    before = counted(limited, "refused-client-limit")
    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(limited.connect()) for _ in range(4)]
        for connection in mine:
            connection.sendall(query())
            assert receive(connection)
        with contextlib.suppress(ConnectionResetError):  # it may come before connect returns
            assert is_closed(stack.enter_context(limited.connect()), 2)
        other = stack.enter_context(limited.connect("::1"))
        other.sendall(query())
        assert receive(other)
    assert counted(limited, "refused-client-limit") == before + 1


def test_a_message_that_does_not_end_is_not_waited_for(instance: Instance) -> None:
    """Slow loris: an octet now and then keeps no connection alive."""
    message = query(1, "a.very.long.name.that.takes.a.while.example.", "A")
    began = time.monotonic()
    with instance.connect() as connection:
        for octet in message:
            try:
                connection.send(bytes((octet,)))
            except ConnectionError:
                break
            if is_closed(connection, 0.2):
                break
        assert is_closed(connection, 0.5)
    assert tcp.INCOMPLETE_SECONDS <= time.monotonic() - began < tcp.INCOMPLETE_SECONDS + 2
    assert counted(instance, "closed-incomplete") == 1


def send_until_nothing_is_taken(connections: list[socket.socket], octets: bytes) -> None:
    """Send *octets* on each connection until no more of them is taken for a while, or it is cut off."""
    sent = dict.fromkeys(connections, 0)
    quiet = 0
    while quiet < 6:
        quiet += 1
        for connection, at in sent.items():
            with contextlib.suppress(BlockingIOError, ConnectionError):
                sent[connection] = at + connection.send(octets[at : at + 65_536])
                quiet = 0
        time.sleep(0.05)


def test_a_client_that_never_reads_holds_little_memory_and_is_cut_off(instance: Instance) -> None:
    resident = resident_kilobytes(instance)
    with contextlib.ExitStack() as stack:
        greedy = [stack.enter_context(instance.connect()) for _ in range(50)]
        queries = b"".join(query(number, f"n{number}.example.", "A", want_dnssec=True) for number in range(400))
        for connection in greedy:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
        send_until_nothing_is_taken(greedy, queries * 200)
        assert instance.ask(".", "SOA", tcp=True).answer
        # Answered while they hold what they hold, and not since they were cut off.
        open_still, cut_off = counted(instance, "open"), counted(instance, "closed-stalled")
        assert open_still >= 50 - cut_off
        assert resident_kilobytes(instance) - resident < 50 * 150
        wait_until(lambda: counted(instance, "closed-stalled") == 50, "all cut off", tcp.STALLED_SECONDS + 5)


def resident_kilobytes(instance: Instance) -> int:
    (pid,) = instance.worker_pids()
    return memory_octets(pid, "VmRSS") // 1024


def test_what_was_asked_before_a_message_of_length_zero_is_answered_and_then_it_is_over(instance: Instance) -> None:
    before = counted(instance, "closed-empty")
    with instance.connect() as connection:
        connection.sendall(query(3) + b"\0\0")
        assert (receive(connection) or b"")[:2] == b"\0\3"
        assert is_closed(connection, 2)
    assert counted(instance, "closed-empty") == before + 1


def padded(number: int, size: int) -> bytes:
    """A query that one PADDING option (RFC 7830) makes *size* octets long."""
    padding = bytes(size - 12 - 5 - 11 - 4)
    head = struct.pack("!6H", number, 0, 1, 0, 0, 1) + b"\0\0\6\0\1"
    opt = struct.pack("!BHHIHHH", 0, 41, 1232, 0, 4 + len(padding), 12, len(padding))
    return framing.framed(head + opt + padding)


@pytest.mark.parametrize("size", [4096, 4097, 5000, 16_382, 16_383, MAX_MESSAGE_OCTETS])
def test_a_query_may_be_as_long_as_its_two_octets_of_length_can_say(instance: Instance, size: int) -> None:
    """RFC 1035 §4.2.2; what is pipelined before and behind it is answered as well."""
    message = padded(2, size)
    assert len(message) == 2 + size
    with instance.connect() as connection:
        connection.sendall(query(1) + message + query(3))
        for number in (1, 2, 3):
            response = dns.message.from_wire(receive(connection) or b"")
            assert (response.id, response.rcode()) == (number, dns.rcode.NOERROR)
            assert response.answer


def test_a_long_message_may_come_in_small_pieces(instance: Instance) -> None:
    octets = padded(5, 20_000) + query(6)
    with instance.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(octets), 97):
            connection.sendall(octets[at : at + 97])
        assert (receive(connection) or b"")[:2] == b"\0\5"
        assert (receive(connection) or b"")[:2] == b"\0\6"


def test_few_clients_at_a_time_hold_much_of_a_long_message(instance: Instance) -> None:
    before = counted(instance, "closed-oversized")
    surplus = 8
    with contextlib.ExitStack() as stack:
        patient = stack.enter_context(instance.connect())
        patient.sendall(query(7)[:-1])
        # By several addresses, since one may not have so many connections.
        for number in range(tcp.MAX_LONG + surplus):
            connection = stack.enter_context(instance.connect(source=f"127.0.3.{number % 4}"))
            connection.sendall(framing.framed(bytes(65_535))[:6_000])
        wait_until(lambda: counted(instance, "closed-oversized") == before + surplus, "the first ones are cut off", 4)
        patient.sendall(query(7)[-1:])
        assert (receive(patient) or b"")[:2] == b"\0\7"


def test_messages_without_a_response_do_not_end_the_connection(instance: Instance) -> None:
    response_bit_set = b"\0\1\x80\0" + bytes(8)
    with instance.connect() as connection:
        connection.sendall(framing.framed(b"x") + framing.framed(response_bit_set) + query(4))
        assert (receive(connection) or b"")[:2] == b"\0\4"


def test_a_transfer_is_refused(instance: Instance) -> None:
    with instance.connect() as connection:
        connection.sendall(query(1, ".", "AXFR"))
        assert dns.message.from_wire(receive(connection) or b"").rcode() == dns.rcode.REFUSED


def test_a_connection_reset_at_any_moment_harms_nobody(instance: Instance) -> None:
    before = instance.worker_pids()
    for _ in range(50):
        connection = instance.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(query() * 20)
        connection.close()

    assert instance.ask(".", "SOA", tcp=True).answer
    assert instance.worker_pids() == before
