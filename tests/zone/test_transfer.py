"""An inbound transfer gives the contents that the primary meant, or an exception; never something between."""

import itertools
import struct
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.demo import generate
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.message import AXFR, IXFR, MessageMalformed, parse
from rootsrv.wire.record import Record
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import (
    Inbound,
    InboundLimits,
    TransferFailed,
    TransferInconsistent,
    TransferMalformed,
    TransferTooLarge,
    difference,
)
from rootsrv.zone.transfer_out import Difference, ready_messages, transfer_records

ROOT = b"\0"
ID = 4711
VERSIONS = [generate.root_contents(serial=serial, tlds=12 + serial, seed=serial) for serial in (1, 2, 3)]


def records(contents: ZoneContents, *chain: ZoneContents) -> list[Record]:
    steps = itertools.pairwise((*chain, contents))
    return list(transfer_records(contents, [Difference(a.serial, b.serial, *difference(a, b)) for a, b in steps]))


def messages(sent: Iterable[Record], qtype: int) -> Iterator[bytes]:
    question = ROOT + struct.pack("!HH", qtype, 1)
    for answers, octets in ready_messages(ROOT, sent, ordered=qtype == IXFR):
        yield struct.pack("!HHHHHH", ID, 0x8400, 1 if question else 0, answers, 0, 0) + question + octets
        question = b""


LIMITS = InboundLimits()


def receive(sent: Iterable[Record], base: ZoneContents | None = None, limits: InboundLimits = LIMITS) -> Inbound:
    qtype = AXFR if base is None else IXFR
    inbound = Inbound(ROOT, qtype, ID, base=base, limits=limits)
    for octets in messages(sent, qtype):
        inbound.receive_message(octets, 0.0)
    inbound.receive_eof()
    return inbound


def result(inbound: Inbound) -> ZoneContents:
    contents = inbound.result()
    assert contents is not None
    return contents


def test_axfr_gives_the_zone() -> None:
    assert result(receive(records(VERSIONS[0]))).rrsets == VERSIONS[0].rrsets


def test_ixfr_over_one_and_over_two_differences_gives_the_newest() -> None:
    one, two, three = VERSIONS
    assert result(receive(records(two, one), one)).rrsets == two.rrsets
    both = receive(records(three, one, two), one)
    assert both.incremental
    assert result(both).rrsets == three.rrsets


def test_ixfr_that_is_answered_with_the_whole_zone_gives_the_zone() -> None:
    got = receive(records(VERSIONS[1]), VERSIONS[0])
    assert not got.incremental
    assert result(got).rrsets == VERSIONS[1].rrsets


def test_a_single_soa_that_is_not_newer_means_up_to_date() -> None:
    assert receive(records(VERSIONS[0])[:1], VERSIONS[1]).result() is None


def test_identical_records_are_merged_in_axfr() -> None:
    sent = records(VERSIONS[0])
    assert result(receive([*sent[:-1], *sent[1:5], sent[-1]])).rrsets == VERSIONS[0].rrsets


def mutations() -> dict[str, tuple[list[Record], ZoneContents | None, type[TransferFailed], str]]:
    one, two = VERSIONS[0], VERSIONS[1]
    whole, delta = records(one), records(two, one)
    added_at = next(at for at in range(2, len(delta)) if delta[at][1] == rdatas.SOA) + 1
    other_soa = records(two)[0]
    foreign: Record = (b"\x02xx\0", 1, 60, b"\1\2\3\4")
    return {
        "no SOA at first": (whole[1:], None, TransferMalformed, "does not begin with an SOA"),
        "cut off": (whole[:-1], None, TransferMalformed, "cut off after"),
        "another SOA at the end": ([*whole[:-1], other_soa], None, TransferMalformed, "SOA changed during"),
        "records behind the end": ([*whole, foreign], None, TransferMalformed, "behind the last SOA"),
        "an SOA below the apex": ([*whole[:-1], (b"\1x\0", *whole[0][1:]), whole[-1]], None, TransferMalformed, "apex"),
        "nothing but SOAs": ([whole[0], whole[0]], None, TransferMalformed, "nothing but its SOA"),
        "an address of three octets": (
            [*whole[:-1], (b"\1x\0", 1, 60, b"123"), whole[-1]],
            None,
            TransferMalformed,
            "A",
        ),
        "two TTLs in an RRset": (
            [*whole[:-1], (b"\1x\0", 1, 60, b"1234"), (b"\1x\0", 1, 61, b"1235"), whole[-1]],
            None,
            TransferMalformed,
            "TTL",
        ),
        "a deletion of what is not there": (
            [*delta[:2], foreign, *delta[2:]],
            one,
            TransferInconsistent,
            "to be deleted",
        ),
        "an addition of what is there": (
            [*delta[:added_at], next(each for each in one.records() if each in set(two.records())), *delta[added_at:]],
            one,
            TransferInconsistent,
            "to be added",
        ),
        "a difference from another version": (records(VERSIONS[2], two), one, TransferInconsistent, "starts from"),
    }


@pytest.mark.parametrize("what", mutations())
def test_a_faulty_transfer_is_refused(what: str) -> None:
    sent, base, kind, reason = mutations()[what]
    with pytest.raises(kind, match=reason):
        receive(sent, base).result()


def test_limits_hold_for_octets_records_and_what_is_uncompressed() -> None:
    sent = records(VERSIONS[0])
    with pytest.raises(TransferTooLarge, match="more than 50 records"):
        receive(sent, limits=InboundLimits(records=50))
    with pytest.raises(TransferTooLarge, match="more than 1000 octets"):
        receive(sent, limits=InboundLimits(octets=1000))
    # 4,000 records of 16 octets whose owner is a name of 255 octets.
    soa = sent[0]
    name = b"".join(b"\x3f" + b"a" * 63 for _ in range(3)) + b"\x3d" + b"b" * 61 + b"\0"
    first = soa[0] + struct.pack("!HHIH", soa[1], 1, soa[2], len(soa[3])) + soa[3]
    body = first + name + struct.pack("!HHIH", 1, 1, 60, 4) + b"\1\2\3\4"
    pointer = struct.pack("!H", 0xC000 | 12 + 5 + len(first))
    count = 2
    while len(body) < 60_000:
        body += pointer + struct.pack("!HHIHI", 1, 1, 60, 4, count)
        count += 1
    bomb = struct.pack("!HHHHHH", ID, 0x8400, 1, count, 0, 0) + b"\0" + struct.pack("!HH", AXFR, 1) + body
    with pytest.raises(TransferTooLarge, match="when uncompressed"):
        Inbound(ROOT, AXFR, ID, limits=InboundLimits(octets=200_000)).receive_message(bomb, 0.0)


@pytest.mark.parametrize("target", [17, 18, 200])
def test_a_pointer_that_does_not_point_back_is_malformed(target: int) -> None:
    header = struct.pack("!HHHHHH", ID, 0x8400, 1, 1, 0, 0) + b"\0" + struct.pack("!HH", AXFR, 1)
    with pytest.raises(MessageMalformed):
        parse(header + struct.pack("!HHHIH", 0xC000 | target, 6, 1, 60, 0))


def pointer_chain(count: int) -> bytes:
    """A message of *count* records whose owners point each to the one before, as long as pointers reach."""
    octets = struct.pack("!HHHHHH", ID, 0x8400, 0, count, 0, 0) + b"\1a\0" + struct.pack("!HHIH", 16, 1, 60, 0)
    target = 12
    for _ in range(count - 1):
        at = len(octets)
        octets += struct.pack("!H", 0xC000 | target) + struct.pack("!HHIH", 16, 1, 60, 0)
        target = at if at < 0x4000 else target
    return octets


def test_a_chain_of_pointers_is_followed_once() -> None:
    steps = 0

    class Octets(bytes):
        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            nonlocal steps
            steps += isinstance(key, int)
            return super().__getitem__(key)

    count = 5400
    assert {owner for owner, *_ in parse(Octets(pointer_chain(count))).answers} == {b"\1a\0"}
    assert steps < 10 * count


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_flipped_in_an_ixfr_it_gives_the_zone_or_another_whole_zone_or_an_exception(
    data: st.DataObject,
) -> None:
    """Mutated messages never end in anything but TransferFailed."""
    one, two = VERSIONS[0], VERSIONS[1]
    sent = list(messages(records(two, one), IXFR))
    for _ in range(data.draw(st.integers(1, 4))):
        number = data.draw(st.integers(0, len(sent) - 1))
        octets = bytearray(sent[number])
        if not octets:
            continue
        at = data.draw(st.integers(0, len(octets) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                octets[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del octets[at:]
            case "insert":
                octets[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        sent[number] = bytes(octets)
    inbound = Inbound(ROOT, IXFR, ID, base=one)
    try:
        for each in sent:
            inbound.receive_message(each, 0.0)
        inbound.receive_eof()
        contents = inbound.result()
    except TransferFailed:
        return
    assert contents is None or contents.soa.serial != one.serial


@given(st.binary(max_size=600))
def test_any_octets_parse_or_are_malformed(octets: bytes) -> None:
    try:
        parse(octets)
    except MessageMalformed:
        return


def test_a_difference_is_what_it_takes_and_no_more() -> None:
    one, two = VERSIONS[0], VERSIONS[1]
    removed, added = difference(one, two)
    assert removed[0][1] == added[0][1] == rdatas.SOA
    assert set(one.records()) - set(removed) | set(added) == set(two.records())
    assert not set(removed) & set(added)
