"""The servers of those who signed up, and their TSIG keys: added, changed and deleted."""
# Every function takes the user whose server it is meant to be: another's is not found, as if it were not there.

import base64
import ipaddress
import re
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from rootsrv.config.checks import plain_address
from rootsrv.localroot.register import Register
from rootsrv.localroot.subscribers import LiveKey
from rootsrv.resolvers.software import SOFTWARE

MAX_SERVERS = 50
"""Of one user; an operator who has more asks for a second account."""

MAX_ADDRESSES = 8
"""Of one server: each gets a NOTIFY at every new zone."""

MAX_KEYS = 2
"""Live keys of one server: one in use and its successor."""

MAX_NAME = 64

ALGORITHMS = {"hmac-sha256": 32, "hmac-sha384": 48, "hmac-sha512": 64}
"""Octets of a secret: those of the hash (RFC 8945 §6)."""

NUDGES_PER_HOUR = 20
"""NOTIFYs that may be asked for, for one server."""


class NotAccepted(Exception):
    """What was asked for cannot be; *field* is what it is about, the text is for people."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class NotFound(Exception):
    """There is no such thing, or it is somebody else's."""


@dataclass(frozen=True, slots=True)
class ServerKey:
    """A TSIG key, without its secret."""

    name: str
    algorithm: str
    created: float
    ends: float | None
    """When it stops to be live, since its successor is in use or its account was taken back; None = it does not."""


@dataclass(frozen=True, slots=True)
class Server:
    """A resolver that has zones from here."""

    id: int
    user: int
    name: str
    software: str
    addresses: tuple[str, ...]
    zones: tuple[str, ...]
    keys: tuple[ServerKey, ...]
    contributes: bool
    created: float


@dataclass(frozen=True, slots=True)
class ServerWish:
    """A server as somebody wants it; `checked` makes it what the register takes."""

    name: str
    software: str
    addresses: Sequence[str]
    zones: Sequence[str]
    contributes: bool = False


class Servers:
    """All servers in one register."""

    def __init__(self, register: Register, service: str, zones: Sequence[str], *, private: bool = False) -> None:
        """*service*: the domain that the names of keys end in; *zones*: what may be had.

        *private*: whether addresses that are not reachable from elsewhere are taken (a lab, a demo).
        """
        self._register = register
        self._service = service.rstrip(".").lower()
        self.zones = tuple(zones)
        self._private = private

    def of_user(self, user: int) -> list[Server]:
        """By name."""
        rows = self._register.rows("SELECT * FROM servers WHERE user = ? ORDER BY name COLLATE NOCASE, id", user)
        return [self._server(row) for row in rows]

    def all(self) -> list[Server]:
        """Of all users."""
        return [self._server(row) for row in self._register.rows("SELECT * FROM servers ORDER BY id")]

    def get(self, user: int, server: int) -> Server:
        """NotFound if *user* has none with this number."""
        row = self._register.row("SELECT * FROM servers WHERE id = ? AND user = ?", server, user)
        if row is None:
            raise NotFound("there is no such server")
        return self._server(row)

    def add(self, user: int, wish: ServerWish, now: float) -> int:
        """The number of the new server.  NotAccepted names the field that is wrong."""
        wish = self._checked(wish)
        label = re.sub(r"[^a-z0-9]+", "-", wish.name.lower()).strip("-")[:20].strip("-") or "server"
        with self._register.writing() as database:
            if database.execute("SELECT count(*) FROM servers WHERE user = ?", (user,)).fetchone()[0] >= MAX_SERVERS:
                raise NotAccepted("name", f"an account has {MAX_SERVERS} servers at most")
            self._refuse_second(database, user, wish.name, 0)
            added = database.execute(
                "INSERT INTO servers (user, name, label, software, contributes, created) VALUES (?, ?, ?, ?, ?, ?)",
                (user, wish.name, label, wish.software, wish.contributes, now),
            ).lastrowid
            assert added is not None
            self._put(database, added, wish, now)
        return added

    def change(self, user: int, server: int, wish: ServerWish, now: float) -> None:
        """Make *server* what is wished; its keys stay.  NotFound, NotAccepted.

        What one that does not contribute any more has sent is deleted.
        """
        wish = self._checked(wish)
        with self._register.writing() as database:
            self.get(user, server)
            self._refuse_second(database, user, wish.name, server)
            database.execute(
                "UPDATE servers SET name = ?, software = ?, contributes = ? WHERE id = ?",
                (wish.name, wish.software, wish.contributes, server),
            )
            self._put(database, server, wish, now)
            if not wish.contributes:
                database.execute("DELETE FROM contributions WHERE server = ?", (server,))

    def delete(self, user: int, server: int) -> None:
        """With its keys; NotFound."""
        with self._register.writing() as database:
            self.get(user, server)
            database.execute("DELETE FROM servers WHERE id = ?", (server,))

    def new_key(self, user: int, server: int, now: float, algorithm: str = "hmac-sha256") -> LiveKey:
        """A key whose secret is told this once.  NotFound; NotAccepted when there are two live ones."""
        if algorithm not in ALGORITHMS:
            raise NotAccepted("algorithm", f"must be one of {', '.join(ALGORITHMS)}")
        with self._register.writing() as database:
            self.get(user, server)
            (label,) = database.execute("SELECT label FROM servers WHERE id = ?", (server,)).fetchone()
            database.execute("DELETE FROM keys WHERE server = ? AND ends <= ?", (server, now))
            live, lasting = database.execute(
                "SELECT count(*), count(*) - count(ends) FROM keys WHERE server = ?", (server,)
            ).fetchone()
            # Do all of them end (the account was taken back), there has to be room for one that does not.
            if live >= MAX_KEYS and lasting:
                raise NotAccepted("key", "a server has two live keys at most: delete the one that is not used any more")
            random = base64.b32encode(secrets.token_bytes(10)).decode().lower()
            name = f"{random}.{label}.{self._service}."
            secret = secrets.token_bytes(ALGORITHMS[algorithm])
            database.execute(
                "INSERT INTO keys (name, server, algorithm, secret, created) VALUES (?, ?, ?, ?, ?)",
                (name, server, algorithm, self._register.seal.close(secret, name), now),
            )
        return LiveKey(name, server, algorithm, secret, None)

    def delete_key(self, user: int, server: int, name: str) -> None:
        """At once: what is signed with it is refused from then on.  NotFound."""
        with self._register.writing() as database:
            self.get(user, server)
            if not database.execute("DELETE FROM keys WHERE server = ? AND name = ?", (server, name)).rowcount:
                raise NotFound("there is no such key")

    def successor_used(self, name: str, at: float, grace_seconds: float) -> list[str]:
        """Key *name* was used at *at*: the older ones of its server end a grace after that.  Those that now do."""
        with self._register.writing() as database:
            row = database.execute("SELECT server, created FROM keys WHERE name = ?", (name,)).fetchone()
            if row is None or at < row["created"]:
                return []
            older = [
                each["name"]
                for each in database.execute(
                    "SELECT name FROM keys WHERE server = ? AND created < ? AND ends IS NULL",
                    (row["server"], row["created"]),
                )
            ]
            for each in older:
                database.execute("UPDATE keys SET ends = ? WHERE name = ?", (at + grace_seconds, each))
        return older

    def forget_ended_keys(self, now: float) -> int:
        """Those whose time is over; how many."""
        if self._register.row("SELECT 1 FROM keys WHERE ends <= ?", now) is None:
            return 0
        with self._register.writing() as database:
            return database.execute("DELETE FROM keys WHERE ends <= ?", (now,)).rowcount

    def nudge(self, user: int, server: int, zone: str, now: float) -> None:
        """Ask for a NOTIFY of *zone* to the proved addresses of *server*.  NotFound, NotAccepted."""
        with self._register.writing() as database:
            if zone not in self.get(user, server).zones:
                raise NotFound("this server does not have this zone")
            # Those of a clock that was ahead are over, too.
            database.execute("DELETE FROM nudges WHERE at NOT BETWEEN ? AND ?", (now - 3600, now))
            if database.execute("SELECT count(*) FROM nudges WHERE server = ?", (server,)).fetchone()[0] >= (
                NUDGES_PER_HOUR
            ):
                raise NotAccepted("zone", f"{NUDGES_PER_HOUR} NOTIFYs in an hour are enough: try again later")
            database.execute("INSERT INTO nudges (server, zone, at) VALUES (?, ?, ?)", (server, zone, now))

    # ── what is in a wish ──

    def _checked(self, wish: ServerWish) -> ServerWish:
        name = " ".join(wish.name.split())
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise NotAccepted("name", f"a name of 1 to {MAX_NAME} characters is needed")
        if wish.software not in SOFTWARE:
            raise NotAccepted("software", f"must be one of {', '.join(SOFTWARE)}")
        addresses = [each for each in (each.strip() for each in wish.addresses) if each]
        if len(addresses) > MAX_ADDRESSES:
            raise NotAccepted("addresses", f"a server has {MAX_ADDRESSES} addresses at most")
        plain = sorted({self._address(each) for each in addresses})
        zones = sorted(set(wish.zones))
        if unknown := [each for each in zones if each not in self.zones]:
            raise NotAccepted("zones", f"{unknown[0][:80]!r} is not given out here")
        if not zones:
            raise NotAccepted("zones", "at least one zone is needed")
        return ServerWish(name, wish.software, plain, zones, bool(wish.contributes))

    def _address(self, text: str) -> str:
        try:
            if "%" in text:
                raise ValueError
            plain = plain_address(text)
        except ValueError:
            raise NotAccepted("addresses", f"{text[:80]!r} is no IPv4 or IPv6 address") from None
        address = ipaddress.ip_address(plain)
        if address.is_multicast or address.is_unspecified or plain == "255.255.255.255":
            raise NotAccepted("addresses", f"{plain} is not the address of one host")
        if not self._private and not address.is_global:
            raise NotAccepted("addresses", f"{plain} cannot be reached from elsewhere: a public address is needed")
        return plain

    @staticmethod
    def _refuse_second(database: sqlite3.Connection, user: int, name: str, server: int) -> None:
        query = "SELECT 1 FROM servers WHERE user = ? AND name = ? COLLATE NOCASE AND id != ?"
        if database.execute(query, (user, name, server)).fetchone():
            raise NotAccepted("name", "another of your servers has this name")

    @staticmethod
    def _put(database: sqlite3.Connection, server: int, wish: ServerWish, now: float) -> None:
        had = {each[0] for each in database.execute("SELECT address FROM addresses WHERE server = ?", (server,))}
        database.executemany(
            "DELETE FROM addresses WHERE server = ? AND address = ?",
            [(server, each) for each in had - {*wish.addresses}],
        )
        database.executemany(
            "INSERT INTO addresses VALUES (?, ?, ?)",
            [(server, each, now) for each in wish.addresses if each not in had],
        )
        database.execute("DELETE FROM server_zones WHERE server = ?", (server,))
        database.executemany("INSERT INTO server_zones VALUES (?, ?)", [(server, each) for each in wish.zones])

    def _server(self, row: sqlite3.Row) -> Server:
        number = row["id"]
        rows = self._register.rows
        return Server(
            number,
            row["user"],
            row["name"],
            row["software"],
            tuple(each[0] for each in rows("SELECT address FROM addresses WHERE server = ? ORDER BY address", number)),
            tuple(each[0] for each in rows("SELECT zone FROM server_zones WHERE server = ? ORDER BY zone", number)),
            tuple(
                ServerKey(each["name"], each["algorithm"], each["created"], each["ends"])
                for each in rows("SELECT * FROM keys WHERE server = ? ORDER BY created", number)
            ),
            bool(row["contributes"]),
            row["created"],
        )
