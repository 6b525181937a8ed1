"""What a check found."""

import enum
from dataclasses import dataclass


class Grade(enum.StrEnum):
    """How bad it is."""

    GOOD = "ok"
    REMARK = "note"
    """It works without; somebody should know."""

    BAD = "FAIL"
    """To be mended before the instance is announced."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    about: str
    """What was looked at: `clock`, `sysctl net.ipv4.ip_forward`, `primary lab` …"""

    grade: Grade
    found: str
    remedy: str = ""
    """What to do about it, as a command where there is one; empty only when it is good."""


def good(about: str, found: str) -> Finding:
    """Nothing to mend."""
    return Finding(about, Grade.GOOD, found)


def remark(about: str, found: str, remedy: str) -> Finding:
    """Something to know."""
    return Finding(about, Grade.REMARK, found, remedy)


def bad(about: str, found: str, remedy: str) -> Finding:
    """Something to mend."""
    return Finding(about, Grade.BAD, found, remedy)
