"""A file is replaced whole or not at all."""

import os
from pathlib import Path

import pytest

from rootsrv.process import whole_file


@pytest.mark.parametrize("octets", [b"", b"new", b"x" * 3_000_000])
def test_the_new_content_stands_alone_in_the_place_of_the_old(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    whole_file.replace(path, octets)

    assert path.read_bytes() == octets
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["write", "fsync", "fchmod"])
def test_the_old_content_stays_when_the_new_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def disk_full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, disk_full)
    with pytest.raises(OSError, match="No space left"):
        whole_file.replace(path, b"new", 0o640)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_is_as_asked_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        whole_file.replace(tmp_path / "asked", b"", 0o644)
        whole_file.replace(tmp_path / "usual", b"")
    finally:
        os.umask(before)

    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("asked", "usual")] == [0o644, 0o600]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        whole_file.replace(tmp_path / "absent" / "file", b"")


def test_no_link_that_somebody_put_there_leads_it_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever name it takes: here it cannot be guessed, and if it were, what is there is never opened."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    shared = tmp_path / "shared"
    shared.mkdir()
    for guess in (f"export.{os.getpid()}.writing", "export.writing", "export"):
        (shared / guess).symlink_to(victim)

    whole_file.replace(shared / "export", b"new", 0o644)

    assert victim.read_bytes() == b"precious"
    assert (shared / "export").read_bytes() == b"new"
    assert not (shared / "export").is_symlink()

    monkeypatch.setattr(whole_file.secrets, "token_hex", lambda _: "guessed")
    (shared / "export.guessed.writing").symlink_to(victim)
    with pytest.raises(FileExistsError):
        whole_file.replace(shared / "export", b"newer", 0o644)
    assert victim.read_bytes() == b"precious"
    assert (shared / "export.guessed.writing").is_symlink()  # not ours to remove


def test_a_name_as_long_as_names_may_be_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    whole_file.replace(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_is_no_file_is_written_into_and_never_replaced(tmp_path: Path) -> None:
    """As /dev/stdout is, which root could replace for the whole machine."""
    target = tmp_path / "target"
    target.write_bytes(b"longer than what comes")
    with target.open("r+b") as stream:
        link = tmp_path / "stdout"
        link.symlink_to(f"/proc/self/fd/{stream.fileno()}")
        whole_file.put(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes()[:3] == b"new"
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    whole_file.put(null, b"new")
    assert null.is_symlink()


def test_a_file_and_a_link_to_one_are_replaced(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"old")
    link.symlink_to(file)
    whole_file.put(link, b"new", 0o640)
    assert (file.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"old", b"new", False)
    with pytest.raises(IsADirectoryError):
        whole_file.put(tmp_path, b"new")
