"""The safety of `python -m bench load`, and its engines against the real server."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cli import main
from bench.engine_socket import SocketEngine, bins_of
from bench.engine_tcp import TcpEngine
from bench.load import BINS, Load, Target, bin_of, nanoseconds_of
from bench.mix import Mix
from bench.offer import CannotLoad, NotOurs, Order
from bench.peers import Peer, nsd
from tests.needs import REPOSITORY

ROOT_ZONE = """\
. 86400 IN SOA a.root-servers.net. nstld.example. 1 1800 900 604800 86400
. 518400 IN NS a.root-servers.net.
a.root-servers.net. 518400 IN A 192.0.2.4
com. 172800 IN NS ns.com.
net. 172800 IN NS ns.com.
ns.com. 172800 IN A 192.0.2.5
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    workdir = tmp_path_factory.mktemp("nsd")
    (workdir / "root.zone").write_text(ROOT_ZONE)
    with nsd.serve({".": workdir / "root.zone"}, workdir) as peer:
        yield peer


@pytest.mark.parametrize("target", ["192.0.2.1", "2001:db8::1", "8.8.8.8", "0.0.0.0"])
def test_refuses_to_load_what_is_not_declared_to_be_ones_own(target: str) -> None:
    with pytest.raises(NotOurs, match="--i-own-this-target"):
        Order(targets=(target,)).check()
    assert Order(targets=(target,), owned=True).check().port == 53


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (Order(targets=("localhost",)), "'localhost' is not an IP address"),
        (Order(targets=("127.0.0.1", "127.0.0.2")), "one address per family"),
        (Order(targets=("127.0.0.1",), seconds=0), "--seconds"),
        (Order(targets=("127.0.0.1",), seconds=1e9), "--seconds"),
        (Order(targets=("127.0.0.1",), rate=1e9), "--rate"),
        (Order(targets=("127.0.0.1",), rate=0), "--rate"),
        (Order(targets=("127.0.0.1",), rate=float("nan")), "--rate"),
        (Order(targets=("127.0.0.1",), port=0), "--port"),
        (Order(targets=("127.0.0.1",), port=65_536), "--port"),
        (Order(targets=("127.0.0.1",), packets=10), "needs a --rate"),
        (Order(targets=("127.0.0.1",), engine="kernel", interface="lo"), "loopback takes no frames"),
        (Order(targets=("192.0.2.1",), engine="kernel", owned=True), "needs --interface"),
    ],
)
def test_an_impossible_order_is_refused_with_its_option(order: Order, said: str) -> None:
    with pytest.raises(CannotLoad, match=said):
        order.check()


def test_the_command_says_why_and_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "--target", "192.0.2.1", "--rate", "1"]) == 2
    assert "--i-own-this-target" in capsys.readouterr().err


def test_the_number_of_packets_bounds_the_time() -> None:
    assert Order(targets=("127.0.0.1",), rate=1000, seconds=60, packets=500).bounded_seconds == 0.5


@given(st.integers(1, 1 << 40))
def test_bins_are_the_same_for_one_and_for_many_and_true_to_their_width(nanoseconds: int) -> None:
    number = bin_of(nanoseconds)

    assert bins_of(numpy.array([nanoseconds]))[0] == number
    assert 0 <= number < BINS
    assert nanoseconds_of(number) == pytest.approx(nanoseconds, rel=0.07)


def test_quantiles_come_from_the_histogram() -> None:
    latency = [0] * BINS
    latency[bin_of(1_000)], latency[bin_of(1_000_000)] = 98, 2

    load = Load(1.0, None, 100, 100, 0, latency=latency)

    assert load.latency_at(0.5) == pytest.approx(1e-6, rel=0.07)
    assert load.latency_at(0.99) == pytest.approx(1e-3, rel=0.07)


def test_udp_queries_are_answered_paced_and_judged(server: Peer) -> None:
    queries = [query for query in Mix.read().queries(["com"], 2000, seed=1) if not query.tcp]
    engine = SocketEngine(queries, Target(server.address, None, server.port))
    try:
        assert None not in engine.reference()
        load = engine.run(2000, 0.5)
    finally:
        engine.close()

    assert load.sent == load.answered + load.lost
    assert load.answered > 100
    assert load.offered_rate <= 2100
    assert load.wrong == {}
    assert set(load.rcodes) >= {0, 3}
    assert load.latency_at(0.5) > 0


def test_a_wrong_rcode_and_size_are_counted(server: Peer) -> None:
    from dataclasses import replace

    mix = Mix.read().only("nxdomain").with_edns(cookie=0.0)
    queries = [replace(query, rcode=0) for query in mix.queries(["com"], 50) if not query.tcp]
    engine = SocketEngine(queries, Target(server.address, None, server.port))
    try:
        engine.reference()
        engine._sizes += 1
        load = engine.run(500, 0.2)
    finally:
        engine.close()

    assert load.answered > 0
    assert load.wrong == {"rcode": load.answered, "size": load.answered}


@pytest.mark.parametrize(
    ("window", "persistent"), [(16, True), (1, True), (1, False)], ids=["pipelined", "one outstanding", "one each"]
)
def test_tcp_queries_are_answered(server: Peer, window: int, persistent: bool) -> None:
    queries = Mix.read().queries(["com"], 2000, seed=1)
    engine = TcpEngine(
        queries, Target(server.address, None, server.port), connections=4, window=window, persistent=persistent
    )
    try:
        load = engine.run(None, 0.3)
    finally:
        engine.close()

    assert load.sent == load.answered + load.lost
    assert load.answered > 20
    assert load.wrong == {}
    assert load.truncated == 0


def test_silence_is_loss(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        queries = [query for query in Mix.read().queries(["com"], 200) if not query.tcp and query.family == 4]
        engine = SocketEngine(queries, Target("127.0.0.1", None, silent.getsockname()[1]))
        try:
            load = engine.run(1000, 0.2)
        finally:
            engine.close()

    assert load.sent == load.lost > 50
    assert load.answered == 0


def test_who_asks_everything_once_does_not_wait_for_one_that_is_never_answered() -> None:
    queries = [query for query in Mix.read().queries(["com"], 100) if not query.tcp and query.family == 4]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        engine = SocketEngine(queries, Target("127.0.0.1", None, silent.getsockname()[1]))
        try:
            assert set(engine.reference(seconds=3600.0)) == {None}  # who waited would be here for an hour
        finally:
            engine.close()


def test_a_response_that_comes_too_late_is_lost_and_not_wrong() -> None:
    queries = [query for query in Mix.read().queries(["com"], 4000) if not query.tcp and query.family == 4]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
        late.bind(("127.0.0.1", 0))
        late.settimeout(20)

        def answer_the_first_when_they_were_given_up() -> None:
            # 512 are outstanding at most: who sends the 600th has given up the first.
            seen = [late.recvfrom(4096) for _ in range(600)]
            for octets, source in seen[:100]:
                late.sendto(octets[:2] + bytes([octets[2] | 0x80]) + octets[3:], source)

        server = threading.Thread(target=answer_the_first_when_they_were_given_up)
        server.start()
        engine = SocketEngine(queries, Target("127.0.0.1", None, late.getsockname()[1]))
        try:
            load = engine.run(None, 1.0)
        finally:
            engine.close()
            server.join()

    assert load.sent == load.lost >= 600
    assert load.wrong == {}


def test_the_command_loads_a_server_on_loopback(server: Peer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "load", "--target", server.address, "--port", str(server.port),
         "--rate", "500", "--seconds", "0.5", "--count", "500"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "answered" in done.stdout
    assert "p99" in done.stdout
