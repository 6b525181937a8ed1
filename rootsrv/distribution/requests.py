"""What the administrative interface says: NOTIFY from primaries, SOA and transfers for peers, else REFUSED."""
# An address alone proves nothing (D21): NOTIFY needs the TSIG key of the primary it claims to be from, or, where the
# primary has no key but is asked over TLS, an address of that primary – such a NOTIFY only makes us ask that primary.
# A transfer needs the peer's key, or a client certificate in its name, and its address.

import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import dns.exception
import dns.name
import dns.rdata
import dns.tsig

from rootsrv.config.file import Config
from rootsrv.config.zones import PeerConfig, PrimaryConfig
from rootsrv.process.child import ChildFailed, in_child
from rootsrv.process.security import SecurityEvents
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.preparation import read_version
from rootsrv.store.store import Store, StoreFailed
from rootsrv.wire import name as names
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.message import AXFR, CLASS_IN, IXFR, Message, MessageMalformed, parse
from rootsrv.wire.record import ZoneMalformed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.wire.tsig import BADKEY, BADSIG, BADTIME, Signer, unsigned_error
from rootsrv.zone import transfer_out
from rootsrv.zone.contents import Soa, ZoneContents
from rootsrv.zone.transfer import NotAuthenticated, validate_tsig

NOERROR, FORMERR, SERVFAIL, NOTIMP, REFUSED, NOTAUTH = 0, 1, 2, 4, 5, 9
OPCODE_QUERY, OPCODE_NOTIFY = 0, 4
_RD_AND_OPCODE = 0x7900

MAX_CHAIN = 7
"""The longest chain of differences that an IXFR is answered with; beyond it AXFR is smaller anyway."""


@dataclass
class PeerRecord:
    """What is known of a peer."""

    config: PeerConfig
    last_transfer_at: float | None = None
    """Seconds since 1970."""

    last_transfer: str = ""
    notify: str = ""


@dataclass(frozen=True)
class Asker:
    """Where a request came from."""

    address: str
    over_tcp: bool
    tls_names: frozenset[str] = frozenset()
    """Names in the client certificate that was verified."""


@dataclass
class Requests:
    """Answers requests on the administrative interface."""

    keepers: dict[bytes, ZoneKeeper]
    """By apex."""

    store: Store
    security: SecurityEvents
    now: Callable[[], float]
    """The time that is trusted."""

    keys: dict[dns.name.Name, dns.tsig.Key] = field(default_factory=dict)
    primaries: tuple[PrimaryConfig, ...] = ()
    peers: dict[str, PeerRecord] = field(default_factory=dict)
    lease_left: Callable[[ZoneKeeper], float] = lambda _: 0.0

    def configure(self, config: Config) -> None:
        """Take keys, primaries and peers from *config*."""
        keys = [each.tsig_key() for each in config.key]
        self.keys = {key.name: key for key in keys}
        self.primaries = config.primary
        known = self.peers
        self.peers = {each.name: PeerRecord(each) for each in config.peer}
        for name, record in self.peers.items():
            if name in known:
                record.last_transfer_at = known[name].last_transfer_at
                record.last_transfer = known[name].last_transfer

    async def answer(self, octets: bytes, asker: Asker) -> AsyncIterator[bytes]:
        """All messages of the response to *octets*; none if it deserves none."""
        try:
            message = parse(octets)
        except MessageMalformed:
            if len(octets) >= 12 and not octets[2] & 0x80:
                yield octets[:2] + bytes((octets[2] & 0x79 | 0x80, FORMERR)) + bytes(8)
            return
        if message.is_response:
            return
        flags = transfer_out.QR | message.flags & _RD_AND_OPCODE
        question = b""
        if message.question is not None:
            question = message.question[0] + struct.pack("!HH", *message.question[1:])

        def plain(rcode: int) -> bytes:
            return transfer_out.respond(message.id, question, rcode=rcode, flags=flags)

        if message.question is None or message.question[2] != CLASS_IN:
            yield plain(FORMERR if message.question is None else REFUSED)
            return
        signer: Signer | None = None
        key_name = ""
        if message.tsig is not None:
            owner = dns.name.from_wire(message.tsig.owner, 0)[0]
            key = self.keys.get(owner.canonicalize()) or self.keys.get(owner)
            failure = self._check_tsig(octets, message, key)
            if failure:
                self.security.note("tsig_failed", asker.address, f"key {owner}: error {failure}")
                yield self._tsig_error(plain(NOTAUTH), message, owner, failure)
                return
            assert key is not None
            rdata = dns.rdata.from_wire("ANY", "TSIG", message.tsig.rdata, 0, len(message.tsig.rdata))
            signer = Signer(key, rdata.mac, stream=message.question[1] in {AXFR, IXFR})  # type: ignore[attr-defined]
            key_name = owner.to_text().lower()

        def signed(unsigned: bytes) -> bytes:
            return signer.sign(unsigned, time.time()) if signer else unsigned

        keeper = self.keepers.get(message.question[0].lower())
        if message.opcode == OPCODE_NOTIFY:
            yield signed(plain(self._notify(message, keeper, asker, key_name)))
            return
        if message.opcode != OPCODE_QUERY:
            yield signed(plain(NOTIMP))
            return
        peer = self._peer(asker, key_name, keeper)
        if keeper is None or peer is None:
            what = "transfer_refused" if message.question[1] in {AXFR, IXFR} else "request_refused"
            name, kind = names.to_text(message.question[0]), rdatas.type_text(message.question[1])
            self.security.note(what, asker.address, f"{name} {kind} key={key_name or 'none'}")
            yield signed(plain(REFUSED))
            return
        async for response in self._serve(message, question, keeper, peer, asker):
            yield signed(response)

    # Who is it.

    def _check_tsig(self, octets: bytes, message: Message, key: dns.tsig.Key | None) -> int:
        """The TSIG error, 0 if the signature is good."""
        if key is None:
            return BADKEY
        assert message.tsig is not None
        try:
            validate_tsig(octets, message.tsig, key, time.time(), multi=False)
        except NotAuthenticated as error:
            cause = type(error.__cause__)
            return BADTIME if cause is dns.tsig.BadTime else BADKEY if cause is dns.tsig.BadKey else BADSIG
        return 0

    def _tsig_error(self, response: bytes, message: Message, owner: dns.name.Name, error: int) -> bytes:
        assert message.tsig is not None
        try:
            rdata = dns.rdata.from_wire("ANY", "TSIG", message.tsig.rdata, 0, len(message.tsig.rdata))
        except dns.exception.DNSException:
            return response
        algorithm: dns.name.Name = rdata.algorithm  # type: ignore[attr-defined]
        return unsigned_error(response, owner, algorithm, error, time.time())

    def _peer(self, asker: Asker, key_name: str, keeper: ZoneKeeper | None) -> PeerRecord | None:
        for record in self.peers.values():
            config = record.config
            if config.address != asker.address or keeper is None or keeper.name not in config.zones:
                continue
            if config.key and dns.name.from_text(config.key).canonicalize().to_text() == key_name:
                return record
            if config.tls_name and config.tls_name in asker.tls_names:
                return record
        return None

    # NOTIFY in (RFC 1996).

    def _notify(self, message: Message, keeper: ZoneKeeper | None, asker: Asker, key_name: str) -> int:
        """The rcode; wakes the keeper if the NOTIFY is from one of its primaries."""
        if keeper is None or message.question is None or message.question[1] != rdatas.SOA:
            self.security.note("notify_spoofed", asker.address, "of a zone that is not ours")
            return NOTAUTH if keeper is None else FORMERR
        for primary in self.primaries:
            if keeper.name not in primary.zones or primary.name not in keeper.sources:
                continue
            if primary.key:
                known = dns.name.from_text(primary.key).canonicalize().to_text() == key_name
            else:
                known = not key_name and asker.address in {primary.address, *primary.notify_from}
            if known:
                keeper.notified(primary.name, _serial_in(message, keeper.policy.apex))
                return NOERROR
        self.security.note("notify_spoofed", asker.address, f"zone {keeper.name} key={key_name or 'none'}")
        return REFUSED

    # Transfers out.

    async def _serve(
        self, message: Message, question: bytes, keeper: ZoneKeeper, peer: PeerRecord, asker: Asker
    ) -> AsyncIterator[bytes]:
        assert message.question is not None
        qtype = message.question[1]
        flags = transfer_out.QR | transfer_out.AA
        left = self.lease_left(keeper)
        if keeper.serving is None or left <= 0:
            yield transfer_out.respond(message.id, question, rcode=SERVFAIL)  # expired: RFC 1034 §4.3.5
            return
        contents = keeper.serving.contents
        soa = transfer_out.wire(transfer_out.soa_record(contents))
        theirs = _serial_in_authority(message, keeper.policy.apex) if qtype == IXFR else None
        current = theirs is not None and not serial_is_newer(contents.serial, theirs)
        if qtype == rdatas.SOA or current or (qtype == IXFR and not asker.over_tcp):
            yield transfer_out.respond(
                message.id, question, flags=flags, answers=[soa], expire_seconds=int(left), edns=message.has_opt
            )
            return
        if qtype not in {AXFR, IXFR} or not asker.over_tcp:
            yield transfer_out.respond(message.id, question, rcode=REFUSED)
            return
        apex, store, policy = keeper.policy.apex, self.store, keeper.policy

        def build() -> tuple[bool, list[bytes]]:
            chain = None if theirs is None else _chain(keeper, store, theirs, contents)
            records = transfer_out.transfer_records(contents, chain)
            return chain is not None, list(transfer_out.messages(message.id, policy.apex, qtype, records))

        try:
            incremental, ready = await in_child(build, store)
        except (ChildFailed, TimeoutError):
            yield transfer_out.respond(message.id, question, rcode=SERVFAIL)
            return
        for each in ready:
            yield each
        kind = "ixfr" if incremental else "axfr"
        peer.last_transfer_at = self.now()
        octets = sum(map(len, ready))
        peer.last_transfer = f"{names.to_text(apex)} {contents.serial} {kind} {octets} octets"


def _chain(keeper: ZoneKeeper, store: Store, theirs: int, contents: ZoneContents) -> list[ZoneContents] | None:
    """The kept versions from *theirs* up to the one before *contents*, oldest first; None if that cannot be had."""
    kept = [each.serial for each in store.versions(keeper.policy.apex)]
    between = [s for s in kept if s == theirs or (serial_is_newer(s, theirs) and serial_is_newer(contents.serial, s))]
    if theirs not in between:
        return None
    between.sort(key=lambda serial: (serial - theirs) % 2**32)
    # A version that was only held never was in service, but its difference leads on all the same.
    try:
        chain = [read_version(store, keeper.policy, serial)[1] for serial in between[-MAX_CHAIN:]]
    except StoreFailed:
        return None
    return chain if chain[0].serial == theirs else None


def _serial_in(message: Message, zone: bytes) -> int | None:
    for owner, rtype, _, rdata in message.answers:
        if owner.lower() == zone and rtype == rdatas.SOA:
            try:
                return Soa.from_rdata(rdata).serial
            except ZoneMalformed:
                return None
    return None


def _serial_in_authority(message: Message, zone: bytes) -> int | None:
    for owner, rtype, _, rdata in message.authorities:
        if owner.lower() == zone and rtype == rdatas.SOA:
            try:
                return Soa.from_rdata(rdata).serial
            except ZoneMalformed:
                return None
    return None
