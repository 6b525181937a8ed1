"""What is kept twice: one damaged copy costs nothing, and the second is never older than the first."""

import errno
from pathlib import Path
from typing import Any

import pytest

from rootsrv.process import whole_file
from rootsrv.process.twice import BothDamaged, Twice

DAMAGE = {"empty": b"", "cut": b"{4", "zeros": bytes(4096), "another": b"[]"}


def numbered(octets: bytes) -> int:
    """What stands in it; ValueError for anything that `write` was not given."""
    text = octets.decode()
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError("no braces")
    return int(text[1:-1])


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "state.json"
    for number in (1, 2):
        Twice(path).write(b"{%d}" % number)
    return path


def test_where_nothing_is_there_is_nothing(tmp_path: Path) -> None:
    file = Twice(tmp_path / "state.json")
    assert (file.read(numbered), file.trouble) == (None, "")


@pytest.mark.parametrize("damage", [*DAMAGE, "gone", "a_directory"])
def test_a_damaged_file_is_read_from_its_twin_and_put_back(kept: Path, damage: str) -> None:
    kept.unlink()
    if damage in DAMAGE:
        kept.write_bytes(DAMAGE[damage])
    elif damage == "a_directory":
        (kept / "in the way").mkdir(parents=True)

    file = Twice(kept)
    assert file.read(numbered) == 2
    assert "state.json" in file.trouble
    if damage != "a_directory":
        assert kept.read_bytes() == b"{2}"
        assert Twice(kept).read(numbered) == 2
        file.write(b"{3}")
        assert file.trouble  # a person is to see it, whatever was written since


@pytest.mark.parametrize("damage", [*DAMAGE, "gone", "its_octets", "a_directory"])
def test_a_damaged_twin_is_made_anew(kept: Path, damage: str) -> None:
    twin = kept.with_name("state.json.twin")
    octets = twin.read_bytes()
    twin.unlink()
    if damage == "its_octets":
        twin.write_bytes(octets.replace(b"{2}", b"{7}"))
    elif damage in DAMAGE:
        twin.write_bytes(DAMAGE[damage])
    elif damage == "a_directory":
        twin.mkdir()

    file = Twice(kept)
    assert file.read(numbered) == 2
    assert bool(file.trouble) == (damage == "a_directory")
    if damage != "a_directory":
        assert twin.read_bytes() == octets


def test_both_damaged_is_said(kept: Path) -> None:
    kept.write_bytes(b"")
    kept.with_name("state.json.twin").write_bytes(b"")
    with pytest.raises(BothDamaged, match=r"state\.json: damaged .*state\.json\.twin: its digest is wrong"):
        Twice(kept).read(numbered)


def test_a_file_that_an_older_version_wrote_counts_and_its_twin_follows(kept: Path) -> None:
    kept.write_bytes(b"{9}")
    assert Twice(kept).read(numbered) == 9
    kept.write_bytes(b"")
    assert Twice(kept).read(numbered) == 9


class PowerFailure(BaseException):
    """Nothing is done after it."""


@pytest.mark.parametrize("writes", [0, 1])
def test_whenever_the_power_fails_no_twin_is_older_than_its_file(
    kept: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    real, left = whole_file.replace, [writes]

    def until_it_fails(*what: Any) -> None:
        if not left[0]:
            raise PowerFailure
        left[0] -= 1
        real(*what)

    monkeypatch.setattr(whole_file, "replace", until_it_fails)
    with pytest.raises(PowerFailure):
        Twice(kept).write(b"{3}")
    monkeypatch.undo()

    written = 2 + writes
    assert numbered(kept.read_bytes()) == written
    twin = kept.with_name("state.json.twin")
    assert not twin.exists() or twin.read_bytes().endswith(b"{%d}" % written)
    assert Twice(kept).read(numbered) == written
    kept.write_bytes(b"")
    assert Twice(kept).read(numbered) == written


@pytest.mark.parametrize("refused", ["state.json", "state.json.twin"])
def test_a_full_disk_leaves_two_copies_of_one_content_or_one(
    kept: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    real = whole_file.replace

    def full(path: Path, *what: Any) -> None:
        if path.name == refused:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, *what)

    monkeypatch.setattr(whole_file, "replace", full)
    file, twin = Twice(kept), kept.with_name("state.json.twin")
    if refused == "state.json":
        with pytest.raises(OSError, match="No space"):
            file.write(b"{3}")
        assert (kept.read_bytes(), twin.read_bytes()[-3:]) == (b"{2}", b"{2}")
        assert not file.trouble
    else:
        file.write(b"{3}")
        assert kept.read_bytes() == b"{3}"
        assert not twin.exists()
        assert "No space left on device" in file.trouble
        monkeypatch.undo()
        file.write(b"{4}")
        assert not file.trouble
    assert {each.name for each in kept.parent.iterdir()} <= {"state.json", "state.json.twin"}
