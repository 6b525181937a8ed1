"""Reads C-DNS files (RFC 8618), of whatever writer: preamble, then block by block."""

import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import cbor2

from rootsrv.capture import cdns

MAX_BLOCK_OCTETS = 256 << 20
"""A block of more is refused, and so is what only says that it is longer: it is held in memory."""

DECODED_AT_ONCE_OCTETS = 1 << 20
"""A longer one is counted before it is decoded: an octet (an empty map) can become a hundred of memory."""

MAX_BLOCK_THINGS = 2_000_000
"""Numbers, strings, arrays and maps of a block; one of 10,000 queries has some 250,000."""

_DEEPEST = 16

_PORTION = 1 << 20


class CaptureUnreadable(Exception):
    """What is said in it is no capture, or not one that can be read here."""


class Preamble(NamedTuple):
    """What a file says about itself (§7.4)."""

    version: str
    parameters: list[dict[int, Any]]
    """Of blocks (§7.4.1): at 0 how they are stored, at 1 how they were collected."""


class CdnsFile:
    """Reads *stream*, which is not compressed; *name* is said in errors.

    `preamble` is there at once; iterating gives blocks (§7.5), as dictionaries, one after another.  A file that ends
    within a block (it is being written, or was cut off) gives the blocks before; then `cut_off` says so.  Raises
    CaptureUnreadable.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self._octets = b""
        self.cut_off = False
        try:
            self._head()
        except _Incomplete as error:
            raise self._wrong("ends within its preamble") from error

    def _head(self) -> None:
        first = self._peek()
        if first == 0xD9 and self._bytes(3) == b"\xd9\xd9\xf7":  # tag 55799: this is CBOR (RFC 8949 §3.4.6)
            first = self._peek()
        self._bytes(1)
        if first not in (0x83, 0x9F) or self._item() != cdns.FILE_TYPE:
            raise self._wrong("is neither C-DNS nor pcap")
        preamble = self._item()
        try:
            major, minor, parameters = preamble[0], preamble[1], preamble[3]
            understood = isinstance(parameters, list) and all(map(_are_parameters, parameters))
        except (TypeError, LookupError, AttributeError) as error:
            raise self._wrong("has a preamble that is not C-DNS") from error
        if (major, minor) != (1, 0):
            # Whoever made the file chose them: a name of a megabyte, an integer of a million digits.
            if not {type(major), type(minor)} <= {int} or not (0 <= major < 1 << 32 and 0 <= minor < 1 << 32):
                raise self._wrong("has a preamble that is not C-DNS")
            raise self._wrong(f"is C-DNS {major}.{minor}; 1.0 is understood")
        if not parameters or not understood:
            raise self._wrong("has a preamble that is not C-DNS")
        self.preamble = Preamble(f"{major}.{minor}", parameters)
        kind = self._bytes(1)[0]
        if kind == 0x9F:
            self._left: int | None = None
        elif 0x80 <= kind <= 0x9B:
            size = {0x98: 1, 0x99: 2, 0x9A: 4, 0x9B: 8}.get(kind)
            self._left = int.from_bytes(self._bytes(size)) if size else kind & 31
        else:
            raise self._wrong("has no array of blocks")

    def __iter__(self) -> Iterator[dict[int, Any]]:
        number = 0
        while self._left is None or number < self._left:
            try:
                if self._left is None and self._peek() == 0xFF:
                    return
                block = self._item()
            except _Incomplete:
                self.cut_off = True
                return
            number += 1
            if not isinstance(block, dict) or not isinstance(block.get(cdns.BlockKey.PREAMBLE), dict):
                raise self._wrong(f"has a block {number} that is none")
            yield block

    def _wrong(self, what: str) -> CaptureUnreadable:
        return CaptureUnreadable(f"{self._name}: {what}")

    def _more(self) -> None:
        portion = self._stream.read(max(_PORTION, len(self._octets)))
        if not portion:
            raise _Incomplete
        self._octets += portion
        if len(self._octets) > MAX_BLOCK_OCTETS:
            raise self._wrong(f"has a block of more than {MAX_BLOCK_OCTETS >> 20} MiB")

    def _peek(self) -> int:
        if not self._octets:
            self._more()
        return self._octets[0]

    def _bytes(self, count: int) -> bytes:
        while len(self._octets) < count:
            self._more()
        found, self._octets = self._octets[:count], self._octets[count:]
        return found

    def _item(self) -> Any:
        """The next CBOR item, whole."""
        while True:
            known = len(self._octets) <= DECODED_AT_ONCE_OCTETS
            stream = io.BytesIO(self._octets[:DECODED_AT_ONCE_OCTETS])
            try:
                item = cbor2.CBORDecoder(stream, max_depth=_DEEPEST).decode()
            except cbor2.CBORDecodeEOF:
                if known:
                    self._more()
                    continue
                break
            except (cbor2.CBORDecodeError, ValueError, TypeError, MemoryError, OverflowError) as error:
                raise self._wrong(f"is not CBOR where it should be: {error}") from error
            else:
                self._octets = self._octets[stream.tell() :]
                return item
        return self._long_item()

    def _long_item(self) -> Any:
        """The next CBOR item, whole, which is longer than DECODED_AT_ONCE_OCTETS."""
        while True:
            try:
                end = _end(self._octets)
            except IndexError:
                self._more()
            except ValueError as error:
                raise self._wrong(str(error)) from error
            else:
                break
        try:
            item = cbor2.CBORDecoder(io.BytesIO(self._octets[:end]), max_depth=_DEEPEST).decode()
        except (cbor2.CBORDecodeError, ValueError, TypeError, MemoryError, OverflowError) as error:
            raise self._wrong(f"is not CBOR where it should be: {error}") from error
        self._octets = self._octets[end:]
        return item


def _end(octets: bytes) -> int:
    """Where the CBOR item (RFC 8949 §3) that *octets* begin with ends.

    IndexError if it does not end in them, ValueError for one of too many things.
    """
    at = things = 0
    left = [1]
    """Of the containers that are open how many things are to come, the innermost last; -1: until a break."""

    while left:
        if not left[-1]:
            left.pop()
            continue
        first = octets[at]
        at += 1
        if first == 0xFF and left[-1] < 0:
            left.pop()
            continue
        things += 1
        if things > MAX_BLOCK_THINGS:
            raise ValueError(f"has a block of more than {MAX_BLOCK_THINGS:,} things")
        left[-1] -= left[-1] > 0
        major, number = first >> 5, first & 31
        if 24 <= number < 28:
            size = 1 << number - 24
            number = int.from_bytes(octets[at : at + size])
            at += size
        elif number > 27:
            number = -1
        if major in (2, 3) and number >= 0:
            at += number
        elif 2 <= major <= 6:
            left.append(1 if major == 6 else 2 * number if major == 5 and number > 0 else number)
        if len(left) > 2 * _DEEPEST:
            raise ValueError("is nested too deeply")
    if at > len(octets):
        raise IndexError
    return at


def _are_parameters(found: Any) -> bool:
    """Whether these are a block's parameters (§7.4.1), as far as they are read here."""
    storage, collection = found[0], found.get(1, {})
    return (
        isinstance(storage[0], int)
        and storage[0] > 0
        and isinstance(collection, dict)
        and all(isinstance(storage.get(key, 1), int) and storage.get(key, 1) > 0 for key in (6, 7, 8, 9))
    )


class _Incomplete(Exception):
    """The stream ended within an item."""


def open_capture(path: Path) -> tuple[bytes, IO[bytes]]:
    """The file at *path*, decompressed if its first octets say that it is compressed: gzip, zstd, xz.

    With its first four octets, fewer if it is shorter; the file has them, too.  It may be a pipe.  Raises
    CaptureUnreadable, OSError.
    """
    file: IO[bytes] = path.open("rb")
    try:
        head = file.read(6)
        file = io.BufferedReader(_Again(head, file), _PORTION)
        for magic, decompressor in _COMPRESSIONS:
            if head.startswith(magic):
                file = io.BufferedReader(_Decompressed(file, decompressor, path), _PORTION)
                head = file.read(4)  # of members that may be as short as they like
                file = io.BufferedReader(_Again(head, file), _PORTION)
    except ImportError as error:
        file.close()
        raise CaptureUnreadable(f"{path}: zstd needs rootsrv[capture] to be installed") from error
    except BaseException:
        file.close()
        raise
    return head[:4], file


class _Again(io.RawIOBase):
    """*head*, which has been read from *file*, and then the rest of it: a pipe cannot be read again."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head, self._file = head, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        octets = self._head or self._file.read(len(buffer))
        buffer[: len(octets)] = octets
        self._head = b""
        return len(octets)

    def close(self) -> None:
        self._file.close()
        super().close()


def _gzip() -> Any:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompressobj(31)  # with the head and tail of gzip
    return isal_zlib.decompressobj(31)


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj()


_COMPRESSIONS: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\xfd7zXZ\x00", lambda: lzma.LZMADecompressor(memlimit=_DICTIONARY_OCTETS)),
)

_DICTIONARY_OCTETS = 256 << 20
"""What a file of xz may want for its dictionary, which it says in its head: `xz -9` wants 65 MiB."""

# Compressed octets that are taken at once: what they become is held in memory, at worst some 100 MB of them.
_BITE = 4096


class _Decompressed(io.RawIOBase):
    """What is in *file*, members one after another; where the file ends within one, all that it gives.

    Errors are CaptureUnreadable.
    """

    def __init__(self, file: IO[bytes], new: Callable[[], Any], path: Path) -> None:
        self._file, self._new, self._path = file, new, path
        self._decompressor = new()
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            octets = self._file.read(_BITE)
            if not octets:
                return 0
            self._left = memoryview(self._feed(octets))
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def _feed(self, octets: bytes) -> bytes:
        made = []
        try:
            while octets.strip(b"\0") or not self._decompressor.eof:
                if self._decompressor.eof:
                    self._decompressor = self._new()
                made.append(self._decompressor.decompress(octets))
                if not self._decompressor.eof:
                    break
                octets = self._decompressor.unused_data
        except Exception as error:  # each library has its own: zlib.error, LZMAError, ZstdError, IsalError
            raise CaptureUnreadable(f"{self._path}: cannot be decompressed: {error}") from error
        return b"".join(made)

    def close(self) -> None:
        self._file.close()
        super().close()
