"""From the rings to the files: takes rows, puts them in order, begins and ends files."""
# Over 400 lines: it is one state machine, and what every failure costs is told in one place.
#
# Theory of operation
# -------------------
#
#               start                      until is over, stop, a disk without room (`full`)
#   idle ──────────────────▶ capturing ──────────────────────────────────────────────────────▶ draining ──▶ idle, full
#   rings off                rings on      rings off, what they have is taken, the file ends
#
# `full` goes on when there is room again, unless the time is over.  All of it happens in `turn`, which is called every
# POLL_SECONDS and does one round: nothing here sleeps, waits for anybody or has a thread.
#
# The wall clock is CLOCK_BOOTTIME and an offset that is read every turn.  Small steps of it, as of a clock that is kept
# in time, move nothing: a time is never before the one before it.  A larger one ends the file and begins another.  One
# that says that the capture's time is over is not believed before it has stood for a while: what was not captured for a
# clock that somebody had set wrong is gone.
#
# What is lost is told where it is lost: by the kernel and by the workers in their rings, which go on counting while
# nobody reads; by the disk here.  Each loss is in the file that was open when it became known, or in the next: in its
# metadata, and as C-DNS in its statistics, which say the same.
#
# A query that has been taken from a ring is *in hand* until it is in a file or counted as lost.  An exception that
# nobody expected costs what was in its hand, and no more: rows that could not be put in order or into the format
# (`format`, with the block that was begun), or what could not be written (`writer`: the file is cut back as if the disk
# were full, and a second later begun anew).

import contextlib
import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootsrv.capture import offer, rings, sequence
from rootsrv.capture.compression import SUFFIXES, Compressor
from rootsrv.capture.files import CaptureDirectory, Finisher, OutputFile, is_full, is_taken
from rootsrv.capture.formats import Format
from rootsrv.capture.retention import STEADY_SECONDS
from rootsrv.process import clocks, log
from rootsrv.process.children import describe_error
from rootsrv.process.clock import boottime_ns
from rootsrv.process.troubles import Troubles

POLL_SECONDS = 0.02
ROOM_SECONDS = 1.0
"""How often it is looked whether there is room for more."""

AGED_SECONDS = 60.0
"""How often it is looked whether files are too old, whether or not anything is captured."""

STOPPING_SECONDS = 5.0
"""How long workers whose parent is gone may still be answering."""

AGAIN_SECONDS = 1.0
"""How long after the role serve handed out no rings it is asked again."""

_TRIES = 10  # serve may start last, and its sockets and tables take a moment: what stays so is worth an alarm

STEP_NS = 500_000_000
"""A step of the wall clock from which on the file ends."""

NOISE_NS = 100_000
"""What lies between two readings of the two clocks is no movement of one of them."""

FAILING_SECONDS = 60.0
"""For how long the status tells an exception that nobody expected."""

LOST_WHERE = ("kernel", "worker", "disk", "format", "writer", "interrupted")

_SECOND = 10**9
_END_OF_TIME = 1 << 63


class CollectorState(enum.Enum):
    """What the collector does."""

    IDLE = "idle"
    CAPTURING = "capturing"
    FULL = "full"


@dataclass
class Totals:
    """Since the role was started."""

    items: int = 0
    lost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOST_WHERE, 0))
    passed_over: int = 0
    late: int = 0
    written_octets: int = 0
    clock_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCapture:
    """What shall be captured."""

    make_format: Callable[[], Format]
    begin_member: Callable[[], Compressor]
    compression: str
    name: str
    rotation_seconds: int
    every: int = 1
    bits: int = rings.EVERYTHING
    until: float = 0.0
    """Wall time; 0 = until it is stopped."""

    about: dict[str, Any] = field(default_factory=dict)
    """What each file's metadata says besides."""


class Collector:
    """Turns rings into files, as it is told."""

    def __init__(
        self, source: Path, directory: CaptureDirectory, finisher: Finisher, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """*source*: where the role serve hands out the rings (offer.NAME)."""
        self._source = source
        self._directory = directory
        self._finisher = finisher
        self._hand = finisher.hand
        self._interrupted = self._hand.recover(directory.has)
        self._wall_ns = wall_ns
        self._taken: offer.Taken | None = None
        self._again_at = 0.0
        self._wanted: WantedCapture | None = None
        self._format: Format | None = None
        self._file: OutputFile | None = None
        self._until = 0
        """Where the file's window ends, wall time."""

        self._offset = self._trusted_offset = 0
        """From CLOCK_BOOTTIME to the wall clock: as it is, and as it was before it was stepped forward lately."""

        self._trusted_at = 0
        """When it is trusted again, CLOCK_BOOTTIME."""

        self._old: list[tuple[offer.Taken, float]] = []
        """Rings that a role serve wrote which is gone, and until when its workers may still be at it."""

        self._waiting: list[sequence.Rows] = []
        self._taken_until = 0
        self._in_hand = 0
        """Queries taken from the rings that are neither in a file nor counted as lost."""

        self._untold = rings.Counts()
        """Queries lost and passed over of which no file has been told."""

        self._refused_where = "disk"
        """What queries are lost to while the state is FULL."""

        self._errors = Troubles("capture lost queries to an error")
        self._failed: dict[str, tuple[float, str]] = {}
        self._room_at = self._aged_at = 0.0
        self._unaged = Troubles("capture cannot look for files that are too old")
        self._tries, self._alarmed = 0, ""
        """In a row in which there were no rings; the reason that was told of them."""

        self.state = CollectorState.IDLE
        self.totals = Totals()
        self.why = ""
        """Why nothing is captured, or not all of it."""

        self.behind_seconds = 0.0
        """Age of the oldest row that was not written, at the last turn."""

        self.fill = 0.0
        """Share of the fullest ring's room that was taken, at the last turn."""

    # ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, wanted: WantedCapture, *, resumed: bool = False) -> None:
        """Capture from now on; *resumed*: what has come since the role ended, or was lost then, belongs to it."""
        if self._wanted is not None:
            self.stop()
        self._wanted = wanted
        self._format = wanted.make_format()
        self._offset = self._trusted_offset = self._wall_ns() - boottime_ns()
        self._trusted_at = 0
        self._until = 0
        self._tell_interrupted()
        if not resumed:
            self._forget()
        self.state = CollectorState.CAPTURING
        self._connect(time.monotonic())  # others may have been handed over since the last turn
        if self._taken is not None:
            self.why = ""  # what the capture before had no room for
        elif not self.why:
            self.why = "the role serve has not handed over its rings yet"
        if not resumed:
            for ring in self._rings():
                ring.skip()
        self._switch_on()
        log.event("capture started", until=wanted.until or "stopped", **wanted.about)

    def adopt(self, taken: offer.Taken) -> None:
        """Read these rings, which are handed over and not taken."""
        self._taken = taken

    def stop(self, reason: str = "by order") -> None:
        """End it: what the rings have is written, and the file is finished."""
        if self._wanted is None:
            return
        self._switch_off()
        self._drain()
        self._wanted = self._format = None
        self.state = CollectorState.IDLE
        self._forget()
        log.event("capture stopped", reason=reason, items=self.totals.items)

    @property
    def until(self) -> float | None:
        """When it will end; 0 = when it is told; None: nothing is captured."""
        return None if self._wanted is None else self._wanted.until

    @property
    def failing(self) -> dict[str, str]:
        """Exceptions that nobody expected and that cost queries lately, by what they were lost to."""
        now = time.monotonic()
        return {f"capture {where}": what for where, (at, what) in self._failed.items() if now - at < FAILING_SECONDS}

    @property
    def file(self) -> str:
        """The file that is being written."""
        return "" if self._file is None else self._file.path.name

    # ── a turn ──────────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self) -> None:
        """Take what there is, write what is due."""
        now = time.monotonic()
        self.settle()
        if now >= self._aged_at:
            self._aged_at = now + AGED_SECONDS
            self._look_for_age()
        is_connected = self._connect(now)
        if self._wanted is None or not is_connected:
            self.fill = self.behind_seconds = 0.0
        if self._wanted is None:
            self._tell_interrupted()
            self._forget()
            return
        wall = self._wall_ns()
        if is_connected:
            self._follow_clock(wall)
        trusted = wall if boottime_ns() >= self._trusted_at else boottime_ns() + self._trusted_offset
        if self._wanted.until and trusted >= self._wanted.until * _SECOND:
            self.stop("its time is over")
            return
        if not is_connected:
            return
        if now >= self._room_at:
            self._room_at = now + ROOM_SECONDS
            self._look_for_room()
        if self.state is CollectorState.CAPTURING:
            self._take(boottime_ns() - sequence.HOLD_BACK_NS)
            self._rotate_when_idle(wall)
        else:
            self._discard()

    def _connect(self, now: float) -> bool:
        """Have the rings; the role serve may come later, and again."""
        if self._taken is not None and not self._taken.is_current:
            # The next ones are taken at once; these are emptied until nobody can be writing into them any more.
            self._old.append((self._taken, now + STOPPING_SECONDS))
            self._taken = None
            self._again_at = now
        for each in [each for each in self._old if each[1] < now]:
            each[0].close()
            self._old.remove(each)
        if self._taken is None and now >= self._again_at:
            self._again_at = now + AGAIN_SECONDS
            try:
                self._taken = offer.take(self._source)
            except offer.NoRings as error:
                self._tries += 1
                if self._tries >= _TRIES and str(error) != self._alarmed:
                    log.alarm("capture has no rings", reason=error)
                    self._alarmed = str(error)
                self.why = str(error)
            else:
                self.why, self._tries, self._alarmed = "", 0, ""
                self._hand.resume(self._taken.rings)
                if self._wanted is not None:
                    self._switch_on()
                else:
                    self._switch_off()
        return bool(self._rings())

    def _rings(self) -> list[rings.Ring]:
        found = [] if self._taken is None else list(self._taken.rings)
        for old, _ in self._old:
            found += old.rings
        return found

    def _switch_on(self) -> None:
        assert self._wanted is not None
        assert self._format is not None
        for ring in self._rings():
            ring.want(self._format.shape, self._wanted.every, self._wanted.bits)

    def _switch_off(self) -> None:
        for ring in self._rings():
            ring.want(rings.OFF)
            if self._wanted is None:
                ring.skip()

    def _take(self, until: int) -> None:
        """Take what is in the rings, and write what is older than *until* (CLOCK_BOOTTIME)."""
        try:
            ready, self._waiting = sequence.merge(self._waiting, self._from_rings(), until)
            self.behind_seconds = (boottime_ns() - sequence.first_time(ready)) / 1e9 if ready else 0.0
            if ready or self._untold != rings.Counts():
                self._write(ready)
        except Exception as error:
            self._waiting = []
            self._unexpected("format", self._in_hand, error)

    def _from_rings(self) -> list[bytes]:
        """What is in each of the rings, and into account what was lost there."""
        assert self._format is not None
        taken: list[bytes] = []
        found = self._rings()
        self.fill = max((ring.waiting / ring.capacity for ring in found), default=0.0)
        for ring in found:
            octets = b"".join(ring.take())
            items = sequence.items(octets)
            # Before the next ring is looked at: of rings that are handed over again it may be the same.
            self._take_in_hand(ring, len(octets), items)
            if not octets:
                continue
            try:
                rows = octets if ring.where == "kernel" else self._format.rows(octets)
                understood = items if rows is octets else sequence.items(rows)
                self._hand.correct(understood - items)
                self._in_hand += understood - items
                taken.append(rows)
            except Exception as error:
                self._unexpected("format", items, error)
        return taken

    def _take_in_hand(self, ring: rings.Ring, octets: int, items: int) -> None:
        """Take account of so much of *ring*, which may be written over now, and of what was lost there."""
        news = self._hand.take(ring, octets // rings.ROW_OCTETS, items)
        self._in_hand += items
        self.totals.lost[ring.where] += news.lost
        self.totals.passed_over += news.passed_over
        self._untold += news

    def _write(self, rows: bytes) -> None:
        """Rows in order into files, each into that of its time; and what has not been told."""
        if rows:
            late = sequence.older(rows, self._taken_until)
            self._taken_until = max(self._taken_until, sequence.last_time(rows))
            self.totals.late += late
            if self._file is not None:
                self._file.contents.late += late
        while rows:
            if self._file is None and not self._begin(sequence.first_time(rows) + self._offset):
                return
            end = sequence.before(rows, self._until - self._offset)
            self._append(rows[:end])
            rows = rows[end:]
            if rows:
                self._end_file()
            if self.state is not CollectorState.CAPTURING:
                return
        if self._untold != rings.Counts() and (self._file is not None or self._begin(self._wall_ns())):
            self._append(b"")

    def _append(self, rows: bytes) -> None:
        file = self._file
        if file is None or not (rows or self._untold != rings.Counts()):
            return
        items = sequence.items(rows)
        octets = self._formatted(file, rows, items)
        if octets is None:
            return
        if rows:
            first, last = (each(rows) + self._offset for each in (sequence.first_time, sequence.last_time))
            contents = file.contents
            contents.first = first if contents.first is None else min(first, contents.first)
            contents.last = last if contents.last is None else max(last, contents.last)
        try:
            file.write(octets)
            if file.ends_member:
                file.write(self._flushed(file))
                file.end_member()
        except Exception as error:
            self._writing_failed(error)
            return
        self._count_written(file)
        if file.octets >= self._directory.room.largest_octets:
            self._end_file()

    def _formatted(self, file: OutputFile, rows: bytes, items: int) -> bytes | None:
        """What *rows*, which tell of *items*, add to *file*, and of what has not been told; None: they are lost."""
        assert self._format is not None
        held, left_out, told = self._format.held, self._format.left_out, self._untold
        try:
            octets = self._format.add(rows, self._offset, told.lost, told.passed_over)
        except Exception as error:
            self._spoilt(file, held, items, error)
            return None
        self._untold = rings.Counts()
        file.contents.counts += rings.Counts(items, told.lost, told.passed_over)
        self.totals.items += items
        self._in_hand -= items
        self._leave_out(file, self._format.left_out - left_out)
        return octets

    def _flushed(self, file: OutputFile) -> bytes:
        """What the format held back, for *file*."""
        assert self._format is not None
        held, left_out = self._format.held, self._format.left_out
        try:
            octets = self._format.flush()
        except Exception as error:
            self._spoilt(file, held, 0, error)
            return self._losses_alone(file)
        self._leave_out(file, self._format.left_out - left_out)
        return octets

    def _losses_alone(self, file: OutputFile) -> bytes:
        """For *file*: what has not been told, and nothing else."""
        assert self._format is not None
        octets = self._formatted(file, b"", 0) if self._untold != rings.Counts() else b""
        held = self._format.held
        try:
            return (octets or b"") + self._format.flush()
        except Exception as error:
            self._spoilt(file, held, 0, error)
            return b""

    def _leave_out(self, file: OutputFile, items: int) -> None:
        """Queries that the format cannot keep, and has told of itself."""
        if items:
            self.totals.items -= items
            self.totals.lost["format"] += items
            file.contents.counts += rings.Counts(-items, items)

    def _spoilt(self, file: OutputFile, held: rings.Counts, items: int, error: Exception) -> None:
        """*error* came out of the format: *items*, and what it *held* of *file*, are lost."""
        assert self._format is not None
        self._format.drop()
        file.contents.counts -= held
        self.totals.items -= held.items
        self._in_hand += held.items
        self._untold += rings.Counts(0, held.lost, held.passed_over)  # of which it was to tell, too
        self._unexpected("format", held.items + items, error)

    def _unexpected(self, where: str, items: int, error: Exception) -> None:
        """An exception that nobody expected ends one attempt: *items* of those in hand are lost, and counted."""
        self._lose(where, items)
        self._tell_error(where, error, items)

    def _tell_error(self, where: str, error: Exception, items: int) -> None:
        self._failed[where] = time.monotonic(), describe_error(error)
        self._errors.raised(error, where=where, queries=items)
        note = f"queries were lost to an error ({where}): {type(error).__name__}"
        if self._file is not None and note not in self._file.contents.notes:
            self._file.contents.notes.append(note)

    def _count_written(self, file: OutputFile) -> None:
        """Into the totals what *file* has had since: a compressor gives most of it when its member ends."""
        self.totals.written_octets += max(0, file.octets - file.counted_octets)
        file.counted_octets = max(file.counted_octets, file.octets)

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, at: int) -> bool:
        """Begin the file of wall time *at*; False: there is no room, or it cannot be made."""
        assert self._wanted is not None
        assert self._format is not None
        fresh = self._wall_ns() - boottime_ns()
        if NOISE_NS < abs(fresh - self._offset) < STEP_NS:
            at, self._offset = at + fresh - self._offset, fresh
        window = self._wanted.rotation_seconds * _SECOND
        start = at - at % window
        # A file that begins within its window says so: another one may have begun there before.
        begins = start if self._until == start else at
        self._until = start + window
        try:
            self._format = self._wanted.make_format()
            name, suffix, number = self._wanted.name, SUFFIXES[self._wanted.compression], 1
            while is_taken(path := self._directory.path / (self._format.file_name(name, begins) + suffix)):
                number += 1
                name = f"{self._wanted.name}-{number}"
            self._file = OutputFile(path, self._wanted.begin_member, self._format.begin(), self._format.end)
        except Exception as error:
            self._refuse(error, "a file cannot be begun")
            return False
        return True

    def _end_file(self) -> None:
        """Nothing more comes for the file: have it finished."""
        file = self._file
        if file is None:
            return
        try:
            file.write(self._flushed(file))
            file.end()
        except Exception as error:
            self._writing_failed(error)
            return
        self._file = None
        self._count_written(file)
        self._finisher.finish(file, self._about())

    def _about(self) -> dict[str, Any]:
        assert self._wanted is not None
        return {
            **self._wanted.about,
            "anonymisation_method": "" if self._format is None else self._format.method,
            "every": self._wanted.every,
            "window_end": self._until // _SECOND,
            "written_at": int(self._wall_ns() // _SECOND),
            "clock_error_seconds": clocks.greatest_error_seconds(),
        }

    def _writing_failed(self, error: Exception) -> None:
        """Nothing can be written: what is whole of the file is kept, and nothing is captured until there is room."""
        file, self._file = self._file, None
        assert file is not None
        assert self._format is not None
        self._format.drop()  # what it held is behind what is whole
        where = _where(error)
        try:
            self._lose_written(file.cut_back(), where)
            file.contents.notes.append(f"ended early: {getattr(error, 'strerror', None) or type(error).__name__}")
            file.write(self._losses_alone(file))
            file.end()
        except Exception:
            self._lose_written(file.contents.counts, where)
            file.abandon()
        else:
            self._finisher.finish(file, self._about())
        self._count_written(file)
        self._refuse(error, file.path.name)

    def _lose_written(self, counts: rings.Counts, where: str) -> None:
        """What had been written, or said so, is in no file: another one is told of it."""
        self.totals.items -= counts.items
        self.totals.lost[where] += counts.items
        self._untold += rings.Counts(0, counts.items + counts.lost, counts.passed_over)

    def settle(self) -> None:
        """Count what was in files that could not be finished."""
        for contents, error in self._finisher.unfinished():
            where = _where(error)
            self._lose_written(contents.counts, where)
            if where == "writer":
                self._tell_error(where, error, contents.items)
        if self._wanted is None:
            self._forget()

    def _tell_interrupted(self) -> None:
        """Count what a role that was killed had in hand as lost."""
        found, self._interrupted = self._interrupted, rings.Counts()
        if found != rings.Counts():
            log.alarm("capture lost what a role that was killed had in hand", queries=found.lost)
            self.totals.lost["interrupted"] += found.lost
            self.totals.passed_over += found.passed_over
            self._untold += found

    def _forget(self) -> None:
        """There is no file that could be told what has not been told: it is in the totals alone."""
        self._hand.forget(self._untold)
        self._untold = rings.Counts()

    def _lose(self, where: str, items: int) -> None:
        """*items* of what is in hand."""
        self._in_hand -= items
        self.totals.lost[where] += items
        self._untold += rings.Counts(0, items)

    def _refuse(self, error: Exception | None, reason: str) -> None:
        """Nothing is captured until there is room; *error*: that which came in writing."""
        where = _where(error)
        if isinstance(error, OSError):
            reason = f"{reason}: {error.strerror}" + ("" if is_full(error) else " (not a matter of room)")
        elif error is not None:
            self._tell_error(where, error, self._in_hand)
            reason = f"{reason}: {describe_error(error)}"
        if self.state is not CollectorState.FULL:
            log.alarm("capture cannot write", reason=reason)
        self.state, self.why, self._refused_where = CollectorState.FULL, reason, where
        self._discard()

    def _discard(self) -> None:
        """What is in the rings finds no room: it is lost, and counted."""
        self._waiting = []
        self.fill = self.behind_seconds = 0.0
        for ring in self._rings():
            octets = b"".join(ring.take())
            self._take_in_hand(ring, len(octets), sequence.items(octets))
        self._lose(self._refused_where, self._in_hand)

    def _look_for_age(self) -> None:
        try:
            self._directory.remove_aged()
        except OSError as error:
            self._unaged.met(error.strerror or str(error))
        else:
            self._unaged.over()

    def _look_for_room(self) -> None:
        try:
            room = self._directory.has_room()
            reason = "quota_gigabytes or keep_free_gigabytes is reached"
        except OSError as error:
            room, reason = False, f"{error.filename}: {error.strerror}"
        if room and self.state is CollectorState.FULL:
            log.event("capture goes on", reason="there is room again")
            self.state, self.why = CollectorState.CAPTURING, ""
        elif not room and self.state is CollectorState.CAPTURING:
            self._take(_END_OF_TIME)
            self._take(_END_OF_TIME)
            self._end_file()
            self._refuse(None, reason)

    def _rotate_when_idle(self, wall: int) -> None:
        """End a file whose time is over though nothing came that would have ended it."""
        if self._file is not None and wall - 10 * sequence.HOLD_BACK_NS >= self._until:
            self._end_file()

    def _follow_clock(self, wall: int) -> None:
        offset = wall - boottime_ns()
        if abs(offset - self._offset) < STEP_NS:
            return
        self.totals.clock_steps += 1
        if boottime_ns() >= self._trusted_at:
            self._trusted_offset = self._offset
        if offset > self._trusted_offset:
            self._trusted_at = boottime_ns() + int(STEADY_SECONDS * _SECOND)
        else:  # it is back, or was ahead until now
            self._trusted_at = 0
        log.alarm("capture sees a step of the clock", seconds=round((offset - self._offset) / 1e9, 3))
        if self.state is CollectorState.CAPTURING:
            self._take(_END_OF_TIME)
            self._take(_END_OF_TIME)
            if self._file is not None:
                self._file.contents.notes.append(f"the clock stepped by {(offset - self._offset) / 1e9:.3f} s")
            self._end_file()
        self._offset = offset
        self._until = 0

    def _drain(self) -> None:
        """All that was written until now into the file, which ends."""
        if self.state is CollectorState.CAPTURING:
            # The writers may be at it still: what they began before they saw the switch is complete a moment later.
            for _ in range(3):
                time.sleep(POLL_SECONDS)
                if self.state is CollectorState.CAPTURING:
                    self._take(_END_OF_TIME)
            self._end_file()

    def close(self) -> None:
        """The role ends: end the file, whose capture goes on when the role does.

        The rings stay on: what comes meanwhile waits in them, or is counted there as lost.
        """
        if self._wanted is not None:
            self._drain()
        for each in [self._taken, *(old for old, _ in self._old)]:
            if each is not None:
                each.close()
        self._taken = None
        self._old.clear()
        with contextlib.suppress(OSError):
            self._finisher.close()
        self.settle()
        self._forget()


def _where(error: Exception | None) -> str:
    """To what queries are lost when writing fails so: the disk, unless nobody expected it."""
    return "disk" if error is None or isinstance(error, OSError) else "writer"
