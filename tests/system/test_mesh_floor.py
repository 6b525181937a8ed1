"""The floor, with real routers: of two instances that want to go only one does, and whoever loses touch comes back."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bench.peers.etcd import Cluster, cluster
from tests.mesh.fleets import section
from tests.mesh.mesh_of import QUICK, SERVICE, mesh_of
from tests.server.live import wait_until
from tests.system.anycast_network import VERSIONS, Anycast, Site, address, anycast_network

TOKEN = QUICK.token


@dataclass
class Floor:
    """Two of four members, a and b, with k = 1."""

    net: Anycast
    engine: Cluster

    def routes(self, site: Site) -> set[str]:
        """What is announced of both IP versions."""
        return {str(site.family(version).get("route")) for version in VERSIONS}

    def await_route(self, site: Site, *routes: str, seconds: float = 40.0) -> None:
        """Until both IP versions are announced as one of *routes*."""
        wait_until(
            lambda: self.routes(site) <= set(routes), f"{routes}: {self.routes(site)}\n{site.log[-3000:]}", seconds
        )


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Floor]:
    directory = tmp_path_factory.mktemp("floor")
    with anycast_network(directory, workers=1) as net:
        at = address(1, 2, 4)  # on the router, which both reach
        with cluster(directory / "engine", clients=["member"], address=at, prefix=tuple(net.router.prefix)) as engine:
            mesh = mesh_of(4, timing=QUICK)
            for site, name in ((net.a, "m0"), (net.b, "m1")):
                site.stop()
                site.configure(workers=1, more=section(mesh, name, site.directory, engine))
                site.start()
            for site in (net.a, net.b):
                site.await_state("up", 90)
                wait_until(lambda site=site: site.ask("mesh", {"command": "status"})["engine"]["there"], "engine", 30)
            yield Floor(net, engine)


def test_of_two_drains_one_waits_for_the_token_of_the_other(floor: Floor) -> None:
    a, b = floor.net.a, floor.net.b
    a.rootsrv("drain", "--reason", "disk")
    floor.await_route(a, "draining", "withdrawn")
    assert floor.routes(b) == {"up"}
    told = b.rootsrv("drain", "--reason", "kernel")
    floor.await_route(b, "degraded")
    wait_until(lambda: "is held by m0: disk" in b.rootsrv("status"), told)
    floor.await_route(a, "withdrawn")
    assert floor.routes(b) == {"degraded"}

    a.rootsrv("undrain")
    floor.await_route(a, "up")
    floor.await_route(b, "withdrawn")
    b.rootsrv("undrain")
    floor.await_route(b, "up")


def test_whoever_holds_a_token_and_loses_the_engine_is_announced_before_the_token_is_free(
    floor: Floor, measured: list[str]
) -> None:
    a = floor.net.a
    a.rootsrv("drain")
    floor.await_route(a, "withdrawn")
    began = time.time()
    floor.engine.nodes[0].freeze()
    try:
        # The router goes on with b, which is not degraded: what counts is that the prefix is there again.
        a.await_state("degraded", TOKEN + 5)
        took = time.time() - began
        measured.append(f"token holder cut off: announced again after {took:.2f} s, free after {TOKEN:g} s")
        assert took < TOKEN
    finally:
        floor.engine.nodes[0].thaw()
    a.rootsrv("undrain")
    floor.await_route(a, "up")


def test_a_deleted_token_brings_its_holder_back(floor: Floor) -> None:
    a = floor.net.a
    a.rootsrv("drain")
    floor.await_route(a, "withdrawn")
    floor.engine.ctl("del", f"/rootsrv/v1/{SERVICE}/floor/all/0", client="member")
    floor.await_route(a, "degraded", seconds=TOKEN + 5)
    assert "token lost" in a.log
    a.rootsrv("undrain")
    floor.await_route(a, "up")


def test_without_an_engine_a_drain_degrades_a_hard_failure_withdraws_and_force_does_without(floor: Floor) -> None:
    a, b = floor.net.a, floor.net.b
    floor.engine.nodes[0].freeze()
    try:
        wait_until(lambda: not a.ask("mesh", {"command": "status"})["engine"]["there"], "gone", 30)
        a.rootsrv("drain")
        floor.await_route(a, "degraded")
        assert "the engine is gone" in a.rootsrv("status")
        with b.stopped("serve", "worker"):
            floor.await_route(b, "withdrawn")
        a.rootsrv("drain", "--force")
        floor.await_route(a, "draining", "withdrawn")
        assert re.search(r"control by=.*drain.*force\W+true", a.log, re.IGNORECASE)
    finally:
        floor.engine.nodes[0].thaw()
