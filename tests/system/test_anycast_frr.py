"""The same with FRR at the provider: what it makes of our attributes and of our ways to go."""

from collections.abc import Iterator

import pytest

from tests.server.live import wait_until
from tests.system.anycast_network import PREFIX, VERSIONS, Anycast, anycast_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anycast]:
    with anycast_network(tmp_path_factory.mktemp("frr"), router="frr") as made:
        yield made


@pytest.fixture
def net(network: Anycast) -> Anycast:
    network.rest()
    return network


def test_a_drain_moves_traffic_while_both_announce_and_loses_nothing(net: Anycast, measured: list[str]) -> None:
    load = net.load()
    net.a.rootsrv("drain", "--reason", "new line card")
    for version in VERSIONS:
        wait_until(lambda version=version: net.gateway(version) == net.b.gateway(version), "traffic moves")
    seen = net.router_says(f"show bgp ipv4 unicast {PREFIX[4]}")
    assert "graceful-shutdown" in seen.lower()
    assert "localpref 0" in seen
    net.a.await_state("drained", 20)
    net.loses_nothing(load, measured, "FRR, drain")
    net.a.rootsrv("undrain")


@pytest.mark.parametrize(("roles", "bound"), [(("serve", "worker"), 3.0), (("run",), 4.0)])
def test_a_dead_service_and_a_dead_instance_lose_their_route(
    net: Anycast, roles: tuple[str, ...], bound: float, measured: list[str]
) -> None:
    with net.a.stopped(*roles) as start:
        for version in VERSIONS:
            took = net.watch.await_gateway(net.b.gateway(version), start, version, bound + 3)
            measured.append(f"FRR, {roles[0]} stopped: IPv{version} traffic moved after {took:.2f} s (bound {bound} s)")
            assert took <= bound
