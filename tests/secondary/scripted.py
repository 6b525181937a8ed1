"""A primary that says what a test wants it to say, made with dnspython: honest, mistaken or hostile."""

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import dns.edns
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
from dns.rdtypes.ANY.TSIG import TSIG

from bench.instance import KEY_SECTION
from bench.peers.primaries import KEY, KEY_NAME
from rootsrv.wire.record import Record
from rootsrv.zone.contents import ZoneContents

__all__ = ["KEY_SECTION", "ScriptedPrimary", "primary_section", "scripted", "send_all", "send_message"]

RECORDS_A_MESSAGE = 60
_TSIG: Any = TSIG  # dnspython has no types for it

Send = Callable[[socket.socket, list[bytes]], None]


def send_message(connection: socket.socket, octets: bytes) -> None:
    """One DNS message over TCP."""
    connection.sendall(struct.pack("!H", len(octets)) + octets)


def send_all(connection: socket.socket, messages: list[bytes]) -> None:
    """Every message, as an honest primary does."""
    for each in messages:
        send_message(connection, each)


class ScriptedPrimary:
    """Serves one zone over TCP at 127.0.0.1; what it does can be changed at any time."""

    def __init__(self, contents: ZoneContents) -> None:
        self.contents = contents
        self.named: int | None = None
        """The serial in its SOA answers, if it is not that of the contents."""

        self.rcode = dns.rcode.NOERROR
        """Of its answer to transfer requests."""

        self.edns_rcode = dns.rcode.NOERROR
        """Of its answer to whatever has an OPT record, which it does not know then."""

        self.ixfr_rcode = dns.rcode.NOERROR
        self.records: Callable[[list[Record]], list[Record]] = lambda records: records
        self.messages: Callable[[list[bytes]], list[bytes]] = lambda messages: messages
        self.send: Send = send_all
        self.differences: list[Record] = []
        """The records of its answer to IXFR; empty = the whole zone."""

        self.expire: int | None = None
        """The EXPIRE option (RFC 7314) in all its answers, seconds."""

        self.raw: Callable[[int], bytes] | None = None
        """Makes its answer to a transfer request, without TSIG, from the id of the request."""

        self.key: dns.tsig.Key | None = KEY
        """Signs its answers, whatever the request was signed with; None = unsigned."""

        self.signed_at: float | None = None
        self.asked = {"SOA": 0, "AXFR": 0, "IXFR": 0}
        self.last_sent: list[bytes] = []
        self.port = 0

    def publish(self, contents: ZoneContents) -> None:
        """Be honest again, with these contents."""
        served = self.contents
        asked, port = self.asked, self.port
        self.__init__(served)  # type: ignore[misc]
        self.asked, self.port, self.contents = asked, port, contents

    def answer(self, wire: bytes, connection: socket.socket) -> None:
        """Answer one request."""
        query = dns.message.from_wire(wire, keyring={KEY.name: KEY})
        qtype = dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked[qtype] = self.asked.get(qtype, 0) + 1
        if self.edns_rcode and query.edns >= 0:
            query.use_edns(False)
            send_all(connection, self._render(query, [[]], self.edns_rcode))
            return
        if qtype == "SOA":
            send_all(connection, self._render(query, [[self._soa()]]))
            return
        rcode = self.ixfr_rcode if qtype == "IXFR" and self.ixfr_rcode else self.rcode
        if rcode:
            send_all(connection, self._render(query, [[]], rcode))
            return
        if self.raw is not None:
            self.send(connection, [self._sign(query, self.raw(query.id))])
            return
        soa = self.contents.rrsets[self.contents.apex, 6]
        first: Record = (self.contents.apex, 6, soa.ttl, soa.rdatas[0])
        records = self.records([first, *(each for each in self.contents.records() if each[1] != 6), first])
        if qtype == "IXFR" and self.differences:
            records = self.differences
        chunks = [records[at : at + RECORDS_A_MESSAGE] for at in range(0, len(records), RECORDS_A_MESSAGE)]
        self.last_sent = self.messages(self._render(query, chunks))
        self.send(connection, self.last_sent)

    def _soa(self) -> Record:
        soa = self.contents.rrsets[self.contents.apex, 6]
        rdata = soa.rdatas[0]
        if self.named is not None:
            rdata = rdata[:-20] + struct.pack("!I", self.named) + rdata[-16:]
        return self.contents.apex, 6, soa.ttl, rdata

    def _sign(self, query: Any, octets: bytes) -> bytes:
        """*octets* as the only message of a response, with TSIG."""
        assert self.key is not None
        signed_at = int(time.time())
        blank: Any = _TSIG(
            dns.rdataclass.ANY, dns.rdatatype.TSIG, self.key.algorithm, signed_at, 300, b"", query.id, 0, b""
        )
        signer: Any = dns.tsig.sign  # dnspython has no types for it
        rdata: bytes = signer(octets, self.key, blank, signed_at, query.mac)[0].to_wire()
        header = struct.pack("!HHIH", dns.rdatatype.TSIG, dns.rdataclass.ANY, 0, len(rdata))
        return octets[:10] + struct.pack("!H", 1) + octets[12:] + (self.key.name.to_wire() or b"") + header + rdata

    def _render(self, query: Any, chunks: list[list[Record]], rcode: int = 0) -> list[bytes]:
        context = None
        rendered = []
        clock = time.time() if self.signed_at is None else self.signed_at
        with mock.patch("time.time", return_value=clock) if self.signed_at else contextlib.nullcontext():
            for chunk in chunks:
                response = dns.message.make_response(query)
                response.set_rcode(dns.rcode.Rcode(rcode))
                response.flags |= 0x0400
                if self.expire is not None:
                    response.use_edns(
                        options=[dns.edns.GenericOption(dns.edns.OptionType.make(9), struct.pack("!I", self.expire))]
                    )
                response.answer = [_rrset(record) for record in chunk]
                if self.key is None:
                    response.tsig, response.want_tsig_sign = None, False
                else:
                    response.use_tsig(self.key, fudge=300, original_id=query.id)
                    response.request_mac = query.mac
                rendered.append(response.to_wire(multi=len(chunks) > 1, tsig_ctx=context, max_size=65535))
                context = response.tsig_ctx
        return rendered


def _rrset(record: Record) -> dns.rrset.RRset:
    owner, rtype, ttl, rdata = record
    parsed = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.RdataType.make(rtype), rdata, 0, len(rdata))
    return dns.rrset.from_rdata(dns.name.from_wire(owner, 0)[0], ttl, parsed)


@contextlib.contextmanager
def scripted(contents: ZoneContents) -> Iterator[ScriptedPrimary]:
    """Run a scripted primary on a free port until the block ends."""
    primary = ScriptedPrimary(contents)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError, struct.error):
                self.request.settimeout(20)
                while True:
                    (size,) = struct.unpack("!H", _exactly(self.request, 2))
                    primary.answer(_exactly(self.request, size), self.request)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        primary.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield primary
        finally:
            server.shutdown()
            thread.join()


def _exactly(connection: socket.socket, size: int) -> bytes:
    octets = b""
    while len(octets) < size:
        part = connection.recv(size - len(octets))
        if not part:
            raise OSError("closed")
        octets += part
    return octets


def primary_section(primary: ScriptedPrimary, name: str, *, key: str = KEY_NAME, zones: str = '["."]') -> str:
    """The `[[primary]]` of a scripted primary."""
    key_line = f'key = "{key}"' if key else ""
    return f'[[primary]]\nname = "{name}"\naddress = "127.0.0.1"\nport = {primary.port}\nzones = {zones}\n{key_line}\n'
