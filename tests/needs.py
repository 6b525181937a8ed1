"""What a test needs of the machine: a program, root, the genuine zones.

Where it is absent the test is skipped with the reason; with CI=true in the environment it fails instead, since nothing
may be skipped there (conftest.py sees to it for every skip, these included).
"""

import contextlib
import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.daemon import ToolMissing, tool

REPOSITORY = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def skipped_where_missing() -> Iterator[None]:
    """What the block needs of other people's programs is installed, or the test is skipped."""
    try:
        yield
    except ToolMissing as missing:
        pytest.skip(str(missing))


def require_tool(name: str) -> str:
    """The path of the program *name*."""
    with skipped_where_missing():
        return tool(name)


def require_root() -> None:
    """Root is needed: network namespaces, BPF, privileged ports."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


def genuine_zones_directory() -> Path | None:
    """Where genuine root zones are: $ROOTSRV_GENUINE_ZONES, else ../shared/zones beside the repository; None if not."""
    directory = _genuine_zones()
    return directory if (directory / "root-anchors.xml").exists() else None


def require_genuine_zones() -> Path:
    """The directory of genuine root zones."""
    directory = genuine_zones_directory()
    if directory is None:
        pytest.skip(f"no genuine zones in {_genuine_zones()} (set ROOTSRV_GENUINE_ZONES)")
    return directory


def _genuine_zones() -> Path:
    named = os.environ.get("ROOTSRV_GENUINE_ZONES")
    return Path(named) if named else REPOSITORY.parent / "shared" / "zones"


def genuine_root_zone_text(serial: int) -> bytes:
    """The zone file of the genuine root zone with this *serial*."""
    return gzip.decompress((require_genuine_zones() / f"root.zone.{serial}.gz").read_bytes())
