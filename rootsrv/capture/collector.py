"""From the rings to the files: takes rows, puts them in order, has them written as long as that is wanted."""
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
# What is lost is told where it is lost: by the kernel and by the workers in their rings, which go on counting while
# nobody reads; by the disk here.  account.py keeps what becomes of each query, file_writer.py has the files,
# wall_clock.py the time that is believed, handed_over.py the rings of the role serve that is there and of those before.

import contextlib
import enum
import time
from collections.abc import Callable
from pathlib import Path

from rootsrv.capture import offer, rings, sequence
from rootsrv.capture.account import Account, Totals, where_lost
from rootsrv.capture.file_writer import FileWriter
from rootsrv.capture.files import CaptureDirectory, Finisher, is_full
from rootsrv.capture.handed_over import HandedOver
from rootsrv.capture.wall_clock import WallClock
from rootsrv.capture.wanted import WantedCapture
from rootsrv.process import log
from rootsrv.process.children import describe_error
from rootsrv.process.clock import boottime_ns
from rootsrv.process.time_slice import give_way
from rootsrv.process.troubles import Troubles

POLL_SECONDS = 0.02
IDLE_SECONDS = 0.2
"""How often it is called while nothing is captured: rings are looked after, and rows of nobody taken out."""

AGED_SECONDS = 60.0
"""How often it is looked whether files are too old, or can be set aside by now, whether or not anything is captured."""

_SECOND = 10**9
_END_OF_TIME = 1 << 63


class CollectorState(enum.Enum):
    """What the collector does."""

    IDLE = "idle"
    CAPTURING = "capturing"
    FULL = "full"


class Collector:
    """Turns rings into files, as it is told."""

    def __init__(
        self, source: Path, directory: CaptureDirectory, finisher: Finisher, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """*source*: where the role serve hands out the rings (offer.NAME)."""
        self._directory = directory
        self._finisher = finisher
        self.account = Account(finisher.hand, finisher.hand.recover(directory.has))
        self._handed = HandedOver(source, finisher.hand)
        self._clock = WallClock(wall_ns)
        self._writer = FileWriter(directory, finisher, self.account, self._clock, self._refuse)
        self._wanted: WantedCapture | None = None
        self.until = 0.0
        """When what is captured ends, wall time; 0 = when it is told."""

        self._waiting: list[sequence.Rows] = []
        self._refused_where = "disk"
        """What queries are lost to while the state is FULL."""

        self._room_at = self._aged_at = 0.0
        self._unaged = Troubles("capture cannot look for files that are too old")
        self.state = CollectorState.IDLE
        self.why = ""
        """Why nothing is captured, or not all of it."""

        self.behind_seconds = 0.0
        """Age of the oldest row that was not written, at the last turn."""

        self.fill = 0.0
        """Share of the fullest ring's room that was taken, at the last turn."""

    @property
    def totals(self) -> Totals:
        """Since the role was started."""
        return self.account.totals

    @property
    def failing(self) -> dict[str, str]:
        """Exceptions that nobody expected and that cost queries lately, by what they were lost to."""
        return self.account.failing

    @property
    def clock(self) -> tuple[float, float]:
        """What time it is as far as that is believed, and as the clock says: seconds since 1970."""
        wall = self._clock.now()
        return self._clock.trusted(wall) / _SECOND, wall / _SECOND

    @property
    def file(self) -> str:
        """The file that is being written."""
        return self._writer.name

    # ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(
        self, wanted: WantedCapture, *, resumed: bool = False, waited: bool = False, least: float | None = None
    ) -> None:
        """Capture from now on.

        *resumed*: what has come since the role ended, or was lost then, belongs to it; *waited*: nobody who could have
        looked at the clock says that it is time, but the clock; *least*: the clock may be wrong, and it is so late at
        least (seconds since 1970).
        """
        if self._wanted is not None:
            self.stop()
        self._writer.start(wanted)
        self._follow_clock(self._clock.now())
        self._wanted, self.until = wanted, wanted.until
        if not waited:
            self._clock.begin()
        if least is not None:
            self._clock.doubt(int(least * _SECOND))
        self.account.tell_interrupted()
        if not resumed:
            self.account.forget()
        self.state = CollectorState.CAPTURING
        self._handed.hurry()  # what is asked until there are rings is in no count
        self._connect(time.monotonic())
        if self._handed.is_connected:
            self.why = ""  # what the capture before had no room for
        elif not self.why:
            self.why = "the role serve has not handed over its rings yet"
        if not resumed:
            for ring in self._handed.rings():
                ring.skip()
        self._switch_on()
        log.event("capture started", until=wanted.until or "stopped", **wanted.about)

    def adopt(self, taken: offer.Taken) -> None:
        """Read these rings, which are handed over and not taken."""
        self._handed.adopt(taken)

    def stop(self, reason: str = "by order") -> None:
        """End it: what the rings have is written, and the file is finished."""
        if self._wanted is None:
            return
        self._switch_off()
        if self.state is CollectorState.FULL:
            self._take_last(self._discard)
        self._drain()
        self._wanted = None
        self._writer.stop()
        self.state = CollectorState.IDLE
        self.account.forget()
        log.event("capture stopped", reason=reason, items=self.totals.items)

    def _drain(self) -> None:
        """All that was written until now into the file, which ends."""
        if self.state is CollectorState.CAPTURING:
            self._take_last(lambda: self._take(_END_OF_TIME))
            self._writer.end()

    def _take_last(self, take: Callable[[], None]) -> None:
        """What is in the rings, or will be: *take* it, unless there is no room for it any more."""
        # The writers may be at it still: what they began before they saw the switch is complete a moment later.
        for _ in range(3):
            time.sleep(POLL_SECONDS)
            (self._discard if self.state is CollectorState.FULL else take)()

    def close(self) -> None:
        """The role ends: end the file, whose capture goes on when the role does.

        The rings stay on: what comes meanwhile waits in them, or is counted there as lost.
        """
        if self._wanted is not None:
            self._drain()
        self._handed.close()
        with contextlib.suppress(OSError):
            self._finisher.close()
        self.settle()
        self.account.forget()

    # ── a turn ──────────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self) -> None:
        """Take what there is, write what is due."""
        now = time.monotonic()
        self.settle()
        if now >= self._aged_at:
            self._aged_at = now + AGED_SECONDS
            self._look_for_age()
            self._directory.set_aside_again()
        is_connected = self._connect(now)
        wall = self._clock.now()
        self._follow_clock(wall)
        if self._wanted is None or not is_connected:
            self.fill = self.behind_seconds = 0.0
        if self._wanted is None:
            self.account.tell_interrupted()
            self.account.forget()
            return
        believed = wall if self._wanted.for_so_long else self._clock.trusted(wall)
        if self.until and believed >= self.until * _SECOND:
            self.stop("its time is over")
            return
        if not is_connected:
            return
        if now >= self._room_at:
            self._look_for_room()
            self._room_at = time.monotonic() + self._directory.room.pause_seconds
        if self.state is CollectorState.CAPTURING:
            self._take(boottime_ns() - sequence.HOLD_BACK_NS)
            self._writer.end_in_time(wall)
        else:
            self._discard()

    def settle(self) -> None:
        """Count what was in files that could not be finished."""
        for file, error in self._finisher.unfinished():
            where = where_lost(error)
            self.account.lose_written(where, file.contents.counts)
            self._directory.abandoned(file.path)
            if where == "writer":
                self._writer.tell_error(where, error, file.contents.items)
        if self._wanted is None:
            self.account.forget()

    def _connect(self, now: float) -> bool:
        """Whether there are rings to read."""
        if self._handed.connect(now):
            self.why = ""
            if self._wanted is not None:
                self._switch_on()
            else:
                self._switch_off()
        elif self._handed.why:
            self.why = self._handed.why
        return bool(self._handed.rings())

    def _switch_on(self) -> None:
        assert self._wanted is not None
        for ring in self._handed.rings():
            ring.want(self._writer.format.shape, self._wanted.every, self._wanted.bits)

    def _switch_off(self) -> None:
        for ring in self._handed.rings():
            ring.want(rings.OFF)
            if self._wanted is None:
                ring.skip()

    def _take(self, until: int) -> None:
        """Take what is in the rings, and write what is older than *until* (CLOCK_BOOTTIME)."""
        try:
            taken = self._from_rings()
            give_way()
            ready, self._waiting = sequence.merge(self._waiting, taken, until)
            give_way()
            self.behind_seconds = (boottime_ns() - sequence.first_time(ready)) / 1e9 if ready else 0.0
            if ready or self.account.untold != rings.Counts():
                self._writer.write(ready)
        except Exception as error:
            self._waiting = []
            self._writer.unexpected("format", self.account.in_hand, error)

    def _from_rings(self) -> list[sequence.Rows]:
        """What is in each of the rings, and into account what was lost there."""
        taken: list[sequence.Rows] = []
        found = self._handed.rings()
        self.fill = max((ring.waiting / ring.capacity for ring in found), default=0.0)
        for ring in found:
            give_way()
            octets = ring.take_copy()
            items = sequence.items(octets)
            # Before the next ring is looked at: of rings that are handed over again it may be the same.
            self.account.take(ring, items)
            if not octets:
                continue
            try:
                rows = octets if ring.where == "kernel" else self._writer.format.rows(bytes(octets))
                understood = items if rows is octets else sequence.items(rows)
                self.account.correct(understood - items)
                taken.append(rows)
            except Exception as error:
                self._writer.unexpected("format", items, error)
        return taken

    def _follow_clock(self, wall: int) -> None:
        step = self._clock.step(wall)
        if not step:
            return
        offset = self._clock.offset + step
        if self._wanted is not None:
            self.totals.clock_steps += 1
            log.alarm("capture sees a step of the clock", seconds=round(step / 1e9, 3))
            if self.until and self._wanted.for_so_long:
                self.until += step / _SECOND
        if self.state is CollectorState.CAPTURING:
            self._take(_END_OF_TIME)
            self._take(_END_OF_TIME)
            self._writer.note(f"the clock stepped by {step / 1e9:.3f} s")
            self._writer.end()
        self._clock.offset = offset
        self._writer.leave_window()

    # ── room ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _refuse(self, error: Exception | None, reason: str) -> None:
        """Nothing is captured until there is room; *error*: that which came in writing."""
        where = where_lost(error)
        if isinstance(error, OSError):
            reason = f"{reason}: {error.strerror}" + ("" if is_full(error) else " (not a matter of room)")
        elif error is not None:
            self._writer.tell_error(where, error, self.account.in_hand)
            reason = f"{reason}: {describe_error(error)}"
        if self.state is not CollectorState.FULL:
            log.alarm("capture cannot write", reason=reason)
        self.state, self.why, self._refused_where = CollectorState.FULL, reason, where
        self._discard()

    def _discard(self) -> None:
        """What is in the rings finds no room: it is lost, and counted."""
        self._waiting = []
        self.fill = self.behind_seconds = 0.0
        for ring in self._handed.rings():
            octets = ring.take_copy()
            self.account.take(ring, sequence.items(octets))
        self.account.lose(self._refused_where, self.account.in_hand)

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
            if room and self.state is CollectorState.FULL:
                self._directory.try_out()  # free room is none where the disk fails or may only be read
        except OSError as error:
            room, reason = False, f"{error.filename or self._directory.path}: {error.strerror}"
        if room and self.state is CollectorState.FULL:
            log.event("capture goes on", reason="there is room again")
            self.state, self.why = CollectorState.CAPTURING, ""
        elif not room and self.state is CollectorState.CAPTURING:
            self._take(_END_OF_TIME)
            self._take(_END_OF_TIME)
            self._writer.end()
            self._refuse(None, reason)
        elif not room and self.state is CollectorState.FULL:
            self.why = reason
