"""What a benchmark or a run of the tests has started ends when the run is killed."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.guardian import marked
from tests.leftovers import MARK
from tests.needs import REPOSITORY
from tests.server.live import wait_until

STARTS = (
    "import subprocess; subprocess.Popen(['sleep', '97'], start_new_session=True, env={**os.environ, 'LEFT': '%s'})"
)
BENCH = "".join(each.read_text() for each in (REPOSITORY / "bench").glob("*.py"))
GUARDED = "import os\nfrom bench.guardian import guarded\nwith guarded('ROOTSRV_BENCH_RUN'): %s; print(flush=True); %s"


def run_of(token: str, then: str) -> "subprocess.Popen[bytes]":
    """A run that starts something in a session of its own, says so, and goes on with *then*."""
    command = [sys.executable, "-c", GUARDED % (STARTS % token, then)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def started(token: str) -> list[int]:
    return marked(f"LEFT={token}")


def test_what_a_killed_run_has_started_ends() -> None:
    token = secrets.token_hex(8)
    with run_of(token, "input()") as run:
        assert run.stdout is not None
        run.stdout.readline()
        wait_until(lambda: started(token), "it runs", 30)
        run.kill()
        run.wait()
        wait_until(lambda: not started(token), "it has ended", 60)


def test_what_a_run_leaves_that_ends_in_order_is_left() -> None:
    """It is told (tests/leftovers.py), not hidden."""
    token = secrets.token_hex(8)
    with run_of(token, "''") as run:
        assert run.wait(60) == 0
    try:
        assert len(started(token)) == 1
    finally:
        for pid in started(token):
            os.kill(pid, signal.SIGKILL)


def test_what_tests_have_started_ends_with_a_killed_run(tmp_path: Path) -> None:
    token = secrets.token_hex(8)
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    test = f"import os\ndef test_it():\n    {STARTS % token}\n    print(flush=True)\n    input()\n"
    (tmp_path / "test_it.py").write_text(test)
    environment = {name: value for name, value in os.environ.items() if name not in {MARK, "TMPDIR"}}
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "--rootdir", str(tmp_path),
               "--basetemp", str(tmp_path / "base"), "-c", os.devnull, str(tmp_path)]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**environment, "PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    ) as run:  # fmt: skip
        (pid,) = wait_until(lambda: started(token), "it runs", 60)
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        directory = next(each for each in variables if each.startswith(f"{MARK}=")).partition("=")[2]
        run.kill()
        run.wait()
        wait_until(lambda: not started(token), "it has ended", 60)
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    "path",
    [each for each in sorted((REPOSITORY / "bench").glob("*.py")) if each.name not in {"guardian.py", "pictures.py"}],
    ids=lambda path: path.name,
)
def test_every_program_of_bench_that_starts_another_is_guarded(path: Path) -> None:
    """But what draws, and what is started by another of them."""
    text = path.read_text()
    assert "__name__ ==" not in text or "with guarded(" in text or f'bench.{path.stem}"' in BENCH
