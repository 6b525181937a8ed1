"""Clients that mean no good, and what befalls the process: others are answered."""

import contextlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import pytest

from bench.peers.daemon import free_port
from bench.processes import memory_octets
from rootsrv.dot.connection import HANDSHAKE_SECONDS
from rootsrv.page.layout import TLS_SLOT
from tests.control.asking import ask
from tests.dot.client import Dot, client_context, query, serving_dot, shown_name, write_certificate
from tests.framing import receive
from tests.needs import require_tool
from tests.server.live import SERIALS, serving, wait_until


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dot]:
    """One with few places, and an end for the idle that can be waited for."""
    with serving_dot(tmp_path_factory.mktemp("small"), "connections = 40\nidle_seconds = 4.0") as made:
        yield made


def client_hello() -> bytes:
    """The first flight of a client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context().wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def is_answered(dot: Dot) -> bool:
    with dot.connect() as connection:
        connection.sendall(query(1))
        return receive(connection)[:2] == b"\0\1"


def is_over(connection: socket.socket, seconds: float) -> bool:
    """Whether the server ends *connection* within *seconds*, whatever it sends before."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


GARBAGE = {
    "DNS without TLS": query(1),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "zeros": bytes(600),
    "a record that is too long": b"\x16\x03\x01\xff\xff" + bytes(500),
    "an alert first": b"\x15\x03\x03\0\2\2\x28",
    "application data first": b"\x17\x03\x03\0\x20" + bytes(32),
    "TLS 1.0 in SSLv2's frame": b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(40),
}


@pytest.mark.parametrize("octets", GARBAGE.values(), ids=GARBAGE)
def test_garbage_ends_the_connection_and_nothing_else(dot: Dot, octets: bytes) -> None:
    before = dot.counted("failed")
    with dot.connect_plainly() as connection:
        connection.sendall(octets)
        assert is_over(connection, 5)
    wait_until(lambda: dot.counted("failed") == before + 1, "it is counted")
    assert is_answered(dot)


def test_garbage_behind_the_handshake_ends_the_connection(dot: Dot) -> None:
    for octets in (b"\x17\x03\x03\0\x20" + bytes(32), client_hello(), bytes(100)):
        with dot.connect() as connection:
            with socket.socket(fileno=os.dup(connection.fileno())) as below:
                below.sendall(octets)
                assert is_over(below, 5)
    assert is_answered(dot)


def test_new_keys_by_the_dozen_harm_nobody(dot: Dot) -> None:
    """KeyUpdate is what TLS 1.3 has in place of renegotiation; each asks for one of ours (RFC 8446 §4.6.3)."""
    command = [require_tool("openssl"), "s_client", "-connect", f"127.0.0.1:{dot.port}"]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert client.stdin is not None
    try:
        before = dot.counted("handshakes")
        for _ in range(50):
            client.stdin.write(b"K\n")
            client.stdin.flush()
        client.stdin.write(b"R\n")  # renegotiation: there is none in TLS 1.3
        client.stdin.flush()
        wait_until(lambda: dot.counted("handshakes") == before + 1, "it is there")
        assert is_answered(dot)
    finally:
        client.kill()
        client.communicate()
    assert is_answered(dot)


def test_half_handshakes_take_nobodys_place_and_end_in_time(small: Dot) -> None:
    """More than there are places, from one prefix: who asks keeps its own, and who comes from elsewhere gets one."""
    hello = client_hello()
    late, another = small.counted("late"), small.counted("closed-for-another")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        asking = stack.enter_context(small.connect(source="127.0.9.1"))
        asking.sendall(query(1))
        assert receive(asking)[:2] == b"\0\1"
        for number in range(120):
            half = stack.enter_context(small.connect_plainly(source=f"127.0.7.{1 + number % 20}"))
            half.sendall(hello[: (0, 1, 5, 100, len(hello))[number % 5]])
            if number % 20 == 0:
                asking.sendall(query(number))
                assert receive(asking)[:2] == number.to_bytes(2, "big")
        with small.connect(source="127.0.8.1") as other:
            other.sendall(query(9))
            assert receive(other)[:2] == b"\0\x09"
        assert small.counted("closed-for-another") >= another + 70
        wait_until(lambda: small.counted("open") <= 2, "half handshakes are over", HANDSHAKE_SECONDS + 5)
        assert time.monotonic() - began < HANDSHAKE_SECONDS + 5
        assert small.counted("late") > late


def test_who_has_shaken_hands_stays_longer_than_half_handshakes_that_came_before(small: Dot) -> None:
    """A connection from each of many prefixes; what a handshake has cost is not given away for one that never ends."""
    hello = client_hello()

    def flood(numbers: range) -> None:
        before = small.counted("accepted")
        for number in numbers:
            stack.enter_context(small.connect_plainly(source=f"127.66.{number}.1")).sendall(hello)
        wait_until(lambda: small.counted("accepted") >= before + len(numbers), "the flood is in")

    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(small.connect_plainly(source="127.65.0.1"))
        flood(range(25))
        client = stack.enter_context(client_context().wrap_socket(plain, server_hostname="localhost"))
        flood(range(25, 55))
        client.sendall(query(3))
        assert receive(client)[:2] == b"\0\3"


def test_an_idle_connection_is_closed_politely(small: Dot) -> None:
    before = small.counted("closed-idle")
    with small.connect(suppress_ragged_eofs=False) as connection:
        connection.sendall(query(1))
        receive(connection)
        assert connection.recv(10) == b""  # SSLEOFError without a close_notify
    assert small.counted("closed-idle") == before + 1


def test_a_client_that_does_not_read_is_not_read_from_and_gets_all_in_the_end(dot: Dot) -> None:
    amount = 6000
    queries = b"".join(query(number, f"n{number}.example.", "A", want_dnssec=True) for number in range(amount))
    with dot.connect() as connection:
        connection.settimeout(10)
        sent = 0
        connection.setblocking(False)
        deadline = time.monotonic() + 2
        while sent < len(queries) and time.monotonic() < deadline:
            try:
                sent += connection.send(queries[sent : sent + 16_000])
            except ssl.SSLWantWriteError:
                assert is_answered(dot)
        connection.setblocking(True)
        connection.settimeout(10)
        rest = threading.Thread(target=lambda: connection.sendall(queries[sent:])) if sent < len(queries) else None
        if rest is not None:
            rest.start()
        ids = [int.from_bytes(receive(connection)[:2], "big") for _ in range(amount)]
        if rest is not None:
            rest.join()
    assert ids == list(range(amount))


def test_a_reset_at_any_moment_harms_nobody(dot: Dot) -> None:
    hello = client_hello()
    for number in range(60):
        connection = dot.connect_plainly() if number % 2 else dot.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(hello if number % 2 else query(1) * 20)
        connection.close()
    assert is_answered(dot)
    assert dot.status()["replaced"] == 0


def resident_kilobytes(dot: Dot) -> int:
    return memory_octets(dot.status()["pid"], "VmRSS") // 1024


def test_memory_of_sessions_is_given_back(dot: Dot) -> None:
    found = []
    for _ in range(2):
        assert all(is_answered(dot) for _ in range(200))
        found.append(resident_kilobytes(dot))
    assert found[1] - found[0] < 400, found  # a session has some 20 kB: 200 of them 4 MB


@pytest.mark.long
def test_ten_thousand_handshakes_leave_nothing_behind(dot: Dot) -> None:
    hello = client_hello()
    found = []
    for _ in range(11):
        for number in range(1000):
            if number % 10:
                assert is_answered(dot)
            else:
                with dot.connect_plainly() as half:
                    half.sendall(hello)
        found.append(resident_kilobytes(dot))
    assert found[-1] - found[0] < 1000, found


def test_a_switchover_in_the_middle_mixes_nothing(tmp_path: Path) -> None:
    with serving_dot(tmp_path) as dot, dot.connect() as connection:
        serials = []
        page = dot.instance.page
        page.staged = 2
        for number in range(400):
            if number == 100:
                wait_until(lambda: page.worker(TLS_SLOT).staged == 2, "the next generation is mapped")
                page.active = 2
            connection.sendall(query(number) * 4)
            for _ in range(4):
                message = dns.message.from_wire(receive(connection))
                serials.append(message.answer[0][0].serial)
            if number > 100 and serials[-1] == SERIALS[1]:
                break
        assert set(serials) == set(SERIALS)
        assert serials == sorted(serials)
        assert all(len(set(serials[at : at + 4])) == 1 for at in range(0, len(serials), 4))
        assert dot.status()["active"] == 2


def test_a_process_that_is_killed_comes_again_and_takes_nothing_else_with_it(tmp_path: Path) -> None:
    with serving_dot(tmp_path) as dot:
        workers, first = dot.instance.worker_pids(), dot.status()["pid"]
        for _ in range(2):
            pid = dot.status()["pid"]
            os.kill(pid, signal.SIGKILL)
            assert dot.instance.ask(".", "SOA").answer
            assert dot.instance.ask(".", "SOA", tcp=True).answer
            wait_until(lambda pid=pid: dot.status()["ready"] and dot.status()["pid"] != pid, "another one")
            assert is_answered(dot)
        assert dot.status()["replaced"] == 2
        told = dot.instance.status()["replaced_by"]
        assert (told["dot"]["ended"], sum(told["dot"].values()), sum(told["worker"].values())) == (2, 2, 0)
        assert dot.status()["pid"] != first
        assert dot.instance.worker_pids() == workers
        assert dot.instance.status()["workers_replaced"] == 0


def test_one_that_hangs_is_replaced_and_status_and_metrics_say_why(tmp_path: Path) -> None:
    with serving_dot(tmp_path) as dot:
        pid = dot.status()["pid"]
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: dot.status()["pid"] not in {0, pid}, "replaced", 30)
        told = dot.instance.status()["replaced_by"]
        assert told["dot"] == {"ended": 0, "never-up": 0, "hung": 1, "behind": 0, "page": 0}
        assert sum(told["worker"].values()) == 0


def test_a_process_that_stays_behind_is_replaced(tmp_path: Path) -> None:
    """Its table cannot be had any more: no switchover waits for it, so the parent does."""
    with serving_dot(tmp_path) as dot:
        pid = dot.status()["pid"]
        (tmp_path / "state" / "tables" / "2.table").rename(tmp_path / "away")
        dot.instance.page.active = 2
        wait_until(lambda: dot.status()["pid"] not in {0, pid}, "replaced", 20)
        assert "did not switch to generation 2" in dot.instance.log
        assert dot.instance.status()["replaced_by"]["dot"]["behind"] == 1
        (tmp_path / "away").rename(tmp_path / "state" / "tables" / "2.table")
        wait_until(lambda: dot.status()["active"] == 2, "it answers from the active generation", 20)


def test_a_port_that_is_taken_is_waited_for_and_dns_is_answered(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as other:
        with serving(tmp_path, service=f"[dot]\nport = {port}\n") as instance:
            assert instance.ask(".", "SOA").answer
            wait_until(lambda: f"127.0.0.1 port {port} (TCP): the port is in use" in instance.log, "an alarm")
            assert instance.status()["dot"]["listening"] is False
            other.close()
            wait_until(lambda: instance.status()["dot"]["ready"], "it has the port", 30)
            assert is_answered(Dot(instance, port))


def test_a_certificate_is_reloaded_without_ending_a_connection_and_a_bad_one_is_not(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "first")
    with serving_dot(tmp_path, f'certificate = "{certificate.name}"\nkey = "{key.name}"') as dot, dot.connect() as old:
        pid = dot.status()["pid"]
        assert shown_name(old) == "first"
        second = write_certificate(tmp_path, "second")
        second[0].replace(certificate)
        # One at a time: between the two they are no pair, and the old one stays.
        assert "is not the key of" in reload(dot)
        with dot.connect() as connection:
            assert shown_name(connection) == "first"
        assert "is not the key of" in dot.status()["certificate_problem"]
        second[1].replace(key)
        assert reload(dot) == ""

        def name_now() -> str:
            with dot.connect() as connection:
                return shown_name(connection)

        wait_until(lambda: name_now() == "second", "newcomers are shown the new one")
        old.sendall(query(5))
        assert receive(old)[:2] == b"\0\5"
        assert dot.status()["certificate_problem"] == ""
        assert dot.status()["pid"] == pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: dot.status()["ready"] and dot.status()["pid"] != pid, "another one")
        assert name_now() == "second"


def reload(dot: Dot) -> str:
    """What `rootsrv reload` tells serve; why the old certificate stays."""
    told = ask(dot.instance.directory / "run" / "serve.sock", "reload")
    assert told["ok"]
    return str(told.get("certificate_problem", ""))


def test_handshakes_are_charged_to_their_source_by_time(tmp_path: Path) -> None:
    limits = '[limits]\nmode = "on"\nhandshake_milliseconds = 2\nburst_seconds = 1\nipv4_multipliers = [1, 1, 1, 1]\n'
    with serving_dot(tmp_path, more=limits) as dot:
        taken = 0
        for _ in range(60):
            try:
                dot.connect(source="127.0.5.1").close()
                taken += 1
            except (OSError, ssl.SSLError):
                break
        assert 1 <= taken < 60
        wait_until(lambda: dot.counted("refused") >= 1, "it is counted")
        assert dot.counted("microseconds") > 0
        with dot.connect():  # our own addresses are exempt: the probe's
            pass


def test_a_long_chain_is_shown_by_this_process_and_the_next_and_keeps_no_order_away(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "first")
    with serving_dot(tmp_path, f'certificate = "{certificate.name}"\nkey = "{key.name}"') as dot:
        certificate.write_bytes(certificate.read_bytes() * 200)  # 90 kB of PEM
        assert reload(dot) == ""
        pid = dot.status()["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: dot.status()["ready"] and dot.status()["pid"] != pid, "another one")
        assert is_answered(dot)
        second = write_certificate(tmp_path, "second")
        second[0].replace(certificate)
        second[1].replace(key)
        assert reload(dot) == ""

        def name_now() -> str:
            with dot.connect() as connection:
                return shown_name(connection)

        wait_until(lambda: name_now() == "second", "it follows")
