"""Accounts: users, sessions, what the use of a mail's link changes, passkeys as they are kept, export and deletion."""
# Theory of operation
# -------------------
#     address given ──mail──▶ link opened ──passkey or password chosen──▶ account
#
# Nothing of an account exists before its address is proved: a thousand sign-ups leave a thousand links, which end in a
# day, and nobody can prepare an account for somebody else's address.  A lost password goes the same way, and so does an
# address that somebody else has changed (links.py).
#
# Cookies, links and tokens are 256 random bits; what is kept is their SHA-256, so that a copy of the register lets
# nobody in.

import dataclasses
import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import NotAccepted, NotFound
from rootsrv.portal import links
from rootsrv.portal.links import Link, Links, digest

SESSION_SECONDS = 30 * 86_400.0
"""Since it was used last."""

SESSION_LONGEST_SECONDS = 90 * 86_400.0
PROVED_SECONDS = 15 * 60.0
"""So long after passkey or password were shown, what is hard to undo is done without asking for them again."""

SEEN_SECONDS = 3600.0
"""How exactly it is kept when a session or token was used last."""

KEY_GRACE_SECONDS = 72 * 3600.0
"""How long servers of an account that is taken back may use the keys that they have (`portal.key_grace_hours`)."""

MAX_PASSKEYS = 20
MAILS = {
    "notify": "a NOTIFY stays unconfirmed",
    "transfer": "a server does not transfer new versions",
    "key": "a key is refused",
}
"""What one may be told by mail, if one wants; what concerns the account itself is always told."""

_EMAIL = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+"
)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with an account."""

    id: int
    email: str
    name: str
    has_password: bool
    handle: bytes
    created: float
    suspended: str
    mails: frozenset[str]


@dataclass(frozen=True, slots=True)
class Session:
    """A browser in which somebody is signed in."""

    user: User
    digest: bytes
    proved: float
    """When passkey or password were shown last, seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Passkey:
    """A passkey (WebAuthn credential), of which the private part is with its user."""

    id: bytes
    user: int
    public_key: bytes
    uses: int
    name: str
    created: float
    used: float | None

    def of(self, user: int) -> "Passkey":
        """The same, of *user*, who was not there when it was made."""
        return dataclasses.replace(self, user=user)


def handle_of(link: str) -> bytes:
    """The user handle (WebAuthn) of whoever begins with *link*: a passkey is made before there is an account."""
    return digest(f"handle {link}")


def checked_email(text: str) -> str:
    """NotAccepted if *text* is no address that mail could be sent to."""
    email = text.strip()
    # What looks like an encoded word (RFC 2047) is another address, or none, to whoever decodes headers (mails.py).
    if len(email) > 254 or not _EMAIL.fullmatch(email) or "=?" in email:
        raise NotAccepted("email", "that is no e-mail address")
    return email


class Accounts:
    """All accounts in one register."""

    def __init__(self, register: Register) -> None:
        self.register = register
        self.links = Links(register)

    # ── users ──

    def user(self, user: int) -> User:
        """NotFound."""
        row = self.register.row("SELECT * FROM users WHERE id = ?", user)
        if row is None:
            raise NotFound("there is no such account")
        return _user(row)

    def by_email(self, email: str) -> User | None:
        """Whatever letters are capitals."""
        row = self.register.row("SELECT * FROM users WHERE email = ?", email.strip())
        return _user(row) if row else None

    def by_handle(self, handle: bytes) -> User | None:
        """As passkeys name their user."""
        row = self.register.row("SELECT * FROM users WHERE handle = ?", handle)
        return _user(row) if row else None

    def all(self) -> list[User]:
        """In the order in which they came."""
        return [_user(row) for row in self.register.rows("SELECT * FROM users ORDER BY id")]

    def password_of(self, user: int) -> str:
        """What is kept of it; empty = there is none."""
        row = self.register.row("SELECT password FROM users WHERE id = ?", user)
        return str(row["password"]) if row else ""

    def set_password(self, user: int, kept: str) -> None:
        """*kept*: hashed; empty = none, which needs a passkey.  NotAccepted."""
        with self.register.writing() as database:
            if not kept and not self.passkeys(user):
                raise NotAccepted("password", "there is no passkey: without a password nobody could sign in")
            database.execute("UPDATE users SET password = ? WHERE id = ?", (kept, user))

    def set_name(self, user: int, name: str) -> None:
        """How mails address them; NotAccepted."""
        name = " ".join(name.split())
        if len(name) > 100 or not name.isprintable():
            raise NotAccepted("name", "a name has 100 characters at most")
        with self.register.writing() as database:
            database.execute("UPDATE users SET name = ? WHERE id = ?", (name, user))

    def set_mails(self, user: int, wanted: Iterable[str]) -> None:
        """Which troubles they want to be told of."""
        kept = ",".join(each for each in MAILS if each in set(wanted))
        with self.register.writing() as database:
            database.execute("UPDATE users SET mails = ? WHERE id = ?", (kept, user))

    def suspend(self, user: int, why: str) -> None:
        """Neither their servers nor they themselves are let in; empty *why* = again."""
        with self.register.writing() as database:
            database.execute("UPDATE users SET suspended = ? WHERE id = ?", (why, user))
            if why:
                database.execute("DELETE FROM sessions WHERE user = ?", (user,))

    def delete(self, user: int, now: float) -> list[str]:
        """With all that hangs on it, mails that wait among that; the addresses that are to be told of it.

        They are the one that it had, and those of the last week: a thief may have given it another.
        """
        with self.register.writing() as database:
            row = database.execute("SELECT email FROM users WHERE id = ?", (user,)).fetchone()
            if row is None:
                raise NotFound("there is no such account")
            told = {row["email"], *(each.email for each in self.links.to_undo(user, now))}
            database.execute("DELETE FROM mails WHERE recipient = ? COLLATE NOCASE", (row["email"],))
            # Not what others may have again: the account may be in its place (signed up anew, the stolen one back).
            database.execute("DELETE FROM links WHERE email = ? COLLATE NOCASE AND purpose != 'undo'", (row["email"],))
            database.execute("DELETE FROM users WHERE id = ?", (user,))
        return sorted(told)

    # ── links in mails ──

    def use_link(self, text: str, now: float, key_grace_seconds: float = KEY_GRACE_SECONDS) -> tuple[Link, User]:
        """Do what the link permits: make the account, or the address its own.  NotFound, NotAccepted.

        After one to recover or undo there is no way to sign in but what the caller adds, and what keys its servers have
        ends after *key_grace_seconds*.
        """
        with self.register.writing() as database:
            link = self.links.find(text, now)
            database.execute("DELETE FROM links WHERE digest = ?", (digest(text),))
            if link.purpose == "begin":
                if self.by_email(link.email) is not None:
                    raise NotAccepted("email", "there is an account with this address: sign in")
                user = self._add(database, link.email, handle_of(text), now)
            else:
                user = link.user or 0
            if link.purpose in ("email", "undo"):
                try:
                    database.execute(
                        "UPDATE users SET email = ?, email_verified = ? WHERE id = ?", (link.email, now, user)
                    )
                except sqlite3.IntegrityError:
                    raise NotAccepted("email", "there is another account with this address") from None
            links.used(database, link, user)
            if link.purpose in ("recover", "undo"):
                # A thief may be signed in, or have made a passkey or a token.
                for table in ("sessions", "passkeys", "tokens"):
                    database.execute(f"DELETE FROM {table} WHERE user = ?", (user,))
                database.execute("UPDATE users SET password = '' WHERE id = ?", (user,))
                # Or have seen a key's secret, by making one; its servers go on until they have others.
                database.execute(
                    "UPDATE keys SET ends = ? WHERE (ends IS NULL OR ends > ?)"
                    " AND server IN (SELECT id FROM servers WHERE user = ?)",
                    (now + key_grace_seconds, now + key_grace_seconds, user),
                )
            return link, self.user(user)

    @staticmethod
    def _add(database: sqlite3.Connection, email: str, handle: bytes, now: float) -> int:
        added = database.execute(
            "INSERT INTO users (email, email_verified, handle, created) VALUES (?, ?, ?, ?)",
            (email, now, handle, now),
        ).lastrowid
        assert added is not None
        return added

    # ── sessions ──

    def sign_in(self, user: int, now: float, cookie: str) -> None:
        """The browser that shows *cookie* is theirs from now on."""
        with self.register.writing() as database:
            database.execute("DELETE FROM sessions WHERE seen < ?", (now - SESSION_SECONDS,))
            database.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", (digest(cookie), user, now, now, now))

    def session(self, cookie: str, now: float) -> Session | None:
        """None if nobody is signed in with *cookie*."""
        row = self.register.row(
            "SELECT * FROM sessions WHERE digest = ? AND seen > ? AND created > ?",
            digest(cookie),
            now - SESSION_SECONDS,
            now - SESSION_LONGEST_SECONDS,
        )
        if row is None:
            return None
        user = self.user(row["user"])
        if user.suspended:
            return None
        if now - row["seen"] > SEEN_SECONDS:
            with self.register.writing() as database:
                database.execute("UPDATE sessions SET seen = ? WHERE digest = ?", (now, row["digest"]))
        return Session(user, row["digest"], row["proved"])

    def proved(self, session: Session, now: float) -> None:
        """Passkey or password were shown again."""
        with self.register.writing() as database:
            database.execute("UPDATE sessions SET proved = ? WHERE digest = ?", (now, session.digest))

    def sign_out(self, session: Session) -> None:
        """This browser."""
        with self.register.writing() as database:
            database.execute("DELETE FROM sessions WHERE digest = ?", (session.digest,))

    def sign_out_others(self, session: Session) -> int:
        """All other browsers, and links that were mailed; how many browsers."""
        with self.register.writing() as database:
            self.links.void(session.user.id)
            return database.execute(
                "DELETE FROM sessions WHERE user = ? AND digest != ?", (session.user.id, session.digest)
            ).rowcount

    def forget(self, now: float) -> None:
        """What has ended: sessions, links and the addresses in them, tokens; nothing asks for them any more."""
        with self.register.writing() as database:
            database.execute("DELETE FROM links WHERE ends <= ?", (now,))
            database.execute("DELETE FROM tokens WHERE ends <= ?", (now,))
            database.execute(
                "DELETE FROM sessions WHERE seen <= ? OR created <= ?",
                (now - SESSION_SECONDS, now - SESSION_LONGEST_SECONDS),
            )

    def sessions_of(self, user: int) -> list[tuple[float, float]]:
        """When each began and was seen last."""
        rows = self.register.rows("SELECT created, seen FROM sessions WHERE user = ? ORDER BY seen DESC", user)
        return [(row["created"], row["seen"]) for row in rows]

    # ── passkeys ──

    def passkeys(self, user: int) -> list[Passkey]:
        """In the order in which they came."""
        rows = self.register.rows("SELECT * FROM passkeys WHERE user = ? ORDER BY created", user)
        return [Passkey(*row) for row in rows]

    def passkey(self, credential: bytes) -> Passkey | None:
        """The one with this id."""
        row = self.register.row("SELECT * FROM passkeys WHERE id = ?", credential)
        return Passkey(*row) if row else None

    def add_passkey(self, passkey: Passkey) -> None:
        """NotAccepted."""
        with self.register.writing() as database:
            if len(self.passkeys(passkey.user)) >= MAX_PASSKEYS:
                raise NotAccepted("passkey", f"an account has {MAX_PASSKEYS} passkeys at most")
            try:
                database.execute(
                    "INSERT INTO passkeys VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (passkey.id, passkey.user, passkey.public_key, passkey.uses, passkey.name, passkey.created, None),
                )
            except sqlite3.IntegrityError:
                raise NotAccepted("passkey", "this passkey is known already") from None

    def passkey_used(self, credential: bytes, uses: int, now: float) -> None:
        """Its counter, so that a copy of it is noticed."""
        with self.register.writing() as database:
            database.execute("UPDATE passkeys SET uses = ?, used = ? WHERE id = ?", (uses, now, credential))

    def delete_passkey(self, user: int, credential: bytes) -> None:
        """NotFound; NotAccepted for the only way to sign in."""
        with self.register.writing() as database:
            mine = self.passkeys(user)
            if credential not in {each.id for each in mine}:
                raise NotFound("there is no such passkey")
            if len(mine) == 1 and not self.password_of(user):
                raise NotAccepted("passkey", "it is the only way to sign in: set a password first")
            database.execute("DELETE FROM passkeys WHERE id = ?", (credential,))

    def export(self, user: int, now: float) -> dict[str, Any]:
        """All that is kept of an account but the secrets, as JSON has it; tokens and servers are others'."""
        found = self.user(user)
        return {
            "email": found.email,
            "emails before": [{"email": each.email, "ends": each.ends} for each in self.links.to_undo(user, now)],
            "name": found.name,
            "created": found.created,
            "suspended": found.suspended,
            "password": found.has_password,
            "mails": sorted(found.mails),
            "passkeys": [
                {"name": each.name, "created": each.created, "used": each.used} for each in self.passkeys(user)
            ],
            "sessions": [{"created": created, "seen": seen} for created, seen in self.sessions_of(user)],
            "mails waiting": [
                {"subject": row["subject"], "created": row["created"]}
                for row in self.register.rows("SELECT * FROM mails WHERE recipient = ? COLLATE NOCASE", found.email)
            ],
        }


def _user(row: sqlite3.Row) -> User:
    return User(
        row["id"],
        row["email"],
        row["name"],
        bool(row["password"]),
        row["handle"],
        row["created"],
        row["suspended"],
        frozenset(filter(None, row["mails"].split(","))),
    )
