"""A disk that fails: every query is answered and counted meanwhile, and when it is mended the capture goes on."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.capture.test_role import CAPTURE, Captured, is_there, packets
from tests.capture.test_slow_disk import ask_many
from tests.disks import put_in
from tests.needs import require_root
from tests.server.live import START_SECONDS, running, wait_until

DISK = 64 << 20, "-E", "nodiscard"


@pytest.fixture
def under(tmp_path: Path) -> Iterator[Path]:
    """Where disks are that take nothing any more, not even what was written to them, when it is full."""
    require_root()
    (tmp_path / "under").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", tmp_path / "under"], check=True)
    yield tmp_path / "under"
    subprocess.run(["umount", "--lazy", tmp_path / "under"], check=True)


@pytest.fixture
def disk(tmp_path: Path, under: Path) -> Iterator[Path]:
    """A file system on such a disk."""
    (tmp_path / "disk").mkdir()
    put_in(tmp_path / "disk", under / "image", *DISK)
    yield tmp_path / "disk"
    subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)


@pytest.mark.parametrize("kind", ["pcap", "cdns"])
def test_a_disk_that_fails_costs_what_is_counted_and_its_successor_is_written_to(
    tmp_path: Path, under: Path, disk: Path, kind: str
) -> None:
    directory = tmp_path / "instance"
    directory.mkdir()
    with running(directory, workers=1, service=f'{CAPTURE}directory = "{disk}/files"\n') as instance:
        made = Captured(instance)
        wait_until(lambda: is_there(made), "the role capture answers", START_SECONDS)
        made.begin(format=kind, compression="none", rotation_seconds=1)
        before = made.counted()
        asked = 0
        with contextlib.suppress(OSError), (under / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(1 << 16))

        def is_full() -> bool:
            nonlocal asked
            asked += ask_many(instance.port, 1000)
            return bool(made.order("status")["state"] == "full")

        wait_until(is_full, "it notices", 60)
        # It looks each second, and the file system says that there is room: nothing is told until more can be written.
        refused = instance.log.count("capture cannot write")
        looked = len(list(looks(made, 3)))
        assert looked == 3
        assert instance.log.count("capture cannot write") == refused
        assert "capture goes on" not in instance.log
        asked += ask_many(instance.port, 100)

        # What is broken goes, and an empty disk comes in its place.
        subprocess.run(["umount", "--lazy", disk], check=True)
        (under / "filler").unlink()
        put_in(disk, under / "successor", *DISK)
        wait_until(lambda: made.order("status")["state"] == "capturing", "it goes on", 60)
        there = ask_many(instance.port, 200)
        told = made.order("capture-stop")
        assert made.counted() - before == asked + there
        assert told["items"] + sum(told["lost"].values()) == asked + there
        assert told["items"] == there
        if kind == "pcap":
            assert sum(len(packets(each.read_bytes())) for each in (disk / "files").glob("*.pcap")) == there
        instance.stop()


def looks(made: Captured, amount: int) -> Iterator[str]:
    """What the status says why, after so many changes of the second."""
    for _ in range(amount):
        began = int(time.monotonic())
        wait_until(lambda began=began: int(time.monotonic()) > began, "a second goes by")
        yield str(made.order("status")["why"])
