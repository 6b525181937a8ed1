"""Random facts: what a root server is asked, and everything that a fact can say at all."""

import random
from typing import Any

from rootsrv.capture.facts import Fact, Kind, OptBits, TransportCode

SERVERS = {4: bytes([198, 41, 0, 4]) + bytes(12), 6: bytes.fromhex("20010503ba3e00000000000200000030")}
TLDS = [b"com", b"net", b"org", b"arpa", b"de", b"local", b"home", b"lan", b"internal", b"xn--p1ai", b"corp"]


def wire_name(draw: random.Random, octets: int | None = None) -> bytes:
    """A name of any octets, in wire form; of exactly *octets* (1 and 3 to 255) if given."""
    left = octets if octets is not None else draw.choice([1, *range(3, 256)])
    found = b""
    while left > 1:
        size = draw.randint(1, min(63, left - 2))
        if left - 1 - size == 2:  # one octet and the root's label: no label fits
            size += -1 if size > 1 else 1
        found += bytes([size]) + draw.randbytes(size)
        left -= 1 + size
    return found + b"\0"


def plausible_name(draw: random.Random) -> bytes:
    """A name as resolvers ask a root server for."""
    labels = [
        bytes(draw.choices(b"abcdefghijklmnopqrstuvwxyz0123456789-", k=draw.randint(1, 20)))
        for _ in range(draw.choice([0, 0, 1, 1, 2, 3]))
    ]
    if draw.random() < 0.95:
        labels.append(draw.choice(TLDS))
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def address(draw: random.Random, family: int) -> bytes:
    """A source, often one of few."""
    seed = random.Random(draw.getrandbits(10) if draw.random() < 0.8 else draw.getrandbits(64))
    return seed.randbytes(4) + bytes(12) if family == 4 else b"\x20\x01" + seed.randbytes(14)


def query(draw: random.Random, time: int, *, anything: bool = False) -> Fact:
    """A query that was understood; *anything*: every field takes every value it can."""
    family = draw.choice([4, 4, 6])
    name = (wire_name if anything else plausible_name)(draw)
    opt = OptBits(0)
    if draw.random() < 0.9:
        opt = OptBits.PRESENT
        for bit in (OptBits.DO, OptBits.COOKIE, OptBits.CLIENT_SUBNET):
            opt |= bit if draw.random() < 0.5 else 0
    word = draw.getrandbits
    sent = draw.random() < 0.95
    opcode = draw.choice([0, 0, 0, 4, 5]) if anything else 0
    return Fact(
        time=time,
        kind=Kind.QUERY,
        family=family,
        transport=draw.choice(list(TransportCode) if anything else [0, 0, 0, 0, 1]),
        hop_limit=word(8) if anything else draw.randint(40, 64),
        traffic_class=word(8) if anything else 0,
        opt_bits=opt,
        edns_version=word(8) if anything and opt else 0,
        extended_rcode=word(8) if anything and opt and sent else 0,
        source=address(draw, family),
        destination=SERVERS[family],
        source_port=word(16),
        destination_port=word(16) if anything else 53,
        id=word(16),
        query_flags=(word(16) & 0x07FF | opcode << 11) if anything else draw.choice([0x0000, 0x0010, 0x0100]),
        qtype=word(16) if anything else draw.choice([1, 28, 2, 6, 43, 48, 65, 255]),
        qclass=word(16) if anything else 1,
        query_octets=word(16) if anything else 12 + len(name) + 4 + (11 if opt else 0),
        response_octets=0 if not sent else draw.randint(1, 65535) if anything else draw.randint(100, 1232),
        response_flags=0 if not sent else word(16) | 0x8000 if anything else 0x8400 | draw.choice([0, 0, 3]),
        opt_udp_size=0 if not opt else word(16) if anything else draw.choice([512, 1232, 1232, 4096]),
        name_octets=len(name),
        qdcount=1,
        ancount=word(8) if anything else 0,
        nscount=word(8) if anything else 0,
        arcount=word(8) if anything else bool(opt),
        octets=name,
    )


def malformed(draw: random.Random, time: int, raw: bytes) -> Fact:
    """A message that was not understood."""
    empty: dict[str, Any] = dict.fromkeys(Fact._fields, 0)
    family = draw.choice([4, 6])
    empty |= {
        "time": time,
        "kind": Kind.MALFORMED,
        "family": family,
        "transport": draw.choice([0, 0, 1]),
        "hop_limit": draw.randint(0, 255),
        "source": address(draw, family),
        "destination": SERVERS[family],
        "source_port": draw.getrandbits(16),
        "destination_port": 53,
        "query_octets": len(raw),
        "octets": raw,
    }
    return Fact(**empty)


def facts(
    seed: int,
    count: int,
    *,
    anything: bool = True,
    malformed_share: float = 0.02,
    start: int = 10**15,
    step: int = 4_000,
) -> list[Fact]:
    """*count* facts in the order of time, nanoseconds from *start* on, about *step* apart.

    With *anything* names are of any octets up to 255, and numbers are any that their fields hold; without, they are
    as at a root server.  The same arguments make the same facts.
    """
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        start += draw.randint(0, 2 * step)
        if draw.random() < malformed_share:
            size = draw.choice([0, 1, 11, 54, 55, 56, 167, 168, 512, draw.randint(0, 3000)])
            found.append(malformed(draw, start, draw.randbytes(size)))
        else:
            found.append(query(draw, start, anything=anything))
    return found


def rows(found: list[Fact]) -> bytes:
    """*found* as the ring holds them."""
    return b"".join(fact.to_rows() for fact in found)
