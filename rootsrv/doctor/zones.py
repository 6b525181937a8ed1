"""The zones that the instance has: are there any that only newer software could serve, or that it should have?"""

import asyncio
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query

from rootsrv.config.file import Config
from rootsrv.control import client
from rootsrv.control.client import NoAnswer
from rootsrv.doctor.finding import Finding, bad, good, remark
from rootsrv.zone.shape import NEW_TO_US
from rootsrv.zone.verify import NEWER_SOFTWARE

_PATIENCE_SECONDS = 3.0


def checks(config: Config) -> Iterator[Finding]:
    """What the role maintain says, one finding a zone; nothing when it does not run."""
    socket = Path(config.state.runtime_directory) / "maintain.sock"
    try:
        status = asyncio.run(client.ask(socket, {"command": "status"}, _PATIENCE_SECONDS))
    except NoAnswer:
        return
    for zone in status["zones"]:
        yield _finding(zone)
    yield from _lame(config)


def _lame(config: Config) -> Iterator[Finding]:
    """Whether the root delegates arpa to where we answer for the root alone (RFC 9120; docs/protocol-notes.md)."""
    query = dns.message.make_query("arpa.", "NS", use_edns=0, payload=1232)
    try:
        answer = dns.query.udp(query, config.service.addresses[0], _PATIENCE_SECONDS, config.service.port)
    except (OSError, dns.exception.DNSException):
        return
    ours = {ipaddress.ip_address(each) for each in config.service.addresses}
    delegated = {ipaddress.ip_address(rdata.to_text()) for rrset in answer.additional for rdata in rrset}
    if ours & delegated:
        yield remark(
            "zone arpa.", f"is delegated to {', '.join(sorted(map(str, ours & delegated)))}, where it is not served",
            "announce this address only beside servers of it that have arpa, too (RFC 9120)",
        )  # fmt: skip


def _finding(zone: dict[str, Any]) -> Finding:
    about = f"zone {zone['name']}"
    beyond_us = [
        f"{held['serial']} is held: {reason}"
        for held in zone["held"]
        for reason in held["reasons"]
        if reason.startswith(NEWER_SOFTWARE)
    ]
    if beyond_us:
        until = f"; {zone['served']} is answered until {zone['lease_until']}" if zone["served"] is not None else ""
        return bad(about, "; ".join(beyond_us) + until, "install a newer version of rootsrv")
    new = [alarm for alarm in zone["alarms"] if NEW_TO_US in alarm]
    if new:
        return remark(about, f"{zone['served']}: {'; '.join(new)}", "a newer version of rootsrv may know more of it")
    return good(about, f"{zone['served']} is served" if zone["served"] is not None else "nothing is served yet")
