"""Child processes: another program ends with who started it, and nobody imports what lies where they start."""

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from bench.guardian import marked
from bench.peers.daemon import free_port
from rootsrv.process.children import environment
from tests.needs import REPOSITORY
from tests.server.live import Instance, configure, wait_until

PARENT = """\
import subprocess
from rootsrv.process.children import ends_with_us, environment
started = subprocess.Popen(ends_with_us(["sleep", "97"]), env=environment() | {"MARK": "%s"}, start_new_session=True)
print(flush=True)
input()
"""


def test_another_program_ends_with_us_when_we_are_killed() -> None:
    mark = secrets.token_hex(8)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT % mark], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (pid,) = wait_until(lambda: marked(f"MARK={mark}"), "it runs")
        with open(f"/proc/{pid}/comm") as name:
            wait_until(lambda: (name.seek(0), name.read())[1] == "sleep\n", "it is another program")
        parent.kill()
        parent.wait()
        wait_until(lambda: not marked(f"MARK={mark}"), "it has ended")


def test_no_process_of_an_instance_imports_what_lies_in_the_directory_that_it_is_started_in(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "rootsrv").mkdir(parents=True)
    for name in ("rootsrv/__init__.py", "uvloop.py", "cffi.py", "asyncio.py", "dns.py", "json.py"):
        (elsewhere / name).write_text(
            f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\nraise SystemExit(9)\n"
        )
    configuration = configure(tmp_path, port := free_port(), 1)
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("rootsrv"), "run", "--config", configuration],
            cwd=elsewhere, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    instance = Instance(tmp_path, port, 1, process)
    try:
        wait_until(instance.is_ready, "ready")
        assert not (tmp_path / "imported").exists()
    finally:
        instance.stop()


@pytest.mark.parametrize("words", [["-m", "json_"], ["-c", "import json_"]], ids=["module", "words"])
def test_a_child_looks_for_nothing_where_it_starts(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "json_.py").write_text("print('imported')")

    def said(variables: dict[str, str] | None) -> str:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False).stdout

    assert said(None) == "imported\n"
    assert said(environment()) == ""
