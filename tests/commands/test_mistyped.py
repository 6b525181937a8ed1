"""What was mistyped is told with what to do about it."""

from pathlib import Path

import pytest

from rootsrv.commands.parser import main


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("stauts", "there is no 'stauts'; did you mean status?"),
        ("zone aprove 2026112801", "there is no 'aprove'; did you mean approve?"),
        ("mesh roster sing", "did you mean sign?"),
        ("drain --family 5x", "argument --family: invalid choice: '5x' (choose from"),
        ("zone verify root.zone", "the following arguments are required: --anchors"),
    ],
)
def test_a_mistyped_word_is_answered_with_what_was_meant(
    capsys: pytest.CaptureFixture[str], typed: str, remedy: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    assert ended.value.code == 2
    assert remedy in capsys.readouterr().err


def test_a_configuration_that_is_not_there_says_what_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("status", "doctor", "drain", "reload"):
        assert main([command, "--config", str(tmp_path / "none.toml")]) == 2
        assert "none.toml: No such file or directory; `rootsrv setup` makes one" in capsys.readouterr().err


def test_an_answer_that_setup_misses_is_told_with_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootsrv.setup.discovery.defaults", dict)
    assert main(["setup", "--yes", "--directory", str(tmp_path), "--name", "x", "--admin-interface", "a"]) == 2
    assert "admin_addresses: is missing: give --admin-addresses or --answers" in capsys.readouterr().err
