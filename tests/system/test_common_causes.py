"""One bad input that reaches two instances alike – a primary, a file, a zone, a disk – silences neither (design D31).

What it does to their routes: test_anycast_common_mode.py.  Each case ends as an operator would have it end, and heals
without a restart.
"""

import contextlib
import subprocess
from collections.abc import Iterator

import dns.exception
import dns.flags
import pytest

from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, sign_root
from rootsrv.wire import name as names
from rootsrv.zone.contents import ZoneContents
from tests.answer.large import TLD, with_name_servers
from tests.needs import require_root, require_tool
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, Recipe, version

DAY = 86_400
STATE_OCTETS = 8 << 20

Pair = tuple[list[Maintained], ScriptedPrimary]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two instances with the same only primary, each with a file system of its own for its state."""
    require_root()
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(scripted(version(FIRST)))
        instances = []
        for _ in range(2):
            directory = tmp_path_factory.mktemp("box")
            state = directory / "state"
            state.mkdir()
            command = [require_tool("mount"), "-t", "tmpfs", "-o", f"size={STATE_OCTETS}", "rs-state", str(state)]
            subprocess.run(command, check=True, timeout=20)
            stack.callback(subprocess.run, [require_tool("umount"), "-l", str(state)], check=True, timeout=20)
            instances.append(stack.enter_context(maintained(directory, primary_section(primary, "only"))))
        for instance in instances:
            instance.wait_for_serial(FIRST)
        yield instances, primary


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
