"""The public keys in DNSKEY records: what checks signatures by them (RFC 5702, RFC 6605, RFC 8080)."""
# Imported by who verifies, when he does (ZoneKey.check).  Roles whose children verify import it before: a fork has it
# then, and need not load it for each zone.

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from rootsrv.zone.dnssec import ECDSAP256SHA256, ECDSAP384SHA384, ED25519, RSASHA256, Check


def check_by(algorithm: int, public: bytes) -> Check:
    """Checks signatures by the key *public*, in the form of DNSKEY; ValueError when that is no usable key."""
    try:
        verify = _verify(algorithm, public)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error

    def check(signature: bytes, signed: bytes) -> bool:
        try:
            verify(signature, signed)
        except InvalidSignature:
            return False
        return True

    return check


Verify = Callable[[bytes, bytes], None]
"""(signature, signed octets) → None, or InvalidSignature."""


def _verify(algorithm: int, public: bytes) -> Verify:
    if algorithm == RSASHA256:
        return _by_rsa(public)
    if algorithm == ECDSAP256SHA256:
        return _by_ecdsa(public, ec.SECP256R1(), SHA256(), 32)
    if algorithm == ECDSAP384SHA384:
        return _by_ecdsa(public, ec.SECP384R1(), SHA384(), 48)
    if algorithm == ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(public).verify
    raise ValueError(f"algorithm {algorithm} is not supported")


def _by_rsa(public: bytes) -> Verify:
    # RFC 3110 §2: length of the exponent in one octet, or in two behind a zero.
    if public[:1] == b"\0":
        exponent_at, size = 3, int.from_bytes(public[1:3], "big")
    else:
        exponent_at, size = 1, public[0] if public else 0
    exponent = int.from_bytes(public[exponent_at : exponent_at + size], "big")
    modulus = int.from_bytes(public[exponent_at + size :], "big")
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    scheme, hash_ = padding.PKCS1v15(), SHA256()
    return lambda signature, signed: key.verify(signature, signed, scheme, hash_)


def _by_ecdsa(public: bytes, curve: ec.EllipticCurve, hash_: SHA256 | SHA384, size: int) -> Verify:
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\4" + public)
    algorithm = ec.ECDSA(hash_)

    def verify(signature: bytes, signed: bytes) -> None:
        if len(signature) != 2 * size:  # RFC 6605 §4: r | s
            raise InvalidSignature
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        key.verify(encode_dss_signature(r, s), signed, algorithm)

    return verify
