"""A service that fails again and again does not make its route do so (RFC 4786 §4.4.1)."""

import time
from pathlib import Path

import pytest

from tests.system.anycast_network import VERSIONS, anycast_network


@pytest.mark.long
def test_a_fault_every_two_seconds_for_two_minutes_changes_the_route_at_most_three_times(
    tmp_path: Path, measured: list[str]
) -> None:
    with anycast_network(tmp_path, hold_down="", workers=1) as net:
        net.rest()
        start = time.time()
        while time.time() < start + 120:
            with net.a.dropping("ip daddr 192.0.2.53", "ip6 daddr 2001:db8::53"):
                time.sleep(1.5 if int(time.time() - start) % 3 else 3.0)
            time.sleep(0.5)
        for version in VERSIONS:
            changes = [change.gateway for change in net.watch.since(start, version)]
            measured.append(f"flapping service: IPv{version} route changed {len(changes)} times (bound 3)")
            assert 1 <= len(changes) <= 3
