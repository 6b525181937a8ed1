"""RDATA as octets: canonical form, and the few fields that zones are built and judged by."""
# Only the types that make up nearly all of a root zone are treated here, because dnspython takes 100 times as long for
# them; every other type goes through dnspython, which knows them all (any_rdata.py, imported where one is met).

import functools
import struct
from collections.abc import Iterable

from rootsrv.wire.name import MAX_LABEL_OCTETS, MAX_NAME_OCTETS
from rootsrv.wire.record import ZoneMalformed

A, NS, CNAME, SOA, MX, TXT, AAAA, DNAME = 1, 2, 5, 6, 15, 16, 28, 39
DS, RRSIG, NSEC, DNSKEY, NSEC3, NSEC3PARAM, ZONEMD = 43, 46, 47, 48, 50, 51, 63

DS_DIGEST_OCTETS = {1: 20, 2: 32, 4: 48}
"""Length of the digest by digest type: SHA-1, SHA-256, SHA-384 (RFC 3658, RFC 4509, RFC 6605)."""

RRSIG_FIXED_OCTETS = 18
"""Octets of RRSIG RDATA before the signer's name (RFC 4034 §3.1)."""

RRSIG_FIXED = struct.Struct("!HBBIIIH")
"""Type covered, algorithm, labels, original TTL, expiration, inception, key tag (RFC 4034 §3.1)."""


@functools.lru_cache(maxsize=256)
def type_text(rtype: int) -> str:
    """Mnemonic of a type; TYPE12345 where it has none (RFC 3597 §5)."""
    from rootsrv.wire import any_rdata

    return any_rdata.type_text(rtype)


def to_text(rtype: int, rdata: bytes) -> str:
    """Presentation format of RDATA of *rtype*, on one line; ZoneMalformed when it is not RDATA of that type."""
    from rootsrv.wire import any_rdata

    return str(any_rdata.parse(rtype, rdata).to_text(chunksize=0))


def canonical(rtype: int, rdata: bytes) -> bytes:
    """Canonical form of uncompressed *rdata* (RFC 4034 §6.2 as amended by RFC 6840 §5.1).

    Raises ZoneMalformed when it is not well-formed RDATA of *rtype*.
    """
    if rtype == A and len(rdata) == 4:
        return rdata
    if rtype == AAAA and len(rdata) == 16:
        return rdata
    if rtype == NS and 0 < len(rdata) == _name_end(rdata, 0):
        return rdata.lower()  # length octets are at most 63: none of them is a letter
    if rtype == DS and len(rdata) - 4 == DS_DIGEST_OCTETS.get(rdata[3] if len(rdata) > 3 else 0):
        return rdata
    if rtype == RRSIG and RRSIG_FIXED_OCTETS < (end := _name_end(rdata, RRSIG_FIXED_OCTETS)) < len(rdata):
        return rdata[:RRSIG_FIXED_OCTETS] + rdata[RRSIG_FIXED_OCTETS:end].lower() + rdata[end:]
    if rtype == NSEC and (end := _name_end(rdata, 0)) and _is_bitmap(rdata, end):
        return rdata  # RFC 6840 §5.1: the next name keeps its case
    from rootsrv.wire import any_rdata

    return any_rdata.canonical_octets(any_rdata.parse(rtype, rdata))


def _is_bitmap(octets: bytes, at: int) -> bool:
    """Whether type bitmaps (RFC 4034 §4.1.2) are what stands from *at* on."""
    last, previous = len(octets), -1
    while at < last:
        if at + 2 > last or octets[at] <= previous or not 1 <= octets[at + 1] <= 32:
            return False
        previous = octets[at]
        at += 2 + octets[at + 1]
        if at > last or octets[at - 1] == 0:
            return False
    return True


def _name_end(octets: bytes, at: int) -> int:
    """The offset behind the uncompressed name at *at*; 0 if there is none."""
    start = at
    last = len(octets)
    while at < last:
        size = octets[at]
        at += 1 + size
        if size == 0:
            return at if at - start <= MAX_NAME_OCTETS else 0
        if size > MAX_LABEL_OCTETS:
            return 0
    return 0


def key_tag(dnskey: bytes) -> int:
    """Key tag of DNSKEY RDATA (RFC 4034 appendix B; algorithm 1 is not treated apart)."""
    total = sum(dnskey[0::2]) * 256 + sum(dnskey[1::2])
    return (total + (total >> 16)) & 0xFFFF


def signer_end(rrsig: bytes) -> int:
    """Offset of the signature in canonical RRSIG RDATA: what precedes it is signed (RFC 4034 §3.1.8.1)."""
    return _name_end(rrsig, RRSIG_FIXED_OCTETS)


def nsec_next(nsec: bytes) -> bytes:
    """The next owner of NSEC RDATA, lower-cased to be compared (the RDATA keeps its case, RFC 6840 §5.1)."""
    return nsec[: _name_end(nsec, 0)].lower()


def nsec_bitmap(nsec: bytes) -> bytes:
    """The type bitmaps of NSEC RDATA."""
    return nsec[_name_end(nsec, 0) :]


def type_bitmap(types: Iterable[int]) -> bytes:
    """The type bitmaps field that names *types* and nothing else (RFC 4034 §4.1.2)."""
    return _type_bitmap(frozenset(types))


@functools.lru_cache(maxsize=256)
def _type_bitmap(types: frozenset[int]) -> bytes:
    windows: dict[int, bytearray] = {}
    for rtype in sorted(types):
        bits = windows.setdefault(rtype >> 8, bytearray())
        low = rtype & 255
        bits.extend(bytes((low >> 3) + 1 - len(bits)))
        bits[low >> 3] |= 0x80 >> (low & 7)
    return b"".join(bytes((window, len(bits))) + bits for window, bits in windows.items())


def types_in_bitmap(bitmap: bytes) -> frozenset[int]:
    """The types that a type bitmaps field names; ZoneMalformed when it is not one."""
    found = []
    at, previous = 0, -1
    while at < len(bitmap):
        window, size = bitmap[at], bitmap[at + 1] if at + 1 < len(bitmap) else 0
        bits = bitmap[at + 2 : at + 2 + size]
        if not 1 <= size <= 32 or len(bits) != size or bits[-1] == 0 or window <= previous:
            raise ZoneMalformed(f"type bitmaps {bitmap.hex()} are not well-formed (RFC 4034 §4.1.2)")
        for octet, value in enumerate(bits):
            found += [window << 8 | octet << 3 | bit for bit in range(8) if value & 0x80 >> bit]
        at, previous = at + 2 + size, window
    return frozenset(found)
