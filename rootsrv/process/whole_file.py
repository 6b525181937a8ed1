"""Files that are replaced whole: after a crash there is the old content or the new one, never a part."""

import contextlib
import os
import secrets
from pathlib import Path

SUFFIX = ".writing"
"""Of what a crash leaves beside a file; whoever owns the directory may remove it."""


def replace(path: Path, octets: bytes, mode: int | None = None) -> None:
    """Put *octets* at *path*, on the disk when this returns; OSError names what hinders, and *path* is as it was.

    *mode*: permission bits, whatever the umask is; without it as `open` gives them.
    """
    # A name that nobody can guess, and never a file that is there: in a directory where others may write (an export to
    # /tmp) a link in its place would have us write wherever it leads.
    beside = path.with_name(f"{path.name[:200]}.{secrets.token_hex(8)}{SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(beside, flags, 0o666 if mode is None else 0o600)
    try:
        try:
            if mode is not None:
                os.fchmod(descriptor, mode)
            view = memoryview(octets)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(path)
        # The rename, too, is to survive the loss of power.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
