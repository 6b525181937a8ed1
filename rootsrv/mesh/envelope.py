"""What a member of the mesh says, signed: sealing and opening."""
# Theory of operation
# -------------------
# The engine is a bulletin board that anybody may scribble on.  So every value is
#
#     CBOR [ body, signature ]       body: the octets of a CBOR map; signature: Ed25519 over CONTEXT + body
#
# and the body repeats the key under which it stands: a value that somebody copied to another key is refused.  Who may
# write under a key is known from the key, so the signature is verified before anything of the body is decoded; what
# nobody signed never reaches the decoder.
#
# A value is new only if its (epoch, seq) is above all that its writer was seen to say under that key (`Freshness`).
# The epoch is a time: that of the leader's election, or of the writer's start.  A revision of the engine would not do,
# since it starts again when a cluster is rebuilt and every new order would look like an old one.

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cbor2

if TYPE_CHECKING:  # and imported by who signs or checks: it takes 7 MB, and most processes do neither
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

VERSION = 1

CONTEXT = b"rootsrv mesh 1\0"
"""In front of what is signed, so that no signature made for something else counts here."""

LONGEST_OCTETS = 65_536
"""Of a member's value.  A status is some 940 octets, an order 230."""

LONGEST_ROSTER_OCTETS = 1_048_576
"""Of the roster: a thousand members take a quarter of it; a request to etcd may have 1.5 MiB."""

FUTURE_SECONDS = 300.0
"""An epoch so far ahead of our own time is refused: accepted, it would shut out all that follow."""

_SIGNATURE_OCTETS = 64


class EnvelopeRefused(Exception):
    """What stands on the board is not acted upon."""


class EnvelopeMalformed(EnvelopeRefused):
    """The octets are no envelope."""


class EnvelopeForged(EnvelopeRefused):
    """None of those who may write under this key has signed it."""


class WrongPlace(EnvelopeRefused):
    """It was signed for another key, or by another than it names."""


class UnknownVersion(EnvelopeRefused):
    """It was signed by one who may, in a version that is not known here: go alone."""


class OutOfDate(EnvelopeRefused):
    """Its time is over, or has not come."""


class Replayed(EnvelopeRefused):
    """Its writer has said something newer under this key."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What was signed, and by whom; only `open_envelope` and `seal` know how it is written."""

    key: str
    """Where it stands, below the service's prefix: `zone/./order`."""

    sender: str
    epoch: float
    """Seconds since 1970: election or start of the sender."""

    seq: int
    """Counts up in an epoch."""

    sent: float
    """Seconds since 1970."""

    not_after: float
    """Seconds since 1970; infinite = until it is replaced."""

    content: Mapping[str, Any] = field(default_factory=dict)

    @property
    def order(self) -> tuple[float, int]:
        """What of one sender is newer is greater."""
        return (self.epoch, self.seq)


def seal(envelope: Envelope, service: str, key: "Ed25519PrivateKey") -> bytes:
    """The octets to put on the board of *service*."""
    body = cbor2.dumps(
        {
            "version": VERSION,
            "service": service,
            "key": envelope.key,
            "from": envelope.sender,
            "epoch": envelope.epoch,
            "seq": envelope.seq,
            "sent": envelope.sent,
            "not_after": envelope.not_after,
            "content": dict(envelope.content),
        }
    )
    return cbor2.dumps([body, key.sign(CONTEXT + body)])


def open_envelope(
    octets: bytes,
    *,
    service: str,
    key: str,
    writers: "Mapping[str, Ed25519PublicKey]",
    now: float | None,
    longest_octets: int = LONGEST_OCTETS,
) -> Envelope:
    """What *octets*, found under *key*, say; EnvelopeRefused.

    *writers*: who may write there.  *now*: seconds since 1970; None: the time is not judged.
    """
    body, signature = _parts(octets, longest_octets)
    sender = next((name for name, public in writers.items() if _verifies(public, signature, body)), None)
    if sender is None:
        raise EnvelopeForged(f"{key}: signed by none of {', '.join(sorted(writers)) or 'nobody who may'}")
    document = _decoded(body)
    if document.get("version") != VERSION:
        raise UnknownVersion(f"{key}: version {document.get('version')!r} of {sender}, {VERSION} is known")
    envelope = _envelope(document)
    if (document.get("service"), envelope.key, envelope.sender) != (service, key, sender):
        raise WrongPlace(
            f"{key}: signed by {sender} for {document.get('service')!r} {envelope.key!r} as {envelope.sender!r}"
        )
    if now is not None:
        if envelope.epoch > now + FUTURE_SECONDS:
            raise OutOfDate(f"{key}: epoch of {sender} is {envelope.epoch - now:.0f} s ahead")
        if envelope.not_after < now:
            raise OutOfDate(f"{key}: of {sender}, is over since {now - envelope.not_after:.0f} s")
    return envelope


def _parts(octets: bytes, longest: int) -> tuple[bytes, bytes]:
    """Body and signature.  Parsed by hand: of what nobody signed a general decoder sees nothing."""
    if len(octets) > longest:
        raise EnvelopeMalformed(f"{len(octets)} octets, at most {longest} are read")
    body, rest = _byte_string(octets, 1) if octets[:1] == b"\x82" else (b"", b"")
    signature, end = _byte_string(rest, 0) if rest else (b"", b"more")
    if not body or len(signature) != _SIGNATURE_OCTETS or end:
        raise EnvelopeMalformed(f"{len(octets)} octets that are not [body, signature]")
    return body, signature


_LENGTH_OCTETS = {0x58: 1, 0x59: 2, 0x5A: 4}


def _byte_string(octets: bytes, at: int) -> tuple[bytes, bytes]:
    """A CBOR byte string of definite length at *at*, and what follows it; empty ones if there is none (RFC 8949 §3)."""
    initial = octets[at] if at < len(octets) else 0
    wide = _LENGTH_OCTETS.get(initial, 0)
    if not wide:
        return b"", b""
    begin = at + 1 + wide
    length = int.from_bytes(octets[at + 1 : begin], "big")
    if begin + length > len(octets):
        return b"", b""
    return octets[begin : begin + length], octets[begin + length :]


def _verifies(public: "Ed25519PublicKey", signature: bytes, body: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, CONTEXT + body)
    except InvalidSignature:
        return False
    return True


def _decoded(body: bytes) -> Mapping[str, Any]:
    try:
        document = cbor2.loads(body)
    except Exception as error:  # whatever a decoder finds to say of octets that a stolen key signed
        raise EnvelopeMalformed(f"the body is not CBOR: {error}") from error
    if not isinstance(document, dict):
        raise EnvelopeMalformed("the body is not a map")
    return document


def _envelope(document: Mapping[str, Any]) -> Envelope:
    kinds: dict[str, type | tuple[type, ...]] = {
        "key": str,
        "from": str,
        "epoch": (int, float),
        "seq": int,
        "sent": (int, float),
        "not_after": (int, float),
        "content": dict,
    }
    for name, kind in kinds.items():
        value = document.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) or not _is_bounded(value):
            raise EnvelopeMalformed(f"the body's {name} is of another kind, or out of all bounds")
    if any(not isinstance(each, str) for each in document["content"]):
        raise EnvelopeMalformed("the body's content has names that are no texts")
    return Envelope(
        document["key"],
        document["from"],
        float(document["epoch"]),
        document["seq"],
        float(document["sent"]),
        float(document["not_after"]),
        document["content"],
    )


def _is_bounded(value: object) -> bool:
    """Whether a number is one, and can be reckoned with: no NaN, nothing above what a float counts exactly."""
    return not isinstance(value, int | float) or value == math.inf or abs(value) <= 2**53


class Freshness:
    """What each writer said last under each key: nothing older counts, nothing counts twice."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[float, int]] = {}

    def admit(self, envelope: Envelope, *, shared: bool = False) -> None:
        """Take note of it; Replayed if it is not newer than what was admitted before.

        *shared*: several may write under the key in turn (the leaders of the distribution hosts), and the later
        election wins whoever won it; else each writer is counted by itself.
        """
        name = envelope.key if shared else f"{envelope.key}\0{envelope.sender}"
        newest = self._newest.get(name)
        if newest is not None and envelope.order <= newest:
            raise Replayed(f"{envelope.key}: {envelope.order} of {envelope.sender}, {newest} was seen before")
        self._newest[name] = envelope.order

    def forget(self, key: str) -> None:
        """The key is not in use any more."""
        self._newest = {name: order for name, order in self._newest.items() if name.partition("\0")[0] != key}
