"""EDNS(0): the OPT record of queries and of responses (RFC 6891)."""

import struct
from typing import NamedTuple

NSID, EXPIRE, COOKIE, KEEPALIVE, EXTENDED_ERROR, ZONEVERSION = 3, 9, 10, 11, 15, 19
"""Option codes: RFC 5001, RFC 7314, RFC 7873, RFC 7828, RFC 8914, RFC 9660."""

EDE_NOT_READY, EDE_PROHIBITED, EDE_NOT_AUTHORITATIVE, EDE_INVALID_DATA = 14, 18, 20, 24
"""Extended error codes (RFC 8914 §4.15, §4.19, §4.21, §4.25)."""

MIN_UDP_OCTETS = 512
"""Smaller offers count as this (RFC 6891 §6.2.3)."""

_ANSWERED = frozenset((NSID, COOKIE, KEEPALIVE, ZONEVERSION))

MAX_OPTIONS = 32
"""More options are FORMERR: a query of a thousand empty ones must not cost more than a friendly one, and none may be
passed over.  Resolvers send one to three; IANA has assigned some twenty codes."""

OPT = struct.Struct("!BHHBBHH")  # root name, type, requestor's size, extended RCODE, version, flags, RDLENGTH
OPT_OCTETS = OPT.size
TYPE_OPT = 41
OPT_HEAD = b"\0" + TYPE_OPT.to_bytes(2, "big")
"""What an OPT record begins with: the root's name and the type."""

_DO = 0x8000  # RFC 3225
_OPTION = struct.Struct("!HH")
_KEEPALIVE_UNITS_PER_SECOND = 10  # RFC 7828 §3.1


class OptionMalformed(ValueError):
    """An OPT record or one of its options is not what its RFC says; the answer is FORMERR."""


class Edns(NamedTuple):
    """What a query's OPT record asks for."""

    udp_octets: int
    """The requestor's UDP payload size, at least 512."""

    version: int
    do: bool
    nsid: bool = False
    cookie: bytes | None = None
    """Data of the first COOKIE option: 8 or 16 … 40 octets."""

    keepalive: bool = False
    zoneversion: bool = False


def parse(udp_octets: int, version: int, flags: int, rdata: bytes) -> Edns:
    """An OPT record's fields; OptionMalformed says what is wrong with it.

    Options of a later EDNS version are not looked at: the answer is BADVERS whatever they are (RFC 6891 §6.1.3).
    """
    udp_octets = max(udp_octets, MIN_UDP_OCTETS)
    do = bool(flags & _DO)
    if not rdata or version != 0:
        return Edns(udp_octets, version, do)
    return Edns(udp_octets, version, do, *parse_options(rdata))


def parse_options(rdata: bytes) -> tuple[bool, bytes | None, bool, bool]:
    """The last four fields of `Edns`; OptionMalformed says what is wrong."""
    nsid = keepalive = zoneversion = False
    cookie: bytes | None = None
    unpack, answered = _OPTION.unpack_from, _ANSWERED
    at, end = 0, len(rdata)
    left = MAX_OPTIONS
    while at < end:
        try:
            code, size = unpack(rdata, at)
        except struct.error:
            raise OptionMalformed("an option is cut off") from None
        at += 4 + size
        left -= 1
        if left < 0:
            raise OptionMalformed(f"more than {MAX_OPTIONS} options")
        if code not in answered:
            continue
        if code == COOKIE:
            if size != 8 and not 16 <= size <= 40:
                raise OptionMalformed(f"a COOKIE of {size} octets")  # RFC 7873 §5.2.2
            if cookie is None:
                cookie = rdata[at - size : at]
        elif code == NSID:
            nsid = True
        elif code == KEEPALIVE:
            keepalive = True  # a client should send it empty (RFC 7828 §3.2.1); what it sends says nothing to us
        elif size or zoneversion:
            raise OptionMalformed("a ZONEVERSION with data, or two of them")  # RFC 9660 §3.2.1
        else:
            zoneversion = True
    if at > end:
        raise OptionMalformed("an option is longer than its OPT record")
    return nsid, cookie, keepalive, zoneversion


def is_do(ttl: int) -> bool:
    """DO (RFC 3225) in the TTL field of an OPT record."""
    return bool(ttl & _DO)


def opt_record(udp_octets: int, options: bytes = b"", *, do: bool = False, rcode: int = 0) -> bytes:
    """The OPT record of a query or a response; *udp_octets* is what we accept, *rcode* the full 12-bit RCODE."""
    return OPT.pack(0, TYPE_OPT, udp_octets, rcode >> 4, 0, _DO if do else 0, len(options)) + options


def option(code: int, data: bytes) -> bytes:
    """One option in wire format."""
    return _OPTION.pack(code, len(data)) + data


def expire(seconds: int) -> bytes:
    """For how long the zone may be answered from (RFC 7314 §2)."""
    return option(EXPIRE, struct.pack("!I", seconds))


def extended_error(info_code: int) -> bytes:
    """An extended error option (RFC 8914 §2) without text."""
    return option(EXTENDED_ERROR, struct.pack("!H", info_code))


def keepalive(idle_seconds: float) -> bytes:
    """Our TCP idle time-out (RFC 7828 §3.1)."""
    return option(KEEPALIVE, struct.pack("!H", min(int(idle_seconds * _KEEPALIVE_UNITS_PER_SECOND), 0xFFFF)))


def zone_version(zone_labels: int, serial: int) -> bytes:
    """The SOA serial of the zone whose name has *zone_labels* labels (RFC 9660 §2, type SOA-SERIAL)."""
    return option(ZONEVERSION, struct.pack("!BBI", zone_labels, 0, serial))
