"""One conversation with one primary: what is your serial, give me the zone (RFC 1995, RFC 5936, RFC 9103)."""
# Every conversation has a connection of its own, over TCP or TLS, also for the SOA: a primary without TSIG is then at
# least not spoofed by whoever can guess a UDP port.  Nothing is kept between conversations, so a primary that hangs or
# lies harms no other one and not its own next turn.

import asyncio
import contextlib
import hashlib
import ipaddress
import os
import ssl
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from rootsrv.config.checks import plain_address
from rootsrv.config.file import Config
from rootsrv.config.zones import PrimaryConfig, RefreshConfig
from rootsrv.distribution.tls import DOT, alpn_of, client_context, show_certificate
from rootsrv.process.aside import aside
from rootsrv.wire import name as names
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.codes import FORMERR, NOTIMP
from rootsrv.wire.edns import EXPIRE, opt_record, option
from rootsrv.wire.message import AXFR, CLASS_IN, IXFR, MessageMalformed, parse
from rootsrv.wire.record import ZoneMalformed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.wire.tsig import Key, Signer
from rootsrv.zone.contents import Soa, ZoneContents
from rootsrv.zone.transfer import (
    Inbound,
    InboundLimits,
    TransferFailed,
    TransferInconsistent,
    TransferMalformed,
    TransferRefused,
    TsigStream,
)

_NO_EDNS = {FORMERR, NOTIMP}
"""What those say to OPT who do not know it (RFC 6891 §7)."""

_MUCH_OCTETS = 4096
"""What is less is taken in within a millisecond or two."""


class Unreachable(TransferFailed):
    """The primary cannot be reached, or does not answer in time."""


class CannotConnect(Unreachable):
    """There is no connection on which to ask anything else."""


@dataclass(frozen=True, slots=True)
class Source:
    """A primary that is asked over DNS, with everything that a conversation needs."""

    name: str
    address: str
    port: int
    key: Key | None
    tls: ssl.SSLContext | None
    tls_hostname: str
    tls_pin: str
    alpn_optional: bool
    local_address: str | None
    authenticated: bool
    limits: RefreshConfig

    @classmethod
    def from_config(cls, primary: PrimaryConfig, config: Config) -> "Source":
        """ConfigError names the key when certificates or secrets cannot be read."""
        key = next((each.tsig_key() for each in config.key if each.name == primary.key), None)
        address = plain_address(primary.address)
        local = next((e for e in map(plain_address, config.admin.addresses) if (":" in e) == (":" in address)), None)
        if local is not None and _is_loopback(local) and not _is_loopback(address):
            local = None  # nothing leaves this host from there
        return cls(
            primary.name,
            address,
            primary.port or (53 if primary.tls == "no" else 853),
            key,
            None if primary.tls == "no" else _tls_context(primary, config),
            primary.tls_hostname,
            primary.tls_pin.lower(),
            primary.alpn == "optional",
            local,
            primary.authenticated,
            config.refresh,
        )


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _tls_context(primary: PrimaryConfig, config: Config) -> ssl.SSLContext:
    key = f"primary.{primary.name}.tls_ca"
    context = client_context(key, ca=primary.tls_ca, pinned=primary.tls == "pinned", dot=True)
    if config.admin.tls_certificate:
        show_certificate(context, "admin.tls_certificate", config.admin.tls_certificate, config.admin.tls_key)
    return context


@dataclass(frozen=True, slots=True)
class SerialAnswer:
    """What a primary says of its zone."""

    serial: int
    expire_seconds: int | None
    """The EXPIRE option (RFC 7314), if it sent one."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """A complete transfer; nothing of it has been verified."""

    contents: ZoneContents | None
    """None: what we have is up to date."""

    how: str
    serial: int
    octets: int
    messages: int
    seconds: float
    expire_seconds: int | None


async def ask_serial(source: Source, zone: bytes) -> SerialAnswer:
    """The serial that *source* has of *zone*.  Raises TransferFailed of some kind."""
    try:
        return await _ask_serial(source, zone, edns=True)
    except TransferRefused as refused:
        if refused.rcode not in _NO_EDNS:
            raise
    return await _ask_serial(source, zone, edns=False)  # RFC 6891 §7


async def _ask_serial(source: Source, zone: bytes, *, edns: bool) -> SerialAnswer:
    async with _limited(source, source.limits.query_timeout_seconds), _connection(source) as (reader, writer):
        return await _converse_about_soa(source, zone, reader, writer, edns=edns)


async def _converse_about_soa(
    source: Source, zone: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, edns: bool
) -> SerialAnswer:
    message_id, request, signer = _request(source, zone, rdatas.SOA, edns=edns)
    await _send(writer, request)
    octets = await _receive(reader)
    try:
        message = parse(octets)
    except MessageMalformed as error:
        raise TransferMalformed(str(error)) from error
    if message.id != message_id or not message.is_response:
        raise TransferMalformed("not the response to our query")
    if source.key and signer:
        tsig = TsigStream(source.key, signer.mac)
        tsig.check(octets, message.tsig, time.time())
        tsig.finish()
    if message.rcode:
        raise TransferRefused(f"SOA query: rcode {message.rcode}", message.rcode)
    found = [each for each in message.answers if each[0].lower() == zone and each[1] == rdatas.SOA]
    if len(found) != 1:
        raise TransferMalformed(f"SOA query: {len(found)} SOA records in the answer")
    if not message.flags & 0x0400:
        raise TransferRefused("SOA query: not authoritative for the zone (no AA)")
    try:
        serial = Soa.from_rdata(rdatas.canonical(rdatas.SOA, found[0][3])).serial
    except ZoneMalformed as error:
        raise TransferMalformed(str(error)) from error
    expire = message.options.get(EXPIRE, b"")
    return SerialAnswer(serial, int.from_bytes(expire, "big") if len(expire) == 4 else None)


async def transfer(source: Source, zone: bytes, base: ZoneContents | None, wanted: int | None = None) -> Transferred:
    """*zone* from *source*: IXFR from *base* if there is one, else, or when that does not work, AXFR.

    *wanted* is the serial that it named: what is older, or no zone at all ("up to date"), is no answer to that.
    """
    if base is not None:
        try:
            return _at_least(wanted, await _transfer(source, zone, IXFR, base, edns=True))
        except CannotConnect:
            raise
        except TransferFailed:
            # RFC 1995 §4: full transfer instead, at once – however the difference failed.  A primary that stalls on
            # each difference, or resets, may well send the zone.
            pass
    try:
        return _at_least(wanted, await _transfer(source, zone, AXFR, None, edns=True))
    except TransferRefused as refused:
        if refused.rcode not in _NO_EDNS:
            raise
    return _at_least(wanted, await _transfer(source, zone, AXFR, None, edns=False))  # RFC 6891 §7


def _at_least(wanted: int | None, transferred: Transferred) -> Transferred:
    if wanted is not None and serial_is_newer(wanted, transferred.serial):
        raise TransferInconsistent(f"its SOA named {wanted}, its transfer {transferred.serial}")
    return transferred


async def _transfer(source: Source, zone: bytes, qtype: int, base: ZoneContents | None, *, edns: bool) -> Transferred:
    began = time.monotonic()
    limits = InboundLimits(octets=source.limits.max_octets, records=source.limits.max_records)
    async with _limited(source, source.limits.transfer_seconds), _connection(source) as (reader, writer):
        message_id, request, signer = _request(source, zone, qtype, base, edns=edns)
        tsig = TsigStream(source.key, signer.mac) if source.key and signer else None
        inbound = Inbound(zone, qtype, message_id, base=base, tsig=tsig, limits=limits)
        await _send(writer, request)
        while not inbound.complete:
            try:
                async with asyncio.timeout(source.limits.stall_seconds):
                    octets = await _receive(reader)
            except TimeoutError:
                raise Unreachable(
                    f"stalled for {source.limits.stall_seconds:g} s after {inbound.records} records"
                ) from None
            except asyncio.IncompleteReadError:
                inbound.receive_eof()
                raise
            await _taken(inbound, octets)
        contents = await aside(inbound.result)  # of a whole zone 100 ms
    how = "ixfr" if inbound.incremental or contents is None else "axfr"
    assert inbound.serial is not None
    seconds = time.monotonic() - began
    return Transferred(contents, how, inbound.serial, inbound.octets, inbound.messages, seconds, inbound.expire_seconds)


async def _taken(inbound: Inbound, octets: bytes) -> None:
    """The next message; one that is large holds the processor for 20 ms, and the next ones are there already."""
    if len(octets) < _MUCH_OCTETS:
        inbound.receive_message(octets, time.time())
    else:
        await aside(lambda: inbound.receive_message(octets, time.time()))


@contextlib.asynccontextmanager
async def _limited(source: Source, seconds: float) -> AsyncIterator[None]:
    """Everything that can go wrong with a connection, as TransferFailed."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unreachable(f"no answer within {seconds:g} s") from None
    except asyncio.IncompleteReadError as error:
        raise Unreachable("closed the connection") from error
    except ssl.SSLError as error:
        raise Unreachable(f"TLS: {error.reason or error}") from error
    except OSError as error:
        raise Unreachable(error.strerror or str(error)) from error


@contextlib.asynccontextmanager
async def _connection(source: Source) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    seconds = source.limits.query_timeout_seconds
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(
                source.address,
                source.port,
                ssl=source.tls,
                server_hostname=(source.tls_hostname or source.address) if source.tls else None,
                local_addr=(source.local_address, 0) if source.local_address else None,
            )
    except TimeoutError:
        raise CannotConnect(f"no connection within {seconds:g} s") from None
    except ssl.SSLError as error:
        raise CannotConnect(f"TLS: {error.reason or error}") from error
    except OSError as error:
        raise CannotConnect(error.strerror or str(error)) from error
    try:
        tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        if tls is not None and (alpn := alpn_of(tls)) != DOT and (alpn or not source.alpn_optional):
            raise CannotConnect(f"TLS: it selected {alpn or 'no protocol'}, not {DOT!r} (ALPN, RFC 9103 §7.1)")
        if source.tls_pin:
            assert tls is not None
            digest = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
            if digest != source.tls_pin:
                raise CannotConnect(f"TLS: its certificate is {digest}, not the pinned one")
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def _request(
    source: Source, zone: bytes, qtype: int, base: ZoneContents | None = None, *, edns: bool = True
) -> tuple[int, bytes, Signer | None]:
    """(id, octets, signer) of a query; an IXFR carries the SOA of *base* (RFC 1995 §3)."""
    message_id = int.from_bytes(os.urandom(2), "big")
    octets = struct.pack("!HHHHHH", message_id, 0, 1, 0, 1 if base else 0, 1 if edns else 0)
    octets += zone + struct.pack("!HH", qtype, CLASS_IN)
    if base:
        soa = base.rrsets[base.apex, rdatas.SOA]
        rdata = soa.rdatas[0]
        octets += zone + struct.pack("!HHIH", rdatas.SOA, CLASS_IN, soa.ttl, len(rdata)) + rdata
    if edns:
        octets += opt_record(65535, option(EXPIRE, b""))
    if source.key is None:
        return message_id, octets, None
    signer = Signer(source.key)
    return message_id, signer.sign(octets, time.time()), signer


async def _send(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(struct.pack("!H", len(message)) + message)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack("!H", await reader.readexactly(2))
    return await reader.readexactly(size)


def describe(zone: bytes, transferred: Transferred) -> dict[str, Any]:
    """A transfer as facts for the log."""
    return {
        "zone": names.to_text(zone),
        "serial": transferred.serial,
        "transfer": transferred.how,
        "octets": transferred.octets,
        "messages": transferred.messages,
        "ms": round(transferred.seconds * 1000),
    }
