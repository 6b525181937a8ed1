"""ZONEMD: a digest over the whole zone, glue and delegations included (RFC 8976)."""

import hashlib
import struct
from typing import Literal

from rootsrv.wire.rdata import RRSIG, ZONEMD
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.rejection import DigestMismatch, DigestMissing

Policy = Literal["required", "if-supported", "off"]
"""`required`: without a digest that was verified the zone is rejected.  `if-supported`: an absent or unsupported one
raises an alarm.  A digest that is there and wrong rejects under both.  `off`: not looked at."""

SIMPLE = 1  # the only scheme (RFC 8976 §5.2)
HASHES = {1: ("SHA-384", hashlib.sha384), 2: ("SHA-512", hashlib.sha512)}  # RFC 8976 §5.3

_FIXED = struct.Struct("!IBB")  # serial, scheme, hash algorithm (RFC 8976 §2.2)


def compute(contents: ZoneContents, hash_algorithm: int) -> bytes:
    """The SIMPLE digest (RFC 8976 §3.3.1): over all records but the apex ZONEMD and its RRSIG, in canonical order."""
    return HASHES[hash_algorithm][1](_canonical_octets(contents)).digest()


def zonemd_rdata(contents: ZoneContents, hash_algorithm: int) -> bytes:
    """RDATA of the ZONEMD that the contents should have."""
    return _FIXED.pack(contents.serial, SIMPLE, hash_algorithm) + compute(contents, hash_algorithm)


def check(contents: ZoneContents, policy: Policy) -> tuple[str, list[str]]:
    """A line that says what was found, and alarms; DigestMissing or DigestMismatch by *policy* (RFC 8976 §4).

    In a signed zone the NSEC chain and the signatures have been checked before, so that an absent ZONEMD is proven.
    """
    if policy == "off":
        return "ZONEMD: not looked at (policy off)", []
    rrset = contents.rrset(contents.apex, ZONEMD)
    if rrset is None or not rrset.rdatas:
        return _without("the zone has no ZONEMD", policy)
    usable, unsupported = [], []
    seen = set()
    for rdata in rrset.rdatas:
        if len(rdata) < _FIXED.size + 12:  # RFC 8976 §2.2.4
            raise DigestMismatch(f"ZONEMD RDATA of {len(rdata)} octets; a digest has at least 12")
        serial, scheme, hash_algorithm = _FIXED.unpack_from(rdata)
        if (scheme, hash_algorithm) in seen:
            raise DigestMismatch(f"two ZONEMD records of scheme {scheme} and hash {hash_algorithm} (RFC 8976 §2)")
        seen.add((scheme, hash_algorithm))
        if serial != contents.serial:
            raise DigestMismatch(f"ZONEMD is for serial {serial}, the SOA has {contents.serial}")
        if scheme == SIMPLE and hash_algorithm in HASHES:
            usable.append((*HASHES[hash_algorithm], rdata[_FIXED.size :]))
        else:
            unsupported.append(f"scheme {scheme} hash {hash_algorithm}")
    if not usable:
        return _without(f"unsupported: {', '.join(unsupported)}", policy)
    octets = _canonical_octets(contents)
    for hash_name, hash_, expected in usable:
        computed = hash_(octets).digest()
        if expected != computed:
            raise DigestMismatch(
                f"serial {contents.serial}: ZONEMD says {hash_name} {expected.hex()[:16]}…,"
                f" the contents hash to {computed.hex()[:16]}…"
            )
    names = " and ".join(hash_name for hash_name, _, _ in usable)
    return f"ZONEMD: {names} digest of serial {contents.serial} equals the contents", []


def _without(why: str, policy: Policy) -> tuple[str, list[str]]:
    if policy == "required":
        raise DigestMissing(f"a ZONEMD that can be verified is required: {why}")
    return f"ZONEMD: not verified ({why})", [f"ZONEMD could not be verified: {why}"]


def _canonical_octets(contents: ZoneContents) -> bytes:
    parts: list[bytes] = []
    for owner, rrsets in contents.by_owner.items():
        records: list[tuple[int, bytes, int]] = []
        for rrset in rrsets:
            if rrset.rtype == ZONEMD and owner == contents.apex:
                continue
            records += [(rrset.rtype, rdata, rrset.ttl) for rdata in rrset.rdatas]
            # All RRSIGs of a name are one RRset here, whatever they cover.
            records += [(RRSIG, rrsig, rrset.ttl) for rrsig in rrset.rrsigs]
        for rtype, rdata, ttl in sorted(records):
            parts += (owner, _RECORD_HEAD.pack(rtype, 1, ttl, len(rdata)), rdata)
    return b"".join(parts)


_RECORD_HEAD = struct.Struct("!HHIH")  # type, class, TTL, RDLENGTH
