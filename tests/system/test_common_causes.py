"""One bad input that reaches two instances alike – a primary, a file, a zone, a disk – silences neither (design D31).

What it does to their routes: test_anycast_common_mode.py.  Each case ends as an operator would have it end, and heals
without a restart.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.flags
import pytest

from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, sign_root
from rootsrv.wire import name as names
from rootsrv.zone.contents import ZoneContents
from tests.answer.large import TLD, with_name_servers
from tests.needs import REPOSITORY, require_root, require_tool
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, Recipe, version

STEP_CLOCK = REPOSITORY / "tests" / "secondary" / "step_clock.c"

DAY = 86_400
YEAR = 365 * DAY
STATE_OCTETS = 8 << 20
RUN_OCTETS = 2 << 20  # a slot of the page has 180 KiB
INODES = 96

Pair = tuple[list[Maintained], ScriptedPrimary]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two instances with the same only primary, each with file systems of its own for state and runtime directory.

    Their wall clocks can be stepped: `step_clocks`.
    """
    require_root()
    library = clock_that_steps(tmp_path_factory.mktemp("clock"))
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(scripted(version(FIRST)))
        instances = []
        for _ in range(2):
            directory = tmp_path_factory.mktemp("box")
            for name, octets in (("state", STATE_OCTETS), ("run", RUN_OCTETS)):
                where = directory / name
                where.mkdir()
                options = f"size={octets},nr_inodes={INODES}"
                command = [require_tool("mount"), "-t", "tmpfs", "-o", options, f"rs-{name}", str(where)]
                subprocess.run(command, check=True, timeout=20)
                stack.callback(subprocess.run, [require_tool("umount"), "-l", str(where)], check=True, timeout=20)
            (directory / "step").write_bytes(bytes(8))
            environment = {"LD_PRELOAD": str(library), "STEP_CLOCK_FILE": str(directory / "step")}
            section = primary_section(primary, "only")
            instances.append(stack.enter_context(maintained(directory, section, environment=environment)))
        for instance in instances:
            instance.wait_for_serial(FIRST)
        yield instances, primary


def fill(directory: Path) -> Iterator[Path]:
    """Take all room and all names of a file system; what took them."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass
    yield filler
    for number in range(INODES):
        another = directory / f"filler-{number}"
        try:
            another.touch()
        except OSError:
            return
        yield another


def offer(pair: Pair, contents: ZoneContents) -> None:
    instances, primary = pair
    primary.publish(contents)
    for instance in instances:
        instance.order("zone-refresh")


def all_answer(pair: Pair, serial: int) -> None:
    """Both, over their service addresses, and neither is about to end."""
    for instance in pair[0]:
        assert instance.ask().answer[0][0].serial == serial
        assert instance.zone()["lease_seconds"] > DAY
        assert not instance.status()["health"]["switchover_failed"]


def clock_that_steps(directory: Path) -> Path:
    """Compiled: a library that adds the seconds in the file STEP_CLOCK_FILE to a process's wall clock."""
    library = directory / "step_clock.so"
    compiler = [require_tool("clang"), "-shared", "-fPIC", "-O1", "-o", str(library), str(STEP_CLOCK)]
    subprocess.run(compiler, check=True, timeout=60)
    return library


def step_clocks(pair: Pair, seconds: int) -> None:
    for instance in pair[0]:
        with (instance.directory / "step").open("r+b") as stream:
            stream.write(seconds.to_bytes(8, "little", signed=True))


def pid_of(instance: Maintained, role: str) -> int:
    """The process of a role; 0 while there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if str(instance.configuration).encode() in words and role.encode() in words:
                return int(process.name)
    return 0


def restart_all(pair: Pair) -> None:
    """As after a failure of the power: nothing in memory is left."""
    for instance in pair[0]:
        instance.kill()
        (instance.directory / "run" / "page").unlink()
        instance.start()


def wait_for_all(pair: Pair, serial: int) -> None:
    for instance in pair[0]:
        instance.wait_for_serial(serial)


def wait_until_told(pair: Pair, text: str) -> None:
    for instance in pair[0]:
        instance.wait(lambda instance=instance: text in " ".join(instance.status().get("alarms", [])), text)


def test_expire_0_with_a_genuine_new_zone(pair: Pair) -> None:
    served = pair[0][0].serial() or 0
    pair[1].publish(version(served + 1))
    pair[1].expire = 0
    for instance in pair[0]:
        instance.order("zone-refresh")
    wait_until_told(pair, "EXPIRE of 0 s")
    all_answer(pair, served)
    pair[1].expire = None
    wait_for_all(pair, served + 1)
    all_answer(pair, served + 1)


def test_trust_anchors_that_cannot_be_read(pair: Pair) -> None:
    served = pair[0][0].serial() or 0
    files = [instance.directory / "anchors" for instance in pair[0]]
    good = files[0].read_text()
    for file in files:
        file.write_text(". IN DS 17 17 6 00\n")
    restart_all(pair)
    wait_for_all(pair, served)
    wait_until_told(pair, "trust anchors cannot be read")
    all_answer(pair, served)
    for file in files:
        file.write_text(good)
    offer(pair, version(served + 1))
    wait_for_all(pair, served + 1)


def test_a_disk_that_is_full(pair: Pair) -> None:
    served = pair[0][0].serial() or 0
    fillers = [instance.directory / "state" / "filler" for instance in pair[0]]
    for filler in fillers:
        with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass
    offer(pair, version(served + 1))
    wait_until_told(pair, "No space left on device")
    all_answer(pair, served)
    restart_all(pair)
    wait_for_all(pair, served)
    for filler in fillers:
        filler.unlink()
    wait_for_all(pair, served + 1)


def test_a_runtime_directory_that_is_full(pair: Pair) -> None:
    served = pair[0][0].serial() or 0
    fillers = [filler for instance in pair[0] for filler in fill(instance.directory / "run")]
    for instance in pair[0]:
        with pytest.raises(OSError, match="No space left"):
            (instance.directory / "run" / "another").touch()
    offer(pair, version(served + 1))
    wait_for_all(pair, served + 1)
    all_answer(pair, served + 1)

    # Every role and worker that ends is there again, and so is the whole instance.
    for instance in pair[0]:
        for role in ("serve", "maintain"):
            pid = pid_of(instance, role)
            os.kill(pid, signal.SIGKILL)
            instance.wait(lambda instance=instance, role=role, pid=pid: pid_of(instance, role) not in {0, pid}, role)
    wait_for_all(pair, served + 1)
    for instance in pair[0]:
        instance.kill()
        instance.start()
    wait_for_all(pair, served + 1)
    offer(pair, version(served + 2))
    wait_for_all(pair, served + 2)
    for filler in fillers:
        filler.unlink()
    all_answer(pair, served + 2)


def test_a_disk_that_is_full_and_a_clock_in_the_past_when_the_machine_starts(pair: Pair) -> None:
    served = pair[0][0].serial() or 0
    # Nobody confirms anything from now on.
    pair[1].rcode, named = 5, pair[1].named
    left = []
    for instance in pair[0]:
        instance.kill()
        ledger = instance.directory / "state" / "ledger.json"
        record = json.loads(ledger.read_text())
        lease = record["leases"]["."]
        left.append(lease["confirmed_wall"] + lease["duration_seconds"] - record["last_seen_wall"])
        ledger.write_text(ledger.read_text().replace(record["boot"], record["boot"][::-1]))
        (instance.directory / "run" / "page").unlink()
    fillers = [filler for instance in pair[0] for filler in fill(instance.directory / "state")]
    step_clocks(pair, -YEAR)
    try:
        for _ in range(2):
            for instance in pair[0]:
                instance.start()
            wait_for_all(pair, served)
            for instance, seconds in zip(pair[0], left, strict=True):
                instance.wait(lambda instance=instance: instance.status().get("clock") == "stepped", "noticed")
                assert 0 < instance.zone()["lease_seconds"] <= seconds + 0.1
                instance.kill()
    finally:
        step_clocks(pair, 0)
        for filler in fillers:
            filler.unlink()
        pair[1].rcode, pair[1].named = 0, named
        for instance in pair[0]:
            instance.start()
    wait_for_all(pair, served)


def test_a_zone_beyond_what_any_root_was_so_far(pair: Pair) -> None:
    served = pair[0][0].serial() or 0
    recipe = Recipe(serial=served + 1)
    unsigned = with_name_servers(generate.root_contents(serial=recipe.serial, tlds=recipe.tlds, seed=5), 130)
    validity = {"inception": int(recipe.inception), "expiration": int(recipe.expiration)}
    offer(pair, sign_root(unsigned, Signing(keys=recipe.keys, **validity)))
    wait_for_all(pair, served + 1)
    all_answer(pair, served + 1)
    for instance in pair[0]:
        response = instance.ask(f"www.{names.to_text(TLD)}", "A", tcp=True)
        assert not response.flags & dns.flags.TC
        assert sum(map(len, response.authority)) == 130
        assert sum(map(len, response.additional)) == 260
