"""Counts of each day for whoever asks their operators for them, if this one wants (docs/hyperlocal.md): off by default.

What is sent is the document of rootsrv/resolvers/day_counts.py, which has room for nothing else.  It stands in the log
before it goes, and `rootsrv hyperlocal --contribution` shows what is counted and what waits.
"""
# Theory of operation
# -------------------
#     queries ──▶ today ──(its UTC day is over)──▶ waiting ──POST──▶ taken: forgotten
#                                                  │  ▲               refused for good: forgotten, loudly
#                                                  └──┘ not now, or nobody there: again, later and later
#
# Today and what waits are in one file, written every minute and at the end, so that a restart goes on.  What is older
# than what the service takes is forgotten.  A day that is still to come waits, too: the clock may be behind at boot,
# and take a while to be set; when it is today, counting goes on where it was.  Nobody else waits for any of this.

import asyncio
import datetime
import functools
import http.client
import json
import random
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rootsrv.config.checks import without_query
from rootsrv.distribution.tls import client_context
from rootsrv.process import json_text, log, whole_file
from rootsrv.process.child import ChildFailed, Inherited, in_child
from rootsrv.process.troubles import Troubles
from rootsrv.resolvers.day_counts import TRAFFIC_KEYS, DayCounts

FILE = "counts.json"
"""In the state directory."""

SAVE_SECONDS = 60.0
FORGOTTEN_DAYS = 7
"""What waited for so long is not taken any more (localroot/contributions.py)."""

MAX_WAITING = 2 * FORGOTTEN_DAYS
"""Days; those beyond, which are further in the future, are a clock's that was ahead."""

SPREAD_SECONDS = 3600.0
"""So long after the end of a day, at most, it is sent first: not all do at midnight."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 6 * 3600.0

_SEND_SECONDS = 30.0
_MAX_ANSWER_OCTETS = 65_536
_FORMAT = 1

_FOR_GOOD = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})
"""It is the document that is refused.  A token or a server that is not known may be mended."""


class CountsNotSent(Exception):
    """It was not taken; the text says why."""


class DayCounter:
    """Counts the queries of today; holds those of days that are over until they are sent."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """*path*: where it is kept; *now*: seconds since 1970."""
        self._path = path
        self._now = now
        self._day = _day(now())
        self._traffic: Counter[str] = Counter()
        self._rcodes: Counter[int] = Counter()
        self._saved_at = now()
        self._unkept = Troubles("counts cannot be kept", "counts are kept again")
        self.waiting: list[DayCounts] = []
        """Oldest first."""

        self._read()

    def count(self, address: str, *, over_tcp: bool, response: bytes) -> None:
        """A query from *address* and the response to it."""
        self._traffic[TRAFFIC_KEYS[2 * over_tcp + (":" in address)]] += 1
        self._rcodes[response[3] & 0x0F] += 1  # BADVERS alone has more bits, and no resolver asks for it

    @property
    def today(self) -> DayCounts:
        """So far."""
        return DayCounts(self._day, self._traffic, self._rcodes)

    def tick(self) -> None:
        """Called every second or so."""
        today = _day(self._now())
        if today != self._day:
            if self.today.queries:
                self.waiting.append(self.today)
            self._begin(today)
        elif 0 <= self._now() - self._saved_at < SAVE_SECONDS:
            return
        oldest = today - datetime.timedelta(FORGOTTEN_DAYS)
        # A clock that was wrong for a while leaves days behind that nobody takes.
        self.waiting = [each for each in self.waiting if each.day >= oldest][:MAX_WAITING]
        self.save()

    def _begin(self, day: datetime.date) -> None:
        """Count *day*, from what was counted of it before the clock went back."""
        same = [each for each in self.waiting if each.day == day]
        self.waiting = sorted((each for each in self.waiting if each.day != day), key=lambda each: each.day)
        self._day, self._traffic, self._rcodes = day, Counter(), Counter()
        for each in same:
            self._traffic.update(each.traffic)
            self._rcodes.update(each.rcodes)

    def over_for(self, seconds: float) -> list[DayCounts]:
        """Those that wait whose day was over so long ago."""
        midnight = datetime.time(tzinfo=datetime.UTC)
        until = datetime.datetime.fromtimestamp(self._now() - seconds, datetime.UTC) - datetime.timedelta(1)
        return [each for each in self.waiting if datetime.datetime.combine(each.day, midnight) <= until]

    def sent(self, counts: DayCounts) -> None:
        """Forget *counts*."""
        self.waiting = [each for each in self.waiting if each is not counts]
        self.save()

    def save(self) -> None:
        """Put it on disk, if that can be."""
        self._saved_at = self._now()
        document = {
            "format": _FORMAT,
            "today": self.today.to_document(),
            "waiting": [each.to_document() for each in self.waiting],
        }
        try:
            whole_file.replace(self._path, json.dumps(document).encode(), 0o640)
        except OSError as error:
            self._unkept.met(f"{self._path}: {error.strerror}")
        else:
            self._unkept.over()

    def _read(self) -> None:
        try:
            today, waiting = read(self._path)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.alarm("counts begin anew", file=self._path, reason=error)
            return
        self.waiting = [*waiting, *([today] if today is not None else [])]
        self._begin(self._day)


def read(path: Path) -> tuple[DayCounts | None, list[DayCounts]]:
    """What is kept at *path*: of today, if anything was asked, and what waits.  OSError, ValueError."""
    document = json_text.parse(path.read_bytes())
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError("not a file of this version")
    today, waiting = document.get("today"), document.get("waiting")
    if not isinstance(today, dict) or not isinstance(waiting, list):
        raise ValueError("today or waiting is missing")
    counted = DayCounts.from_document(today) if today.get("traffic-volume") else None
    return counted, [DayCounts.from_document(each) for each in waiting]


class Contributor:
    """Sends what waits."""

    def __init__(
        self,
        counter: DayCounter,
        url: str,
        token_file: Path,
        inherited: Inherited,
    ) -> None:
        """*url*: of a server's counts at the service; *token_file*: with a token for them."""
        self.error = ""
        """Why the last try failed; empty = it did not."""

        self._counter = counter
        self._url = url
        self._token_file = token_file
        self._inherited = inherited

    async def run(self) -> None:
        """Until it is cancelled."""
        log.event(
            "contributes counts",
            to=self._url,
            each="UTC day",
            counts="queries by transport and address family, responses by rcode",
            show="rootsrv hyperlocal --contribution",
        )
        spread, pause = random.SystemRandom().uniform(0, SPREAD_SECONDS), FIRST_PAUSE_SECONDS
        try:
            while True:
                await self._wait(1.0)
                if await self.send(spread):
                    pause = FIRST_PAUSE_SECONDS
                else:
                    await self._wait(random.SystemRandom().uniform(pause / 2, pause))
                    pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)
        finally:
            self._counter.save()

    async def _wait(self, seconds: float) -> None:
        """Count on."""
        ends = asyncio.get_running_loop().time() + seconds
        while (remaining := ends - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(1.0, remaining))
            self._counter.tick()

    async def send(self, spread_seconds: float = 0.0) -> bool:
        """One try for each day that is over for so long; whether none of them waits any more."""
        for counts in self._counter.over_for(spread_seconds):
            text = json.dumps(counts.to_document())
            log.event("counts are sent", day=counts.day, to=self._url, document=text)
            post = functools.partial(self._post, text.encode())
            try:
                # In a process of its own: http.client waits, and authorities' certificates take a megabyte.
                status, answer = await in_child(post, self._inherited, 2 * _SEND_SECONDS, (CountsNotSent,))
            except (CountsNotSent, ChildFailed, TimeoutError) as error:
                self._failed(str(error) or f"not done within {2 * _SEND_SECONDS:g} s")
                return False
            if status == HTTPStatus.OK:
                log.event("counts are taken", day=counts.day)
                self.error = ""
            elif status in _FOR_GOOD:
                log.alarm("counts are refused and forgotten", day=counts.day, status=status, reason=answer)
            else:
                self._failed(f"HTTP status {status}: {answer}")
                return False
            self._counter.sent(counts)
        return True

    def _failed(self, reason: str) -> None:
        if reason != self.error:
            log.alarm("counts are not taken", to=self._url, reason=reason, effect="tried again, for a week")
        self.error = reason

    def _post(self, body: bytes) -> tuple[int, str]:
        parts = urlsplit(self._url)
        host = parts.hostname or ""
        connection: http.client.HTTPConnection
        try:
            token = self._token_file.read_text(encoding="utf-8").strip()
            if not token.isascii() or not token.isprintable():
                raise CountsNotSent(f"{self._token_file}: holds no token")
            if parts.scheme == "https":
                context = client_context("hyperlocal.contribute_to")
                connection = http.client.HTTPSConnection(host, parts.port, timeout=_SEND_SECONDS, context=context)
            else:
                connection = http.client.HTTPConnection(host, parts.port, timeout=_SEND_SECONDS)
            headers = {
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/json",
                "User-Agent": "rootsrv",
            }
            try:
                connection.request("POST", parts.path, body, headers)
                response = connection.getresponse()
                if 300 <= response.status < 400:
                    location = without_query(response.getheader("Location", ""))
                    raise CountsNotSent(f"redirect to {location} is not followed")
                return response.status, _error_in(response.read(_MAX_ANSWER_OCTETS))
            finally:
                connection.close()
        except (OSError, UnicodeDecodeError, http.client.HTTPException) as error:
            raise CountsNotSent(f"{type(error).__name__}: {error}") from None


def _error_in(octets: bytes) -> str:
    """What the service says is wrong; somebody else's page is no reason."""
    try:
        document: Any = json_text.parse(octets)
        return str(document["error"])[:200]
    except (ValueError, KeyError, TypeError):
        return ""


def _day(now: float) -> datetime.date:
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date()
