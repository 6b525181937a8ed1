"""Zone files and trust anchor files on disk."""

import gzip
import zlib
from pathlib import Path

from rootsrv.zone import presentation
from rootsrv.zone.anchors import AnchorsMalformed, TrustAnchors
from rootsrv.zone.contents import ZoneContents

# Thirty times the root zone's file; a gzip file of a few octets could expand to fill the memory.
MAX_ZONE_FILE_OCTETS = 64 * 1024 * 1024

_GZIP_MAGIC = b"\x1f\x8b"


class FileUnusable(Exception):
    """The file cannot be read at all."""


def read_octets(path: Path) -> bytes:
    """The file's octets, decompressed if it is a gzip file; FileUnusable says why not."""
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if is_gzip else file as plain:
                octets = plain.read(MAX_ZONE_FILE_OCTETS + 1)
    except (OSError, EOFError, zlib.error) as error:  # a damaged gzip file raises any of them
        raise FileUnusable(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(octets) > MAX_ZONE_FILE_OCTETS:
        raise FileUnusable(f"{path}: larger than {MAX_ZONE_FILE_OCTETS} octets")
    return octets


def read_zone(path: Path, apex: bytes) -> ZoneContents:
    """The zone *apex* (wire format) from a zone file, which may be gzipped.

    Raises FileUnusable, or ZoneMalformed with the line.
    """
    return presentation.from_text(read_octets(path), apex)


def read_trust_anchors(path: Path) -> TrustAnchors:
    """Trust anchors from a file; FileUnusable or AnchorsMalformed say why not."""
    try:
        text = read_octets(path).decode()
    except UnicodeDecodeError as error:
        raise AnchorsMalformed(f"not UTF-8 text: {error}") from error
    return TrustAnchors.from_text(text)
