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
from tests.system import demo_fleet

pytestmark = pytest.mark.timeout(1200)

LAST = "found again by all"


@pytest.mark.parametrize(
    ("before", "account", "told"),
    [
        ((), 65_534, "needs root, for network namespaces"),
        (
            ("setpriv", "--bounding-set", "-sys_admin"), 0,
            "needs network namespaces, which root of a container mostly may not make: ",
        ),
    ],
    ids=["root", "namespaces"],
)  # fmt: skip
def test_without_root_or_namespaces_it_says_so_in_a_line(before: tuple[str, ...], account: int, told: str) -> None:
    """A newcomer saw the traceback of a test."""
    require_root()
    for tool in demo_fleet.TOOLS:
        require_tool(tool)
    # Another account may not be able to read what this one has loaded.
    source = f"import os, sys; from tests.system import demo_fleet; os.setuid({account}); sys.exit(demo_fleet.main())"
    done = subprocess.run(
        [*before, sys.executable, "-c", source, "--once"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"demo-fleet: {told}")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory that is not as deep as pytest's: the path of a socket must fit into 107 octets (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="rs-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.long
def test_the_tour_shows_what_a_fleet_stands_and_leaves_nothing(tmp_path: Path, short: Path) -> None:
    require_root()
    for tool in (*demo_fleet.TOOLS, "prometheus"):
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
