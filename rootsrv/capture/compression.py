"""Compression of files while they are written: gzip and zstd, in members that each are a file of their own."""

import zlib
from collections.abc import Callable
from typing import Any, Protocol

SUFFIXES = {"none": "", "gzip": ".gz", "zstd": ".zst"}


class CompressionUnavailable(Exception):
    """This compression needs a library that is not installed."""


class Compressor(Protocol):
    """One member: what `compress` and then `flush` return is whole."""

    def compress(self, octets: bytes, /) -> bytes:
        """More of the member."""

    def flush(self) -> bytes:
        """Its end."""


class _Plain:
    def compress(self, octets: bytes, /) -> bytes:
        return octets

    def flush(self) -> bytes:
        return b""


_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ISAL_LEVEL, _ZLIB_LEVEL, _ZSTD_LEVEL = 2, 1, 1


def compressors(method: str) -> Callable[[], Compressor]:
    """What begins a member of *method* (none, gzip, zstd); CompressionUnavailable names what is missing."""
    if method == "gzip":
        try:
            from isal import isal_zlib
        except ImportError:
            return lambda: zlib.compressobj(_ZLIB_LEVEL, wbits=_GZIP_WINDOW)
        return lambda: isal_zlib.compressobj(_ISAL_LEVEL, wbits=_GZIP_WINDOW)
    if method == "zstd":
        try:
            import zstandard
        except ImportError as error:
            raise CompressionUnavailable(
                'compression = "zstd": zstandard is not installed (pip install rootsrv[capture])'
            ) from error
        made: Any = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        begin: Callable[[], Compressor] = made.compressobj
        return begin
    return _Plain
