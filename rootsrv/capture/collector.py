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
# in time, move nothing: a time is never before the one before it.  A larger one ends the file and begins another.
#
# What is lost is told where it is lost: by the kernel and by the workers in their rings, which go on counting while
# nobody reads; by the disk here.  Each loss is in the metadata of the file that was open when it became known.

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
from rootsrv.process import log
from rootsrv.process.clock import boottime_ns

POLL_SECONDS = 0.02
ROOM_SECONDS = 1.0
"""How often it is looked whether there is room for more."""

STOPPING_SECONDS = 5.0
"""How long workers whose parent is gone may still be answering."""

AGAIN_SECONDS = 1.0
"""How long after the role serve handed out no rings it is asked again."""

STEP_NS = 500_000_000
"""A step of the wall clock from which on the file ends."""

NOISE_NS = 100_000
"""What lies between two readings of the two clocks is no movement of one of them."""

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
    lost: dict[str, int] = field(default_factory=lambda: {"kernel": 0, "worker": 0, "disk": 0})
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
        self._wall_ns = wall_ns
        self._taken: offer.Taken | None = None
        self._again_at = 0.0
        self._wanted: WantedCapture | None = None
        self._format: Format | None = None
        self._file: OutputFile | None = None
        self._until = 0
        """Where the file's window ends, wall time."""

        self._offset = 0
        self._old: list[tuple[offer.Taken, float]] = []
        """Rings that a role serve wrote which is gone, and until when its workers may still be at it."""

        self._waiting: list[sequence.Rows] = []
        self._taken_until = 0
        self._untold = 0
        """Losses that no file could be told of."""

        self._room_at = 0.0
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
        self._offset = self._wall_ns() - boottime_ns()
        self._until = self._untold = 0
        self.state = CollectorState.CAPTURING
        self.why = "" if self._rings() else "the role serve has not handed over its rings yet"
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
        log.event("capture stopped", reason=reason, items=self.totals.items)

    @property
    def until(self) -> float | None:
        """When it will end; 0 = when it is told; None: nothing is captured."""
        return None if self._wanted is None else self._wanted.until

    @property
    def file(self) -> str:
        """The file that is being written."""
        return "" if self._file is None else self._file.path.name

    # ── a turn ──────────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self) -> None:
        """Take what there is, write what is due."""
        now = time.monotonic()
        if not self._connect(now):
            return
        if self._wanted is None:
            return
        wall = self._wall_ns()
        if self._wanted.until and wall >= self._wanted.until * _SECOND:
            self.stop("its time is over")
            return
        self._follow_clock(wall)
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
        for each in [each for each in self._old if each[1] < now]:
            each[0].close()
            self._old.remove(each)
        if self._taken is None and now >= self._again_at:
            self._again_at = now + AGAIN_SECONDS
            try:
                self._taken = offer.take(self._source)
            except offer.NoRings as error:
                if str(error) != self.why:
                    log.alarm("capture has no rings", reason=error)
                self.why = str(error)
            else:
                self.why = ""
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
        assert self._format is not None
        taken: list[bytes] = []
        lost = passed_over = 0
        found = self._rings()
        self.fill = max((ring.waiting / ring.capacity for ring in found), default=0.0)
        for ring in found:
            pieces = ring.take()
            if pieces:
                octets = b"".join(pieces)
                # Before the next ring is looked at: of rings that are handed over again it may be the same.
                ring.done(len(octets) // rings.ROW_OCTETS)
                taken.append(octets if ring.where == "kernel" else self._format.rows(octets))
            news = ring.news()
            self.totals.lost[ring.where] += news.lost
            lost += news.lost
            passed_over += news.passed_over
        lost, self._untold = lost + self._untold, 0
        self.totals.passed_over += passed_over
        ready, self._waiting = sequence.merge(self._waiting, taken, until)
        self.behind_seconds = (boottime_ns() - sequence.first_time(ready)) / 1e9 if ready else 0.0
        if ready or lost or passed_over:
            self._write(ready, lost, passed_over)

    def _write(self, rows: bytes, lost: int, passed_over: int) -> None:
        """Rows in order into files, each into that of its time."""
        if rows:
            late = sequence.older(rows, self._taken_until)
            self._taken_until = max(self._taken_until, sequence.last_time(rows))
            self.totals.late += late
            if self._file is not None:
                self._file.contents.late += late
        while rows:
            if self._file is None and not self._begin(sequence.first_time(rows) + self._offset):
                self._untold += lost
                self._lose(sequence.items(rows))
                return
            end = sequence.before(rows, self._until - self._offset)
            self._append(rows[:end], lost, passed_over)
            lost = passed_over = 0
            rows = rows[end:]
            if rows:
                self._end_file()
        if lost or passed_over:
            if self._file is None and not self._begin(self._wall_ns()):
                self._untold += lost
                return
            self._append(b"", lost, passed_over)

    def _append(self, rows: bytes, lost: int, passed_over: int) -> None:
        if self._file is None or not (rows or lost or passed_over):
            return
        assert self._format is not None
        contents, items = self._file.contents, sequence.items(rows)
        contents.lost += lost
        contents.passed_over += passed_over
        if rows:
            first, last = (each(rows) + self._offset for each in (sequence.first_time, sequence.last_time))
            contents.first = first if contents.first is None else min(first, contents.first)
            contents.last = last if contents.last is None else max(last, contents.last)
        self.totals.items += items
        octets = self._format.add(rows, self._offset, lost, passed_over)
        try:
            self._file.write(octets, items)
            if self._file.ends_member:
                self._file.write(self._format.flush(), 0)
                self._file.end_member()
        except OSError as error:
            self._disk_failed(error)
            return
        self._count_written(self._file)

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
        self._format = self._wanted.make_format()
        name = self._format.file_name(self._wanted.name, begins) + SUFFIXES[self._wanted.compression]
        path = self._directory.path / name
        number = 1
        while is_taken(path):
            number += 1
            path = self._directory.path / name.replace(self._wanted.name, f"{self._wanted.name}-{number}", 1)
        try:
            self._file = OutputFile(path, self._wanted.begin_member, self._format.begin(), self._format.end)
        except OSError as error:
            self._refuse(f"{path.name}: {error.strerror}")
            return False
        return True

    def _end_file(self) -> None:
        """Nothing more comes for the file: have it finished."""
        file, self._file = self._file, None
        if file is None:
            return
        assert self._format is not None
        assert self._wanted is not None
        try:
            file.write(self._format.flush(), 0)
            file.end()
        except OSError as error:
            self._file = file
            self._disk_failed(error)
            return
        self._count_written(file)
        self._finisher.finish(file, self._about())

    def _about(self) -> dict[str, Any]:
        assert self._wanted is not None
        return {
            **self._wanted.about,
            "every": self._wanted.every,
            "window_end": self._until // _SECOND,
            "written_at": int(self._wall_ns() // _SECOND),
        }

    def _disk_failed(self, error: OSError) -> None:
        """Nothing can be written: what is whole of the file is kept, and nothing is captured until there is room."""
        file, self._file = self._file, None
        assert file is not None
        assert self._format is not None
        try:
            lost = file.cut_back()
        except OSError:
            lost = file.contents.items
            file.abandon()
        else:
            file.contents.notes.append(f"ended early: {error.strerror}")
            self._finisher.finish(file, self._about())
        self._count_written(file)
        self.totals.lost["disk"] += lost
        self.totals.items -= lost
        self._refuse(f"{file.path.name}: {error.strerror}" + ("" if is_full(error) else " (not a matter of room)"))

    def _lose(self, items: int) -> None:
        self.totals.lost["disk"] += items
        self._untold += items

    def _refuse(self, reason: str) -> None:
        if self.state is not CollectorState.FULL:
            log.alarm("capture cannot write", reason=reason)
        self.state, self.why = CollectorState.FULL, reason
        self._discard()

    def _discard(self) -> None:
        """What is in the rings finds no room: it is lost, and counted."""
        items = sum(sequence.items(bytes(each)) for each in self._waiting)
        self._waiting = []
        for ring in self._rings():
            for piece in ring.take():
                items += sequence.items(bytes(piece))
                ring.done(len(piece) // rings.ROW_OCTETS)
            news = ring.news()
            self.totals.lost[ring.where] += news.lost
            self.totals.passed_over += news.passed_over
            self._untold += news.lost
        self._lose(items)

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
            self._refuse(reason)

    def _rotate_when_idle(self, wall: int) -> None:
        """End a file whose time is over though nothing came that would have ended it."""
        if self._file is not None and wall - 10 * sequence.HOLD_BACK_NS >= self._until:
            self._end_file()

    def _follow_clock(self, wall: int) -> None:
        offset = wall - boottime_ns()
        if abs(offset - self._offset) < STEP_NS:
            return
        self.totals.clock_steps += 1
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
