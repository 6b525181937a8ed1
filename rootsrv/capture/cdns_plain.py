"""C-DNS blocks without numpy: dictionaries, written by cbor2."""

import operator
from collections.abc import Callable, Hashable
from typing import TypeVar

import cbor2

from rootsrv.answer.question import HEADER_OCTETS
from rootsrv.capture import facts
from rootsrv.capture.anonymise import Anonymiser, client_subnets
from rootsrv.capture.cdns import (
    BLOCK_ITEMS,
    BLOCK_ROWS,
    TICKS_PER_SECOND,
    TYPE_AUTHORITATIVE,
    BlockKey,
    Collection,
    MalformedData,
    PreambleKey,
    QueryResponse,
    Signature,
    SignatureFlags,
    StatisticsKey,
    Table,
)
from rootsrv.capture.facts import Fact, Kind, OptBits
from rootsrv.capture.rings import Counts

_NANOSECONDS_PER_TICK = 10**9 // TICKS_PER_SECOND

# Plain integers: an enumeration's members are slower to reach, and its operators cost a microsecond.
_TIME, _CLIENT, _PORT, _ID, _SIGNATURE, _HOP_LIMIT, _, _NAME, _QUERY_SIZE, _RESPONSE_SIZE = map(int, QueryResponse)
_MESSAGE_DATA = 3  # of a malformed message (§7.8), whose other keys are those of a query
_MALFORMED = int(Kind.MALFORMED)
_PRESENT, _DO = int(OptBits.PRESENT), int(OptBits.DO)
_STORED_OPT_BITS = _PRESENT | _DO


_Thing = TypeVar("_Thing")


class _Numbered(dict[_Thing, int]):
    """Things in the order in which they were first met, by their number."""

    def __missing__(self, key: _Thing) -> int:
        number = self[key] = len(self)
        return number


class PlainWriter:
    """The `BlockWriter` that needs nothing but Python."""

    def __init__(self, collection: Collection) -> None:
        self._anonymiser = collection.anonymiser
        self._facts: list[Fact] = []
        self._rows = self._lost = self._not_sampled = 0
        self.damaged = 0

    @property
    def held(self) -> Counts:
        return Counts(len(self._facts), self._lost, self._not_sampled)

    def drop(self) -> None:
        self._facts = []
        self._rows = self._lost = self._not_sampled = 0

    def add(
        self, rows: bytes | bytearray | memoryview, wall_offset: int, *, lost: int = 0, not_sampled: int = 0
    ) -> list[bytes]:
        self._lost += lost
        self._not_sampled += not_sampled
        blocks = []
        for fact in facts.read([memoryview(rows)]):
            if len(fact.octets) != facts.octets_of(fact) or fact.kind > _MALFORMED:
                self._lost += 1
                self.damaged += 1
                continue
            self._rows += 1 + facts.continuations(len(fact.octets))
            if self._rows > BLOCK_ROWS:
                blocks.append(self.flush())
                self._rows = 1 + facts.continuations(len(fact.octets))
            self._facts.append(fact._replace(time=(fact.time + wall_offset) // _NANOSECONDS_PER_TICK))
            if len(self._facts) == BLOCK_ITEMS:
                blocks.append(self.flush())
        return blocks

    def flush(self) -> bytes:
        if not self._facts and not self._lost and not self._not_sampled:
            return b""
        block = cbor2.dumps(_block(self._facts, self._lost, self._not_sampled, self._anonymiser))
        self.drop()
        return block


def _block(found: list[Fact], lost: int, not_sampled: int, anonymiser: Anonymiser | None) -> dict[int, object]:
    """One block (§7.5) of facts whose times are ticks of the wall clock."""
    client = _client(anonymiser)
    addresses, names = _Numbered[bytes](), _Numbered[bytes]()
    classtypes = _Numbered[tuple[int, int]]()
    signatures: list[dict[int, int]] = []
    numbers: dict[Hashable, int] = {}
    earliest = min((fact.time for fact in found), default=0)
    items: list[dict[int, int]] = []
    malformed: list[dict[int, int]] = []
    malformed_data: list[dict[int, int | bytes]] = []
    for fact in found:
        size = 16 if fact.family == 6 else 4
        item: dict[int, int] = {
            _TIME: fact.time - earliest,
            _CLIENT: addresses[client(fact.source[:size])],
            _PORT: fact.source_port,
        }
        if fact.kind == _MALFORMED:
            item[_MESSAGE_DATA] = len(malformed_data)
            malformed.append(item)
            raw = fact.octets
            if anonymiser:
                raw = client_subnets(raw, anonymiser, (min(HEADER_OCTETS, len(raw)),), (len(raw),))
            malformed_data.append(
                {
                    MalformedData.SERVER_ADDRESS: addresses[fact.destination[:size]],
                    MalformedData.SERVER_PORT: fact.destination_port,
                    MalformedData.TRANSPORT_FLAGS: _transport_flags(fact),
                    MalformedData.PAYLOAD: raw,
                }
            )
            continue
        items.append(item)
        item[_ID] = fact.id
        key = _signature_key(fact)
        if key not in numbers:
            numbers[key] = len(signatures)
            classtype = classtypes[fact.qtype, fact.qclass] if fact.octets else None
            signatures.append(_signature(fact, addresses[fact.destination[:size]], classtype))
        item[_SIGNATURE] = numbers[key]
        if fact.hop_limit:
            item[_HOP_LIMIT] = fact.hop_limit
        if fact.octets:
            item[_NAME] = names[fact.octets]
        item[_QUERY_SIZE] = fact.query_octets
        if fact.response_octets:
            item[_RESPONSE_SIZE] = fact.response_octets
    answered = sum(_RESPONSE_SIZE in item for item in items)
    messages = len(items) + answered + len(malformed)
    block: dict[int, object] = {
        BlockKey.PREAMBLE: {},
        BlockKey.STATISTICS: {
            StatisticsKey.PROCESSED_MESSAGES: messages,
            StatisticsKey.ITEMS: len(items),
            StatisticsKey.UNMATCHED_QUERIES: len(items) - answered,
            StatisticsKey.UNMATCHED_RESPONSES: 0,
            StatisticsKey.DISCARDED_OPCODE: 0,
            StatisticsKey.MALFORMED: len(malformed),
            StatisticsKey.PACKETS: messages,
            StatisticsKey.LOST: lost,
            StatisticsKey.NOT_SAMPLED: not_sampled,
        },
    }
    if not found:
        return block
    block[BlockKey.PREAMBLE] = {
        PreambleKey.EARLIEST_TIME: divmod(earliest, TICKS_PER_SECOND),
        PreambleKey.END_TIME: divmod(max(fact.time for fact in found), TICKS_PER_SECOND),
        PreambleKey.START_TIME: divmod(earliest, TICKS_PER_SECOND),
    }
    tables: dict[int, list[object]] = {
        Table.ADDRESSES: list(addresses),
        Table.CLASSTYPES: [dict(enumerate(classtype)) for classtype in classtypes],
        Table.NAMES: list(names),
        Table.SIGNATURES: list(signatures),
        Table.MALFORMED_DATA: list(malformed_data),
    }
    # Arrays that are there are not empty (§7.5).
    block[BlockKey.TABLES] = {key: table for key, table in tables.items() if table}
    if items:
        block[BlockKey.QUERY_RESPONSES] = items
    if malformed:
        block[BlockKey.MALFORMED_MESSAGES] = malformed
    return block


def _client(anonymiser: Anonymiser | None) -> Callable[[bytes], bytes]:
    """What is written for a client's address: each is anonymised once a block."""
    if anonymiser is None:
        return lambda octets: octets
    known: dict[bytes, bytes] = {}
    prefixes = anonymiser.prefixes

    def client(octets: bytes) -> bytes:
        if octets not in known:
            made = anonymiser.address(octets)
            known[octets] = made[: -(-prefixes[len(octets) == 16] // 8)] if prefixes else made
        return known[octets]

    return client


def _transport_flags(fact: Fact) -> int:
    return fact.transport << 1 | (fact.family == 6)


_alike = operator.attrgetter(
    "family", "transport", "destination", "destination_port", "query_flags", "qtype", "qclass", "response_flags",
    "extended_rcode", "edns_version", "opt_udp_size", "qdcount", "ancount", "nscount", "arcount",
)  # fmt: skip


def _signature_key(fact: Fact) -> Hashable:
    """What two facts have alike if, and only if, their signatures are one."""
    response = fact.response_octets > 0, fact.response_octets == HEADER_OCTETS
    return _alike(fact), fact.opt_bits & _STORED_OPT_BITS, *response, fact.name_octets > 0


def _signature(fact: Fact, server: int, classtype: int | None) -> dict[int, int]:
    """The signature (§7.5.3.2) of *fact*."""
    has_opt, responded = bool(fact.opt_bits & _PRESENT), fact.response_octets > 0
    flags = SignatureFlags.QUERY
    dns_flags = fact.query_flags >> 4 & 0x7F
    if has_opt:
        flags |= SignatureFlags.QUERY_HAS_OPT
        dns_flags |= 0x80 if fact.opt_bits & _DO else 0
    if classtype is None:
        flags |= SignatureFlags.QUERY_HAS_NO_QUESTION
    if responded:
        flags |= SignatureFlags.RESPONSE
        header_alone = fact.response_octets == HEADER_OCTETS
        if has_opt and not header_alone:  # there is one where the query had one (RFC 6891 §7), if there is anything
            flags |= SignatureFlags.RESPONSE_HAS_OPT
        flags |= SignatureFlags.RESPONSE_HAS_NO_QUESTION if classtype is None or header_alone else 0
        dns_flags |= (fact.response_flags >> 4 & 0x7F) << 8
    fields: dict[int, int | None] = {
        Signature.SERVER_ADDRESS: server,
        Signature.SERVER_PORT: fact.destination_port,
        Signature.TRANSPORT_FLAGS: _transport_flags(fact),
        Signature.TYPE: TYPE_AUTHORITATIVE,
        Signature.SIGNATURE_FLAGS: int(flags),
        Signature.OPCODE: fact.query_flags >> 11 & 0xF,
        Signature.DNS_FLAGS: dns_flags,
        # The upper bits of a query's RCODE, in its OPT record, are not in a fact.
        Signature.QUERY_RCODE: None if has_opt else fact.query_flags & 0xF,
        Signature.CLASSTYPE: classtype,
        Signature.QDCOUNT: fact.qdcount,
        Signature.ANCOUNT: fact.ancount,
        Signature.NSCOUNT: fact.nscount,
        Signature.ARCOUNT: fact.arcount,
        Signature.EDNS_VERSION: fact.edns_version if has_opt else None,
        Signature.UDP_SIZE: fact.opt_udp_size if has_opt else None,
        Signature.RESPONSE_RCODE: fact.extended_rcode << 4 | fact.response_flags & 0xF if responded else None,
    }
    return {key: value for key, value in fields.items() if value is not None}
