"""A disk that takes nothing for a while: every query is answered meanwhile, and in the files or counted as lost."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.capture.test_role import CAPTURE, Captured, is_there, packets, query
from tests.disks import own_disk
from tests.needs import require_tool
from tests.server.live import START_SECONDS, running, wait_until

RING_UNITS = 65536  # buffer_megabytes = 1; no row takes fewer than three
WINDOW = 64


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can be frozen: whoever writes to it waits until it is thawed (fsfreeze(8))."""
    with own_disk(tmp_path) as place:
        yield place


@contextlib.contextmanager
def frozen(place: Path) -> Iterator[None]:
    subprocess.run([require_tool("fsfreeze"), "--freeze", place], check=True)
    try:
        yield
    finally:
        subprocess.run([require_tool("fsfreeze"), "--unfreeze", place], check=True)


def ask_many(port: int, amount: int) -> int:
    """Ask, some at a time; how many were answered."""
    answered = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        for first in range(0, amount, WINDOW):
            some = range(first, min(first + WINDOW, amount))
            for number in some:
                client.send(query(number))
            for _ in some:
                client.recv(4096)
                answered += 1
    return answered


@pytest.mark.parametrize("kind", ["pcap", "cdns"])
def test_a_disk_that_takes_nothing_delays_no_answer_and_costs_what_is_counted(
    tmp_path: Path, disk: Path, kind: str
) -> None:
    directory = tmp_path / "instance"
    directory.mkdir()
    with running(directory, workers=1, service=f'{CAPTURE}directory = "{disk}/files"\n') as instance:
        made = Captured(instance)
        wait_until(lambda: is_there(made), "the role capture answers", START_SECONDS)
        made.begin(format=kind, compression="none", rotation_seconds=1)
        before = made.counted()
        asked = ask_many(instance.port, 100)
        wait_until(lambda: made.order("status")["items"] == asked, "they are written", START_SECONDS)
        with frozen(disk):
            # What the ring holds, what had been taken when the disk stopped taking, and more.
            asked += ask_many(instance.port, RING_UNITS // 3 + 8000)
            assert made.order("status")["state"] == "capturing", "the role answers, though its disk does not"
        asked += ask_many(instance.port, 50)
        told = made.order("capture-stop")

        assert made.counted() - before == asked
        assert told["items"] + told["lost"]["worker"] == asked
        assert told["lost"]["worker"] > 0 or kind == "cdns"  # of which the kernel may hold what there is
        assert told["items"] >= RING_UNITS // 8, "a ring that is full holds no fewer"
        assert told["lost"]["disk"] == 0
        if kind == "pcap":
            found = list((disk / "files").glob("*.pcap"))
            assert sum(len(packets(each.read_bytes())) for each in found) == told["items"]
