"""`rootsrv demo --localroot`: real resolvers have a new root from the service, and its pages answer."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from rootsrv.commands import demo_localroot
from tests.killed import ends_with_its_demo
from tests.needs import REPOSITORY, require_tool


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
    # Itself, the service, the pages, Unbound, BIND.
    ends_with_its_demo(tmp_path, "--localroot", least=5, seconds=60)


@pytest.mark.parametrize("part", ["SERVICE", "UNBOUND", "BIND", "pages"])
def test_where_somebody_listens_already_it_says_so_before_it_begins(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second demo took the first one's service for its own: "The peer didn't know the key we used"."""
    for tool in ("unbound", "named"):
        require_tool(tool)
    for name in ("PORT", "RESOLVER_PORT", "PAGES_PORT"):  # no port of a demo that runs
        monkeypatch.setattr(demo_localroot, name, free_port("127.0.0.1"))
    pages = part == "pages"
    address = "127.0.0.1" if pages else getattr(demo_localroot, part)
    port = (
        demo_localroot.PAGES_PORT if pages else {"SERVICE": demo_localroot.PORT}.get(part, demo_localroot.RESOLVER_PORT)
    )
    with socket.create_server((address, port)):
        assert demo_localroot.run(once=True) == 1
    told = f"rootsrv: {address} port {port} (TCP): the port is in use; is this demo running already?\n"
    assert capsys.readouterr().err == told


def test_without_what_the_pages_need_it_says_so_before_it_begins() -> None:
    without = "import sys; sys.modules['uvicorn'] = None; from rootsrv.commands.demo_localroot import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", without], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.startswith("rootsrv: the pages need uvicorn, which is not installed: ")
    assert "make demo-localroot" in done.stderr
