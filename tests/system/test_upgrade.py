"""From version 0.1 as it was before tables had a MAC and the page had parts, and back, on one state directory."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import pytest

from bench.peers.daemon import free_port
from rootsrv.store.table_mac import mac_path
from tests.needs import REPOSITORY, require_root, require_tool
from tests.process.test_privileges import NOBODY
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


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every account can enter."""
    with tempfile.TemporaryDirectory(prefix=f"rs-{os.getpid()}-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def running(program: Path, path: Path, port: int, by: Sequence[str] = ()) -> Iterator[Instance]:
    """The instance at *path*, run by *program* in the way *by*; its log from this start on."""
    with (path.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            [*by, sys.executable, "-m", "rootsrv", "run", "--config", str(path)],
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


ACCOUNT = [
    f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search", "--",
]  # fmt: skip
"""As the units have it: one account for all roles, which owns the state.  (The capability: its interpreter may be in a
directory that is not for everybody.)"""


@pytest.mark.long
@pytest.mark.parametrize("account", ["root", "nobody"])
def test_an_upgrade_takes_the_state_over_and_a_roll_back_takes_it_back(
    before: Path, directory: Path, account: str
) -> None:
    path = configure(directory, port := free_port(), 1)
    state, run = directory / "state", directory / "run"
    by = []
    if account == "nobody":
        require_root()
        by = [require_tool("setpriv"), *ACCOUNT]
        for each in (directory, *directory.iterdir()):
            shutil.chown(each, NOBODY, NOBODY)
    with running(before, path, port, by):
        pass
    tables = sorted((state / "tables").glob("*.table"))
    assert tables
    assert not list(state.rglob("*.mac"))

    with running(REPOSITORY, path, port, by) as instance:  # no reboot between: the page of the old version is there
        wait_until(lambda: "table unusable" in instance.log, "the stored table is not believed")
        assert "table unusable generation=1" in instance.log
        assert "stored table answers" not in instance.log
    (table,) = (state / "tables").glob("*.table")
    assert mac_path(table).exists()
    with running(REPOSITORY, path, port, by) as instance:
        assert "table unusable" not in instance.log

    with running(before, path, port, by) as instance:
        assert "cannot be written" not in instance.log
    shutil.rmtree(run)
    with running(REPOSITORY, path, port, by) as instance:  # what the older version did meanwhile takes nothing away
        pass
    assert not list(run.glob("*.sock"))
    if account == "nobody":
        assert {each.stat().st_uid for each in (state, *state.rglob("*"))} == {NOBODY}
