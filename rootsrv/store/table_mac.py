"""Which answer tables this instance made: a MAC beside each, under a key that workers cannot read."""
# A table is answered from before anything is verified again, so that a restart costs no second of service.  The digest
# within a table tells that it is whole; whoever can write it can write the digest too.  The MAC (HMAC-SHA-256) tells
# that it is ours: workers, which read what strangers send, run as another account than the one that has the key, and a
# medium carries neither key nor tables.  It covers the generation, so that no older table can take the place of the one
# in service.

import contextlib
import hmac
import os
from pathlib import Path

from rootsrv.process import log, whole_file

_KEY_OCTETS = 32
_MAC_OCTETS = 32


class TableKey:
    """The key of one state directory."""

    def __init__(self, path: Path) -> None:
        """Read the key at *path*, or make one: then no table that is there is ours."""
        self._key = _read(path) or os.urandom(_KEY_OCTETS)
        if not path.exists():
            try:
                whole_file.replace(path, self._key, 0o600)
            except OSError as error:  # the tables of this run are compiled anew by the next one
                log.alarm("key of the answer tables cannot be kept", file=path, reason=error.strerror)

    def mac(self, generation: int, digest: bytes) -> bytes:
        """The MAC of the table number *generation* whose digest is *digest*."""
        return hmac.digest(self._key, b"rootsrv table\0" + generation.to_bytes(8, "big") + digest, "sha256")

    def is_ours(self, generation: int, digest: bytes, mac: bytes) -> bool:
        """Whether *mac* is that of this table."""
        return hmac.compare_digest(self.mac(generation, digest), mac)


def _read(path: Path) -> bytes | None:
    """The key at *path*; None, and the file is gone, if it is none or others could have had it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status, key = os.fstat(descriptor), os.read(descriptor, _KEY_OCTETS + 1)
    finally:
        os.close(descriptor)
    if len(key) == _KEY_OCTETS and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
        return key
    log.alarm("key of the answer tables is made anew", file=path, reason="it was damaged, or others could read it")
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def mac_path(table: Path) -> Path:
    """Where the MAC of the table at *table* is."""
    return table.with_suffix(".mac")
