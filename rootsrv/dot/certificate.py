"""The certificate of DNS over TLS: read and checked, or made here (RFC 9539 §3.1: not authenticated)."""

import base64
import contextlib
import datetime
import ipaddress
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SELF_SIGNED_DAYS = 90
_RENEWED_DAYS = 30
"""Before its end another one is made."""

_MAX_FILE_OCTETS = 1 << 20
_MAX_NAME_OCTETS = 64  # ub-common-name (RFC 5280, appendix A.1); cryptography counts octets


class CertificateUnusable(Exception):
    """The certificate or its key cannot be shown; the text names the file and the cause."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What clients are shown."""

    chain: tuple[bytes, ...]
    """DER, ours first."""

    key: bytes
    """DER of the private key (PKCS #8)."""

    not_after: float
    """When the first of the chain expires, seconds since 1970."""

    is_self_signed: bool = False

    def to_document(self) -> dict[str, Any]:
        """For the process that shows it, as JSON has it."""
        return {
            "chain": [base64.b64encode(each).decode() for each in self.chain],
            "key": base64.b64encode(self.key).decode(),
        }

    def is_to_be_renewed(self, now: float) -> bool:
        """Whether it was made here, and it is time for another one: also where the clock was ahead then."""
        return self.is_self_signed and not _RENEWED_DAYS <= (self.not_after - now) / 86_400 <= SELF_SIGNED_DAYS + 1


def from_document(document: dict[str, Any]) -> tuple[list[bytes], bytes]:
    """Chain and key of `Shown.to_document`."""
    return [base64.b64decode(each) for each in document["chain"]], base64.b64decode(document["key"])


def read(certificate: Path, key: Path, now: float) -> Shown:
    """What these PEM files hold.  CertificateUnusable: absent, no PEM, expired, not valid yet, or not a pair."""
    with _understood("dot.certificate", certificate):
        chain = x509.load_pem_x509_certificates(_octets(certificate))
        public = _public_octets(chain[0].public_key())
        dates = [(_name(each), each.not_valid_before_utc, each.not_valid_after_utc) for each in chain]
    with _understood("dot.key", key):
        private = serialization.load_pem_private_key(_octets(key), password=None)
        ours = _public_octets(private.public_key())
        secret = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    if ours != public:
        raise CertificateUnusable(f"dot.key: {key} is not the key of {certificate}")
    for name, begin, end in dates:
        if end.timestamp() <= now:
            raise CertificateUnusable(f"dot.certificate: {certificate}: {name} has expired ({end:%Y-%m-%d})")
        if begin.timestamp() > now:
            raise CertificateUnusable(f"dot.certificate: {certificate}: {name} is valid from {begin:%Y-%m-%d %H:%M} on")
    octets = tuple(each.public_bytes(Encoding.DER) for each in chain)
    return Shown(octets, secret, min(end.timestamp() for _, _, end in dates))


@contextlib.contextmanager
def _understood(setting: str, path: Path) -> Iterator[None]:
    """CertificateUnusable for whatever cryptography says of the file at *path*.

    That it does not know a version, a kind of key or a curve, that a point is on no curve or a date is none, that there
    is a passphrase: each is an exception of its own, and none may end who keeps the workers.
    """
    try:
        yield
    except CertificateUnusable:
        raise
    except Exception as error:
        raise CertificateUnusable(f"{setting}: {path}: {error}") from error


def make(name: str, addresses: Sequence[str], now: float) -> Shown:
    """One signed by its own key, for *name* and the service *addresses*."""
    key = ec.generate_private_key(ec.SECP256R1())
    at = datetime.datetime.fromtimestamp(now, datetime.UTC)
    end = at + datetime.timedelta(days=SELF_SIGNED_DAYS)
    common_name = name.encode()[:_MAX_NAME_OCTETS].decode(errors="ignore")
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name or "rootsrv")])
    alternatives = [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(key, hashes.SHA256())
    )
    octets = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Shown((made.public_bytes(Encoding.DER),), octets, end.timestamp(), is_self_signed=True)


def _octets(path: Path) -> bytes:
    try:
        # Not blocking: a FIFO that nobody writes to would hold up whoever watches over the workers.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise CertificateUnusable(f"{path}: is no file")
            return stream.read(_MAX_FILE_OCTETS)
    except OSError as error:
        raise CertificateUnusable(f"{path}: {error.strerror}") from error


def _public_octets(key: Any) -> bytes:
    octets: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return octets


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial number {certificate.serial_number}"
