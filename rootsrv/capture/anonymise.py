"""Anonymisation of client addresses (RSSAC040): truncation, Crypto-PAn, AES-128; in client subnet options as well."""
# Theory of operation
# -------------------
# Three ways, by what is kept:
#
#   Truncation   the network of a client, /24 and /48: nothing can be had back, and many clients become one
#   CryptoPan    prefixes: two clients of one network stay two clients of one network.  The octets are those of dnscap's
#                cryptopan plugin under the same key and padding (-6 for IPv6, whose four words are encrypted each for
#                itself; the padding is rotated, which the first Crypto-PAn does not do)
#   Aes128       nothing but that it is the same client: a block of AES-128 an address, as dnscap's anonaes128 makes it
#                (-4 for IPv4: the address four times, the first four octets of the block; two clients may become one)
#
# The key belongs to a file (made for it, told nobody and forgotten: nobody can undo it, nor follow a client from file
# to file) or to a collection (octets that the operator keeps, or destroys when the collection ends).
#
# A client subnet option (RFC 7871) holds an address, too.  Facts do not keep it, but raw messages and packets do: there
# every run of octets that could be such an option is treated as one, wherever it lies.  In a message that nobody could
# parse there is no telling where an option begins, and a client let through is worse than garbled garbage.  But none
# begins in a header: with the id 8 (or 20730), CD and one question it looks like one.

import hashlib
import re
import secrets
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Octets = NDArray[numpy.uint8]

RSSAC040 = "https://www.icann.org/en/system/files/files/rssac-040-07aug18-en.pdf"

# Code 8, or 20730 as before RFC 7871 (draft-vandergaast-edns-client-subnet-02); OPTION-LENGTH of more than family and
# two prefix lengths take, family 1 or 2.
_CLIENT_SUBNET = re.compile(rb"(?:\x00\x08|\x50\xfa)\x00([\x05-\xff])\x00([\x01\x02])..", re.DOTALL)
_ADDRESSES_AT_ONCE = 4096
_WORTH_NUMPY = 16  # addresses


class KeyLengthWrong(ValueError):
    """The key has not as many octets as the method needs."""


class Anonymiser:
    """What becomes of a client's address.  `address` takes one; `addresses` many, with numpy."""

    name: ClassVar[str]
    prefixes: tuple[int, int] | None = None
    """IPv4 and IPv6 prefix lengths to which addresses are cut, or None for whole addresses."""

    @property
    def method(self) -> str:
        """What a file says about it: a URI (RFC 8618 §6.2.3)."""
        return f"{RSSAC040}#{self.name}"

    def address(self, octets: bytes) -> bytes:
        """What is written in place of *octets*, 4 or 16 of them; as many come back."""
        raise NotImplementedError

    def addresses(self, octets: "Octets") -> "Octets":
        """The same for an array of shape (n, 4) or (n, 16)."""
        raise NotImplementedError


class Truncation(Anonymiser):
    """Keeps the first bits of an address."""

    name = "truncation"

    def __init__(self, ipv4: int = 24, ipv6: int = 48) -> None:
        self.prefixes: tuple[int, int] = ipv4, ipv6
        self._masks = {4: _mask(ipv4, 4), 16: _mask(ipv6, 16)}

    @property
    def method(self) -> str:
        return f"{super().method},ipv4=/{self.prefixes[0]},ipv6=/{self.prefixes[1]}"

    def address(self, octets: bytes) -> bytes:
        return bytes(octet & kept for octet, kept in zip(octets, self._masks[len(octets)], strict=True))

    def addresses(self, octets: "Octets") -> "Octets":
        import numpy

        masked: Octets = octets & numpy.frombuffer(self._masks[octets.shape[1]], numpy.uint8)
        return masked


class _Keyed(Anonymiser):
    """A method with a key; the file says by a digest which files share one."""

    key_octets: ClassVar[int]

    def __init__(self, key: bytes) -> None:
        if len(key) != self.key_octets:
            raise KeyLengthWrong(f"{self.name} needs a key of {self.key_octets} octets, this one has {len(key)}")
        self._key = key
        # One call of `update` is as many blocks as it is given; in this mode none depends on another.
        self._encrypt = Cipher(algorithms.AES(key[:16]), modes.ECB()).encryptor().update

    @property
    def method(self) -> str:
        return f"{super().method},key={hashlib.sha256(self._key).hexdigest()[:8]}"


class CryptoPan(_Keyed):
    """Prefix-preserving; *key*: 16 octets of key, 16 of padding."""

    name = "cryptopan"
    key_octets = 32

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self._padding = self._encrypt(key[16:])
        # dnscap reads these four octets as its machine does, and so that we agree: as a little endian machine does.
        self._rotating = int.from_bytes(self._padding[:4], "little")

    def address(self, octets: bytes) -> bytes:
        return b"".join(self._word(octets[at : at + 4]) for at in range(0, len(octets), 4))

    def _word(self, octets: bytes) -> bytes:
        """Bit for bit: each is turned or not by what AES makes of the bits before it."""
        padding, tail = self._rotating, self._padding[4:]
        word = int.from_bytes(octets)
        blocks = []
        for bits in range(32):
            rotated = (padding << bits | padding >> 32 - bits) & 0xFFFFFFFF
            blocks.append((rotated ^ word & ~(0xFFFFFFFF >> bits)).to_bytes(4) + tail)
        made = self._encrypt(b"".join(blocks))
        turned = sum((made[16 * bits] >> 7) << 31 - bits for bits in range(32))
        return (word ^ turned).to_bytes(4)

    @cached_property
    def _blocks(self) -> "tuple[NDArray[numpy.uint32], NDArray[numpy.uint32]]":
        """What every word is met with: masks of the bits before each bit, and the padding rotated by each."""
        import numpy

        padding = self._rotating
        masks = [0xFFFFFFFF & ~(0xFFFFFFFF >> bits) for bits in range(32)]
        rotated = [(padding << bits | padding >> 32 - bits) & 0xFFFFFFFF for bits in range(32)]
        return numpy.array(masks, numpy.uint32), numpy.array(rotated, numpy.uint32)

    def addresses(self, octets: "Octets") -> "Octets":
        import numpy

        masks, rotated = self._blocks
        words = numpy.ascontiguousarray(octets).view(">u4").reshape(-1)
        turned = numpy.empty(len(words), numpy.uint32)
        for at in range(0, len(words), _ADDRESSES_AT_ONCE):
            some = words[at : at + _ADDRESSES_AT_ONCE].astype(numpy.uint32)
            blocks = numpy.empty((len(some), 32, 4), ">u4")
            blocks[:, :, 0] = some[:, None] & masks ^ rotated
            blocks[:, :, 1:] = numpy.frombuffer(self._padding, ">u4")[1:]
            made = numpy.frombuffer(self._encrypt(blocks.tobytes()), numpy.uint8)
            turned[at : at + len(some)] = numpy.packbits(made[::16] >> 7).view(">u4")
        return (words ^ turned).astype(">u4").view(numpy.uint8).reshape(octets.shape)


class Aes128(_Keyed):
    """One block of AES-128 an address."""

    name = "aes-128"
    key_octets = 16

    def address(self, octets: bytes) -> bytes:
        return self._encrypt(octets * (16 // len(octets)))[: len(octets)]

    def addresses(self, octets: "Octets") -> "Octets":
        import numpy

        width = octets.shape[1]
        made = numpy.frombuffer(self._encrypt(numpy.tile(octets, 16 // width).tobytes()), numpy.uint8)
        return made.reshape(-1, 16)[:, :width]


METHODS: dict[str, type[_Keyed] | type[Truncation]] = {
    method.name: method for method in (Truncation, CryptoPan, Aes128)
}


def anonymiser(method: str, key: bytes | None = None) -> Anonymiser:
    """The method of that name with *key*, or with one that is made here and known to nobody.

    Raises KeyUnusable.
    """
    kind = METHODS[method]
    if issubclass(kind, Truncation):
        return kind()
    return kind(secrets.token_bytes(kind.key_octets) if key is None else key)


def client_subnets(
    payload: bytes, how: Anonymiser, begins: Sequence[int] | None = None, ends: Sequence[int] = ()
) -> bytes:
    """*payload* with the addresses of what looks like client subnet options (RFC 7871 §6) replaced.

    *begins*, *ends*: between which they may begin, of each of the messages in *payload*, in order, if it is not one.  A
    run of octets that reaches behind the end of its message is an option that is cut off there.  What is longer than
    an address of its family, which may be one of the other, is 0 behind that; four octets are taken for an address of
    IPv4, for of one that is said to be of IPv6 a truncation would leave all.
    """
    begins, ends = begins if begins is not None else (0,), ends if begins is not None else (len(payload),)
    found: list[tuple[int, int, int]] = []
    at = 0
    while match := _CLIENT_SUBNET.search(payload, at):
        at = match.start() + 1  # the octets of one may be the head of the next
        number = bisect_right(ends, match.start())
        if number == len(ends) or match.start() < begins[number]:
            continue
        start = match.end()
        end = min(start + match[1][0] - 4, ends[number])
        if end > start:
            found.append((start, end, 4 if match[2] == b"\1" or end - start == 4 else 16))
    if not found:
        return payload
    changed = bytearray(payload)
    for whole in (4, 16):
        places = [(start, end) for start, end, size in found if size == whole]
        octets = [payload[start : min(end, start + whole)].ljust(whole, b"\0") for start, end in places]
        for (start, end), made in zip(places, every_address(octets, whole, how), strict=True):
            changed[start:end] = made[: end - start].ljust(end - start, b"\0")
    return bytes(changed)


def every_address(octets: list[bytes], size: int, how: Anonymiser) -> list[bytes]:
    """What is written for each of *octets*, *size* octets each."""
    if len(octets) < _WORTH_NUMPY:
        return [how.address(each) for each in octets]
    try:
        import numpy
    except ImportError:
        return [how.address(each) for each in octets]
    made = how.addresses(numpy.frombuffer(b"".join(octets), numpy.uint8).reshape(-1, size)).tobytes()
    return [made[at : at + size] for at in range(0, len(made), size)]


def _mask(bits: int, octets: int) -> bytes:
    if not 1 <= bits <= 8 * octets:
        raise ValueError(f"a prefix of {bits} bits of {8 * octets}")
    return (~((1 << 8 * octets - bits) - 1) & ((1 << 8 * octets) - 1)).to_bytes(octets)
