"""NOTIFY to peers when a zone is in service (RFC 1996), signed, tried again until they confirm it."""

import asyncio
import os
import struct
import time

import dns.tsig

from rootsrv.distribution.requests import PeerRecord
from rootsrv.process import log
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.message import CLASS_IN, MessageMalformed, parse
from rootsrv.wire.tsig import Signer
from rootsrv.zone import transfer_out
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import NotAuthenticated, TsigStream

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)  # RFC 1996 §3.6: retransmit, and give up some time

_NOTIFY_FLAGS = 4 << 11 | 0x0400  # opcode NOTIFY, AA


class _Reply(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue(maxsize=16)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.received.full():
            self.received.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        """A port that is closed is a peer that does not answer: the next try comes."""


async def notify(peer: PeerRecord, contents: ZoneContents, key: dns.tsig.Key | None, local_address: str | None) -> None:
    """Tell *peer* of *contents*, up to five times; what became of it is in its record."""
    loop = asyncio.get_running_loop()
    serial = contents.serial
    peer.notify = f"{serial}: sent"
    try:
        transport, reply = await loop.create_datagram_endpoint(
            _Reply,
            remote_addr=(peer.config.address, peer.config.port),
            local_addr=(local_address, 0) if local_address else None,
        )
    except OSError as error:
        peer.notify = f"{serial}: {error.strerror or error}"
        return
    try:
        for wait in RETRY_SECONDS:
            message_id = int.from_bytes(os.urandom(2), "big")
            question = contents.apex + struct.pack("!HH", rdatas.SOA, CLASS_IN)
            soa = transfer_out.wire(transfer_out.soa_record(contents))
            request = transfer_out.respond(message_id, question, flags=_NOTIFY_FLAGS, answers=[soa])
            signer = Signer(key) if key else None
            transport.sendto(signer.sign(request, time.time()) if signer else request)
            try:
                async with asyncio.timeout(wait):
                    while not _confirms(await reply.received.get(), message_id, key, signer):
                        pass
            except TimeoutError:
                continue
            peer.notify = f"{serial}: confirmed"
            return
        peer.notify = f"{serial}: not confirmed"
        log.alarm("notify not confirmed", peer=peer.config.name, serial=serial)
    finally:
        transport.close()


def _confirms(octets: bytes, message_id: int, key: dns.tsig.Key | None, signer: Signer | None) -> bool:
    try:
        message = parse(octets)
        if key and signer:
            tsig = TsigStream(key, signer.mac)
            tsig.check(octets, message.tsig, time.time())
    except (MessageMalformed, NotAuthenticated):
        return False
    return message.id == message_id and message.is_response and message.opcode == 4 and message.rcode == 0
