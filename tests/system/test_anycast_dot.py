"""DNS over TLS that is down, whatever the way, is probed, reported and an alarm, and no route of a router changes."""

import contextlib
import datetime
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.network import enter
from rootsrv.anycast.dot_watch import AGAIN_SECONDS, POLL_SECONDS, TIMEOUT_SECONDS
from rootsrv.page.layout import TLS_SLOT
from tests.dot.client import client_context, query, write_certificate
from tests.framing import receive
from tests.network import Host
from tests.server.live import wait_until
from tests.system.anycast_network import SERVICE, VERSIONS, Anycast, Site, anycast_network

SEEN_SECONDS = 4 * (POLL_SECONDS + AGAIN_SECONDS + 2 * TIMEOUT_SECONDS)
REPLACED = f"alarm: worker replaced slot={TLS_SLOT}"
PORT = 853
EXPIRES = datetime.timedelta(seconds=60)


@contextlib.contextmanager
def inside(host: Host) -> Iterator[None]:
    """This thread is in the network namespace of *host* until the block ends."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(f"/run/netns/{host.name}")
        yield
    finally:
        enter(f"/proc/self/fd/{home}")
        os.close(home)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anycast]:
    """a has a certificate that will not last; at b somebody else has the port."""
    directory = tmp_path_factory.mktemp("dot")
    with anycast_network(directory, started=False) as made, contextlib.ExitStack() as stack:
        with inside(made.b.host):
            other = stack.enter_context(socket.create_server(("0.0.0.0", PORT)))
        for site in (made.a, made.b):
            certificate, key = write_certificate(site.directory, "dot", ends=EXPIRES)
            site.configure(more=f'[dot]\nport = {PORT}\ncertificate = "{certificate}"\nkey = "{key}"\n')
            site.start()
        for site in (made.a, made.b):
            site.await_state("up", 90)
        made.occupant = other  # type: ignore[attr-defined]
        yield made


def alarms(site: Site) -> list[str]:
    """Those about DNS over TLS, of both IP versions."""
    told = [alarm for version in VERSIONS for alarm in site.family(version).get("alarms", [])]
    return [each for each in told if each.startswith("DNS over TLS")]


def is_alarmed(site: Site) -> bool:
    return all(any(f"DNS over TLS {SERVICE[version]}: " in each for each in alarms(site)) for version in VERSIONS)


def is_well(site: Site) -> bool:
    return bool(site.ask("serve", {"command": "status"})["dot"]["ready"]) and not alarms(site)


def answers(site: Site) -> bool:
    """Whether a client of it that authenticates nobody is answered."""
    with (
        inside(site.host),
        contextlib.suppress(OSError, EOFError),
        socket.create_connection((SERVICE[4], PORT), 5) as plain,
        client_context("dot").wrap_socket(plain) as connection,
    ):
        connection.sendall(query())
        return bool(receive(connection))
    return False


@contextlib.contextmanager
def each_new_one(site: Site, number: signal.Signals) -> Iterator[list[int]]:
    """Each process of DNS over TLS gets the signal as soon as it answers, until the block ends; which have got it."""
    met: list[int] = []
    over = threading.Event()

    def follow() -> None:
        while not over.wait(0.05):
            with contextlib.suppress(OSError, ValueError, AssertionError):
                told = site.ask("serve", {"command": "status"})["dot"]
                if told["ready"] and told["pid"] not in met:
                    os.kill(told["pid"], number)
                    met.append(told["pid"])

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield met
    finally:
        over.set()
        thread.join()


def nothing_moved(net: Anycast, start: float) -> None:
    assert [change for change in net.watch.changes if change.at >= start] == []
    for site in (net.a, net.b):
        assert site.is_in("up")


def wait(condition: Callable[[], object], what: str, site: Site, seconds: float = SEEN_SECONDS) -> None:
    try:
        wait_until(condition, what, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {alarms(site)}\n{site.log[-3000:]}") from None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_process_that_is_killed_or_hangs_again_and_again_is_replaced(net: Anycast, number: signal.Signals) -> None:
    wait(lambda: is_well(net.a), "well", net.a)
    start, replaced = time.time(), net.a.log.count(REPLACED)
    with each_new_one(net.a, number) as met:
        for _ in range(3):
            amount = len(met)
            wait(lambda amount=amount: len(met) > amount, "another one", net.a)  # type: ignore[misc]
            answers(net.a)  # one that hangs is replaced as soon as somebody waits
    assert net.a.log.count(REPLACED) >= replaced + 2
    wait(lambda: is_well(net.a), "well again", net.a)
    assert answers(net.a)
    nothing_moved(net, start)


def test_a_port_that_somebody_else_has_and_gives_up(net: Anycast) -> None:
    start = time.time()
    wait(lambda: is_alarmed(net.b), "an alarm", net.b)
    assert net.b.ask("serve", {"command": "status"})["dot"]["listening"] is False
    net.occupant.close()  # type: ignore[attr-defined]
    wait(lambda: is_well(net.b), "well", net.b)
    assert answers(net.b)
    nothing_moved(net, start)


def test_a_certificate_that_has_expired_is_an_alarm_and_who_authenticates_nobody_is_answered(net: Anycast) -> None:
    start = time.time()

    def left() -> int:
        return int(net.a.ask("serve", {"command": "status"})["dot"]["certificate_expires_seconds"])

    wait(lambda: left() < 0, "expired", net.a, EXPIRES.total_seconds() + 10)
    assert "certificate expires soon" in net.a.log
    assert net.a.rootsrv("reload", check=False).count("expired")
    assert answers(net.a)
    wait(lambda: is_well(net.a), "well", net.a)
    certificate, _ = write_certificate(net.a.directory, "dot")
    assert Path(certificate).exists()
    net.a.rootsrv("reload")
    assert left() > EXPIRES.total_seconds()
    assert answers(net.a)
    nothing_moved(net, start)
