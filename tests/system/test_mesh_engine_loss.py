"""The engine or the leader is lost at every step of a distribution: all end at one serial, and nobody falls silent."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.mesh.fleets import FleetUnderTest, fleet
from tests.mesh.mesh_of import SERVICE
from tests.secondary.versions import FIRST

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetUnderTest]:
    """Six members, m0 and m1 distribute, m4 and m5 are canaries; three nodes of etcd."""
    with fleet(tmp_path_factory.mktemp("loss"), 6, nodes=3, hosts=2) as started:
        yield started


@pytest.fixture(scope="module")
def serials() -> Iterator[int]:
    return iter(range(FIRST + 1, FIRST + 90))


def kill_all(running: FleetUnderTest) -> Callable[[], None]:
    for node in running.engine.nodes:
        node.kill()
    return lambda: [node.start(wait=False) for node in running.engine.nodes] and None


def freeze_all(running: FleetUnderTest) -> Callable[[], None]:
    for node in running.engine.nodes:
        node.freeze()
    return lambda: [node.thaw() for node in running.engine.nodes] and None


def freeze_two(running: FleetUnderTest) -> Callable[[], None]:
    """One is left, without a quorum."""
    for node in running.engine.nodes[:2]:
        node.freeze()
    return lambda: [node.thaw() for node in running.engine.nodes[:2]] and None


def delete_all(running: FleetUnderTest) -> Callable[[], None]:
    running.engine.ctl("del", "--prefix", f"/rootsrv/v1/{SERVICE}/", client="member")
    return lambda: None


def kill_the_leader(running: FleetUnderTest) -> Callable[[], None]:
    """The role mesh of the distribution host that leads; its supervisor starts it again."""
    for name in ("m0", "m1"):
        told = running.ask(name)
        if told.get("leads"):
            os.kill(told["pid"], signal.SIGKILL)
    return lambda: None


def state(running: FleetUnderTest, serial: int) -> str:
    """Where the leader's distribution of *serial* stands."""
    for name in ("m0", "m1"):
        told = running.ask(name)
        for each in told.get("distribution", []) if told.get("leads") else []:
            if each["serial"] == serial:
                return str(each["state"])
    return ""


REACHED = {"offered": {"offered", "canary", "ordered"}, "canary": {"canary", "ordered"}, "ordered": {"ordered"}}


@pytest.mark.parametrize("step", REACHED)
@pytest.mark.parametrize("fault", [kill_all, freeze_all, freeze_two, delete_all, kill_the_leader])
def test_all_end_at_one_serial_and_nobody_falls_silent(
    running: FleetUnderTest,
    serials: Iterator[int],
    fault: Callable[[FleetUnderTest], Callable[[], None]],
    step: str,
    measured: list[str],
) -> None:
    serial = next(serials)
    running.wait(lambda: any(running.ask(name).get("leads") for name in ("m0", "m1")), "somebody leads")
    running.publish(serial)
    running.wait(lambda: state(running, serial) in REACHED[step] | {"settled"}, f"{step} ({state(running, serial)})")
    heal = fault(running)
    try:
        running.wait_for_all(serial, 60)
        flips = running.flips(serial)
        canaries = [at for name, at in flips.items() if name in {"m4", "m5"}]
        others = [at for name, at in flips.items() if name not in {"m4", "m5"}]
        spread = max(others) - min(others)
        measured.append(f"{fault.__name__} when {step}: all within {spread:.3f} s, {len(flips)} members")
        assert len(flips) == 6
        assert min(canaries) <= min(others) + 3 * running.mesh.roster.timing.align
        assert all(each.rcode() == 0 and not each.status()["silenced"] for each in running.members.values())
    finally:
        heal()
    running.wait(lambda: all(running.ask(name).get("engine", {}).get("there") for name in running.members), "back", 60)
