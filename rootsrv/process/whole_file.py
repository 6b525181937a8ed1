"""Files that are replaced whole: after a crash there is the old content or the new one, never a part."""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

SUFFIX = ".writing"
"""Of what a crash leaves beside a file; whoever owns the directory may remove it."""


def put(path: Path, octets: bytes, mode: int | None = None) -> None:
    """*octets* to where somebody said on a command line: as `replace`, but into what is there if that is no file.

    A pipe, a terminal, /dev/stdout: a file in its place, or in place of the link, is what nobody wanted.  OSError.
    """
    if not _is_stream(path):
        replace(path, octets, mode)
        return
    # O_CREAT makes nothing here: it has the kernel look at whose pipe it is (fs.protected_fifos, proc(5)).
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC, 0o600), "wb") as stream:
        stream.write(octets)


def _is_stream(path: Path) -> bool:
    """Whether *path* leads to what is no file, or to what a process has open (/dev/stdout, whatever it is)."""
    try:
        kind = path.stat().st_mode
    except OSError:
        return False
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
        return path.is_symlink() and str(path.readlink()).startswith("/proc/")
    return True


def replace(path: Path, octets: bytes, mode: int | None = None) -> None:
    """Put *octets* at *path*, on the disk when this returns; OSError names what hinders, and *path* is as it was.

    *mode*: permission bits, whatever the umask is; without it as `open` gives them.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
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
