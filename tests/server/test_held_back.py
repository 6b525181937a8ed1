"""An IPv6 address that duplicate address detection holds back: the other family is served, and it when it comes."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.process import held_back
from tests.needs import require_tool
from tests.network import Host, network
from tests.server import live
from tests.server.live import put_zones, start, wait_until

SERVICE = {4: "192.0.2.53", 6: "2001:db8::53"}
ADMIN = "2001:db8::5"
WIRE = "wire"
CONFIGURATION = """
[service]
addresses = ["192.0.2.53", "2001:db8::53"]
port = 53
workers = 1
[admin]
addresses = ["2001:db8::5"]
"""


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    require_tool("dig")
    with network() as made:
        server, client = made.host("server"), made.host("client")
        made.link(server, client, WIRE, (("192.0.2.53/24", "192.0.2.7/24"), ("2001:db8::1/64", "2001:db8::7/64")))
        yield server, client


def hold_back(server: Host, client: Host, how: str) -> None:
    if how == "tentative":  # for three minutes; a switch comes for interfaces that have none of their own
        server.run("sysctl", "-qw", f"net.ipv6.conf.{WIRE}.dad_transmits=180")
    for address in (SERVICE[6], ADMIN):
        if how == "dadfailed":
            client.ip("address", "add", f"{address}/64", "dev", WIRE, "nodad")
        server.ip("address", "add", f"{address}/64", "dev", WIRE)
    wait_until(lambda: server.ip("-o", "address", "show", "dev", WIRE, how).count("2001:db8::5") == 2, f"is {how}")


def let_come(server: Host, client: Host, how: str) -> None:
    for address in (SERVICE[6], ADMIN):
        if how == "dadfailed":
            client.ip("address", "del", f"{address}/64", "dev", WIRE)
        server.ip("address", "del", f"{address}/64", "dev", WIRE)
        server.ip("address", "add", f"{address}/64", "dev", WIRE, *(["nodad"] if how == "tentative" else []))


def ask(client: Host, address: str, *more: str) -> str:
    return client.run("dig", "+norec", "+short", "+tries=1", "+time=2", *more, f"@{address}", ".", "SOA", check=False)


@pytest.mark.parametrize("how", ["tentative", "dadfailed"])
def test_the_other_family_is_served_and_the_address_taken_up_when_it_comes(
    tmp_path: Path, pair: tuple[Host, Host], how: str
) -> None:
    server, client = pair
    hold_back(server, client, how)
    path = tmp_path / "rootsrv.toml"
    path.write_text(CONFIGURATION + put_zones(tmp_path))
    running = start(path, 53, 1, by=server.prefix)
    try:
        wait_until(lambda: running.is_ready() or running.process.poll() is not None, "ready")
        pids = running.worker_pids()
        assert ask(client, SERVICE[4]).startswith("a.root-servers.net."), running.log
        for what, address in (("service", SERVICE[6]), ("administrative", ADMIN)):
            held = f'{what} address held back address={address} reason="duplicate address detection '
            wait_until(lambda held=held: held in running.log, held)
        assert f"({how})" in running.log

        let_come(server, client, how)

        for transport in ((), ("+tcp",)):
            wait_until(lambda more=transport: "a.root-servers.net." in ask(client, SERVICE[6], *more), "it answers")
        told = client.run("dig", "+tries=1", "+time=2", "+tcp", f"@{ADMIN}", ".", "SOA", check=False)
        assert "status: REFUSED" in told  # the client is no peer; but it is heard
        wait_until(lambda: f"service address has come address={SERVICE[6]}" in running.log, "told")
        assert running.worker_pids() == pids
    finally:
        running.stop()


def test_ipv6_that_is_switched_off_leaves_ipv4_answered_and_is_served_when_it_is_back(
    tmp_path: Path, pair: tuple[Host, Host]
) -> None:
    server, client = pair
    server.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    path = tmp_path / "rootsrv.toml"
    path.write_text(CONFIGURATION + put_zones(tmp_path))
    running = start(path, 53, 1, by=server.prefix)
    try:
        wait_until(lambda: running.is_ready() or running.process.poll() is not None, "ready")
        pids = running.worker_pids()
        assert ask(client, SERVICE[4]).startswith("a.root-servers.net."), running.log
        wait_until(lambda: 'reason="IPv6 is switched off on this host"' in running.log, "told")

        server.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")
        for address in ("2001:db8::1", SERVICE[6]):
            server.ip("address", "add", f"{address}/64", "dev", WIRE, "nodad")

        for transport in ((), ("+tcp",)):
            wait_until(lambda more=transport: "a.root-servers.net." in ask(client, SERVICE[6], *more), "it answers")
        assert running.worker_pids() == pids
    finally:
        running.stop()


def test_a_kernel_without_ipv6_leaves_ipv4_answered(tmp_path: Path) -> None:
    library = tmp_path / "no_ipv6.so"
    source = Path(__file__).with_name("no_ipv6.c")
    subprocess.run([require_tool("clang"), "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    with live.running(tmp_path, environment={"LD_PRELOAD": str(library)}) as instance:
        assert instance.ask(".", "SOA").answer
        assert instance.ask(".", "SOA", tcp=True).answer


def test_an_address_of_nobody_is_refused_as_ever(tmp_path: Path, pair: tuple[Host, Host]) -> None:
    server, _ = pair
    path = tmp_path / "rootsrv.toml"
    path.write_text(CONFIGURATION + put_zones(tmp_path))
    running = start(path, 53, 1, by=server.prefix, role="serve")

    assert running.process.wait(30) == 1
    assert "2001:db8::53 port 53 (UDP): the address is not on this host" in running.log


def test_no_ipv4_address_and_no_ordinary_one_is_held_back() -> None:
    assert [held_back.why(each) for each in ("127.0.0.1", "192.0.2.1", "::1", "2001:db8::99", "fe80::1%lo")] == [""] * 5
