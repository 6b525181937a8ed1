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

pytestmark = [pytest.mark.machine, pytest.mark.timeout(3300)]

THERE = "src/rootsrv"
RELEASES = {"12": "bookworm", "13": "trixie"}
NOT_THERE = (
    # What of net.core is the whole kernel's is seen from the first network namespace alone.
    "tests/deploy/test_files.py::test_sysctl_accepts_every_line",
    "tests/deploy/test_network.py::test_every_deployed_sysctl_is_one_of_this_kernel",
    # Nothing can be fetched from within.
    "tests/deploy/test_files.py::test_chronyd_accepts_its_file",
)
RUN_THERE = (
    *("-q", "-p", "no:cacheprovider", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", "--durations=15"),
    *(word for test in NOT_THERE for word in ("--deselect", test)),
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshMachine]:
    here = platform.freedesktop_os_release().get("VERSION_ID", "")
    other = next(suite for version, suite in RELEASES.items() if version != here)
    with fresh_machine(tmp_path_factory.mktemp("other"), other) as made:
        made.clone_repository(THERE)
        if zones := genuine_zones_directory():
            shutil.copytree(zones, made.root / "src/shared/zones")
        made.run("env", "CI=true", f"/{THERE}/tests/install_system_packages.sh", seconds=900)
        made.run("make", "-C", f"/{THERE}", ".venv/.installed-for-tests", "bpf", seconds=600)
        yield made


def test_lint_passes_there(machine: FreshMachine) -> None:
    """Whose Python gets other versions of what is linted with, and of the types of libraries."""
    machine.run("make", "-C", f"/{THERE}", "lint", seconds=400)


def test_all_of_make_test_passes_there(machine: FreshMachine) -> None:
    with network() as net:
        printed = machine.run(
            *("sh", "-c", f"cd /{THERE} && CI=true .venv/bin/python -m pytest {' '.join(RUN_THERE)}"),
            prefix=net.host("other").prefix,
            seconds=2100,
        )
    assert " passed" in printed
