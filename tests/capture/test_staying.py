"""Files that will not be finished, on a disk that does not let them be called so: seen, and tried again."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootsrv.capture.output_file import OutputFile
from tests.capture.test_collector import MIDNIGHT, Bench

LEFT = "test.20261127.235900.000000.pcap"


class Disk:
    """Lets nothing be renamed to `.incomplete`, and nothing that was begun be removed, while it is locked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_locked = True
        self.tries = 0
        for name in ("rename", "unlink"):
            monkeypatch.setattr(Path, name, self._refusing(getattr(Path, name)))

    def _refusing(self, genuine: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(path: Path, *arguments: Any, **more: Any) -> Any:
            if path.suffix == ".part":
                self.tries += 1
                if self.is_locked:
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return genuine(path, *arguments, **more)

        return refusing


def failing(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def finishing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails at its end."""
    monkeypatch.setattr(OutputFile, "finish", failing)
    bench.start()
    bench.ask(MIDNIGHT - 40)
    bench.turn()
    bench.stop()
    bench.collector.settle()


def writing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And while it is written, so that not even what is whole can be kept."""
    bench.start()
    bench.ask(MIDNIGHT - 40)
    bench.turn()
    for name in ("write", "cut_back"):
        monkeypatch.setattr(OutputFile, name, failing)
    bench.stop()


def beginning(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at its begin."""
    monkeypatch.setattr(OutputFile, "end_member", failing)
    bench.start()
    bench.ask(MIDNIGHT - 40)
    bench.turn()
    bench.stop()


def left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a role that was killed."""


@pytest.mark.parametrize("way", [finishing, writing, beginning, left], ids=lambda way: way.__name__)
def test_what_cannot_be_set_aside_is_told_seen_and_tried_again(
    way: Callable[[Bench, pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rootsrv")
    if way is left:
        (tmp_path / f"{LEFT}.part").write_bytes(b"begun")
    disk = Disk(monkeypatch)
    bench = Bench(tmp_path)
    try:
        way(bench, monkeypatch)
        (part,) = tmp_path.glob("*.part")
        assert bench.place.staying == [part.name]
        before = disk.tries
        for _ in range(3):
            bench.collector._aged_at = 0.0  # a minute later
            bench.collector.turn()
        assert disk.tries == before + 3
        assert caplog.text.count(f"capture file cannot be set aside file={part.name}") == 1

        disk.is_locked = False
        bench.collector._aged_at = 0.0
        bench.collector.turn()
    finally:
        bench.collector.close()
        bench.theirs.close()
    assert bench.place.staying == []
    assert not list(tmp_path.glob("*.part"))
    assert [each.name for each in tmp_path.iterdir()] == [part.name.removesuffix("part") + "incomplete"]
    assert caplog.text.count(f"capture file is set aside after all file={part.name}") == 1


def test_a_file_of_somebody_else_where_one_is_to_be_begun_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another role, say, in the same directory, at the same instant."""
    monkeypatch.setattr("rootsrv.capture.file_writer.is_taken", lambda path: False)
    bench = Bench(tmp_path)
    theirs: list[Path] = []
    genuine = OutputFile.begin

    def begin(path: Path, *arguments: Any, **more: Any) -> OutputFile:
        theirs.append(path.with_name(path.name + ".part"))
        theirs[-1].write_bytes(b"theirs")
        return genuine(path, *arguments, **more)

    monkeypatch.setattr(OutputFile, "begin", begin)
    try:
        bench.start()
        bench.ask(MIDNIGHT - 40)
        bench.turn()
        bench.stop()
    finally:
        bench.collector.close()
        bench.theirs.close()
    assert theirs
    assert all(each.read_bytes() == b"theirs" for each in theirs)
    assert bench.place.staying == []


def test_what_a_try_to_compress_again_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """It could not be removed at the time."""
    bench = Bench(tmp_path)
    bench.finisher._recompress = "xz"
    try:
        bench.start()
        bench.ask(MIDNIGHT - 40)
        bench.turn()
        name = bench.collector.file
        (tmp_path / f"{name}.xz.part").write_bytes(b"half")
        bench.stop()
        bench.finisher.wait(until_packed=True)
    finally:
        bench.collector.close()
        bench.theirs.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        f"{name}.xz{suffix}" for suffix in ("", ".json", ".md5")
    ]
