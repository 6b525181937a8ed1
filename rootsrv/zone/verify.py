"""Can this zone be believed?  The only maker of a VerifiedZone, and with it of everything that is served."""
# The order of the checks is that of trust: the shape first, since the others rely on it; then from the trust anchor to
# the DNSKEY RRset, from there to every RRset, so that the NSEC chain can be believed, which proves whether there is a
# ZONEMD, which in turn covers what is not signed: delegations and glue.

from dataclasses import InitVar, dataclass, field

from rootsrv.wire.name import to_text
from rootsrv.wire.rdata import ZONEMD
from rootsrv.zone import digest, dnssec, instant, nsec, shape
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.rejection import ZoneRejected

__all__ = ["VerifiedZone", "ZoneRejected", "accept_unverified", "verify", "verify_hosts"]

_BY_VERIFY = object()


@dataclass(frozen=True, kw_only=True)
class VerifiedZone:
    """Zone contents that passed `verify`, `verify_hosts` or, for a lab, `accept_unverified`; nothing else makes one."""

    contents: ZoneContents
    verified_at: float
    """Seconds since 1970 by the clock that judged validity."""

    validated: bool
    """Whether signatures, or a root that was validated, say that this is the genuine zone."""

    checks: tuple[str, ...] = field(repr=False)
    """One line for each check that was made."""

    alarms: tuple[str, ...] = ()
    """What does not hinder service but somebody should look at."""

    not_before: float | None = None
    """Latest inception of an RRSIG, seconds since 1970; None for an unsigned zone."""

    signatures_until: float | None = None
    """Earliest expiration of an RRSIG, seconds since 1970; None for an unsigned zone."""

    made_by: InitVar[object] = None

    def __post_init__(self, made_by: object) -> None:
        if made_by is not _BY_VERIFY:
            raise TypeError("a VerifiedZone is made by verify(), verify_hosts() or accept_unverified() only")


def verify(
    contents: ZoneContents, trust_anchors: TrustAnchors, now: float, *, zonemd: digest.Policy = "if-supported"
) -> VerifiedZone:
    """Judge a root zone at *now* (seconds since 1970); a member of the ZoneRejected family says why it is refused."""
    checks: list[str] = []
    try:
        shape.check_root(contents)
        checks.append(_shape_line(contents))
        keys, signing_keys, key_alarms = dnssec.check_keys(contents, trust_anchors, now)
        signers = ", ".join(f"key {key}" for key in signing_keys)
        checks.append(f"DNSKEY: signed by {signers}, covered by a trust anchor")
        signatures = dnssec.check_signatures(contents, keys, now)
        checks.append(
            f"RRSIG: {signatures.verified} of {signatures.total} verified, valid from"
            f" {instant.to_text(signatures.not_before)} until {instant.to_text(signatures.until)}"
        )
        names, nsec_alarms = nsec.check_chain(contents)
        checks.append(f"NSEC: chain of {names} names closed, type bitmaps true")
        digest_line, digest_alarms = digest.check(contents, zonemd)
        checks.append(digest_line)
    except ZoneRejected as rejection:
        rejection.passed = tuple(checks)
        raise
    return VerifiedZone(
        contents=contents,
        verified_at=now,
        validated=True,
        checks=tuple(checks),
        alarms=(*key_alarms, *signatures.alarms, *nsec_alarms, *digest_alarms),
        not_before=signatures.not_before,
        signatures_until=signatures.until,
        made_by=_BY_VERIFY,
    )


def verify_hosts(
    contents: ZoneContents, root: VerifiedZone, now: float, *, zonemd: digest.Policy = "if-supported"
) -> VerifiedZone:
    """Judge the flat, unsigned zone of the root's name servers by the apex NS and glue of a verified *root*.

    Raises NotTheHosts with the first difference.  An unsigned zone need not have a ZONEMD; one that is there has to
    be right (it guards against damage, not against forgery) unless the policy is `off`.
    """
    shape.check_hosts(contents, root.contents)
    serial = root.contents.serial
    checks = [f"hosts: NS and addresses of {to_text(contents.apex)} equal those in the root zone, serial {serial}"]
    alarms: list[str] = []
    if shape.has_records(contents, contents.apex, ZONEMD):
        line, alarms = digest.check(contents, zonemd)
        checks.append(line)
    return VerifiedZone(
        contents=contents,
        verified_at=now,
        validated=root.validated,
        checks=tuple(checks),
        alarms=tuple(alarms),
        made_by=_BY_VERIFY,
    )


def accept_unverified(contents: ZoneContents, now: float) -> VerifiedZone:
    """Accept a lab's root without judging any signature; its shape still has to be a root's (NotARoot)."""
    shape.check_root(contents)
    dnssec.check_covered(contents)
    return VerifiedZone(
        contents=contents,
        verified_at=now,
        validated=False,
        checks=(_shape_line(contents), 'NOT VALIDATED: validation = "none", no signature and no digest was checked'),
        alarms=(f"{to_text(contents.apex)} is served without validation: anybody could have made it",),
        made_by=_BY_VERIFY,
    )


def _shape_line(contents: ZoneContents) -> str:
    return (
        f"shape: a root of serial {contents.serial} with {len(contents.delegations)} delegations"
        f" and {contents.record_count} records"
    )
