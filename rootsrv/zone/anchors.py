"""Trust anchors: which keys may sign the root's DNSKEY RRset."""
# dnspython is imported where text of its kind is met: IANA's file has none, and who reads that starts sooner.

import base64
import datetime
import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from rootsrv.wire import name
from rootsrv.wire.rdata import DNSKEY, DS, key_tag
from rootsrv.zone import instant

_HASHES = {1: hashlib.sha1, 2: hashlib.sha256, 4: hashlib.sha384}  # DS digest types (RFC 3658, RFC 4509, RFC 6605)


def _unusable() -> tuple[type[Exception], ...]:
    """What parsing an entry may end with; of binascii and datetime, too, which are ValueErrors."""
    import dns.exception

    return (ValueError, ArithmeticError, LookupError, TypeError, struct.error, dns.exception.DNSException)


_REVOKED, _ZONE_KEY = 0x80, 0x100  # RFC 5011 §3, RFC 4034 §2.1.1

# RFC 5011 §4.2, as Unbound's autotrust files number them; only Valid and Missing are trusted (§4.3).
_STATES = {0: "START", 1: "ADDPEND", 2: "VALID", 3: "MISSING", 4: "REVOKED", 5: "REMOVED"}
_TRUSTED_STATES = {2, 3}


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
    alarms: tuple[str, ...] = ()
    """A line for each entry that was passed over because it cannot be used, or is not to be trusted."""

    @classmethod
    def from_text(cls, text: str) -> "TrustAnchors":
        """Read IANA's root-anchors.xml (RFC 9718), or DS and DNSKEY records in presentation format.

        Entries that cannot be used – a digest type that is not known yet, a key that is revoked – are passed over with
        an alarm while there is another one.  Raises AnchorsMalformed, with the line where there is one, when there is
        none that can be used.
        """
        is_xml = text.lstrip("\ufeff \t\r\n").startswith("<")
        entries = tuple(_from_xml(text) if is_xml else _from_records(text))
        found = tuple(each for each in entries if isinstance(each, TrustAnchor))
        faults = tuple(each for each in entries if isinstance(each, str))
        if not found:
            raise AnchorsMalformed(
                faults[0] if faults else "no trust anchor: neither a KeyDigest element nor a DS or DNSKEY record"
            )
        return cls(found, tuple(f"trust anchors: {each}; it is passed over" for each in faults))

    def valid_at(self, now: float) -> tuple[TrustAnchor, ...]:
        """The anchors that count at *now*."""
        return tuple(anchor for anchor in self.anchors if anchor.is_valid(now))

    def __str__(self) -> str:
        return ", ".join(map(str, self.anchors))


def _from_xml(text: str) -> Iterator[TrustAnchor | str]:
    """The anchors, and what is wrong with others."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AnchorsMalformed("a document type definition has no place in trust anchors")  # and could expand for ever
    try:
        root = ElementTree.fromstring(text.lstrip("\ufeff \t\r\n").encode())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise AnchorsMalformed(f"XML: {error}") from error
    if root.tag != "TrustAnchor":
        raise AnchorsMalformed(f"XML: the element is {root.tag}, expected TrustAnchor")
    import dns.exception

    try:
        owner = name.from_text(root.findtext("Zone", "").strip())
    except dns.exception.DNSException as error:
        raise AnchorsMalformed(f"XML: Zone: {error}") from error
    for element in root.findall("KeyDigest"):
        identity = element.get("id", "without id")
        try:
            anchor: TrustAnchor | str = _from_key_digest(owner, element)
        except _unusable() as error:
            anchor = f"XML: KeyDigest {identity}: {error}"
        yield anchor


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
        flags_text = element.findtext("Flags", "257").strip()
        if not re.fullmatch("[0-9]{1,5}", flags_text) or int(flags_text) > 65535:
            raise ValueError(f"Flags: must be 0..65535, got {flags_text!r}")
        flags = int(flags_text)
        _check_flags(flags)
        dnskey = flags.to_bytes(2, "big") + bytes((3, algorithm)) + base64.b64decode(public_key, validate=True)
        if not anchor.covers(owner, dnskey):
            raise ValueError("PublicKey is not the key that Digest is of")
    return anchor


def _check_flags(flags: int) -> None:
    """ValueError for the flags of a key that cannot be trusted."""
    if flags & _REVOKED:
        raise ValueError(f"the key is revoked (flags {flags}, RFC 5011 §2.1)")
    if not flags & _ZONE_KEY:
        raise ValueError(f"the key is no zone key (flags {flags}, RFC 4034 §2.1.1)")


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


_STATE = re.compile(r";\s*state=\s*([0-9]+)")
"""Of a key in an autotrust file: `;;state=2 [  VALID  ]`."""


def _from_records(text: str) -> Iterator[TrustAnchor | str]:
    """The anchors, and what is wrong with others."""
    for number, line in enumerate(text.splitlines(), 1):
        record, _, comment = line.partition(";")
        record = record.strip()
        if not record:
            continue
        try:
            match = _RECORD.fullmatch(record)
            if not match:
                raise ValueError("expected a DS or DNSKEY record on one line")
            anchor: TrustAnchor | str = _from_record(match, _STATE.search(f";{comment}"))
        except _unusable() as error:
            anchor = f"line {number}: {error}"
        yield anchor


def _from_record(match: "re.Match[str]", state: "re.Match[str] | None") -> TrustAnchor:
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype

    owner = name.from_text(match[1])
    rtype = dns.rdatatype.from_text(match[2])
    rdata = dns.rdata.from_text(dns.rdataclass.IN, rtype, match[3]).to_digestable()
    if state is not None and int(state[1]) not in _TRUSTED_STATES:
        which = f"key {key_tag(rdata)}" if rtype == DNSKEY else "the key"
        known = _STATES.get(int(state[1]), "unknown")
        raise ValueError(f"{which} is in state {state[1]} ({known}), which is not trusted (RFC 5011 §4.3)")
    if rtype == DS:
        return _from_ds(owner, rdata)
    _check_flags(int.from_bytes(rdata[:2], "big"))
    return TrustAnchor(owner, key_tag(rdata), DNSKEY, rdata)
