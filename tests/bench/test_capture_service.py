"""`python -m bench.capture --only service`: its file system goes with it."""

import subprocess
import sys
from pathlib import Path

from tests.needs import REPOSITORY, require_root, require_tool

MAKE_ONE = """
import sys
from pathlib import Path
from bench.capture_service import _Disk
disk = _Disk(Path(sys.argv[1]))
disk.files.mkdir()
print(str(disk.files.parent) in Path("/proc/self/mounts").read_text(), flush=True)
sys.stdin.read()
"""


def test_a_run_that_is_killed_leaves_no_file_system_mounted(tmp_path: Path) -> None:
    require_root()
    require_tool("mkfs.ext4")
    with subprocess.Popen(
        [sys.executable, "-c", MAKE_ONE, tmp_path],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        process.kill()
        process.wait()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
