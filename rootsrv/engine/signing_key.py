"""Signing keys on disk: Ed25519, PEM, for their owner alone."""

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


class SigningKeyUnusable(Exception):
    """A signing key cannot be read or written; the text says why."""


def make(path: Path) -> Ed25519PrivateKey:
    """A new key in a file that did not exist; KeyUnusable."""
    key = Ed25519PrivateKey.generate()
    octets = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(octets)
    except FileExistsError as error:
        raise SigningKeyUnusable(f"{path}: exists, and a key that is in use must not be overwritten") from error
    except OSError as error:
        raise SigningKeyUnusable(f"{path}: {error.strerror}") from error
    return key


def load(path: Path) -> Ed25519PrivateKey:
    """The key at *path*; KeyUnusable, also if others than its owner may read it."""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            octets = stream.read(65_536)
    except OSError as error:
        raise SigningKeyUnusable(f"{path}: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SigningKeyUnusable(f"{path}: others may read it (mode {mode & 0o777:o}): chmod 600, and make a new key")
    try:
        key = load_pem_private_key(octets, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyUnusable(f"{path}: is no private key in PEM: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyUnusable(f"{path}: is not an Ed25519 key")
    return key
