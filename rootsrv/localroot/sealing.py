"""TSIG secrets at rest: encrypted under a key that is kept beside the register, not in it."""
# A copy of the register alone (a backup, a file handed on to look at) gives no secret away, and neither does a way to
# read it by SQL.  The key is kept twice: without it every key of every server is lost.  Any 32 octets look like one, so
# the right one is told by what it opens.

import contextlib
import errno
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rootsrv.process import log
from rootsrv.process.twice import BothDamaged, Twice

_MODE = 0o600
_KEY_OCTETS = 32
_NONCE_OCTETS = 12


class SealBroken(Exception):
    """What was sealed cannot be opened: another key, or it was changed."""


class SealingKeyUnusable(Exception):
    """The file of the key cannot be read, or holds none."""


class Seal:
    """Encrypts (AES-256-GCM) what belongs to a name; what was sealed for another name does not open."""

    def __init__(self, key: bytes) -> None:
        """*key*: 32 octets."""
        self._key = key
        self._cipher = AESGCM(key)

    def derived(self, purpose: str) -> bytes:
        """Another key of 32 octets, for *purpose* (RFC 5869)."""
        return HKDF(hashes.SHA256(), 32, None, purpose.encode()).derive(self._key)

    def close(self, octets: bytes, name: str) -> bytes:
        """*octets*, encrypted, for *name*."""
        nonce = secrets.token_bytes(_NONCE_OCTETS)
        return nonce + self._cipher.encrypt(nonce, octets, name.encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """What was closed for *name*; SealBroken if that cannot be."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_OCTETS], sealed[_NONCE_OCTETS:], name.encode())
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"{name}: its secret cannot be opened with this key") from error

    def opens(self, sealed: bytes, name: str) -> bool:
        """Whether `open` would."""
        with contextlib.suppress(SealBroken):
            return bool(self.open(sealed, name))
        return False


Sealed = Sequence[tuple[bytes, str]]
"""Some of what was sealed, each with the name that it is for: the right key opens one of them."""


def read(path: Path, sealed: Sealed = ()) -> Seal:
    """With the key in the file at *path*, or in its twin, by who only reads; SealingKeyUnusable says what is wrong."""
    return _found(twin_of_key(path), sealed, mend=False)


def read_or_make(file: Twice, sealed: Sealed = ()) -> Seal:
    """With the key in *file*, which is made if there is none; whoever makes it at the same time gets the same one."""
    if not file.path.exists() and not file.twin.exists():
        beside = file.path.with_name(f"{file.path.name}.{secrets.token_hex(8)}.writing")
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "wb") as opened:
                opened.write(secrets.token_bytes(_KEY_OCTETS))
                opened.flush()
                os.fsync(opened.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(beside, file.path)
        except OSError as error:
            raise SealingKeyUnusable(f"{file.path}: {error.strerror}") from error
        finally:
            beside.unlink(missing_ok=True)
    return _found(file, sealed, mend=True)


def _found(file: Twice, sealed: Sealed, *, mend: bool) -> Seal:
    def right(octets: bytes) -> Seal:
        seal = _seal(octets)
        if sealed and not any(seal.opens(*each) for each in sealed):
            raise ValueError("it opens nothing that was sealed")
        return seal

    try:
        found = file.read(right, mend=mend)
    except BothDamaged as error:
        # Of a register whose key is lost the accounts are left, and whatever is sealed from now on.
        try:
            found = _seal(file.path.read_bytes())
        except (OSError, ValueError):
            raise SealingKeyUnusable(str(error)) from error
        if mend:
            log.alarm("key of the register opens nothing", reason=error)
    if found is None:
        raise SealingKeyUnusable(f"{file.path}: {os.strerror(errno.ENOENT)}")
    return found


def _seal(octets: bytes) -> Seal:
    if len(octets) != _KEY_OCTETS:
        raise ValueError(f"must be {_KEY_OCTETS} octets, got {len(octets)}")
    return Seal(octets)


def twin_of_key(path: Path) -> Twice:
    """The key at *path*, for `read_or_make` and for a status."""
    return Twice(path, _MODE)
