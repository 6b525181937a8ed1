"""Signatures: from trust anchor to DNSKEY, from DNSKEY to every authoritative RRset (RFC 4035 §5.3)."""
# Every RRSIG that is there must be good, not only one of each RRset: the zone is served as it is, and a resolver may
# choose any.  The exception are RRSIGs that cannot be judged, since their algorithm is unknown here or their key is not
# (or no longer) in the DNSKEY RRset: those raise an alarm, and the RRset needs another one that is good.  Otherwise a
# roll of the root's algorithm would be refused by every instance at once (D22).

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rootsrv.wire import serial
from rootsrv.wire.name import labels, to_text
from rootsrv.wire.rdata import (
    AAAA,
    DNSKEY,
    DS,
    NS,
    NSEC,
    RRSIG_FIXED,
    RRSIG_FIXED_OCTETS,
    A,
    key_tag,
    signer_end,
    type_text,
)
from rootsrv.zone import instant
from rootsrv.zone.anchors import TrustAnchor, TrustAnchors
from rootsrv.zone.contents import Place, RRset, ZoneContents
from rootsrv.zone.rejection import (
    KeyUntrusted,
    SignatureExpired,
    SignatureInvalid,
    SignatureMisplaced,
    SignatureMissing,
    SignatureNotYetValid,
)

RSASHA256, ECDSAP256SHA256, ECDSAP384SHA384, ED25519 = 8, 13, 14, 15  # RFC 5702, RFC 6605, RFC 8080
SUPPORTED_ALGORITHMS = frozenset({RSASHA256, ECDSAP256SHA256, ECDSAP384SHA384, ED25519})

ZONE_KEY, REVOKED, SEP = 0x0100, 0x0080, 0x0001  # DNSKEY flags (RFC 4034 §2.1.1, RFC 5011 §2.1)

# A root has one RRSIG an RRset and two during rolls.  A zone with very many would only cost time (CVE-2023-50387).
MAX_RRSIGS_PER_RRSET = 16

Check = Callable[[bytes, bytes], bool]
"""(signature, signed octets) → whether it is one of these."""


@dataclass(frozen=True)
class ZoneKey:
    """One DNSKEY record."""

    rdata: bytes

    @cached_property
    def tag(self) -> int:
        """Key tag (RFC 4034 appendix B)."""
        return key_tag(self.rdata)

    @property
    def flags(self) -> int:
        """The 16 flag bits."""
        return self.rdata[0] << 8 | self.rdata[1]

    @property
    def algorithm(self) -> int:
        """DNSSEC algorithm number."""
        return self.rdata[3]

    @property
    def may_sign(self) -> bool:
        """Whether signatures of this key count: a zone key, protocol 3, not revoked."""
        return bool(self.flags & ZONE_KEY) and not self.flags & REVOKED and self.rdata[2] == 3

    @cached_property
    def check(self) -> Check:
        """Checks a signature by this key; ValueError when there is no usable public key in the record."""
        # A process that only has verified zones does without cryptography, which takes 7 MB.
        from rootsrv.zone.public_keys import check_by

        return check_by(self.algorithm, self.rdata[4:])

    def __str__(self) -> str:
        return f"{self.tag} (algorithm {self.algorithm})"


def signed_octets(rrset: RRset, rrsig: bytes) -> bytes:
    """What an RRSIG signs: its own RDATA without the signature, then the RRset (RFC 4034 §3.1.8.1).

    Only the part of *rrsig* before the signature is read, so that signing and verifying share this.
    """
    head = rrset.owner + struct.pack("!HHI", rrset.rtype, 1, RRSIG_FIXED.unpack_from(rrsig)[3])
    parts = [rrsig[: signer_end(rrsig)]]
    for rdata in rrset.rdatas:
        parts += (head, len(rdata).to_bytes(2, "big"), rdata)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Signatures:
    """What `check_signatures` found."""

    verified: int
    total: int
    """RRSIGs, of which `verified` were checked and good; the rest could not be judged."""

    not_before: float
    """Latest inception, seconds since 1970."""

    until: float
    """Earliest expiration, seconds since 1970."""

    alarms: tuple[str, ...]


def check_keys(
    contents: ZoneContents, trust_anchors: TrustAnchors, now: float
) -> tuple[list[ZoneKey], list[ZoneKey], list[str]]:
    """The zone's keys, those of them that an anchor covers and that sign the DNSKEY RRset, and alarms.

    Raises KeyUntrusted when there is no anchored key, SignatureMissing when none of them signs.
    """
    rrset = contents.rrset(contents.apex, DNSKEY)
    if rrset is None or not rrset.rdatas:
        raise KeyUntrusted(f"{to_text(contents.apex)} has no DNSKEY RRset")
    anchors = trust_anchors.valid_at(now)
    if not anchors:
        raise KeyUntrusted(f"no trust anchor is valid at {instant.to_text(now)} (there are: {trust_anchors})")
    keys = [ZoneKey(rdata) for rdata in rrset.rdatas]
    anchored = [key for key in keys if key.may_sign and _is_covered(key, contents.apex, anchors)]
    if not anchored:
        raise KeyUntrusted(
            f"the DNSKEY RRset has the keys {_list(keys)}; none of them is the key of a trust anchor"
            f" (valid at {instant.to_text(now)}: {', '.join(str(anchor.key_tag) for anchor in anchors)})"
        )
    good, _ = _check_rrset(rrset, contents.apex, anchored, now)
    if not good:
        raise SignatureMissing(
            f"{to_text(contents.apex)} DNSKEY: no RRSIG by a key of a trust anchor ({_list(anchored)});"
            f" its RRSIGs are by {_list_signers(rrset)}"
        )
    tags = {RRSIG_FIXED.unpack_from(rrsig)[6] for rrsig in rrset.rrsigs}
    return (
        keys,
        [key for key in anchored if key.tag in tags],
        [
            *trust_anchors.alarms,
            *_key_alarms(keys, contents.apex, anchors),
        ],
    )


def check_own_keys(contents: ZoneContents, now: float) -> list[ZoneKey]:
    """The zone's keys, which proves nothing; SignatureMissing unless one of them signs the DNSKEY RRset."""
    rrset = contents.rrset(contents.apex, DNSKEY)
    if rrset is None or not rrset.rdatas:
        raise KeyUntrusted(f"{to_text(contents.apex)} has no DNSKEY RRset")
    keys = [ZoneKey(rdata) for rdata in rrset.rdatas]
    good, _ = _check_rrset(rrset, contents.apex, keys, now)
    if not good:
        raise SignatureMissing(f"{to_text(contents.apex)} DNSKEY: its RRSIGs are by {_list_signers(rrset)}")
    return keys


UNCOVERED = "is covered by no trust anchor"
"""In an alarm's text; metrics look for it."""


def _key_alarms(keys: Iterable[ZoneKey], apex: bytes, anchors: Iterable[TrustAnchor]) -> Iterable[str]:
    for key in keys:
        if key.flags & REVOKED:
            unrevoked = ZoneKey((key.flags & ~REVOKED).to_bytes(2, "big") + key.rdata[2:])
            if _is_covered(unrevoked, apex, anchors):
                yield f"key {unrevoked.tag} is revoked (as {key.tag}, RFC 5011): its trust anchor no longer counts"
        elif key.flags & SEP and not _is_covered(key, apex, anchors):
            yield f"SEP key {key.tag} {UNCOVERED}: a roll of the key is coming, or the file of anchors lost it"


def _is_covered(key: ZoneKey, apex: bytes, anchors: Iterable[TrustAnchor]) -> bool:
    return any(anchor.covers(apex, key.rdata) for anchor in anchors)


def check_signatures(contents: ZoneContents, keys: list[ZoneKey], now: float) -> Signatures:
    """Check every RRSIG, and that everything authoritative has one and nothing else does.

    The contents have the shape of a root (`shape.check_root`) or of its hosts, and *keys* are those of its trusted
    DNSKEY RRset.
    """
    check_covered(contents)
    places = contents.places
    validities: list[tuple[float, float]] = []
    unjudged: Counter[str] = Counter()
    for rrset in (rrset for rrsets in contents.by_owner.values() for rrset in rrsets):
        if is_authoritative(rrset, places[rrset.owner]):
            good, others = _check_rrset(rrset, contents.apex, keys, now)
            if not good:
                signers = f"its RRSIGs are by {_list_signers(rrset)}" if rrset.rrsigs else "it has no RRSIG"
                raise SignatureMissing(f"{_name(rrset)}: no RRSIG by a key of the zone ({_list(keys)}): {signers}")
            validities += good
            unjudged.update(others)
        elif rrset.rrsigs:
            raise SignatureMisplaced(f"{_name(rrset)} is not authoritative, but signed by {_list_signers(rrset)}")
    return Signatures(
        verified=len(validities),
        total=len(validities) + unjudged.total(),
        not_before=max(inception for inception, _ in validities),
        until=min(expiration for _, expiration in validities),
        alarms=tuple(f"{count} RRSIGs cannot be judged: {why}" for why, count in sorted(unjudged.items())),
    )


def check_covered(contents: ZoneContents) -> None:
    """SignatureMisplaced if there is an RRSIG of an RRset that is not there; matters in an unsigned zone, too."""
    for rrset in contents.rrsets.values():
        if not rrset.rdatas:
            raise SignatureMisplaced(f"{_name(rrset)}: there is an RRSIG by {_list_signers(rrset)} but no such RRset")


def is_authoritative(rrset: RRset, place: Place) -> bool:
    """Whether *rrset* is the zone's to sign.

    At a delegation that is DS and NSEC (RFC 4035 §2.2), never NS or glue, and of other types what is signed: a type
    that is new may belong to the parent's side, as DS once did.
    """
    if place is Place.DELEGATION:
        return rrset.rtype in _THE_PARENTS or (bool(rrset.rrsigs) and rrset.rtype not in _THE_CHILDS)
    return place is not Place.BELOW


_THE_PARENTS = frozenset({DS, NSEC})
_THE_CHILDS = frozenset({NS, A, AAAA})


def _check_rrset(
    rrset: RRset, apex: bytes, keys: Sequence[ZoneKey], now: float
) -> tuple[list[tuple[float, float]], list[str]]:
    """Inception and expiration of each good RRSIG, and why others could not be judged; raises at the first bad one."""
    if len(rrset.rrsigs) > MAX_RRSIGS_PER_RRSET:
        raise SignatureInvalid(f"{_name(rrset)} has {len(rrset.rrsigs)} RRSIGs, more than {MAX_RRSIGS_PER_RRSET}")
    good: list[tuple[float, float]] = []
    unjudged: list[str] = []
    for rrsig in rrset.rrsigs:
        _, algorithm, label_count, original_ttl, expiration, inception, tag = RRSIG_FIXED.unpack_from(rrsig)
        signature_at = signer_end(rrsig)
        if rrsig[RRSIG_FIXED_OCTETS:signature_at] != apex:
            raise SignatureInvalid(
                f"{_rrsig(rrset, rrsig)} names {to_text(rrsig[RRSIG_FIXED_OCTETS:signature_at])} as its signer"
            )
        owner_labels = labels(rrset.owner)
        expected = len(owner_labels) - (owner_labels[:1] == (b"*",))  # RFC 4034 §3.1.3
        if label_count != expected:
            raise SignatureInvalid(f"{_rrsig(rrset, rrsig)} is over {label_count} labels, the owner has {expected}")
        if original_ttl != rrset.ttl:
            raise SignatureInvalid(f"{_rrsig(rrset, rrsig)} is over TTL {original_ttl}, the RRset has {rrset.ttl}")
        candidates = [key for key in keys if key.tag == tag and key.algorithm == algorithm and key.may_sign]
        if not candidates:
            unjudged.append(f"key {tag} (algorithm {algorithm}) is not a signing key in the DNSKEY RRset")
            continue
        try:
            checks = [key.check for key in candidates]
        except ValueError as error:
            unjudged.append(f"key {tag}: {error}")
            continue
        since, until = serial.nearest(inception, now), serial.nearest(expiration, now)
        if now > until:
            raise SignatureExpired(
                f"{_rrsig(rrset, rrsig)} expired at {instant.to_text(until)}, it is {instant.to_text(now)}"
            )
        if now < since:
            raise SignatureNotYetValid(
                f"{_rrsig(rrset, rrsig)} is valid from {instant.to_text(since)}, it is {instant.to_text(now)}"
            )
        signed = signed_octets(rrset, rrsig)
        if not any(check(rrsig[signature_at:], signed) for check in checks):
            raise SignatureInvalid(f"{_rrsig(rrset, rrsig)} is not a signature of these {len(rrset.rdatas)} records")
        good.append((since, until))
    return good, unjudged


def _name(rrset: RRset) -> str:
    return f"{to_text(rrset.owner)} {type_text(rrset.rtype)}"


def _rrsig(rrset: RRset, rrsig: bytes) -> str:
    return f"{_name(rrset)}: the RRSIG by {_signer(rrsig)}"


def _signer(rrsig: bytes) -> str:
    _, algorithm, _, _, _, _, tag = RRSIG_FIXED.unpack_from(rrsig)
    return f"key {tag} (algorithm {algorithm})"


def _list(keys: Iterable[ZoneKey]) -> str:
    return ", ".join(map(str, keys)) or "none"


def _list_signers(rrset: RRset) -> str:
    return ", ".join(map(_signer, rrset.rrsigs)) or "none"
