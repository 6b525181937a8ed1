"""What the zone service reads of the register: who may come with which key, and who is to be told of new zones."""

import base64
import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rootsrv.localroot import sealing
from rootsrv.localroot.register import BUSY_SECONDS, FILE, SEALING_KEY, VERSION, RegisterUnusable, told
from rootsrv.localroot.sealing import Seal, SealBroken, SealingKeyUnusable
from rootsrv.process.troubles import Troubles


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A TSIG key that may be used."""

    name: str
    """As DNS has it: in lower case, with the dot at its end."""

    server: int
    algorithm: str
    """hmac-sha256, hmac-sha384 or hmac-sha512."""

    secret: bytes
    ends: float | None
    """Seconds since 1970 at which it stops to be live, whoever says so; None = it does not."""


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A server that somebody signed up.  Whether an address is proved is what the zone service observed."""

    server: int
    name: str
    software: str
    """A name of rootsrv/resolvers/software.py."""

    addresses: tuple[str, ...]
    """In the one form of rootsrv.config.checks.plain_address."""

    zones: tuple[str, ...]
    contributes: bool
    """Whether its operator wants it counted in published statistics."""


@dataclass(frozen=True, slots=True)
class Nudge:
    """A NOTIFY that the operator of a server asked for."""

    id: int
    server: int
    zone: str
    at: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """All that the zone service needs to know, at one moment."""

    changes: int
    keys: tuple[LiveKey, ...]
    subscribers: tuple[Subscriber, ...]


_UNUSABLE_KEYS = Troubles("key cannot be used")

_ACTIVE = "users.suspended = '' AND users.email_verified IS NOT NULL"


class Subscribers:
    """The reader's side, for another process; RegisterUnusable when the file cannot be read.

    Where nobody ever signed up there is no file, which is no error.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / FILE

    def changes(self) -> int:
        """A number that is another one when `load` would find something else; 0 = there is no register."""
        with self._reading() as database:
            return int(database.execute("SELECT count FROM changes").fetchone()[0]) if database else 0

    def load(self, now: float) -> Subscriptions:
        """All keys that are live at *now* (seconds since 1970), all servers."""
        with self._reading() as database:
            if database is None:
                return Subscriptions(0, (), ())
            database.execute("BEGIN")  # one moment for all of it
            changes = int(database.execute("SELECT count FROM changes").fetchone()[0])
            keys = database.execute(
                "SELECT keys.* FROM keys JOIN servers ON keys.server = servers.id JOIN users ON servers.user = users.id"
                f" WHERE {_ACTIVE} AND (ends IS NULL OR ends > ?) ORDER BY keys.name",
                (now,),
            ).fetchall()
            addresses = _by_server(database, "SELECT server, address FROM addresses ORDER BY server, address")
            zones = _by_server(database, "SELECT server, zone FROM server_zones ORDER BY server, zone")
            servers = database.execute(
                "SELECT servers.* FROM servers JOIN users ON servers.user = users.id"
                f" WHERE {_ACTIVE} ORDER BY servers.id"
            ).fetchall()
        subscribers = tuple(
            Subscriber(
                row["id"],
                row["name"],
                row["software"],
                addresses.get(row["id"], ()),
                zones.get(row["id"], ()),
                bool(row["contributes"]),
            )
            for row in servers
        )
        return Subscriptions(changes, tuple(self._opened(keys)), subscribers)

    def nudges(self, after: int) -> list[Nudge]:
        """NOTIFYs asked for, later than number *after*, oldest first."""
        with self._reading() as database:
            if database is None:
                return []
            rows = database.execute("SELECT id, server, zone, at FROM nudges WHERE id > ? ORDER BY id", (after,))
            return [Nudge(*row) for row in rows]

    def _opened(self, rows: list[sqlite3.Row]) -> Iterator[LiveKey]:
        if not rows:
            return
        seal = self._seal([(row["secret"], row["name"]) for row in rows[:16]])
        for row in rows:
            try:
                secret = seal.open(row["secret"], row["name"])
            except SealBroken as error:  # one that is damaged takes no other with it
                _UNUSABLE_KEYS.met(error, key=row["name"], tsig_key=row["name"])
                continue
            yield LiveKey(row["name"], row["server"], row["algorithm"], secret, row["ends"])

    def _seal(self, sealed: sealing.Sealed) -> Seal:
        try:
            return sealing.read(self._directory / SEALING_KEY, sealed)
        except SealingKeyUnusable as error:
            raise RegisterUnusable(str(error)) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        if not self.path.exists():
            yield None
            return
        with (
            told(self.path),
            contextlib.closing(
                sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
            ) as database,
        ):
            database.row_factory = sqlite3.Row
            if database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                raise RegisterUnusable(f"{self.path}: made by another version of this software, or not begun yet")
            yield database


def _by_server(database: sqlite3.Connection, query: str) -> dict[int, tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for server, text in database.execute(query):
        found.setdefault(server, []).append(text)
    return {server: tuple(texts) for server, texts in found.items()}


def secret_text(secret: bytes) -> str:
    """As configurations have it: base64."""
    return base64.b64encode(secret).decode()
