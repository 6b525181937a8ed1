"""Manual pages and completion are those of the commands there are."""

import subprocess
from pathlib import Path

import pytest

from rootsrv.commands import manual
from tests.needs import REPOSITORY, require_tool

DEPLOY = REPOSITORY / "deploy"


def test_what_is_shipped_is_what_the_commands_say() -> None:
    made = manual.files()
    there = {str(path.relative_to(DEPLOY)) for path in (*DEPLOY.glob("man/*"), *DEPLOY.glob("completions/*"))}
    differing = [name for name in sorted(there | set(made)) if name not in made or not same(name, made[name])]
    assert differing == [], "a command has changed: run `make man`"


def same(name: str, contents: str) -> bool:
    path = DEPLOY / name
    return path.exists() and path.read_text() == contents


def test_groff_has_nothing_to_say_against_the_pages() -> None:
    groff = require_tool("groff")
    done = subprocess.run(
        [groff, "-man", "-ww", "-z", "-Tutf8", *sorted(DEPLOY.glob("man/*.1"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_option_is_on_its_page() -> None:
    for command in manual.commands():
        text = (DEPLOY / "man" / f"{command.page}.1").read_text()
        for action in command.options():
            for name in action.option_strings:
                assert name.replace("-", "\\-") in text, (command.page, name)


def complete(*words: str) -> list[str]:
    """What bash offers for the last of *words*."""
    script = (
        f'source "$1"; shift; COMP_WORDS=(rootsrv "$@"); COMP_CWORD={len(words)}; _rootsrv; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(DEPLOY / "completions" / "rootsrv.bash"), *words],
        cwd=DEPLOY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("fastp",), ["fastpath"]),
        (("zone", "appr"), ["approve"]),
        (("zone", "verify", "--zonemd", ""), ["required", "if-supported", "off"]),
        (("run", "--role", "ma"), ["maintain"]),
        (("doctor", "--js"), ["--json"]),
        (("check-config", "rootsrv.t"), ["rootsrv.toml"]),
        (("doctor", "--config", "rootsrv.t"), ["rootsrv.toml"]),
    ],
    ids=" ".join,
)
def test_bash_completes(words: tuple[str, ...], offered: list[str]) -> None:
    assert complete(*words) == offered


def test_a_page_of_a_command_that_is_gone_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "man").mkdir()
    (tmp_path / "man" / "rootsrv-gone.1").write_text("")
    monkeypatch.setattr("sys.argv", ["manual", str(tmp_path)])
    manual.main()
    assert not (tmp_path / "man" / "rootsrv-gone.1").exists()
    assert (tmp_path / "man" / "rootsrv-zone-verify.1").exists()
