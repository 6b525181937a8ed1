"""The Debian package of what is checked out: built once for all tests that install it."""

import fcntl
import hashlib
import os
import platform
import subprocess
from pathlib import Path

from tests.needs import REPOSITORY, require_root, require_tool

_BUILD = REPOSITORY / "deploy" / "debian" / "build.sh"
_KEPT = REPOSITORY / "build" / "packages"
_BUILD_SECONDS = 1500

_IN_IT = ("deploy", "docs", "rootsrv", "pyproject.toml", "hatch_build.py", "*.md", "LICENSE")
"""What the package is made of; a change of anything else makes no other one."""


def package(suite: str) -> Path:
    """For Debian *suite* (bookworm, trixie); kept below build/ until something in it changes.

    $ROOTSRV_PACKAGE_BOOKWORM and $ROOTSRV_PACKAGE_TRIXIE name one that is there already.
    """
    if ready := os.environ.get(f"ROOTSRV_PACKAGE_{suite.upper()}"):
        return Path(ready)
    require_root()
    require_tool("debootstrap")
    here = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    for name in ("dh", "clang") if suite == here else ():
        require_tool(name)
    directory = _KEPT / f"{suite}-{_digest()}"
    _KEPT.mkdir(parents=True, exist_ok=True)
    # Tests of two files may want it at one time.
    with (_KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(directory.glob("rootsrv_*.deb")):
            for older in _KEPT.glob(f"{suite}-*/*"):
                older.unlink()
                older.parent.rmdir()
            done = subprocess.run(
                ["sh", _BUILD, directory, suite], capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
            )
            assert done.returncode == 0, done.stderr
        (built,) = directory.glob("rootsrv_*.deb")
    return built


def _digest() -> str:
    listed = subprocess.run(
        ["git", "-C", REPOSITORY, "ls-files", "-z", "--", *_IN_IT],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    told = hashlib.sha256()
    for name in filter(None, listed.stdout.split("\0")):
        path = REPOSITORY / name
        if path.is_file():
            told.update(f"{name}\0{path.stat().st_mode & 0o111:o}\0".encode() + path.read_bytes() + b"\0")
    return told.hexdigest()[:16]
