"""Killed before any one of its calls of the system, the writer of files leaves none that is broken under its name."""

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootsrv.capture import messages, pcap
from rootsrv.capture.compression import compressors
from rootsrv.capture.file_names import CHECKSUM, INCOMPLETE, METADATA, PART
from rootsrv.capture.files import CaptureDirectory, Finisher
from rootsrv.capture.output_file import OutputFile
from tests.capture.test_role import packets, query
from tests.needs import require_tool

AMOUNT = 30
CALLS = {os: ("open", "write", "fsync", "close", "rename", "unlink", "ftruncate"), io: ("open",)}


def open_directory(path: Path) -> CaptureDirectory:
    """As the role does when it starts."""
    return CaptureDirectory(
        path, quota_octets=1 << 40, keep_free_octets=0, retention_seconds=0, removes_oldest=False
    )  # fmt: skip


def write_a_file(directory: Path, cuts_back: bool) -> None:
    """A file of two members, its end, its metadata, and the same as .xz; or cut back to its first member."""
    open_directory(directory)
    finisher = Finisher("xz")
    file = OutputFile.begin(directory / "test.20261128.000000.000000.pcap.gz", compressors("gzip"), pcap.HEAD, b"")
    for member in range(2):
        rows = b"".join(
            pcap.rows_of(messages.CapturedMessage(number, 4, 0, bytes(16), 4000, bytes(16), 53, 0, b"", query(number)))
            for number in range(member * AMOUNT, (member + 1) * AMOUNT)
        )
        file.contents.items += AMOUNT
        file.write(pcap.records(rows, 0)[0])
        if member == 0:
            file.end_member()
    if cuts_back:
        file.cut_back()
    file.end()
    finisher.finish(file, {})
    finisher.wait(until_packed=True)
    finisher.close()


def killed_before(call: int, work: Callable[[], None]) -> bool:
    """Do *work* in a child that is killed before its *call*-th call; False: it has not as many."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            numbers = itertools.count(1)

            def counted(known: Callable[..., Any]) -> Callable[..., Any]:
                def called(*arguments: Any, **options: Any) -> Any:
                    if next(numbers) == call:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return known(*arguments, **options)

                return called

            for module, names in CALLS.items():
                for name in names:
                    setattr(module, name, counted(getattr(module, name)))
            work()
            status = 0
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def check(directory: Path, expected: int) -> list[Path]:
    """The files under final names, each of them whole and as is said beside it."""
    beside = (METADATA, CHECKSUM, PART, INCOMPLETE)
    found = [each for each in directory.iterdir() if not each.name.endswith(beside)]
    for path in found:
        octets = path.read_bytes()
        items = packets((lzma if path.suffix == ".xz" else gzip).decompress(octets))
        about = json.loads(path.with_name(path.name + METADATA).read_text())
        assert len(items) == about["items"] == expected
        digest = hashlib.md5(octets).hexdigest()
        assert about["md5"] == digest
        assert path.with_name(path.name + CHECKSUM).read_text() == f"{digest}  {path.name}\n"
    return found


@pytest.mark.parametrize("cuts_back", [False, True], ids=["whole", "cut back"])
def test_no_broken_file_under_its_name_whenever_it_is_killed(tmp_path: Path, cuts_back: bool) -> None:
    require_tool("xz")
    expected = AMOUNT if cuts_back else 2 * AMOUNT
    for call in itertools.count(1):
        directory = tmp_path / str(call)
        directory.mkdir()
        if not killed_before(call, lambda: write_a_file(directory, cuts_back)):  # noqa: B023
            break
        check(directory, expected)

        made = open_directory(directory)

        found = check(directory, expected)
        assert len(found) <= 1, "the same queries in two files"
        left = {each.name for each in directory.iterdir()}
        told = {f"{path.name}{suffix}" for path in found for suffix in ("", METADATA, CHECKSUM)}
        assert all(name in told or name.endswith(INCOMPLETE) for name in left)
        finisher = Finisher("xz")
        finisher.recompress(made.files())
        finisher.wait(until_packed=True)
        finisher.close()
        assert [path.suffix for path in check(directory, expected)] == [".xz"] * len(found)
    assert call > 20
    assert [path.name for path in check(directory, expected)] == ["test.20261128.000000.000000.pcap.xz"]


def test_the_calls_are_counted(tmp_path: Path) -> None:
    assert killed_before(1, lambda: os.close(os.open(tmp_path, os.O_RDONLY)))
    assert not killed_before(3, lambda: os.close(os.open(tmp_path, os.O_RDONLY)))
