"""The other Debian release than this machine's: its Python, its name servers, the same answers.

Debian 12 and 13 are both supported.  One of them runs here; the other is made of debootstrap, in a network of its own.
"""

import platform
import shutil
from collections.abc import Iterator

import pytest

from tests.needs import genuine_zones_directory
from tests.network import network
from tests.system.fresh_machine import FreshMachine, fresh_machine

pytestmark = [pytest.mark.machine, pytest.mark.timeout(2400)]

THERE = "src/rootsrv"
RELEASES = {"12": "bookworm", "13": "trixie"}
PARALLEL = ("-n", "2", "--dist", "loadfile", "--durations=15")
RUN_THERE = (
    *("tests/zone", "tests/wire", "tests/answer", "tests/health", "tests/config", "tests/conformance"),
    *("tests/store", "tests/page", "tests/control", "tests/http", "tests/demo", "tests/server/test_live.py"),
    # Where the release's TLS, engine, primaries, secondaries, resolver and routing daemon are spoken to.
    *("tests/engine", "tests/secondary/test_sources.py", "tests/secondary/test_neighbours.py"),
    *("tests/system/test_resolver.py", "tests/anycast/test_bird.py"),
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshMachine]:
    here = platform.freedesktop_os_release().get("VERSION_ID", "")
    other = next(suite for version, suite in RELEASES.items() if version != here)
    with fresh_machine(tmp_path_factory.mktemp("other"), other) as made:
        made.put_repository(THERE)
        if zones := genuine_zones_directory():
            shutil.copytree(zones, made.root / "src/shared/zones")
        made.run("env", "CI=true", f"/{THERE}/tests/install_system_packages.sh", seconds=900)
        made.run("make", "-C", f"/{THERE}", ".venv/.installed-for-tests", "bpf", seconds=600)
        yield made


def test_units_conformance_and_the_comparison_with_other_servers_pass_there(machine: FreshMachine) -> None:
    wanted = ("-q", "-p", "no:cacheprovider", *PARALLEL, *RUN_THERE)
    with network() as net:
        printed = machine.run(
            *("sh", "-c", f"cd /{THERE} && CI=true .venv/bin/python -m pytest {' '.join(wanted)}"),
            prefix=net.host("other").prefix,
            seconds=1500,
        )
    assert " passed" in printed
