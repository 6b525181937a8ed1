"""`python -m bench.capture --only service`: its file system goes with it."""

import subprocess
import sys
from pathlib import Path

from bench import capture_service
from rootsrv.capture import output_file
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


FILL_ONE = """
import os, sys
from pathlib import Path
from bench.capture_service import _Disk
from rootsrv.capture.files import CaptureDirectory
disk = _Disk(Path(sys.argv[1]))
place = CaptureDirectory(
    disk.files, quota_octets=1 << 40, keep_free_octets=0, retention_seconds=0, removes_oldest=False
)
with disk.in_state("pcap, full disk", octets=16 << 20):
    assert place.has_room(), "a capture begins"
    written = 0
    try:
        with (disk.files / "file").open("wb", buffering=0) as file:
            while written < 8 << 20:
                written += file.write(bytes(1 << 16))
    except OSError:
        pass
    assert 4 << 20 <= written < 6 << 20, written
    assert not place.has_room()
assert disk.files.joinpath("file").exists()
disk.empty()
assert place.has_room()
"""


def test_a_full_disk_gets_full_in_the_middle_of_what_would_be_written(tmp_path: Path) -> None:
    require_root()
    require_tool("mkfs.ext4")
    subprocess.run([sys.executable, "-c", FILL_ONE, tmp_path], cwd=REPOSITORY, check=True)


def test_the_turn_of_the_full_disk_has_a_whole_member_before_it_gets_full_however_little_is_asked() -> None:
    for octets in (1 << 18, 5 << 20, 27 << 20):  # of the turn before it
        factor = capture_service.full_factor(octets)
        assert factor >= 1
        assert factor * octets / 4 >= output_file.MEMBER_OCTETS
