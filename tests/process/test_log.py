"""Logs: what a line looks like, in both formats, and that strangers cannot write lines of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import REPOSITORY

SCRIPT = """
from rootsrv.process import log
log.use_format({format!r})
log.event("zone accepted", zone=".", serial=2026112101, took_seconds=1.5, good=True)
log.alarm("zone held", reason='says "no"\\nand more\\x1b[2J\\r', at="a fact of that name")
log.security("tsig_failed", source="192.0.2.1")
try:
    1 / 0
except ZeroDivisionError:
    log.logging.getLogger("rootsrv").exception("ended")
"""


def lines(format_name: str, **environment: str) -> list[str]:
    done = subprocess.run(
        (sys.executable, "-c", SCRIPT.format(format=format_name)),
        cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return done.stderr.splitlines()


def test_logfmt_is_one_line_per_event_in_utc() -> None:
    accepted, held, security, ended, *traceback = lines("logfmt", TZ="Asia/Tokyo")

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ zone accepted .*", accepted)
    assert accepted.endswith("zone accepted zone=. serial=2026112101 took_seconds=1.5 good=true")
    assert held.endswith(r'Z alarm: zone held reason="says \"no\"\nand more\u001b[2J\u000d" at="a fact of that name"')
    assert security.endswith("Z security: tsig_failed source=192.0.2.1")
    assert ended.endswith("error: ended")
    assert traceback[-1] == "ZeroDivisionError: division by zero"


def test_json_is_one_object_per_line_with_the_facts_as_they_are() -> None:
    accepted, held, security, ended = map(json.loads, lines("json"))

    assert accepted | {"at": ""} == {
        "at": "", "level": "info", "event": "zone accepted",
        "zone": ".", "serial": 2026112101, "took_seconds": 1.5, "good": True,
    }  # fmt: skip
    assert held["reason"] == 'says "no"\nand more\x1b[2J\r'
    assert held["at_"] == "a fact of that name"
    assert (held["level"], security["level"], ended["level"]) == ("alarm", "security", "error")
    assert ended["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("format_name", ["logfmt", "json"])
def test_under_systemd_every_line_has_its_priority(tmp_path: Path, format_name: str) -> None:
    output = tmp_path / "journal"
    with output.open("wb") as stream:
        status = os.fstat(stream.fileno())
        subprocess.run(
            (sys.executable, "-c", SCRIPT.format(format=format_name)), cwd=REPOSITORY, check=True, timeout=30,
            stderr=stream, env=os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
        )  # fmt: skip
    priorities = [line[:3] for line in output.read_text().splitlines()]

    assert priorities[:4] == ["<6>", "<4>", "<4>", "<3>"]
    assert set(priorities[4:]) <= {"<3>"}
