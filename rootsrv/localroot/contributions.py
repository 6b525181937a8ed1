"""Counts that operators of resolvers contribute: kept for them, published only added up with those of others."""
# Theory of operation
# -------------------
#      day of the counts        OPEN_DAYS after it                    KEPT_DAYS after it
#     ──────┬───────────────────────────┬──────────────────────────────────────┬────────▶
#           │ taken, replaced, deleted  │ added up, once                       │ deleted
#
# A sum that grew when one more came, or shrank when somebody deleted his account, would tell by how much: what one of
# them had sent.  So a day is added up once, when nothing more is taken for it, and that sum is never made again; of
# fewer than FEWEST_OPERATORS there is none, and there never will be one.  An operator is one user, however many servers
# he has.

import datetime
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import NotAccepted, Server
from rootsrv.process import json_text
from rootsrv.process.troubles import Troubles
from rootsrv.resolvers.day_counts import DayCounts, added

OPEN_DAYS = 7
"""So long after its end a day's counts are taken, and replaced when they are sent again."""

KEPT_DAYS = 90
"""What one server sent; its operator sees it for so long."""

SUMS_KEPT_DAYS = 1100
"""What all of them sent: three years."""

FEWEST_OPERATORS = 5
"""Less would be said of one: the others know what they sent themselves."""


_DAMAGED = Troubles("contribution is unusable")
_DAMAGED_SUMS = Troubles("sum of counts is unusable")


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one server sent for one day."""

    server: int
    counts: DayCounts
    received: float
    """The latest time, seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Contributed:
    """What all of them sent for one day."""

    operators: int
    servers: int
    counts: DayCounts


class Contributions:
    """All of them in one register."""

    def __init__(self, register: Register) -> None:
        self._register = register
        self._settled: datetime.date | None = None
        """The day on which `settle` was done last."""

    def take(self, server: Server, counts: DayCounts, now: float) -> None:
        """Keep the *counts* of *server*, in place of what it sent for that day before.  NotAccepted."""
        if not server.contributes:
            raise NotAccepted("contributes", "this server does not contribute: say on its page that it does, first")
        today = _day(now)
        if counts.day >= today:
            raise NotAccepted("day", f"{counts.day} is not over yet (UTC)")
        if counts.day < today - datetime.timedelta(OPEN_DAYS):
            raise NotAccepted("day", f"{counts.day} is added up already: {OPEN_DAYS} days after its end at the latest")
        with self._register.writing() as database:
            database.execute(
                "INSERT OR REPLACE INTO contributions VALUES (?, ?, ?, ?)",
                (server.id, counts.day.isoformat(), now, json.dumps(counts.to_document())),
            )

    def of_server(self, server: int) -> list[Contribution]:
        """What it sent, newest day first."""
        return _read(self._register.rows("SELECT * FROM contributions WHERE server = ? ORDER BY day DESC", server))

    def sums(self, at_most: int = 30) -> list[Contributed]:
        """Of the latest days that were added up, newest first."""
        found = []
        query = "SELECT * FROM contributed WHERE document != '' ORDER BY day DESC LIMIT ?"
        for row in self._register.rows(query, at_most):
            try:
                counts = DayCounts.from_document(json_text.parse(row["document"]), is_sum=True)
            except ValueError as error:
                _DAMAGED_SUMS.met(error, key=row["day"], day=row["day"])
                continue
            found.append(Contributed(row["operators"], row["servers"], counts))
        return found

    def settle(self, now: float) -> int:
        """Add up the days for which nothing more is taken, forget what was kept for long enough; how many days."""
        today = _day(now)
        if today == self._settled:
            return 0
        closed = (today - datetime.timedelta(OPEN_DAYS)).isoformat()
        unsettled = "SELECT DISTINCT day FROM contributions WHERE day < ? AND day NOT IN (SELECT day FROM contributed)"
        days = [row["day"] for row in self._register.rows(f"{unsettled} ORDER BY day", closed)]
        for day in days:
            self._settle(day)
        forgotten = (today - datetime.timedelta(KEPT_DAYS)).isoformat()
        sums_forgotten = (today - datetime.timedelta(SUMS_KEPT_DAYS)).isoformat()
        if self._register.row("SELECT 1 FROM contributions WHERE day < ?", forgotten) or self._register.row(
            "SELECT 1 FROM contributed WHERE day < ?", sums_forgotten
        ):
            with self._register.writing() as database:
                database.execute("DELETE FROM contributions WHERE day < ?", (forgotten,))
                database.execute("DELETE FROM contributed WHERE day < ?", (sums_forgotten,))
        self._settled = today
        return len(days)

    def _settle(self, day: str) -> None:
        query = (
            "SELECT contributions.*, servers.user FROM contributions JOIN servers ON server = servers.id"
            " JOIN users ON servers.user = users.id WHERE day = ? AND users.suspended = '' ORDER BY server"
        )
        with self._register.writing() as database:
            rows = database.execute(query, (day,)).fetchall()
            sent = _read(rows)
            users = {row["server"]: row["user"] for row in rows}
            operators = len({users[each.server] for each in sent})
            document = ""  # the day is over all the same: a sum that came later would tell by how much it grew
            if operators >= FEWEST_OPERATORS:
                total = added(datetime.date.fromisoformat(day), (each.counts for each in sent))
                document = json.dumps(total.to_document())
            values = (day, operators, len(sent), document) if document else (day, 0, 0, "")
            database.execute("INSERT OR IGNORE INTO contributed VALUES (?, ?, ?, ?)", values)


def _read(rows: Iterable[sqlite3.Row]) -> list[Contribution]:
    found = []
    for row in rows:
        try:
            counts = DayCounts.from_document(json_text.parse(row["document"]))
        except ValueError as error:  # one that is damaged takes no other with it
            server, day = row["server"], row["day"]
            _DAMAGED.met(error, key=(server, day), server=server, day=day)
            continue
        found.append(Contribution(row["server"], counts, row["received"]))
    return found


def _day(now: float) -> datetime.date:
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date()
