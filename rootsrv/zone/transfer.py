"""One inbound zone transfer: AXFR (RFC 5936) or IXFR (RFC 1995), from messages to contents."""
# Theory of operation
# -------------------
#
#               SOA, serial newer            a record that is no SOA
#      FIRST ───────────────────────▶ SECOND ───────────────────────▶ WHOLE ──────────────────────┐
#        │                              │                              the same SOA again: DONE   │
#        │ SOA, not newer               │ SOA with our serial                                     ▼
#        ▼                              ▼                                                       DONE
#     UP TO DATE                    DELETIONS ◀──────── SOA of where the additions led ─┐         ▲
#                                       └───────────── SOA, newer ─────────────▶ ADDITIONS ───────┘
#                                                                     the first SOA again: DONE
#
# Law: the result is the contents that the primary meant, or an exception; never something between.  A deletion of what
# we do not have or an addition of what we have is TransferInconsistent: the caller asks for AXFR.
# Everything after DONE is a fault.  Nothing here is believed: verify() comes afterwards.

import enum
import itertools
from dataclasses import dataclass

from rootsrv.wire import rdata as rdatas
from rootsrv.wire.edns import EXPIRE
from rootsrv.wire.message import CLASS_IN, IXFR, Message, MessageMalformed, TsigRecord, parse
from rootsrv.wire.record import Record, ZoneMalformed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.wire.tsig import Checker, Key, TsigRefused, error_text
from rootsrv.zone.builder import ContentsBuilder, covered_type
from rootsrv.zone.contents import Soa, ZoneContents

# RFC 8945 §5.3.1: a signed message at least every hundred.
MAX_UNSIGNED_MESSAGES = 99


class TransferFailed(Exception):
    """The transfer did not give a zone."""


class TransferRefused(TransferFailed):
    """The primary answers, but not with the zone."""

    def __init__(self, text: str, rcode: int = 0) -> None:
        super().__init__(text)
        self.rcode = rcode
        """Of its answer; 0 where that is not why."""


class TransferMalformed(TransferFailed):
    """What the primary sends is not a transfer of the zone."""


class TransferInconsistent(TransferFailed):
    """The differences do not fit the version that we have."""


class TransferTooLarge(TransferFailed):
    """The transfer exceeds a limit."""


class NotAuthenticated(TransferFailed):
    """A message that has to be signed with the primary's key is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundLimits:
    """What one transfer may bring.  A root zone is 1.3 MB on the wire, 25,000 records."""

    octets: int = 16_000_000
    """On the wire, and again uncompressed (against messages that are all compression pointers)."""

    records: int = 250_000


class TsigStream:
    """The TSIG of a response of one or many messages (RFC 8945 §5.3)."""

    def __init__(self, key: Key, request_mac: bytes) -> None:
        self._checker = Checker(key, request_mac)
        self._unsigned: int | None = None
        """Messages since the last signed one; None before the first."""

    def check(self, octets: bytes, tsig: TsigRecord | None, now: float) -> None:
        """The next message; NotAuthenticated if its signature (or its absence) is not right at *now* (seconds)."""
        if tsig is None:
            if self._unsigned is None:
                raise NotAuthenticated("not signed")
            self._unsigned += 1
            if self._unsigned > MAX_UNSIGNED_MESSAGES:
                raise NotAuthenticated(f"{self._unsigned} messages in a row are not signed")
            self._checker.unsigned(octets)
            return
        try:
            told = self._checker.signed(octets, tsig, now)
        except TsigRefused as error:
            if error.tsig is not None and error.tsig.error:
                raise NotAuthenticated(f"TSIG: the primary says {error_text(error.tsig.error)}") from error
            fault = f"{error_text(error.error)}: " if error.error else ""
            raise NotAuthenticated(f"TSIG: {fault}{error}") from error
        if told.error:
            raise NotAuthenticated(f"TSIG: the primary says {error_text(told.error)}")
        self._unsigned = 0

    def finish(self) -> None:
        """The transfer is complete: its last message must have been signed."""
        if self._unsigned != 0:
            raise NotAuthenticated("the last message is not signed")


class _State(enum.Enum):
    FIRST = enum.auto()
    SECOND = enum.auto()
    WHOLE = enum.auto()
    DELETIONS = enum.auto()
    ADDITIONS = enum.auto()
    UP_TO_DATE = enum.auto()
    DONE = enum.auto()


class Inbound:
    """One inbound transfer: feed it every message in order, then take `result`.

    It sends nothing; the caller owns the connection, the timeouts and the choice of primary.
    """

    def __init__(
        self,
        zone: bytes,
        qtype: int,
        message_id: int,
        *,
        base: ZoneContents | None = None,
        tsig: TsigStream | None = None,
        limits: InboundLimits = InboundLimits(),
    ) -> None:
        """*zone* in wire format; *qtype* AXFR or IXFR; *base* is the version that an IXFR starts from."""
        self.zone = zone
        self.qtype = qtype
        self.incremental = False
        self.octets = 0
        self.messages = 0
        self.records = 0
        self.serial: int | None = None
        """Of the version that is offered."""
        self.expire_seconds: int | None = None
        """The EXPIRE option (RFC 7314): the primary's own time left."""
        self._id = message_id
        self._base = base
        self._tsig = tsig
        self._limits = limits
        self._uncompressed = 0
        self._state = _State.FIRST
        self._first: Record | None = None
        self._builder = ContentsBuilder(zone)
        self._changed: dict[tuple[bytes, int], set[Record]] = {}
        """All records of the RRsets that a difference names, with their signatures, as they are by now."""
        self._at_serial = 0

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come."""
        return self._state in (_State.DONE, _State.UP_TO_DATE)

    def receive_message(self, octets: bytes, now: float) -> None:
        """The next message; *now* (seconds since 1970) judges TSIG times.  Raises TransferFailed of some kind."""
        if self.complete:
            raise TransferMalformed("a message after the end of the transfer")
        self.octets += len(octets)
        self.messages += 1
        if self.octets > self._limits.octets:
            raise TransferTooLarge(f"more than {self._limits.octets} octets")
        try:
            message = parse(octets)
        except MessageMalformed as error:
            raise TransferMalformed(str(error)) from error
        self._check(message, octets, now)
        if self.messages == 1 and len(expire := message.options.get(EXPIRE, b"")) == 4:
            self.expire_seconds = int.from_bytes(expire, "big")
        try:
            for owner, rtype, ttl, rdata in message.answers:
                self._uncompressed += len(owner) + len(rdata)
                if self._uncompressed > self._limits.octets:
                    raise TransferTooLarge(f"more than {self._limits.octets} octets when uncompressed")
                self._receive((owner.lower(), rtype, ttl, rdatas.canonical(rtype, rdata)))
        except ZoneMalformed as error:
            raise TransferMalformed(str(error)) from error
        if self.complete and self._tsig:
            self._tsig.finish()

    def receive_eof(self) -> None:
        """The stream ended; TransferMalformed if the zone is not complete."""
        if not self.complete:
            raise TransferMalformed(f"cut off after {self.records} records")

    def result(self) -> ZoneContents | None:
        """The zone, None if ours is up to date.  TransferMalformed when the records do not make a zone."""
        if self._state is _State.UP_TO_DATE:
            return None
        if self._state is not _State.DONE:
            raise TransferMalformed("not complete")
        try:
            if not self.incremental:
                return self._builder.contents()
            assert self._base is not None
            for record in itertools.chain.from_iterable(self._changed.values()):
                self._builder.add(*record)
            return self._builder.contents_over(self._base, self._changed.keys())
        except ZoneMalformed as error:
            raise (TransferInconsistent if self.incremental else TransferMalformed)(str(error)) from error

    def _check(self, message: Message, octets: bytes, now: float) -> None:
        if not message.is_response or message.opcode != 0:
            raise TransferMalformed("not a response to a query")
        if message.id != self._id:
            raise TransferMalformed(f"response has id {message.id}, expected {self._id}")
        if self._tsig:
            self._tsig.check(octets, message.tsig, now)
        if message.rcode:
            raise TransferRefused(f"rcode {message.rcode}", message.rcode)
        if message.truncated:
            raise TransferMalformed("a truncated message")
        if message.question is None:
            if self.messages == 1 and message.answers == ():
                raise TransferMalformed("an empty message")
        elif message.question != (message.question[0], self.qtype, CLASS_IN) or (
            message.question[0].lower() != self.zone
        ):
            raise TransferMalformed("the response is to another question")
        if not message.answers:
            raise TransferMalformed("a message without records")

    def _receive(self, record: Record) -> None:
        self.records += 1
        if self.records > self._limits.records:
            raise TransferTooLarge(f"more than {self._limits.records} records")
        if self._state in (_State.DONE, _State.UP_TO_DATE):
            raise TransferMalformed("records behind the last SOA")
        is_soa = record[1] == rdatas.SOA
        if is_soa and record[0] != self.zone:
            raise TransferMalformed("an SOA that is not at the apex")
        if self._state is _State.FIRST:
            self._receive_first(record, is_soa)
            return
        if self._state is _State.SECOND:
            self._receive_second(record, is_soa)
            return
        if self._state is _State.WHOLE:
            if not is_soa:
                self._builder.add(*record)
            elif record == self._first:
                self._state = _State.DONE
            else:
                raise TransferMalformed("the SOA changed during the transfer")
        elif is_soa:
            self._turn(record)
        elif self._state is _State.DELETIONS:
            present = self._present(record)
            if record not in present:
                raise TransferInconsistent("a record is to be deleted that we do not have")
            present.discard(record)
        else:
            present = self._present(record)
            if record in present:
                raise TransferInconsistent("a record is to be added that we have")
            present.add(record)

    def _receive_first(self, record: Record, is_soa: bool) -> None:
        if not is_soa:
            raise TransferMalformed("does not begin with an SOA")
        self._first = record
        self.serial = Soa.from_rdata(record[3]).serial
        if self.qtype == IXFR and self._base is not None and not serial_is_newer(self.serial, self._base.serial):
            self._state = _State.UP_TO_DATE
        else:
            self._state = _State.SECOND

    def _receive_second(self, record: Record, is_soa: bool) -> None:
        assert self._first is not None
        if is_soa and self.qtype == IXFR and self._base is not None:
            self.incremental = True
            self._at_serial = self._base.serial
            self._state = _State.ADDITIONS
            self._turn(record)
        elif is_soa:
            raise TransferMalformed("a zone of nothing but its SOA")
        else:
            self._state = _State.WHOLE
            self._builder.add(*self._first)
            self._builder.add(*record)

    def _turn(self, record: Record) -> None:
        """An SOA within differences: from additions to the next deletions (or the end), from deletions to additions."""
        serial = Soa.from_rdata(record[3]).serial
        if self._state is _State.DELETIONS:
            if not serial_is_newer(serial, self._at_serial):
                raise TransferInconsistent(f"a difference leads from {self._at_serial} back to {serial}")
            self._at_serial = serial
            present = self._present(record)
            if record in present:
                raise TransferInconsistent("a difference does not change the SOA")
            present.add(record)
            self._state = _State.ADDITIONS
        elif record == self._first and self._at_serial == self.serial:
            self._state = _State.DONE
        else:
            if serial != self._at_serial:
                raise TransferInconsistent(f"a difference starts from {serial}, we are at {self._at_serial}")
            present = self._present(record)
            if record not in present:
                raise TransferInconsistent("the SOA that a difference starts from is not ours")
            present.discard(record)
            self._state = _State.DELETIONS

    def _present(self, record: Record) -> set[Record]:
        """The records that we have by now of the RRset to which *record* belongs, or which it signs."""
        assert self._base is not None
        owner, rtype, _, rdata = record
        key = (owner, covered_type(rtype, rdata))
        present = self._changed.get(key)
        if present is None:
            rrset = self._base.rrsets.get(key)
            present = self._changed[key] = set(rrset.records()) if rrset else set()
        return present


def difference(older: ZoneContents, newer: ZoneContents) -> tuple[list[Record], list[Record]]:
    """The records that *newer* lacks and those that it has more; the SOA is first in each (RFC 1995 §4)."""
    before: set[Record] = set()
    after: set[Record] = set()
    # RRset by RRset: most are the same in both, and to compare two of them is less than to make their records.
    for key, rrset in newer.rrsets.items():
        if older.rrsets.get(key) != rrset:
            after.update(rrset.records())
    for key, rrset in older.rrsets.items():
        if newer.rrsets.get(key) != rrset:
            before.update(rrset.records())

    def soa_first(record: Record) -> tuple[bool, Record]:
        return (record[1] != rdatas.SOA, record)

    return sorted(before - after, key=soa_first), sorted(after - before, key=soa_first)
