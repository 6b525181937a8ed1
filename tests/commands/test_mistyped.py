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
        ("status --jsn", "rootsrv status: error: there is no option --jsn; did you mean --json?"),
        ("zone verify root.zone --anchros=x --anchors x", "there is no option --anchros; did you mean --anchors?"),
        ("doctor --xyzzy", "there is no option --xyzzy (rootsrv doctor --help)"),
        ("status zrh1", "'zrh1' is too much (--help says what rootsrv status takes)"),
        ("help", "there is no 'help' (--help lists all)"),
        ("mesh", "required: COMMAND (--help lists all)"),
        ("", "required: COMMAND (--help lists all)"),
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


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ("[service]\nadresses = []\n", "service.adresses: unknown key"),
        ("[service]\nadresses = []\n", "; did you mean addresses?"),
        ("[servce]\n", "; did you mean service?"),
        ('[service]\naddresses = "::1"\n', "service.addresses: must be an array, got a string"),
        ("[service]\naddresses = [\n", "wrong.toml: "),
    ],
)
def test_a_wrong_configuration_is_told_with_what_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, remedy: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(wrong)
    for command in (["check-config", str(path)], ["status", "--config", str(path)]):
        assert main(command) == 2
        assert remedy in capsys.readouterr().err


def test_a_configuration_that_is_not_there_says_what_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("status", "doctor", "drain", "reload"):
        assert main([command, "--config", str(tmp_path / "none.toml")]) == 2
        assert "none.toml: No such file or directory; `rootsrv setup` makes one" in capsys.readouterr().err


def test_that_of_a_localroot_service_is_made_by_another_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["localroot", "users", "--config", str(tmp_path / "localroot.toml")]) == 2
    assert "`rootsrv localroot setup` makes one" in capsys.readouterr().err


def test_an_answer_that_setup_misses_is_told_with_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootsrv.setup.discovery.interfaces", list)
    assert main(["setup", "--yes", "--directory", str(tmp_path), "--name", "x", "--admin-interface", "a"]) == 2
    assert "admin_addresses: is missing: give --admin-addresses or --answers" in capsys.readouterr().err
