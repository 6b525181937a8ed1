"""Trust anchors: which keys may sign the root's DNSKEY RRset."""

import base64
import binascii
import datetime
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

import dns.exception
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from rootsrv.wire import name
from rootsrv.wire.rdata import DNSKEY, DS
from rootsrv.zone import instant

_HASHES = {1: hashlib.sha1, 2: hashlib.sha256, 4: hashlib.sha384}  # DS digest types (RFC 3658, RFC 4509, RFC 6605)


class AnchorsMalformed(ValueError):
    """The trust anchors cannot be read."""


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """One key that is trusted, by its digest (DS RDATA) or whole (DNSKEY RDATA)."""

    owner: bytes
    key_tag: int
    rtype: int
    """DS or DNSKEY: what `rdata` is."""

    rdata: bytes
    valid_from: float = float("-inf")
    valid_until: float = float("inf")
    """Seconds since 1970, as all instants."""

    def covers(self, owner: bytes, dnskey: bytes) -> bool:
        """Whether *dnskey* (RDATA) at *owner* is the key that this anchor trusts."""
        if owner != self.owner:
            return False
        if self.rtype == DNSKEY:
            return dnskey == self.rdata
        if len(dnskey) < 4 or dnskey[3] != self.rdata[2] or key_tag(dnskey) != self.key_tag:
            return False
        return _HASHES[self.rdata[3]](owner + dnskey).digest() == self.rdata[4:]

    def is_valid(self, now: float) -> bool:
        """Whether *now* is inside the anchor's validity."""
        return self.valid_from <= now < self.valid_until

    def __str__(self) -> str:
        since = f" from {instant.to_text(self.valid_from)}" if self.valid_from > float("-inf") else ""
        until = f" until {instant.to_text(self.valid_until)}" if self.valid_until < float("inf") else ""
        return f"{self.key_tag}{since}{until}"


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """All configured anchors of one zone."""

    anchors: tuple[TrustAnchor, ...]

    @classmethod
    def from_text(cls, text: str) -> "TrustAnchors":
        """Read IANA's root-anchors.xml (RFC 9718), or DS and DNSKEY records in presentation format.

        Raises AnchorsMalformed, with the line where there is one, also when there is no anchor at all.
        """
        found = tuple(_from_xml(text) if text.lstrip("\ufeff \t\r\n").startswith("<") else _from_records(text))
        if not found:
            raise AnchorsMalformed("no trust anchor: neither a KeyDigest element nor a DS or DNSKEY record")
        return cls(found)

    def valid_at(self, now: float) -> tuple[TrustAnchor, ...]:
        """The anchors that count at *now*."""
        return tuple(anchor for anchor in self.anchors if anchor.is_valid(now))

    def __str__(self) -> str:
        return ", ".join(map(str, self.anchors))


def key_tag(dnskey: bytes) -> int:
    """Key tag of DNSKEY RDATA (RFC 4034 appendix B; algorithm 1 is not treated apart)."""
    total = sum(dnskey[0::2]) * 256 + sum(dnskey[1::2])
    return (total + (total >> 16)) & 0xFFFF


def _from_xml(text: str) -> Iterator[TrustAnchor]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AnchorsMalformed("a document type definition has no place in trust anchors")  # and could expand for ever
    try:
        root = ElementTree.fromstring(text.lstrip("\ufeff \t\r\n").encode())
    except ElementTree.ParseError as error:
        raise AnchorsMalformed(f"XML: {error}") from error
    if root.tag != "TrustAnchor":
        raise AnchorsMalformed(f"XML: the element is {root.tag}, expected TrustAnchor")
    try:
        owner = name.from_text(root.findtext("Zone", "").strip())
    except dns.exception.DNSException as error:
        raise AnchorsMalformed(f"XML: Zone: {error}") from error
    for element in root.findall("KeyDigest"):
        identity = element.get("id", "without id")
        try:
            yield _from_key_digest(owner, element)
        except (ValueError, binascii.Error) as error:
            raise AnchorsMalformed(f"XML: KeyDigest {identity}: {error}") from error


def _from_key_digest(owner: bytes, element: "ElementTree.Element[str]") -> TrustAnchor:
    numbers = []
    for tag, limit in (("KeyTag", 65535), ("Algorithm", 255), ("DigestType", 255)):
        text = element.findtext(tag, "").strip()
        if not re.fullmatch("[0-9]{1,5}", text) or int(text) > limit:
            raise ValueError(f"{tag}: must be 0..{limit}, got {text!r}")
        numbers.append(int(text))
    tag_number, algorithm, digest_type = numbers
    digest = bytes.fromhex(element.findtext("Digest", ""))
    anchor = _from_ds(owner, tag_number.to_bytes(2, "big") + bytes((algorithm, digest_type)) + digest, element)
    public_key = "".join(element.findtext("PublicKey", "").split())
    if public_key:
        flags = int(element.findtext("Flags", "257"))
        dnskey = flags.to_bytes(2, "big") + bytes((3, algorithm)) + base64.b64decode(public_key, validate=True)
        if not anchor.covers(owner, dnskey):
            raise ValueError("PublicKey is not the key that Digest is of")
    return anchor


def _from_ds(owner: bytes, ds: bytes, element: "ElementTree.Element[str] | None" = None) -> TrustAnchor:
    if ds[3] not in _HASHES:
        raise ValueError(f"digest type {ds[3]} is not supported (supported: {', '.join(map(str, _HASHES))})")
    expected = _HASHES[ds[3]]().digest_size
    if len(ds) - 4 != expected:
        raise ValueError(f"digest of {len(ds) - 4} octets, digest type {ds[3]} has {expected}")
    valid_from, valid_until = float("-inf"), float("inf")
    if element is not None:
        if start := element.get("validFrom"):
            valid_from = _instant(start)
        if end := element.get("validUntil"):
            valid_until = _instant(end)
    return TrustAnchor(owner, ds[0] << 8 | ds[1], DS, ds, valid_from, valid_until)


def _instant(text: str) -> float:
    when = datetime.datetime.fromisoformat(text)
    # RFC 9718 §2.1.2: xsd:dateTime; without an offset it is UTC.
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()


_RECORD = re.compile(r"(\S+)(?:\s+[0-9]+)?(?:\s+IN)?(?:\s+[0-9]+)?\s+(DS|DNSKEY)\s+(.*)", re.IGNORECASE | re.DOTALL)


def _from_records(text: str) -> Iterator[TrustAnchor]:
    for number, line in enumerate(text.splitlines(), 1):
        record = line.partition(";")[0].strip()
        if not record:
            continue
        try:
            match = _RECORD.fullmatch(record)
            if not match:
                raise ValueError("expected a DS or DNSKEY record on one line")
            owner = name.from_text(match[1])
            rtype = dns.rdatatype.from_text(match[2])
            rdata = dns.rdata.from_text(dns.rdataclass.IN, rtype, match[3]).to_digestable()
            if rtype == DS:
                yield _from_ds(owner, rdata)
            else:
                yield TrustAnchor(owner, key_tag(rdata), DNSKEY, rdata)
        except (dns.exception.DNSException, ValueError) as error:
            raise AnchorsMalformed(f"line {number}: {error}") from error
