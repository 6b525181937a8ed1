"""Instants as people and DNSSEC write them; a number is always seconds since 1970-01-01T00:00:00Z."""

import datetime

LAST = 253_402_300_799.0
"""The last second of the year 9999: beyond it nothing can be written."""


def to_text_precise(seconds: float) -> str:
    """RFC 3339 in UTC, to the millisecond: 2025-09-20T12:00:00.250Z."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{to_text(whole)[:-1]}.{thousandths:03}Z"


def to_text(seconds: float) -> str:
    """RFC 3339 in UTC, to the second: 2025-09-20T12:00:00Z."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_text(text: str) -> float:
    """Seconds of an RFC 3339 instant; ValueError when it is not one, or says no offset from UTC."""
    instant = datetime.datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text}: an instant needs its offset from UTC, as in 2025-09-20T12:00:00Z")
    return instant.timestamp()
