"""What happened to the servers of subscribers: written by whoever gives zones out, read by whoever shows it.

A SQLite file of its own: the register, which the pages write, can be locked, full or damaged, and zones go out all the
same, and the other way round.
"""
# Theory of operation
# -------------------
# What is observed is kept in memory and written once a second, all of it in one transaction, in a thread.  Each
# observation takes the place of the one before of the same subject, so that what waits is bounded by the number of
# servers, however long the disk is full.  A file that is damaged is put aside and begun anew: it is a memory of what
# happened, nobody's decision depends on it but one, whether an address is proved, and that is proved again by the next
# transfer.

import contextlib
import operator
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from rootsrv.process import log

FILE = "observations.sqlite"
"""In the state directory of the service."""

BUSY_SECONDS = 2.0
"""How long a writer or reader waits for the other."""


@dataclass(frozen=True, slots=True)
class Notified:
    """The latest NOTIFY to one address of a server, for one zone."""

    server: int
    address: str
    zone: str
    serial: int
    at: float
    """When it was sent first, seconds since 1970."""

    outcome: str
    """sent, confirmed, refused or not confirmed (distribution/notify.py)."""

    rcode: int | None
    """Of the last answer that came."""

    tries: int
    seconds: float
    """From the first try to the answer, or until it was given up."""

    reason: str
    """Why the last try could not be sent; empty if it was."""


@dataclass(frozen=True, slots=True)
class TransferSeen:
    """The latest transfer of one zone to a server."""

    server: int
    zone: str
    serial: int
    at: float
    """When the last octet was handed over, seconds since 1970."""

    how: str
    """axfr, ixfr or https."""

    octets: int
    address: str
    transport: str
    """tcp or tls."""

    key: str
    """Name of the TSIG key; empty = none was used."""

    after_notify: float | None
    """Seconds since the NOTIFY of this serial was sent first; None = it came by itself."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The latest SOA query of a server for one zone, or an IXFR that found it current."""

    server: int
    zone: str
    at: float
    """Seconds since 1970."""

    address: str
    serial: int
    """The one that it was told."""


@dataclass(frozen=True, slots=True)
class KeyFailed:
    """The latest TSIG error with one key of a server (RFC 8945 §5.2)."""

    server: int
    key: str
    at: float
    """Seconds since 1970."""

    error: str
    """BADKEY, BADSIG, BADTIME or BADTRUNC."""

    address: str
    detail: str
    """What was wrong, for people; for BADTIME both times."""


@dataclass(frozen=True, slots=True)
class Proved:
    """An address of a server from which a signed request came over TCP."""

    server: int
    address: str
    at: float
    """The latest time, seconds since 1970."""

    key: str


@dataclass(frozen=True, slots=True)
class Fresh:
    """How soon subscribers had one version of a zone."""

    zone: str
    serial: int
    at: float
    """When it was given out first, seconds since 1970."""

    subscribers: int
    """Servers that had the zone before, in the last seven days."""

    after_1: int | None
    after_10: int | None
    after_60: int | None
    """How many of them had it after so many minutes; None = it is not that old yet, or was overtaken."""


Kind = Notified | TransferSeen | Asked | KeyFailed | Proved | Fresh
T = TypeVar("T", Notified, TransferSeen, Asked, KeyFailed, Proved, Fresh)

_TABLES: dict[type[Any], tuple[str, int]] = {
    Notified: ("notified", 3),
    TransferSeen: ("transferred", 2),
    Asked: ("asked", 2),
    KeyFailed: ("key_failed", 2),
    Proved: ("proved", 2),
    Fresh: ("fresh", 2),
}
"""Table, and how many fields from the left are its key."""

_KEYS: dict[type[Any], Callable[[Any], tuple[Any, ...]]] = {
    kind: operator.attrgetter(*(each.name for each in fields(kind)[:key])) for kind, (_, key) in _TABLES.items()
}
"""`astuple` copies all of it, deeply: a tenth of a millisecond for each NOTIFY, twice."""

_ROWS: dict[type[Any], Callable[[Any], tuple[Any, ...]]] = {
    kind: operator.attrgetter(*(each.name for each in fields(kind))) for kind in _TABLES
}

MAX_FRESH = 1000
"""Versions of one zone whose freshness is remembered: of the root, more than a year."""


class ObservationsUnusable(Exception):
    """The file cannot be read or written; the text says why."""


def _schema() -> Iterator[str]:
    for kind, (table, key) in _TABLES.items():
        columns = [each.name for each in fields(kind)]
        yield (
            f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)},"
            f" PRIMARY KEY ({', '.join(columns[:key])})) WITHOUT ROWID"
        )


class Observations:
    """The writer's side: `note` never waits and never fails; `write` puts what is noted on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error = ""
        """Why what is noted could not be written last; empty = it could."""

        self._pending: dict[tuple[Any, ...], Kind] = {}
        self._keep: frozenset[int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        """Held while something is written."""

        self._swap = threading.Lock()
        """Held for an instant: what is noted meanwhile goes into the next batch."""

    def note(self, observed: Kind) -> None:
        """*observed* takes the place of the one before of the same subject."""
        kind = type(observed)
        subject = (kind, _KEYS[kind](observed))
        with self._swap:
            self._pending[subject] = observed

    def keep_only(self, servers: Collection[int]) -> None:
        """Forget all others: their owners deleted them."""
        keep = frozenset(servers)
        with self._swap:
            self._keep = keep
            self._pending = {
                key: each for key, each in self._pending.items() if isinstance(each, Fresh) or each.server in keep
            }

    def write(self) -> bool:
        """Put what is noted on disk, in whichever thread this is called; whether it is there when this returns."""
        with self._lock:
            with self._swap:
                pending, self._pending = self._pending, {}
                keep, self._keep = self._keep, None
            if not pending and keep is None:
                return not self.error
            try:
                self._write(pending, keep)
            except (sqlite3.Error, OSError) as error:
                with self._swap:
                    self._pending = pending | self._pending
                    self._keep = self._keep if self._keep is not None else keep
                self._failed(error)
                return False
            if self.error:
                self.error = ""
                log.event("observations can be written again", file=self.path)
            return True

    def _write(self, pending: dict[tuple[Any, ...], Kind], keep: frozenset[int] | None) -> None:
        connection = self._opened()
        with connection:
            for kind, (table, _) in _TABLES.items():
                rows = [_ROWS[kind](each) for each in pending.values() if type(each) is kind]
                if rows:
                    places = ", ".join("?" * len(rows[0]))
                    connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", rows)
            for zone in {each.zone for each in pending.values() if isinstance(each, Fresh)}:
                newest = "SELECT at FROM fresh WHERE zone = ? ORDER BY at DESC LIMIT ?"
                older = f"DELETE FROM fresh WHERE zone = ? AND at < (SELECT min(at) FROM ({newest}))"
                connection.execute(older, (zone, zone, MAX_FRESH))
            if keep is not None:
                connection.execute("CREATE TEMP TABLE IF NOT EXISTS keep (server INTEGER PRIMARY KEY)")
                connection.execute("DELETE FROM keep")
                connection.executemany("INSERT INTO keep VALUES (?)", [(each,) for each in keep])
                for kind, (table, _) in _TABLES.items():
                    if kind is not Fresh:
                        connection.execute(f"DELETE FROM {table} WHERE server NOT IN (SELECT server FROM keep)")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _open(self.path)
        return self._connection

    def _failed(self, error: Exception) -> None:
        if self.error != (reason := f"{self.path}: {error}"):
            log.alarm("observations cannot be written", reason=reason, effect="pages show what was; zones go out")
        self.error = reason
        self._close()
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            # Not a database any more: what it said cannot be had back.
            with contextlib.suppress(OSError):
                self.path.replace(self.path.with_suffix(".damaged"))
            for beside in ("-wal", "-shm"):
                with contextlib.suppress(OSError):
                    Path(f"{self.path}{beside}").unlink()

    def close(self) -> None:
        """Write what is noted, if that can be, and let go of the file."""
        self.write()
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A crash of the machine may take the last second: it is seen again, or was nobody's decision.
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            for statement in _schema():
                connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


class Observed:
    """The reader's side, for another process; ObservationsUnusable when the file cannot be read.

    A service that has never run has observed nothing, which is no error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def of_server(self, kind: type[T], server: int) -> list[T]:
        """All observations of one *kind* of *server*."""
        return self._read(kind, "WHERE server = ?", (server,))

    def all(self, kind: type[T]) -> list[T]:
        """All observations of one *kind*."""
        return self._read(kind, "", ())

    def fresh(self, zone: str, at_most: int = 30) -> list[Fresh]:
        """How soon subscribers had the latest versions of *zone*, newest first."""
        return self._read(Fresh, "WHERE zone = ? ORDER BY at DESC LIMIT ?", (zone, at_most))

    def _read(self, kind: type[T], condition: str, values: tuple[Any, ...]) -> list[T]:
        if not self.path.exists():
            return []
        columns = ", ".join(each.name for each in fields(kind))
        try:
            with contextlib.closing(self._open()) as db:
                rows = db.execute(f"SELECT {columns} FROM {_TABLES[kind][0]} {condition}", values).fetchall()
        except sqlite3.Error as error:
            raise ObservationsUnusable(f"{self.path}: {error}") from error
        return [kind(*row) for row in rows]

    def _open(self) -> sqlite3.Connection:
        # Whoever may write nothing here (deploy/systemd/rootsrv-portal.service) shares the writer's WAL while there is
        # one, and cannot begin one; where there is none nobody writes, and the file has all of it.
        is_still = not Path(f"{self.path}-wal").exists() and not os.access(self.path.parent, os.W_OK)
        how = "mode=ro&immutable=1" if is_still else "mode=ro"
        return sqlite3.connect(f"file:{quote(str(self.path))}?{how}", uri=True, timeout=BUSY_SECONDS)
