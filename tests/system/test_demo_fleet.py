"""`make demo-fleet`: the tour once, whose scenes check what they tell, and Ctrl-C, after which nothing is left."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import REPOSITORY, require_root, require_tool
from tests.server.live import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

LAST = "found again by all"


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory that is not as deep as pytest's: the path of a socket must fit into 107 octets (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="rs-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_tour_shows_what_a_fleet_stands_and_leaves_nothing(tmp_path: Path, short: Path) -> None:
    require_root()
    for tool in ("bird", "nsd", "etcd", "prometheus", "dig"):
        require_tool(tool)
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.demo_fleet", "--pause", "600"],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            env={**os.environ, "TMPDIR": str(short)},
        )  # fmt: skip
    try:
        wait_until(lambda: LAST in log.read_text() or process.poll() is not None, "the tour is over", 1000)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    text = log.read_text()
    assert text.count("queries meanwhile") == 4
    assert "Traceback" not in text
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"rs-{process.pid}-" not in namespaces
    assert list(short.glob("rootsrv-fleet-*")) == []
