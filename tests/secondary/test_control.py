"""What the control sockets of a running instance do with odd orders, and with files that the roles cannot see."""

import itertools
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootsrv.zone import presentation
from tests.control.asking import ask
from tests.needs import REPOSITORY, require_root, require_tool
from tests.secondary import versions
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.versions import FIRST, version

NEXT = FIRST + 1


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maintained]:
    directory = tmp_path_factory.mktemp("control")
    (directory / "root.zone").write_bytes(versions.text(version(FIRST)))
    with maintained(directory / "one", "", zone=f'file = "{directory}/root.zone"') as made:
        made.wait_for_serial(FIRST)
        yield made


_BLOCK: dict[str, Any] = {"prefix": "192.0.2.0/24", "seconds": 1, "reason": "x"}
ODD_FACTS: list[dict[str, Any]] = [
    *({"zone": each} for each in (7, [], {}, "nosuch", "\0", "[/x].", "../../etc", "\ud800")),
    *({"serial": each} for each in ("7", "../../../tmp/x", -1, 2**32, 10**30, 7.0, 3, [1], float("inf"), float("nan"))),
    {"now": 1}, {"now": "yes"}, {"name": "x" * 300}, {"octets": "x"}, {"file": "/etc/passwd"}, {"who": "root"},
    *({**_BLOCK, "prefix": each} for each in (7, "192.0.2.0/33", "\ud800", "", "::/0", None)),
    *({**_BLOCK, "seconds": each} for each in ("soon", 10**30, -1, 0, 1.5, True, None)),
    *({**_BLOCK, "reason": each} for each in ([], " ", 7, None)),
    *({"slot": each, "wanted": each} for each in (-1, 10**30, "0", [], {}, 1.0)),
    *({"wanted": each} for each in (10**30, -1, "1")), {"reason": 7}, {"replace": "yes"},
]  # fmt: skip


@pytest.mark.parametrize("role", ["maintain", "serve"])
def test_whatever_is_ordered_there_is_one_kind_of_error_and_the_role_goes_on(instance: Maintained, role: str) -> None:
    path = instance.directory / "run" / f"{role}.sock"
    before = ask(path, "status")
    known = re.split(", ", ask(path, "")["error"].partition("command: ")[2])
    assert len(known) >= 5

    for command, facts in itertools.product(known, ODD_FACTS):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(path))
            connection.sendall(json.dumps({"command": command, **facts}).encode() + b"\n")
            told = json.loads(connection.makefile("rb").readline())
        if told["ok"] is not True:
            assert {key: type(value) for key, value in told.items()} == {"ok": bool, "error": str}, (command, facts)

    assert ask(path, "status")["pid"] == before["pid"]
    assert "control failed" not in instance.log
    assert instance.serial() == FIRST
    assert not Path("/tmp/x.zone").exists()


def rootsrv(instance: Maintained, script: str) -> "subprocess.CompletedProcess[str]":
    """The shell *script* where /mnt is a file system that no role sees; `$ROOTSRV …` is a command of ours."""
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHON": sys.executable,
        "CONFIG": str(instance.directory / "rootsrv.toml"),
    }  # fmt: skip
    whole = 'set -e\nmount -t tmpfs none /mnt\nrootsrv() { "$PYTHON" -m rootsrv "$@" --config "$CONFIG"; }\n' + script
    return subprocess.run(
        [require_tool("unshare"), "-m", "sh", "-c", whole],
        env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_file_that_the_role_cannot_see_is_imported_and_exported(instance: Maintained, tmp_path: Path) -> None:
    """Under its unit the role sees neither /root nor /tmp: the command reads and writes, the octets are handed over."""
    require_root()
    zone = tmp_path / "next.zone"
    zone.write_bytes(versions.text(version(NEXT)))
    out = tmp_path / "out"

    done = rootsrv(
        instance,
        f"""
cp {zone} /mnt/next.zone
gzip -k /mnt/next.zone
rootsrv zone import /mnt/next.zone.gz --now
rootsrv zone export /mnt/export
cp /mnt/export {out}
: >/mnt/empty
! rootsrv zone import /mnt/empty
! rootsrv zone import /mnt/nothing
! rootsrv zone export /mnt/no/such/directory
""",
    )

    assert done.returncode == 0, done.stderr
    assert f"serial: {NEXT}" in done.stdout
    exported = presentation.from_text(out.read_bytes(), b"\0")
    assert (exported.serial, exported.rrsets.keys()) == (NEXT, version(NEXT).rrsets.keys())
    assert "/mnt/empty: is empty" in done.stderr
    assert "/mnt/nothing: No such file or directory" in done.stderr
    assert "/mnt/no/such/directory" in done.stderr
    assert instance.serial() == NEXT


def test_who_gave_an_order_is_in_the_log(instance: Maintained) -> None:
    instance.order("zone-refresh")
    line = next(line for line in instance.log.splitlines()[::-1] if "order=zone-refresh" in line)
    assert f"uid {os.getuid()}, pid {os.getpid()})" in line
