"""TSIG secrets at rest: encrypted under a key that is kept beside the register, not in it."""
# A copy of the register alone (a backup, a file handed on to look at) gives no secret away, and neither does a way to
# read it by SQL.

import contextlib
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

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


def read(path: Path) -> Seal:
    """With the key in the file at *path*; SealingKeyUnusable says what is wrong with it."""
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise SealingKeyUnusable(f"{path}: {error.strerror}") from error
    if len(octets) != _KEY_OCTETS:
        raise SealingKeyUnusable(f"{path}: must be {_KEY_OCTETS} octets, got {len(octets)}")
    return Seal(octets)


def read_or_make(path: Path) -> Seal:
    """With the key at *path*, which is made if there is none; whoever makes it at the same time gets the same one."""
    if not path.exists():
        beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.writing")
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_OCTETS))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)
        except OSError as error:
            raise SealingKeyUnusable(f"{path}: {error.strerror}") from error
        finally:
            beside.unlink(missing_ok=True)
    return read(path)
