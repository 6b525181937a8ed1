"""The wall clock of a running instance steps, an hour and a year, both ways: nothing that is served changes by it."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.instance import end
from rootsrv.page.layout import Page
from tests.needs import require_tool
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, version

HOUR, DAY, YEAR = 3600, 86_400, 365 * 86_400
SOURCE = Path(__file__).with_name("step_clock.c")


@dataclass
class Stepped:
    """An instance in service whose wall clock can be stepped."""

    instance: Maintained
    primary: ScriptedPrimary
    file: Path

    def step(self, seconds: int) -> None:
        """From now on the instance's wall clock is so far from the machine's."""
        with self.file.open("r+b") as stream:
            stream.write(seconds.to_bytes(8, "little", signed=True))

    def deadline(self) -> float:
        """Until when the root may be answered from; CLOCK_BOOTTIME, seconds."""
        return Page.open(self.instance.directory / "run" / "page").deadline(0) / 1e9

    def publish(self, serial: int) -> None:
        """A newer zone; not signed with TSIG, which a stepped clock would refuse for its time."""
        self.primary.publish(version(serial))
        self.primary.key = None
        self.instance.order("zone-refresh")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stepped]:
    directory = tmp_path_factory.mktemp("stepped")
    library, file = directory / "step_clock.so", directory / "step"
    compiler = [require_tool("clang"), "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE)]
    subprocess.run(compiler, check=True, timeout=60)
    file.write_bytes(bytes(8))
    environment = {"LD_PRELOAD": str(library), "STEP_CLOCK_FILE": str(file)}
    with scripted(version(FIRST)) as primary:
        primary.key = None
        section = primary_section(primary, "scripted", key="")
        with maintained(directory / "instance", section, environment=environment) as instance:
            instance.wait_for_serial(FIRST)
            yield Stepped(instance, primary, file)


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, YEAR, -YEAR])
def test_a_step_of_the_clock_changes_no_lease_and_no_answer_and_a_newer_zone_is_taken(
    running: Stepped, seconds: int
) -> None:
    instance = running.instance
    served = instance.serial()
    assert served is not None
    deadline = running.deadline()
    assert instance.status()["clock"] == "believed"
    told = len(instance.log)

    running.step(seconds)

    instance.wait(lambda: instance.status()["clock"] == "stepped", "noticed")
    assert "clock changed" in instance.log[told:]
    status = instance.status()
    assert abs(status["clock_distance_seconds"] - seconds) < 1
    assert any(each.startswith("clock stepped, ") for each in status["alarms"])
    assert abs(running.deadline() - deadline) < 0.1
    assert instance.serial() == served
    running.publish(served + 1)
    instance.wait_for_serial(served + 1)
    lease = instance.zone()["lease_seconds"]
    expire = version(served + 1).soa.expire
    assert expire - 60 < lease <= expire

    deadline = running.deadline()
    running.step(0)
    instance.wait(lambda: instance.status()["clock"] == "believed", "believed again")
    assert abs(running.deadline() - deadline) < 0.1
    assert instance.serial() == served + 1


def test_a_restart_with_a_clock_that_was_set_back_a_year_goes_on_and_lengthens_no_lease(running: Stepped) -> None:
    instance = running.instance
    served = instance.serial()
    deadline = running.deadline()
    running.primary.rcode = running.primary.ixfr_rcode = 5
    running.primary.named = FIRST - 1
    instance.kill()
    running.step(-YEAR)
    try:
        instance.start()
        instance.wait(lambda: instance.status().get("clock") == "stepped", "noticed")
        instance.wait_for_serial(served or 0)
        assert running.deadline() <= deadline + 0.1
        assert abs(instance.status()["clock_distance_seconds"] + YEAR) < 60
    finally:
        running.step(0)


@pytest.mark.parametrize("seconds", [11 * YEAR, -11 * YEAR])
def test_a_role_that_is_killed_while_the_clock_is_wrong_goes_on_from_the_time_that_was_trusted(
    running: Stepped, seconds: int
) -> None:
    """Nobody ordered that it is started again; a clock that is years ahead would end every signature of the root."""
    instance = running.instance
    instance.wait(lambda: instance.status().get("clock") == "believed", "believed")
    served, deadline = instance.serial(), running.deadline()
    assert served is not None
    running.step(seconds)
    try:
        instance.wait(lambda: instance.status()["clock"] == "stepped", "noticed")
        instance.kill()
        instance.start()
        instance.wait(lambda: instance.status().get("clock") == "stepped", "goes on")
        instance.wait_for_serial(served)
        assert abs(running.deadline() - deadline) < 60
        running.publish(served + 1)
        instance.wait_for_serial(served + 1)
    finally:
        running.step(0)


def test_a_clock_that_is_wrong_is_believed_by_who_is_started_after_an_end_that_somebody_ordered(
    running: Stepped,
) -> None:
    instance = running.instance
    running.step(DAY)
    try:
        instance.wait(lambda: instance.status()["clock"] == "stepped", "noticed")
        end(instance.process)
        instance.start()
        instance.wait(lambda: instance.status().get("clock") == "believed", "believed")
    finally:
        running.step(0)
