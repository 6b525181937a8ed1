"""Root zones that are legal and larger than any that was seen: what the protocol allows, the answer table holds."""

from rootsrv.wire import name as names
from rootsrv.wire.rdata import AAAA, NS, A
from rootsrv.zone.contents import RRset, ZoneContents

TLD = names.from_text("manyhosts")


def with_name_servers(unsigned: ZoneContents, count: int, label: str = "ns{}") -> ZoneContents:
    """*unsigned* with one more TLD, whose *count* name servers lie below other TLDs and have two addresses each."""
    others = [each for each in unsigned.delegations if len(each) > 3]
    added: dict[tuple[bytes, int], RRset] = {}
    hosts = []
    for number in range(count):
        host = names.from_text(label.format(number))[:-1] + others[number % len(others)]
        hosts.append(host)
        address = number.to_bytes(2, "big")
        added[host, A] = RRset(host, A, 172_800, (b"\xc6\x33" + address,))
        added[host, AAAA] = RRset(host, AAAA, 172_800, (b"\x20\x01\x0d\xb8" + bytes(10) + address,))
    added[TLD, NS] = RRset(TLD, NS, 172_800, tuple(sorted(hosts)))
    return ZoneContents(unsigned.apex, {**unsigned.rrsets, **added})
