"""`rootsrv restart`: whose turn it is, when a box may be announced again, and how a version is put in use."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootsrv.commands.parser import main
from rootsrv.commands.restart import await_canaries, canaries_before_us, fault, outdated, point
from rootsrv.control.client import NoAnswer
from tests.needs import REPOSITORY
from tests.server.live import wait_until


def member(name: str, *, canary: bool = False, present: bool = True, **status: Any) -> dict[str, Any]:
    return {"name": name, "canary": canary, "present": present, "status": status}


OLD, NEW = "0.1.0", "0.2.0"


@pytest.mark.parametrize(
    ("version", "canaries", "why"),
    [
        ("", [{"version": OLD}, {"version": OLD, "wants": ""}], ""),
        ("", [{"version": OLD}, {"version": OLD, "wants": "restart"}], "c1 is a canary and wants"),
        ("", [{"version": OLD}, {"version": OLD, "wants": "no_answer"}], ""),
        (NEW, [{"version": NEW}, {"version": NEW}], ""),
        (NEW, [{"version": NEW}, {"version": OLD}], "not all canaries have version 0.2.0: c1"),
        (NEW, [{"version": NEW}, {"version": NEW, "wants": "restart"}], "c1 is a canary"),
        (NEW, [{"version": NEW}, {"present": False}], ""),
        (NEW, [{"present": False}, {"present": False}], "none is there"),
    ],
)
def test_canaries_go_before_others(version: str, canaries: list[dict[str, Any]], why: str) -> None:
    members = [member(f"c{number}", canary=True, **each) for number, each in enumerate(canaries)]
    told = {"member": "m0", "members": [member("m0"), *members]}
    found = canaries_before_us(told, version)
    assert (why in found) if why else not found
    assert not canaries_before_us({**told, "member": "c0"}, version)
    assert "lists no member" in canaries_before_us({**told, "member": "stranger"}, version)


BEFORE = {
    "pid": 7,
    "version": OLD,
    "silenced": False,
    "generation": 4,
    "zones": [{"name": ".", "served": 2026112101, "lease_seconds": 600_000.0}],
    "workers": [{"slot": 0, "active": 4}],
}
AFTER = BEFORE | {"pid": 8}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"zones": [{"name": ".", "served": 2026112102, "lease_seconds": 9.0}]}, ""),
        ({"pid": 7}, "not restarted"),
        ({"version": NEW}, "version 0.2.0 runs, not 0.1.0"),
        ({"silenced": True}, "silenced"),
        ({"zones": []}, "serial None is served, it was 2026112101"),
        ({"zones": [{"name": ".", "served": 2026112100, "lease_seconds": 9.0}]}, "2026112100 is served"),
        ({"zones": [{"name": ".", "served": 2026112101, "lease_seconds": 0.0}]}, "lease is over"),
        ({"workers": []}, "no workers"),
        ({"workers": [{"slot": 0, "active": 4}, {"slot": 1, "active": 0}]}, "workers 1 do not answer"),
    ],
)
def test_a_box_that_is_not_what_it_was_stays_drained(change: dict[str, Any], why: str) -> None:
    found = fault(AFTER | change, BEFORE, OLD)
    assert (why in found) if why else not found


def test_a_version_is_put_in_use_in_one_step(tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to("0.1.0")
    (tmp_path / ".current.new").symlink_to("left behind by somebody")
    point(link, tmp_path / "0.2.0")
    assert link.readlink() == tmp_path / "0.2.0"
    point(link, Path("0.1.0"))
    assert link.readlink() == Path("0.1.0")
    assert [each.name for each in tmp_path.iterdir()] == ["current"]


def test_a_role_mesh_that_is_started_again_ends_no_wait() -> None:
    answers: list[Any] = [NoAnswer("is it running?"), {"member": "c0", "members": [member("c0", canary=True)]}]
    said: list[str] = []

    def status() -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, NoAnswer):
            raise answer
        return dict(answer)

    await_canaries(status, "", said.append)
    assert (said, answers) == (["waiting: is it running?"], [])


# ── whether there is a reason to ──

LISTEN = """
import socket, sys
listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listening.bind(sys.argv[1]); listening.listen()
while True: listening.accept()
"""


@contextlib.contextmanager
def role(runtime: Path, name: str, interpreter: Path) -> Iterator[int]:
    """A process that *interpreter* runs, with the socket of role *name*."""
    path = runtime / f"{name}.sock"
    process = subprocess.Popen([interpreter, "-c", LISTEN, path])
    try:
        wait_until(path.is_socket, f"{path} is there")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_what_runs_from_another_version_or_is_older_than_the_configuration_is_told(tmp_path: Path) -> None:
    older, configuration, runtime = tmp_path / "0.1.0", tmp_path / "rootsrv.toml", tmp_path / "run"
    (older / "bin").mkdir(parents=True)
    (older / "bin/python3").symlink_to(sys.executable)
    configuration.touch()
    os.utime(configuration, (time.time() - 60,) * 2)
    runtime.mkdir()
    here = Path(sys.executable).parent.parent
    with (
        role(runtime, "maintain", Path(sys.executable)) as maintain,
        role(runtime, "serve", older / "bin/python3") as serve,
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gone:
            gone.bind(str(runtime / "advertise.sock"))  # and nobody listens
        assert list(outdated(runtime, configuration, here)) == [
            f"serve (process {serve}) runs from {older}, and {here} is in use"
        ]
        os.utime(configuration, (time.time() + 5,) * 2)
        assert f"maintain (process {maintain}) is older than {configuration}" in list(
            outdated(runtime, configuration, here)
        )
    assert list(outdated(runtime, configuration, here)) == []


MESH = """
[mesh]
service = "x-root"
member = "m0"
key = "k"
roster_keys = ["%s"]
endpoints = ["http://127.0.0.1:1"]
""" % ("0" * 64)


ANYCAST = '[anycast]\nprefix_v4 = "192.0.2.0/24"\nbgp_v4 = ["upstream4"]\n'


@pytest.mark.parametrize(
    ("more", "options", "told"),
    [
        ("", [], "has no [anycast] section: nothing is announced"),
        (ANYCAST, ["--when-token"], "has no [mesh] section: there is no floor"),
        (ANYCAST + MESH, [], "has a [mesh] section: --when-token waits"),
    ],
)
def test_what_does_not_fit_the_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, options: list[str], told: str
) -> None:
    configuration = tmp_path / "rootsrv.toml"
    text = (REPOSITORY / "deploy/rootsrv.toml").read_text().replace('["127.0.0.1", "::1"]', '["192.0.2.53"]')
    configuration.write_text(text.replace("/run/rootsrv", str(tmp_path)) + more)
    assert main(["restart", *options, "--config", str(configuration)]) == 1
    assert told in capsys.readouterr().err
