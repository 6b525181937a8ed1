"""TSIG on messages of octets (RFC 8945): signing what is sent, judging what came."""
# dnspython makes objects of every record it signs, some 100 µs a message; a zone goes out in two dozen messages to ten
# thousand peers.  Here a message is signed where it lies: parts that nobody joins, and 19 to 30 octets that are new.
# tests/wire/test_tsig.py holds both to the same octets.
#
# HMAC is put together here from copies of two hashes (RFC 2104 §4), 1.0 µs a message beside the hashing itself; the
# ten calls that one takes into `hmac`, which is Python around the same, are 1.7 µs, and more where caches are cold.
#
# The order of the checks is RFC 8945 §5.2's: key, MAC, time, truncation.  What is told for each is §5.2's and §5.3.2's:
# an error of key or MAC is not signed (there is nothing to sign with), one of time or truncation is.

import hashlib
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from rootsrv.wire.codes import BADKEY, BADSIG, BADTIME, BADTRUNC, FORMERR, NOTAUTH
from rootsrv.wire.message import CLASS_ANY, TSIG, TsigRecord

FUDGE_SECONDS = 300  # RFC 8945 §10

_ERRORS = {BADSIG: "BADSIG", BADKEY: "BADKEY", BADTIME: "BADTIME", BADTRUNC: "BADTRUNC"}

_ALGORITHMS = {"hmac-sha256": 32, "hmac-sha384": 48, "hmac-sha512": 64}
"""RFC 8945 §6; octets of the MAC."""

_INNER, _OUTER = (bytes(each ^ pad for each in range(256)) for pad in (0x36, 0x5C))  # RFC 2104 §2

_TIMERS = struct.Struct("!HIH")  # 48 bits of seconds, fudge (RFC 8945 §4.2)
_MAX_SECONDS = (1 << 48) - 1

_NO_ERROR = bytes(4)
"""Error and Other Len of a record that tells of none."""

MAX_RECORD_OCTETS = 255 + 10 + 15 + 10 + 64 + 6 + 6
"""Of a TSIG record of ours: owner, fixed part, the algorithm's name, timers, the longest MAC, the rest, Other Data."""


def error_text(error: int) -> str:
    """The name of a TSIG error (RFC 8945 §3)."""
    return _ERRORS.get(error, f"error {error}")


class TsigMalformed(ValueError):
    """The RDATA is not that of a TSIG record."""


class TsigRefused(Exception):
    """The TSIG of a message is not in order."""

    def __init__(self, text: str, error: int, *, rcode: int = NOTAUTH, tsig: "Tsig | None" = None) -> None:
        super().__init__(text)
        self.error = error
        """The TSIG error (RFC 8945 §3); 0 with rcode FORMERR."""

        self.rcode = rcode
        self.tsig = tsig
        """What was judged, where it could be read."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key, by the name that it goes by on the wire."""

    name: bytes
    """Wire format, lower-cased."""

    algorithm: bytes
    """Wire format, lower-cased."""

    mac_octets: int
    inner: "hashlib._Hash" = field(repr=False, compare=False)
    """What is signed goes into a copy of it."""

    outer: "hashlib._Hash" = field(repr=False, compare=False)
    """What that gives goes into a copy of this, and that gives the MAC."""

    record_head: bytes = field(repr=False, compare=False)
    """A TSIG record without Other Data up to its timers."""

    secret: bytes = field(repr=False)

    @classmethod
    def make(cls, name: bytes, algorithm: str, secret: bytes) -> "Key":
        """*name* in wire format; *algorithm* such as `hmac-sha256`, KeyError if it is none of ours."""
        size = _ALGORITHMS[algorithm]
        wire = bytes((len(algorithm),)) + algorithm.encode() + b"\0"
        digest = algorithm.removeprefix("hmac-")
        block_octets = hashlib.new(digest).block_size
        padded = secret if len(secret) <= block_octets else hashlib.new(digest, secret).digest()
        padded = padded.ljust(block_octets, b"\0")
        inner, outer = (hashlib.new(digest, padded.translate(each)) for each in (_INNER, _OUTER))
        name = name.lower()
        return cls(name, wire, size, inner, outer, _head(name, wire, size, 0), secret)

    def mac(self, parts: Iterable[bytes]) -> bytes:
        """Of all *parts*, one behind the other."""
        inner = self.inner.copy()
        for part in parts:
            inner.update(part)
        outer = self.outer.copy()
        outer.update(inner.digest())
        return outer.digest()


@dataclass(frozen=True, slots=True)
class Tsig:
    """The RDATA of a TSIG record (RFC 8945 §4.2)."""

    algorithm: bytes
    """Wire format, lower-cased."""

    time_signed: int
    fudge: int
    mac: bytes
    original_id: int
    error: int
    other: bytes

    @classmethod
    def parse(cls, rdata: bytes) -> "Tsig":
        """TsigMalformed if it is not that."""
        try:
            at = 0
            while size := rdata[at]:
                if size > 63:
                    raise TsigMalformed("the algorithm's name is compressed or no name")
                at += 1 + size
            at += 1
            algorithm = rdata[:at].lower()
            high, low, fudge = _TIMERS.unpack_from(rdata, at)
            (mac_size,) = struct.unpack_from("!H", rdata, at + 8)
            mac = rdata[at + 10 : at + 10 + mac_size]
            at += 10 + mac_size
            original_id, error, other_size = struct.unpack_from("!HHH", rdata, at)
            other = rdata[at + 6 :]
        except (IndexError, struct.error):
            raise TsigMalformed("TSIG RDATA ends too early") from None
        if len(mac) != mac_size or len(other) != other_size:
            raise TsigMalformed("TSIG RDATA is of another size than it says")
        return cls(algorithm, high << 32 | low, fudge, mac, original_id, error, other)

    @property
    def timers(self) -> bytes:
        """Time and fudge as they are signed."""
        return _TIMERS.pack(self.time_signed >> 32, self.time_signed & 0xFFFFFFFF, self.fudge)


def _prefixed(mac: bytes) -> bytes:
    return len(mac).to_bytes(2, "big") + mac if mac else b""


def _variables(key: Key, timers: bytes, error: int, other: bytes) -> bytes:
    """What is signed of the record itself (RFC 8945 §4.3.3)."""
    return (
        key.name
        + struct.pack("!HI", CLASS_ANY, 0)
        + key.algorithm
        + timers
        + struct.pack("!HH", error, len(other))
        + other
    )


def _head(owner: bytes, algorithm: bytes, mac_octets: int, other_octets: int) -> bytes:
    """A TSIG record in wire format up to its timers."""
    rdata_octets = len(algorithm) + 16 + mac_octets + other_octets
    return owner + struct.pack("!HHIH", TSIG, CLASS_ANY, 0, rdata_octets) + algorithm


def record(
    owner: bytes, algorithm: bytes, timers: bytes, mac: bytes, message_id: int, error: int, other: bytes
) -> bytes:
    """A TSIG record in wire format."""
    return b"".join(
        (
            _head(owner, algorithm, len(mac), len(other)),
            timers,
            len(mac).to_bytes(2, "big"),
            mac,
            struct.pack("!HHH", message_id, error, len(other)),
            other,
        )
    )


def with_record(octets: bytes, added: bytes) -> bytes:
    """The message *octets* with one record more at the end of the additional section."""
    count = int.from_bytes(octets[10:12], "big") + 1
    return b"".join((octets[:10], count.to_bytes(2, "big"), octets[12:], added))


class Signer:
    """Signs the messages of one request or one response, in order (RFC 8945 §5.3.1)."""

    __slots__ = ("_first", "_key", "_prior", "mac")

    def __init__(self, key: Key, request_mac: bytes = b"") -> None:
        """*request_mac*: of the request that is answered; a request has none."""
        self._key = key
        self._prior = _prefixed(request_mac)
        self._first = True
        self.mac = b""
        """Of the last message."""

    def record(
        self, parts: Iterable[bytes], message_id: int, now: float, *, error: int = 0, other: bytes = b""
    ) -> bytes:
        """The TSIG record of the message that *parts* make, beginning with its header without that record.

        *now* (seconds since 1970) is the time signed.  The caller appends the record and counts it.
        """
        key = self._key
        seconds = int(now)
        timers = _TIMERS.pack(seconds >> 32, seconds & 0xFFFFFFFF, FUDGE_SECONDS)
        last = _variables(key, timers, error, other) if self._first else timers
        self._first = False
        self.mac = key.mac((self._prior, *parts, last))
        self._prior = _prefixed(self.mac)
        if error or other:
            return record(key.name, key.algorithm, timers, self.mac, message_id, error, other)
        return b"".join((key.record_head, timers, self._prior, message_id.to_bytes(2, "big"), _NO_ERROR))

    def sign(self, octets: bytes, now: float, *, error: int = 0, other: bytes = b"") -> bytes:
        """*octets* with its TSIG record; *now* in seconds since 1970."""
        message_id = int.from_bytes(octets[:2], "big")
        return with_record(octets, self.record((octets,), message_id, now, error=error, other=other))


class Checker:
    """Judges the TSIG of a request, or of the messages of one response in order (RFC 8945 §5.2, §5.3)."""

    __slots__ = ("_first", "_key", "_prior", "_unsigned")

    def __init__(self, key: Key | None, request_mac: bytes = b"") -> None:
        """*key* is the one by the record's name, None if there is none; *request_mac* of the request that we sent."""
        self._key = key
        self._prior = request_mac
        self._unsigned: list[bytes] = []
        self._first = True

    def unsigned(self, octets: bytes) -> None:
        """A message between signed ones (RFC 8945 §5.3.1); the next signature covers it."""
        self._unsigned.append(octets)

    def signed(self, octets: bytes, found: TsigRecord, now: float) -> Tsig:
        """The TSIG of *octets* if it is in order at *now* (seconds since 1970).

        TsigRefused says what is wrong, and what to tell the sender.
        """
        key = self._key
        try:
            tsig = Tsig.parse(found.rdata)
        except TsigMalformed as error:
            raise TsigRefused(str(error), 0, rcode=FORMERR) from None
        if key is None or found.owner.lower() != key.name:
            raise TsigRefused("no such key", BADKEY, tsig=tsig)
        if tsig.algorithm != key.algorithm:
            raise TsigRefused("another algorithm than the key's", BADKEY, tsig=tsig)
        if not max(10, key.mac_octets // 2) <= len(tsig.mac) <= key.mac_octets:  # RFC 8945 §5.2.2.1
            raise TsigRefused(f"a MAC of {len(tsig.mac)} octets", 0, rcode=FORMERR, tsig=tsig)
        count = int.from_bytes(octets[10:12], "big") - 1
        mac = key.mac(
            (
                _prefixed(self._prior),
                *self._unsigned,
                tsig.original_id.to_bytes(2, "big") + octets[2:10] + count.to_bytes(2, "big"),
                octets[12 : found.start],
                _variables(key, tsig.timers, tsig.error, tsig.other) if self._first else tsig.timers,
            )
        )
        if not hmac.compare_digest(mac[: len(tsig.mac)], tsig.mac):
            raise TsigRefused("the MAC is wrong", BADSIG, tsig=tsig)
        if abs(int(now) - tsig.time_signed) > tsig.fudge:
            raise TsigRefused(f"signed at {tsig.time_signed}, our clock says {int(now)}", BADTIME, tsig=tsig)
        if len(tsig.mac) < key.mac_octets:
            # RFC 8945 §5.2.4: local policy.  Nobody who is configured here has a reason to truncate.
            raise TsigRefused(f"a MAC cut to {len(tsig.mac)} octets", BADTRUNC, tsig=tsig)
        self._prior, self._unsigned, self._first = tsig.mac, [], False
        return tsig


def refusal(response: bytes, owner: bytes, refused: TsigRefused, key: Key | None, now: float) -> bytes:
    """*response* (its rcode is *refused*'s) with the TSIG record that tells the error (RFC 8945 §5.2, §5.3.2).

    Without a record where the rcode says it all: what could not be read cannot be answered in kind.
    """
    tsig = refused.tsig
    if refused.rcode == FORMERR or tsig is None:
        return response
    message_id = int.from_bytes(response[:2], "big")
    if refused.error in {BADTIME, BADTRUNC} and key is not None:
        signer = Signer(key, tsig.mac)
        if refused.error == BADTRUNC:
            return signer.sign(response, now, error=BADTRUNC)
        # §5.2.3: the client's time, so that he can check the signature; ours beside it.
        ours = (int(now) & _MAX_SECONDS).to_bytes(6, "big")
        return signer.sign(response, tsig.time_signed, error=BADTIME, other=ours)
    timers = _TIMERS.pack(int(now) >> 32, int(now) & 0xFFFFFFFF, FUDGE_SECONDS)
    return with_record(response, record(owner, tsig.algorithm, timers, b"", message_id, refused.error, b""))
