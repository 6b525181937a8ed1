"""Pages of one's servers: the list, one of them with how it fares, its keys and its configuration."""

import datetime
import json

from starlette.responses import Response

from rootsrv.localroot.observations import ObservationsUnusable
from rootsrv.localroot.servers import ALGORITHMS, NotAccepted, NotFound, Server, ServerWish
from rootsrv.localroot.subscribers import LiveKey, secret_text
from rootsrv.portal import findings
from rootsrv.portal.configuration import Choice, configuration, proof
from rootsrv.portal.visits import Visit
from rootsrv.process import log
from rootsrv.resolvers.day_counts import TRAFFIC_KEYS, DayCounts
from rootsrv.resolvers.software import SOFTWARE
from rootsrv.resolvers.wanted import CannotConfigure

_DAYS_SHOWN = 14
"""Of the counts that a server sent; an export has all of them."""


def servers(visit: Visit) -> Response:
    """All of one's own."""
    mine = visit.portal.servers.of_user(visit.user.id)
    return visit.page("servers.html", servers=[(each, _check(visit, each)) for each in mine], software=SOFTWARE)


def new(visit: Visit) -> Response:
    """A server is added."""
    user, portal = visit.user, visit.portal
    if visit.method == "GET":
        blank = ServerWish("", "unbound", [], portal.config.zones[:1])
        return _form(visit, blank, None)
    wish = wish_of(visit)
    try:
        number = portal.servers.add(user.id, wish, visit.now)
    except NotAccepted as error:
        return _form(visit, wish, None, error)
    return visit.on(f"/servers/{number}")


def edit(visit: Visit) -> Response:
    """A server is changed; its keys stay."""
    server = server_of(visit)
    if visit.method == "GET":
        had = ServerWish(server.name, server.software, server.addresses, server.zones, server.contributes)
        return _form(visit, had, server)
    wish = wish_of(visit)
    try:
        visit.portal.servers.change(visit.user.id, server.id, wish, visit.now)
    except NotAccepted as error:
        return _form(visit, wish, server, error)
    return visit.on(f"/servers/{server.id}")


def delete(visit: Visit) -> Response:
    """A server goes, with its keys."""
    server = server_of(visit)
    if visit.method == "GET":
        return visit.page("delete_server.html", server=server)
    visit.portal.servers.delete(visit.user.id, server.id)
    log.event("server deleted", server=server.id)
    return visit.on("/servers")


def server(visit: Visit, error: NotAccepted | None = None, key: LiveKey | None = None, said: str = "") -> Response:
    """One of them; *key*: that was made just now, whose secret is shown this once."""
    portal, found = visit.portal, server_of(visit)
    choice = _choice(visit)
    text, cannot = "", ""
    try:
        text = configuration(portal.config, found, choice, key)
    except CannotConfigure as problem:
        cannot = str(problem)
    values = {
        "server": found,
        "software": SOFTWARE[found.software],
        "check": _check(visit, found),
        "live_keys": [each for each in found.keys if each.ends is None or each.ends > visit.now],
        "key": key,
        "secret": secret_text(key.secret) if key else "",
        "proof": proof(portal.config, key, found) if key else [],
        "algorithms": tuple(ALGORITHMS),
        "choice": choice,
        "configuration": text,
        "cannot": cannot,
        "example": _example(visit.now),
        "sent": portal.contributions.of_server(found.id)[:_DAYS_SHOWN] if found.contributes else [],
        "said": said,
    }
    return visit.again("server.html", error, **values) if error else visit.page("server.html", **values)


def check(visit: Visit) -> Response:
    """How one fares, without the page around it: what live.js puts in place of what it said before."""
    found = server_of(visit)
    return visit.page("check.html", server=found, check=_check(visit, found))


def new_key(visit: Visit) -> Response:
    """A key is made, and shown in a configuration."""
    found = server_of(visit)
    try:
        key = visit.portal.servers.new_key(
            visit.user.id, found.id, visit.now, visit.field("algorithm") or "hmac-sha256"
        )
    except NotAccepted as error:
        return server(visit, error)
    log.event("key made", server=found.id, key=key.name)
    return server(visit, key=key)


def delete_key(visit: Visit) -> Response:
    """One of its keys."""
    found = server_of(visit)
    visit.portal.servers.delete_key(visit.user.id, found.id, visit.field("key"))
    log.event("key deleted", server=found.id, key=visit.field("key"))
    return visit.on(f"/servers/{found.id}")


def notify(visit: Visit) -> Response:
    """A NOTIFY is asked for."""
    found = server_of(visit)
    try:
        visit.portal.servers.nudge(visit.user.id, found.id, visit.field("zone"), visit.now)
    except NotAccepted as error:
        return server(visit, error)
    return visit.on(f"/servers/{found.id}")


def server_of(visit: Visit) -> Server:
    """The one that the address of the page names.  NotFound."""
    number = str(visit.parts["server"])
    if not number.isascii() or not number.isdigit() or len(number) > 18:
        raise NotFound("there is no such server")
    return visit.portal.servers.get(visit.user.id, int(number))


def wish_of(visit: Visit) -> ServerWish:
    """What a form says."""
    return ServerWish(
        visit.field("name"),
        visit.field("software"),
        visit.field("addresses").replace(",", " ").split(),
        visit.fields("zones"),
        bool(visit.field("contributes")),
    )


def _example(now: float) -> str:
    """The document of counts, as somebody would send it now."""
    yesterday = datetime.datetime.fromtimestamp(now - 86_400, datetime.UTC).date()
    traffic = {TRAFFIC_KEYS[0]: 81_234, TRAFFIC_KEYS[1]: 640}
    return json.dumps(DayCounts(yesterday, traffic, {0: 31_210, 3: 50_664}).to_document(), indent=2)


def _choice(visit: Visit) -> Choice:
    return Choice(
        bool(visit.asked("whole")),
        visit.asked("storage").strip(),
        tuple(visit.asked("private_zones").replace(",", " ").split()),
        bool(visit.asked("tls")),
    )


def _check(visit: Visit, server: Server) -> findings.Check | None:
    """None while nobody knows: what was observed cannot be read."""
    try:
        seen = findings.seen(visit.portal.observed, server)
    except ObservationsUnusable as error:
        visit.portal.cannot_read(error)
        return None
    visit.portal.can_read(ObservationsUnusable)
    return findings.check(server, seen, visit.now)


def _form(visit: Visit, wish: ServerWish, server: Server | None, error: NotAccepted | None = None) -> Response:
    values = {"wish": wish, "server": server, "software": SOFTWARE, "zones": visit.portal.config.zones}
    return visit.again("server_form.html", error, **values) if error else visit.page("server_form.html", **values)
