"""TSIG on messages of octets (RFC 8945): signing what we send."""

import struct
from typing import Any

import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TSIG
import dns.tsig

FUDGE_SECONDS = 300  # RFC 8945 §10

BADSIG, BADKEY, BADTIME = 16, 17, 18

_sign: Any = dns.tsig.sign  # dnspython has no types for these
_Tsig: Any = dns.rdtypes.ANY.TSIG.TSIG


def _rdata(key: dns.tsig.Key, message_id: int, now: float, error: int, mac: bytes = b"") -> Any:
    return _Tsig(
        dns.rdataclass.ANY, dns.rdatatype.TSIG, key.algorithm, int(now), FUDGE_SECONDS, mac, message_id, error, b""
    )


def _with_record(octets: bytes, name: dns.name.Name, rdata: Any) -> bytes:
    (count,) = struct.unpack_from("!H", octets, 10)
    wire: bytes = rdata.to_wire()
    owner = name.canonicalize().to_wire() or b"\0"
    record = owner + struct.pack("!HHIH", dns.rdatatype.TSIG, dns.rdataclass.ANY, 0, len(wire)) + wire
    return octets[:10] + struct.pack("!H", count + 1) + octets[12:] + record


class Signer:
    """Signs the messages of one request or response, the first with *request_mac* if it is a response."""

    def __init__(self, key: dns.tsig.Key, request_mac: bytes = b"", *, stream: bool = False) -> None:
        """*stream*: several messages are to come, chained (RFC 8945 §5.3.1)."""
        self._key = key
        self._request_mac = request_mac
        self._stream = stream
        self._context: Any = None
        self.mac = b""
        """Of the last message."""

    def sign(self, octets: bytes, now: float) -> bytes:
        """*octets* with a TSIG record at the end; *now* in seconds since 1970."""
        blank = _rdata(self._key, int.from_bytes(octets[:2], "big"), now, 0)
        signed, self._context = _sign(
            octets, self._key, blank, int(now), self._request_mac, self._context, self._stream
        )
        self.mac = signed.mac
        return _with_record(octets, self._key.name, signed)


def unsigned_error(octets: bytes, owner: dns.name.Name, algorithm: dns.name.Name, error: int, now: float) -> bytes:
    """The response *octets* with the TSIG that tells *error*, without a MAC (RFC 8945 §5.3.2)."""
    stand_in = dns.tsig.Key(owner, b"", algorithm)
    return _with_record(octets, owner, _rdata(stand_in, int.from_bytes(octets[:2], "big"), now, error))
