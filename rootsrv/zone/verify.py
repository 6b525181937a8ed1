"""Can this zone be believed?  The only maker of a VerifiedZone, and with it of everything that is served."""
# The order of the checks is that of trust: the shape first, since the others rely on it; then from the trust anchor to
# the DNSKEY RRset, from there to every RRset, so that the NSEC chain can be believed, which proves whether there is a
# ZONEMD, which in turn covers what is not signed: delegations and glue.

import contextlib
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field, replace

from rootsrv.wire.name import to_text
from rootsrv.wire.rdata import DS, NS, ZONEMD
from rootsrv.zone import digest, dnssec, instant, nsec, nsec3, shape
from rootsrv.zone.anchors import TrustAnchor, TrustAnchors
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.rejection import DigestMissing, KeyUntrusted, NotTheHosts, ZoneRejected

__all__ = [
    "NEWER_SOFTWARE",
    "VerifiedZone",
    "ZoneRejected",
    "accept_unverified",
    "verify",
    "verify_delegated",
    "verify_hosts",
]

_BY_VERIFY = object()

NEWER_SOFTWARE = "newer software wanted"
"""How a reason begins for which nobody but the authors of rootsrv can do anything."""


@dataclass(frozen=True, kw_only=True)
class VerifiedZone:
    """Zone contents that passed `verify`, `verify_hosts`, `verify_delegated` or, for a lab, `accept_unverified`."""

    contents: ZoneContents
    verified_at: float
    """Seconds since 1970 by the clock that judged validity."""

    validated: bool
    """Whether signatures, or a root that was validated, say that this is the genuine zone."""

    checks: tuple[str, ...] = field(repr=False)
    """One line for each check that was made."""

    alarms: tuple[str, ...] = ()
    """What does not hinder service but somebody should look at."""

    limits: tuple[str, ...] = ()
    """Why this version of the software cannot serve the zone, genuine as it is, each beginning with NEWER_SOFTWARE;
    empty for all zones of today."""

    not_before: float | None = None
    """Latest inception of an RRSIG, seconds since 1970; None for an unsigned zone."""

    signatures_until: float | None = None
    """Earliest expiration of an RRSIG, seconds since 1970; None for an unsigned zone."""

    made_by: InitVar[object] = None

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _BY_VERIFY:
            raise TypeError("a VerifiedZone is made by verify() and its like only")


def verify(
    contents: ZoneContents, trust_anchors: TrustAnchors, now: float, *, zonemd: digest.Policy = "if-supported"
) -> VerifiedZone:
    """Judge a root zone at *now* (seconds since 1970); a member of the ZoneRejected family says why it is refused."""
    checks: list[str] = []
    with _telling(checks):
        unusual = shape.check_root(contents)
        checks.append(_shape_line(contents))
        keys, key_alarms = _keys_covered(contents, trust_anchors, now, checks, "a trust anchor")
        signatures = _check_signatures(contents, keys, now, checks)
        digest_line, digest_alarms = digest.check(contents, zonemd)
        checks.append(digest_line)
    return VerifiedZone(
        contents=contents,
        verified_at=now,
        validated=True,
        checks=tuple(checks),
        alarms=(*unusual.alarms, *key_alarms, *signatures.alarms, *digest_alarms),
        limits=_limits(unusual),
        not_before=signatures.not_before,
        signatures_until=signatures.until,
        made_by=_BY_VERIFY,
    )


def verify_hosts(
    contents: ZoneContents,
    root: VerifiedZone,
    now: float,
    *,
    zonemd: digest.Policy = "if-supported",
    trust_anchors: TrustAnchors | None = None,
) -> VerifiedZone:
    """Judge the flat zone of the root's name servers by the apex NS and glue of a verified *root*.

    Raises NotTheHosts with the first difference.  A zone need not have a ZONEMD; one that is there has to be right (in
    an unsigned zone it guards against damage, not against forgery) unless the policy is `off`.

    A signed zone must be good throughout, by *trust_anchors* (DS or DNSKEY of its own apex) or, without any, by its own
    keys, which proves nothing and raises an alarm.  With *trust_anchors* an unsigned zone is refused.
    """
    unusual = shape.check_hosts(contents, root.contents)
    zone, serial = to_text(contents.apex), root.contents.serial
    checks = [f"hosts: NS and addresses of {zone} equal those in the root zone, serial {serial}"]
    alarms = list(unusual.alarms)
    signatures: dnssec.Signatures | None = None
    with _telling(checks):
        if shape.is_signed(contents):
            keys, key_alarms = _host_keys(contents, trust_anchors, now, checks)
            signatures = _check_signatures(contents, keys, now, checks)
            alarms += (*key_alarms, *signatures.alarms)
        elif trust_anchors is not None:
            raise NotTheHosts(f"{zone} has a trust anchor ({trust_anchors}), but the zone is not signed")
        if shape.has_records(contents, contents.apex, ZONEMD):
            line, digest_alarms = digest.check(contents, zonemd)
            checks.append(line)
            alarms += digest_alarms
    return VerifiedZone(
        contents=contents,
        verified_at=now,
        validated=root.validated or (signatures is not None and trust_anchors is not None),
        checks=tuple(checks),
        alarms=tuple(alarms),
        limits=_limits(unusual),
        not_before=signatures.not_before if signatures else None,
        signatures_until=signatures.until if signatures else None,
        made_by=_BY_VERIFY,
    )


_STRONG_DIGESTS = frozenset({2, 4})  # SHA-256 and SHA-384 (RFC 8624 §3.3); SHA-1 must not be made any more


def verify_delegated(
    contents: ZoneContents, delegation: RRset | None, now: float, *, zonemd: digest.Policy = "if-supported"
) -> VerifiedZone:
    """Judge any zone by *delegation*, its DS RRset in a parent zone that was verified (None: there is none).

    It is given out, never answered from, so its shape does not matter.  Where names are denied by hashes (NSEC3), only
    ZONEMD notices that something is missing; whether it has one, the NSEC3 record of its apex says.
    """
    checks: list[str] = []
    with _telling(checks):
        if not shape.has_records(contents, contents.apex, NS):
            raise ZoneRejected(f"{to_text(contents.apex)}: the apex has no NS")
        anchors = _anchors_of(contents.apex, delegation)
        keys, alarms = _keys_covered(contents, anchors, now, checks, "the parent's DS")
        signatures = _check_signatures(contents, keys, now, checks)
        has_digest = shape.has_records(contents, contents.apex, ZONEMD)
        if shape.is_hashed(contents) and (ZONEMD in nsec3.types_at_apex(contents)) is not has_digest:
            raise DigestMissing(f"{to_text(contents.apex)}: the NSEC3 record of the apex contradicts its ZONEMD")
        line, digest_alarms = digest.check(contents, zonemd)
        checks.append(line)
    return VerifiedZone(
        contents=contents,
        verified_at=now,
        validated=True,
        checks=tuple(checks),
        alarms=(*alarms, *signatures.alarms, *digest_alarms),
        not_before=signatures.not_before,
        signatures_until=signatures.until,
        made_by=_BY_VERIFY,
    )


@contextlib.contextmanager
def _telling(checks: list[str]) -> Iterator[None]:
    """Who is told that a zone is rejected hears what it had passed."""
    try:
        yield
    except ZoneRejected as rejection:
        rejection.passed = tuple(checks)
        raise


def _anchors_of(apex: bytes, delegation: RRset | None) -> TrustAnchors:
    """What a parent's DS RRset trusts; KeyUntrusted if there is nothing that can be used."""
    if delegation is None or not delegation.rdatas:
        raise KeyUntrusted(f"{to_text(apex)} has no DS in its parent zone: nothing proves what is in it")
    assert (delegation.owner, delegation.rtype) == (apex, DS)
    usable = [each for each in delegation.rdatas if len(each) > 4 and each[3] in _STRONG_DIGESTS]
    if not usable:
        raise KeyUntrusted(f"{to_text(apex)}: no DS in its parent zone has a digest of SHA-256 or SHA-384")
    return TrustAnchors(tuple(TrustAnchor(apex, int.from_bytes(each[:2], "big"), DS, each) for each in usable))


def _host_keys(
    contents: ZoneContents, trust_anchors: TrustAnchors | None, now: float, checks: list[str]
) -> tuple[list[dnssec.ZoneKey], list[str]]:
    """The keys of a signed zone of hosts, and alarms."""
    if trust_anchors is None:
        keys = dnssec.check_own_keys(contents, now)
        checks.append(f"DNSKEY: signed by keys of its own RRset; no trust anchor of {to_text(contents.apex)} is known")
        return keys, [f"{to_text(contents.apex)} is signed, but no trust anchor is configured: it is not validated"]
    return _keys_covered(contents, trust_anchors, now, checks, "a trust anchor")


def _keys_covered(
    contents: ZoneContents, trust_anchors: TrustAnchors, now: float, checks: list[str], covered_by: str
) -> tuple[list[dnssec.ZoneKey], list[str]]:
    """The keys of a zone that anchors cover, and alarms; appends to *checks* which of them sign."""
    keys, signing_keys, alarms = dnssec.check_keys(contents, trust_anchors, now)
    signers = ", ".join(f"key {key}" for key in signing_keys)
    checks.append(f"DNSKEY: signed by {signers}, covered by {covered_by}")
    return keys, alarms


def _check_signatures(
    contents: ZoneContents, keys: list[dnssec.ZoneKey], now: float, checks: list[str]
) -> dnssec.Signatures:
    """Every signature, and the NSEC chain where there is one; appends to *checks*, and to the alarms found."""
    signatures = dnssec.check_signatures(contents, keys, now)
    checks.append(
        f"RRSIG: {signatures.verified} of {signatures.total} verified, valid from"
        f" {instant.to_text(signatures.not_before)} until {instant.to_text(signatures.until)}"
    )
    if shape.is_hashed(contents):
        checks.append("NSEC3: not looked at")
        return signatures
    names, alarms = nsec.check_chain(contents)
    checks.append(f"NSEC: chain of {names} names closed, type bitmaps true")
    return replace(signatures, alarms=(*signatures.alarms, *alarms))


def accept_unverified(contents: ZoneContents, now: float) -> VerifiedZone:
    """Accept a lab's root without judging any signature; its shape still has to be a root's (NotARoot)."""
    unusual = shape.check_root(contents)
    dnssec.check_covered(contents)
    return VerifiedZone(
        contents=contents,
        verified_at=now,
        validated=False,
        checks=(_shape_line(contents), 'NOT VALIDATED: validation = "none", no signature and no digest was checked'),
        alarms=(f"{to_text(contents.apex)} is served without validation: anybody could have made it", *unusual.alarms),
        limits=_limits(unusual),
        made_by=_BY_VERIFY,
    )


def _limits(unusual: shape.Shape) -> tuple[str, ...]:
    return tuple(f"{NEWER_SOFTWARE}: no answer table can hold {limit}" for limit in unusual.limits)


def _shape_line(contents: ZoneContents) -> str:
    return (
        f"shape: a root of serial {contents.serial} with {len(contents.delegations)} delegations"
        f" and {contents.record_count} records"
    )
