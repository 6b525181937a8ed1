"""A host whose disk is full, or takes no change any more, when it starts: the resolver has the root all the same."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.rcode
import pytest

from bench.peers.daemon import free_port
from tests.hyperlocal.test_publishers import FIRST, Host
from tests.needs import require_root, require_tool
from tests.secondary import versions
from tests.secondary.scripted import scripted
from tests.secondary.test_full_disk import fill
from tests.server.live import wait_until


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory that is a file system of 8 MiB of its own."""
    require_root()
    directory = tmp_path / "state"
    directory.mkdir()
    command = [require_tool("mount"), "-t", "tmpfs", "-o", "size=8m", "rs-small", str(directory)]
    subprocess.run(command, check=True, timeout=20)
    try:
        yield directory
    finally:
        subprocess.run([require_tool("umount"), "-l", str(directory)], check=True, timeout=20)


@pytest.mark.parametrize("options", ["the same", "others"])
@pytest.mark.parametrize("hindered", ["full", "read-only"])
def test_a_start_from_the_kept_root_needs_no_room(state: Path, hindered: str, options: str) -> None:
    host = Host(state.parent, free_port())
    with scripted(versions.version(FIRST)) as publisher:
        publisher.key = None
        host.publishers(honest=publisher.port)
        with host.runs():
            wait_until(lambda: host.served() == FIRST, "the root is had")
        if hindered == "full":
            fill(state)
        else:
            command = [require_tool("mount"), "-o", "remount,ro", str(state)]
            subprocess.run(command, check=True, timeout=20)
        if options == "others":
            host.port = free_port()
        with host.runs():
            wait_until(lambda: host.served() == FIRST, "the kept root is there")
            wait_until(lambda: host.rcode() == dns.rcode.NOERROR, "the kept root is given")
            assert ("configuration cannot be written" in host.log) == (options == "others")
