"""Answer tables on disk: `tables/<generation>.table` in the state directory, with notes of what they were made from."""
# A table is written beside its final name, synchronised and renamed, and only then noted: whatever instant the power
# fails at, a note refers to a whole table, and a table without a note is never used again.

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rootsrv.answer.table import AnswerTable, TableUnusable


@dataclass(frozen=True, slots=True)
class TableNote:
    """What the table of one generation was made from."""

    generation: int
    source: str
    """Digest over everything that went in: zone files, trust anchors, policy."""

    confirmed: tuple[float, ...]
    """Per zone: when it was last confirmed, seconds since 1970 by the clock that judges validity (for its lease)."""


class TableStore:
    """The tables of one state directory; one process writes, any may read."""

    def __init__(self, directory: Path) -> None:
        """*directory*: the state directory; OSError if it cannot be written."""
        self.directory = directory / "tables"
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)

    def path(self, generation: int) -> Path:
        """The file of *generation*."""
        return self.directory / f"{generation}.table"

    def generations(self) -> list[int]:
        """All generations that have a file, ascending."""
        found = (each.stem for each in self.directory.glob("*.table"))
        return sorted(int(stem) for stem in found if stem.isdigit())

    def next_generation(self) -> int:
        """A number that no table here has had since the last one was removed."""
        noted = (each.stem for each in self.directory.glob("*.json"))
        return 1 + max([*self.generations(), *(int(stem) for stem in noted if stem.isdigit())], default=0)

    def write(self, octets: bytes, source: str, confirmed: tuple[float, ...]) -> TableNote:
        """Store a table as the next generation; OSError leaves nothing behind."""
        note = TableNote(self.next_generation(), source, confirmed)
        self._write(self.path(note.generation), octets)
        self.note(note)
        return note

    def note(self, note: TableNote) -> None:
        """Write or replace the note of a generation."""
        self._write(self._note_path(note.generation), json.dumps(asdict(note)).encode())

    def notes(self) -> Iterator[TableNote]:
        """The notes that can be read, newest generation first."""
        for generation in reversed(self.generations()):
            try:
                document = json.loads(self._note_path(generation).read_text())
                yield TableNote(
                    int(document["generation"]), str(document["source"]), tuple(map(float, document["confirmed"]))
                )
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not noted, or the note is damaged: the table is made anew

    def open(self, generation: int) -> AnswerTable:
        """Map the table of *generation*; TableUnusable says why it cannot be used."""
        try:
            return AnswerTable.open(self.path(generation))
        except OSError as error:
            raise TableUnusable(f"{self.path(generation)}: {error.strerror}") from error

    def remove_all_but(self, kept: set[int]) -> None:
        """Remove the tables of other generations; what a worker has mapped stays until it lets go."""
        for generation in self.generations():
            if generation not in kept:
                self._note_path(generation).unlink(missing_ok=True)
                self.path(generation).unlink(missing_ok=True)
        for left in self.directory.glob("*.new"):
            left.unlink(missing_ok=True)

    def _note_path(self, generation: int) -> Path:
        return self.directory / f"{generation}.json"

    def _write(self, path: Path, octets: bytes) -> None:
        temporary = path.with_name(path.name + ".new")
        try:
            with temporary.open("wb") as stream:
                os.fchmod(stream.fileno(), 0o644)  # the workers, without privilege, read it
                stream.write(octets)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
