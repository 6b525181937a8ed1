"""A run of the tests fails when it leaves something: tried on runs of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leftovers import MARK
from tests.needs import REPOSITORY, require_root

CASES = {
    "process": (
        "import subprocess; started = subprocess.Popen(['sleep', '97'], start_new_session=True); "
        # Popen returns before the kernel has given the new program its environment.
        "list(iter(lambda: open(f'/proc/{started.pid}/environ').read() != '', True))",
        "process",
    ),
    "file": ("import tempfile; tempfile.mkdtemp(prefix='lost-')", "lost-"),
    "namespace": (
        "import os, subprocess; subprocess.run(['ip', 'netns', 'add', f'rs-{os.getpid()}-9-lost'], check=True)",
        "network namespace",
    ),
    "mount": (
        "import subprocess; (tmp_path / 'm').mkdir(); "
        "subprocess.run(['mount', '-t', 'tmpfs', 'none', tmp_path / 'm'], check=True)",
        "mount",
    ),
    "what multiprocessing has": (
        "from multiprocessing import resource_tracker as each; each.ensure_running(); "
        "list(iter(lambda: open(f'/proc/{each._resource_tracker._pid}/environ').read() != '', True))",
        "",
    ),
    "nothing": ("import subprocess; subprocess.run(['true'])", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_leaves_something_fails_and_names_it(tmp_path: Path, case: str) -> None:
    line, told = CASES[case]
    if case in {"namespace", "mount"}:
        require_root()
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\nfrom tests import leftovers\n"
                                          "leftovers._PATIENCE_SECONDS = 0.2\n")  # fmt: skip
    (tmp_path / "test_it.py").write_text(f"def test_it(tmp_path):\n    {line}\n")
    environment = {name: value for name, value in os.environ.items() if name not in {MARK, "TMPDIR"}}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a run starts sooner without
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "--rootdir", str(tmp_path),
         "--basetemp", str(tmp_path / "base"), "-c", os.devnull, str(tmp_path)],
        cwd=tmp_path, env={**environment, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        assert "1 passed" in done.stdout, done.stdout + done.stderr
        assert done.returncode == (1 if told else 0), done.stdout
        assert told in done.stdout
    finally:
        for left in done.stdout.splitlines():
            kind, _, rest = left.partition(" ")
            if kind == "process" and "sleep 97" in left:
                os.kill(int(rest.partition(":")[0]), 9)
            elif left.startswith("network namespace "):
                subprocess.run(["ip", "netns", "del", left.split()[-1]], check=True)
            elif kind == "mount":
                subprocess.run(["umount", rest], check=True)
