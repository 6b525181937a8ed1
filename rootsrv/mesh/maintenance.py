"""Planned maintenance, announced before it happens and coordinated (RFC 2870 §4.1–4.2)."""
# An operator signs it; it stands on the board under `maintenance/<id>`.  It orders nothing: whoever wants to withdraw
# needs a token all the same (floor.py).  What would have more than k of a group in maintenance at one time is refused
# when it is announced, since the floor would refuse it when the day has come.

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rootsrv.mesh.envelope import Envelope, EnvelopeMalformed
from rootsrv.mesh.roster import Roster
from rootsrv.zone import instant

_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_LONGEST_SECONDS = 31 * 86_400
_MOST_MEMBERS = 1000


class MaintenanceRefused(Exception):
    """It cannot be announced so; the text names the cause."""


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Members that will be withdrawn for a while."""

    id: str
    members: tuple[str, ...]
    start: float
    """Seconds since 1970."""

    end: float
    reason: str
    by: str = ""
    sent: float = 0.0
    cancelled: bool = False

    def to_content(self) -> dict[str, Any]:
        """For an envelope."""
        return {
            "id": self.id,
            "members": list(self.members),
            "start": self.start,
            "end": self.end,
            "reason": self.reason,
            "cancelled": self.cancelled,
        }

    @classmethod
    def of(cls, envelope: Envelope) -> "Maintenance":
        """From an envelope that was opened; Malformed."""
        content, key = envelope.content, envelope.key
        members, identifier = content.get("members"), content.get("id")
        if not isinstance(identifier, str) or not is_id(identifier) or key != board_key(identifier):
            raise EnvelopeMalformed(f"{key}: its id is {identifier!r:.80}")
        if not isinstance(members, list) or not all(isinstance(each, str) for each in members):
            raise EnvelopeMalformed(f"{key}: names no members")
        start, end = _time(content, "start", key), _time(content, "end", key)
        if not start < end <= start + _LONGEST_SECONDS or not 1 <= len(members) <= _MOST_MEMBERS:
            raise EnvelopeMalformed(f"{key}: from {start:.0f} to {end:.0f} for {len(members)} members")
        reason = str(content.get("reason", ""))[:500]
        cancelled = content.get("cancelled") is True
        return cls(identifier, tuple(members), start, end, reason, envelope.sender, envelope.sent, cancelled)


def board_key(identifier: str) -> str:
    """Where it stands on the board."""
    return f"maintenance/{identifier}"


def is_id(text: str) -> bool:
    """Whether *text* can be an id: a-z, 0-9 and hyphens, at most 63."""
    return _ID.match(text) is not None


def check(new: Maintenance, others: Iterable[Maintenance], roster: Roster, now: float) -> None:
    """Refused if *new* names somebody who is not listed, is over, or has more than k of a group away at one time."""
    unknown = sorted(name for name in new.members if roster.find(name) is None)
    if unknown:
        raise MaintenanceRefused(f"the roster lists no member {', '.join(unknown)}")
    if not new.start < new.end:
        raise MaintenanceRefused(
            f"it ends ({instant.to_text(new.end)}) before it begins ({instant.to_text(new.start)})"
        )
    if new.end - new.start > _LONGEST_SECONDS:
        raise MaintenanceRefused("it lasts longer than 31 days: take the box off the roster")
    if new.end <= now:
        raise MaintenanceRefused(f"it is over ({instant.to_text(new.end)})")
    standing = [each for each in others if not each.cancelled and each.id != new.id]
    overlapping = [each for each in standing if each.start < new.end and new.start < each.end]
    # The number of those away rises only where one begins.
    for at in sorted({new.start, *(max(each.start, new.start) for each in overlapping)}):
        at_once = [new, *(each for each in overlapping if each.start <= at < each.end)]
        away = {name for each in at_once for name in each.members}
        for group in roster.group:
            of_group = sorted(away & {each.name for each in roster.members_of(group.name)})
            if len(of_group) > group.k:
                with_ = ", ".join(sorted(each.id for each in at_once if each is not new))
                raise MaintenanceRefused(
                    f"at {instant.to_text(at)} {len(of_group)} members of {group.name} would be away "
                    f"({', '.join(of_group)}), k is {group.k}" + (f"; it overlaps {with_}" if with_ else "")
                )


def standing(announced: Mapping[str, Maintenance], now: float) -> list[Maintenance]:
    """Those that are to come or under way, the next one first."""
    return sorted(
        (each for each in announced.values() if not each.cancelled and each.end > now), key=lambda each: each.start
    )


def to_calendar(announced: Iterable[Maintenance], service: str) -> str:
    """As an iCalendar stream (RFC 5545)."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", f"PRODID:-//rootsrv//{service}//EN", "CALSCALE:GREGORIAN"]
    for each in announced:
        summary = f"Maintenance: {', '.join(each.members)}"
        lines += [
            "BEGIN:VEVENT",
            f"UID:{each.id}@{service}",
            f"DTSTAMP:{_stamp(each.sent)}",
            f"DTSTART:{_stamp(each.start)}",
            f"DTEND:{_stamp(each.end)}",
            f"SUMMARY:{_text(summary)}",
            f"DESCRIPTION:{_text(each.reason)}",
            f"STATUS:{'CANCELLED' if each.cancelled else 'CONFIRMED'}",
            "TRANSP:TRANSPARENT",
            "END:VEVENT",
        ]
    lines.append("END:VCALENDAR")
    return "".join(f"{_folded(line)}\r\n" for line in lines)


def _stamp(seconds: float) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y%m%dT%H%M%SZ}"


def _text(text: str) -> str:
    """TEXT (RFC 5545 §3.3.11)."""
    for old, new in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\r\n", "\\n"), ("\n", "\\n"), ("\r", "\\n")):
        text = text.replace(old, new)
    return "".join(c for c in text if c.isprintable())


def _folded(line: str) -> str:
    """At most 75 octets a line, never within a character (RFC 5545 §3.1)."""
    parts: list[str] = []
    part = ""
    for character in line:
        if len((part + character).encode()) > (75 if not parts else 74):
            parts.append(part)
            part = ""
        part += character
    return "\r\n ".join((*parts, part))


def _time(content: Mapping[str, Any], name: str, where: str) -> float:
    value = content.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 2**35:
        raise EnvelopeMalformed(f"{where}: {name} is no time")
    return float(value)
