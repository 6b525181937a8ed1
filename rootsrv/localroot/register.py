"""Who signed up, with which servers and TSIG keys: written by the pages, read by whoever gives zones out.

A SQLite file (WAL) of its own: whatever happens to the pages, who is known stays known to the zone service, which reads
it through subscribers.py and writes nothing here (what it sees is kept in observations.py).
"""
# Theory of operation
# -------------------
# There is one writer, the process of the pages (and now and then an operator's command); SQLite keeps them apart.  What
# a reader depends on is counted: triggers raise `changes` when a user, server, address, zone or key is added, changed
# or deleted, and not when somebody signs in.  So a reader asks for one number, and reads all of it again when that has
# changed.
#
# A key is live until it is deleted or its time ends (a successor is in use, or its account was taken back, and the
# grace is over).  The name of a key is random and belongs to one key for ever: 80 bits, so that none comes twice.

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rootsrv.localroot import sealing
from rootsrv.localroot.sealing import SealingKeyUnusable

DIRECTORY = "register"
"""In the state directory: all that the pages may write."""

FILE = "register.sqlite"
SEALING_KEY = "register.key"

BUSY_SECONDS = 5.0
"""How long a writer waits for the other."""

VERSION = 1
"""Of the schema, in `PRAGMA user_version`."""


class RegisterUnusable(Exception):
    """The register cannot be read or written; the text says why."""


_SCHEMA = """
CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT NOT NULL COLLATE NOCASE UNIQUE,
    email_verified REAL,            -- when; NULL = not yet
    name TEXT NOT NULL DEFAULT '',
    password TEXT NOT NULL DEFAULT '',  -- argon2id; empty = none
    handle BLOB NOT NULL UNIQUE,    -- of passkeys (WebAuthn user handle): random, says nothing
    created REAL NOT NULL,
    suspended TEXT NOT NULL DEFAULT '', -- why; empty = not
    mails TEXT NOT NULL DEFAULT 'notify,transfer,key'
);
CREATE TABLE servers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used again: observations speak of it
    user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    name TEXT NOT NULL,
    label TEXT NOT NULL,            -- in the names of its keys
    software TEXT NOT NULL,
    contributes INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL
);
CREATE INDEX servers_of ON servers (user);
CREATE TABLE addresses (
    server INTEGER NOT NULL REFERENCES servers ON DELETE CASCADE,
    address TEXT NOT NULL,
    created REAL NOT NULL,
    PRIMARY KEY (server, address)
) WITHOUT ROWID;
CREATE TABLE server_zones (
    server INTEGER NOT NULL REFERENCES servers ON DELETE CASCADE,
    zone TEXT NOT NULL,
    PRIMARY KEY (server, zone)
) WITHOUT ROWID;
CREATE TABLE keys (
    name TEXT PRIMARY KEY,
    server INTEGER NOT NULL REFERENCES servers ON DELETE CASCADE,
    algorithm TEXT NOT NULL,
    secret BLOB NOT NULL,           -- sealed
    created REAL NOT NULL,
    ends REAL                       -- live until then: its successor is in use, or its account was taken back
) WITHOUT ROWID;
CREATE INDEX keys_of ON keys (server);
CREATE TABLE passkeys (
    id BLOB PRIMARY KEY,
    user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    public_key BLOB NOT NULL,
    uses INTEGER NOT NULL,          -- the authenticator's signature counter
    name TEXT NOT NULL,
    created REAL NOT NULL,
    used REAL
) WITHOUT ROWID;
CREATE TABLE sessions (
    digest BLOB PRIMARY KEY,        -- SHA-256 of what the cookie says
    user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    created REAL NOT NULL,
    seen REAL NOT NULL,
    proved REAL NOT NULL            -- when passkey or password were shown last
) WITHOUT ROWID;
CREATE TABLE tokens (
    digest BLOB PRIMARY KEY,        -- SHA-256 of the token
    id INTEGER NOT NULL UNIQUE,
    user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created REAL NOT NULL,
    ends REAL NOT NULL,
    used REAL
) WITHOUT ROWID;
CREATE TABLE links (
    digest BLOB PRIMARY KEY,        -- SHA-256 of what the mail's link says
    user INTEGER REFERENCES users ON DELETE CASCADE,    -- NULL = there is none yet
    purpose TEXT NOT NULL,          -- begin, recover, email, undo
    email TEXT NOT NULL,
    ends REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX links_to ON links (email);
CREATE TABLE mails (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    recipient TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    created REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    next REAL NOT NULL
);
CREATE TABLE told (                 -- what was mailed, so that nothing is mailed twice
    server INTEGER NOT NULL REFERENCES servers ON DELETE CASCADE,
    trouble TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (server, trouble)
) WITHOUT ROWID;
CREATE TABLE nudges (               -- NOTIFYs that an operator asked for on the page
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    server INTEGER NOT NULL REFERENCES servers ON DELETE CASCADE,
    zone TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE changes (count INTEGER NOT NULL);
INSERT INTO changes VALUES (1);
"""

_SINCE = (
    """CREATE TABLE IF NOT EXISTS contributions (
        server INTEGER NOT NULL REFERENCES servers ON DELETE CASCADE,
        day TEXT NOT NULL,              -- UTC, as 2026-11-27
        received REAL NOT NULL,
        document TEXT NOT NULL,         -- rootsrv/resolvers/day_counts.py
        PRIMARY KEY (server, day)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS contributions_of ON contributions (day)",
    """CREATE TABLE IF NOT EXISTS contributed (
        day TEXT PRIMARY KEY,
        operators INTEGER NOT NULL,
        servers INTEGER NOT NULL,
        document TEXT NOT NULL          -- the sum; empty = of too few
    ) WITHOUT ROWID""",
)
"""What came later, and no reader depends on: the version stays, and a version of before works beside it."""

_COUNTED = {
    "users": "OF suspended, email_verified",
    "servers": "OF name, software, contributes",
    "addresses": "",
    "server_zones": "",
    "keys": "",
}
"""Tables that readers depend on, and of which columns a change counts."""


def _schema() -> str:
    triggers = [
        f"CREATE TRIGGER {table}_{verb} AFTER {verb} {columns if verb == 'UPDATE' else ''} ON {table}"
        " BEGIN UPDATE changes SET count = count + 1; END;"
        for table, columns in _COUNTED.items()
        for verb in ("INSERT", "UPDATE", "DELETE")
    ]
    return "\n".join(("BEGIN IMMEDIATE;", _SCHEMA, *triggers, f"PRAGMA user_version = {VERSION};", "COMMIT;"))


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """RegisterUnusable in place of SQLite's errors."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise  # of a value, not of the file: whoever wrote it knows
    except sqlite3.Error as error:
        raise RegisterUnusable(f"{path}: {error}") from error


def sealed_in(database: sqlite3.Connection) -> list[tuple[bytes, str]]:
    """Some of the secrets that the key opens: more than one, since one may be damaged."""
    return [(row["secret"], row["name"]) for row in database.execute("SELECT secret, name FROM keys LIMIT 16")]


class Register:
    """The writer's side: one connection, whose transactions follow each other, from whichever thread."""

    def __init__(self, directory: Path) -> None:
        """*directory*: where the register is, or is begun.  RegisterUnusable if it cannot be."""
        self.path = directory / FILE
        self._lock = threading.RLock()
        self.key_file = sealing.twin_of_key(directory / SEALING_KEY)
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise RegisterUnusable(f"{directory}: {error.strerror}") from error
        with told(self.path):
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None
            )
            self._connection.row_factory = sqlite3.Row
            try:
                self._prepare()
                self.seal = sealing.read_or_make(self.key_file, sealed_in(self._connection))
            except SealingKeyUnusable as error:
                self._connection.close()
                raise RegisterUnusable(str(error)) from error
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")  # an account that was promised is there after a crash
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA secure_delete = ON")  # what is deleted is not left in free pages
        self.path.chmod(0o600)
        if (version := run("PRAGMA user_version").fetchone()[0]) == 0:
            try:
                self._connection.executescript(_schema())
            except sqlite3.OperationalError:
                if self._connection.in_transaction:
                    run("ROLLBACK")
                # Another process was faster.
                if run("PRAGMA user_version").fetchone()[0] != VERSION:
                    raise
        elif version != VERSION:
            raise RegisterUnusable(f"{self.path}: made by another version of this software (schema {version})")
        for statement in _SINCE:
            run(statement)

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._lock, told(self.path):
            if self._connection.in_transaction:  # part of the one around it
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # What ran out of disk has been rolled back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """What *query* finds."""
        with self._lock, told(self.path):
            return self._connection.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> sqlite3.Row | None:
        """The first of what *query* finds."""
        found = self.rows(query, *values)
        return found[0] if found else None

    def numbers(self, now: float) -> dict[str, int]:
        """How many there are of what, at *now* (seconds since 1970), and how large the files are."""
        counted = {
            "accounts": self.rows("SELECT count(*) FROM users"),
            "tokens": self.rows("SELECT count(*) FROM tokens WHERE ends > ?", now),
            "sessions": self.rows("SELECT count(*) FROM sessions"),
            "contributing_servers": self.rows("SELECT count(*) FROM servers WHERE contributes"),
            "mails_waiting": self.rows("SELECT count(*) FROM mails"),
        }
        octets = 0
        for each in (self.path, self.path.with_name(f"{FILE}-wal")):
            with contextlib.suppress(OSError):
                octets += each.stat().st_size
        return {what: int(rows[0][0]) for what, rows in counted.items()} | {"register_octets": octets}

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()
