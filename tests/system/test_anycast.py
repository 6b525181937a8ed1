"""The route follows the service: two real instances, a real router, a real client (design D30–D36).

Every row of the policy table (rootsrv/health/evidence.py) and every way to die; what is asserted is the router's view.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from tests.server.live import wait_until, zone_files
from tests.system.anycast_network import PREFIX, SERVICE, VERSIONS, Anycast, Site, anycast_network, nsd_on

SERVICE_DEAD_SECONDS = 3.0
LEASE_SECONDS = 3.0 + 1.0
AT_ONCE_SECONDS = 1.0 + 0.5 + 1.0  # one interval, one round of probes, and BGP on a busy machine


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anycast]:
    with anycast_network(tmp_path_factory.mktemp("anycast")) as made:
        yield made


@pytest.fixture
def net(network: Anycast) -> Anycast:
    network.rest()
    return network


def moves_to_b(
    net: Anycast, start: float, bound: float, measured: list[str], what: str, versions: tuple[int, ...] = VERSIONS
) -> None:
    """The router sends *versions* to b within *bound* seconds of *start*."""
    for version in versions:
        took = net.watch.await_gateway(net.b.gateway(version), start, version, bound + 3)
        measured.append(f"{what}: IPv{version} traffic moved after {took:.2f} s (bound {bound:.1f} s)")
        assert took <= bound


def stays(net: Anycast, start: float, seconds: float) -> None:
    """No route of the router changes from *start* until *seconds* from now."""
    end = time.time() + seconds
    while time.time() < end:
        assert [change for change in net.watch.changes if change.at >= start] == []
        time.sleep(0.1)


def alarms(site: Site, version: int = 4) -> str:
    return "; ".join(site.family(version).get("alarms", []))


# ── what withdraws ──


def test_a_service_that_does_not_answer_is_withdrawn_and_comes_back(net: Anycast, measured: list[str]) -> None:
    with net.a.stopped("serve", "worker") as start:
        moves_to_b(net, start, SERVICE_DEAD_SECONDS, measured, "service stopped")
        assert "no answer to" in net.a.family(4)["reason"]
    net.a.await_state("up")


def test_a_dead_transport_is_withdrawn_for_its_ip_version_alone(net: Anycast, measured: list[str]) -> None:
    with net.a.dropping("ip daddr 192.0.2.53 tcp dport 53") as start:
        moves_to_b(net, start, SERVICE_DEAD_SECONDS, measured, "TCP dead, UDP answers", (4,))
    assert net.watch.since(start, 6) == []


def test_wrong_data_is_withdrawn_at_once(net: Anycast, tmp_path: Path, measured: list[str]) -> None:
    """Another server, with another zone, answers on the service addresses of this host."""
    with another_zone_on(net.a, tmp_path) as start:
        moves_to_b(net, start, AT_ONCE_SECONDS, measured, "wrong data")
        assert "wrong data to" in net.a.family(4)["reason"]
        changes = {(each["route"], each["reason"]): each["count"] for each in net.a.family(4)["changes"]}
        assert changes["withdrawn", "wrong_data"] == 1


def test_a_lease_that_is_over_is_withdrawn_and_a_new_one_heals(net: Anycast, measured: list[str]) -> None:
    with net.a.stopped("maintain"):  # which would renew it
        start = time.time()
        net.a.page.set_deadline(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        moves_to_b(net, start, AT_ONCE_SECONDS, measured, "lease over")
        assert "the root zone's lease is over" in net.a.family(4)["reason"]
    net.a.await_state("up")


def test_a_silenced_instance_is_withdrawn(net: Anycast, measured: list[str]) -> None:
    page = net.a.page
    with net.a.stopped("maintain"):  # it would find that the workers have what is active, and end the silence
        start = time.time()
        page.silenced = True
        try:
            moves_to_b(net, start, AT_ONCE_SECONDS, measured, "silenced (switchover failed)")
        finally:
            page.silenced = False


def test_a_service_address_that_is_not_on_this_host_is_withdrawn(net: Anycast, measured: list[str]) -> None:
    """The probes would be answered by the other instance, over the router; they are not sent."""
    start = time.time()
    net.a.host.ip("address", "del", f"{SERVICE[6]}/128", "dev", "lo")
    try:
        moves_to_b(net, start, SERVICE_DEAD_SECONDS, measured, "service address gone", (6,))
        assert "not on this host" in net.a.family(6)["reason"]
    finally:
        net.a.host.ip("address", "add", f"{SERVICE[6]}/128", "dev", "lo", "nodad")
    assert net.watch.since(start, 4) == []


# ── what must not ──


def test_neither_overload_nor_loss_nor_dead_workers_nor_a_dead_control_plane_move_traffic(net: Anycast) -> None:
    start = time.time()
    load = net.load()
    with net.a.stopped("maintain"), net.b.stopped("maintain"):
        with net.a.dropping("meta l4proto udp numgen random mod 2 == 0"):
            wait_until(lambda: "probes lost" in alarms(net.a), "loss is seen")
            stays(net, start, 3)
        with net.a.dropping("ip daddr 192.0.2.53 udp dport 53"):
            # Not one probe is answered, but the workers answer a thousand others meanwhile.
            wait_until(lambda: "overload" in alarms(net.a), "overload is seen")
            stays(net, start, 3)
        for site in (net.a, net.b):
            wait_until(lambda site=site: "maintain" in alarms(site), "the dead control plane is seen")
        net.a.await_state("up", 2)
        net.b.await_state("up", 2)
    assert [len(load.result()[str(version)]["lost"]) for version in VERSIONS] == [0, 0]

    os.kill(net.a.pids("worker")[0], signal.SIGKILL)
    stays(net, start, 1)


# ── every way to die ──


def test_a_controller_that_hangs_loses_its_route(net: Anycast, measured: list[str]) -> None:
    with net.a.stopped("advertise") as start:
        moves_to_b(net, start, LEASE_SECONDS, measured, "controller stopped")


def test_a_controller_that_is_killed_loses_its_route_and_its_successor_waits(net: Anycast, measured: list[str]) -> None:
    start = time.time()
    net.a.signal("advertise", signal.SIGKILL)
    moves_to_b(net, start, LEASE_SECONDS, measured, "controller killed, started again")
    net.a.await_state("up")
    assert net.a.family(4)["withdrawals"] > 0


def test_an_instance_that_hangs_as_a_whole_loses_its_route(net: Anycast, measured: list[str]) -> None:
    with net.a.stopped("run") as start:
        moves_to_b(net, start, LEASE_SECONDS, measured, "everything stopped")


def test_an_instance_that_is_killed_as_a_whole_loses_no_more_than_the_bounded_time(
    net: Anycast, measured: list[str]
) -> None:
    load = net.load()
    start = time.time()
    net.a.kill()
    moves_to_b(net, start, LEASE_SECONDS, measured, "everything killed")
    net.await_answers(net.b)
    for version, counts in load.result().items():
        measured.append(f"everything killed: IPv{version} lost {len(counts['lost'])} of {counts['sent']} queries")
        assert counts["lost"]
        assert max(counts["lost"]) <= start + LEASE_SECONDS
    net.a.start()


def test_workers_that_hang_or_die_are_replaced_and_cost_no_more_than_the_bounded_time(
    net: Anycast, measured: list[str]
) -> None:
    """Whoever is quicker: the parent, which replaces them, or the controller, which withdraws.

    While one of two is up already the site stays (policy), so what counts then is how long the host takes to start
    the other.
    """
    load = net.load()
    killed = time.time()
    old = set(net.a.pids("worker"))
    net.a.signal("worker", signal.SIGKILL)
    wait_until(lambda: not old & set(net.a.pids("worker")) and net.a.has_all_workers(), "both are replaced")
    hanging = set(net.a.pids("worker"))
    with net.a.stopped("worker") as stopped:
        wait_until(
            lambda: (
                all(net.gateway(version) == net.b.gateway(version) for version in VERSIONS)
                or (not hanging & set(net.a.pids("worker")) and net.a.has_all_workers())
            ),
            "the traffic has moved, or both are replaced",
        )
        net.await_answers(net.b if net.gateway(4) == net.b.gateway(4) else net.a)
    for version, counts in load.result().items():
        for what, since, until in (("killed", killed, stopped), ("stopped", stopped, stopped + 60)):
            lost = [at - since for at in counts["lost"] if since <= at < until]
            last = max(lost, default=0.0)
            measured.append(f"workers {what}: IPv{version} lost {len(lost)} queries, the last after {last:.2f} s")
            assert last <= 2 * SERVICE_DEAD_SECONDS


def test_bird_killed_stopped_and_started_again(net: Anycast, measured: list[str]) -> None:
    assert net.a.bird is not None
    start = time.time()
    os.kill(net.a.bird.pid, signal.SIGSTOP)
    try:
        moves_to_b(net, start, 1.0, measured, "BIRD stopped (BFD)")
        wait_until(lambda: "no reply" in net.a.family(4)["bird"], "the controller sees it")
    finally:
        os.kill(net.a.bird.pid, signal.SIGCONT)
    net.rest()

    start = time.time()
    net.a.restart_bird(down=lambda: moves_to_b(net, start, 1.0, measured, "BIRD killed"))
    net.rest()

    # A BIRD that starts while there is no service announces none.
    with net.a.stopped("serve", "worker"):
        moves_to_b(net, time.time(), SERVICE_DEAD_SECONDS + 1, [], "")
        net.a.restart_bird()
        start = time.time()
        wait_until(lambda: "Established" in net.a.bird_says("show", "protocols", "upstream4"), "BGP is back")
        stays(net, start, 1)


# ── the operator ──


def test_a_drain_loses_nothing_and_is_taken_back_by_undrain(net: Anycast, measured: list[str]) -> None:
    load = net.load()
    net.a.rootsrv("drain", "--reason", "new line card")
    wait_until(lambda: net.gateway(4) == net.b.gateway(4), "traffic moves")
    seen = net.router_says("show", "route", PREFIX[4], "all")
    assert "(65535,0)" in seen  # GRACEFUL_SHUTDOWN: a still announces
    net.a.await_state("drained", 20)
    wait_until(lambda: "(65535,0)" not in net.router_says("show", "route", PREFIX[4], "all"), "a is withdrawn")
    family = net.a.family(4)
    assert (family["announced"], family["reason"], family["order"]) == (False, "new line card", "drain")
    net.loses_nothing(load, measured, "drain")

    # The wish outlives the controller.
    net.a.signal("advertise", signal.SIGKILL)
    wait_until(lambda: net.a.family(4).get("state") == "drained", "drained again")
    assert "new line card" in net.a.rootsrv("status")
    net.a.rootsrv("undrain")
    net.a.await_state("up")


def test_withdraw_now_withdraws_now_one_ip_version_if_so_wished(
    net: Anycast, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(net.a.directory)
    start = time.time()
    # Here and not as a process of its own, whose start on a busy machine takes longer than all that follows.
    assert main(["withdraw", "--now", "--family", "6", "--reason", "emergency", "--config", "rootsrv.toml"]) == 0
    try:
        moves_to_b(net, start, AT_ONCE_SECONDS, measured, "rootsrv withdraw --now", (6,))
    finally:
        net.a.rootsrv("undrain")
    assert net.watch.since(start, 4) == []


def test_a_stop_withdraws_first_and_loses_nothing(net: Anycast, measured: list[str]) -> None:
    load = net.load()
    assert net.a.stop() == 0
    net.await_answers(net.b)
    net.loses_nothing(load, measured, "stop")
    assert SERVICE[4] not in net.a.host.ip("address", "show", "dev", "lo")  # it was rootsrv that had put it there
    net.a.start()


def test_the_neighbour_sees_where_a_local_instance_may_be_heard(net: Anycast) -> None:
    seen = net.router_says("show", "route", PREFIX[4], "all")
    assert seen.count("(65535,65281)") == 1  # NO_EXPORT on b, which is local, and not on a


@pytest.mark.parametrize("do", ["drop", "tc"])
def test_everything_is_shed_and_the_route_stays(net: Anycast, measured: list[str], do: str) -> None:
    """Probes come from our own service addresses, which no rule hits (docs/under-attack.md)."""
    load = net.load()
    start = time.time()
    order = {"match": ["qname-suffix=."], "do": do, "seconds": 60, "reason": "test", "really": True}
    place = net.a.ask("serve", {"command": "shed", **order})["made"]
    try:

        def hits() -> int:
            return int(next(each["hits"] for each in net.a.ask("serve", {"command": "sheds"})["rules"]))

        wait_until(lambda: hits() >= 1000, "the rule hits what clients ask")
        stays(net, start, SERVICE_DEAD_SECONDS + 1.5)
        assert net.a.is_in("up")
        told = "; ".join(alarms(net.a, version) for version in VERSIONS)
        assert "no answer" not in told
        assert "wrong data" not in told
        assert "qname-suffix=." in net.a.rootsrv("sheds")
    finally:
        net.a.ask("serve", {"command": "unshed", "rule": place})
        counts = load.result()
    for version, of in counts.items():
        measured.append(
            f"everything shed ({do}): IPv{version} {len(of['lost'])} of {of['sent']} queries without answer"
        )
        assert bool(of["lost"]) == (do == "drop")


def test_everybody_is_limited_and_the_route_stays(net: Anycast, measured: list[str]) -> None:
    """Nor do limits judge our own probes, over UDP and TCP, and TC is an answer."""
    load = net.load()
    start = time.time()
    try:
        with net.a.limiting_everybody() as limited:
            wait_until(lambda: limited() >= 1000, "the limits hit what clients ask")
            stays(net, start, SERVICE_DEAD_SECONDS + 1.5)
            assert net.a.is_in("up")
            told = "; ".join(alarms(net.a, version) for version in VERSIONS)
            assert "no answer" not in told
            assert "wrong data" not in told
    finally:
        counts = load.result()
    for version, of in counts.items():
        measured.append(f"everybody limited: IPv{version} {len(of['lost'])} of {of['sent']} queries without answer")
        assert not of["lost"]


@contextlib.contextmanager
def another_zone_on(site: Site, workdir: Path) -> Iterator[float]:
    """NSD serves another version of the zone on the site's host, and the site's own queries are led there."""
    with nsd_on(site.host, workdir, tuple(SERVICE.values()), 5353, zone_files().versions[1]):
        rules = "".join(
            f"add rule inet astray out {family} daddr {SERVICE[version]} {transport} dport 53 dnat {family} to "
            f"{SERVICE[version] if version == 4 else f'[{SERVICE[6]}]'}:5353;"
            for version, family in ((4, "ip"), (6, "ip6"))
            for transport in ("udp", "tcp")
        )
        chain = "add table inet astray; add chain inet astray out { type nat hook output priority -100; };"
        try:
            site.host.run("nft", chain + rules)
            yield time.time()
        finally:
            site.host.run("nft", "delete table inet astray", check=False)
