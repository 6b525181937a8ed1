"""What a resolver's operator may tell of one day, if he wants: how much of it was answered from his copy of the root.

    {"format": "localroot-counts-1", "day": "2026-11-27",
     "traffic-volume": {"dns-udp-queries-received-ipv4": 81234, "dns-tcp-queries-received-ipv4": 12},
     "rcode-volume": {"0": 31210, "3": 50036}}

The names are those of RSSAC002v5 §4.2 and §4.4.  What is not in it cannot be sent: no names, no addresses, no sources.
"""

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FORMAT = "localroot-counts-1"

TRAFFIC_KEYS = tuple(
    f"dns-{transport}-queries-received-{family}" for transport in ("udp", "tcp") for family in ("ipv4", "ipv6")
)

MAX_COUNT = 10**12
"""Of one number: ten million queries in each second of a day.  More is a mistake, and would drown all others."""

MAX_RCODE = 4095
"""Twelve bits (RFC 6891 §6.1.3)."""

MAX_RCODES = 32
"""Different ones: IANA's registry has 24."""


class CountsMalformed(ValueError):
    """This is not a day's document; *field* is what is wrong with it."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True, slots=True)
class DayCounts:
    """One UTC day of one resolver, or of several added up."""

    day: datetime.date
    traffic: Mapping[str, int]
    """Queries, by one of TRAFFIC_KEYS."""

    rcodes: Mapping[int, int]
    """Responses."""

    @property
    def queries(self) -> int:
        """Of all ways together."""
        return sum(self.traffic.values())

    @property
    def over_ipv6(self) -> int:
        """Queries."""
        return sum(count for key, count in self.traffic.items() if key.endswith("-ipv6"))

    @property
    def over_tcp(self) -> int:
        """Queries."""
        return sum(count for key, count in self.traffic.items() if key.startswith("dns-tcp-"))

    def share(self, count: int) -> str:
        """How much of the queries *count* is, for people."""
        return f"{100 * count / max(1, self.queries):.1f} %"

    @classmethod
    def from_document(cls, document: Any, *, is_sum: bool = False) -> "DayCounts":
        """CountsMalformed names what is wrong, also with what nobody asked for: that is not to be sent.

        *is_sum*: of several, which each kept to MAX_COUNT and MAX_RCODES.
        """
        if not isinstance(document, dict):
            raise CountsMalformed("", "a JSON object is needed")
        known = ("format", "day", "traffic-volume", "rcode-volume")
        for key in document:
            if key not in known:
                raise CountsMalformed(key[:80], f"unknown key (known: {', '.join(known)})")
        if document.get("format") != FORMAT:
            raise CountsMalformed("format", f"must be {FORMAT}")
        traffic = _counts("traffic-volume", document.get("traffic-volume"), is_sum=is_sum)
        if unknown := [key for key in traffic if key not in TRAFFIC_KEYS]:
            raise CountsMalformed("traffic-volume", f"{unknown[0][:80]!r} is not one of {', '.join(TRAFFIC_KEYS)}")
        rcodes: dict[int, int] = {}
        for key, count in _counts("rcode-volume", document.get("rcode-volume", {}), is_sum=is_sum).items():
            # One way to write each, so that none is there twice.
            if not key.isascii() or not key.isdigit() or len(key) > 4 or str(int(key)) != key or int(key) > MAX_RCODE:
                raise CountsMalformed("rcode-volume", f"{key[:80]!r} is no rcode: 0 to {MAX_RCODE}")
            rcodes[int(key)] = count
        if len(rcodes) > MAX_RCODES and not is_sum:
            raise CountsMalformed("rcode-volume", f"at most {MAX_RCODES} different ones")
        counts = cls(_day(document.get("day")), traffic, rcodes)
        if not counts.queries:
            raise CountsMalformed("traffic-volume", "there is no query in it: nothing to tell")
        if sum(rcodes.values()) > counts.queries:
            raise CountsMalformed("rcode-volume", "more responses than queries")
        return counts

    def to_document(self) -> dict[str, Any]:
        """As JSON has it; what is nought is left out."""
        return {
            "format": FORMAT,
            "day": self.day.isoformat(),
            "traffic-volume": {key: self.traffic[key] for key in TRAFFIC_KEYS if self.traffic.get(key)},
            "rcode-volume": {str(key): self.rcodes[key] for key in sorted(self.rcodes) if self.rcodes[key]},
        }


def added(day: datetime.date, several: Iterable[DayCounts]) -> DayCounts:
    """The sum of *several*."""
    traffic: dict[str, int] = {}
    rcodes: dict[int, int] = {}
    for each in several:
        for key, count in each.traffic.items():
            traffic[key] = traffic.get(key, 0) + count
        for rcode, count in each.rcodes.items():
            rcodes[rcode] = rcodes.get(rcode, 0) + count
    return DayCounts(day, traffic, rcodes)


def _counts(field: str, value: Any, *, is_sum: bool) -> dict[str, int]:
    if not isinstance(value, dict):
        raise CountsMalformed(field, "must be an object of numbers")
    for key, count in value.items():
        if type(count) is not int or count < 0 or (count > MAX_COUNT and not is_sum):
            raise CountsMalformed(field, f"{key[:80]}: must be a whole number from 0 to {MAX_COUNT}")
    return value


def _day(value: Any) -> datetime.date:
    # Just the one form: date.fromisoformat takes others as well, from Python 3.11 on.
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise CountsMalformed("day", "must be a UTC day, as 2026-11-27")
    try:
        return datetime.date.fromisoformat(value)
    except ValueError:
        raise CountsMalformed("day", f"{value!r} is no day") from None
