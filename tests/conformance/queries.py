"""Queries by the ten thousand, reproducible: every TLD systematically, and generated ones of every kind."""

import random
from collections.abc import Iterator, Sequence

from tests.conformance.wire import TYPE_CODES, make_query, name_from_text

SEED = 9499

SIZES = (None, 512, 1220, 1232, 4096)
"""Offered UDP sizes; None is without EDNS."""

ZONE_TYPES = tuple(TYPE_CODES[name] for name in ("A", "NS", "SOA", "AAAA", "DS", "RRSIG", "NSEC", "DNSKEY", "ZONEMD"))
OTHER_TYPES = (
    *(TYPE_CODES[name] for name in ("CNAME", "NULL", "PTR", "MX", "TXT", "SRV", "DNAME", "NSEC3", "SVCB", "HTTPS")),
    *(TYPE_CODES[name] for name in ("CAA", "ANY")),
    *(0, 99, 32768, 65280, 65535),
)

RD = 0x0100


def of_every_tld(tlds: Sequence[str]) -> Iterator[bytes]:
    """NS, DS and A at each TLD and A below it, with and without DO, at 1232 octets."""
    for tld in tlds:
        for name, qtype in ((tld, "NS"), (tld, "DS"), (tld, "A"), (f"www.example.{tld}", "A")):
            for do in (False, True):
                yield make_query(name_from_text(name), TYPE_CODES[qtype], size=1232, do=do)


def generated(
    tlds: Sequence[str], hosts: Sequence[str], servers: Sequence[str], count: int, seed: int = SEED
) -> Iterator[bytes]:
    """*count* queries of all types, sizes, cases and octets.

    Names at, below and near TLDs, unknown ones, the apex, hosts of root-servers.net, name servers of TLDs.
    """
    source = random.Random(seed)
    wire_tlds = [name_from_text(tld)[:-1] for tld in tlds]
    wire_hosts = [name_from_text(host)[:-1] for host in hosts]
    wire_servers = [name_from_text(server)[:-1] for server in servers]
    for _ in range(count):
        qname = _mixed_case(source, _name(source, wire_tlds, wire_hosts, wire_servers))
        qtype = source.choice(ZONE_TYPES if source.random() < 0.7 else OTHER_TYPES)
        size = source.choice(SIZES)
        do = size is not None and source.random() < 0.6
        yield make_query(qname, qtype, flags=source.choice((0, RD)), size=size, do=do)


def _name(source: random.Random, tlds: list[bytes], hosts: list[bytes], servers: list[bytes]) -> bytes:
    """A name in wire format of at most 255 octets."""
    kind = source.random()
    if kind < 0.03:
        return b"\0"
    if kind < 0.10:
        last = source.choice(hosts)
    elif kind < 0.15:
        last = source.choice(servers)
    elif kind < 0.45:
        last = source.choice(tlds)
    elif kind < 0.65:
        last = _near(source, source.choice(tlds)[1:])
    elif kind < 0.9:
        last = _label(source, b"abcdefghijklmnopqrstuvwxyz0123456789-")
    else:
        last = _label(source, bytes(range(256)))
    prefix = b""
    room = 255 - 1 - len(last)
    if source.random() < 0.02:
        # As long as a name can be.
        while room - len(prefix) > 1:
            size = min(63, room - len(prefix) - 1)
            prefix += bytes([size]) + bytes(source.choices(b"abcdefghij", k=size))
    elif source.random() < 0.6:
        for _ in range(source.choice((1, 1, 1, 2, 2, 3, 6))):
            alphabet = bytes(range(256)) if source.random() < 0.05 else b"abcdefghijklmnopqrstuvwxyz0123456789-_"
            label = _label(source, alphabet)
            if len(prefix) + len(label) <= room:
                prefix += label
    return prefix + last + b"\0"


def _label(source: random.Random, alphabet: bytes) -> bytes:
    size = source.choice((1, 2, 3, 3, 4, 5, 6, 8, 10, 14, 20, 63))
    return bytes([size]) + bytes(source.choices(alphabet, k=size))


def _near(source: random.Random, label: bytes) -> bytes:
    """A label that sorts close to *label*: one octet more, less or other."""
    kind = source.randrange(4)
    if kind == 0 and len(label) < 63:
        label += bytes([source.choice(b"\0-0az\xff")])
    elif kind == 1 and len(label) > 1:
        label = label[:-1]
    elif kind == 2:
        label = label[:-1] + bytes([(label[-1] + source.choice((1, 255))) & 0xFF])
    else:
        at = source.randrange(len(label))
        label = label[:at] + bytes([source.randrange(256)]) + label[at + 1 :]
    return bytes([len(label)]) + label


def _mixed_case(source: random.Random, name: bytes) -> bytes:
    """Letters in either case, or all as they are; length octets are below 64 and so no letters."""
    if source.random() < 0.5:
        return name
    return bytes(c ^ 0x20 if chr(c).isalpha() and c < 128 and source.random() < 0.5 else c for c in name)
