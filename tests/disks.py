"""File systems of their own, on loop devices: what a disk does may be done to them."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.needs import require_root, require_tool


def put_in(place: Path, image: Path, octets: int, *options: str) -> None:
    """Mount an empty file system at *place*, made with *options* in the new file *image*; who calls unmounts it."""
    with image.open("wb") as file:
        file.truncate(octets)
    subprocess.run([require_tool("mkfs.ext4"), "-q", *options, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)


@contextlib.contextmanager
def own_disk(directory: Path) -> Iterator[Path]:
    """One of 32 MiB, in `image` of *directory*, while the block lasts: where it is mounted."""
    require_root()
    place = directory / "disk"
    place.mkdir()
    put_in(place, directory / "image", 32 << 20)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)
