"""The links of mails: what each permits, once, until its time is over."""
# Theory of operation
# -------------------
#     begin     an account, for whoever reads the address        a day
#     recover   another way to sign in, the only one then        an hour
#     email     the address becomes that of the account          a day
#     undo      the address that was before is that of the       a week
#               account again, and as recover
#
# Whoever has the password can give an account another address, and is mailed instead of its owner from then on.  So the
# address that was before is mailed a link that undoes it.  Who had the account earlier wins: a link to restore ends
# with its week, with its account, or with an earlier one that is used, and by nothing that whoever is signed in does.
#
# 256 random bits, of which the SHA-256 is kept.

import hashlib
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Literal

from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import NotAccepted, NotFound

Purpose = Literal["begin", "recover", "email", "undo"]
LINK_SECONDS: dict[Purpose, float] = {
    "begin": 86_400.0,
    "recover": 3600.0,
    "email": 86_400.0,
    "undo": 7 * 86_400.0,  # somebody is on holiday, or reads the old address now and then
}

MAX_LINKS = 10_000
"""Of those that whoever likes can ask for."""

MAX_UNDO = 5
"""Addresses that an account may leave in a week."""


@dataclass(frozen=True, slots=True)
class Link:
    """What the link of a mail permits, until it is used or ends."""

    user: int | None
    purpose: Purpose
    email: str
    ends: float


def digest(text: str) -> bytes:
    """As which a cookie, link or token is kept."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Links:
    """All links in one register."""

    def __init__(self, register: Register) -> None:
        self._register = register

    def new(self, purpose: Purpose, email: str, user: int | None, now: float) -> str:
        """What the link says; the ones before for the same end.  NotAccepted when all wait."""
        text, ends = secrets.token_urlsafe(32), now + LINK_SECONDS[purpose]
        with self._register.writing() as database:
            database.execute("DELETE FROM links WHERE ends <= ?", (now,))
            database.execute(
                "DELETE FROM links WHERE email = ? COLLATE NOCASE AND purpose = ? AND user IS ?", (email, purpose, user)
            )
            if purpose == "undo":
                found = database.execute(
                    "SELECT count(*), max(ends) FROM links WHERE purpose = 'undo' AND user = ?", (user,)
                )
                waiting, latest = found.fetchone()
                if waiting >= MAX_UNDO:
                    raise NotAccepted("email", f"an account has another address {MAX_UNDO} times in a week at most")
                # Which came first is told by their ends: whatever the clock did meanwhile.
                ends = max(ends, (latest or 0.0) + 1.0)
            elif database.execute("SELECT count(*) FROM links WHERE purpose != 'undo'").fetchone()[0] >= MAX_LINKS:
                raise NotAccepted("email", "too many people are signing up just now: please try again tomorrow")
            database.execute("INSERT INTO links VALUES (?, ?, ?, ?, ?)", (digest(text), user, purpose, email, ends))
        return text

    def find(self, text: str, now: float) -> Link:
        """NotFound if there is no such link, or its time is over."""
        row = self._register.row("SELECT * FROM links WHERE digest = ? AND ends > ?", digest(text), now)
        if row is None:
            raise NotFound("this link was used, or its time is over: ask for another one")
        return _link(row)

    def to_undo(self, user: int, now: float) -> list[Link]:
        """The addresses that an account had and may have again, the earliest first."""
        rows = self._register.rows(
            "SELECT * FROM links WHERE purpose = 'undo' AND user = ? AND ends > ? ORDER BY ends", user, now
        )
        return [_link(row) for row in rows]

    def again(self, email: str, now: float) -> tuple[str, float] | None:
        """Another link in place of the one by which *email* is an account's again, and until when; None: there is none.

        Of several accounts that had the address, the one that had it last.
        """
        text = secrets.token_urlsafe(32)
        with self._register.writing() as database:
            row = database.execute(
                "SELECT links.* FROM links JOIN users ON users.id = links.user AND users.suspended = ''"
                " WHERE purpose = 'undo' AND links.email = ? COLLATE NOCASE AND ends > ? ORDER BY ends DESC LIMIT 1",
                (email.strip(), now),
            ).fetchone()
            if row is None:
                return None
            database.execute("UPDATE links SET digest = ? WHERE digest = ?", (digest(text), row["digest"]))
        return text, row["ends"]

    def void(self, user: int) -> None:
        """What was mailed for an account is good no more, but for what undoes a change of its address."""
        with self._register.writing() as database:
            database.execute("DELETE FROM links WHERE user = ? AND purpose != 'undo'", (user,))


def used(database: sqlite3.Connection, link: Link, user: int) -> None:
    """What else ends when *link* of *user* is used."""
    # What was mailed before is void: a thief who asked for another address would have the account back.
    database.execute("DELETE FROM links WHERE user = ? AND purpose != 'undo'", (user,))
    if link.purpose == "undo":
        # So would one who had it later.  Who had it earlier was promised that this could be undone.
        database.execute("DELETE FROM links WHERE user = ? AND ends >= ?", (user, link.ends))
    elif link.purpose == "email":
        # There is nothing to undo any more.
        database.execute("DELETE FROM links WHERE user = ? AND email = ? COLLATE NOCASE", (user, link.email))


def _link(row: sqlite3.Row) -> Link:
    return Link(row["user"], row["purpose"], row["email"], row["ends"])
