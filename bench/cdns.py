"""`python -m bench cdns`: what a query costs as C-DNS, by how blocks are made, compressed and anonymised.

Facts of the root mix with the responses that the Responder gives, from clients of which few ask most; beside them what
an attacker could send: names of 255 octets that all differ, and messages that nobody understands.
"""

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import zstandard
from isal import igzip

from bench import machine, report
from bench.mix import Mix
from bench.responder import make_responder
from bench.zones import Zones
from rootsrv.answer.responder import Transport
from rootsrv.capture import cdns, facts
from rootsrv.capture.anonymise import Aes128, CryptoPan, Truncation
from rootsrv.capture.cdns import BlockWriter, Collection
from rootsrv.capture.cdns_columns import ColumnWriter
from rootsrv.capture.cdns_plain import PlainWriter
from rootsrv.capture.facts import Fact, Kind
from rootsrv.capture.pcap_reader import EMPTY, message_fact

FACTS = 40_000
REPEATS = 9
RATE = 270_000  # queries a second of the busiest letter, whose spacing the times have
_PORTION = 4_000  # facts at once: what arrives in 15 ms
_CLIENTS = 60_000
_SERVERS = {4: bytes([198, 41, 0, 4]), 6: bytes.fromhex("20010503ba3e00000000000200000030")}


def _none(octets: bytes) -> bytes:
    return octets


def _gzip(octets: bytes) -> bytes:
    made: bytes = igzip.compress(octets, 2)
    return made


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": _none,
    "gzip (isal 2)": _gzip,
    "zstd 1": zstandard.ZstdCompressor(1).compress,
}


def mix_facts(zones: Zones, count: int, seed: int = 1) -> list[Fact]:
    """Facts of *count* queries of the root mix, as they would come at RATE."""
    draw = random.Random(seed)
    responder = make_responder(zones)
    clients = {family: [draw.randbytes(size) for _ in range(_CLIENTS)] for family, size in ((4, 4), (6, 16))}
    found = []
    for number, query in enumerate(Mix.read().queries(zones.tlds, count)):
        source = clients[query.family][int(_CLIENTS * draw.random() ** 3)]
        like = EMPTY._replace(
            time=10**15 + number * 10**9 // RATE,
            family=query.family,
            transport=int(query.tcp),
            hop_limit=draw.randint(40, 63),
            source=source.ljust(16, b"\0"),
            destination=_SERVERS[query.family].ljust(16, b"\0"),
            source_port=draw.randint(1024, 65_535),
            destination_port=53,
        )
        fact = message_fact(draw.randbytes(2) + query.octets[2:], like)
        transport = Transport.TCP if query.tcp else Transport.UDP
        response = responder.respond(query.octets, source, transport, zones.now) or b""
        if fact.kind == Kind.QUERY and response:
            fact = fact._replace(response_octets=len(response), response_flags=int.from_bytes(response[2:4]))
        found.append(fact)
    return found


def long_names(found: Sequence[Fact], seed: int = 2) -> list[Fact]:
    """*found* with names of 255 octets, each another."""
    draw = random.Random(seed)
    labels = [63, 63, 63, 61]
    return [
        fact._replace(octets=b"".join(bytes([size]) + draw.randbytes(size) for size in labels) + b"\0", name_octets=255)
        for fact in found
        if fact.kind == Kind.QUERY
    ]


def malformed(found: Sequence[Fact], octets: int, seed: int = 3) -> list[Fact]:
    """As many messages of *octets* octets that nobody understands."""
    draw = random.Random(seed)
    return [
        fact._replace(kind=Kind.MALFORMED, query_octets=octets, octets=draw.randbytes(octets), response_octets=0)
        for fact in found
    ]


def run(zones: Zones, *, count: int = FACTS, repeats: int = REPEATS) -> dict[str, Any]:
    """All figures: processor time of the fastest of *repeats* rounds through all of them, and octets per query."""
    mixed = mix_facts(zones, count)
    by_columns, plainly = ColumnWriter, PlainWriter
    none = Collection()
    cases: list[tuple[str, Callable[[Collection], BlockWriter], Collection, list[Fact], str]] = [
        *((f"columns, {name}", by_columns, none, mixed, name) for name in COMPRESSIONS),
        ("columns, truncated addresses", by_columns, Collection(anonymiser=Truncation()), mixed, "none"),
        ("columns, AES-128", by_columns, Collection(anonymiser=Aes128(bytes(16))), mixed, "none"),
        ("columns, Crypto-PAn", by_columns, Collection(anonymiser=CryptoPan(bytes(32))), mixed, "none"),
        ("columns, names of 255 octets that differ", by_columns, none, long_names(mixed), "none"),
        ("columns, malformed messages of 60 octets", by_columns, none, malformed(mixed, 60), "none"),
        ("columns, malformed messages of 512 octets", by_columns, none, malformed(mixed, 512), "none"),
        ("plain Python, none", plainly, none, mixed[: count // 8], "none"),
    ]
    prepared = [
        (name, writer, collection, _portions(found), len(found), COMPRESSIONS[compression])
        for name, writer, collection, found, compression in cases
    ]
    times: dict[str, list[float]] = {name: [] for name, *_ in cases}
    octets: dict[str, float] = {}
    result: dict[str, Any] = {"machine": machine.describe(), "zones": zones.origin, "facts": count}
    with report.kept(result):
        for _ in range(repeats):
            for name, writer, collection, portions, amount, compress in prepared:
                spent, size = _time(writer(collection), portions, compress)
                times[name].append(spent / amount)
                octets[name] = size / amount
    costs = [
        {"name": name, "seconds": min(rounds), "rate": 1 / min(rounds), "octets": octets[name]}
        for name, rounds in times.items()
        if rounds
    ]
    return result | {
        "additions_per_second": machine.additions_per_second(min(os.sched_getaffinity(0))),
        "costs": costs,
    }


def _portions(found: Sequence[Fact]) -> list[bytes]:
    return [b"".join(fact.to_rows() for fact in found[at : at + _PORTION]) for at in range(0, len(found), _PORTION)]


def _time(writer: BlockWriter, portions: Sequence[bytes], compress: Callable[[bytes], bytes]) -> tuple[float, int]:
    """Processor seconds, and octets of blocks."""
    size = 0
    start = time.thread_time()
    for rows in portions:
        for block in writer.add(rows, 10**18):
            size += len(compress(block))
    size += len(compress(writer.flush()))
    return time.thread_time() - start, size


def to_markdown(figures: dict[str, Any]) -> str:
    """The table for the report."""
    lines = ["| blocks | µs per query | queries per second | octets per query |", "|---|--:|--:|--:|"]
    lines += [
        f"| {cost['name']} | {cost['seconds'] * 1e6:.2f} | {cost['rate']:,.0f} | {cost['octets']:.1f} |"
        for cost in figures["costs"]
    ]
    lines += [
        "",
        f"{figures['facts']:,} facts of the root mix, {cdns.BLOCK_ITEMS:,} a block, {facts.FACT_OCTETS} octets each"
        f" before.  Zones: {figures['zones']}.  A plain Python loop did {figures['additions_per_second'] / 1e6:.1f} M"
        " additions/s meanwhile.",
    ]
    return "\n".join(lines) + "\n"
