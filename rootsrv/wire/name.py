"""Domain names as octets: uncompressed wire format, lower-cased.

Everything behind the parsers holds names in this one form (the canonical form of RFC 4034 §6.2), so that equality of
names is equality of octets.
"""
# dnspython is imported where text is met: the workers never meet any, and start sooner and smaller without it.

import re

ROOT = b"\0"
"""The root's name: one empty label."""

MAX_NAME_OCTETS = 255  # RFC 1035 §3.1
MAX_LABEL_OCTETS = 63  # RFC 1035 §3.1


def from_text(text: str) -> bytes:
    """Wire format of a name in presentation format; a missing final dot is supplied.

    Raises `dns.exception.DNSException` for what is not a domain name.
    """
    if text == ".":
        return ROOT
    import dns.name

    return dns.name.from_text(text, dns.name.root).canonicalize().to_digestable()


def to_text(name: bytes) -> str:
    """Presentation format of *name*, with the final dot (RFC 1035 §5.1)."""
    found = labels(name)
    plain = b".".join(found)
    if _PLAIN(plain) and plain.count(b".") == len(found) - 1:
        return plain.decode() + "."
    import dns.name

    return dns.name.from_wire(name, 0)[0].to_text()


_PLAIN = re.compile(rb"[A-Za-z0-9_.-]+").fullmatch


def end(octets: bytes, at: int) -> int:
    """Offset behind the uncompressed name at offset *at* of *octets*; IndexError if it is cut off."""
    while size := octets[at]:
        at += 1 + size
    return at + 1


def labels(name: bytes) -> tuple[bytes, ...]:
    """The labels of *name* from left to right, without the root's empty one."""
    found = []
    at = 0
    while size := name[at]:
        found.append(name[at + 1 : at + 1 + size])
        at += 1 + size
    return tuple(found)


def parent(name: bytes) -> bytes:
    """*name* without its first label; the root's parent is the root."""
    return name[1 + name[0] :] if name[0] else name


def is_at_or_below(name: bytes, ancestor: bytes) -> bool:
    """Whether *name* is *ancestor* or a subdomain of it."""
    if ancestor == ROOT:
        return True
    while len(name) > len(ancestor):
        name = parent(name)
    return name == ancestor


def canonical_key(name: bytes) -> tuple[bytes, ...]:
    """Sorts names in canonical order (RFC 4034 §6.1): by label from the right, as unsigned octets, shorter first."""
    return labels(name)[::-1]
