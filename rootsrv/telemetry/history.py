"""The last hour, as the status page draws it: counters every ten seconds, and what changed, with its reason."""

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

_EVENTS = 50
_TAIL_OCTETS = 32_768
_FACTS_SHOWN = ("zone", "serial", "from", "generation", "reason", "reasons", "by")

SERIES = ("NOERROR", "NXDOMAIN", "other")


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, over one interval that ends at `at` (seconds since 1970)."""

    at: float
    queries: Mapping[str, float]
    """By counts.PATHS."""

    responses: Mapping[str, float]
    """By SERIES."""


class History:
    """Samples of an hour."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, tuple[int, ...], tuple[int, ...]]] = deque(maxlen=SAMPLES)

    def note(self, now: float, words: Sequence[int]) -> None:
        """Take a sample if one is due; a clock that steps back begins a new hour."""
        if self._samples and now < self._samples[-1][0]:
            self._samples.clear()
        if self._samples and now < self._samples[-1][0] + SAMPLE_SECONDS - 0.5:
            return
        by_rcode = [sum(each) for each in zip(*(counts.rcodes(words, path) for path in range(4)), strict=True)]
        responses = (by_rcode[NOERROR], by_rcode[NXDOMAIN], sum(by_rcode) - by_rcode[NOERROR] - by_rcode[NXDOMAIN])
        self._samples.append((now, tuple(words[counts.QUERIES : counts.QUERIES + 4]), responses))

    def rates(self) -> list[Rates]:
        """Between each two samples; counters that began anew count from 0."""
        found = []
        for (before, queries, responses), (at, more_queries, more_responses) in pairwise(self._samples):
            seconds = max(at - before, 0.001)
            found.append(
                Rates(
                    at,
                    dict(zip(counts.PATHS, _per_second(queries, more_queries, seconds), strict=True)),
                    dict(zip(SERIES, _per_second(responses, more_responses, seconds), strict=True)),
                )
            )
        return found


def _per_second(before: Sequence[int], now: Sequence[int], seconds: float) -> list[float]:
    return [(new - old if new >= old else new) / seconds for old, new in zip(before, now, strict=True)]


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
