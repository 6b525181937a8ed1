"""How many zones went out, who was told, and how soon subscribers have the newest: for metrics, pages and day files."""
# Theory of operation
# -------------------
# Freshness.  When a version is given out first, those servers are counted that had the zone in the last SUBSCRIBED
# days: they are *due*.  Each that transfers this version has it; after 1, 10 and 60 minutes is written down how many
# of those due did.  A version that is overtaken before keeps what was written.
#
# Days.  Counters of one UTC day, in the manner of RSSAC002: a YAML file for each day, written when it is over, and what
# there is of today every minute beside it, so that a restart goes on counting.  Nothing in them tells one server from
# another.

import datetime
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootsrv.distribution.notify import NotifyOutcome, Told
from rootsrv.distribution.requests import Asker, Given
from rootsrv.localroot.observations import Fresh, Observations
from rootsrv.process import json_text, log, whole_file
from rootsrv.zone import instant

SUBSCRIBED_SECONDS = 7 * 86_400.0
"""Who had a zone within this is due for the next version."""

MARKS_SECONDS = (60.0, 600.0, 3600.0)
"""After which freshness is written down."""

SAVE_SECONDS = 60.0
MAX_UNWRITTEN = 32
"""Files that wait for a disk that is full: a month's."""

TODAY = "localroot-today.json"
_FORMAT = 1


@dataclass(slots=True)
class _Version:
    """The version of a zone that is given out."""

    serial: int
    at: float
    """When it was first, seconds since 1970."""

    due: set[int]
    had: dict[int, float] = field(default_factory=dict)
    """By server: seconds after `at`."""

    noted: int = 0
    """How many of the marks are written down."""


class SubscriberStatistics:
    """Counts; nothing here waits for a disk but `write`."""

    def __init__(self, service: str, observations: Observations, directory: Path, now: Callable[[], float]) -> None:
        """*now*: seconds since 1970."""
        self.service = service
        self.total: Counter[str] = Counter()
        """Since the start: `KIND` or `KIND ZONE WAY`, see `transferred` and `notified`."""

        self.error = ""
        """Why the files cannot be written; empty = they can."""

        self._observations = observations
        self._directory = directory
        self._now = now
        self._had: dict[tuple[int, str], tuple[int, float]] = {}
        """By server and zone: the serial that it had last, and when."""

        self._versions: dict[str, _Version] = {}
        self._day = _day(now())
        self._today: Counter[str] = Counter()
        self._servers: set[int] = set()
        """Those that had a transfer today."""

        self._fresh: dict[str, list[Any]] = {}
        """By zone and serial, of today: subscribers, and how many had it at each mark."""

        self._to_write: dict[Path, bytes] = {}
        """What is due and not on disk yet: a file for each day, and today's."""

        self._saved_at = 0.0
        self._read_today()

    # What happens.

    def count(self, what: str, by: int = 1) -> None:
        """One more."""
        self.total[what] += by
        self._today[what] += by

    def transferred(self, what: Given, asker: Asker, *, key: str, server: int | None) -> None:
        """A transfer; *server* is None for a stranger."""
        transport = "tls" if asker.over_tls else "tcp"
        self._gave(what.zone, what.serial, what.octets, f"{what.how}-{transport}-{_who(key, server)}", server)

    def fetched(self, zone: str, serial: int, octets: int, encoding: str) -> None:
        """A zone was given by https, to whomever; *encoding* as in Content-Encoding, identity for none."""
        self._gave(zone, serial, octets, f"https-{encoding}", None)

    def _gave(self, zone: str, serial: int, octets: int, way: str, server: int | None) -> None:
        self.count(f"transfers {zone} {way}")
        self.count(f"transfer-octets {zone} {way}", octets)
        if server is None:
            return
        now = self._now()
        self._servers.add(server)
        self._had[server, zone] = (serial, now)
        version = self._versions.get(zone)
        if version is not None and version.serial == serial:
            version.had.setdefault(server, now - version.at)

    def notified(self, zone: str, told: Told) -> None:
        """What became of a NOTIFY; each of its ends is counted once, its first try as sent."""
        if told.outcome is not NotifyOutcome.SENT or told.tries == 0:
            self.count(f"notify {zone} {str(told.outcome).replace(' ', '-')}")

    def tsig_failed(self, error: str) -> None:
        """A request whose TSIG was not in order."""
        self.count(f"tsig-errors {error}")

    # Freshness.

    def recall(self, server: int, zone: str, serial: int, at: float) -> None:
        """What *server* had before a restart."""
        self._had[server, zone] = (serial, at)

    def recall_fresh(self, fresh: Fresh) -> None:
        """When the newest version was given out first, before a restart."""
        due = self._due(fresh.zone, fresh.at)
        had = {
            server: max(0.0, at - fresh.at)
            for (server, zone), (serial, at) in self._had.items()
            if zone == fresh.zone and serial == fresh.serial
        }
        marks = (fresh.after_1, fresh.after_10, fresh.after_60)
        noted = sum(each is not None for each in marks)
        self._versions[fresh.zone] = _Version(fresh.serial, fresh.at, due | had.keys(), had, noted)

    def has(self, server: int, zone: str, serial: int) -> bool:
        """Whether *server* had this version."""
        return self._had.get((server, zone), (None, 0.0))[0] == serial

    def published(self, zone: str, serial: int) -> float:
        """From now on *serial* is given out; since when it is, seconds since 1970."""
        before = self._versions.get(zone)
        if before is not None and before.serial == serial:
            return before.at
        now = self._now()
        self._versions[zone] = _Version(serial, now, self._due(zone, now))
        self._note(zone)
        return now

    def _due(self, zone: str, at: float) -> set[int]:
        return {
            server for (server, of), (_, had_at) in self._had.items() if of == zone and had_at > at - SUBSCRIBED_SECONDS
        }

    def freshness(self) -> Mapping[str, tuple[int, int, int, float]]:
        """By zone: serial, how many are due, how many of them have it, seconds since it was given out first."""
        now = self._now()
        return {
            zone: (each.serial, len(each.due), len(each.due & each.had.keys()), now - each.at)
            for zone, each in self._versions.items()
        }

    def forget(self, servers: Collection[int]) -> None:
        """Their owners deleted them."""
        gone = set(servers)
        self._had = {key: each for key, each in self._had.items() if key[0] not in gone}
        self._servers -= gone
        for version in self._versions.values():
            version.due -= gone
            version.had = {server: each for server, each in version.had.items() if server not in gone}

    def _note(self, zone: str) -> None:
        version = self._versions[zone]
        have = [
            sum(version.had.get(server, mark + 1) <= mark for server in version.due) if number < version.noted else None
            for number, mark in enumerate(MARKS_SECONDS)
        ]
        self._observations.note(Fresh(zone, version.serial, version.at, len(version.due), *have))
        self._fresh[f"{zone} {version.serial}"] = [len(version.due), *have]

    # Time.

    def tick(self) -> bool:
        """Called every second: marks that are reached, the end of a day; whether `write` has something to do."""
        now = self._now()
        for zone, version in self._versions.items():
            reached = sum(now >= version.at + mark for mark in MARKS_SECONDS)
            if reached > version.noted:
                version.noted = reached
                self._note(zone)
        day = _day(now)
        if day > self._day:
            path = self._directory / f"{self._day:%Y/%m}" / f"{self.service}-{self._day:%Y%m%d}-localroot.yaml"
            self._to_write[path] = self.day_text().encode()
            while len(self._to_write) > MAX_UNWRITTEN:
                del self._to_write[next(iter(self._to_write))]
            self._begin(day)
        elif now < self._saved_at + SAVE_SECONDS and self._saved_at <= now:
            return False
        self._saved_at = now
        self._to_write[self._directory / TODAY] = json.dumps(self._document()).encode()
        return True

    def write(self) -> None:
        """Put what is due on disk, in a thread; what cannot be written waits for the next time."""
        reason = ""
        for path, octets in list(self._to_write.items()):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                whole_file.replace(path, octets, 0o640 if path.name == TODAY else 0o644)
            except OSError as error:
                reason = f"{path}: {error.strerror}"
            else:
                self._to_write.pop(path, None)
        if reason and not self.error:
            log.alarm("statistics cannot be written", reason=reason)
        self.error = reason

    def _begin(self, day: datetime.date) -> None:
        self._day, self._today, self._servers, self._fresh = day, Counter(), set(), {}

    def _document(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "day": self._day.isoformat(),
            "counters": dict(self._today),
            "servers": sorted(self._servers),
            "fresh": self._fresh,
        }

    def _read_today(self) -> None:
        path = self._directory / TODAY
        try:
            document = json_text.parse(path.read_bytes())
            if document["format"] != _FORMAT:
                raise ValueError(f"format {document['format']}")
            day = datetime.date.fromisoformat(document["day"])
            counters = {str(key): int(value) for key, value in document["counters"].items()}
            servers = {int(each) for each in document["servers"]}
            fresh = {str(key): list(value) for key, value in document["fresh"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.alarm("statistics of today begin anew", file=path, reason=f"{type(error).__name__}: {error}")
            return
        if day <= self._day:  # of an earlier day: its file is still to be written
            self._day, self._today, self._servers, self._fresh = day, Counter(counters), servers, fresh

    def day_text(self) -> str:
        """The day as YAML."""
        lines = [
            "---",
            'version: "localroot-1"',
            f"service: {json.dumps(self.service)}",
            f'start-period: "{instant.to_text(_start(self._day))}"',
            'metric: "localroot"',
            f"servers: {len(self._servers)}",
        ]
        for kind in ("transfers", "transfer-octets", "notify"):
            lines.append(f"{kind}:")
            found: dict[str, list[str]] = {}
            for what, number in sorted(self._today.items()):
                name, _, rest = what.partition(" ")
                if name == kind:
                    zone, _, way = rest.partition(" ")
                    found.setdefault(zone, []).append(f"    {way}: {number}")
            for zone, rows in found.items():
                lines += [f"  {json.dumps(zone)}:", *rows]
            if not found:
                lines[-1] += " {}"
        errors = {what.split()[1]: number for what, number in self._today.items() if what.startswith("tsig-errors ")}
        lines.append("tsig-errors:" + ("" if errors else " {}"))
        lines += [f"  {error}: {number}" for error, number in sorted(errors.items())]
        lines.append("freshness:" + ("" if self._fresh else " []"))
        for key, (subscribers, *have) in self._fresh.items():
            zone, _, serial = key.partition(" ")
            lines.append(f"  - zone: {json.dumps(zone)}")
            lines += [f"    serial: {serial}", f"    subscribers: {subscribers}"]
            for mark, number in zip(MARKS_SECONDS, have, strict=True):
                if number is not None:
                    lines.append(f"    after-{mark / 60:.0f}-minutes: {number}")
        return "\n".join(lines) + "\n"


def _who(key: str, server: int | None) -> str:
    if key:
        return "key"
    return "stranger" if server is None else "address"


def _day(now: float) -> datetime.date:
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date()


def _start(day: datetime.date) -> float:
    return datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp()
