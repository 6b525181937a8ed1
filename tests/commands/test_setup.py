"""`rootsrv setup` as it is typed: at a terminal, with options, again, over work of others, and on a full disk."""

import codecs
import json
import os
import pty
import select
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rootsrv.commands import changes, setup
from rootsrv.commands.parser import main
from rootsrv.config import file as config_file
from rootsrv.process import whole_file
from rootsrv.setup import files
from rootsrv.setup.remembered import lists
from rootsrv.setup.site import SiteAnswers
from rootsrv.store import sources_key
from tests.needs import require_tool
from tests.setup.site import answers, check, load


def places(directory: Path) -> list[str]:
    bird = str(directory / "bird" / "bird.conf")
    return ["--directory", str(directory / "etc"), "--bird", bird, "--etc", str(directory / "host")]


def options(directory: Path, **changed: Any) -> list[str]:
    given = ["setup", *places(directory), "--no-doctor"]
    for name, value in answers(**changed).items():
        for each in value if name in lists(SiteAnswers) else [value]:
            given += [f"--{name.replace('_', '-')}", str(each)]
    return given


@pytest.fixture(autouse=True)
def _tools() -> None:
    for tool in ("bird", "nft", "ip"):
        require_tool(tool)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(each.relative_to(directory)): each.read_bytes() for each in directory.rglob("*") if each.is_file()}


def test_options_alone_make_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(tmp_path), "--yes"]) == 0
    told = capsys.readouterr().out
    assert sorted(contents(tmp_path)) == [
        "bird/bird.conf", "etc/network.conf", "etc/rootsrv.nft", "etc/rootsrv.toml", "etc/site.toml", "etc/sources.key",
        "host/chrony/conf.d/rootsrv.conf", "host/sysctl.d/60-rootsrv.conf",
        "host/systemd/networkd.conf.d/60-rootsrv.conf",
    ]  # fmt: skip
    assert "+define LOCAL_AS    = 65001;" in told
    assert "change-me" not in told
    assert "0011223344" not in told
    assert "ffeeddccbb" not in told
    assert "still missing: /etc/rootsrv/root" in told
    for each in tmp_path.rglob("*.*"):
        mode = 0o644 if "host" in each.parts else 0o640
        assert each.is_dir() or stat.S_IMODE(each.stat().st_mode) == mode
    before = contents(tmp_path)
    assert main([*options(tmp_path), "--yes"]) == 0
    first, *missing = capsys.readouterr().out.splitlines()
    assert first == "nothing to change"
    assert all(line.startswith("still missing: /etc/rootsrv/") for line in missing)
    assert contents(tmp_path) == before


def test_an_answer_changed_changes_its_files_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(tmp_path), "--yes"]) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    again = ["setup", *places(tmp_path), "--no-doctor", "--local-as", "65077"]
    # Everything else is remembered; the password, too.
    assert main([*again, "--show"]) == 1
    assert contents(tmp_path) == before
    assert main([*again, "--yes"]) == 0
    after = contents(tmp_path)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"etc/site.toml", "bird/bird.conf"}
    assert after["bird/bird.conf.before-setup"] == before["bird/bird.conf"]
    assert b'password "change-me";' in after["bird/bird.conf"]


def test_what_somebody_edited_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(tmp_path), "--yes"]) == 0
    edited = tmp_path / "etc" / "rootsrv.toml"
    edited.write_text(edited.read_text() + '\n[clock]\nsource = "trusted"\n')
    before = contents(tmp_path)
    assert main([*options(tmp_path), "--yes"]) == 1
    assert f"{edited}: is not as setup wrote it" in capsys.readouterr().err
    assert contents(tmp_path) == before
    assert main([*options(tmp_path), "--yes", "--overwrite"]) == 0
    assert edited.with_name("rootsrv.toml.before-setup").read_bytes() == before["etc/rootsrv.toml"]
    assert "trusted" not in edited.read_text()


def test_the_examples_as_installed_are_nobodys_work(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "rootsrv.toml").write_text((setup.deployed() / "box.toml").read_text())
    (tmp_path / "etc" / "network.conf").write_text((setup.deployed() / "network/network.conf").read_text())
    bird = tmp_path / "bird" / "bird.conf"
    bird.parent.mkdir()
    debians = (
        "# This is a basic configuration file, which contains boilerplate options\nlog syslog all;\n# protocol bgp {\n"
    )
    bird.write_text(debians + "protocol bgp mine {}\n")
    assert main([*options(tmp_path, name="other"), "--yes"]) == 1
    bird.write_text(debians)
    assert main([*options(tmp_path, name="other"), "--yes"]) == 0
    assert load(tmp_path / "etc" / "site.toml").name == "other"


def test_a_secret_of_the_cookies_is_made_once(tmp_path: Path) -> None:
    assert main([*options(tmp_path, cookie_secret=None), "--yes"]) == 0
    first = config_file.load(tmp_path / "etc" / "rootsrv.toml").cookies.secret
    assert len(first) == 32
    assert main([*options(tmp_path, cookie_secret=None, name="other"), "--yes"]) == 0
    assert config_file.load(tmp_path / "etc" / "rootsrv.toml").cookies.secret == first


def test_the_key_of_unique_sources_is_made_once_and_changed_on_demand_without_being_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options(tmp_path, sources_key=None), "--yes"]) == 0
    key = tmp_path / "etc" / "sources.key"
    first = sources_key.read(key)
    loaded = config_file.load(tmp_path / "etc" / "rootsrv.toml")
    assert loaded.report.sources_key_file == "/etc/rootsrv/sources.key"
    assert main([*options(tmp_path, sources_key=None, name="other"), "--yes"]) == 0
    assert sources_key.read(key) == first
    assert main([*options(tmp_path, sources_key="ab" * 16), "--yes"]) == 0
    assert sources_key.read(key).octets.hex() == "ab" * 16
    told = capsys.readouterr().out
    assert first.octets.hex() not in told
    assert "abab" not in told


def test_what_was_set_up_before_there_was_a_key_is_nobodys_work_either(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    before = check(answers(sources_key=None))
    for name, text in files.make(before, setup._examples()).items():
        (tmp_path / "etc" / name).write_text(text)
    (tmp_path / "etc" / "bird.conf").unlink()
    assert main([*options(tmp_path, sources_key=None), "--yes"]) == 0
    assert sources_key.read(tmp_path / "etc" / "sources.key")


def test_a_wrong_answer_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options(tmp_path, local_as=0), "--yes"]) == 2
    assert "local_as: must be an AS number" in capsys.readouterr().err
    assert main([*options(tmp_path, local_as="x"), "--yes"]) == 2
    assert main([*options(tmp_path, name=None, mesh="/nonexistent"), "--yes"]) == 2
    assert "mesh: /nonexistent: No such file" in capsys.readouterr().err
    assert contents(tmp_path) == {}


def test_answers_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in answers().items()))
    base = ["setup", *places(tmp_path), "--no-doctor"]
    assert main([*base, "--answers", str(path), "--yes"]) == 0
    assert load(tmp_path / "etc" / "site.toml").peers == ("2001:db8:a::53",)
    path.write_text("name = [")
    assert main([*base, "--answers", str(path), "--yes"]) == 2
    assert str(path) in capsys.readouterr().err


def test_bird_and_the_network_script_have_a_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = setup.files.make
    spoilt = {"bird.conf": "protocol nonsense;", "network.conf": "ADMIN_INTERFACE=", "rootsrv.toml": "[service]\nx=1"}
    told = {"bird.conf": "bird.conf:1", "network.conf": "must not be empty", "rootsrv.toml": "service.x"}
    for wrong, text in spoilt.items():
        made = {wrong: text}
        monkeypatch.setattr(setup.files, "make", lambda *given, made=made: original(*given) | made)
        assert main([*options(tmp_path), "--yes"]) == 1
        assert told[wrong] in capsys.readouterr().err
        assert contents(tmp_path) == {}


def test_a_disk_that_fills_up_leaves_everything_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*options(tmp_path), "--yes"]) == 0
    before = contents(tmp_path)
    original, calls = whole_file.replace, [0]

    def replace(path: Path, octets: bytes, mode: int | None = None) -> None:
        calls[0] += 1
        if path.name == "bird.conf" and b"65009" in octets:
            raise OSError(28, "No space left on device", str(path))
        original(path, octets, mode)

    monkeypatch.setattr(whole_file, "replace", replace)
    assert main([*options(tmp_path, local_as=65009), "--yes"]) == 2
    assert "No space left on device; everything is as it was" in capsys.readouterr().err
    after = {name: octets for name, octets in contents(tmp_path).items() if not name.endswith(".before-setup")}
    assert after == before


FOUND = "what `rootsrv doctor` says of this host now"


def test_it_ends_with_what_doctor_finds_which_is_no_failure_of_setup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = options(tmp_path, service_interface="none9")
    assert main([*given, "--yes"]) == 0
    assert FOUND not in capsys.readouterr().out
    looking = [each for each in given if each != "--no-doctor"]
    assert main([*looking, "--yes"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("nothing to change\n")
    assert FOUND in told
    # An interface of the example, which this machine lacks: it has read network.conf where setup has put it.
    assert "FAIL  interface none9" in told
    assert told.splitlines()[-1].endswith(" to mend")
    assert main([*looking, "--local-as", "65077", "--show"]) == 1
    assert FOUND not in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [KeyboardInterrupt(), RuntimeError("no such thing")], ids=repr)
def test_a_doctor_that_fails_undoes_nothing(
    tmp_path: Path, wrong: BaseException, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise wrong

    monkeypatch.setattr(changes.doctor, "run", fail)
    assert main([each for each in (*options(tmp_path), "--yes") if each != "--no-doctor"]) == 0
    assert "what is written stays" in capsys.readouterr().err
    assert config_file.load(tmp_path / "etc" / "rootsrv.toml").anycast


def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rootsrv", "setup", "--directory", str(tmp_path)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--yes" in done.stderr


# ── at a terminal ──

TYPED = (
    ("name of this instance", "ams1"),
    ("administrative interface", "eth0"),
    ("its addresses", "203.0.113.10"),
    ("may reach shell", "203.0.113.0/24"),
    ("service interface", "eth0"),
    ("must be another one", None),
    ("service interface", "eth1"),
    ("on the link", "198.51.100.1"),
    ("router's addresses", "198.51.100.2"),
    ("shared unicast", "192.0.2.300"),
    ("does not appear to be", None),
    ("shared unicast", "192.0.2.53"),
    ("prefixes to announce for them [192.0.2.0/24]", ""),
    ("AS number of this site", "abc"),
    ("must be a whole number", None),
    ("AS number of this site", "65001"),
    ("AS number of the router", "65000"),
    ("password", "s3cret"),
    ("announce to everybody", ""),
    ("primaries", "203.0.113.53"),
    ("other hosts", ""),
    ("rootsrv mesh join", ""),
)


def typed(directory: Path, last: str) -> tuple[int, str]:
    """Answer every question of TYPED, then *last*; the exit status, and what the terminal showed."""
    process, terminal = pty.fork()
    if process == 0:
        os.execv(
            sys.executable,
            [sys.executable, "-m", "rootsrv", "setup", "--directory", f"{directory}/etc",
             "--bird", f"{directory}/bird.conf", "--etc", f"{directory}/host", "--no-doctor"],
        )  # fmt: skip
    seen, position, ends = "", 0, time.monotonic() + 60
    # A read may end in the middle of a character.
    decoder = codecs.getincrementaldecoder("utf-8")()

    def wait_for(text: str) -> None:
        nonlocal seen, position
        while (found := seen.find(text, position)) < 0:
            ready, _, _ = select.select([terminal], [], [], ends - time.monotonic())
            assert ready, f"{text!r} does not come: {seen[position:]}"
            seen += decoder.decode(os.read(terminal, 65536))
        position = found + len(text)

    try:
        for text, answer in (*TYPED, ("write this?", last)):
            wait_for(text)
            if answer is not None:
                wait_for(": " if text != "write this?" else "]")
                os.write(terminal, answer.encode() + b"\n")
        while True:
            try:
                octets = os.read(terminal, 65536)
            except OSError:
                break
            if not octets:
                break
            seen += decoder.decode(octets)
    finally:
        os.close(terminal)
        _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), seen


def test_questions_are_asked_again_until_the_answer_is_right(tmp_path: Path) -> None:
    status, seen = typed(tmp_path, "y")
    assert status == 0, seen
    site = load(tmp_path / "etc" / "site.toml")
    assert (site.name, site.prefixes, site.session_password) == ("ams1", ("192.0.2.0/24",), "s3cret")
    assert 'password "s3cret"' in (tmp_path / "bird.conf").read_text()


def test_no_is_no(tmp_path: Path) -> None:
    status, seen = typed(tmp_path, "")
    assert (status, contents(tmp_path)) == (1, {})
    assert "nothing was written" in seen
