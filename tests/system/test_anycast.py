"""The route follows the service: two real instances, a real router, a real client (design D30–D36)."""

from collections.abc import Iterator

import pytest

from tests.system.anycast_network import VERSIONS, Anycast, anycast_network


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anycast]:
    with anycast_network(tmp_path_factory.mktemp("anycast")) as made:
        yield made


def test_traffic_goes_to_the_first_instance_while_both_are_up(net: Anycast) -> None:
    for version in VERSIONS:
        assert net.gateway(version) == net.a.gateway(version)
