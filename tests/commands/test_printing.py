"""What commands print: text is text, and who stops reading ends the command without a traceback."""

import datetime
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rootsrv.commands import printing, zones
from rootsrv.commands.parser import main
from rootsrv.page.layout import COUNTER_WORDS
from rootsrv.telemetry.rssac002 import DayRecord
from tests.needs import REPOSITORY

HOSTILE = "[/x]."


def test_whatever_is_in_a_cell_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[HOSTILE, "[bold]x[/bold]", "[link=x]"], ["\\[", ":warning:", "[[/]]"], [7, None, ["a", "[/]"]]]

    printing.table(["zone", "[/head]", "why held"], rows)

    printed = capsys.readouterr().out
    for text in ("[/head]", HOSTILE, "[bold]x[/bold]", "[link=x]", "\\[", ":warning:", "[[/]]", "['a', '[/]']"):
        assert text in printed


WITH_A_FILE_THAT_IS_NOT_THERE = [
    "resolver bind --publisher 192.0.2.1 --key k1.example --secret-file NONE --hosts",
    "rssac002 merge NONE --service x --output NONE",
    "security-events --verify NONE --public-key 00",
    "mesh publish NONE",
    "mesh roster sign NONE --key NONE --output NONE",
    "mesh init --service x NONE/below",
    "zone verify NONE --anchors NONE",
    "hyperlocal --configure unbound --write NONE/below",
    "check-config NONE",
    "setup --answers NONE --yes",
    "restart --config NONE",
]


@pytest.mark.parametrize("command", WITH_A_FILE_THAT_IS_NOT_THERE)
def test_what_the_system_says_is_told_without_its_number(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        main([word.replace("NONE", str(tmp_path / "none")) for word in command.split()])
    except SystemExit as usage:
        pytest.fail(f"{usage}: {capsys.readouterr().err}")
    printed = "".join(capsys.readouterr())
    assert "Errno" not in printed
    assert "none" in printed


def test_an_error_of_the_system_is_named_with_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    printing.complain(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/nowhere/at-all"))
    assert capsys.readouterr().err == "rootsrv: /nowhere/at-all: No such file or directory\n"


def test_a_terminal_gets_no_orders_from_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    printing.table(["zone"], [["a\x1b[2Jb\r\n\x07c\x9b"]])
    printing.say("d\x1b]0;x\x07e\nf")

    printed = capsys.readouterr().out
    assert "a\\x1b[2Jb\\x0d\\x0a\\x07c\\x9b" in printed
    assert "d\\x1b]0;x\\x07e\\x0af" in printed


def test_what_others_sent_gives_no_orders_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = tmp_path / "a-root-20260101-load-time.yaml"
    hostile.write_text("---\nversion: rssac002v5\nservice: a\x1b[2J.root-servers.net\n")
    assert main(["rssac002", "validate", str(hostile)]) == 1
    assert main(["rssac002", "validate", f"{tmp_path}/\x1b[2J"]) == 1

    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err


def test_only_printing_says_what_went_wrong() -> None:
    """Elsewhere nobody has to think of what is in a reason.  (A question to a person is none.)"""
    writing = {
        path.name
        for path in (REPOSITORY / "rootsrv" / "commands").glob("*.py")
        if re.search(r"print\(f?\"rootsrv: .*file=sys\.stderr", path.read_text())
    }
    assert writing == {"printing.py"}


def test_files_are_written_beside_and_never_through_a_link_that_somebody_has_put_there(tmp_path: Path) -> None:
    day = datetime.date(2026, 11, 21)
    record, output, other = tmp_path / "record.json", tmp_path / "output", tmp_path / "other"
    counted = DayRecord.from_words(day, [0] * COUNTER_WORDS)
    record.write_text(json.dumps(counted.to_document()))
    output.mkdir()
    other.write_text("somebody else's")
    (output / "20261121.json").symlink_to(other)

    merge = ["rssac002", "merge", "--service", "x.root-servers.net", "--output", str(output), str(record)]
    assert main(merge) == 0
    assert other.read_text() == "somebody else's"
    assert DayRecord.from_document(json.loads((output / "20261121.json").read_text())) == counted


def test_nobody_but_whole_file_writes_where_an_operator_says() -> None:
    """`open` and `write_text` follow a link that another account has put into a directory for all, as /tmp is."""
    writing = {
        path.name
        for path in (REPOSITORY / "rootsrv" / "commands").glob("*.py")
        if re.search(r"\.write_(text|bytes)\(|open\(.w", path.read_text())
    }
    assert writing == {"demo.py", "demo_localroot.py", "manual.py", "setup.py"}  # into a directory of their own


def status() -> dict[str, Any]:
    """A status document in which every text is hostile."""
    primary = {
        "name": HOSTILE, "where": HOSTILE, "serial": 7, "last_success_seconds": 1.0, "failures": 3,
        "last_error": HOSTILE, "backoff_seconds": 5.0,
    }  # fmt: skip
    zone = {
        "name": HOSTILE, "known": 7, "received": 7, "scheduled": None, "served": 7, "served_age_seconds": 1.0,
        "confirmed_age_seconds": 1.0, "lease_seconds": 9.0, "refresh_in_seconds": 5.0, "source": HOSTILE,
        "primaries": [primary],
    }  # fmt: skip
    peer = dict.fromkeys(("name", "address", "last_transfer_at", "last_transfer", "notify"), HOSTILE)
    return {
        "version": HOSTILE, "configuration_digest": HOSTILE, "now": HOSTILE, "clock": HOSTILE,
        "clock_distance_seconds": 0, "test_clock_offset_seconds": 0, "generation": 1, "silenced": 0,
        "switchover": {"state": HOSTILE, "activate_at": HOSTILE, "reason": HOSTILE}, "zones": [zone], "peers": [peer],
        "workers": [{"slot": 0, "active": 1}], "workers_replaced": 0, "security_events": {HOSTILE: 1},
        "alarms": [HOSTILE],
    }  # fmt: skip


def test_status_of_a_zone_with_a_hostile_name_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    zones.render_status(status())

    assert capsys.readouterr().out.count(HOSTILE) >= 15


@pytest.mark.parametrize(
    ("wanted", "policies", "told"),
    [
        (0, ["ordinary"], ""),
        (2, ["fifo", "fifo"], "real-time priority 2: 0: fifo 2, 1: fifo 2\n"),
        (2, ["fifo", "ordinary"], "real-time priority 2: 0: fifo 2; NOT HAD by 1 (rootsrv doctor says why)\n"),
        (2, ["ordinary"], "real-time priority 2: none; NOT HAD by 0 (rootsrv doctor says why)\n"),
        (0, ["ordinary", "rr"], "real-time priority 0: 1: rr 2\n"),
    ],
)
def test_status_says_who_goes_before_ordinary_processes(
    wanted: int, policies: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = [{"slot": slot, "policy": policy, "priority": 2} for slot, policy in enumerate(policies)]
    zones.render_priorities({"real_time_priority": wanted, "workers": workers})
    assert capsys.readouterr().out == told


def test_of_a_role_that_does_not_answer_no_priority_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    zones.render_priorities({"error": "serve does not answer"})
    assert capsys.readouterr().out == ""


def test_only_printing_hands_anything_to_rich() -> None:
    """Elsewhere but in the demos, whose texts are their own, nobody has to think of markup."""
    using = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "rootsrv").rglob("*.py")
        if "from rich" in path.read_text() or "import rich" in path.read_text()
    }
    assert using == {f"rootsrv/commands/{each}.py" for each in ("printing", "demo", "demo_localroot")}


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("errors_too", [False, True], ids=["output", "output and errors"])
@pytest.mark.parametrize(
    ("command", "ends"),
    [
        (("check-config", "deploy/rootsrv.toml"), {141}),
        # argparse says nothing when it cannot print.
        (("zone", "--help"), {0, 141}),
        # What is wrong goes to stderr: with a reader there it is told and counts.
        (("rssac002", "validate", "deploy"), {1, 141}),
    ],
)
def test_who_stops_reading_ends_the_command_without_a_traceback(
    command: tuple[str, ...], ends: set[int], errors_too: bool, buffered: str, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    errors = tmp_path / "errors"
    try:
        with errors.open("wb") as file:
            status = subprocess.run(
                [sys.executable, "-m", "rootsrv", *command], env={**os.environ, "PYTHONUNBUFFERED": buffered},
                cwd=REPOSITORY, stdout=writing, stderr=writing if errors_too else file, timeout=60, check=False,
            ).returncode  # fmt: skip
    finally:
        os.close(writing)

    assert status in ends
    assert "Traceback" not in errors.read_text()
    assert "BrokenPipe" not in errors.read_text()
