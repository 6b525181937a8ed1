"""Every role may have as many files open as the hard limit allows, and leaves some of them free."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from rootsrv.roles.run import Role
from tests.needs import REPOSITORY
from tests.server.live import configure

# The role itself is not begun: what it would have is told in its place.
RUN = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 700))
from rootsrv.config.file import load
from rootsrv.roles import run
run._run_until_signalled = lambda *_: print(*resource.getrlimit(resource.RLIMIT_NOFILE))
run.run(load(Path(sys.argv[1])), Path(sys.argv[1]), sys.argv[2] or None)
"""


@pytest.mark.parametrize("role", [*get_args(Role), None], ids=lambda role: role or "all")
def test_every_role_raises_its_limit_of_open_files(tmp_path: Path, role: str | None) -> None:
    path = configure(tmp_path, 5300, 1)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), role or ""],
        capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=False,
    )  # fmt: skip
    assert done.stdout == "700 700\n", done.stderr
