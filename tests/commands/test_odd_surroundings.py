"""Commands where the streams are not as usual, and where who answers is of another version."""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.commands.parser import main

ROLES = ("serve", "maintain", "advertise", "report", "mesh", "capture", "localroot", "portal")
RULE = {
    "rule": 1, "match": "qtype=A", "dry_run": True, "do": "tc", "ends_in_seconds": 3, "hits": 0, "share": None,
    "share_with_cookie": None, "who": "root", "reason": "łast night",
}  # fmt: skip


class Roles:
    """What answers on the sockets of an instance, whatever it is asked."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.answer = b""
        self.config = directory / "rootsrv.toml"
        self.config.write_text(
            '[service]\naddresses = ["127.0.0.1"]\n'
            f'[state]\ndirectory = "{directory}/state"\nruntime_directory = "{directory}"\n'
        )
        for role in ROLES:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(directory / f"{role}.sock"))
            listening.listen()
            thread = threading.Thread(target=self._answer_all, args=(listening,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(listening.shutdown, socket.SHUT_RDWR)

    def _answer_all(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                with listening.accept()[0] as asking, contextlib.suppress(OSError):
                    asking.makefile("rb").readline()
                    asking.sendall(self.answer + b"\n")

    def say(self, **answer: object) -> None:
        self.answer = json.dumps(answer).encode()

    def command(self, *words: str, redirected: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        """`rootsrv words`, as a shell runs it that was told *redirected*."""
        line = shlex.join([sys.executable, "-m", "rootsrv", *words, "--config", str(self.config)])
        return subprocess.run(
            ["/bin/sh", "-c", f"{line} {redirected}"], env={**os.environ, **environment}, capture_output=True,
            encoding="utf-8", timeout=30, check=False,
        )  # fmt: skip


@pytest.fixture
def roles(tmp_path: Path) -> Iterator[Roles]:
    with contextlib.ExitStack() as stack:
        yield Roles(tmp_path, stack)


@pytest.mark.parametrize(
    "command",
    [
        "block 192.0.2.0/24 --for 1m --reason x", "unblock 192.0.2.0/24", "blocks", "sheds", "unshed 1", "top --once",
        "shed --match qtype=A --for 1m --reason x", "shed --match qtype=A --dry-run", "drain", "undrain",
        "withdraw --now", "status", "reload", "zone list", "zone refresh", "zone show", "zone approve 7",
        "fastpath status", "fastpath attach", "fastpath detach", "capture status", "capture start", "capture stop",
    ],
)  # fmt: skip
def test_who_answers_and_lacks_what_is_to_be_told_is_said_to_be_of_another_version(
    roles: Roles, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    roles.say(ok=True)
    words = command.split()
    try:
        status = main([*words, "--config", str(roles.config)])
    except SystemExit as usage:
        pytest.fail(f"{usage}: {capsys.readouterr().err}")
    printed = capsys.readouterr()
    assert status == 0 or "rootsrv: " in printed.err
    if words[0] in {"block", "unblock", "blocks", "shed", "sheds", "unshed", "top"}:
        assert status == 1
        assert "another version" in printed.err


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_what_the_terminal_cannot_show_is_told_by_its_number(roles: Roles, encoding: str) -> None:
    roles.say(ok=True, rules=[RULE])
    done = roles.command("sheds", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert ("łast night" if encoding == "utf-8" else "\\u0142ast night") in done.stdout


@pytest.mark.parametrize("verb", ["sheds", "top --once"])
def test_a_closed_standard_output_is_no_fault(roles: Roles, verb: str) -> None:
    roles.say(
        ok=True, rules=[RULE], flood={"queries_per_second": 1, "seconds": 1, "with_cookie": 0, "top": {},
        "suggestions": []}, limits={"mode": "off", "falls_back": False, "limited": 0, "would_be_limited": 0},
    )  # fmt: skip
    done = roles.command(*verb.split(), redirected=">&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert roles.command(*verb.split(), redirected=">&- 2>&-").returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_standard_output_is_told_in_a_line(roles: Roles, unbuffered: str) -> None:
    roles.say(ok=True, rules=[RULE])
    done = roles.command("sheds", redirected=">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr == "rootsrv: what is to be said cannot be written: No space left on device\n"


@pytest.mark.parametrize("redirected", ["<&-", "</dev/null"])
def test_where_nobody_can_say_yes_twice_nothing_is_shed(roles: Roles, redirected: str) -> None:
    roles.say(ok=False, error="all of it: say --really")
    done = roles.command("shed", "--match", "qtype=A", "--for", "1m", "--reason", "x", redirected=redirected)
    assert (done.returncode, done.stderr) == (1, "rootsrv: all of it: say --really\n")


def test_who_interrupts_does_not_read_that_it_was_done(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            raise KeyboardInterrupt

    roles.say(ok=False, error="all of it: say --really")
    monkeypatch.setattr(sys, "stdin", Terminal())
    words = ["shed", "--match", "qtype=A", "--for", "1m", "--reason", "x", "--config", str(roles.config)]
    assert main(words) == 128 + signal.SIGINT
