"""Rows in order into files: begins each in its window of time, and ends it; what failing costs is told here."""
# An exception that nobody expected costs what was in its hand, and no more: rows that could not be put into the format
# (`format`, with the block that was begun), or what could not be written (`writer`: the file is cut back as if the disk
# were full, and a second later begun anew).

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rootsrv.capture import output_file, rings, sequence
from rootsrv.capture.account import Account, where_lost
from rootsrv.capture.compression import SUFFIXES
from rootsrv.capture.file_names import is_taken
from rootsrv.capture.files import CaptureDirectory, Finisher
from rootsrv.capture.formats import Format
from rootsrv.capture.output_file import OutputFile
from rootsrv.capture.wall_clock import WallClock
from rootsrv.capture.wanted import WantedCapture
from rootsrv.process import clocks
from rootsrv.process.time_slice import give_way

_SECOND = 10**9
_AT_ONCE = 128 << 10
"""Octets that are compressed in less than half a millisecond."""


class FileWriter:
    """Of one collector: the file that is being written, and those that follow it."""

    def __init__(
        self,
        directory: CaptureDirectory,
        finisher: Finisher,
        account: Account,
        clock: WallClock,
        refuse: Callable[[Exception, str], None],
    ) -> None:
        """*refuse*: told why nothing can be written until there is room; it loses what is in hand."""
        self._directory = directory
        self._finisher = finisher
        self._account = account
        self._clock = clock
        self._refuse = refuse
        self._wanted: WantedCapture | None = None
        self._format: Format | None = None
        self._file: OutputFile | None = None
        self._until = 0
        """Where the file's window ends, wall time."""

        self._taken_until = 0

    def start(self, wanted: WantedCapture) -> None:
        """Write this from now on."""
        self._wanted, self._format = wanted, wanted.make_format()
        self.leave_window()

    def stop(self) -> None:
        """Write nothing more."""
        self._wanted = self._format = None

    @property
    def format(self) -> Format:
        """What is written."""
        assert self._format is not None
        return self._format

    @property
    def name(self) -> str:
        """Of the file that is being written; empty: there is none."""
        return "" if self._file is None else self._file.path.name

    def note(self, text: str) -> None:
        """Into the metadata of the file that is being written."""
        if self._file is not None and text not in self._file.contents.notes:
            self._file.contents.notes.append(text)

    def leave_window(self) -> None:
        """The next file does not continue the one before it."""
        self._until = 0

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────

    def write(self, rows: bytes) -> None:
        """Rows in order into files, each into that of its time; and what has not been told."""
        if rows:
            late = sequence.older(rows, self._taken_until)
            self._taken_until = max(self._taken_until, sequence.last_time(rows))
            self._account.totals.late += late
            if self._file is not None:
                self._file.contents.late += late
        while rows:
            if self._file is None and not self.begin(sequence.first_time(rows) + self._clock.offset):
                return
            due = sequence.before(rows, self._until - self._clock.offset)
            # No more at once than a member: what is taken after a pause would be one, however large the rings are.
            end = min(due, sequence.portion(rows, output_file.MEMBER_OCTETS))
            if not self._append(rows[:end]):
                return
            rows = rows[end:]
            if rows and end == due and not self.end():
                return
        if self._account.untold != rings.Counts() and (self._file is not None or self.begin(self._clock.now())):
            self._append(b"")

    def _append(self, rows: bytes) -> bool:
        """Whether it can go on."""
        file = self._file
        if file is None or not (rows or self._account.untold != rings.Counts()):
            return True
        octets = self._formatted(file, rows, sequence.items(rows))
        if octets is None:
            return True
        if rows:
            first, last = (each(rows) + self._clock.offset for each in (sequence.first_time, sequence.last_time))
            contents = file.contents
            contents.first = first if contents.first is None else min(first, contents.first)
            contents.last = last if contents.last is None else max(last, contents.last)
        return self._put(file, octets) and (file.octets < self._directory.room.largest_octets or self.end())

    def _put(self, file: OutputFile, octets: bytes) -> bool:
        """Whether *octets* are in *file*, and its member has ended if it is time."""
        try:
            for at in range(0, len(octets), _AT_ONCE):
                file.write(octets[at : at + _AT_ONCE])
                give_way()
            if file.ends_member:
                file.write(self._flushed(file))
                file.end_member()
        except Exception as error:
            self._writing_failed(error)
            return False
        self._count_written(file)
        return True

    def _formatted(self, file: OutputFile, rows: bytes, items: int) -> bytes | None:
        """What *rows*, which tell of *items*, add to *file*, and of what has not been told; None: they are lost."""
        held, left_out, told = self.format.held, self.format.left_out, self._account.untold
        try:
            octets = self.format.add(rows, self._clock.offset, told.lost, told.passed_over)
        except Exception as error:
            self._spoilt(file, held, items, error)
            return None
        file.contents.counts += self._account.written(items)
        self._leave_out(file, self.format.left_out - left_out)
        return octets

    def _flushed(self, file: OutputFile) -> bytes:
        """What the format held back, for *file*."""
        held, left_out = self.format.held, self.format.left_out
        try:
            octets = self.format.flush()
        except Exception as error:
            self._spoilt(file, held, 0, error)
            return self._losses_alone(file)
        self._leave_out(file, self.format.left_out - left_out)
        return octets

    def _losses_alone(self, file: OutputFile) -> bytes:
        """For *file*: what has not been told, and nothing else."""
        octets = self._formatted(file, b"", 0) if self._account.untold != rings.Counts() else b""
        held = self.format.held
        try:
            return (octets or b"") + self.format.flush()
        except Exception as error:
            self._spoilt(file, held, 0, error)
            return b""

    def _leave_out(self, file: OutputFile, items: int) -> None:
        """Queries that the format cannot keep, and has told of itself."""
        if items:
            self._account.left_out(items)
            file.contents.counts += rings.Counts(-items, items)

    # ── failures ────────────────────────────────────────────────────────────────────────────────────────────────

    def _spoilt(self, file: OutputFile, held: rings.Counts, items: int, error: Exception) -> None:
        """*error* came out of the format: *items*, and what it *held* of *file*, are lost."""
        self.format.drop()
        file.contents.counts -= held
        self._account.take_back(held)
        self.unexpected("format", held.items + items, error)

    def unexpected(self, where: str, items: int, error: Exception) -> None:
        """An exception that nobody expected ends one attempt: *items* of those in hand are lost, and counted."""
        self._account.lose(where, items)
        self.tell_error(where, error, items)

    def tell_error(self, where: str, error: Exception, items: int) -> None:
        """An exception that nobody expected has cost *items*."""
        self._account.tell_error(where, error, items)
        self.note(f"queries were lost to an error ({where}): {type(error).__name__}")

    def _writing_failed(self, error: Exception) -> None:
        """Nothing can be written: what is whole of the file is kept, and nothing is captured until there is room."""
        file, self._file = self._file, None
        assert file is not None
        self.format.drop()  # what it held is behind what is whole
        where = where_lost(error)
        try:
            self._account.lose_written(where, file.cut_back())
            file.contents.notes.append(f"ended early: {getattr(error, 'strerror', None) or type(error).__name__}")
            file.write(self._losses_alone(file))
            file.end()
        except Exception:
            self._account.lose_written(where, file.contents.counts)
            file.abandon()
            self._directory.abandoned(file.path)
        else:
            self._finisher.finish(file, self._about())
        self._count_written(file)
        self._refuse(error, file.path.name)

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, at: int) -> bool:
        """Begin the file of wall time *at*; False: there is no room, or it cannot be made."""
        assert self._wanted is not None
        at += self._clock.adjust()
        window = self._wanted.rotation_seconds * _SECOND
        start = at - at % window
        # A file that begins within its window says so: another one may have begun there before.
        begins = start if self._until == start else at
        self._until = start + window
        begun: Path | None = None
        try:
            self._format = self._wanted.make_format()
            name, suffix, number = self._wanted.name, SUFFIXES[self._wanted.compression], 1
            while is_taken(path := self._directory.path / (self._format.file_name(name, begins) + suffix)):
                number += 1
                name = f"{self._wanted.name}-{number}"
            begun = path
            self._file = OutputFile.begin(
                path,
                self._wanted.begin_member,
                self._format.begin(),
                self._format.end,
                open_files=self._account.hand.files,
                about=self._about(),
            )
        except Exception as error:
            if begun is not None and not isinstance(error, FileExistsError):  # that would be another's
                self._directory.abandoned(begun)
            self._refuse(error, "a file cannot be begun")
            return False
        return True

    def end(self) -> bool:
        """Nothing more comes for the file: have it finished; False: that cannot be."""
        file = self._file
        if file is None:
            return True
        try:
            file.write(self._flushed(file))
            file.end()
        except Exception as error:
            self._writing_failed(error)
            return False
        self._file = None
        self._count_written(file)
        self._finisher.finish(file, self._about())
        return True

    def end_in_time(self, wall: int) -> None:
        """End a file, or a member of one, whose time is over though nothing came that would have ended it."""
        if self._file is not None and wall - 10 * sequence.HOLD_BACK_NS >= self._until:
            self.end()
        elif self._file is not None and self._file.ends_member:
            self._put(self._file, b"")

    def _about(self) -> dict[str, Any]:
        assert self._wanted is not None
        return {
            **self._wanted.about,
            "anonymisation_method": "" if self._format is None else self._format.method,
            "every": self._wanted.every,
            "window_end": self._until // _SECOND,
            "written_at": int(self._clock.now() // _SECOND),
            "clock_error_seconds": clocks.greatest_error_seconds(),
        }

    def _count_written(self, file: OutputFile) -> None:
        """Into the totals what *file* has had since: a compressor gives most of it when its member ends."""
        self._account.totals.written_octets += max(0, file.octets - file.counted_octets)
        file.counted_octets = max(file.counted_octets, file.octets)
