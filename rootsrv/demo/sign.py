"""Signs a zone: DNSKEY, NSEC chain, ZONEMD, RRSIGs.

For the demo, for tests and for the canary zone of a LocalRoot service; a root server signs nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rootsrv.wire.name import labels
from rootsrv.wire.rdata import AAAA, DNSKEY, NS, NSEC, RRSIG, RRSIG_FIXED, ZONEMD, A, key_tag, type_bitmap
from rootsrv.zone import digest
from rootsrv.zone.contents import Place, RRset, ZoneContents
from rootsrv.zone.dnssec import ECDSAP256SHA256, ECDSAP384SHA384, ED25519, RSASHA256, SEP, ZONE_KEY, signed_octets

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

ParallelMap = Callable[[Callable[[RRset], RRset], Iterable[RRset]], Iterable[RRset]]
"""`map`, or an executor's: signing leaves the interpreter, so threads help."""

DNSKEY_TTL = 172800  # as the root has


@dataclass(frozen=True)
class SigningKey:
    """A private key and how it appears in the DNSKEY RRset."""

    private: PrivateKey
    is_sep: bool
    """Whether it is a key-signing key: signs the DNSKEY RRset and nothing else."""

    @cached_property
    def dnskey(self) -> bytes:
        """DNSKEY RDATA (RFC 4034 §2.1)."""
        flags = ZONE_KEY | (SEP if self.is_sep else 0)
        return flags.to_bytes(2, "big") + bytes((3, self.algorithm)) + _public_octets(self.private)

    @cached_property
    def tag(self) -> int:
        """Key tag (RFC 4034 appendix B)."""
        return key_tag(self.dnskey)

    @property
    def algorithm(self) -> int:
        """DNSSEC algorithm number: 8, 13, 14 or 15."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return RSASHA256
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return ED25519
        return ECDSAP256SHA256 if self.private.key_size == 256 else ECDSAP384SHA384

    def sign(self, octets: bytes) -> bytes:
        """The signature field of an RRSIG over *octets*."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(octets, padding.PKCS1v15(), SHA256())
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(octets)
        size, hash_ = (32, SHA256()) if self.private.key_size == 256 else (48, SHA384())
        r, s = decode_dss_signature(self.private.sign(octets, ec.ECDSA(hash_)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def _public_octets(private: PrivateKey) -> bytes:
    if isinstance(private, rsa.RSAPrivateKey):
        numbers = private.public_key().public_numbers()
        exponent = numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")
        return bytes((len(exponent),)) + exponent + numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """How to sign: keys, validity in seconds since 1970, ZONEMD hash algorithms (none: no ZONEMD)."""

    keys: Sequence[SigningKey]
    inception: int
    expiration: int
    zonemd_hashes: Sequence[int] = (1,)


def sign_root(
    unsigned: ZoneContents, signing: Signing, *, reuse: ZoneContents | None = None, parallel_map: ParallelMap = map
) -> ZoneContents:
    """Sign a root, or the zone of its hosts; what *unsigned* has of DNSSEC and ZONEMD is made anew.

    RRSIGs of RRsets that are the same in *reuse* are taken from there, so that a successor differs only where it has
    to (give it only if keys and validity are the same).
    """
    apex = unsigned.apex
    plain = {
        key: replace(rrset, rrsigs=())
        for key, rrset in unsigned.rrsets.items()
        if rrset.rtype not in (NSEC, ZONEMD, DNSKEY) and rrset.rdatas
    }
    plain[apex, DNSKEY] = RRset(apex, DNSKEY, DNSKEY_TTL, tuple(sorted(key.dnskey for key in signing.keys)))
    soa = unsigned.soa
    if signing.zonemd_hashes:
        plain[apex, ZONEMD] = RRset(apex, ZONEMD, plain[apex, 6].ttl, ())
    plain |= _nsec_chain(ZoneContents(apex, plain), soa.minimum)

    def signed(rrset: RRset) -> RRset:
        before = reuse and reuse.rrset(rrset.owner, rrset.rtype)
        if before and before.rdatas == rrset.rdatas and before.ttl == rrset.ttl:
            return before
        return sign_rrset(rrset, apex, signing)

    rrsets = dict(plain)
    places = ZoneContents(apex, plain).places
    to_sign = [rrset for rrset in plain.values() if rrset.rdatas and _is_ours(rrset, places[rrset.owner])]
    for rrset in parallel_map(signed, to_sign):
        rrsets[rrset.owner, rrset.rtype] = rrset
    if signing.zonemd_hashes:
        without = ZoneContents(apex, rrsets)
        zonemd = tuple(sorted(digest.zonemd_rdata(without, hash_) for hash_ in signing.zonemd_hashes))
        rrsets[apex, ZONEMD] = sign_rrset(replace(plain[apex, ZONEMD], rdatas=zonemd), apex, signing)
    return ZoneContents(apex, rrsets)


def _nsec_chain(contents: ZoneContents, ttl: int) -> Mapping[tuple[bytes, int], RRset]:
    places = contents.places
    owners = [owner for owner, place in places.items() if place is not Place.BELOW]
    chain = {}
    for owner, following in zip(owners, [*owners[1:], contents.apex], strict=True):
        ours = [rrset for rrset in contents.by_owner[owner] if rrset.rtype == NS or _is_ours(rrset, places[owner])]
        types = {rrset.rtype for rrset in ours}
        bitmap = type_bitmap(types | {NSEC, RRSIG})
        chain[owner, NSEC] = RRset(owner, NSEC, ttl, (following + bitmap,))
    return chain


def _is_ours(rrset: RRset, place: Place) -> bool:
    """Whether it is the zone's to sign: at a delegation all but NS and glue, so that new types can be tried."""
    if place is Place.DELEGATION:
        return rrset.rtype not in (NS, A, AAAA)
    return place is not Place.BELOW


def sign_rrset(rrset: RRset, apex: bytes, signing: Signing) -> RRset:
    """*rrset* with RRSIGs by the keys whose business it is: those for the DNSKEY RRset, or those for all others."""
    has_sep = any(key.is_sep for key in signing.keys)
    is_ours = rrset.rtype == DNSKEY and has_sep
    rrsigs = []
    for key in signing.keys:
        if key.is_sep != is_ours:
            continue
        head = RRSIG_FIXED.pack(
            rrset.rtype,
            key.algorithm,
            len(labels(rrset.owner)) - rrset.owner.startswith(b"\1*"),
            rrset.ttl,
            signing.expiration,
            signing.inception,
            key.tag,
        )
        rrsigs.append(head + apex + key.sign(signed_octets(rrset, head + apex)))
    return replace(rrset, rrsigs=tuple(sorted(rrsigs)))
