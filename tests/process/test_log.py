"""Logs: what a line looks like, in both formats, and that strangers cannot write lines of their own."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from tests.control.asking import ask
from tests.needs import REPOSITORY
from tests.server.live import Instance, configure, wait_until

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


# ── nobody reads it ──

FLOOD = """
import sys
from rootsrv.process import log
log.to_standard_error()
for number in range(3000):
    log.event("line written", number=number, text="ä" * 2000)
print("done", flush=True)
sys.stdin.readline()
for number in range(3):
    log.event("line written again", number=number)
"""


def drained(descriptor: int, *, to_the_end: bool) -> bytes:
    """What is there to be read, or all that comes until nobody can write any more."""
    os.set_blocking(descriptor, to_the_end)
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_log_that_nobody_reads_holds_nobody_up_and_what_is_lost_is_told(kind: str) -> None:
    ours, theirs = (each.detach() for each in socket.socketpair()) if kind == "socket" else os.pipe()
    flood = subprocess.Popen(
        [sys.executable, "-c", FLOOD], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    try:
        with flood:
            assert flood.stdout is not None
            assert flood.stdin is not None
            assert flood.stdout.readline() == b"done\n"
            first = drained(ours, to_the_end=False)
            flood.stdin.write(b"\n")
            flood.stdin.flush()
            lines = (first + drained(ours, to_the_end=True)).splitlines()
    finally:
        os.close(ours)

    assert re.fullmatch(rb"\S+ alarm: log lines lost lines=\d{3,4}", lines[-4])  # what was torn ends before it
    assert [line.rpartition(b"number=")[2] for line in lines[-3:]] == [b"0", b"1", b"2"]
    whole = [line for line in lines[:-5] if line.startswith(b"20")]
    assert len(whole) == len(lines) - 5
    assert len(whole) + int(lines[-4].rpartition(b"=")[2]) in {3000, 3001}


def test_an_instance_whose_log_nobody_reads_answers_and_takes_orders(tmp_path: Path) -> None:
    path = configure(tmp_path, port := free_port(), 1)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, b"x" * 4096):
            pass
    os.set_blocking(writing, True)
    process = subprocess.Popen(
        [sys.executable, "-m", "rootsrv", "run", "--config", str(path)],
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=writing, start_new_session=True,
    )  # fmt: skip
    try:
        running = Instance(tmp_path, port, 1, process)
        wait_until(running.is_ready, "ready")
        pid = running.worker_pids()[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: running.is_ready() and running.worker_pids() != [pid], "another worker")
        assert running.ask(".", "SOA").answer
        assert ask(tmp_path / "run" / "maintain.sock", "reload", patience=20)["ok"]
        running.stop()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(reading)
        os.close(writing)
