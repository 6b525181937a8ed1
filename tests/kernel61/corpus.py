"""What the guest asks its kernel: frames with what is to become of them, and the table."""

import json
from pathlib import Path

from bench.mix import Mix
from rootsrv.answer.responder import Responder
from rootsrv.demo.signed import generate_root
from tests.fastpath.conftest import (
    NOW,
    SERVICE,
    SETTINGS,
    InKernel,
    Zones,
    compiled,
    frame,
    message,
    opt,
    option,
    wire,
)
from tests.fastpath.test_passes import MESSAGES

MIX_QUERIES = 2000


def write(path: Path) -> None:
    """Write table, settings and cases to *path*."""
    generated = generate_root(inception=NOW - 86400, expiration=NOW + 13 * 86400, seed=7, tlds=400)
    zones = Zones(generated, compiled(generated))
    responder = Responder(zones.table, SETTINGS)
    asks = InKernel(None, responder, zones.table, SETTINGS)  # type: ignore[arg-type]
    queries = [
        (query.octets, query.family) for query in Mix.read().queries([t.decode() for t in zones.tlds], MIX_QUERIES)
    ]
    for number, tld in enumerate(zones.tlds):
        family = 4 if number % 2 else 6
        queries.append(
            (message(wire(b"www", b"x" * (number % 60 + 1), tld), opt=opt(512 + 7 * (number % 100))), family)
        )
        queries.append((message(wire(tld), 43, opt=opt(options=option(3) + option(10, b"01234567"))), family))
    cases = [
        (frame(octets, family).to_octets().hex(), (asks.expected(octets, family) or b"").hex(), "")
        for octets, family in queries
    ]
    for octets, reason in MESSAGES.values():
        cases += [(frame(octets, family).to_octets().hex(), "", reason.name.lower()) for family in (4, 6)]
    plain = [message(name, 2, opt=opt()).hex() for name in (wire(), wire(b"com"), wire(b"nosuch"))]
    document = {"table": bytes(zones.table.octets).hex(), "now": NOW, "service": list(SERVICE.values())}
    path.write_text(json.dumps(document | {"cases": cases, "plain": plain}))
