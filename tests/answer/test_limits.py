"""The answer table's limits are the protocol's: what is legal is compiled, served, and truncated only if it must be."""

import dns.edns
import dns.flags
import dns.message
import dns.name
import pytest

from rootsrv.answer import examination
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import INDEX_LIMIT, AnswerTable, NameInfo, TableContents, ZoneInfo, to_octets
from rootsrv.demo import generate
from rootsrv.fastpath.program import TableUnfit, check_table
from rootsrv.wire import name as names
from rootsrv.zone.verify import VerifiedZone, accept_unverified
from tests.answer.conftest import NOW, SETTINGS
from tests.answer.large import TLD, with_name_servers

SOURCE = bytes((192, 0, 2, 1))


def compiled_with(count: int, label: str = "ns{}") -> tuple[VerifiedZone, AnswerTable]:
    unsigned = generate.root_contents(serial=2026112101, tlds=20, seed=6)
    root = accept_unverified(with_name_servers(unsigned, count, label), NOW)
    return root, AnswerTable(compile_table(root))


def ask(table: AnswerTable, qname: str, transport: Transport, settings: ResponderSettings = SETTINGS) -> bytes:
    responder = Responder(table, settings)
    query = dns.message.make_query(qname, "A", use_edns=0, payload=1232, options=[]).to_wire()
    response = responder.respond(query, SOURCE, transport, NOW)
    assert response == responder.respond_fully(query, SOURCE, transport, NOW)
    assert response is not None
    return response


def test_a_tld_with_130_name_servers_below_other_tlds_is_served_with_all_that_fits() -> None:
    root, table = compiled_with(130)
    tld = names.to_text(TLD)

    over_tcp = dns.message.from_wire(ask(table, f"www.{tld}", Transport.TCP))
    assert not over_tcp.flags & dns.flags.TC
    assert sum(map(len, over_tcp.authority)) == 130
    assert sum(map(len, over_tcp.additional)) == 260
    over_udp = ask(table, f"www.{tld}", Transport.UDP)
    assert len(over_udp) <= 1232
    assert dns.message.from_wire(over_udp).flags & dns.flags.TC

    referral = next(info.referral[1] for info in table.names() if info.label == TLD[1:-1])
    cuts = table.answer(referral).cuts
    assert len(cuts) > 255
    assert [cut.size for cut in cuts] == sorted({cut.size for cut in cuts})
    assert examination.examine(table, root.contents, None)[1] == []
    check_table(table)  # the kernel passes what it cannot hold


@pytest.mark.parametrize(
    ("count", "label", "whole"),
    [
        pytest.param(3000, "a-rather-long-name-of-a-host-{}", False, id="no message holds its name servers"),
        pytest.param(1200, "host{}", True, id="no message holds all their addresses"),
    ],
)
def test_what_no_message_can_hold_is_left_out_and_truncated_where_it_was_needed(
    count: int, label: str, whole: bool
) -> None:
    root, table = compiled_with(count, label)
    for qname in (names.to_text(TLD), f"{'a.' * 60}{names.to_text(TLD)}"):
        octets = ask(table, qname, Transport.TCP)
        assert len(octets) <= 65_535
        response = dns.message.from_wire(octets)
        assert bool(response.flags & dns.flags.TC) is not whole
        assert sum(map(len, response.authority)) == (count if whole else 0)
        if whole:
            assert len(octets) > 60_000
    assert examination.examine(table, root.contents, None)[1] == []


def test_options_that_make_a_response_too_long_leave_out_what_is_optional() -> None:
    _, table = compiled_with(1200, "host{}")
    body = max((answer for answer in table.answers()), key=lambda answer: len(answer.body))
    assert len(body.body) > 65_000
    for size in range(0, 128, 16):
        settings = ResponderSettings(nsid=bytes(size))
        responder = Responder(table, settings)
        query = dns.message.make_query(
            names.to_text(TLD), "A", use_edns=0, options=[dns.edns.GenericOption(3, b"")]
        ).to_wire()
        response = responder.respond(query, SOURCE, Transport.TCP, NOW)
        assert response is not None
        assert len(response) <= 65_535


def test_a_table_of_more_names_than_the_kernel_counts_is_answered_from_by_the_workers() -> None:
    small = generate.root_contents(serial=2026112101, tlds=20, seed=6)
    table = AnswerTable(compile_table(accept_unverified(small, NOW)))
    answers = tuple(table.answers())
    root_name, *delegated = table.names()
    first = next(info for info in delegated if len(info.label) >= 5)  # its pointers are right for labels as long
    numbers = {offset: number for number, offset in enumerate(_offsets(table), 1)}

    def numbered(info: NameInfo, label: bytes) -> NameInfo:
        referral, ds = (tuple(numbers.get(each, 0) for each in pair) for pair in (info.referral, info.ds))
        return NameInfo(label, info.flags, referral, ds, numbers[info.nxdomain])  # type: ignore[arg-type]

    labels = [f"{number:0{len(first.label)}x}".encode() for number in range(INDEX_LIMIT + 100)]
    owners = tuple(
        type(owner)(
            owner.name,
            owner.zone,
            {rtype: (numbers[plain], numbers[do]) for rtype, (plain, do) in owner.types.items()},
            (numbers[owner.nodata[0]], numbers[owner.nodata[1]]),
        )
        for owner in table.owners()
    )
    zone = table.zones[0]
    zones = (ZoneInfo(**{**_fields(zone), "nxdomain": (numbers[zone.nxdomain[0]], 0)}),)
    all_names = (numbered(root_name, b""), *(numbered(first, label) for label in labels))
    large = AnswerTable(to_octets(TableContents(zones, (86400,), all_names, owners, answers)))

    responder = Responder(large, SETTINGS)
    for label in (labels[0], labels[INDEX_LIMIT], labels[-1]):
        query = dns.message.make_query(dns.name.from_text(label.decode()), "NS").to_wire()
        response = responder.respond(query, SOURCE, Transport.TCP, NOW)
        assert response is not None
        assert dns.message.from_wire(response).authority
    with pytest.raises(TableUnfit, match="the kernel"):
        check_table(large)


def _offsets(table: AnswerTable) -> list[int]:
    """Of all answers, in the file's order."""
    found = {info.nxdomain for info in table.names()}
    found |= {offset for info in table.names() for offset in (*info.referral, *info.ds)}
    for owner in table.owners():
        found |= {*owner.nodata, *(offset for pair in owner.types.values() for offset in pair)}
    found |= {offset for zone in table.zones for offset in zone.nxdomain}
    return sorted(found - {0})


def _fields(zone: ZoneInfo) -> dict[str, object]:
    return {name: getattr(zone, name) for name in zone.__dataclass_fields__}
