"""What is asked of whoever gives zones out: SOA and transfers for those who may have them, NOTIFY, else REFUSED."""
# An address alone proves nothing (D21): a transfer needs the peer's key, or a client certificate in its name, and its
# address.  Who that is, an `AccessList` knows: the configuration of an instance, or the accounts of a LocalRoot
# service.  Whose NOTIFY it is, `primaries.py` knows.
#
# OPT is in every response to a query that has one, errors too (RFC 6891 §6.1.1), and EXPIRE in every one that gives a
# zone (RFC 7314): without it leases grow along a chain of secondaries.

import asyncio
import itertools
import struct
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rootsrv.config.checks import plain_address
from rootsrv.config.zones import PeerConfig
from rootsrv.distribution.limits import OverLimit, TransferCounts, TransferLimits
from rootsrv.distribution.offered import OfferedZone, ReadyTransfer
from rootsrv.process.security import SecurityEvents
from rootsrv.wire import name as names
from rootsrv.wire import rdata as rdatas
from rootsrv.wire import tsig
from rootsrv.wire.codes import BADVERS, FORMERR, NOTAUTH, NOTIMP, REFUSED, SERVFAIL
from rootsrv.wire.message import AXFR, CLASS_IN, IXFR, Message, MessageMalformed, parse
from rootsrv.wire.record import Record, ZoneMalformed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.wire.tsig import Checker, Key, Signer, TsigRefused
from rootsrv.zone import transfer_out
from rootsrv.zone.contents import Soa
from rootsrv.zone.transfer_out import ResponseOpt

OPCODE_QUERY, OPCODE_NOTIFY = 0, 4
_RD_AND_OPCODE, _TC = 0x7900, 0x0200
_TRANSFERS = (AXFR, IXFR)

Parts = tuple[bytes, ...]
"""One message, in parts that nobody has to join."""

Batch = Sequence[Parts]
"""Messages that are sent at once."""

BATCH_MESSAGES = 8
"""Of a transfer that are signed and sent in one turn of the event loop: half a megabyte, some 0.6 ms.

Message by message, each step would find its code gone from the processor's caches: 60 KB were hashed in between.
"""


@dataclass(frozen=True)
class Asker:
    """Where a request came from."""

    address: str
    """In the form of `plain_address`."""

    over_tcp: bool
    tls_names: frozenset[str] = frozenset()
    """Names in the client certificate that was verified."""

    alpn_missing: bool = False
    """Over TLS without "dot" (RFC 9103 §7.1)."""

    over_tls: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """A transfer that was sent."""

    zone: str
    serial: int
    how: str
    """axfr or ixfr."""

    octets: int

    def __str__(self) -> str:
        return f"{self.zone} {self.serial} {self.how} {self.octets} octets"


class Recipient(Protocol):
    """Somebody who may have a zone."""

    @property
    def name(self) -> str:
        """By which its transfers are counted."""
        ...

    @property
    def proved(self) -> bool:
        """Whether key or certificate say who it is; else it is known by where it comes from only."""
        ...

    @property
    def over_tcp_only(self) -> bool:
        """Whether it is told to come over TCP (TC), which proves that it is where it seems to come from."""
        ...

    def given(self, what: Given) -> None:
        """All of a transfer was handed to the transport."""
        ...

    def told(self, zone: str, serial: int) -> None:
        """It asked and knows now that *serial* is the newest, or has it."""
        ...


class KeyGone(ConnectionAbortedError):
    """The key that a transfer is signed with was deleted while it ran: the connection ends."""


class AccessList(Protocol):
    """Who may have what."""

    def key(self, name: bytes) -> Key | None:
        """The key of that name (wire format, lower-cased)."""
        ...

    def recipient(self, asker: Asker, key: Key | None, apex: bytes) -> Recipient | None:
        """Who asks for the zone, if he may have it; *key* is the one that the request was signed with, rightly."""
        ...

    def tsig_failed(self, asker: Asker, owner: bytes, refused: TsigRefused) -> None:
        """A request named the key *owner* (lower-cased) and was *refused*."""
        ...


NotifySink = Callable[[bytes, Asker, Key | None, int | None], int]
"""Apex, who sent it, the key it was signed with, the serial it names → the rcode to answer."""


@dataclass
class Requests:
    """Answers requests about zones that are given out."""

    zone: Callable[[bytes], OfferedZone | None]
    """By apex (lower-cased)."""

    directory: AccessList
    security: SecurityEvents
    notified: NotifySink | None = None
    """None: nobody here wants to be notified."""

    limits: TransferLimits = field(default_factory=TransferLimits)
    counts: TransferCounts = field(init=False)

    def __post_init__(self) -> None:
        self.counts = TransferCounts(self.limits)
        self._turn = asyncio.Lock()

    def set_limits(self, limits: TransferLimits) -> None:
        """From now on these; what runs goes on."""
        self.limits = self.counts.limits = limits

    async def answer(self, octets: bytes, asker: Asker) -> AsyncGenerator[Batch, None]:
        """All messages of the response to *octets*; none if it deserves none."""
        try:
            message = parse(octets)
        except MessageMalformed:
            if len(octets) >= 12 and not octets[2] & 0x80:
                yield [(octets[:2] + bytes((octets[2] & 0x79 | 0x80, FORMERR)) + bytes(8),)]
            return
        if message.is_response:
            return
        flags = transfer_out.QR | message.flags & _RD_AND_OPCODE
        question = b""
        if message.question is not None:
            question = message.question[0] + struct.pack("!HH", *message.question[1:])
        edns = ResponseOpt() if message.has_opt else None

        def plain(rcode: int) -> bytes:
            return transfer_out.respond(message.id, question, rcode=rcode, flags=flags, edns=edns)

        signer: Signer | None = None
        key: Key | None = None
        if message.tsig is not None:
            key = self.directory.key(message.tsig.owner.lower())
            try:
                told = Checker(key).signed(octets, message.tsig, time.time())
                assert key is not None
                signer = Signer(key, told.mac)
            except TsigRefused as refused:
                owner = message.tsig.owner
                self.security.note("tsig_failed", asker.address, f"key {names.to_text(owner)}: {refused}")
                self.directory.tsig_failed(asker, owner.lower(), refused)
                yield [(tsig.refusal(plain(refused.rcode), owner, refused, key, time.time()),)]
                return

        def signed(unsigned: bytes) -> Batch:
            octets = signer.sign(unsigned, time.time()) if signer else unsigned
            return [(octets,)] if asker.over_tcp or len(octets) <= message.max_udp_octets else truncated()

        def truncated() -> Batch:
            short = transfer_out.respond(message.id, question, flags=flags | _TC, edns=edns)
            octets = signer.sign(short, time.time()) if signer else short
            # RFC 8945 §5.3: question, TSIG and TC; where names are so long that even that is too much, without TSIG.
            return [(octets if len(octets) <= message.max_udp_octets else short,)]

        if message.has_opt and message.edns_version:
            yield signed(plain(BADVERS))
            return
        if message.question is None or message.question[2] != CLASS_IN:
            yield signed(plain(FORMERR if message.question is None else REFUSED))
            return
        qname, qtype, _ = message.question
        zone = self.zone(qname.lower())
        if message.opcode == OPCODE_NOTIFY:
            yield signed(plain(self._notify(message, zone, asker, key)))
            return
        if message.opcode != OPCODE_QUERY:
            yield signed(plain(NOTIMP))
            return
        recipient = None if zone is None else self.directory.recipient(asker, key, zone.apex)
        if zone is None or recipient is None:
            what = "transfer_refused" if qtype in _TRANSFERS else "request_refused"
            used = names.to_text(key.name) if key else "none"
            self.security.note(what, asker.address, f"{names.to_text(qname)} {rdatas.type_text(qtype)} key={used}")
            yield signed(plain(REFUSED))
            return
        offer = zone.offer
        if offer is None:
            yield signed(plain(SERVFAIL))  # expired: RFC 1034 §4.3.5
            return
        if not asker.over_tcp and recipient.over_tcp_only:
            yield truncated()
            return
        theirs = _serial(message.authorities, zone.apex) if qtype == IXFR else None
        current = theirs is not None and not serial_is_newer(offer.serial, theirs)
        if qtype == rdatas.SOA or current or (qtype == IXFR and not asker.over_tcp):
            about = ResponseOpt(zone.expire_seconds) if message.has_opt else None
            flags |= transfer_out.AA
            soa = transfer_out.respond(message.id, question, flags=flags, answers=[zone.soa], edns=about)
            recipient.told(zone.name, offer.serial)
            yield signed(soa)
            return
        if qtype not in _TRANSFERS or not asker.over_tcp:
            yield signed(plain(REFUSED))
            return
        try:
            with self.counts.one(recipient.name, asker.address, proved=recipient.proved):
                ready = await (zone.whole() if theirs is None else zone.since(theirs))
                if ready.base is None:
                    self.counts.whole(recipient.name, zone.apex, ready.serial, proved=recipient.proved)
                edns = ResponseOpt(zone.expire_seconds) if message.has_opt else None
                messages = transfer(ready, message.id, question, edns, signer)
                for _ in range(0, len(ready.messages), BATCH_MESSAGES):
                    await self._in_turn()
                    if key is not None and self.directory.key(key.name) != key:
                        raise KeyGone(f"key {names.to_text(key.name)}")
                    yield list(itertools.islice(messages, BATCH_MESSAGES))
        except KeyGone as gone:
            self.security.note("transfer_refused", asker.address, f"{zone.name} {recipient.name}: {gone}: deleted")
            raise
        except OverLimit as limit:
            self.security.note("transfer_refused", asker.address, f"{zone.name} {recipient.name}: {limit}")
            yield signed(plain(SERVFAIL if limit.passes else REFUSED))
            return
        how = "axfr" if ready.base is None else "ixfr"
        recipient.given(Given(zone.name, ready.serial, how, ready.octets))

    async def _in_turn(self) -> None:
        """Wait for this transfer's turn: in each of the event loop one of them goes on.

        A hundred who take a whole zone at once must not keep an SOA query waiting for all of theirs.
        """
        async with self._turn:
            await asyncio.sleep(0)

    # NOTIFY in (RFC 1996).

    def _notify(self, message: Message, zone: OfferedZone | None, asker: Asker, key: Key | None) -> int:
        """The rcode."""
        assert message.question is not None
        if zone is None or message.question[1] != rdatas.SOA:
            self.security.note("notify_spoofed", asker.address, "of a zone that is not ours")
            return NOTAUTH if zone is None else FORMERR
        if self.notified is None:
            return REFUSED
        return self.notified(zone.apex, asker, key, _serial(message.answers, zone.apex))


def transfer(
    ready: ReadyTransfer, message_id: int, question: bytes, edns: ResponseOpt | None, signer: Signer | None
) -> Iterator[Parts]:
    """The messages of *ready* for one who asks: his id and question, OPT in the first (RFC 5936 §2.2.5), his TSIG."""
    flags = transfer_out.QR | transfer_out.AA
    option = edns.record() if edns else b""
    for answers, octets in ready.messages:
        additional = 1 if option else 0
        header = struct.pack("!HHHHHH", message_id, flags, 1 if question else 0, answers, 0, additional) + question
        parts = (header, octets, option) if option else (header, octets)
        if signer is None:
            yield parts
        else:
            # bench/transfers.py guards this.
            record = signer.record(parts, message_id, time.time())
            header = header[:10] + (additional + 1).to_bytes(2, "big") + question
            yield header, octets, option + record
        question = option = b""


class PeerRecord:
    """What is known of a peer."""

    def __init__(self, config: PeerConfig, now: Callable[[], float]) -> None:
        """*now*: the time that is trusted."""
        self.config = config
        self.name = config.name
        self.address = plain_address(config.address)
        self.apexes = frozenset(map(names.from_text, config.zones))
        self.key_name = names.from_text(config.key) if config.key else b""
        self.last_transfer_at: float | None = None
        """Seconds since 1970."""
        self.last_transfer = ""
        self.notify = ""
        self._now = now

    proved = True
    over_tcp_only = False

    def told(self, zone: str, serial: int) -> None:
        """See Recipient; its status tells of transfers."""

    def given(self, what: Given) -> None:
        """See Recipient."""
        self.last_transfer_at = self._now()
        self.last_transfer = str(what)


class ConfiguredPeers:
    """The AccessList of an instance: `[[key]]` and `[[peer]]`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.keys: dict[bytes, Key] = {}
        self.records: dict[str, PeerRecord] = {}
        """By name."""
        self._now = now

    def configure(self, keys: dict[bytes, Key], peers: Collection[PeerConfig]) -> None:
        """From now on these; what is known of a peer that stays is kept."""
        known = self.records
        self.keys = keys
        self.records = {each.name: PeerRecord(each, self._now) for each in peers}
        for name, record in self.records.items():
            if name in known:
                record.last_transfer_at = known[name].last_transfer_at
                record.last_transfer = known[name].last_transfer

    def key(self, name: bytes) -> Key | None:
        """See AccessList."""
        return self.keys.get(name)

    def recipient(self, asker: Asker, key: Key | None, apex: bytes) -> PeerRecord | None:
        """See AccessList."""
        for record in self.records.values():
            if record.address != asker.address or apex not in record.apexes:
                continue
            if asker.alpn_missing and record.config.alpn == "required":
                continue
            if record.key_name and key is not None and record.key_name == key.name:
                return record
            if record.config.tls_name and record.config.tls_name in asker.tls_names:
                return record
        return None

    def tsig_failed(self, asker: Asker, owner: bytes, refused: TsigRefused) -> None:
        """See AccessList; the security event says it all."""


def _serial(records: tuple[Record, ...], zone: bytes) -> int | None:
    for owner, rtype, _, rdata in records:
        if owner.lower() == zone and rtype == rdatas.SOA:
            try:
                return Soa.from_rdata(rdata).serial
            except ZoneMalformed:
                return None
    return None
