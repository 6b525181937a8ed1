"""What is answered over TLS: the same as over TCP, to whoever speaks TLS 1.3."""

import contextlib
import itertools
import os
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import dns.edns
import dns.message
import pytest

from bench.peers.daemon import free_port
from tests.dot.client import Dot, client_context, query, write_certificate
from tests.framing import framed, receive
from tests.needs import require_tool
from tests.server.live import wait_until

NAMES = (".", "com.", "www.example.com.", "nosuchtld.", "x.nosuchtld.", "a.root-servers.net.", "root-servers.net.")
TYPES = ("SOA", "NS", "DS", "A", "DNSKEY", "ANY", "AXFR", "TXT")


def over_tcp(dot: Dot, octets: bytes) -> bytes:
    with dot.instance.connect() as connection:
        connection.sendall(octets)
        return receive(connection)


def test_every_answer_is_that_over_tcp_octet_for_octet(dot: Dot) -> None:
    options: tuple[dict[str, object], ...] = (
        {},
        {"use_edns": 0, "want_dnssec": True},
        {"use_edns": 0, "options": [dns.edns.GenericOption(3, b""), dns.edns.GenericOption(11, b"")]},
        {"use_edns": 1},
    )
    asked = [
        query(number, name, rtype, **more)
        for number, (name, rtype, more) in enumerate(itertools.product(NAMES, TYPES, options))
    ]
    asked += [framed(b"\x12\x34\x28\0\0\1" + bytes(6)), framed(b"\x12\x34\0\0\0\1" + bytes(6))]  # NOTIMP, FORMERR
    with dot.connect() as connection, dot.instance.connect() as plain:
        for each in asked:
            connection.sendall(each)
            plain.sendall(each)
            assert receive(connection) == receive(plain)


def test_padding_is_for_queries_that_have_some(dot: Dot) -> None:
    padding = dns.edns.GenericOption(12, bytes(20))
    with dot.connect() as connection:
        for name in NAMES:
            connection.sendall(query(1, name, "A", use_edns=0, options=[padding]) + query(2, name, "A", use_edns=0))
            padded, plain = receive(connection), receive(connection)
            assert len(padded) % 468 == 0
            assert plain == over_tcp(dot, query(2, name, "A", use_edns=0))
    assert len(over_tcp(dot, query(1, ".", "A", use_edns=0, options=[padding]))) % 468 != 0  # never without TLS


@pytest.mark.parametrize("amount", [16, 200, 2000])
def test_queries_in_one_record_are_all_answered(dot: Dot, amount: int) -> None:
    """In one write: some 300 fit one record, and OpenSSL has more of them at hand than was read at first."""
    with dot.connect() as connection:
        connection.sendall(b"".join(query(number, f"n{number}.example.", "A") for number in range(amount)))
        ids = [int.from_bytes(receive(connection)[:2], "big") for _ in range(amount)]
    assert ids == list(range(amount))


def test_many_that_ask_at_once_have_each_their_own_answer_whoever_resets(dot: Dot) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dot.connect()) for _ in range(24)]
        pid = dot.status()["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            for number, client in enumerate(clients):
                client.sendall(query(number, f"n{number}.example.", "A") * (1 + number % 3))
            clients[7].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            clients[7].close()
        finally:
            os.kill(pid, signal.SIGCONT)
        for number, client in enumerate(clients):
            if number != 7:
                for _ in range(1 + number % 3):
                    answer = dns.message.from_wire(receive(client))
                    assert (answer.id, str(answer.question[0].name)) == (number, f"n{number}.example.")
        assert dot.status()["pid"] == pid


def test_a_query_that_arrives_octet_by_octet_each_in_a_record_is_answered(dot: Dot) -> None:
    with dot.connect() as connection:
        for octet in query(7) + query(8):
            connection.send(bytes((octet,)))
        assert [receive(connection)[:2] for _ in range(2)] == [b"\0\7", b"\0\x08"]


@pytest.mark.parametrize("ends", ["close_notify", "FIN"])
def test_a_client_that_has_closed_its_half_still_gets_its_answers(dot: Dot, ends: str) -> None:
    """Whether it says so in TLS (RFC 8446 §6.1 closes one direction) or in TCP alone."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context().wrap_bio(incoming, outgoing)
    with dot.connect_plainly() as below:

        def step(do: Callable[[], object]) -> object:
            """Do something that may need more of what the server says."""
            while True:
                try:
                    return do()
                except ssl.SSLWantReadError:
                    if outgoing.pending:
                        below.sendall(outgoing.read())
                    incoming.write(below.recv(65_536))

        step(tls.do_handshake)
        tls.write(b"".join(query(number) for number in range(100)))
        if ends == "close_notify":
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.unwrap()
        below.sendall(outgoing.read())
        if ends == "FIN":
            below.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while more := step(lambda: tls.read(65_536)):
                assert isinstance(more, bytes)
                received += more
    one = over_tcp(dot, query(1))
    assert len(received) == 100 * (2 + len(one))
    assert received.count(one[2:]) == 100


def test_the_first_answer_does_not_wait_for_anything(dot: Dot) -> None:
    """Without TCP_NODELAY it waits for a delayed acknowledgement, 40 ms."""
    best = 1.0
    for _ in range(5):
        with dot.connect() as connection:
            began = time.monotonic()
            connection.sendall(query(1))
            receive(connection)
            best = min(best, time.monotonic() - began)
    assert best < 0.03


@pytest.mark.parametrize(("offered", "chosen"), [((), None), (("dot",), "dot"), (("h2", "dot"), "dot")])
def test_dot_is_chosen_and_an_absent_offer_is_taken(dot: Dot, offered: tuple[str, ...], chosen: str | None) -> None:
    with dot.connect(context=client_context(*offered)) as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == chosen
        connection.sendall(query(3))
        assert receive(connection)[:2] == b"\0\3"


def test_a_wrong_protocol_is_refused_with_its_alert(dot: Dot) -> None:
    before = dot.counted("wrong-protocol")
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        dot.connect(context=client_context("h2", "do", "dotx"))
    wait_until(lambda: dot.counted("wrong-protocol") == before + 1, "it is counted")


def test_older_versions_are_refused(dot: Dot) -> None:
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        dot.connect(context=context)


def openssl(dot: Dot, *options: str, sent: str = "") -> str:
    command = [require_tool("openssl"), "s_client", "-connect", f"127.0.0.1:{dot.port}", *options]
    done = subprocess.run(command, input=sent, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("groups", "chosen"), [("X25519:P-256", "X25519"), ("P-521:P-256:X25519", "X25519"), ("P-256", "prime256v1")]
)
def test_x25519_comes_first_and_others_are_taken(dot: Dot, groups: str, chosen: str) -> None:
    """Also if a client has sent a share of none that we have, and is asked again."""
    found = openssl(dot, "-groups", groups)
    # OpenSSL 3.0 says Server, 3.5 says Peer.
    assert chosen in next(line for line in found.splitlines() if line.startswith(("Server Temp Key", "Peer Temp Key")))


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_no_session_can_be_resumed_and_trying_to_is_no_harm(dot: Dot, tmp_path: Path) -> None:
    """Nor are early data taken (RFC 8446 §4.2.10): whoever sends some anyway is answered as anybody else."""
    certificate, key = write_certificate(tmp_path, "elsewhere")
    session = tmp_path / "session"
    early = tmp_path / "early"
    early.write_bytes(query(1))
    port = free_port()
    # A ticket with early data, from another server.
    elsewhere = subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificate, "-key", key, "-early_data",
         "-quiet"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-sess_out", str(session)]
        wait_until(lambda: _is_taken(port), "the other server")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as one:
            wait_until(lambda: session.exists() and session.stat().st_size > 0, "a session")
            one.kill()
    finally:
        elsewhere.kill()
        elsewhere.communicate()

    before = dot.counted("handshakes")
    found = openssl(dot, "-sess_in", str(session), "-early_data", str(early))
    assert "Early data was rejected" in found
    assert "\nNew, TLSv1.3" in found
    assert dot.counted("handshakes") == before + 1
    context = client_context()
    with dot.connect(context=context) as connection:
        connection.sendall(query(1))
        receive(connection)
        assert not connection.session.has_ticket


def test_kdig_and_dnsperf_are_answered(dot: Dot, tmp_path: Path) -> None:
    kdig = [require_tool("kdig"), "+tls", "+padding", "+dnssec", "@127.0.0.1", "-p", str(dot.port), "nosuch.", "A"]
    said = subprocess.run(kdig, capture_output=True, text=True, timeout=20, check=True).stdout
    assert "status: NXDOMAIN" in said
    assert int(said.split(";; Received ")[1].split()[0]) % 468 == 0
    (tmp_path / "queries").write_text("com. A\nnosuch. A\n. SOA\n")
    dnsperf = [require_tool("dnsperf"), "-m", "dot", "-s", "127.0.0.1", "-p", str(dot.port), "-d",
               str(tmp_path / "queries"), "-n", "200", "-c", "4", "-q", "32"]  # fmt: skip
    said = subprocess.run(dnsperf, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Queries completed:    600 (100.00%)" in said


def test_over_ipv6_too(dot: Dot) -> None:
    with dot.connect("::1") as connection:
        connection.sendall(query(1))
        assert dns.message.from_wire(receive(connection)).answer
