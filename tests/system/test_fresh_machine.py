"""The two commands at the top of README, on a Debian with nothing installed."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network import Host, network
from tests.server.live import wait_until
from tests.system.fresh_machine import FreshMachine, fresh_machine

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1800)]

REPOSITORY_THERE = "src/rootsrv"
DEMO_READY_SECONDS = 60.0
"""What is promised is 8; this machine may be doing something else."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshMachine]:
    with fresh_machine(tmp_path_factory.mktemp("fresh")) as made:
        made.put_repository(REPOSITORY_THERE)
        yield made


def make(machine: FreshMachine, target: str) -> str:
    return machine.run("make", "-C", f"/{REPOSITORY_THERE}", target)


POLICY = "#!/bin/sh\n# the machine's own\nexit 0\n"


def put_policy(machine: FreshMachine) -> None:
    """A policy-rc.d of the machine's own, which must be there again afterwards."""
    policy = machine.root / "usr/sbin/policy-rc.d"
    policy.write_text(POLICY)
    policy.chmod(0o755)


def has_its_policy(machine: FreshMachine) -> bool:
    found = {path.name: path.read_text() for path in (machine.root / "usr/sbin").glob("policy-rc.d*")}
    return found == {"policy-rc.d": POLICY}


def install(machine: FreshMachine, *words: str) -> "subprocess.CompletedProcess[str]":
    """tests/install_system_packages.sh there, after *words*."""
    script = f"/{REPOSITORY_THERE}/tests/install_system_packages.sh"
    return subprocess.run(
        machine.command(*words, script, "no-such-package-anywhere"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_make_venv_installs_what_a_venv_needs_and_starts_nothing(machine: FreshMachine) -> None:
    put_policy(machine)

    printed = make(machine, "venv")

    assert "installing python3-venv" in printed
    assert has_its_policy(machine)
    version = machine.run(f"/{REPOSITORY_THERE}/.venv/bin/rootsrv", "--version")
    assert version.startswith("rootsrv ")
    for server in ("nsd", "named", "knotd", "clang"):
        assert not list(machine.root.glob(f"usr/*bin/{server}"))


def test_a_second_make_venv_does_nothing(machine: FreshMachine) -> None:
    assert "pip" not in make(machine, "venv")


def test_make_demo_serves_signed_answers_until_it_is_interrupted(machine: FreshMachine, tmp_path: Path) -> None:
    with network() as net, demo(machine, net.host("demo"), tmp_path / "demo.log") as (host, process, log):
        wait_until(
            lambda: "dig" in log.read_text() or process.poll() is not None, "the demo is ready", DEMO_READY_SECONDS
        )
        assert process.poll() is None, log.read_text()
        for server in ("127.0.0.1", "::1"):
            printed = host.run("dig", f"@{server}", "-p", "5300", "+dnssec", "+noall", "+answer", ".", "SOA")
            assert "RRSIG" in printed, log.read_text()
        os.killpg(process.pid, signal.SIGINT)
        # make reports that its command was interrupted; what counts is that all of it is gone.
        process.wait(20)
        assert "Traceback" not in log.read_text()
        listening = host.run("ss", "-Hlnu")
        assert "5300" not in listening


@contextlib.contextmanager
def demo(machine: FreshMachine, host: Host, log: Path) -> "Iterator[tuple[Host, subprocess.Popen[bytes], Path]]":
    """`make demo` there, in a network of its own."""
    command = [*host.prefix, *machine.command("make", "-C", f"/{REPOSITORY_THERE}", "demo")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield host, process, log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_missing_python_is_named_where_it_cannot_be_installed(machine: FreshMachine) -> None:
    done = subprocess.run(
        machine.command("make", "-C", f"/{REPOSITORY_THERE}", "PYTHON=python3.99", "VENV=/tmp/none", "venv"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "python3.99 is not installed" in done.stderr
    assert not (machine.root / "tmp/none").exists()


def test_a_package_that_cannot_be_had_is_named_and_leaves_the_policy_as_it_was(machine: FreshMachine) -> None:
    put_policy(machine)

    done = install(machine)

    assert done.returncode == 1
    assert "could not install: no-such-package-anywhere" in done.stderr
    assert has_its_policy(machine)


def test_an_interrupted_installation_leaves_the_policy_as_it_was(machine: FreshMachine) -> None:
    put_policy(machine)

    done = install(machine, "timeout", "--signal=INT", "0.5")

    assert done.returncode != 0
    assert has_its_policy(machine)


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_without_root_what_is_missing_is_told_and_is_a_failure_only_in_ci(
    machine: FreshMachine, ci: str, status: int
) -> None:
    done = install(machine, f"CI={ci}", "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    assert done.returncode == status, done.stderr
    assert "not root" in done.stdout
    assert "no-such-package-anywhere" in done.stdout
