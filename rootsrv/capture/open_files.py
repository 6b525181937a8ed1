"""Which files are being written, and how much of each is whole, kept where the next role finds it."""
# Beside the hand (hand.py), in memory that outlives whoever is killed: of each file that has no name yet what belongs
# into its metadata, and up to where it consists of whole members, with what stands there.  A role that comes after one
# that was killed cuts such a file back to that, as if the disk had been full, and finishes it (left_behind.py); what
# was behind is in the hand, and lost.  After a start of the machine nobody knows what of a file reached the disk:
# nothing of before is believed then.
#
# There are two places for what is whole, and a word says which one counts: it is never half of the one and of the
# other.

import contextlib
import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootsrv.process import json_text, log
from rootsrv.process.clocks import boot_id

NAME = "capture-open-files"

_AREAS = 4
"""Files at once: one that is written, and those that are on their way to the disk."""

_AREA_OCTETS = 4096
_TEXT_AT = 256
_IN_USE, _WHICH, _TEXT_OCTETS = 0, 1, 2
_PLACES = 8, 16
_NO_TIME = -1 << 63


@dataclass(frozen=True, slots=True)
class Whole:
    """What is whole of a file."""

    octets: int
    items: int
    lost: int
    passed_over: int
    late: int
    first: int | None
    last: int | None
    is_ended: bool
    """Whether nothing more comes, and what it ends with is there."""


class Area:
    """What is known of one file."""

    def __init__(self, memory: memoryview) -> None:
        """*memory*: _AREA_OCTETS."""
        self._words = memory[:_TEXT_AT].cast("q")
        self._text = memory[_TEXT_AT:]

    @property
    def is_free(self) -> bool:
        """Whether it is about no file."""
        return not self._words[_IN_USE]

    def begin(self, text: bytes, whole: Whole) -> None:
        """It is about a file of which *text* tells, up to `free`."""
        self._text[: len(text)] = text
        self._words[_TEXT_OCTETS] = len(text)
        self.put(whole)
        self._words[_IN_USE] = 1

    def put(self, whole: Whole) -> None:
        """So much is whole now."""
        which = not self._words[_WHICH]
        at = _PLACES[which]
        times = (_NO_TIME if each is None else each for each in (whole.first, whole.last))
        counts = whole.octets, whole.items, whole.lost, whole.passed_over, whole.late
        for number, value in enumerate((*counts, *times, whole.is_ended)):
            self._words[at + number] = value
        self._words[_WHICH] = which

    def free(self) -> None:
        """The file has its name, or never will."""
        self._words[_IN_USE] = 0

    @property
    def whole(self) -> Whole:
        """What was put last."""
        at = _PLACES[bool(self._words[_WHICH])]
        octets, items, lost, passed_over, late, *times, is_ended = self._words[at : at + 8]
        first, last = (None if each == _NO_TIME else each for each in times)
        return Whole(octets, items, lost, passed_over, late, first, last, bool(is_ended))

    @property
    def text(self) -> bytes:
        """What was told of the file."""
        return bytes(self._text[: max(0, self._words[_TEXT_OCTETS])])


class OpenFiles:
    """Those of one role."""

    def __init__(self, memory: memoryview) -> None:
        """*memory*: _AREAS of _AREA_OCTETS, of zeros or of these before."""
        self._areas = [Area(memory[at : at + _AREA_OCTETS]) for at in range(0, _AREAS * _AREA_OCTETS, _AREA_OCTETS)]
        self._boot = boot_id()

    @classmethod
    def open(cls, path: Path) -> "OpenFiles":
        """Those at *path*; nobody else's where that cannot be, which is logged."""
        size = _AREAS * _AREA_OCTETS
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, size)
                os.posix_fallocate(descriptor, 0, size)  # a page that cannot be had later is a SIGBUS
                return cls(memoryview(mmap.mmap(descriptor, size)))
            finally:
                os.close(descriptor)
        except OSError as error:
            log.alarm("capture's open files not kept", reason=error, costs="the files of a role that is killed")
            return cls.in_memory()

    @classmethod
    def in_memory(cls) -> "OpenFiles":
        """Those of a process, which end with it."""
        return cls(memoryview(mmap.mmap(-1, _AREAS * _AREA_OCTETS)))

    def begin(self, name: str, end: bytes, about: dict[str, Any], whole: Whole) -> Area | None:
        """The file of that *name* is begun, and ends with *end*; None where nothing can be kept of it.

        *about*: what its metadata say besides.
        """
        document = {"name": name, "end": end.hex(), "about": about, "boot": self._boot}
        text = json.dumps(document).encode()
        for area in self._areas if len(text) <= _AREA_OCTETS - _TEXT_AT else ():
            if area.is_free:
                area.begin(text, whole)
                return area
        return None

    def left(self) -> Iterator[tuple[str, bytes, dict[str, Any], Area]]:
        """Name, end, metadata and what is whole of each file that a role before this one left; they are free then."""
        for area in self._areas:
            if area.is_free:
                continue
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told = json_text.parse(area.text)
                name, end, about = str(told["name"]), bytes.fromhex(told["end"]), told["about"]
                if told["boot"] == self._boot and isinstance(about, dict):
                    yield name, end, about, area
            area.free()
