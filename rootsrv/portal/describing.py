"""Servers, keys and checks as JSON has them: for the API and for export."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rootsrv.localroot.contributions import Contribution
from rootsrv.localroot.servers import Server
from rootsrv.portal import findings
from rootsrv.portal.visits import Portal


def described(portal: Portal, server: Server, now: float) -> dict[str, Any]:
    """A server with its keys, without secrets."""
    proved = {each.address for each in findings.seen(portal.observed, server, 1).proved}
    return {
        "id": server.id,
        "name": server.name,
        "software": server.software,
        "addresses": [{"address": each, "proved": each in proved} for each in server.addresses],
        "zones": list(server.zones),
        "contributes": server.contributes,
        "created": server.created,
        "keys": [asdict(each) for each in server.keys if each.ends is None or each.ends > now],
    }


def checked(portal: Portal, server: Server, now: float) -> dict[str, Any]:
    """How it fares."""
    return asdict(findings.check(server, findings.seen(portal.observed, server), now))


def contributed(sent: Iterable[Contribution]) -> list[dict[str, Any]]:
    """The counts that a server sent."""
    return [{"received": each.received, **each.counts.to_document()} for each in sent]
