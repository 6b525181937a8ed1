"""What a confined process can still do: each case is a process of its own, so that none confines the tests."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import REPOSITORY

PROLOGUE = """
import errno, os, signal, socket, subprocess, sys, threading
from rootsrv.process.sandbox import Confinement
inherited = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
ours = os.open(sys.argv[2] + "/own", os.O_RDWR)
listening = socket.socket(); listening.bind(("127.0.0.1", 0)); listening.listen()
missing = Confinement((inherited,)).enter()
assert not missing, missing

def refused(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        assert error.errno in (errno.EPERM, errno.EACCES, errno.EXDEV), error
        return
    raise SystemExit(f"{what} {arguments} was not refused")
"""

STILL = {
    "reads below the directory that it inherits": "os.open('17.table', os.O_RDONLY, dir_fd=inherited)",
    "reads modules late": "import xml.dom.minidom, wave",
    "starts threads, which are confined too": """
thread = threading.Thread(target=lambda: refused(os.open, sys.argv[2] + '/key', os.O_RDONLY))
thread.start()
thread.join()
""",
    "accepts on a socket that it has": """
listening.setblocking(False)
try:
    listening.accept()
except BlockingIOError:
    pass
""",
    "writes what it has open": "os.pwrite(ours, b'x', 0)",
    "sees and sets limits of its own": """
import fcntl, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (99, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 99
assert fcntl.fcntl(listening, fcntl.F_GETFD) and fcntl.fcntl(listening, fcntl.F_GETFL) is not None
listening.setblocking(True)
""",
}

NO_MORE = {
    "reads the key": "refused(os.open, sys.argv[2] + '/key', os.O_RDONLY)",
    "opens by its descriptor what it must not": "refused(os.open, f'/proc/self/fd/{ours}', os.O_RDWR)",
    "writes a table": "refused(lambda: os.open('17.table', os.O_WRONLY, dir_fd=inherited))",
    "makes a table": "refused(lambda: os.open('18.table', os.O_WRONLY | os.O_CREAT, dir_fd=inherited))",
    "removes a table": "refused(lambda: os.unlink('17.table', dir_fd=inherited))",
    "renames a table": "refused(lambda: os.rename('17.table', '18.table', src_dir_fd=inherited, dst_dir_fd=inherited))",
    "cuts a file short": "refused(os.ftruncate, ours, 0)",
    "connects": "refused(socket.socket, socket.AF_UNIX)\nrefused(socket.socket)",
    "starts a program": "refused(os.execv, '/bin/true', ['/bin/true'])",
    "ends a process": "refused(os.kill, os.getppid(), 0)\nrefused(os.pidfd_open, os.getppid())",
    "has the kernel end a process": """
import fcntl, struct
refused(fcntl.fcntl, listening, fcntl.F_SETOWN, os.getppid())
refused(fcntl.fcntl, listening, 15, struct.pack('ii', 1, os.getppid()))
refused(fcntl.fcntl, listening, 10, signal.SIGKILL)
for request in (0x8901, 0x8902):
    refused(fcntl.ioctl, listening, request, struct.pack('i', os.getppid()))
""",
    "limits or slows down another process": """
import resource
refused(resource.prlimit, os.getppid(), resource.RLIMIT_NOFILE, (9, 9))
refused(os.setpriority, os.PRIO_PROCESS, os.getppid(), 19)
refused(os.sched_setaffinity, os.getppid(), {0})
refused(os.sched_setscheduler, os.getppid(), os.SCHED_IDLE, os.sched_param(0))
""",
    "closes a file or a directory to others": """
for path in (sys.argv[2] + '/own', sys.argv[2], sys.argv[1]):
    refused(os.chmod, path, 0)
    refused(os.chown, path, 1, 1)
    refused(os.utime, path, (0, 0))
    refused(os.setxattr, path, 'user.x', b'x')
refused(os.fchmod, ours, 0)
refused(os.fchmod, inherited, 0)
""",
}


@pytest.mark.parametrize("case", [*STILL, *NO_MORE])
def test_a_confined_process(tmp_path: Path, case: str) -> None:
    tables, other = tmp_path / "tables", tmp_path / "other"
    for each in (tables, other):
        each.mkdir()
    (tables / "17.table").write_bytes(b"octets")
    for name in ("key", "own"):
        (other / name).write_bytes(b"octets")
    code = PROLOGUE + (STILL | NO_MORE)[case]
    command = [sys.executable, "-c", code, str(tables), str(other)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tables / "17.table").read_bytes() == b"octets"
