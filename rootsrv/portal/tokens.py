"""Tokens of the API: what a program of the operator's may do in their name."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from rootsrv.localroot.servers import NotAccepted, NotFound
from rootsrv.portal.accounts import SEEN_SECONDS, Accounts, User
from rootsrv.portal.links import digest

MAX_TOKENS = 20
TOKEN_PREFIX = "lr_"
"""So that whoever looks for leaked secrets recognises one."""

SCOPES = {
    "read": "see servers, names of keys, and how they fare",
    "servers": "add, change and delete servers, ask for a NOTIFY",
    "keys": "make and delete keys",
    "counts": "send counts of a day, for servers that contribute",
}


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token of the API, without itself."""

    id: int
    name: str
    scopes: frozenset[str]
    created: float
    ends: float
    used: float | None


class Tokens:
    """All tokens in one register; of each its SHA-256 is kept."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._register = accounts.register

    def add(self, user: int, name: str, scopes: Iterable[str], days: int, now: float) -> str:
        """The token, told this once.  NotAccepted."""
        name, wanted = " ".join(name.split()), set(scopes)
        if not name or len(name) > 64 or not name.isprintable():
            raise NotAccepted("name", "a name of 1 to 64 characters is needed")
        if not wanted or not wanted <= SCOPES.keys():
            raise NotAccepted("scopes", f"at least one of {', '.join(SCOPES)} is needed, and nothing else")
        if not 1 <= days <= 366:
            raise NotAccepted("days", "1 to 366 days")
        text = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._register.writing() as database:
            database.execute("DELETE FROM tokens WHERE ends <= ?", (now,))
            if database.execute("SELECT count(*) FROM tokens WHERE user = ?", (user,)).fetchone()[0] >= MAX_TOKENS:
                raise NotAccepted("name", f"an account has {MAX_TOKENS} tokens at most")
            kept = ",".join(each for each in SCOPES if each in wanted)
            database.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (digest(text), secrets.randbits(62), user, name, kept, now, now + days * 86_400),
            )
        return text

    def owner(self, text: str, now: float) -> tuple[User, frozenset[str]] | None:
        """Whose token *text* is and what it is for; None if it is nobody's."""
        if not text.startswith(TOKEN_PREFIX):
            return None
        row = self._register.row("SELECT * FROM tokens WHERE digest = ? AND ends > ?", digest(text), now)
        if row is None or (user := self._accounts.user(row["user"])).suspended:
            return None
        if row["used"] is None or now - row["used"] > SEEN_SECONDS:
            with self._register.writing() as database:
                database.execute("UPDATE tokens SET used = ? WHERE digest = ?", (now, row["digest"]))
        return user, frozenset(row["scopes"].split(","))

    def of_user(self, user: int) -> list[ApiToken]:
        """Those that have not ended."""
        rows = self._register.rows("SELECT * FROM tokens WHERE user = ? ORDER BY created", user)
        return [
            ApiToken(
                row["id"], row["name"], frozenset(row["scopes"].split(",")), row["created"], row["ends"], row["used"]
            )
            for row in rows
        ]

    def delete(self, user: int, token: int) -> None:
        """At once; NotFound."""
        with self._register.writing() as database:
            if not database.execute("DELETE FROM tokens WHERE user = ? AND id = ?", (user, token)).rowcount:
                raise NotFound("there is no such token")
