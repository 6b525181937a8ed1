"""Is this update believable next to the zone that we serve (RFC 2870 §3.3.5)?

A verified zone is authentic; this asks whether its publisher can have meant it.  Only gross changes hold an update for
a human; lesser oddities are reported and pass.  A hold is advice to the maintainer: it never stops what is in service.
"""

import datetime
from dataclasses import dataclass

from rootsrv.wire.name import to_text
from rootsrv.zone.contents import ZoneContents

A, NS, SOA, AAAA, DS, DNSKEY = 1, 2, 6, 28, 43, 48


HOLD_LEASE_SECONDS = 86_400.0
"""A hold ends when the lease of what is in service has no more than this left (D23)."""

HOLD_MARGIN_SECONDS = 60.0
"""A hold ends so long before `hold.stale_hard_seconds`, at which the route would be withdrawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLimits:
    """What is gross.  A normal update of the root changes a few records."""

    tlds_gone_percent: float = 5.0
    ds_gone_percent: float = 5.0
    """TLDs that had DS and have none, of those that had."""

    tlds_without_address_percent: float = 5.0
    """TLDs none of whose name servers has an address any more, of all TLDs."""

    apex_ns_changed: int = 3
    """Name servers of the apex that came or went, names and addresses."""

    shrink_percent: float = 50.0
    """Of the number of records."""

    signatures_left_seconds: float = 86_400.0


YEAR_OF_DATES = 1_000_000
"""A year in serials that are dates, YYYYMMDDNN."""

YEAR_SECONDS = 366 * 86_400
"""A year in serials that count seconds, or less quickly."""


@dataclass(frozen=True, slots=True)
class Accept:
    """Believable; *oddities* are worth an alarm."""

    oddities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hold:
    """A human should look first; each reason is a sentence with the figures."""

    reasons: tuple[str, ...]
    oddities: tuple[str, ...] = ()


def judge(
    update: ZoneContents, serving: ZoneContents | None, signatures_until: float | None, now: float, limits: ChangeLimits
) -> Accept | Hold:
    """Compare *update* with the zone in *serving*; *signatures_until* and *now* in seconds since 1970."""
    reasons: list[str] = []
    oddities: list[str] = []
    if signatures_until is not None and signatures_until - now < limits.signatures_left_seconds:
        reasons.append(f"signatures expire within {max(0.0, signatures_until - now) / 3600:.1f} hours")
    if serving is not None:
        if reason := _serial_ahead(update.serial, serving.serial, now):
            reasons.append(reason)
        _compare(update, serving, limits, reasons, oddities)
    return Hold(tuple(reasons), tuple(oddities)) if reasons else Accept(tuple(oddities))


def _serial_ahead(theirs: int, ours: int, now: float) -> str:
    """Why the serial *theirs* is too far ahead: once served, nothing below it is taken for years; empty if it is not.

    Serials that are dates may be as far ahead of ours as today is: an instance that was off for two years goes on.
    """
    ahead = (theirs - ours) % 2**32
    date = _date_of(ours)
    if date is None:
        return (
            f"serial {theirs} is {ahead} ahead of {ours}, more than a year of seconds" if ahead > YEAR_SECONDS else ""
        )
    today = datetime.datetime.fromtimestamp(now, datetime.UTC).date()
    latest = max(ours, int(f"{today:%Y%m%d}99")) + YEAR_OF_DATES
    return f"serial {theirs} is more than a year ahead of {ours} and of today" if theirs > latest else ""


def _date_of(serial: int) -> datetime.date | None:
    """The date that *serial* is (RFC 1912 §2.2: YYYYMMDDnn); None if it is none."""
    try:
        return datetime.datetime.strptime(str(serial // 100), "%Y%m%d").replace(tzinfo=datetime.UTC).date()
    except ValueError:
        return None


def _compare(
    update: ZoneContents, serving: ZoneContents, limits: ChangeLimits, reasons: list[str], oddities: list[str]
) -> None:
    before, after = set(serving.delegations), set(update.delegations)
    _share("TLDs gone", before - after, len(before), limits.tlds_gone_percent, reasons, oddities)

    secure = {tld for tld in before if (tld, DS) in serving.rrsets}
    insecure = {tld for tld in secure & after if (tld, DS) not in update.rrsets}
    _share("DS gone", insecure, len(secure), limits.ds_gone_percent, reasons, oddities)

    reachable = _with_address(serving)
    unreachable = (after & reachable) - _with_address(update)
    _share("TLDs without any address", unreachable, len(after), limits.tlds_without_address_percent, reasons, oddities)

    changed = _apex_servers(serving) ^ _apex_servers(update)
    servers = {name for name, _ in changed}
    if len(servers) > limits.apex_ns_changed:
        reasons.append(f"{len(servers)} apex name servers changed: {_some(servers)}")
    elif servers:
        oddities.append(f"{len(servers)} apex name servers changed: {_some(servers)}")

    if update.record_count < serving.record_count * (1 - limits.shrink_percent / 100):
        reasons.append(f"shrunk from {serving.record_count} to {update.record_count} records")

    ours, theirs = serving.soa, update.soa
    for what in ("mname", "rname", "refresh", "retry", "expire", "minimum"):
        if getattr(ours, what) != getattr(theirs, what):
            oddities.append(f"SOA {what} changed: {getattr(ours, what)!r} to {getattr(theirs, what)!r}")
    if _keys(serving) != _keys(update):
        oddities.append(f"DNSKEY RRset changed: {len(_keys(serving))} keys to {len(_keys(update))}")


def _share(
    what: str, names: set[bytes], of: int, limit_percent: float, reasons: list[str], oddities: list[str]
) -> None:
    if not names:
        return
    sentence = f"{what}: {len(names)} of {of} ({_some(names)})"
    if len(names) > of * limit_percent / 100:
        reasons.append(sentence)
    else:
        oddities.append(sentence)


def _some(names: set[bytes]) -> str:
    shown = sorted(to_text(name) for name in names)
    return ", ".join(shown[:5]) + (", …" if len(shown) > 5 else "")


def _targets(zone: ZoneContents, owner: bytes) -> tuple[bytes, ...]:
    rrset = zone.rrset(owner, NS)
    return rrset.rdatas if rrset else ()


def _with_address(zone: ZoneContents) -> set[bytes]:
    return {
        tld
        for tld in zone.delegations
        if any((host, A) in zone.rrsets or (host, AAAA) in zone.rrsets for host in _targets(zone, tld))
    }


def _apex_servers(zone: ZoneContents) -> set[tuple[bytes, tuple[bytes, ...]]]:
    return {
        (host, tuple(rdata for rtype in (A, AAAA) if (rrset := zone.rrset(host, rtype)) for rdata in rrset.rdatas))
        for host in _targets(zone, zone.apex)
    }


def _keys(zone: ZoneContents) -> tuple[bytes, ...]:
    rrset = zone.rrset(zone.apex, DNSKEY)
    return rrset.rdatas if rrset else ()


def why_hold_ends(waited_seconds: float, left_seconds: float | None, stale_hard_seconds: float) -> str:
    """Why what was held for *waited_seconds* need not wait for a decision any more (D23); empty if it has to.

    *left_seconds*: of the lease of what is in service; None = nothing is.
    """
    if waited_seconds >= stale_hard_seconds - HOLD_MARGIN_SECONDS:
        return "a newer zone was held too long"
    if left_seconds is None or left_seconds <= HOLD_LEASE_SECONDS:
        return "the lease of the zone in service ends within a day"
    return ""
