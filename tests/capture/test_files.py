"""What is in a capture's directory, whose it is, who may read it, and when it goes."""

import errno
import gzip
import json
import os
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rootsrv.capture import file_names, files, output_file, retention, room
from rootsrv.capture.compression import compressors
from rootsrv.capture.file_names import INCOMPLETE, METADATA, PART
from rootsrv.capture.files import CaptureDirectory, Finisher
from rootsrv.capture.hand import Hand
from rootsrv.capture.output_file import OutputFile
from tests.needs import require_root, require_tool
from tests.server.live import wait_until

NAME = "test.20261128.{:06}.000000.pcap"
DAY = 86_400.0


def directory(path: Path, **more: Any) -> CaptureDirectory:
    settings: dict[str, Any] = {
        "quota_octets": 1 << 40, "keep_free_octets": 0, "retention_seconds": 0.0, "removes_oldest": False,
    }  # fmt: skip
    return CaptureDirectory(path, **settings | more)


def write(path: Path, number: int, octets: bytes = b"x" * 1000, age_seconds: float = 0.0) -> Path:
    """A file as a capture leaves it."""
    file = OutputFile.begin(path / NAME.format(number), compressors("none"), b"", b"")
    file.write(octets)
    file.end()
    file.finish({}, Hand.in_memory())
    os.utime(file.path, (time.time() - age_seconds,) * 2)
    return file.path


FOREIGN = (
    "notes.pcapng", "mine.pcap", "mine.pcap.json", "lab.cdns", "lab.cdns.md5", "download.part", "begun.pcap.part",
    "old.incomplete", "report.html",
    "k-root.20261128.000000.000000.pcap.gz",  # dnscap's, which has no metadata
    "test.20261128.000000.000000.pcap.txt.part",
)  # fmt: skip


def foreign(path: Path) -> dict[str, bytes]:
    """What is none of ours, older than everything: files, empty ones, links, directories."""
    path.mkdir(exist_ok=True)
    outside = path.parent / "outside"
    outside.mkdir()
    for number, name in enumerate(FOREIGN):
        (path / name).write_bytes(b"theirs" * (number % 2))
    (path / "empty.part").write_bytes(b"")
    (outside / "kept").write_bytes(b"kept")
    for name in (NAME.format(1), NAME.format(2) + PART, NAME.format(3) + INCOMPLETE, NAME.format(4) + METADATA):
        (path / name).symlink_to(outside / "kept")
    (path / (NAME.format(1) + METADATA)).write_bytes(b"{}")
    (path / (NAME.format(1) + METADATA)).unlink()
    (path / (NAME.format(5) + METADATA)).mkdir()
    (path / (NAME.format(6) + PART)).mkdir()
    # Somebody makes his own copy as xz, and has not done.
    (path / "x.pcap.gz").write_bytes(b"theirs")
    (path / "x.pcap.xz").write_bytes(b"half")
    for each in path.iterdir():
        os.utime(each, (1.0, 1.0), follow_symlinks=False)
    return found(path)


def found(path: Path) -> dict[str, bytes]:
    return {
        str(each.relative_to(path.parent)): os.readlink(each).encode() if each.is_symlink()
        else each.read_bytes() if each.is_file() else b""
        for top in (path, path.parent / "outside") for each in top.iterdir()
    }  # fmt: skip


def test_what_others_have_put_there_stays_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("xz")
    monkeypatch.setattr(retention, "STEADY_SECONDS", 0.0)
    path = tmp_path / "files"
    theirs = foreign(path)
    place = directory(path, quota_octets=500, retention_seconds=DAY, removes_oldest=True)
    finisher = Finisher("xz")
    finisher.recompress(place.files())
    ours = write(path, 10, age_seconds=2 * DAY)
    assert place.files() == [ours]
    place.remove_aged()
    ours = write(path, 11)
    assert place.has_room()
    finisher.wait(until_packed=True)
    finisher.close()
    assert found(path) == theirs
    assert place.removed == 2


def test_files_do_not_go_for_room_that_others_have_taken(tmp_path: Path) -> None:
    path = tmp_path / "files"
    place = directory(path, quota_octets=5_000, removes_oldest=True)
    ours = [write(path, number) for number in range(3)]
    (path / "theirs").write_bytes(b"x" * 50_000)
    assert not place.has_room()
    assert place.files() == ours
    (path / "theirs").write_bytes(b"x" * 2_000)
    assert place.has_room()
    assert 0 < len(place.files()) < 3


def test_one_file_goes_for_the_room_of_one_though_a_reader_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "files"
    place = directory(path, removes_oldest=True)
    ours = [write(path, number, age_seconds=100 - number) for number in range(5)]
    monkeypatch.setattr(room.Room, "free_octets", lambda _: room.LEAST_FREE_OCTETS - 500)
    assert place.has_room()
    assert place.files() == ours[1:]


def test_a_file_that_cannot_be_removed_keeps_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    chattr = require_tool("chattr")
    monkeypatch.setattr(retention, "STEADY_SECONDS", 0.0)
    path = tmp_path / "files"
    place = directory(path, quota_octets=3_500, retention_seconds=DAY, removes_oldest=True)
    stuck, other, young = (write(path, number, age_seconds=days * DAY) for number, days in enumerate((3, 2, 0)))
    if subprocess.run([chattr, "+i", stuck], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        place.remove_aged()
        assert place.files() == [stuck, young]
        assert not other.exists()
        for number in range(5, 9):
            last = write(path, number)
            assert place.has_room()
        assert place.files()[0] == stuck
        assert last in place.files()
    finally:
        subprocess.run([chattr, "-i", stuck], check=True)


def test_a_clock_that_was_stepped_takes_no_files_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "files"
    place = directory(path, retention_seconds=DAY)
    ours = write(path, 0)
    real, now = time.time, retention.boottime_ns()
    monkeypatch.setattr(retention, "boottime_ns", lambda: now + int(retention.STEADY_SECONDS * 10**9))
    monkeypatch.setattr(time, "time", lambda: real() + retention.STEADY_SECONDS + 20 * 365 * DAY)
    place.remove_aged()
    assert place.files() == [ours]
    monkeypatch.setattr(retention, "boottime_ns", lambda: now + 2 * int(retention.STEADY_SECONDS * 10**9))
    monkeypatch.setattr(time, "time", lambda: real() + 2 * retention.STEADY_SECONDS + 20 * 365 * DAY)
    place.remove_aged()
    assert place.files() == [], "it stands: it was right"


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_the_group_reads_files_and_nobody_else_does_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    require_tool("xz")
    before = os.umask(umask)
    try:
        path = tmp_path / "files"
        directory(path)
        write(path, 0)
        finisher = Finisher("xz")
        finisher.recompress([write(path, 1)])
        finisher.wait(until_packed=True)
        finisher.close()
    finally:
        os.umask(before)
    names = sorted(each.name.removeprefix("test.20261128.") for each in path.iterdir())
    assert names == [
        f"{each}{beside}"
        for each in ("000000.000000.pcap", "000001.000000.pcap.xz")
        for beside in ("", ".json", ".md5")
    ]
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.iterdir()} == {0o640}
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_nothing_is_written_where_a_link_leads(tmp_path: Path) -> None:
    path = tmp_path / "files"
    directory(path)
    (tmp_path / "theirs").write_bytes(b"theirs")
    for suffix in (".json", ".md5"):
        (path / (NAME.format(0) + suffix)).symlink_to(tmp_path / "theirs")
    ours = write(path, 0)
    assert json.loads(ours.with_name(ours.name + METADATA).read_text())["octets"] == 1000
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


def test_of_two_that_were_left_under_one_name_both_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "files"
    for content in (b"first", b"second", b"third"):
        directory(path)
        (path / (NAME.format(0) + PART)).write_bytes(content)
    place = directory(path)
    assert sorted(each.read_bytes() for each in path.iterdir()) == [b"first", b"second", b"third"]
    assert len(place.files()) == 3


def test_what_a_crash_left_of_the_order_goes(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_bytes(b"{}")
    (tmp_path / "order.json.0123456789abcdef.writing").write_bytes(b"{")
    directory(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["order.json"]


def test_what_is_compressed_again_has_the_age_that_it_had(tmp_path: Path) -> None:
    require_tool("xz")
    place = directory(tmp_path / "files")
    before = write(place.path, 0, age_seconds=5 * DAY).stat().st_mtime
    finisher = Finisher("xz")
    finisher.recompress(place.files())
    finisher.wait(until_packed=True)
    finisher.close()
    (packed,) = place.files()
    assert packed.suffix == ".xz"
    assert abs(packed.stat().st_mtime - before) < 1


def programs(path: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """In place of those commands what *scripts* do."""
    path.mkdir()
    for name, script in scripts.items():
        (path / name).write_text(f"#!/bin/sh\n{script}\n")
        (path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")


@pytest.mark.parametrize("where", ["while it is packed", "the metadata", "the checksum"])
def test_a_disk_that_is_full_when_it_compresses_again_costs_a_later_try_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    xz = require_tool("xz")
    full = tmp_path / "full"
    full.touch()
    programs(tmp_path / "programs", monkeypatch, xz=f'[ -e "{full}" ] && exit 1; exec {xz} "$@"')
    if where != "while it is packed":
        programs(tmp_path / "others", monkeypatch, xz=f'exec {xz} "$@"')
    known, suffix = files.write_file, {"the metadata": ".xz.json", "the checksum": ".xz.md5"}.get(where, ".none")

    def write_with_room(path: Path, octets: bytes) -> None:
        if full.exists() and path.name.endswith(suffix):
            path.write_bytes(octets[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        known(path, octets)

    monkeypatch.setattr(files, "write_file", write_with_room)
    place = directory(tmp_path / "files")
    ours = write(place.path, 0)
    finisher = Finisher("xz")
    finisher.recompress([ours])
    finisher.wait(until_packed=True)
    assert {each.name for each in place.path.iterdir()} == {f"{ours.name}{end}" for end in ("", ".json", ".md5")}

    full.unlink()
    file = OutputFile.begin(place.path / NAME.format(9), compressors("none"), b"", b"")
    file.end()
    finisher.finish(file, {})
    finisher.wait()
    finisher.wait(until_packed=True)
    finisher.close()
    assert [each.name for each in place.files()] == [f"{each}.xz" for each in (ours.name, file.path.name)]


def test_two_files_that_differ_in_their_compression_alone_do_not_become_one(tmp_path: Path) -> None:
    """A clock that was stepped back comes by the same instant again, with another compression configured."""
    place = directory(tmp_path / "files")
    name = NAME.format(0)
    for there in ("", ".gz", ".zst", ".xz"):
        for ending in ("", PART):
            (place.path / f"{name}{there}{ending}").touch()
            assert [file_names.is_taken(place.path / f"{name}{each}") for each in ("", ".gz", ".zst")] == [True] * 3
            assert not file_names.is_taken(place.path / f"{NAME.format(1)}{there}")
            (place.path / f"{name}{there}{ending}").unlink()


def test_nobody_waits_for_what_is_compressed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """xz takes a second for what was captured in a fortieth: at the end of a collection hours of it may wait."""
    programs(tmp_path / "programs", monkeypatch, xz="exec tail -f /dev/null")
    place = directory(tmp_path / "files")
    ours = [write(place.path, number) for number in range(3)]
    finisher = Finisher("xz")
    finisher.recompress(ours)
    wait_until(lambda: list(place.path.glob("*.xz.part")), "it packs")
    file = OutputFile.begin(place.path / (NAME.format(9) + ".gz"), compressors("gzip"), b"", b"")
    file.end()
    finisher.finish(file, {})
    assert finisher.packing >= 3

    ending = threading.Thread(target=lambda: (finisher.wait(), finisher.close()), daemon=True)
    ending.start()
    ending.join(30)

    assert not ending.is_alive()
    assert gzip.decompress(file.path.read_bytes()) == b""
    assert {*place.files()} == {*ours, file.path}
    assert not list(place.path.glob("*.part"))
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [each for each in children if "tail" in Path(f"/proc/{each}/cmdline").read_text()]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a power cut leaves under a final name is whole: rename(2) alone does not bring octets to the disk."""
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        done.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path)))

    def renamed(source: Path, target: Path) -> None:
        rename(source, target)
        done.append("rename")

    name = NAME.format(9)
    file = OutputFile.begin(tmp_path / name, compressors("none"), b"head", b"end")
    file.end()
    monkeypatch.setattr(output_file.os, "fsync", synced)
    monkeypatch.setattr(output_file.os, "rename", renamed)
    file.finish({}, Hand.in_memory())
    assert done == [f"/{name}{PART}", f"/{name}{METADATA}", f"/{name}.md5", "rename", ""]


def test_nothing_tells_of_a_file_that_could_not_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finisher = Finisher("none")
    file = OutputFile.begin(tmp_path / NAME.format(9), compressors("none"), b"head", b"end")
    file.end()
    with monkeypatch.context() as failing:
        known = output_file.write_file

        def no_checksum(path: Path, octets: bytes) -> None:
            if path.suffix == ".md5":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            known(path, octets)

        failing.setattr(output_file, "write_file", no_checksum)
        finisher.finish(file, {})
        finisher.wait()
    finisher.close()
    assert [each.name for each in tmp_path.iterdir()] == [NAME.format(9) + INCOMPLETE]


def test_no_write_keeps_the_kernel_from_giving_the_core_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is taken at once."""
    known, sizes = os.write, []

    def written(descriptor: int, octets: bytes) -> int:
        sizes.append(len(octets))
        return known(descriptor, octets)

    monkeypatch.setattr(output_file.os, "write", written)
    file = OutputFile.begin(tmp_path / NAME.format(9), compressors("none"), b"", b"")
    octets = os.urandom(1_000_001)
    file.write(octets)
    file.end()
    file.finish({}, Hand.in_memory())
    assert max(sizes) == 65_536
    assert file.path.read_bytes() == octets
