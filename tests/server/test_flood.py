"""Connections that ask nothing, by the thousand, beside clients that wait a round trip between connecting and asking.

Time is told in connections: what a client 300 ms away lives through is that so many others come before it asks.
"""

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import pytest

from bench.network import enter
from rootsrv.process.descriptors import raise_limit
from rootsrv.server.tcp import BUSY_SECONDS
from tests.needs import REPOSITORY, require_tool
from tests.network import network
from tests.server.live import Instance, serving, wait_until
from tests.server.test_tcp import counted, is_answered, query, receive

SLOTS = 300
FARM = 100
CLIENTS = 30

_FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}  # linux/in.h, in6.h


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A worker with few slots, in a network where every address of two prefixes is a client's."""
    raise_limit()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, home)
        host = stack.enter_context(network()).host("flood")
        host.ip("route", "add", "local", "10.0.0.0/8", "dev", "lo")
        host.ip("-6", "route", "add", "local", "2001:d00::/24", "dev", "lo")
        enter(f"/run/netns/{host.name}")
        stack.callback(enter, f"/proc/self/fd/{home}")
        yield stack.enter_context(
            serving(
                tmp_path_factory.mktemp("flooded"),
                service=f"tcp_max_connections = {SLOTS}\ntcp_max_connections_per_client = {SLOTS}"
                "\ntcp_idle_seconds = 60",
            )
        )


@pytest.fixture(autouse=True)
def nobody_is_left_behind(instance: Instance) -> Iterator[None]:
    yield
    wait_until(lambda: counted(instance, "open") == 0, "all connections closed", 20)


def connect(instance: Instance, source: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.settimeout(5)
    connection.setsockopt(*_FREEBIND[family], 1)
    connection.bind((source, 0))
    connection.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", instance.port))
    return connection


Flood = Callable[[Sequence[str], int], None]


@pytest.fixture
def flood(instance: Instance) -> Iterator[Flood]:
    """Opens so many connections from some sources in turn, until they were accepted."""
    with contextlib.ExitStack() as stack:

        def come(sources: Sequence[str], count: int) -> None:
            before = counted(instance, "accepted")
            for source in islice(cycle(sources), count):
                stack.enter_context(connect(instance, source))
            wait_until(lambda: counted(instance, "accepted") >= before + count, "the flood is in")

        yield come


@pytest.fixture
def farm(instance: Instance) -> Iterator[list[socket.socket]]:
    """A resolver farm, busy on many connections from one prefix."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(instance, f"10.9.9.{n % 9 + 1}")) for n in range(FARM)]
        assert all(map(is_answered, connections))
        yield connections


def v4(count: int, form: str) -> list[str]:
    return [form.format(number >> 8, number & 255) for number in range(count)]


@pytest.mark.parametrize(
    ("attackers", "clients"),
    [
        ([f"10.66.{n % 8}.{n // 8 + 1}" for n in range(200)], v4(CLIENTS, "10.20.{1}.1")),
        ([f"2001:db8:{n:x}::1" for n in range(200)], [f"2001:db9:{n:x}::1" for n in range(CLIENTS)]),
        ([f"2001:db8:1:{n:x}00::1" for n in range(200)], [f"2001:db8:{n + 2:x}::1" for n in range(CLIENTS)]),
        ([f"2001:db8:1:{n:x}::1" for n in range(200)], [f"2001:db8:1:{n + 2:x}00::1" for n in range(CLIENTS)]),
        ([f"2001:db8:{n:x}::1" for n in range(4000)], [f"2001:db9:{n:x}::1" for n in range(CLIENTS)]),
        (
            [f"2001:db8:{n % 16:x}:{n // 16:x}00::1" for n in range(4000)],
            [f"2001:db8:{n + 16:x}::1" for n in range(CLIENTS)],
        ),
        (["10.66.6.6"], [f"2001:db9:0:{n:x}00::1" for n in range(CLIENTS // 2)] + v4(CLIENTS // 2, "10.20.{1}.1")),
    ],
    ids=[
        "200 addresses in eight /24", "another /32", "another /48 of the same /32", "another /56 of the same /48",
        "a /48 each of another /32", "a /56 each in sixteen /48 of the same /32",
        "one address, with as many connections as it may have",
    ],
)  # fmt: skip
def test_a_flood_from_elsewhere_throws_out_no_client_that_is_about_to_ask(
    instance: Instance, flood: Flood, farm: list[socket.socket], attackers: list[str], clients: list[str]
) -> None:
    flood(attackers, SLOTS)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(instance, source)) for source in clients]
        flood(attackers, 3 * SLOTS)
        assert all(map(is_answered, waiting))
        assert all(map(is_answered, farm))


@pytest.mark.parametrize(
    ("attackers", "clients"),
    [
        (v4(4000, "10.{0}.{1}.1"), v4(2 * CLIENTS, "10.200.{1}.1")),
        (
            [f"2001:db8:{n:x}::1" for n in range(4000)],
            [f"2001:db8:{n:x}::1" for n in range(0x2000, 0x2000 + 2 * CLIENTS)],
        ),
    ],
    ids=["an IPv4 /24 each", "a /48 each of the clients' own IPv6 /32"],
)
def test_a_flood_from_everywhere_throws_out_nobody_before_as_many_have_come_as_there_are_slots(
    instance: Instance, flood: Flood, farm: list[socket.socket], attackers: list[str], clients: list[str]
) -> None:
    """A connection from each of many prefixes: nothing tells them from clients, and the oldest goes."""
    flood(attackers, SLOTS)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(instance, each)) for each in clients[:CLIENTS]]
        flood(attackers[SLOTS:], SLOTS - FARM - CLIENTS)
        assert all(map(is_answered, waiting))
        late = [stack.enter_context(connect(instance, each)) for each in clients[CLIENTS:]]
        flood(attackers[2 * SLOTS :], 2 * SLOTS)
        assert not any(map(is_answered, late))
        assert all(map(is_answered, farm))


def test_a_client_among_attackers_is_served_while_fewer_come_than_there_are_slots(
    instance: Instance, flood: Flood, farm: list[socket.socket]
) -> None:
    attackers = [f"10.66.6.{n}" for n in range(1, 200)]
    flood(attackers, SLOTS)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(instance, f"10.66.6.{200 + n}")) for n in range(CLIENTS)]
        flood(attackers, SLOTS - FARM - CLIENTS - 1)
        assert all(map(is_answered, waiting))
        assert all(map(is_answered, farm))


def test_when_all_have_asked_the_one_idle_longest_goes(instance: Instance, flood: Flood) -> None:
    with contextlib.ExitStack() as stack:
        asked = [stack.enter_context(connect(instance, f"10.9.{n % 90}.1")) for n in range(SLOTS)]
        assert all(map(is_answered, asked))
        assert is_answered(asked[0])
        flood(["10.66.6.6"], 1)
        assert [is_answered(asked[n]) for n in (0, 1, 2)] == [True, False, True]
        let_be_idle()
        flood(["10.66.6.6"], SLOTS)  # of which a quarter of all stay at a time
        kept = sum(map(is_answered, asked))
        assert kept == SLOTS - SLOTS // 4


def test_a_farm_that_asks_keeps_its_places_also_where_it_has_nearly_all_of_them(
    instance: Instance, flood: Flood
) -> None:
    """Newcomers are fewer than their share, and yet nobody goes for them who has asked a moment ago."""
    for _ in range(20):
        with contextlib.ExitStack() as stack:
            busy = [stack.enter_context(connect(instance, f"10.9.{n % 90}.1")) for n in range(SLOTS - 10)]
            assert all(map(is_answered, busy))
            began = time.monotonic()
            for each in busy:
                each.sendall(query())
            flood(["10.66.6.6"], 20)
            if time.monotonic() < began + BUSY_SECONDS:
                assert all(receive(each) for each in busy)
                return
    pytest.fail("they were never asked for so quickly")


def let_be_idle() -> None:
    """All who have asked so far are idle afterwards."""
    asked = time.monotonic()
    wait_until(lambda: time.monotonic() > asked + 2 * BUSY_SECONDS, "who has asked to be idle")


@pytest.mark.parametrize("form", ["10.{0}.{1}.1", "2001:d{0:02x}:{1:x}::1"], ids=["IPv4", "IPv6"])
def test_who_asks_once_and_then_holds_its_place_throws_out_nobody_who_is_about_to_ask(
    instance: Instance, farm: list[socket.socket], form: str
) -> None:
    """Connections that have asked take all places, and then more of them come, as many as there are places."""
    attackers = v4(2 * SLOTS, form)
    with contextlib.ExitStack() as stack:

        def come(sources: Sequence[str]) -> None:
            for number, source in enumerate(sources):
                if not number % (SLOTS // 5):
                    assert all(map(is_answered, farm)), "it asks now and then"
                assert is_answered(stack.enter_context(connect(instance, source)))

        come(attackers[:SLOTS])
        let_be_idle()
        waiting = [stack.enter_context(connect(instance, source)) for source in v4(CLIENTS, "10.200.{1}.1")]
        for at in range(SLOTS, 2 * SLOTS, SLOTS // 3):
            come(attackers[at : at + SLOTS // 3])
            let_be_idle()
        assert all(map(is_answered, waiting))


def test_the_command_of_the_guide_says_who_holds_the_connections(instance: Instance, flood: Flood) -> None:
    require_tool("ss")
    guide = (REPOSITORY / "docs" / "under-attack.md").read_text()
    command = re.search(r"(?m)^    ss (?:.*\n    )*.*$", guide)
    assert command
    flood([f"10.66.6.{n}" for n in range(1, 8)], 7)
    flood(["2001:db8:1::1"], 3)
    there = command[0].replace(":53", f":{instance.port}")
    said = subprocess.run(there, shell=True, capture_output=True, text=True, timeout=60, check=True).stdout
    assert [line.split() for line in said.splitlines()] == [["3", "[2001:db8:1::1]"], ["7", "10.66.6.0/24"]]


@pytest.mark.parametrize(("open_files", "possible"), [(128, 64), (256, 128), (1024, 568)])
def test_a_worker_keeps_as_many_connections_as_it_may_have_open_files(
    tmp_path: Path, open_files: int, possible: int
) -> None:
    """RLIMIT_NOFILE is raised to the hard limit; where that is not enough, a reserve stays and the log says so."""
    limits = f"--nofile=64:{open_files}"
    with serving(tmp_path, by=("prlimit", limits)) as limited, contextlib.ExitStack() as stack:
        wait_until(lambda: f"possible={possible} open_files={open_files}" in limited.log, "the worker has told")
        for number in range(2 * possible):
            stack.enter_context(limited.connect(source=f"127.0.{number // 90}.1"))
        wait_until(lambda: counted(limited, "accepted") == 2 * possible, "all are accepted")
        assert counted(limited, "open") == possible
        assert limited.ask(".", "SOA", tcp=True).answer
