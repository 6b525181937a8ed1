"""The day's statistics, kept across restarts: reads the workers' counters, writes RSSAC002 files when a day is over."""
# Theory of operation
# -------------------
# The workers' counters only grow and outlive the workers; the book remembers how far it has read each slot and adds
# what came since to the day that it belongs to.  Which day that is, the slot says: it notes its counters when a day
# begins, so the boundary is exact however late we look.
#
#   slot still in the day we know         counters − read                    → that day
#   slot in another day                   counters at its begin − read       → the day we know
#                                         counters − counters at its begin   → the new day
#
# How far each slot was read and what the days have so far are written together, in one rename: after a crash of ours
# we go on from there, and neither lose nor repeat anything.  When the disk is full the counters are still in the page
# and the days in memory; writing is tried again.  A page made anew (another identity) starts from 0: what it counts is
# added to what the day already has.  So no clock step can lose a count either: it is only a question of which day.
#
# Files of a day are written when a slot or our clock says that it is over, and again if something is added later.

import datetime
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootsrv.page import unique_sources
from rootsrv.page.counts import END
from rootsrv.page.day import DAY_SECONDS, day_of
from rootsrv.page.layout import REGISTER_SETS, REGISTERS, TLS_SLOT, Page, WorkerSlot
from rootsrv.process import json_text, log, whole_file
from rootsrv.process.troubles import Troubles
from rootsrv.telemetry.rssac002 import DayRecord, RecordDamaged

_EPOCH = datetime.date(1970, 1, 1)
_LAST_DAY = (datetime.date.max - _EPOCH).days
_MAX_DAYS = 50
"""Days that one slot may begin within a day; more than a clock that steps about would."""

_FORMAT = 1

SETTLE_SECONDS = 5.0
"""After midnight, until the files of the day before are written: an idle worker turns the day ten times a second."""


@dataclass(slots=True)
class _Read:
    """How far a slot was read."""

    day: int
    words: list[int]


class DayBook:
    """The days that are not yet over, and the files of those that are."""

    def __init__(self, directory: Path, service: str) -> None:
        """Go on where the book in *directory* ended; *service* names the RSSAC002 files."""
        self.directory = directory
        self.service = service
        self.error = ""
        """Why the book cannot be written now; empty = it can."""

        self._unreadable = Troubles("statistics of a day unreadable")
        self._lock = threading.Lock()
        """`write` may run in a thread of its own; it and what adds to the book exclude each other."""

        self._days: dict[int, DayRecord] = {}
        self._unwritten: set[int] = set()
        self._identity = 0
        self._read: dict[int, _Read] = {}
        self._changed = False
        self._begun: dict[int, dict[int, float]] = {}
        """By slot: days that it has begun lately, and when (monotonic clock, seconds)."""

        self.served: int | None = None
        """The root's serial that was served when we last heard of it."""

        self._load()

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, page: Page) -> None:
        """Add what *page* has counted since the last look.  Some 0.3 ms per slot in use."""
        with self._lock:
            if page.identity != self._identity:
                self._identity = page.identity
                self._read.clear()
            for number, slot in page.slots().items():
                if self._is_a_day(number, slot.day):
                    self._look_at(number, slot)

    def _look_at(self, number: int, slot: WorkerSlot) -> None:
        day = slot.day
        before = self._read.get(number)
        # A slot that is turning its day meanwhile is read again; it does so once a day.
        while True:
            start = slot.day_start[:END].tolist()
            words = slot.counters[:END].tolist()
            if slot.day == day:
                break
            day = slot.day
        if before is None:
            # Of what a slot that we see for the first time had counted before its day began we know no better.
            before = _Read(day - 1, [0] * END)
        if before.day != day:
            self._add(number, before.day, start, before.words)
            self._merge_registers(before.day, slot)
            before = _Read(day, start)
        self._add(number, day, words, before.words)
        self._read[number] = _Read(day, words)

    def _add(self, number: int, day: int, words: list[int], before: list[int]) -> None:
        if words == before:
            return
        counted = [now - then for now, then in zip(words, before, strict=True)]
        record_of = DayRecord.from_words_over_tls if number == TLS_SLOT else DayRecord.from_words
        self._put(day, record_of(_date(day), counted))

    def look_at_sources(self, page: Page) -> None:
        """Add the unique sources that *page* holds.  Some 3 ms per slot in use and changed."""
        with self._lock:
            for number, slot in page.slots().items():
                if self._is_a_day(number, slot.day):
                    self._merge_registers(slot.day, slot)

    def _is_a_day(self, number: int, day: int) -> bool:
        """Whether slot *number* can mean that.  Workers read what strangers send: what they say need not be so."""
        if not 0 < day <= _LAST_DAY:
            return False
        now = time.monotonic()
        begun = self._begun.setdefault(number, {})
        if day not in begun:
            begun = self._begun[number] = {each: at for each, at in begun.items() if now - at < DAY_SECONDS}
            if len(begun) >= _MAX_DAYS:
                return False
            begun[day] = now
            if len(begun) == _MAX_DAYS:
                log.alarm("statistics: a slot begins day after day", slot=number, day=_date(day), effect="ignored")
        return True

    def _merge_registers(self, day: int, slot: WorkerSlot) -> None:
        for key_id, octets in slot.sketches(day).items():
            sketch = tuple(octets[at : at + REGISTERS] for at in range(0, REGISTER_SETS * REGISTERS, REGISTERS))
            name = unique_sources.key_name(key_id)
            if any(octets) and sketch != self.record(day).sketches.get(name):
                self._put(day, DayRecord(_date(day), sketches={name: sketch}))

    def note_load_time(self, serial: int, known_at: float, seconds: float) -> None:
        """The root zone *serial* was known at *known_at* (seconds since 1970) and served *seconds* later."""
        day = day_of(known_at)
        with self._lock:
            if serial not in self.record(day).load_times:
                self._put(day, DayRecord(_date(day), load_times={serial: seconds}))

    def note_served(self, serial: int | None) -> None:
        """Remember which root zone is served."""
        if serial != self.served:
            self.served = serial
            self._changed = True

    def _put(self, day: int, record: DayRecord) -> None:
        known = self._days.get(day)
        if known is None and (known := self._from_file(day)) is None:
            known = DayRecord(_date(day))
        together = known.and_then(record)
        if together != known:
            self._days[day] = together
            self._unwritten.add(day)
            self._changed = True

    def record(self, day: int) -> DayRecord:
        """What is known of *day* (days since 1970)."""
        return self._days.get(day) or self._from_file(day) or DayRecord(_date(day))

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def write(self, now: float) -> None:
        """Write the book and the files of days that are over at *now*; what cannot be written is tried again."""
        with self._lock:
            self._write_all(day_of(now - SETTLE_SECONDS))

    def _write_all(self, today: int) -> None:
        try:
            for day in sorted(self._unwritten):
                if day < today:
                    self._write_day(day)
            if self._changed:
                self.directory.mkdir(parents=True, exist_ok=True)
                whole_file.replace(self.directory / "book.json", json.dumps(self._to_document()).encode())
                self._changed = False
        except OSError as error:
            reason = f"{error.filename or self.directory}: {error.strerror}"
            if reason != self.error:
                log.alarm("statistics cannot be written", reason=reason, kept="in memory")
            self.error = reason
            return
        if self.error:
            log.event("statistics written again", directory=self.directory)
            self.error = ""
        for day in [each for each in self._days if each < today - 1 and each not in self._unwritten]:
            del self._days[day]
            self._changed = True

    def _write_day(self, day: int) -> None:
        record = self._days[day]
        path = self._record_path(day)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.replace(path, json.dumps(record.to_document()).encode() + b"\n")
        for name, text in record.texts(self.service).items():
            target = self.directory / "rssac002" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            whole_file.replace(target, text.encode())
        self._unwritten.discard(day)
        self._changed = True
        log.event("statistics of a day written", day=record.day, queries=sum(record.volume.values()) // 2)

    def _record_path(self, day: int) -> Path:
        return record_path(self.directory, _date(day))

    def _from_file(self, day: int) -> DayRecord | None:
        try:
            return read_record(self._record_path(day))
        except FileNotFoundError:
            return None
        except (OSError, RecordDamaged) as error:
            self._unreadable.met(error, key=day, day=_date(day))
            return None

    # ── the book as a document ──────────────────────────────────────────────────────────────────────────────────

    def _to_document(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "identity": self._identity,
            "read": {
                str(number): {"day": read.day, "words": {str(at): n for at, n in enumerate(read.words) if n}}
                for number, read in self._read.items()
            },
            "days": {str(day): record.to_own_document() for day, record in self._days.items()},
            "unwritten": sorted(self._unwritten),
            "served": self.served,
        }

    def _load(self) -> None:
        path = self.directory / "book.json"
        try:
            document = json_text.parse(path.read_bytes())
            if document["format"] != _FORMAT:
                raise RecordDamaged(f"format {document['format']}, expected {_FORMAT}")
            self._days = {int(day): DayRecord.from_document(each) for day, each in document["days"].items()}
            self._unwritten = set(document["unwritten"])
            self._identity = document["identity"]
            self.served = document["served"]
            for number, each in document["read"].items():
                words = [0] * END
                for at, n in each["words"].items():
                    words[int(at)] = n
                self._read[int(number)] = _Read(each["day"], words)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            # What the page holds is counted again; what is lost is what earlier pages had counted.
            log.alarm(
                "statistics unreadable", file=path, reason=error, effect="this day begins with what the page holds"
            )
            self._days, self._unwritten, self._identity, self._read = {}, set(), 0, {}


def record_path(directory: Path, day: datetime.date) -> Path:
    """Where the record of *day* is kept once it is over."""
    return directory / "days" / f"{day:%Y/%m/%Y%m%d}.json"


def find_record(directory: Path, day: datetime.date) -> DayRecord | None:
    """What the statistics in *directory* have of *day*, over or not; None = nothing.  OSError, RecordDamaged."""
    try:
        book = json_text.parse((directory / "book.json").read_bytes())
        if (document := book["days"].get(str((day - _EPOCH).days))) is not None:
            return DayRecord.from_document(document)
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordDamaged(f"{directory / 'book.json'}: {error}") from error
    try:
        return read_record(record_path(directory, day))
    except FileNotFoundError:
        return None


def read_record(path: Path) -> DayRecord:
    """The record at *path*; OSError, RecordDamaged."""
    try:
        return DayRecord.from_document(json_text.parse(path.read_bytes()))
    except RecordDamaged as error:
        raise RecordDamaged(f"{path}: {error}") from error
    except ValueError as error:
        raise RecordDamaged(f"{path}: not JSON ({error})") from error


def _date(day: int) -> datetime.date:
    return _EPOCH + datetime.timedelta(days=day)
