"""The last hour and the last day, as the status page draws them, and what changed, with its reason."""
# All of it is in memory, bounded, and begins anew with the role: 361 samples of ten seconds and 288 points of five
# minutes are a quarter of a megabyte.  Prometheus is for what has to last.

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rootsrv.page import counts
from rootsrv.process import json_text
from rootsrv.telemetry.view import Said, View
from rootsrv.wire.codes import NOERROR, NXDOMAIN
from rootsrv.zone import instant

SAMPLE_SECONDS = 10.0
SAMPLES = 361
"""An hour and its beginning."""

POINT_SECONDS = 300
POINTS = 288
"""A day, of which the last point is not over."""

LATELY_SECONDS = 900.0
"""What a capture lost within so long is worth a look: as RootsrvCaptureLoses has it."""

_EVENTS = 50
_TAIL_OCTETS = 32_768
_FACTS_SHOWN = ("zone", "serial", "from", "generation", "reason", "reasons", "by")

TLS = "tls"
PATHS = (*counts.PATHS, TLS)
SERIES = ("NOERROR", "NXDOMAIN", "other")


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, over one interval that ends at `at` (seconds since 1970)."""

    at: float
    queries: Mapping[str, float]
    """By PATHS."""

    responses: Mapping[str, float]
    """By SERIES."""

    most_queries: float = 0.0
    """Of all paths together, in the ten seconds within the interval that had most of them."""

    most_responses: float = 0.0


@dataclass(frozen=True, slots=True)
class _Sample:
    """Counters at one moment."""

    at: float
    queries: tuple[int, ...]
    responses: tuple[int, ...]
    lost: int
    """Queries that a capture lost."""


class _Point:
    """What is added up of five minutes."""

    __slots__ = ("at", "most_queries", "most_responses", "number", "queries", "responses", "seconds")

    def __init__(self, number: int) -> None:
        """*number*: which five minutes since 1970."""
        self.number = number
        self.at = self.seconds = self.most_queries = self.most_responses = 0.0
        self.queries = [0.0] * len(PATHS)
        self.responses = [0.0] * len(SERIES)

    def add(self, before: _Sample, now: _Sample) -> None:
        """What there was between two samples."""
        seconds = _seconds(before, now)
        self.at = now.at
        self.seconds += seconds
        queries, responses = _more(before.queries, now.queries), _more(before.responses, now.responses)
        self.queries = [old + new for old, new in zip(self.queries, queries, strict=True)]
        self.responses = [old + new for old, new in zip(self.responses, responses, strict=True)]
        self.most_queries = max(self.most_queries, sum(queries) / seconds)
        self.most_responses = max(self.most_responses, sum(responses) / seconds)

    def rates(self) -> Rates:
        """Per second of it."""
        return _rates(self.at, self.seconds, self.queries, self.responses, self.most_queries, self.most_responses)


class History:
    """Samples of an hour, and points of a day."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES)
        self._points: deque[_Point] = deque(maxlen=POINTS)

    def note(self, now: float, words: Sequence[int], tls_words: Sequence[int] = (), lost: int | None = None) -> None:
        """Take a sample if one is due; a clock that steps back begins anew.

        *lost*: what a capture has lost since it began, None where none says so.
        """
        before = self._samples[-1] if self._samples else None
        if before is not None and now < before.at:
            self._samples.clear()
            self._points.clear()
            before = None
        if before is not None and now < before.at + SAMPLE_SECONDS - 0.5:
            return
        sums = [
            sum(each)
            for each in zip(
                *(counts.rcodes(some, path) for some in (words, tls_words) if some for path in range(4)), strict=True
            )
        ]
        responses = (sums[NOERROR], sums[NXDOMAIN], sum(sums) - sums[NOERROR] - sums[NXDOMAIN])
        queries = (*words[counts.QUERIES : counts.QUERIES + 4], sum(tls_words[counts.QUERIES : counts.QUERIES + 4]))
        if lost is None:
            lost = before.lost if before is not None else 0
        sample = _Sample(now, queries, responses, lost)
        self._samples.append(sample)
        if before is not None:
            number = int(now // POINT_SECONDS)
            if not self._points or self._points[-1].number != number:
                self._points.append(_Point(number))
            self._points[-1].add(before, sample)

    def hour(self) -> list[Rates]:
        """Between each two samples; counters that began anew count from 0."""
        found = []
        for before, now in pairwise(self._samples):
            queries, responses = _more(before.queries, now.queries), _more(before.responses, now.responses)
            seconds = _seconds(before, now)
            found.append(_rates(now.at, seconds, queries, responses, sum(queries) / seconds, sum(responses) / seconds))
        return found

    def day(self) -> list[Rates]:
        """By five minutes."""
        return [each.rates() for each in self._points]

    def lost_lately(self) -> int:
        """Queries that a capture has lost in the last LATELY_SECONDS."""
        if not self._samples:
            return 0
        since = self._samples[-1].at - LATELY_SECONDS
        return sum(_more((a.lost,), (b.lost,))[0] for a, b in pairwise(self._samples) if b.at > since)


def _seconds(before: _Sample, now: _Sample) -> float:
    return max(now.at - before.at, 0.001)


def _more(before: Sequence[int], now: Sequence[int]) -> list[int]:
    """What came to each; what is less than before began anew."""
    return [new - old if new >= old else new for old, new in zip(before, now, strict=True)]


def _rates(
    at: float,
    seconds: float,
    queries: Sequence[float],
    responses: Sequence[float],
    most_queries: float,
    most_responses: float,
) -> Rates:
    return Rates(
        at,
        {name: amount / seconds for name, amount in zip(PATHS, queries, strict=True)},
        {name: amount / seconds for name, amount in zip(SERIES, responses, strict=True)},
        most_queries,
        most_responses,
    )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed."""

    at: str
    """RFC 3339, UTC."""

    text: str


class Events:
    """What changed lately: what the roles were seen to do, and maintain's journal."""

    def __init__(self, journal: Path) -> None:
        """*journal*: maintain's, a JSON object per line."""
        self._journal = journal
        self._seen: deque[Event] = deque(maxlen=_EVENTS)
        self._before: dict[str, str] = {}
        self._replaced: int | None = None

    def note(self, view: View) -> None:
        """Compare *view* with the one before."""
        at = instant.to_text(view.now)
        for family in view.role("advertise").objects("families"):
            name = f"IPv{family.text('ip_version')}"
            self._note(at, name, f"{family.text('state')}, {family.text('route')}", family.text("reason"))
        maintain = view.role("maintain")
        if maintain:
            self._note(at, "clock", maintain.text("clock"), "")
        if view.roles:
            for role in ("serve", "maintain"):
                self._note(at, f"role {role}", "up" if role in view.roles else "down", "")
        if self._replaced is not None and view.replaced > self._replaced:
            self._seen.append(Event(at, f"{view.replaced - self._replaced} workers replaced"))
        self._replaced = view.replaced

    def _note(self, at: str, subject: str, state: str, reason: str) -> None:
        before = self._before.get(subject)
        if state and before != state:
            self._before[subject] = state
            if before is not None:
                why = f": {reason}" if reason else ""
                self._seen.append(Event(at, f"{subject}: {before} → {state}{why}"))

    def latest(self, amount: int) -> list[Event]:
        """The newest first."""
        every = [*self._seen, *_read_journal(self._journal)]
        return sorted(every, key=lambda event: event.at, reverse=True)[:amount]


def _read_journal(path: Path) -> list[Event]:
    """The end of the journal; nothing, if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_OCTETS))
            lines = file.read().splitlines()
    except OSError:
        return []
    events = []
    for line in lines[-_EVENTS:]:
        try:
            said = Said(json_text.parse(line))
        except ValueError:
            continue  # the line that was cut, or is being written
        if said.text("at") and said.text("event"):
            facts = [f"{key} {text}" for key in _FACTS_SHOWN if (text := said.text(key) or "; ".join(said.texts(key)))]
            events.append(Event(said.text("at"), ": ".join(filter(None, (said.text("event"), ", ".join(facts))))))
    return events
