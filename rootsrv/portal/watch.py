"""What is to be mailed to operators: what their servers are in trouble with, each once; and keys whose time is over."""
# Theory of operation
# -------------------
# Once a minute everything observed is looked at.  A trouble that was not told before is mailed (all those of one server
# in one mail) and noted as told.  It is told again only when it was over for a day and came back.
#
# When most servers, of most owners, are in trouble at the same time the fault is most likely ours or our network's:
# then nobody is mailed, and an alarm says so to whoever runs the service.

import dataclasses
from collections.abc import Iterable
from typing import TypeVar

from rootsrv.localroot.observations import Fresh, KeyFailed, Notified, Proved, TransferSeen
from rootsrv.localroot.servers import NotAccepted, Server
from rootsrv.portal import findings, letters
from rootsrv.portal.findings import ServerSeen
from rootsrv.portal.visits import Portal
from rootsrv.process import log
from rootsrv.wire.serial import serial_is_newer

LOOK_SECONDS = 60.0
FORGOTTEN_SECONDS = 86_400.0
"""So long after a trouble was told, and is over, it would be told again."""

FEW = 5
"""In trouble at once with the same: that many are taken to be their own, whatever the share."""


T = TypeVar("T", Notified, TransferSeen, KeyFailed, Proved)


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """Something that an operator should know."""

    kind: str
    """A key of accounts.MAILS."""

    subject: str
    """What it is about: the same trouble has the same."""

    text: str


def troubles(
    server: Server, found: ServerSeen, now: float, *, unconfirmed_seconds: float, missed: int
) -> list[Trouble]:
    """Those of *server* at *now*.  *missed*: so many versions that it did not transfer are too many."""
    return [
        *_notify_troubles(server, found, now, unconfirmed_seconds),
        *_transfer_troubles(server, found, now, missed),
        *_key_troubles(found),
    ]


def _notify_troubles(server: Server, found: ServerSeen, now: float, unconfirmed_seconds: float) -> Iterable[Trouble]:
    if server.software in findings.TAKES_NO_NOTIFY:
        return
    for each in found.notified:
        if each.outcome == "confirmed" or now - each.at < unconfirmed_seconds:
            continue
        if each.address not in server.addresses or each.zone not in server.zones:
            continue
        serial, _ = findings.has(server, each.zone, found)
        if serial is not None and not serial_is_newer(each.serial, serial):
            continue  # it has it all the same
        answer = f"answered {each.rcode}" if each.outcome == "refused" else "did not answer"
        yield Trouble(
            "notify",
            f"notify {each.zone} {each.address}",
            f"{each.address} {answer} when it was told of version {each.serial} of {_named(each.zone)}.",
        )


def _transfer_troubles(server: Server, found: ServerSeen, now: float, missed: int) -> Iterable[Trouble]:
    for zone in server.zones:
        serial, _ = findings.has(server, zone, found)
        if serial is None:
            continue  # it never had it from here, or by https, where nothing says who came
        later = [each for each in found.versions.get(zone, ()) if serial_is_newer(each.serial, serial)]
        if len(later) >= missed and now - later[0].at >= findings.PATIENCE_SECONDS:
            yield Trouble(
                "transfer",
                f"transfer {zone}",
                f"It has version {serial} of {_named(zone)}; {len(later)} newer ones were not transferred.",
            )


def _key_troubles(found: ServerSeen) -> Iterable[Trouble]:
    used = findings.used_keys(found)
    for each in found.failed:
        if all(at <= each.at for at, key in used if key == each.key):
            yield Trouble(
                "key", f"key {each.key} {each.error}", f"{each.error} with key {each.key} from {each.address}."
            )


class Watch:
    """Looks and mails."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._held = False

    def look(self, now: float) -> int:
        """Once, in whichever thread this is called; how many mails were put."""
        portal = self._portal
        portal.contributions.settle(now)
        servers = portal.servers.all()
        seen = self._seen(servers)
        self._keys(seen, now)
        portal.servers.forget_ended_keys(now)
        config = portal.config
        found = {
            server.id: troubles(
                # The canary is there to try things with, and comes every few minutes.
                dataclasses.replace(server, zones=tuple(each for each in server.zones if each != config.canary_zone)),
                seen[server.id],
                now,
                unconfirmed_seconds=60 * config.unconfirmed_minutes,
                missed=config.missed_serials,
            )
            for server in servers
        }
        self._forget(found, now)
        if self._is_ours(servers, found):
            return 0
        return sum(self._mail(server, found[server.id], now) for server in servers if found[server.id])

    def _seen(self, servers: list[Server]) -> dict[int, ServerSeen]:
        """One look at each table, however many servers there are."""
        observed = self._portal.observed
        zones = {zone for server in servers for zone in server.zones}
        versions: dict[str, tuple[Fresh, ...]] = {zone: tuple(observed.fresh(zone)) for zone in zones}
        notified, transferred = _by_server(observed.all(Notified)), _by_server(observed.all(TransferSeen))
        failed, proved = _by_server(observed.all(KeyFailed)), _by_server(observed.all(Proved))
        return {
            server.id: ServerSeen(
                tuple(notified.get(server.id, ())),
                tuple(transferred.get(server.id, ())),
                (),
                tuple(failed.get(server.id, ())),
                tuple(proved.get(server.id, ())),
                {zone: versions[zone] for zone in server.zones},
            )
            for server in servers
        }

    def _keys(self, seen: dict[int, ServerSeen], now: float) -> None:
        """The older key of a server ends a grace after its successor was used first."""
        grace = self._portal.config.key_grace_hours * 3600
        for server in seen.values():
            for at, key in findings.used_keys(server):
                for ended in self._portal.servers.successor_used(key, at, max(grace, now - at)):
                    log.event("key ends", key=ended, successor=key, in_hours=round(grace / 3600))

    def _forget(self, found: dict[int, list[Trouble]], now: float) -> None:
        register = self._portal.accounts.register
        old = register.rows("SELECT server, trouble FROM told WHERE at < ?", now - FORGOTTEN_SECONDS)
        over = [
            (row["server"], row["trouble"])
            for row in old
            if row["trouble"] not in {each.subject for each in found.get(row["server"], ())}
        ]
        if over:
            with register.writing() as database:
                database.executemany("DELETE FROM told WHERE server = ? AND trouble = ?", over)

    def _is_ours(self, servers: list[Server], found: dict[int, list[Trouble]]) -> bool:
        """Whether so many are in trouble that it is hardly theirs: most servers, and of most owners.

        One owner alone, however many servers he has signed up, keeps no mail from the others.
        """
        concerned = [each for each in servers if any(trouble.kind != "key" for trouble in found[each.id])]
        owners, of_owners = len({each.user for each in concerned}), len({each.user for each in servers})
        held = len(concerned) > max(FEW, len(servers) // 2) and owners > of_owners // 2
        if held and not self._held:
            log.alarm("most servers are in trouble", servers=len(concerned), of=len(servers), effect="nobody is mailed",
                      do="look at our own network and zones")  # fmt: skip
        self._held = held
        return held

    def _mail(self, server: Server, listed: list[Trouble], now: float) -> int:
        portal = self._portal
        user = portal.accounts.user(server.user)
        register = portal.accounts.register
        told = {row["trouble"] for row in register.rows("SELECT trouble FROM told WHERE server = ?", server.id)}
        new = [each for each in listed if each.subject not in told]
        if not new or user.suspended:
            return 0
        wanted = [each for each in new if each.kind in user.mails]
        with register.writing() as database:
            database.executemany(
                "INSERT OR REPLACE INTO told VALUES (?, ?, ?)", [(server.id, each.subject, now) for each in new]
            )
            if wanted and portal.mails.can_send:
                letter = letters.troubles(portal.config, server.name, server.id, [each.text for each in wanted])
                try:
                    portal.mails.put(user.email, *letter, now)
                except NotAccepted as error:
                    portal.unsent.met(error, about=server.id)
                    return 0
                portal.unsent.over()
        return 1 if wanted and portal.mails.can_send else 0


def _named(zone: str) -> str:
    return "the root zone" if zone == "." else zone


def _by_server(rows: Iterable[T]) -> dict[int, list[T]]:
    found: dict[int, list[T]] = {}
    for each in rows:
        found.setdefault(each.server, []).append(each)
    return found
