"""`rootsrv demo --localroot`: real resolvers have a new root from the service, and its pages answer."""

import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.guardian import marked
from tests.needs import REPOSITORY, require_tool
from tests.server.live import wait_until


@pytest.mark.long
def test_the_demo_shows_a_new_root_with_both_resolvers_and_leaves_nothing() -> None:
    for tool in ("unbound", "named"):
        require_tool(tool)
    done = subprocess.run(
        [sys.executable, "-m", "rootsrv", "demo", "--localroot", "--once"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"(?:Unbound|BIND) has the new root [0-9.]+ s after it was published", done.stderr)) == 2
    assert re.search(r"An account of your own: http://localhost:\d+/link/\S+", done.stderr)
    assert re.search(r"Ready after [0-9.]+ s", done.stderr)


@pytest.mark.long
def test_both_resolvers_of_a_demo_that_is_killed_end(tmp_path: Path) -> None:
    for tool in ("unbound", "named"):
        require_tool(tool)
    mark = secrets.token_hex(8)
    log = tmp_path / "log"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, "-m", "rootsrv", "demo", "--localroot"],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, "MARK": mark, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
    try:
        wait_until(lambda: "Ctrl-C stops it." in log.read_text() or demo.poll() is not None, "all has been shown", 120)
        assert len(marked(f"MARK={mark}")) >= 5, log.read_text()  # itself, the service, the pages, Unbound, BIND
        demo.kill()
        demo.wait()
        wait_until(lambda: not marked(f"MARK={mark}"), "all have ended", 60)
    finally:
        demo.kill()
        demo.wait()
        for pid in marked(f"MARK={mark}"):
            os.kill(pid, signal.SIGKILL)


def test_without_what_the_pages_need_it_says_so_before_it_begins() -> None:
    without = "import sys; sys.modules['uvicorn'] = None; from rootsrv.commands.demo_localroot import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", without], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.startswith("rootsrv: the pages need uvicorn, which is not installed: ")
    assert "make demo-localroot" in done.stderr
