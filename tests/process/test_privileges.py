"""What workers and the role report may still do once somebody can talk to them."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from tests.needs import REPOSITORY, require_root, require_tool
from tests.server.live import Instance, configure, wait_until
from tests.telemetry.watched import REPORT_ADDRESS, Watched, configure_watched, end, start_watched, total

NOBODY = 65534
GIVEN = "+net_admin,+bpf,+dac_override"
"""As the unit gives them; dac_override stands for an interpreter that everybody may read."""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that every account can enter; pytest's own cannot be."""
    with tempfile.TemporaryDirectory(prefix=f"rs-{os.getpid()}-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def role_pid(instance: Instance, role: str) -> int:
    """The process of a role under the instance's supervisor."""
    children = Path(f"/proc/{instance.process.pid}/task/{instance.process.pid}/children").read_text().split()
    (pid,) = (
        int(each) for each in children if Path(f"/proc/{each}/cmdline").read_bytes().endswith(f"{role}\0".encode())
    )
    return pid


def capabilities(pid: int) -> dict[str, int]:
    """Its capability sets (proc(5)): CapInh, CapPrm, CapEff, CapBnd, CapAmb."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {name: int(value, 16) for name, value in re.findall(r"^(Cap\w+):\s+(\w+)$", status, re.MULTILINE)}


def test_neither_worker_nor_report_keeps_a_capability_that_the_parent_was_given(open_directory: Path) -> None:
    require_root()
    setpriv = require_tool("setpriv")
    port = free_port()
    path = configure(open_directory, port, 1)
    for each in (open_directory, *open_directory.iterdir()):
        shutil.chown(each, NOBODY, NOBODY)
    with (open_directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={GIVEN}",
             f"--ambient-caps={GIVEN}", "--", sys.executable, "-m", "rootsrv", "run", "--config", str(path)],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    instance = Instance(open_directory, port, 1, process)
    try:
        wait_until(lambda: process.poll() is not None or instance.is_ready(), "ready", 60)
        assert process.poll() is None, instance.log
        (worker,) = instance.worker_pids()

        assert capabilities(process.pid)["CapEff"]
        report = role_pid(instance, "report")
        # It has begun when serve is ready, and may not have come to it yet.
        wait_until(lambda: not capabilities(report)["CapEff"], "the role report keeps none")
        for pid in (worker, report):
            held = capabilities(pid)
            assert (held["CapInh"], held["CapPrm"], held["CapEff"], held["CapAmb"]) == (0, 0, 0, 0)
        assert instance.ask(".", "SOA").answer
    finally:
        process.terminate()
        process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def watched_as(user: str, directory: Path, report_port: int) -> Watched:
    """An instance that root has started, whose workers and report are to run as *user*."""
    port = free_port()
    path = configure_watched(directory, port, report_port)
    path.write_text(path.read_text().replace("[service]", f'[service]\nuser = "{user}"', 1))
    return start_watched(path, port, report_port)


def hears_the_others(watched: Watched) -> bool:
    """Whether it has been answered on the sockets of serve and maintain."""
    return total(watched.metrics(), "rootsrv_role_up") == 2


def test_root_started_report_runs_as_the_configured_user_and_does_all_its_work(open_directory: Path) -> None:
    require_root()
    statistics = open_directory / "state" / "statistics"
    (statistics / "rssac002" / "2026").mkdir(parents=True)
    (statistics / "book.json").write_text("damaged, and root's")
    watched = watched_as("nobody", open_directory, free_port())
    try:
        pid = role_pid(watched.instance, "report")
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.findall(r"^Uid:\t(.*)", status, re.MULTILINE) == ["\t".join(["65534"] * 4)]
        assert [each.split() for each in re.findall(r"^Groups:(.*)", status, re.MULTILINE)] == [[]]
        assert "NoNewPrivs:\t1" in status
        held = capabilities(pid)
        assert (held["CapInh"], held["CapPrm"], held["CapEff"], held["CapAmb"]) == (0, 0, 0, 0)

        watched.load(100)
        assert total(watched.metrics(), "rootsrv_queries_total") >= 100
        wait_until(lambda: hears_the_others(watched), "it hears serve and maintain", 10)
        watched.instance.stop()
        assert sum(json.loads((statistics / "book.json").read_text())["days"].popitem()[1]["rcodes"].values()) >= 100
    finally:
        end(watched.instance)


def test_a_report_on_a_port_below_1024_keeps_the_capability_for_that_alone(open_directory: Path) -> None:
    require_root()
    port = next(port for port in range(1023, 600, -1) if is_free(port))
    watched = watched_as("nobody", open_directory, port)
    try:
        held = capabilities(role_pid(watched.instance, "report"))
        assert (held["CapInh"], held["CapPrm"], held["CapEff"], held["CapAmb"]) == (0, 1 << 10, 1 << 10, 0)
        wait_until(lambda: hears_the_others(watched), "it hears serve and maintain", 10)
    finally:
        end(watched.instance)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((REPORT_ADDRESS, port))
        except OSError:
            return False
    return True


def test_where_the_account_cannot_go_report_says_that_it_stays_root(tmp_path: Path) -> None:
    require_root()
    tmp_path.chmod(0o700)
    watched = watched_as("nobody", tmp_path, free_port())
    try:
        assert "report keeps running as root" in watched.instance.log
        assert "is closed to nobody" in watched.instance.log
        wait_until(lambda: hears_the_others(watched), "it hears serve and maintain", 10)
    finally:
        end(watched.instance)
