"""14,000 connections a second that ask nothing, in a network of their own: who asks late is answered, and so is UDP."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import flood
from bench.network import enter
from rootsrv.process.descriptors import raise_limit
from tests.network import network
from tests.server.live import Instance, serving


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """In a network where a prefix of IPv6 is local, too."""
    raise_limit()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with network() as made:
            host = made.host("rate")
            host.ip("-6", "route", "add", "local", flood.LOCAL_IPV6, "dev", "lo")
            enter(f"/run/netns/{host.name}")
            with serving(tmp_path) as serves:
                yield serves
            enter(f"/proc/self/fd/{home}")
    finally:
        enter(f"/proc/self/fd/{home}")
        os.close(home)


@pytest.mark.long
@pytest.mark.parametrize("both_families", [False, True], ids=["IPv4", "both families at once"])
def test_beside_14_000_connections_a_second_nobody_fails(instance: Instance, both_families: bool) -> None:
    """Clients 100 and 300 ms away: they wait that long between connecting and asking."""
    order = flood.Flood(port=instance.port, both_families=both_families)
    assert flood.refusal(order) == ""
    found = flood.run(order)
    print(flood.to_text(order, found))
    assert sum(found.asked.values()) >= 300
    assert sum(found.failed.values()) == 0, found.reasons
    assert found.datagrams_lost <= found.datagrams / 1000


@pytest.mark.parametrize("in_c", [True, False], ids=["in C", "in Python"])
def test_some_of_both_families_throw_out_no_client_of_either(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, in_c: bool
) -> None:
    if not in_c:
        monkeypatch.setattr(flood, "_opener", lambda order: flood._InPython(order, 10_000))
    order = flood.Flood(port=instance.port, both_families=True, rate=500, seconds=1.5, clients=16, waits=(0.1,))
    assert flood.refusal(order) == ""
    found = flood.run(order)
    assert found.failed == {}
    assert found.flooded > 300
    assert instance.status()["counters"]["tcp"]["accepted"] >= found.flooded
