"""14,000 connections a second that ask nothing, in a network of their own: who asks late is answered, and so is UDP."""

import os
from pathlib import Path

import pytest

from bench import flood
from bench.network import enter
from rootsrv.process.descriptors import raise_limit
from tests.network import network
from tests.server.live import serving


@pytest.mark.long
def test_beside_14_000_connections_a_second_nobody_fails(tmp_path: Path) -> None:
    """Clients 100 and 300 ms away: they wait that long between connecting and asking."""
    raise_limit()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with network() as made:
            enter(f"/run/netns/{made.host('rate').name}")
            with serving(tmp_path) as instance:
                order = flood.Flood(port=instance.port)
                assert flood.refusal(order) == ""
                found = flood.run(order)
            enter(f"/proc/self/fd/{home}")
    finally:
        enter(f"/proc/self/fd/{home}")
        os.close(home)
    print(flood.to_text(order, found))
    assert sum(found.asked.values()) >= 300
    assert sum(found.failed.values()) == 0, found.reasons
    assert found.datagrams_lost <= found.datagrams / 1000
