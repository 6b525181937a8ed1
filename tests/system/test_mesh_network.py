"""Six members with routers of their own: one set time, canaries first, and what is lost on the way silences nobody."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from rootsrv.secondary.membership import subject_of
from tests.mesh.mesh_of import QUICK, SERVICE
from tests.mesh.test_fleet import key_file
from tests.secondary.versions import FIRST
from tests.server.live import wait_until
from tests.system.mesh_network import (
    ADMIN_PORT,
    CANARIES,
    HOSTS,
    MEMBERS,
    STEADY,
    WAIT_SECONDS,
    MeshNetwork,
    break_tables,
    mesh_network,
    small_contents,
    spread_ms,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

EVERYBODY = {f"m{number}" for number in range(MEMBERS)}
OTHERS = EVERYBODY - set(CANARIES)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshNetwork]:
    """The tests follow each other, each with a newer serial."""
    with mesh_network(tmp_path_factory.mktemp("mesh"), FIRST, quota_octets=16 << 20) as made:
        yield made


@pytest.fixture(scope="module")
def serials() -> Iterator[int]:
    return iter(range(FIRST + 1, FIRST + 90))


@contextlib.contextmanager
def nobody_withdraws(net: MeshNetwork) -> Iterator[None]:
    """For the block; and the router has the routes of all in the end."""
    before = net.withdrawals()
    yield
    net.wait(lambda: net.announced() == EVERYBODY, lambda: f"all announced: {net.announced()}")
    assert net.withdrawals() == before
    assert not any(site.status()["silenced"] for site in net.members.values())


def test_an_update_goes_to_the_canaries_and_then_to_all_at_one_t(
    net: MeshNetwork, serials: Iterator[int], measured: list[str]
) -> None:
    serial = next(serials)
    with nobody_withdraws(net):
        net.publish(serial)
        net.wait_for_all(serial)
    flips = net.flips(serial)
    (canary,), (everybody,) = net.orders("canary", serial), net.orders("all", serial)
    assert everybody["at"] >= canary["at"] + QUICK.soak
    for at, names in ((canary["at"], set(CANARIES)), (everybody["at"], OTHERS)):
        late = {name: round(1000 * (flips[name] - at)) for name in sorted(names)}
        measured.append(f"update: {late} ms after T, spread {spread_ms(flips, names):.0f} ms")
        assert min(late.values()) >= 0
        assert spread_ms(flips, names) <= 50


def broken(net: MeshNetwork, names: Iterable[str]) -> None:
    """Have the workers of *names* unable to map what is staged there."""
    sites = [net.members[name] for name in names]
    generations = []
    for site in sites:
        turn = wait_until(
            lambda site=site: (
                (status := site.status())
                and status["switchover"]["state"] == "scheduled"
                and status["switchover"]["generation"]
            ),
            f"{site.name} has staged",
            WAIT_SECONDS,
        )
        generations.append(int(turn))
    break_tables(sites, generations)


def order(net: MeshNetwork, decision: str, serial: int, directory: Path) -> None:
    """As alice orders it at m0, of one that may be still to come."""
    where = ("--key", str(key_file(directory, "alice")), "--reason", "because")
    digest = subject_of(".", small_contents(serial)).digest
    assert decision in net.members["m0"].rootsrv("mesh", decision, str(serial), "--digest", digest, *where)


def published_and_held(net: MeshNetwork, serial: int, directory: Path) -> None:
    """All have staged it, and wait: nothing has to be done in time."""
    order(net, "hold", serial, directory)
    net.wait(lambda: all(f"decision=hold zone=. serial={serial}" in m.log for m in net.members.values()), "all heard")
    net.publish(serial)
    net.wait(lambda: all(f"serial={serial} activate_at=never" in m.log for m in net.members.values()), "all hold it")


STAYS = "no worker answers from generation"


def test_two_canaries_that_fail_void_the_serial_and_the_others_go_once_it_is_approved(
    net: MeshNetwork, serials: Iterator[int], tmp_path: Path
) -> None:
    serial, before = next(serials), net.serials()["m2"]
    with nobody_withdraws(net):
        published_and_held(net, serial, tmp_path)
        broken(net, CANARIES)
        order(net, "canary", serial, tmp_path)
        net.wait(lambda: all(STAYS in net.members[name].log for name in CANARIES), "the canaries stay")
        net.wait(lambda: "2 canaries failed" in net.members["m2"].log, "void")
        net.wait(lambda: set(net.serials().values()) == {before}, lambda: f"all go on: {net.serials()}")
        order(net, "approve", serial, tmp_path)
        net.wait(lambda: set(net.flips(serial)) >= OTHERS, lambda: f"the others: {net.flips(serial)}")
    # The next serial finds the canaries well again.
    serial = next(serials)
    with nobody_withdraws(net):
        net.publish(serial)
        net.wait_for_all(serial, 120)


def test_a_zone_that_breaks_every_members_workers_silences_and_withdraws_nobody(
    net: MeshNetwork, serials: Iterator[int], tmp_path: Path
) -> None:
    serial, before = next(serials), net.serials()["m2"]
    stayed = {name: site.log.count(STAYS) for name, site in net.members.items()}
    with nobody_withdraws(net):
        published_and_held(net, serial, tmp_path)
        broken(net, sorted(EVERYBODY))
        order(net, "approve", serial, tmp_path)  # and now everybody tries
        net.wait(lambda: all(site.log.count(STAYS) > stayed[name] for name, site in net.members.items()), "all stay")
        net.wait(lambda: {site.serial() for site in net.members.values()} == {before}, f"all answer {before}")
    serial = next(serials)
    with nobody_withdraws(net):
        net.publish(serial)
        net.wait_for_all(serial, 120)


def test_a_member_that_has_the_zone_late_goes_when_it_is_ready(
    net: MeshNetwork, serials: Iterator[int], measured: list[str]
) -> None:
    serial, late = next(serials), net.members["m3"]
    with nobody_withdraws(net):
        with late.cut_off(ADMIN_PORT):
            net.publish(serial)
            net.wait(lambda: set(net.flips(serial)) == EVERYBODY - {"m3"}, lambda: f"the others: {net.flips(serial)}")
        late.rootsrv("zone", "refresh")
        net.wait_for_all(serial)
    flips = net.flips(serial)
    measured.append(f"late member: {flips['m3'] - flips['m2']:.1f} s after the others")
    assert flips["m3"] > max(flips[name] for name in EVERYBODY - {"m3"})


REACHED = {"offered": {"offered", "canary", "ordered"}, "canary": {"canary", "ordered"}, "ordered": {"ordered"}}


def settle(net: MeshNetwork) -> None:
    """Somebody leads, and all are in touch with the engine."""
    net.wait(net.leader, "somebody leads")
    net.wait(lambda: all(net.ask(n).get("engine", {}).get("there") for n in net.living()), "engine there")


@pytest.mark.parametrize("step", REACHED)
def test_a_distribution_host_that_is_killed_at_any_state_holds_nobody_up(
    net: MeshNetwork, serials: Iterator[int], step: str, measured: list[str]
) -> None:
    serial = next(serials)
    settle(net)
    leader = net.leader()
    net.publish(serial)
    net.wait(lambda: net.stand(serial) in REACHED[step] | {"settled"}, lambda: f"{step}: {net.stand(serial)}")
    killed = net.members[leader]
    killed.kill()
    net.down.add(leader)
    try:
        net.wait_for_all(serial)
        flips = net.flips(serial)
        names = OTHERS - {leader}
        measured.append(f"host killed when {step}: the others within {spread_ms(flips, names):.0f} ms")
        assert net.announced() >= EVERYBODY - {leader}
    finally:
        net.down.discard(leader)
        killed.start()
    net.wait_for_all(serial, 90)
    killed.await_state("up", 90)


def kill_all(net: MeshNetwork) -> Callable[[], None]:
    for node in net.engine.nodes:
        node.kill()
    return lambda: [node.start(wait=False) for node in net.engine.nodes] and None


def freeze_all(net: MeshNetwork) -> Callable[[], None]:
    for node in net.engine.nodes:
        node.freeze()
    return lambda: [node.thaw() for node in net.engine.nodes] and None


def freeze_two(net: MeshNetwork) -> Callable[[], None]:
    """One is left, without a quorum."""
    for node in net.engine.nodes[:2]:
        node.freeze()
    return lambda: [node.thaw() for node in net.engine.nodes[:2]] and None


def cut_all(net: MeshNetwork) -> Callable[[], None]:
    """nft: nobody reaches any node, and no packet says so."""
    stack = contextlib.ExitStack()
    for site in net.members.values():
        stack.enter_context(site.cut_off(*(node.client_port for node in net.engine.nodes)))
    return stack.close


def fill_up(net: MeshNetwork) -> Callable[[], None]:
    """Until the quota is used up: NOSPACE, nothing can be written any more."""
    blob = "x" * 1_000_000
    for number in range(40):
        # By standard input: an argument may have 128 KiB.
        if "space exceeded" in net.engine.ctl("put", f"/fill/{number}", given=blob, check=False):
            break
    else:
        raise AssertionError("the quota is never used up")

    def heal() -> None:
        net.engine.ctl("del", "--prefix", "/fill/", check=False)
        revision = net.engine.ctl("endpoint", "status", "--write-out=json")
        newest = max(int(each) for each in re.findall(r'"revision":(\d+)', revision))
        net.engine.ctl("compact", str(newest), check=False)
        net.engine.ctl("defrag")
        net.engine.ctl("alarm", "disarm")

    return heal


def delete_all(net: MeshNetwork) -> Callable[[], None]:
    net.engine.ctl("del", "--prefix", f"/rootsrv/v1/{SERVICE}/", client="member")
    return lambda: None


@pytest.mark.parametrize("step", REACHED)
@pytest.mark.parametrize("fault", [kill_all, freeze_all, freeze_two, cut_all, fill_up, delete_all])
def test_without_the_engine_all_end_at_one_serial_by_one_t_or_its_multiple(
    net: MeshNetwork,
    serials: Iterator[int],
    fault: Callable[[MeshNetwork], Callable[[], None]],
    step: str,
    measured: list[str],
) -> None:
    serial = next(serials)
    settle(net)
    with nobody_withdraws(net):
        net.publish(serial)
        net.wait(lambda: net.stand(serial) in REACHED[step] | {"settled"}, lambda: f"{step}: {net.stand(serial)}")
        heal = fault(net)
        try:
            net.wait_for_all(serial)
        finally:
            heal()
        flips, ways = net.flips(serial), net.ways(serial)
        told = "; ".join(f"{name} {ways[name]}" for name in sorted(ways))
        measured.append(
            f"{fault.__name__} when {step}: {spread_ms(flips, OTHERS):.0f} ms between first and last: {told}"
        )
        assert min(flips[name] for name in CANARIES) <= min(flips[name] for name in OTHERS) + 3 * QUICK.align
        due = {ways[name].due for name in OTHERS}
        assert max(due) - min(due) <= STEADY.align, told  # one T, or its next multiple
        # Whoever went later than that heard of the order only after its T, and went then.
        assert all(ways[name].at - ways[name].due < 0.5 or ways[name].heard_late > 0 for name in OTHERS), told
    net.wait(lambda: all(net.ask(n).get("engine", {}).get("there") for n in EVERYBODY), "the engine is back", 90)


def test_of_two_drains_at_once_one_waits_and_a_cut_off_holder_comes_back_before_the_token_is_free(
    net: MeshNetwork, measured: list[str]
) -> None:
    one, other = net.members["m2"], net.members["m3"]
    settle(net)
    one.rootsrv("drain", "--reason", "disk")
    other.rootsrv("drain", "--reason", "kernel")
    waiting = {"m2", "m3"}

    def withdrawn() -> set[str]:
        return {name for name in waiting if net.members[name].family(4).get("route") == "withdrawn"}

    (first,) = net.wait(withdrawn, "one of them is withdrawn")
    second = net.members[(waiting - {first}).pop()]
    assert second.family(4)["route"] == "degraded"
    holder = net.members[first]
    with holder.cut_off(*(node.client_port for node in net.engine.nodes)) as began:
        holder.await_state("degraded", QUICK.token + 5)
        back = time.time() - began
        net.wait(
            lambda: first not in [each["member"] for each in net.ask("m4").get("tokens", [{"member": first}])], "free"
        )
        free = time.time() - began
        measured.append(f"holder cut off: announced again after {back:.2f} s, the token was free after {free:.2f} s")
        assert back < free
    for site in (holder, second):
        site.rootsrv("undrain")
    for site in (holder, second):
        site.await_state("up", 60)


def test_a_hard_failure_waits_for_no_token(net: MeshNetwork) -> None:
    settle(net)
    holder, broken = net.members["m2"], net.members["m3"]
    holder.rootsrv("drain")
    net.wait(lambda: holder.family(4).get("route") == "withdrawn", "the token is taken")
    with broken.stopped("serve", "worker"):
        net.wait(lambda: broken.family(4).get("route") == "withdrawn", "hard")
    holder.rootsrv("undrain")
    for site in (holder, broken):
        site.await_state("up", 60)


def test_the_leader_that_is_frozen_is_followed_by_another(net: MeshNetwork, serials: Iterator[int]) -> None:
    serial = next(serials)
    settle(net)
    leader = net.leader()
    pid = net.ask(leader)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        other = next(name for name in HOSTS if name != leader)
        net.wait(lambda: net.ask(other).get("leads"), "another one leads")
        net.down.add(leader)
        net.publish(serial)
        net.wait_for_all(serial)
    finally:
        net.down.discard(leader)
        os.kill(pid, signal.SIGCONT)
    net.members[leader].rootsrv("zone", "refresh")
    net.wait_for_all(serial, 90)
