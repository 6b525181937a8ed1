"""What files of a capture are called: while they are written, when they are whole, and when they cannot be."""

import os
import re
import stat
from pathlib import Path

from rootsrv.capture.compression import SUFFIXES
from rootsrv.process import json_text

PART, INCOMPLETE = ".part", ".incomplete"
METADATA, CHECKSUM = ".json", ".md5"
XZ = ".xz"
_COMPRESSED = (*filter(None, SUFFIXES.values()), XZ)

ORDER = "order.json"
"""What the role was told, beside its files."""

NAME = re.compile(
    r"([A-Za-z0-9_-]{1,80}\.\d{8}\.\d{6}\.\d{6}\.pcap|\d{8}-\d{6}\.\d{6}_[A-Za-z0-9_-]{1,80}\.cdns)(\.gz|\.zst|\.xz)?"
)
"""What a file is called when it is whole (formats.py)."""

INCOMPLETE_NAME = re.compile(rf"{NAME.pattern}(\.\d+)?\{INCOMPLETE}")
LEFT_BY_A_CRASH = re.compile(r"order\.json\.[0-9a-f]{16}\.writing")  # whole_file.py
_MADE_HERE = re.compile(
    rf"{NAME.pattern}(\{PART}|(\{METADATA}|\{CHECKSUM})?)|{INCOMPLETE_NAME.pattern}"
    rf"|{re.escape(ORDER)}|{LEFT_BY_A_CRASH.pattern}"
)


def is_made_here(name: str) -> bool:
    """Whether files of that name are a capture's: what the role makes, and nothing else."""
    return bool(_MADE_HERE.fullmatch(name))


def is_named(path: Path, pattern: re.Pattern[str], suffix: str = "") -> bool:
    """Whether *path* is a file, no link to one, whose name is as ours are, with *suffix* behind it."""
    if not path.name.endswith(suffix) or not pattern.fullmatch(path.name.removesuffix(suffix)):
        return False
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_whole(path: Path) -> bool:
    """Whether *path* is as long as its metadata says."""
    try:
        about = json_text.parse(path.with_name(path.name + METADATA).read_bytes())
        return isinstance(about, dict) and about.get("octets") == path.stat().st_size
    except (OSError, ValueError):
        return False


def is_taken(path: Path) -> bool:
    """Whether a file of that name is there, or being written, or was and has been compressed again.

    However it is compressed: of two that differ in nothing else one would become the other, compressed again.
    """
    plain = path.name.removesuffix(path.suffix) if path.suffix in _COMPRESSED else path.name
    names = [plain + suffix for suffix in ("", *_COMPRESSED)]
    return any(os.path.lexists(path.with_name(name + ending)) for name in names for ending in ("", PART))


def packed(path: Path) -> Path:
    """What *path* is called when it has been compressed again."""
    return path.with_suffix(XZ) if path.suffix in (".gz", ".zst") else path.with_name(path.name + XZ)


def packed_from(target: Path) -> list[Path]:
    """The files that are there and of which *target* is made, or was."""
    if target.suffix != XZ:
        return []
    return [each for suffix in SUFFIXES.values() if (each := target.with_suffix(suffix)).exists()]
