"""The dearest query of each kind: what an attacker would send."""

from collections.abc import Iterable, Sequence

import dns.rdatatype

from bench.queries import Query
from rootsrv.wire import name
from rootsrv.zone.contents import ZoneContents

_NS, _A, _AAAA, _DS, _OPT, _COOKIE, _NSID, _PADDING, _ZONEVERSION, _KEEPALIVE = 2, 1, 28, 43, 41, 10, 3, 12, 19, 11
_NULL = 10
_NAME_ROOM = 255


def worst_queries(root: ZoneContents, now: float) -> dict[str, list[Query]]:
    """Queries by what is bad about them, a few of each so that no cache line stays warm by accident.

    *now*: epoch seconds at which forged server cookies seem fresh, so that they must be checked.
    """
    forged = b"\1\0\0\0" + int(now).to_bytes(4, "big") + bytes([7] * 8)
    by_size = sorted(root.delegations, key=lambda owner: _referral_size(root, owner), reverse=True)[:8]
    missing = [b"\x0fnosuchtoplevel%c" % letter + b"\0" for letter in b"abcdefgh"]
    kinds: dict[str, list[Query]] = {
        "longest qname, referral": [_signed("referral", _longest(owner), _A, 0) for owner in by_size],
        "longest qname, nxdomain": [_signed("nxdomain", _longest(owner), _A, 3) for owner in missing],
        "longest qname, 126 labels": [_signed("nxdomain", _most_labels(owner), _A, 3) for owner in missing],
        "most pointers, moved": [_signed("referral", b"\x01x" + owner, _A, 0) for owner in by_size],
        "most cuts, 512 octets": [
            _query("referral", _longest(owner), _AAAA, 0, payload=512, do=True) for owner in by_size
        ],
        "most cuts, no EDNS": [_query("referral", b"\x03www" + owner, _AAAA, 0) for owner in by_size],
        "cookie, new": [
            _signed("nxdomain", owner, _A, 3, options=_option(_COOKIE, bytes([number] * 8)))
            for number, owner in enumerate(missing)
        ],
        "cookie, forged server part": [
            _signed("nxdomain", owner, _A, 3, options=_option(_COOKIE, bytes([number] * 8) + forged))
            for number, owner in enumerate(missing)
        ],
        "NSID, cookie and padding": [
            _signed("referral", _longest(owner, 150), _A, 0,
                   options=_option(_NSID, b"") + _option(_COOKIE, bytes([number] * 8)) + _option(_PADDING, bytes(40)))
            for number, owner in enumerate(by_size)
        ],
        "ZONEVERSION and NSID": [
            _signed("referral", _longest(owner, 150), _A, 0, options=_option(_ZONEVERSION, b"") + _option(_NSID, b""))
            for owner in by_size
        ],
        "keepalive and NSID": [
            _signed("referral", _longest(owner, 150), _A, 0, options=_option(_KEEPALIVE, b"") + _option(_NSID, b""))
            for owner in by_size
        ],
        "eight options, forged cookie last": [
            _signed("referral", _longest(owner, 150), _A, 0,
                    options=b"".join(_option(65001 + n, bytes([number, n])) for n in range(7))
                    + _option(_COOKIE, bytes([number] * 8) + forged))
            for number, owner in enumerate(by_size)
        ],
        "as many options as are taken, forged cookie last": [
            _signed("referral", _longest(owner, 60), _A, 0,
                    options=b"".join(_option(65001 + n, b"") for n in range(31))
                    + _option(_COOKIE, bytes([number] * 8) + forged))
            for number, owner in enumerate(by_size)
        ],
        "trust-anchor signal, 11 invented tags": [
            _signed("nxdomain", _signal(range(11 * number, 11 * number + 11)), _NULL, 3) for number in range(3000)
        ],
        "longest qname, 126 labels, referral": [_signed("referral", _most_labels(owner), _A, 0) for owner in by_size],
        "options that mean nothing": [
            _signed("nxdomain", owner, _A, 3, options=b"".join(_option(65001 + n, b"") for n in range(24)))
            for owner in missing
        ],
        "payload never seen before": [
            _query("nxdomain", owner, _A, 3, payload=1233 + number, do=True)
            for number in range(3000)
            for owner in missing[:1]
        ],
        "name in other case": [_query("referral", _longest(owner).upper(), _A, 0, payload=1232) for owner in by_size],
        "root, all types": [_signed("apex", b"\0", rtype, 0) for rtype in (2, 6, 48, 63, 255)],
        "CHAOS": [_query("chaos", name.from_text("hostname.bind."), dns.rdatatype.TXT, None, qclass=3)],
        "refused class": [_signed("chaos", owner, _A, None, qclass=4) for owner in missing],
        "not implemented": [Query(b"\0\0\x28\0\0\1\0\0\0\0\0\0\0\0\x06\0\1", "other")],
        "malformed": [Query(b"\0\0\0\0\0\1\0\0\0\0\0\1" + b"\xc0\x0c\0\1\0\1", "other", 1)],
    }  # fmt: skip
    return kinds


def _referral_size(root: ZoneContents, owner: bytes) -> int:
    hosts = root.rrsets[owner, _NS].rdatas
    glue = sum(
        len(root.rrsets[host, rtype].rdatas) for host in hosts for rtype in (_A, _AAAA) if (host, rtype) in root.rrsets
    )
    return len(hosts) + glue


def _longest(owner: bytes, limit: int = _NAME_ROOM) -> bytes:
    """*owner* below as few, long labels as fill a name."""
    front = b""
    while (room := limit - len(owner) - len(front)) >= 2:
        size = min(63, room - 1)
        front += bytes([size]) + b"q" * size
    return front + owner


def _most_labels(owner: bytes) -> bytes:
    return b"\x01q" * ((_NAME_ROOM - len(owner)) // 2) + owner


def _signal(tags: Iterable[int]) -> bytes:
    """The name by which a resolver signals key tags (RFC 8145 §5.1)."""
    label = b"_ta" + b"".join(b"-%04x" % tag for tag in tags)
    return bytes([len(label)]) + label + b"\0"


def _option(code: int, octets: bytes) -> bytes:
    return code.to_bytes(2, "big") + len(octets).to_bytes(2, "big") + octets


def _query(
    kind: str, qname: bytes, qtype: int, rcode: int | None, *,
    qclass: int = 1, payload: int | None = None, do: bool = False, options: bytes = b"",
) -> Query:  # fmt: skip
    octets = bytes([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, payload is not None]) + qname
    octets += qtype.to_bytes(2, "big") + qclass.to_bytes(2, "big")
    if payload is not None:
        flags = b"\x80\0" if do else b"\0\0"
        octets += b"\0" + _OPT.to_bytes(2, "big") + payload.to_bytes(2, "big") + b"\0\0" + flags
        octets += len(options).to_bytes(2, "big") + options
    return Query(octets, kind, rcode)


def _signed(kind: str, qname: bytes, qtype: int, rcode: int | None, *, qclass: int = 1, options: bytes = b"") -> Query:
    return _query(kind, qname, qtype, rcode, qclass=qclass, payload=1232, do=True, options=options)


def alternating_families(queries: Sequence[Query]) -> list[Query]:
    """The same queries, every fourth over IPv6."""
    return [
        Query(query.octets, query.kind, query.rcode, 6 if number % 4 == 3 else 4)
        for number, query in enumerate(queries)
    ]
