"""The benchmark of a fleet: every simulated member watches, writes and hears; all fetch the zone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import fleet, zones


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> zones.Zones:
    return zones.generated(tmp_path_factory.mktemp("zones"), tlds=40)


def measure(served: zones.Zones, members: int, seconds: float, every: float) -> dict[str, Any]:
    result = fleet.run(served, members=members, seconds=seconds, every=every, transfers=members)
    engine, given = result["engine"], result["transfers"]
    assert engine["failures"] == 0
    assert engine["orders"] > 0
    assert engine["orders_not_heard_by_all"] == 0
    # Every write and every order was told to every member, and nothing else was.
    told = engine["events_per_second"] / members
    assert told == pytest.approx(engine["writes_per_second"] + engine["orders"] / engine["seconds"], rel=0.2)
    assert all(each > 0 for each in engine["node_cores"] + engine["node_memory_octets"])
    assert given["members"] == members
    assert given["octets"] > 1000
    assert given["host_processor_seconds"] > 0
    assert f"{members} AXFRs at once" in fleet.to_markdown(result)
    return result


def test_all_members_hear_all_that_is_written(served: zones.Zones) -> None:
    measure(served, 12, 2.5, 1.0)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_hundred_members_on_one_engine(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    result = measure(zones.generated(tmp_path), fleet.MEMBERS, 10.0, fleet.EVERY_SECONDS)
    engine, given = result["engine"], result["transfers"]
    told = (
        f"{fleet.MEMBERS} members: {engine['writes_per_second']:.0f} writes/s, p99 "
        f"{engine['put_milliseconds']['p99']:.0f} ms, an order has reached all after "
        f"{engine['order_milliseconds']['max']:.0f} ms at most; {max(engine['node_cores']):.2f} of a core and "
        f"{max(engine['node_memory_octets']) / 1e6:.0f} MB per node; all have the zone after {given['seconds']:.1f} s, "
        f"{given['host_processor_seconds']:.2f} s of the host's processor time"
    )
    record_property("measured", [told])
    assert max(engine["node_memory_octets"]) < 500e6
