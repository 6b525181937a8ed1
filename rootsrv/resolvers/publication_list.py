"""Lists of where zones are to be had, in the format of draft-hardaker-dnsop-root-zone-publication-points (-02).

    # comment
    https://www.internic.net/domain/root.zone
    axfr:b.root-servers.net/.
    ----
    SHA256
    0d2b…

One URL a line, for transfers by draft-hardaker-dnsop-dns-xfr-scheme; below the dashes a digest of all above them.
"""
# The digest says that the list is whole, and no more: whoever changes the list can change it as well.  That costs
# nothing but time, since what is had from anywhere is verified.

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

DIVIDER = "----"
MAX_OCTETS = 1_000_000
DEFAULT_PORTS = {"axfr": 53, "ixfr": 53, "xot": 853}

_XFR = re.compile(
    r"(axfr|ixfr|xot):(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/([A-Za-z0-9._-]+)", re.IGNORECASE
)


class ListMalformed(ValueError):
    """This is no list, or not all of one."""


@dataclass(frozen=True, slots=True)
class PublicationPoint:
    """One way to a zone."""

    scheme: str
    """axfr, ixfr, xot or https."""

    host: str
    """A name or an address, that of IPv6 without brackets."""

    port: int
    zone: str
    """For transfers, in lower case and with the dot at its end; empty for https, where the URL says it."""

    url: str


def is_list(text: str) -> bool:
    """Whether *text* is meant to be one: it has the line of dashes."""
    return any(line.strip() == DIVIDER for line in text.splitlines())


def to_text(lines: Iterable[str]) -> str:
    """The list of *lines*, URLs and comments, with its digest."""
    first = "".join(f"{line}\n" for line in lines)
    return f"{first}{DIVIDER}\nSHA256\n{hashlib.sha256(first.encode()).hexdigest()}\n"


def from_text(text: str) -> list[PublicationPoint]:
    """All that can be used of the list *text*; what is unknown is passed over, as the draft wants.  ListMalformed."""
    if len(text) > MAX_OCTETS:
        raise ListMalformed(f"more than {MAX_OCTETS} octets")
    lines = text.splitlines(keepends=True)
    at = next((at for at, line in enumerate(lines) if line.strip() == DIVIDER), None)
    if at is None:
        raise ListMalformed(f"the line {DIVIDER} and a digest below it are missing: it is not whole")
    below = [line.strip() for line in lines[at + 1 :] if line.strip()]
    if not below or below[0].upper() != "SHA256":
        raise ListMalformed(f"the digest must be SHA256, got {below[0][:40] if below else 'none'}")
    told = below[1].lower() if len(below) == 2 else ""
    digest = hashlib.sha256("".join(lines[:at]).encode()).hexdigest()
    if told != digest:
        raise ListMalformed(f"the digest does not match: {told[:16] or 'none'}, the list has {digest[:16]}")
    found = (_point(line.strip()) for line in lines[:at] if line.strip() and not line.lstrip().startswith("#"))
    return [each for each in found if each is not None]


def _point(text: str) -> PublicationPoint | None:
    """None for what is not known, or not safe: plain http."""
    if (match := _XFR.fullmatch(text)) is not None:
        scheme, host = match[1].lower(), match[2].strip("[]").lower()
        port = int(match[3]) if match[3] else DEFAULT_PORTS[scheme]
        zone = match[4].lower().rstrip(".") + "."
        return PublicationPoint(scheme, host, port, zone, text) if 1 <= port <= 65_535 else None
    try:
        parts = urlsplit(text)
        port = parts.port or 443
    except ValueError:
        return None
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or not text.isascii():
        return None
    return PublicationPoint("https", parts.hostname, port, "", text)
