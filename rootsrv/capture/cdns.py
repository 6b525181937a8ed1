"""C-DNS (RFC 8618): what a file says about itself, and which of two writers makes its blocks."""
# Theory of operation
# -------------------
# A file is `head(collection)`, then blocks, then `END`: an array whose length is not said, so that blocks follow one
# another as they are made.  A block is complete in itself and names its earliest time; a file may end behind any of
# them.  Readers take integers that are wider than they need to be (§11), which is what lets numpy write them.
#
#   facts (facts.py) ──▶ BlockWriter.add ──▶ octets of complete blocks, BLOCK_ITEMS queries each
#                        BlockWriter.flush ──▶ the block that was begun: at a rotation, at the end
#
# One fact is one item: query and response were never apart, so nothing is matched and nothing is unmatched but a query
# to which no response was sent.  Sections of responses are not collected (they follow from the zone), nor is the RDATA
# of OPT: cookies would make nearly every signature unique.  The hints say so.
#
# compactor's private keys are used as its inspector reads them (doc/c-dns.cddl of dns-stats/compactor): in statistics
# PACKETS and LOST, in a block's preamble the times of its first and last item.

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import cbor2

import rootsrv
from rootsrv.capture.rings import Counts
from rootsrv.wire.edns import TYPE_OPT

if TYPE_CHECKING:
    from rootsrv.capture.anonymise import Anonymiser

FILE_TYPE = "C-DNS"
BLOCK_ITEMS = 10_000
"""Facts of a full block (max-block-items): queries and malformed messages together."""

BLOCK_ROWS = 1 << 16
"""A block is full, too, when its facts take this many rows (8 MiB): raw messages of 64 KiB are 586 each."""

TICKS_PER_SECOND = 1_000_000

END = b"\xff"
"""What a file ends with: inspector reads nothing behind its last block without it."""


class QueryResponse(enum.IntEnum):
    """Keys of a query/response item (§7.6); the hints number its fields alike up to RESPONSE_SIZE."""

    TIME_OFFSET = 0
    CLIENT_ADDRESS = 1
    CLIENT_PORT = 2
    TRANSACTION_ID = 3
    SIGNATURE = 4
    HOP_LIMIT = 5
    RESPONSE_DELAY = 6
    QUERY_NAME = 7
    QUERY_SIZE = 8
    RESPONSE_SIZE = 9


class Signature(enum.IntEnum):
    """Keys of a query/response signature (§7.5.3.2); the hints number them alike."""

    SERVER_ADDRESS = 0
    SERVER_PORT = 1
    TRANSPORT_FLAGS = 2
    TYPE = 3
    SIGNATURE_FLAGS = 4
    OPCODE = 5
    DNS_FLAGS = 6
    QUERY_RCODE = 7
    CLASSTYPE = 8
    QDCOUNT = 9
    ANCOUNT = 10
    NSCOUNT = 11
    ARCOUNT = 12
    EDNS_VERSION = 13
    UDP_SIZE = 14
    OPT_RDATA = 15
    RESPONSE_RCODE = 16


class BlockKey(enum.IntEnum):
    """Keys of a block (§7.5)."""

    PREAMBLE = 0
    STATISTICS = 1
    TABLES = 2
    QUERY_RESPONSES = 3
    ADDRESS_EVENTS = 4
    MALFORMED_MESSAGES = 5


class PreambleKey(enum.IntEnum):
    """Keys of a block's preamble (§7.5.1), private ones below 0."""

    EARLIEST_TIME = 0
    PARAMETERS = 1
    END_TIME = -1
    START_TIME = -2


class StatisticsKey(enum.IntEnum):
    """Keys of a block's statistics (§7.5.2), private ones below 0."""

    PROCESSED_MESSAGES = 0
    ITEMS = 1
    UNMATCHED_QUERIES = 2
    UNMATCHED_RESPONSES = 3
    DISCARDED_OPCODE = 4
    MALFORMED = 5
    PACKETS = -6
    LOST = -7  # compactor: dropped at the sniffer for overload
    NOT_SAMPLED = -8


class Table(enum.IntEnum):
    """Keys of a block's tables (§7.5.3)."""

    ADDRESSES = 0
    CLASSTYPES = 1
    NAMES = 2
    SIGNATURES = 3
    MALFORMED_DATA = 8


class MalformedData(enum.IntEnum):
    """Keys of a malformed message's data (§7.5.3.5)."""

    SERVER_ADDRESS = 0
    SERVER_PORT = 1
    TRANSPORT_FLAGS = 2
    PAYLOAD = 3


class SignatureFlags(enum.IntFlag):
    """qr-sig-flags (§7.5.3.2)."""

    QUERY = 1
    RESPONSE = 2
    QUERY_HAS_OPT = 4
    RESPONSE_HAS_OPT = 8
    QUERY_HAS_NO_QUESTION = 16
    RESPONSE_HAS_NO_QUESTION = 32


class StorageFlags(enum.IntFlag):
    """storage-flags (§6.2.3)."""

    ANONYMISED = 1
    SAMPLED = 2
    NORMALISED_NAMES = 4


TYPE_AUTHORITATIVE = 3  # qr-type: a query to an authoritative server

_QUERY_RESPONSE_HINTS = sum(1 << key for key in QueryResponse if key is not QueryResponse.RESPONSE_DELAY)
_SIGNATURE_HINTS = sum(1 << key for key in Signature if key is not Signature.OPT_RDATA)
_RR_HINTS = 0
_OTHER_HINTS = 1  # malformed messages; address events are not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What a file says about how its data was collected (§7.4.1)."""

    host_id: str = ""
    """Identifies the collecting host; not written if empty."""

    interfaces: tuple[str, ...] = ()
    server_addresses: tuple[bytes, ...] = ()
    """4 or 16 octets each."""

    filter: str = ""
    """As tcpdump would be told; not written if empty."""

    sampling: str = ""
    """The method, best as a URI (§6.2.3); empty: every query is there, or counted as lost."""

    anonymiser: "Anonymiser | None" = None


def head(collection: Collection) -> bytes:
    """What a file begins with: type, preamble (§7.4) and the opening of the array of blocks."""
    storage: dict[int, object] = {
        0: TICKS_PER_SECOND,
        1: BLOCK_ITEMS,
        2: {0: _QUERY_RESPONSE_HINTS, 1: _SIGNATURE_HINTS, 2: _RR_HINTS, 3: _OTHER_HINTS},
        3: list(range(16)),  # opcodes: the form of every message is checked alike, whatever its opcode
        4: [TYPE_OPT],  # types of records of which anything is recorded
    }
    flags = StorageFlags(0)
    if collection.sampling:
        flags |= StorageFlags.SAMPLED
        storage[10] = collection.sampling
    if collection.anonymiser:
        flags |= StorageFlags.ANONYMISED
        storage[11] = collection.anonymiser.method
        if prefixes := collection.anonymiser.prefixes:
            storage[6], storage[7] = prefixes
    if flags:
        storage[5] = int(flags)
    described: dict[int, object] = {8: f"rootsrv {rootsrv.__version__}"}
    for key, value in (
        (4, list(collection.interfaces)),
        (5, list(collection.server_addresses)),
        (7, collection.filter),
        (9, collection.host_id),
    ):
        if value:
            described[key] = value
    storage = dict(sorted(storage.items()))
    preamble = {0: 1, 1: 0, 3: [{0: storage, 1: dict(sorted(described.items()))}]}
    return b"\x83" + cbor2.dumps(FILE_TYPE) + cbor2.dumps(preamble) + b"\x9f"


class BlockWriter(Protocol):
    """Makes blocks of facts; the caller makes files of them: `head(collection)`, blocks, `END`."""

    damaged: int
    """Facts that came without all of their rows: the statistics of blocks have them as lost."""

    @property
    def held(self) -> Counts:
        """What the block that was begun has to tell."""

    def drop(self) -> None:
        """Forget the block that was begun; raises nothing, whatever `add` or `flush` raised before."""

    def add(
        self, rows: bytes | bytearray | memoryview, wall_offset: int, *, lost: int = 0, not_sampled: int = 0
    ) -> list[bytes]:
        """The blocks that *rows* complete: whole facts, one after another.

        *wall_offset*: nanoseconds from CLOCK_BOOTTIME to the wall clock.  *lost*: how many facts were lost since the
        last call; *not_sampled*: how many were left out on purpose.  A fact without all of its continuations counts as
        lost.  *rows* are copied.
        """

    def flush(self) -> bytes:
        """The block that was begun; empty if there is neither a fact nor a loss to tell."""


def block_writer(collection: Collection) -> BlockWriter:
    """numpy's writer, or the plain one on a host without numpy."""
    try:
        from rootsrv.capture import cdns_columns
    except ImportError:
        from rootsrv.capture import cdns_plain

        return cdns_plain.PlainWriter(collection)
    return cdns_columns.ColumnWriter(collection)
