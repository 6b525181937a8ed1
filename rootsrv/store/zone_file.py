"""Zone files and trust anchor files on disk."""

import gzip
import io
import zlib
from collections.abc import Iterable
from pathlib import Path

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import ZoneConfig
from rootsrv.zone.anchors import AnchorsMalformed, TrustAnchors
from rootsrv.zone.contents import ZoneContents

# Thirty times the root zone's file; a gzip file of a few octets could expand to fill the memory.
MAX_ZONE_FILE_OCTETS = 64 * 1024 * 1024

_GZIP_MAGIC = b"\x1f\x8b"


class FileUnusable(Exception):
    """The file cannot be read at all."""


def is_gzip(octets: bytes) -> bool:
    """Whether *octets* begin as a gzip file does (RFC 1952 §2.3.1)."""
    return octets.startswith(_GZIP_MAGIC)


def unzipped(octets: bytes, at_most: int | None = None) -> bytes:
    """What the gzip file *octets* holds; FileUnusable if it is damaged or holds more than *at_most* octets.

    *at_most*: MAX_ZONE_FILE_OCTETS unless given.
    """
    at_most = MAX_ZONE_FILE_OCTETS if at_most is None else at_most
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(octets)) as stream:
            plain = stream.read(at_most + 1)
    except (OSError, EOFError, zlib.error) as error:  # a damaged gzip file raises any of them
        raise FileUnusable(f"gzip: {error}") from error
    if len(plain) > at_most:
        raise FileUnusable(f"gzip: more than {at_most} octets when decompressed")
    return plain


def read_octets(path: Path) -> bytes:
    """The file's octets, decompressed if it is a gzip file; FileUnusable says why not."""
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_ZONE_FILE_OCTETS + 1)
    except OSError as error:
        raise FileUnusable(f"{path}: {error.strerror or error}") from error
    if len(octets) > MAX_ZONE_FILE_OCTETS:
        raise FileUnusable(f"{path}: larger than {MAX_ZONE_FILE_OCTETS} octets")
    try:
        return unzipped(octets) if is_gzip(octets) else octets
    except FileUnusable as error:
        raise FileUnusable(f"{path}: {error}") from error


def read_zone(path: Path, apex: bytes) -> ZoneContents:
    """The zone *apex* (wire format) from a zone file, which may be gzipped.

    Raises FileUnusable, or ZoneMalformed with the line.
    """
    from rootsrv.zone import presentation  # here: who only wants the anchors starts sooner without dnspython

    return presentation.from_text(read_octets(path), apex)


def check_trust_anchors(zones: Iterable[ZoneConfig]) -> list[str]:
    """What is odd about the trust anchors of *zones*, a line each; ConfigError names a file that is no use."""
    told: list[str] = []
    for zone in zones:
        if zone.validation == "none" or not zone.trust_anchors:
            continue
        try:
            told += read_trust_anchors(Path(zone.trust_anchors)).alarms
        except AnchorsMalformed as error:
            raise ConfigError(f"zone.trust_anchors: {zone.trust_anchors}: {error}") from error
        except FileUnusable as error:
            raise ConfigError(f"zone.trust_anchors: {error}") from error
    return told


def read_trust_anchors(path: Path) -> TrustAnchors:
    """Trust anchors from a file; FileUnusable or AnchorsMalformed say why not."""
    try:
        text = read_octets(path).decode()
    except UnicodeDecodeError as error:
        raise AnchorsMalformed(f"{path}: not UTF-8 text: {error}") from error
    try:
        return TrustAnchors.from_text(text)
    except AnchorsMalformed as error:
        raise AnchorsMalformed(f"{path}: {error}") from error
