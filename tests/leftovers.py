"""What a run of the tests must not leave: processes, network namespaces, mounts, BPF programs, files.

Others work on the same machine.  So everything is told by a mark: a directory that the run makes, which is TMPDIR for
all that it starts, and in the environment of each of these processes.
"""

import contextlib
import ctypes
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import guardian

MARK = "ROOTSRV_TEST_RUN"
"""In the environment: the directory of this run."""

_PATIENCE_SECONDS = 15.0
"""How long what is ending may take to end, on a busy machine."""

_GATEWAY = b"sys.stdin.readline()"  # of execnet: pytest-xdist's own processes
_TRACKER = b"multiprocessing.resource_tracker"

_BPF, _PROGRAM_NEXT_ID, _PROGRAM_BY_ID, _OBJECT_INFO = 321, 11, 13, 15  # linux/bpf.h; the call's number on x86_64
_NAME_AT, _LOADED_AT = 64, 40  # in struct bpf_prog_info


_began: list[str] = []
"""The run's directory, in the process that made it: a run within the run, which some tests start, ends nothing."""


_guardians: list["subprocess.Popen[bytes]"] = []


def begin() -> None:
    """At the start of a run, and of each process that it is spread over: note the process."""
    if MARK not in os.environ:
        directory = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
        directory.chmod(0o1777)  # some tests are other accounts
        (directory / ".pids").mkdir()
        (directory / ".bpf").write_text(str(time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        os.environ |= {MARK: str(directory), "TMPDIR": str(directory)}
        _began.append(str(directory))
        tempfile.tempdir = None
        # Who is killed does not come to `end`.
        _guardians.append(guardian.watch(f"{MARK}={directory}"))
    (Path(os.environ[MARK]) / ".pids" / str(os.getpid())).touch()


def end(own: Path) -> list[str]:
    """What is left of this run, described; *own*: the directory that its tests had for their files."""
    if os.environ[MARK] not in _began:
        return []
    while _guardians:
        guardian.dismiss(_guardians.pop())
    directory = Path(os.environ[MARK])
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (left := list(_left(directory, own))) and time.monotonic() < deadline:
        time.sleep(0.1)
    for name in (MARK, "TMPDIR"):
        del os.environ[name]
    tempfile.tempdir = None
    shutil.rmtree(directory, ignore_errors=True)
    return left


def _left(directory: Path, own: Path) -> Iterator[str]:
    pids = {each.name for each in (directory / ".pids").iterdir()}
    mark = f"{MARK}={directory}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        if process.name in pids:
            continue
        try:
            environment, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if mark in environment.split(b"\0") and _GATEWAY not in command and not _ends_with_us(process, command):
            yield f"process {process.name}: {command.replace(bytes(1), b' ').decode(errors='replace')[:200]}"
    for name in _names("/run/netns"):
        if (found := re.match(r"rs-(\d+)-", name)) and found[1] in pids:
            yield f"network namespace {name}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if Path(line.split()[4]).is_relative_to(directory) or Path(line.split()[4]).is_relative_to(own):
            yield f"mount {line.split()[4]}"
    for name in _names(directory):
        if name not in {".pids", ".bpf"} and not name.startswith("pytest-of-"):  # which pytest keeps itself
            yield f"file {directory}/{name}"
    for name in _names("/tmp"):
        if (found := re.match(r"rs-(\d+)-", name)) and found[1] in pids:
            yield f"file /tmp/{name}"
    yield from _programs(int((directory / ".bpf").read_text()))


def _ends_with_us(process: Path, command: bytes) -> bool:
    """Whether it is what multiprocessing has beside a process that used it, here: it ends with that."""
    with contextlib.suppress(OSError):
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        return _TRACKER in command and parent == os.getpid()
    return True


def _names(directory: str | Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _programs(since_ns: int) -> Iterator[str]:
    """BPF programs of ours that were loaded since (CLOCK_BOOTTIME) and that no process holds any more."""
    if os.geteuid() or os.uname().machine != "x86_64":
        return
    library = ctypes.CDLL(None, use_errno=True)
    found: dict[int, str] = {}
    at = 0
    while True:
        asked = ctypes.create_string_buffer(struct.pack("=III", at, 0, 0), 12)
        if library.syscall(_BPF, _PROGRAM_NEXT_ID, asked, 12):
            break
        at = struct.unpack_from("=I", asked, 4)[0]
        wanted = ctypes.create_string_buffer(struct.pack("=III", at, 0, 0), 12)
        if (descriptor := library.syscall(_BPF, _PROGRAM_BY_ID, wanted, 12)) < 0:
            continue
        try:
            info = ctypes.create_string_buffer(80)
            told = ctypes.create_string_buffer(struct.pack("=IIQ", descriptor, 80, ctypes.addressof(info)), 16)
            if library.syscall(_BPF, _OBJECT_INFO, told, 16) == 0:
                name = info.raw[_NAME_AT:].split(b"\0")[0].decode()
                (loaded,) = struct.unpack_from("=Q", info, _LOADED_AT)
                if name in {"rootsrv_xdp", "rootsrv_tc", "xdp_test", "tc_test"} and loaded >= since_ns:
                    found[at] = name
        finally:
            os.close(descriptor)
    if found:
        held = set(_held_programs())
        yield from (f"BPF program {number} {name}" for number, name in found.items() if number not in held)


def _held_programs() -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/fdinfo"):
        for name in _names(entry):
            try:
                told = (entry / name).read_text()
            except OSError:
                continue
            if found := re.search(r"^prog_id:\s+(\d+)$", told, re.MULTILINE):
                yield int(found[1])
