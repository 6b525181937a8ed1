"""Files that one process holds: a second one is refused."""

import errno
import fcntl
import os
from pathlib import Path


def hold(path: Path, mode: int = 0o640) -> int:
    """Hold the file at *path*, made if it is not there: its descriptor; the hold ends when that is closed.

    BlockingIOError if another process holds it, OSError if it cannot be opened.  On a file system that became
    read-only, as one does whose disk fails, the file that is there is held all the same: what is kept can be served.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_RDWR | os.O_CREAT, mode)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        descriptor = os.open(path, flags | os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
