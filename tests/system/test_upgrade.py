"""From version 0.1 as it was before tables had a MAC and the page had parts, and back, on one state directory."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import pytest

from bench.peers.daemon import free_port
from rootsrv.store.table_mac import mac_path
from tests.needs import REPOSITORY
from tests.server.live import SERIALS, Instance, configure, wait_until

BEFORE = "08dd705"
"""The last commit whose state directories know no MAC."""


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The program as it was."""
    archive = subprocess.run(
        ["git", "-C", str(REPOSITORY), "archive", BEFORE, "rootsrv"], capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"the history is not here: {archive.stderr.decode()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(tmp_path / "before", filter="data")
    return tmp_path / "before"


@contextmanager
def running(program: Path, path: Path, port: int) -> Iterator[Instance]:
    """The instance at *path*, run by *program*; its log from this start on."""
    with (path.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rootsrv", "run", "--config", str(path)],
            cwd=program, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(program)},
        )  # fmt: skip
    instance = Instance(path.parent, port, 1, process)
    try:

        def answers() -> bool:
            assert process.poll() is None, instance.log
            try:
                answer = instance.ask(".", "SOA").answer
            except (OSError, dns.exception.DNSException):
                return False
            return bool(answer) and answer[0][0].serial == SERIALS[0]

        wait_until(answers, "it answers", 60)
        yield instance
        assert instance.stop() == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.long
def test_an_upgrade_takes_the_state_over_and_a_roll_back_takes_it_back(tmp_path: Path, before: Path) -> None:
    path = configure(tmp_path, port := free_port(), 1)
    state, run = tmp_path / "state", tmp_path / "run"
    with running(before, path, port):
        pass
    tables = sorted((state / "tables").glob("*.table"))
    assert tables
    assert not list(state.rglob("*.mac"))

    with running(REPOSITORY, path, port) as instance:  # no reboot between: the page of the old version is there
        wait_until(lambda: "table unusable" in instance.log, "the stored table is not believed")
        assert "table unusable generation=1" in instance.log
        assert "stored table answers" not in instance.log
    (table,) = (state / "tables").glob("*.table")
    assert mac_path(table).exists()
    with running(REPOSITORY, path, port) as instance:
        assert "table unusable" not in instance.log

    with running(before, path, port) as instance:
        assert "cannot be written" not in instance.log
    shutil.rmtree(run)
    with running(REPOSITORY, path, port) as instance:  # what the older version did meanwhile takes nothing away
        pass
    assert not list(run.glob("*.sock"))
