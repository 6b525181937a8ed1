"""C-DNS blocks by columns: numpy makes ten thousand items at once, in half a microsecond each."""
# Theory of operation
# -------------------
# Rows are 16 words of 64 bits.  What makes two queries share an entry of a table (address, name, signature) is hashed
# to one word, under numbers that are drawn when the process starts; entries are found by sorting those words.  Two that
# differ and hash alike would become one entry: by chance once in some 10^11 blocks of 10,000, and nobody outside knows
# the numbers, so no attacker does better.
#
# What is written is a matrix of octets, a line per item: all integers of a column have the width that its greatest
# value in the block needs, so that a column is filled by one assignment.  What an item lacks is masked out of the
# matrix when it becomes octets.  Names and raw messages are the rows themselves, with the head of the CBOR string
# written over the octets in front of them.  Nothing is done once per query in Python: floods of malformed messages and
# of names of 255 octets take the same way as everything else.

import cbor2
import numpy
from numpy.typing import NDArray

from rootsrv.answer.question import HEADER_OCTETS
from rootsrv.capture import facts
from rootsrv.capture.address_columns import clients, servers
from rootsrv.capture.anonymise import Anonymiser, client_subnets
from rootsrv.capture.cbor_columns import (
    Column,
    Flags,
    Integers,
    Octets,
    Piece,
    array,
    continuations,
    head,
    line,
    maps,
    spread,
    strings,
)
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
from rootsrv.capture.entries import NAME_OCTETS, entries, hashed, mixed, signature_hashes
from rootsrv.capture.facts import CONTINUATION_AT, CONTINUATION_OCTETS, FACT_OCTETS, INLINE_OCTETS, Kind, OptBits
from rootsrv.capture.rings import Counts
from rootsrv.process.time_slice import give_way

Words = NDArray[numpy.uint64]
"""Shape (rows, 16): rows of facts."""

_ROW = facts.dtype()
_NANOSECONDS_PER_TICK = 10**9 // TICKS_PER_SECOND


class ColumnWriter:
    """The `BlockWriter` that numpy makes fast."""

    def __init__(self, collection: Collection) -> None:
        self._anonymiser = collection.anonymiser
        self._pending: list[tuple[Words, int]] = []
        """Rows, and what is to be added to their times."""

        self._items = self._rows = self._lost = self._not_sampled = 0
        self.damaged = 0

    @property
    def held(self) -> Counts:
        return Counts(self._items, self._lost, self._not_sampled)

    def drop(self) -> None:
        self._pending = []
        self._items = self._rows = self._lost = self._not_sampled = 0

    def add(
        self, rows: bytes | bytearray | memoryview, wall_offset: int, *, lost: int = 0, not_sampled: int = 0
    ) -> list[bytes]:
        self._lost += lost
        self._not_sampled += not_sampled
        kept = rows if isinstance(rows, bytes) else bytes(rows)
        words = numpy.frombuffer(kept, numpy.uint64).reshape(-1, FACT_OCTETS // 8)
        if not len(words):
            return []
        self._pending.append((words, wall_offset))
        self._items += len(words) - int(numpy.count_nonzero(_octets(words)[:, 8] == Kind.CONTINUATION))
        self._rows += len(words)
        if self._items < BLOCK_ITEMS and self._rows <= BLOCK_ROWS:
            return []
        words, blocks = self._taken(), []
        heads = _heads(words)
        ends = numpy.append(heads[1:], len(words))
        first = start = 0
        while len(heads) - first >= BLOCK_ITEMS or len(words) - start > BLOCK_ROWS:
            last = min(first + BLOCK_ITEMS, int(numpy.searchsorted(ends, start + BLOCK_ROWS, "right")))
            # A fact is smaller than a block: what is larger are continuations of nothing.
            last = max(last, min(first + 1, len(ends)))
            end = int(ends[last - 1]) if last else len(words)
            blocks.append(self._block(words[start:end]))
            first, start = last, end
        if start < len(words):
            self._pending = [(words[start:], 0)]
        self._items, self._rows = len(heads) - first, len(words) - start
        return blocks

    def flush(self) -> bytes:
        if not self._rows and not self._lost and not self._not_sampled:
            return b""
        words = self._taken() if self._pending else numpy.empty((0, FACT_OCTETS // 8), numpy.uint64)
        self._items = self._rows = 0
        return self._block(words)

    def _taken(self) -> Words:
        """All that waits, with times of the wall clock."""
        pending, self._pending = self._pending, []
        words = numpy.concatenate([words for words, _ in pending])
        at = 0
        for some, offset in pending:
            if offset:  # below 0 where the wall clock has not been set
                words[at : at + len(some), 0] += numpy.uint64(offset % 2**64)
            at += len(some)
        return words

    def _block(self, words: Words) -> bytes:
        words, heads, damaged = _whole(words)
        block = _block(words, heads, self._lost + damaged, self._not_sampled, self._anonymiser)
        self.damaged += damaged
        self._lost = self._not_sampled = 0
        return block


def _octets(words: Words) -> Octets:
    return words.view(numpy.uint8).reshape(-1, FACT_OCTETS)


def _heads(words: Words) -> Integers:
    """Where facts begin."""
    kinds = _octets(words)[:, 8]
    return numpy.flatnonzero(kinds != Kind.CONTINUATION) if kinds.any() else numpy.arange(len(words))


def _sizes(rows: NDArray[numpy.void]) -> Integers:
    """How many octets of name or raw message belong to each of the facts that begin at *rows*."""
    return numpy.where(rows["kind"] == Kind.MALFORMED, rows["query_octets"], rows["name_octets"]).astype(numpy.intp)


def _whole(words: Words) -> tuple[Words, Integers, int]:
    """Those facts that have all of their rows, where each begins, and how many have not."""
    octets = _octets(words)
    heads = _heads(words)
    if (
        len(heads) == len(words)
        and octets[:, facts.NAME_OCTETS_AT].max(initial=0) <= INLINE_OCTETS
        and not octets[:, 8].any()
    ):
        return words, heads, 0
    rows = octets[heads]
    wanted = continuations(_sizes(rows.view(_ROW).reshape(-1)))
    there = numpy.append(heads[1:], len(words)) - heads - 1
    whole = (there >= wanted) & (rows[:, 8] <= Kind.MALFORMED)
    count = int(whole.sum())
    if count == len(heads) and len(words) == count + int(wanted.sum()):
        return words, heads, 0
    found = words[spread(heads[whole], 1 + wanted[whole])]
    return found, _heads(found), len(heads) - count


# ── tables ──


def _name_hashes(words: Words, heads: Integers) -> Words:
    """One word for the name of each of the facts at *heads*."""
    rows = words[heads] if len(heads) < len(words) else words
    sizes = rows[:, 3] >> numpy.uint64(40) & numpy.uint64(0xFF)
    found = hashed(rows[:, 9] & ~numpy.uint64(0xFF) | sizes, *(rows[:, word] for word in range(10, 16)))
    for number, least in enumerate((INLINE_OCTETS, INLINE_OCTETS + CONTINUATION_OCTETS), 1):
        longer = numpy.flatnonzero(sizes > numpy.uint64(least))
        if len(longer):
            whole = found[longer]
            for word in range(CONTINUATION_AT // 8, FACT_OCTETS // 8):
                whole = mixed(whole, words[heads[longer] + number, word])
            found[longer] = whole
    return found


# ── strings ──


_SHORT_OCTETS = 23
"""The longest CBOR string whose head is one octet."""


def _names(octets: Octets, heads: Integers) -> tuple[bytes, Integers]:
    """The names of the facts at *heads* as CBOR byte strings, and the place of each among them."""
    sizes = octets[heads, facts.NAME_OCTETS_AT].astype(numpy.intp)
    written, places = [], numpy.empty(len(heads), numpy.intp)
    at = 0
    # Short ones, those that have no continuation, others: none is as wide a line as the longest of all.
    for least, most in ((0, _SHORT_OCTETS), (_SHORT_OCTETS, INLINE_OCTETS), (INLINE_OCTETS, 255)):
        some = numpy.flatnonzero((sizes > least) & (sizes <= most))
        if not len(some):
            continue
        before = numpy.empty((len(some), 1 if most == _SHORT_OCTETS else 2), numpy.uint8)
        before[:, 0] = 0x58
        before[:, -1] = sizes[some] | (0x40 if most == _SHORT_OCTETS else 0)
        written.append(strings(octets, heads[some], sizes[some], before))
        places[some] = numpy.arange(at, at + len(some))
        at += len(some)
    return b"".join(written), places


# ── a block ──


def _block(words: Words, heads: Integers, lost: int, not_sampled: int, anonymiser: Anonymiser | None) -> bytes:
    """One block (§7.5) of whole facts, which begin at *heads*; their times are nanoseconds of the wall clock."""
    octets = _octets(words)
    rows = words[heads] if len(heads) < len(words) else words
    malformed = _octets(rows)[:, 8] == Kind.MALFORMED
    count = len(heads) - int(malformed.sum())
    answered = int((rows.view(_ROW).reshape(-1)["response_octets"][~malformed] != 0).sum())
    messages = len(heads) + answered
    statistics = {
        StatisticsKey.PROCESSED_MESSAGES: messages,
        StatisticsKey.ITEMS: count,
        StatisticsKey.UNMATCHED_QUERIES: count - answered,
        StatisticsKey.UNMATCHED_RESPONSES: 0,
        StatisticsKey.DISCARDED_OPCODE: 0,
        StatisticsKey.MALFORMED: len(heads) - count,
        StatisticsKey.PACKETS: messages,
        StatisticsKey.LOST: lost,
        StatisticsKey.NOT_SAMPLED: not_sampled,
    }
    if not len(heads):
        return cbor2.dumps({BlockKey.PREAMBLE: {}, BlockKey.STATISTICS: statistics})
    times = rows[:, 0] // numpy.uint64(_NANOSECONDS_PER_TICK)
    earliest = times.min()
    preamble = {
        PreambleKey.EARLIEST_TIME: divmod(int(earliest), TICKS_PER_SECOND),
        PreambleKey.END_TIME: divmod(int(times.max()), TICKS_PER_SECOND),
        PreambleKey.START_TIME: divmod(int(earliest), TICKS_PER_SECOND),
    }
    times -= earliest
    client_strings, client_count, client = clients(rows, anonymiser)

    plain = slice(None) if count == len(heads) else ~malformed
    queries, query_heads = rows[plain], heads[plain]
    parts: dict[int, list[Piece]] = {}
    tables: dict[int, list[Piece]] = {}
    signature_rows = queries[:0]
    if count:
        first, signature = entries(signature_hashes(queries))
        signature_rows = queries[first]
        named = queries[:, 3] & NAME_OCTETS != 0
        name = numpy.zeros(count, numpy.intp)
        if named.any():
            firsts, numbers = entries(_name_hashes(words, query_heads[named]))
            written, places = _names(octets, query_heads[named][firsts])
            tables[Table.NAMES] = array(len(firsts), written)
            name[named] = places[numbers]
        found = queries.view(_ROW).reshape(-1)
        columns: list[tuple[int, Column | int, Flags | None]] = [
            (QueryResponse.TIME_OFFSET, times[plain], None),
            (QueryResponse.CLIENT_ADDRESS, client[plain], None),
            (QueryResponse.CLIENT_PORT, found["source_port"], None),
            (QueryResponse.TRANSACTION_ID, found["id"], None),
            (QueryResponse.SIGNATURE, signature, None),
            (QueryResponse.HOP_LIMIT, found["hop_limit"], found["hop_limit"] != 0),
            (QueryResponse.QUERY_NAME, name, named),
            (QueryResponse.QUERY_SIZE, found["query_octets"], None),
            (QueryResponse.RESPONSE_SIZE, found["response_octets"], found["response_octets"] != 0),
        ]
        parts[BlockKey.QUERY_RESPONSES] = array(count, maps(count, columns))

    raw_heads = heads[malformed]
    raw_rows = rows[malformed].view(_ROW).reshape(-1)
    reached = numpy.concatenate((signature_rows.view(_ROW).reshape(-1), raw_rows))
    server_strings, server_count, server = servers(reached, client_count)
    tables[Table.ADDRESSES] = array(client_count + server_count, client_strings + server_strings)
    if count:
        tables |= _signatures(reached[: len(signature_rows)], server)
    if len(raw_heads):
        tables[Table.MALFORMED_DATA] = array(
            len(raw_heads), _malformed_data(octets, raw_heads, raw_rows, server[len(signature_rows) :], anonymiser)
        )
        columns = [
            (QueryResponse.TIME_OFFSET, times[malformed], None),
            (QueryResponse.CLIENT_ADDRESS, client[malformed], None),
            (QueryResponse.CLIENT_PORT, raw_rows["source_port"], None),
            (3, numpy.arange(len(raw_heads)), None),  # message-data-index
        ]
        parts[BlockKey.MALFORMED_MESSAGES] = array(len(raw_heads), maps(len(raw_heads), columns))
    parts[BlockKey.PREAMBLE] = [cbor2.dumps(preamble)]
    parts[BlockKey.STATISTICS] = [cbor2.dumps(statistics)]
    parts[BlockKey.TABLES] = _map(tables)
    give_way()
    return b"".join(_map(parts))


def _map(values: dict[int, list[Piece]]) -> list[Piece]:
    """A map of values that are CBOR already, in the order of its keys, all below 24; in pieces."""
    return [head(5, len(values)), *(piece for key in sorted(values) for piece in (bytes([key]), *values[key]))]


def _signatures(rows: NDArray[numpy.void], server: Integers) -> dict[int, list[Piece]]:
    """The tables of signatures (§7.5.3.2) and of their types and classes; *rows*: a query of each signature."""
    count = len(rows)
    has_opt = rows["opt_bits"] & OptBits.PRESENT != 0
    responded = rows["response_octets"] != 0
    header_alone = rows["response_octets"] == HEADER_OCTETS
    asked = rows["name_octets"] != 0
    flags = numpy.full(count, int(SignatureFlags.QUERY))
    for flag, where in (
        (SignatureFlags.QUERY_HAS_OPT, has_opt),
        (SignatureFlags.RESPONSE, responded),
        # Where the query had one (RFC 6891 §7), if there is anything.
        (SignatureFlags.RESPONSE_HAS_OPT, responded & has_opt & ~header_alone),
        (SignatureFlags.QUERY_HAS_NO_QUESTION, ~asked),
        (SignatureFlags.RESPONSE_HAS_NO_QUESTION, responded & ~asked | header_alone),
    ):
        flags[where] |= flag
    dns_flags = rows["query_flags"] >> 4 & 0x7F
    dns_flags[has_opt & (rows["opt_bits"] & OptBits.DO != 0)] |= 0x80
    dns_flags[responded] |= (rows["response_flags"][responded] >> 4 & 0x7F) << 8
    tables = {}
    classtype = numpy.zeros(count, numpy.intp)
    if asked.any():
        questions = rows["qtype"][asked].astype(numpy.uint64) << numpy.uint64(16) | rows["qclass"][asked]
        kinds, classtype[asked] = numpy.unique(questions, return_inverse=True)
        tables[int(Table.CLASSTYPES)] = array(
            len(kinds),
            maps(len(kinds), [(0, kinds >> numpy.uint64(16), None), (1, kinds & numpy.uint64(0xFFFF), None)]),
        )
    columns: list[tuple[int, Column | int, Flags | None]] = [
        (Signature.SERVER_ADDRESS, server[:count], None),
        (Signature.SERVER_PORT, rows["destination_port"], None),
        (Signature.TRANSPORT_FLAGS, _transport_flags(rows), None),
        (Signature.TYPE, TYPE_AUTHORITATIVE, None),
        (Signature.SIGNATURE_FLAGS, flags, None),
        (Signature.OPCODE, rows["query_flags"] >> 11 & 0xF, None),
        (Signature.DNS_FLAGS, dns_flags, None),
        # The upper bits of a query's RCODE, in its OPT record, are not in a fact.
        (Signature.QUERY_RCODE, rows["query_flags"] & 0xF, ~has_opt),
        (Signature.CLASSTYPE, classtype, asked),
        (Signature.QDCOUNT, rows["qdcount"], None),
        (Signature.ANCOUNT, rows["ancount"], None),
        (Signature.NSCOUNT, rows["nscount"], None),
        (Signature.ARCOUNT, rows["arcount"], None),
        (Signature.EDNS_VERSION, rows["edns_version"], has_opt),
        (Signature.UDP_SIZE, rows["opt_udp_size"], has_opt),
        (
            Signature.RESPONSE_RCODE,
            rows["extended_rcode"].astype(numpy.uint16) << 4 | rows["response_flags"] & 0xF,
            responded,
        ),
    ]
    return tables | {int(Table.SIGNATURES): array(count, maps(count, columns))}


def _transport_flags(rows: NDArray[numpy.void]) -> NDArray[numpy.uint8]:
    flags: NDArray[numpy.uint8] = rows["transport"] << 1 | (rows["family"] == 6)
    return flags


def _malformed_data(
    octets: Octets, heads: Integers, rows: NDArray[numpy.void], server: Integers, anonymiser: Anonymiser | None
) -> bytes:
    """What was received and where (§7.5.3.5), of the messages at *heads*."""
    keys = [MalformedData.SERVER_ADDRESS, MalformedData.SERVER_PORT, MalformedData.TRANSPORT_FLAGS]
    pattern, layout = line(((keys[0], 2), (keys[1], 2), (keys[2], 1), (MalformedData.PAYLOAD, 2)))
    pattern = pattern.copy()
    pattern[-3] = 0x59  # a byte string whose length is two octets, in place of an integer
    matrix = numpy.empty((len(heads), len(pattern)), numpy.uint8)
    matrix[:] = pattern
    lines = matrix.view(layout).reshape(-1)
    sizes = rows["query_octets"].astype(numpy.intp)
    values = (server, rows["destination_port"], _transport_flags(rows), sizes)
    for key, value in zip((*keys, MalformedData.PAYLOAD), values, strict=True):
        lines[str(int(key))] = value
    written = strings(octets, heads, sizes, matrix)
    if anonymiser is None:
        return written
    ends = numpy.cumsum(len(pattern) + sizes)
    begins = ends - sizes + numpy.minimum(sizes, HEADER_OCTETS)
    return client_subnets(written, anonymiser, begins.tolist(), ends.tolist())
