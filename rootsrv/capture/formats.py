"""The two formats of a capture's files, as the collector sees them."""

import datetime
import struct
import time
from typing import Protocol

from rootsrv.capture import anonymise_packets, cdns, facts, messages, pcap, rings
from rootsrv.capture.anonymise import Anonymiser
from rootsrv.capture.cdns import Collection

try:
    from rootsrv.capture import message_columns
except ImportError:  # the extra rootsrv[capture] is not installed
    message_columns = None  # type: ignore[assignment]

_SECOND = 10**9


class Format(Protocol):
    """From rows in order of time to what is in a file."""

    shape: int
    """What the kernel shall write."""

    end: bytes
    """What a file ends with."""

    @property
    def left_out(self) -> int:
        """Queries that cannot stand in a file of it (rows of the other format, rows that are not all there): lost.

        Those of C-DNS are told in its blocks' statistics already.
        """

    method: str
    """How addresses are anonymised, with a digest of the key (anonymise.py); empty: they are not."""

    @property
    def held(self) -> rings.Counts:
        """What was added, and is in no octets that have been returned."""

    def drop(self) -> None:
        """Forget what is held; raises nothing."""

    def rows(self, taken: bytes) -> bytes:
        """The rows of what workers told (whole messages), as this format wants them."""

    def begin(self) -> bytes:
        """What a file begins with."""

    def add(self, rows: bytes, wall_offset: int, lost: int, passed_over: int) -> bytes:
        """What *rows* add to the file; *lost* and *passed_over* since the last call."""

    def flush(self) -> bytes:
        """What was held back, before the file ends."""

    def file_name(self, name: str, at: int) -> str:
        """Of a file that begins *at* (wall time, nanoseconds)."""


class Pcap:
    """pcap (rootsrv/capture/pcap.py)."""

    shape = rings.PACKETS
    end = b""

    def __init__(self, collection: Collection) -> None:
        self._anonymiser: Anonymiser | None = collection.anonymiser
        self.method = _method(collection)
        self._service_addresses = frozenset(collection.server_addresses)
        self._streams = pcap.Streams()
        self.left_out = 0

    @property
    def held(self) -> rings.Counts:
        """Nothing."""
        return rings.Counts()

    def drop(self) -> None:
        """Nothing is held."""

    def rows(self, taken: bytes) -> bytes:
        """Packets, written anew."""
        if message_columns is not None:
            return message_columns.packets(taken, self._rows_of)
        return b"".join(map(self._rows_of, messages.read(taken)))

    def _rows_of(self, message: messages.CapturedMessage) -> bytes:
        return pcap.rows_of(message, self._streams.place(message) if message.transport else 1)

    def begin(self) -> bytes:
        """The file's header."""
        return pcap.HEAD

    def add(self, rows: bytes, wall_offset: int, lost: int, passed_over: int) -> bytes:
        """Records; the format has no place for what was lost."""
        records, damaged = pcap.records(rows, wall_offset)
        if self._anonymiser is not None:
            records = anonymise_packets.packets(records, self._anonymiser, self._service_addresses)
        self.left_out += _amount(rows, rings.PACKET)[1] + damaged
        return records

    def flush(self) -> bytes:
        """Nothing: a record is written at once."""
        return b""

    def file_name(self, name: str, at: int) -> str:
        """As dnscap names its files (dnscap(1), -w)."""
        return f"{name}.{_utc(at):%Y%m%d.%H%M%S}.{at % _SECOND // 1000:06}.pcap"


class Cdns:
    """C-DNS (rootsrv/capture/cdns.py)."""

    shape = rings.FACTS
    end = cdns.END

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self.method = _method(collection)
        self._writer = cdns.block_writer(collection)
        self._other_rows = 0

    @property
    def left_out(self) -> int:
        """Packets, and facts without all of their rows."""
        return self._other_rows + self._writer.damaged

    @property
    def held(self) -> rings.Counts:
        """Of the block that was begun."""
        return self._writer.held

    def drop(self) -> None:
        """Forget the block that was begun."""
        self._writer.drop()

    def rows(self, taken: bytes) -> bytes:
        """Facts."""
        if message_columns is not None:
            return message_columns.facts(taken)
        return b"".join(messages.fact_of(message).to_rows() for message in messages.read(taken))

    def begin(self) -> bytes:
        """The file's preamble."""
        return cdns.head(self._collection)

    def add(self, rows: bytes, wall_offset: int, lost: int, passed_over: int) -> bytes:
        """Blocks that are full."""
        packets = _amount(rows, rings.PACKET)[0]
        kept = _facts_only(rows) if packets else rows
        blocks = self._writer.add(kept, wall_offset, lost=lost + packets, not_sampled=passed_over)
        self._other_rows += packets
        return b"".join(blocks)

    def flush(self) -> bytes:
        """The last block."""
        return self._writer.flush()

    def file_name(self, name: str, at: int) -> str:
        """As compactor's and the visualizer's: the time is in front."""
        return f"{_utc(at):%Y%m%d-%H%M%S}.{at % _SECOND // 1000:06}_{name}.cdns"


def _method(collection: Collection) -> str:
    return "" if collection.anonymiser is None else collection.anonymiser.method


def _amount(rows: bytes, kind: int) -> tuple[int, int]:
    """How many queries in *rows* are of that *kind*, and how many of another."""
    kinds = rows[8 :: facts.FACT_OCTETS]
    found = kinds.count(kind)
    return found, len(kinds) - kinds.count(facts.Kind.CONTINUATION) - kinds.count(rings.FURTHER_PACKET) - found


def _facts_only(rows: bytes) -> bytes:
    """Without packets, which the kernel may have written when the format was another one."""
    kinds = rows[8 :: facts.FACT_OCTETS]
    kept, keeps = [], True
    for number, kind in enumerate(kinds):
        keeps = keeps if kind == facts.Kind.CONTINUATION else kind not in (rings.PACKET, rings.FURTHER_PACKET)
        if keeps:
            kept.append(rows[number * facts.FACT_OCTETS : (number + 1) * facts.FACT_OCTETS])
    return b"".join(kept)


def _utc(at: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at // _SECOND, datetime.UTC)


def make(name: str, collection: Collection) -> Format:
    """The format of that *name* ("cdns", "pcap")."""
    return Pcap(collection) if name == "pcap" else Cdns(collection)


_TRIED = 2_000


def rate(name: str) -> float:
    """How many queries a second this process could take at most, measured with a few; for hosts without numpy."""
    tried = make(name, Collection())
    rows = []
    for number in range(_TRIED):
        source = struct.pack("!I12x", number // 4)
        octets = struct.pack("!6H", number, 0, 1, 0, 0, 0) + b"\7tld%04d\0\0\1\0\1" % (number % 1500)
        message = messages.CapturedMessage(number, 4, 0, source, 4000, bytes(16), 53, 100, bytes(16), octets)
        rows.append(pcap.rows_of(message) if name == "pcap" else messages.fact_of(message).to_rows())
    portion = b"".join(rows)
    began = time.thread_time()
    tried.add(portion, 0, 0, 0)
    tried.flush()
    return _TRIED / max(time.thread_time() - began, 1e-6)
