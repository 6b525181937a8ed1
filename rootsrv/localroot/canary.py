"""The canary: a small zone of the service's own, with a new version whenever one is wanted, to try a set-up with.

A root comes twice a day; whether a resolver hears of a new version, comes for it and has it, is seen here in seconds.
"""
# Theory of operation
# -------------------
# It is made and signed here, by keys that are made once and kept beside the state, and goes the way of every other zone
# that is only given out (secondary/distributed.py): verified before it is given out – by its own key, since nobody
# above has to delegate it – kept, never back to an older serial.  Serials are seconds since 1970: a service that lost
# all its state goes on behind where it was.

import hashlib
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from rootsrv.config.localroot import LocalRootConfig
from rootsrv.demo.sign import Signing, SigningKey, sign_root
from rootsrv.process import log
from rootsrv.process.twice import BothDamaged, Twice
from rootsrv.wire import name as names
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import presentation
from rootsrv.zone.contents import RRset, ZoneContents

KEYS_FILE = "canary.keys"
"""In the state directory: private keys of KSK and ZSK, PEM."""

RETRY_SECONDS, EXPIRE_SECONDS, MINIMUM_SECONDS = 60, 86_400, 60
SIGNED_SECONDS = 7 * 86_400
EARLIER_SECONDS = 3600
"""So long before it is made its signatures begin: clocks of others go slow."""

_END = b"-----END PRIVATE KEY-----\n"
_SHA256 = 2  # digest type (RFC 4509)


class Canary:
    """Makes versions of the zone."""

    def __init__(self, zone: str, service: str, refresh_seconds: float, keys: Sequence[SigningKey]) -> None:
        """*service*: whose it is, a domain name without a dot at its end; *keys*: KSK and ZSK."""
        self.zone = zone
        self.apex = names.from_text(zone)
        self._service = service
        self._refresh_seconds = round(refresh_seconds)
        self._keys = keys

    @property
    def delegation(self) -> RRset:
        """The DS RRset that its own key makes."""
        key = next(each for each in self._keys if each.is_sep)
        digest = hashlib.sha256(self.apex + key.dnskey).digest()
        rdata = key.tag.to_bytes(2, "big") + bytes((key.algorithm, _SHA256)) + digest
        return RRset(self.apex, rdatas.DS, 3600, (rdata,))

    @property
    def ds_text(self) -> str:
        """For whoever has the zone above, if it is to be validated from there."""
        return rdatas.to_text(rdatas.DS, self.delegation.rdatas[0])

    def make(self, newest: int | None, now: float) -> ZoneContents:
        """A version newer than *newest*, at *now* (seconds since 1970)."""
        serial = int(now) & 0xFFFFFFFF
        if newest is not None and not serial_is_newer(serial, newest):
            serial = (newest + 1) & 0xFFFFFFFF
        timers = f"{self._refresh_seconds} {RETRY_SECONDS} {EXPIRE_SECONDS} {MINIMUM_SECONDS}"
        unsigned = presentation.from_text(
            (
                f"{self.zone}\t60\tIN\tSOA\t{self._service}. hostmaster.{self._service}. {serial} {timers}\n"
                f"{self.zone}\t60\tIN\tNS\t{self._service}.\n"
                f'{self.zone}\t60\tIN\tTXT\t"canary of {self._service}, version {serial}"\n'
            ).encode(),
            self.apex,
        )
        signing = Signing(keys=self._keys, inception=int(now) - EARLIER_SECONDS, expiration=int(now) + SIGNED_SECONDS)
        return sign_root(unsigned, signing)


def configured_canary(settings: LocalRootConfig, keys: Twice) -> Canary | None:
    """What makes the canary zone, if there is to be one; its *keys* are kept."""
    if not settings.canary_zone:
        return None
    made = Canary(settings.canary_zone, settings.name, settings.canary_seconds, kept_keys(keys))
    log.event("canary zone", zone=made.zone, every_seconds=settings.canary_seconds, ds=made.ds_text)
    return made


def keys_file(state: Path) -> Twice:
    """Where the keys are kept, in the directory *state*."""
    return Twice(state / KEYS_FILE, 0o600)


def kept_keys(file: Twice) -> tuple[SigningKey, SigningKey]:
    """KSK and ZSK in *file*, which are made if there are none, or none that can be used."""
    try:
        if (kept := file.read(_read)) is not None:
            return kept
    except BothDamaged as error:
        log.alarm("keys of the canary zone are made anew", reason=error, effect="a DS above it is wrong now")
    made = (_key(is_sep=True), _key(is_sep=False))
    try:
        file.write(b"".join(map(_pem, made)))
    except OSError as error:
        log.alarm(
            "keys of the canary zone cannot be kept", file=file.path, reason=error.strerror, effect="others at a start"
        )
    return made


def _key(*, is_sep: bool) -> SigningKey:
    return SigningKey(ec.generate_private_key(ec.SECP256R1()), is_sep=is_sep)


def _pem(key: SigningKey) -> bytes:
    return key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(octets: bytes) -> tuple[SigningKey, SigningKey]:
    """ValueError, if it is not two keys."""
    parts = [each + _END for each in octets.split(_END) if each.strip()]
    if len(parts) != 2:
        raise ValueError(f"must hold two private keys, holds {len(parts)}")
    try:
        found = [load_pem_private_key(each, None) for each in parts]
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from error
    keys = [each for each in found if isinstance(each, ec.EllipticCurvePrivateKey) and each.key_size == 256]
    if len(keys) != 2:
        raise ValueError("must hold two P-256 keys")
    return SigningKey(keys[0], is_sep=True), SigningKey(keys[1], is_sep=False)
