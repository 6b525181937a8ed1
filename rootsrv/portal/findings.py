"""Check my resolver: what was observed of a server, said for its operator, with what to do about it."""
# Theory of operation
# -------------------
# Per zone: WAITING until anything was seen; GOOD when the server has the newest serial; WAITING for MINUTES after a new
# one came; then BAD.  What is said beside that (addresses that are not proved, a NOTIFY that is refused, a key that
# fails) makes nothing bad that works: a resolver that takes no NOTIFY has the zone all the same, later.

from dataclasses import dataclass
from typing import Literal

from rootsrv.localroot.observations import Asked, Fresh, KeyFailed, Notified, Observed, Proved, TransferSeen
from rootsrv.localroot.servers import Server
from rootsrv.wire import codes
from rootsrv.wire.serial import serial_is_newer

State = Literal["good", "waiting", "bad"]

PATIENCE_SECONDS = 600.0
"""After a new version came; a resolver without NOTIFY looks at every refresh (of the root: 30 minutes)."""

WITHOUT_NOTIFY_SECONDS = 2 * 3600.0
TAKES_NO_NOTIFY = {"kresd", "kresd6", "pdns", "pdns5"}
"""Software that asks by a timer of its own."""

BY_HTTPS = {"kresd", "kresd6"}
"""Software that takes the zone by https only, where nothing tells who came."""

UNBOUND = {"unbound", "opnsense", "pihole"}

_UNBOUND_SOURCE = (
    "Unbound takes the address for transfers from the system (`ip route get`, then our address, shows which), whatever"
    " outgoing-interface says: that one has to be among this server's addresses."
)

_KEY_ADVICE = {
    "BADKEY": "No such key is known here: it was deleted, or its name is misspelt. Compare it, or make a new key.",
    "BADSIG": "The secret is not the one that belongs to this name: copy it again, or make a new key.",
    "BADTIME": "The clocks differ by more than five minutes: set this server's clock (NTP).",
    "BADTRUNC": "The signature is cut short: configure the algorithm as it stands here, without a length.",
}


_REFUSED_BY_UNBOUND = (
    "It does not take NOTIFY from here. Unbound needs our address as `allow-notify:` of the zone and, since whom"
    " access-control refuses is refused before that is looked at, the line"
    " `access-control: OUR-ADDRESS/32 refuse_non_local` (IPv6: /128); the configuration below has both."
)

_NOTIFY_ADVICE = {
    "REFUSED": "It does not take NOTIFY from here: BIND needs our address among the zone's primaries, or allow-notify.",
    "NOTAUTH": "It does not have this zone from here: is the configuration loaded?",
    "NOTIMP": "It knows no NOTIFY; it will look at every refresh.",
    "SERVFAIL": "It failed while it looked: its log says why.",
}


@dataclass(frozen=True, slots=True)
class ServerFinding:
    """One thing that is so."""

    state: State
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ZoneCheck:
    """How a server fares with one zone."""

    zone: str
    state: State
    summary: str
    serial: int | None
    """The one it has, as far as was seen."""

    newest: int | None
    """The one that is given out."""

    findings: tuple[ServerFinding, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """How a server fares."""

    state: State
    zones: tuple[ZoneCheck, ...]
    addresses: tuple[ServerFinding, ...]
    keys: tuple[ServerFinding, ...]


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """What was observed of one server, and which versions there are."""

    notified: tuple[Notified, ...]
    transferred: tuple[TransferSeen, ...]
    asked: tuple[Asked, ...]
    failed: tuple[KeyFailed, ...]
    proved: tuple[Proved, ...]
    versions: dict[str, tuple[Fresh, ...]]
    """By zone, newest first."""


def seen(observed: Observed, server: Server, at_most: int = 30) -> ServerSeen:
    """ObservationsUnusable if it cannot be read."""
    return ServerSeen(
        tuple(observed.of_server(Notified, server.id)),
        tuple(observed.of_server(TransferSeen, server.id)),
        tuple(observed.of_server(Asked, server.id)),
        tuple(observed.of_server(KeyFailed, server.id)),
        tuple(observed.of_server(Proved, server.id)),
        {zone: tuple(observed.fresh(zone, at_most)) for zone in server.zones},
    )


def check(server: Server, found: ServerSeen, now: float) -> Check:
    """What follows, at *now* (seconds since 1970)."""
    zones = tuple(_zone(server, zone, found, now) for zone in server.zones)
    keys = tuple(_keys(server, found))
    addresses = tuple(_addresses(server, found))
    states = {each.state for each in zones} | ({"bad"} & {each.state for each in keys})
    state: State = "bad" if "bad" in states else "waiting" if "waiting" in states else "good"
    return Check(state, zones, addresses, keys)


def has(server: Server, zone: str, found: ServerSeen) -> tuple[int | None, float]:
    """The serial of *zone* that *server* has, as far as was seen, and since when that is known (0 = nothing was)."""
    transferred = next((each for each in found.transferred if each.zone == zone), None)
    asked = next((each for each in found.asked if each.zone == zone), None)
    if transferred is None:
        return None, 0.0
    if asked is not None and asked.at > transferred.at and asked.serial == transferred.serial:
        return transferred.serial, asked.at
    return transferred.serial, transferred.at


def _zone(server: Server, zone: str, found: ServerSeen, now: float) -> ZoneCheck:
    versions = found.versions.get(zone, ())
    newest = versions[0] if versions else None
    serial, _ = has(server, zone, found)
    findings = [*_notifies(server, zone, found, serial), *_transfer(server, zone, found)]
    patience = WITHOUT_NOTIFY_SECONDS if server.software in TAKES_NO_NOTIFY else PATIENCE_SECONDS
    state: State
    if newest is None:
        state, summary = "waiting", "this zone is not given out yet"
    elif serial is None:
        state, summary = "waiting", "no transfer has been seen yet"
        if server.software in BY_HTTPS:
            summary += ": this software takes the zone by https, where nothing says who came"
    elif serial == newest.serial or serial_is_newer(serial, newest.serial):
        state, summary = "good", f"has the newest version, {serial}"
    elif now - newest.at < patience:
        state, summary = "waiting", f"has {serial}; {newest.serial} came {_ago(now - newest.at)} ago"
    else:
        state, summary = "bad", f"has {serial}, but {newest.serial} came {_ago(now - newest.at)} ago"
    return ZoneCheck(zone, state, summary, serial, newest.serial if newest else None, tuple(findings))


def _notifies(server: Server, zone: str, found: ServerSeen, serial: int | None) -> list[ServerFinding]:
    said = []
    for each in found.notified:
        if each.zone != zone or each.address not in server.addresses:
            continue
        rcode = "" if each.rcode is None else codes.rcode_text(each.rcode)
        what = f"NOTIFY of {each.serial} to {each.address}"
        if each.outcome == "confirmed":
            said.append(ServerFinding("good", f"{what}: {rcode or 'confirmed'} after {each.seconds:.2f} s"))
        elif each.outcome == "sent":
            said.append(ServerFinding("waiting", f"{what}: sent, no answer yet"))
        elif each.outcome == "refused":
            state: State = "waiting" if serial == each.serial else "bad"
            advice = _NOTIFY_ADVICE.get(rcode, "")
            if rcode == "REFUSED" and server.software in UNBOUND:
                advice = _REFUSED_BY_UNBOUND
            said.append(ServerFinding(state, f"{what}: {rcode or 'refused'}", advice))
        else:
            state = "waiting" if serial == each.serial or server.software in TAKES_NO_NOTIFY else "bad"
            why = each.reason or f"no answer to {each.tries} tries in {each.seconds:.0f} s"
            advice = f"Is port 53 (UDP) of {each.address} open for us, and does the resolver listen there?"
            if server.software in TAKES_NO_NOTIFY:
                advice = "This software knows no NOTIFY: it looks by itself, later."
            said.append(ServerFinding(state, f"{what}: {why}", advice))
    return said


def _transfer(server: Server, zone: str, found: ServerSeen) -> list[ServerFinding]:
    said = []
    for each in found.transferred:
        if each.zone != zone:
            continue
        after = "" if each.after_notify is None else f", {each.after_notify:.1f} s after the NOTIFY"
        key = "with its key" if each.key else "without a key"
        over = "over TLS" if each.transport == "tls" else "over TCP"
        size = f"{each.octets:,} octets"
        said.append(
            ServerFinding("good", f"{each.serial} by {each.how} {over} to {each.address}, {key}, {size}{after}")
        )
    for asked in found.asked:
        if asked.zone == zone:
            text = f"asked for the serial from {asked.address} and was told {asked.serial}"
            # Who transfers from an address that is not known is a stranger here, of whom nothing is kept.
            behind = server.software in UNBOUND and all(
                each.serial != asked.serial for each in found.transferred if each.zone == zone
            )
            advice = f"Was it transferred, and it is not seen here? {_UNBOUND_SOURCE}" if behind else ""
            said.append(ServerFinding("good", text, advice))
    return said


def _addresses(server: Server, found: ServerSeen) -> list[ServerFinding]:
    proved = {each.address for each in found.proved}
    advice = "It is proved by a signed transfer or SOA query from it, over TCP; until then no NOTIFY goes there."
    if server.software in UNBOUND:
        advice += f" {_UNBOUND_SOURCE}"
    return [
        ServerFinding("good", f"{each}: proved")
        if each in proved
        else ServerFinding("waiting", f"{each}: not proved yet", advice)
        for each in server.addresses
    ]


def _keys(server: Server, found: ServerSeen) -> list[ServerFinding]:
    """Failures that no later use has made up for."""
    said = []
    for each in found.failed:
        used = [at for at, key in used_keys(found) if key == each.key]
        if max(used, default=0.0) > each.at:
            continue
        advice = _KEY_ADVICE.get(each.error, "")
        if each.address not in server.addresses:
            advice += f" {each.address} is not one of this server's addresses: add it if that is where it asks from."
            if server.software in UNBOUND:
                advice += f" {_UNBOUND_SOURCE}"
        text = f"{each.error} with {each.key} from {each.address}" + (f": {each.detail}" if each.detail else "")
        said.append(ServerFinding("bad", text, advice))
    return said


def used_keys(found: ServerSeen) -> list[tuple[float, str]]:
    """When which key was seen to work."""
    transfers = [(each.at, each.key) for each in found.transferred if each.key]
    return [*transfers, *((each.at, each.key) for each in found.proved if each.key)]


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"
