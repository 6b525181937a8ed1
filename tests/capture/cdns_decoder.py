"""C-DNS back to facts, field by field, on cbor2: what the writers are measured against."""

from typing import Any, NamedTuple

import cbor2

from rootsrv.capture.facts import Fact, Kind, OptBits


class Decoded(NamedTuple):
    preamble: dict[int, Any]
    blocks: list[dict[int, Any]]
    facts: list[Fact]
    """In each block's order: queries, then malformed messages.  Times are microseconds of the wall clock."""


def decode(octets: bytes) -> Decoded:
    """The whole file; raises for whatever RFC 8618 does not allow here."""
    file_type, preamble, blocks = cbor2.loads(octets)
    assert file_type == "C-DNS"
    assert (preamble[0], preamble[1]) == (1, 0)
    assert octets.endswith(b"\xff")
    found: list[Fact] = []
    for block in blocks:
        found += _facts(block, preamble)
    return Decoded(preamble, blocks, found)


def expected(fact: Fact, wall_offset: int) -> Fact:
    """*fact* with what C-DNS does not keep taken away."""
    time = (fact.time + wall_offset) // 1000
    if fact.kind == Kind.MALFORMED:
        return fact._replace(time=time, hop_limit=0, traffic_class=0)
    has_opt = fact.opt_bits & OptBits.PRESENT
    return fact._replace(
        time=time,
        traffic_class=0,
        opt_bits=fact.opt_bits & (OptBits.PRESENT | OptBits.DO),
        # A query's RCODE is kept where no OPT record could hold the rest of it; QR is always 0 in a query.
        query_flags=fact.query_flags & (0x7FF0 if has_opt else 0x7FFF),
        # Of the response's flags the opcode is not kept, nor QR, which is always 1.
        response_flags=fact.response_flags & 0x07FF,
    )


def _facts(block: dict[int, Any], preamble: dict[int, Any]) -> list[Fact]:
    tables = block.get(2, {})
    for array in [*tables.values(), *(block[key] for key in (3, 4, 5) if key in block)]:
        assert array != []
    items, malformed = block.get(3, []), block.get(5, [])
    limit = preamble[3][0][0][1]
    assert len(items) <= limit and len(malformed) <= limit  # noqa: PT018
    statistics = block[1]
    unanswered = sum(9 not in item for item in items)
    assert (statistics[1], statistics[2], statistics[5]) == (len(items), unanswered, len(malformed))
    assert statistics[0] == 2 * len(items) - unanswered + len(malformed) == statistics[-6]
    if not items and not malformed:
        return []
    seconds, ticks = block[0][0]
    assert ticks < 1_000_000
    earliest = seconds * 1_000_000 + ticks
    assert min(item[0] for item in [*items, *malformed]) == 0
    assert block[0][-2] == block[0][0]
    assert block[0][-1][0] * 1_000_000 + block[0][-1][1] == earliest + max(item[0] for item in [*items, *malformed])
    found = [_query(item, earliest, tables) for item in items]
    return found + [_malformed(item, earliest, tables) for item in malformed]


def _query(item: dict[int, int], earliest: int, tables: dict[int, Any]) -> Fact:
    signature = tables[3][item[4]]
    asked = tables[1][signature[8]] if 8 in signature else {0: 0, 1: 0}
    name = tables[2][item[7]] if 7 in item else b""
    flags = signature[4]
    has_opt, responded = bool(flags & 4), bool(flags & 2)
    assert flags & 1
    assert has_opt == (13 in signature) == (14 in signature)
    assert has_opt != (7 in signature)
    assert responded == (16 in signature) == (9 in item)
    header_alone = item.get(9) == 12
    assert bool(flags & 8) == (has_opt and responded and not header_alone)
    assert bool(flags & 16) == (7 not in item) == (8 not in signature)
    assert bool(flags & 32) == ((responded and 7 not in item) or header_alone)
    assert signature[3] == 3
    dns = signature[6]
    rcode = signature.get(16, 0)
    return Fact(
        time=earliest + item[0],
        kind=Kind.QUERY,
        family=6 if signature[2] & 1 else 4,
        transport=signature[2] >> 1,
        hop_limit=item.get(5, 0),
        traffic_class=0,
        opt_bits=has_opt * OptBits.PRESENT | bool(dns & 0x80) * OptBits.DO,
        edns_version=signature.get(13, 0),
        extended_rcode=rcode >> 4,
        source=_sixteen(tables[0][item[1]]),
        destination=_sixteen(tables[0][signature[0]]),
        source_port=item[2],
        destination_port=signature[1],
        id=item[3],
        query_flags=signature[5] << 11 | (dns & 0x7F) << 4 | signature.get(7, 0),
        qtype=asked[0],
        qclass=asked[1],
        query_octets=item[8],
        response_octets=item.get(9, 0),
        response_flags=(dns >> 8) << 4 | rcode & 0xF,
        opt_udp_size=signature.get(14, 0),
        name_octets=len(name),
        qdcount=signature[9],
        ancount=signature[10],
        nscount=signature[11],
        arcount=signature[12],
        octets=name,
    )


def _malformed(item: dict[int, int], earliest: int, tables: dict[int, Any]) -> Fact:
    data = tables[8][item[3]]
    empty: dict[str, Any] = dict.fromkeys(Fact._fields, 0)
    return Fact(
        **empty
        | {
            "time": earliest + item[0],
            "kind": Kind.MALFORMED,
            "family": 6 if data[2] & 1 else 4,
            "transport": data[2] >> 1,
            "source": _sixteen(tables[0][item[1]]),
            "destination": _sixteen(tables[0][data[0]]),
            "source_port": item[2],
            "destination_port": data[1],
            "query_octets": len(data[3]),
            "octets": data[3],
        }
    )


def _sixteen(address: bytes) -> bytes:
    assert len(address) in (4, 16)
    return address.ljust(16, b"\0")
