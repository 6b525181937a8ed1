"""What a role that was killed left behind: files that are finished, set aside, or go."""

import os
from pathlib import Path
from typing import Any, Protocol

from rootsrv.capture.compression import SUFFIXES, compressors
from rootsrv.capture.file_names import (
    CHECKSUM,
    LEFT_BY_A_CRASH,
    METADATA,
    NAME,
    PART,
    XZ,
    is_named,
    is_whole,
    packed_from,
)
from rootsrv.capture.hand import Hand
from rootsrv.capture.open_files import Whole
from rootsrv.capture.output_file import OutputFile, unlink
from rootsrv.process import log
from rootsrv.process.children import describe_error
from rootsrv.process.troubles import place_of


class Directory(Protocol):
    """That of the files (files.py)."""

    path: Path

    def files(self) -> list[Path]:
        """Those that were made here."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def abandoned(self, path: Path) -> None:
        """The file of the final name *path* will not be finished."""


def find_again(directory: Directory, hand: Hand | None) -> None:
    """Look at what there is in *directory* before anything is written there; *hand*: of the role before this one."""
    path = directory.path
    if hand is not None:
        hand.end_settling(directory.has)
        for name, end, about, area in hand.files.left():
            _finish_what_is_whole(path / name, end, about, area.whole, hand)
    for part in sorted(each for each in path.glob(f"*{PART}") if is_named(each, NAME, PART)):
        log.alarm("capture file incomplete", file=part.name, reason="the role was ended while it was written")
        directory.abandoned(part.with_name(part.name.removesuffix(PART)))
    for each in directory.files():  # those that had just been compressed again
        if each.suffix == XZ and is_whole(each):
            for source in packed_from(each):
                unlink(source)
    for each in path.iterdir():
        beside = each.suffix in (METADATA, CHECKSUM) and is_named(each, NAME, each.suffix)
        if (beside and not each.with_suffix("").exists()) or is_named(each, LEFT_BY_A_CRASH):
            unlink(each)


def _finish_what_is_whole(path: Path, end: bytes, about: dict[str, Any], whole: Whole, hand: Hand) -> None:
    """The file of the final name *path*, which a role that was killed was writing."""
    part = path.with_name(path.name + PART)
    if not is_named(part, NAME, PART) or os.path.lexists(path) or not (whole.items or whole.lost):
        return  # it has its name, or is set aside
    file: OutputFile | None = None
    try:
        method = next((each for each, suffix in SUFFIXES.items() if suffix == path.suffix), "none")
        file = OutputFile.found_again(path, compressors(method), end, whole)
        file.finish(about, hand)
    except Exception as error:  # whatever it is, it costs this file, and not every start of the role
        log.alarm("capture file not recovered", file=path.name, reason=describe_error(error), at=place_of(error))
        if file is not None and not file.has_its_name:
            file.abandon()
        return
    log.alarm(
        "capture file recovered", file=path.name, items=whole.items, reason="the role was killed while it was written"
    )
