"""Asks a Responder and parses what it says."""

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype

from rootsrv.answer.responder import Responder, Transport
from tests.answer.conftest import NOW

SOURCE = bytes((192, 0, 2, 1))


def query(
    qname: str | dns.name.Name,
    rtype: str,
    *,
    do: bool = False,
    size: int | None = None,
    options: list[dns.edns.Option] | None = None,
    rclass: str = "IN",
    rd: bool = False,
) -> dns.message.QueryMessage:
    """A query message; without *do*, *size* and *options* it has no OPT record."""
    edns = do or size is not None or options is not None
    return dns.message.make_query(
        qname,
        rtype,
        rclass,
        use_edns=0 if edns else -1,
        want_dnssec=do,
        payload=size or 1232,
        options=options,
        flags=dns.flags.RD if rd else 0,
    )


def ask(
    responder: Responder,
    asked: dns.message.Message | bytes,
    transport: Transport = Transport.UDP,
    *,
    source: bytes = SOURCE,
    now: float = NOW,
) -> dns.message.Message:
    """The parsed response, after a check that both ways through the responder give the same."""
    octets = asked if isinstance(asked, bytes) else asked.to_wire(max_size=65535)
    response = responder.respond(octets, source, transport, now)
    assert response == responder.respond_fully(octets, source, transport, now)
    assert response is not None
    parsed = dns.message.from_wire(response, ignore_trailing=False)
    assert parsed.id == int.from_bytes(octets[:2])
    assert parsed.flags & dns.flags.QR
    assert not parsed.flags & (dns.flags.RA | dns.flags.AD | dns.flags.CD)
    return parsed


def described(message: dns.message.Message) -> dict[str, list[str]]:
    """Owner and type of every RRset by section; signatures by what they cover."""
    found = {}
    for section in ("answer", "authority", "additional"):
        found[section] = [
            f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)}"
            + (f"({dns.rdatatype.to_text(rrset.covers)})" if rrset.covers else "")
            for rrset in getattr(message, section)
        ]
    return found
