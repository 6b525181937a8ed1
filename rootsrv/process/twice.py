"""A small file that a start cannot do without, kept twice: what damages one leaves its twin."""
# Theory of operation
# -------------------
#   FILE          the octets as they are; what other versions and people read
#   FILE.twin     a line with their digest (SHA-256), then the same octets
#   FILE.aside    the twin of before, while FILE is written
#
#   write:  FILE.twin becomes FILE.aside │ FILE is replaced │ FILE.twin is written │ FILE.aside goes
#           (FILE could not be replaced: FILE.aside becomes FILE.twin again)
#
# Law 1  A twin is never older than its file: one that would be is not there.  What was ordered last is not forgotten
#        for an order before it.
# Law 2  A file that can be read counts, whatever its twin says: an older version, or a person, may have written it.
# Law 3  What is read from the twin is put back at once, and told for as long as the role lives.

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rootsrv.process import log, whole_file

T = TypeVar("T")

_HEADER = b"sha256 "
TWIN, ASIDE = ".twin", ".aside"


class BothDamaged(ValueError):
    """Neither the file nor its twin can be read."""


class Twice:
    """One such file; what is in it is its owner's to say."""

    def __init__(self, path: Path, mode: int | None = None) -> None:
        """*mode*: permission bits of both; without it as `open` gives them."""
        self.path = path
        self.twin = path.with_name(path.name + TWIN)
        self._aside = path.with_name(path.name + ASIDE)
        self._mode = mode
        self.fell_back = ""
        """Why the file could not be read when it was read last, and its twin was; empty: it could."""

        self.alone = ""
        """Why there is only one copy that is good; empty: there are two."""

    @property
    def trouble(self) -> str:
        """What a person should know of it; empty: nothing."""
        return self.fell_back or self.alone

    def as_document(self) -> dict[str, str]:
        """For a role's status."""
        return {"name": self.path.name, "trouble": self.trouble}

    def read(self, parse: Callable[[bytes], T], *, mend: bool = True) -> T | None:
        """What *parse* makes of it, which raises ValueError for what is damaged; None if there is nothing.

        BothDamaged if neither can be read.  Without *mend* nothing is written or told: by who only reads.
        """
        try:
            octets = self.path.read_bytes()
            found = parse(octets)
        except FileNotFoundError:
            if not self.twin.exists():
                return None
            why = "is not there"
        except OSError as error:
            why = error.strerror or str(error)
        except ValueError as error:
            why = f"damaged ({error})"
        else:
            if mend:
                self._settle(octets)
            return found
        try:
            octets = self._read_twin()
            found = parse(octets)
        except OSError as error:
            raise BothDamaged(f"{self.path}: {why}; {self.twin.name}: {error.strerror}") from error
        except ValueError as error:
            raise BothDamaged(f"{self.path}: {why}; {self.twin.name}: {error}") from error
        self.fell_back = f"{self.path}: {why}; its twin was read"
        if not mend:
            return found
        log.alarm("file damaged, its twin was read", file=self.path, reason=why)
        try:
            whole_file.replace(self.path, octets, self._mode)
        except OSError as error:
            self.alone = f"{self.path}: {error.strerror}"
        return found

    def write(self, octets: bytes) -> None:
        """Replace both; OSError if the file could not be, and then both are as they were."""
        with contextlib.suppress(FileNotFoundError):
            self.twin.replace(self._aside)
        try:
            whole_file.replace(self.path, octets, self._mode)
        except OSError:
            with contextlib.suppress(OSError):
                self._aside.replace(self.twin)
            raise
        self._write_twin(octets)

    def _settle(self, octets: bytes) -> None:
        """The file is good; see that its twin is."""
        try:
            if self._read_twin() == octets:
                return
        except (OSError, ValueError):
            pass
        with contextlib.suppress(OSError):
            self.twin.unlink(missing_ok=True)
        self._write_twin(octets)

    def _read_twin(self) -> bytes:
        header, _, octets = self.twin.read_bytes().partition(b"\n")
        if header != _HEADER + hashlib.sha256(octets).hexdigest().encode():
            raise ValueError("its digest is wrong")
        return octets

    def _write_twin(self, octets: bytes) -> None:
        header = _HEADER + hashlib.sha256(octets).hexdigest().encode() + b"\n"
        try:
            whole_file.replace(self.twin, header + octets, self._mode)
        except OSError as error:
            why = f"{self.twin}: {error.strerror}"
            if why != self.alone:
                log.alarm("file has no twin", file=self.path, reason=error.strerror)
            self.alone = why
        else:
            self.alone = ""
        with contextlib.suppress(OSError):
            self._aside.unlink(missing_ok=True)
