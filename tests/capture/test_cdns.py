import random
import sys
from collections.abc import Callable

import cbor2
import pytest

from rootsrv.capture import cdns, formats, pcap
from rootsrv.capture.cdns import BlockWriter, Collection
from rootsrv.capture.cdns_columns import ColumnWriter
from rootsrv.capture.cdns_plain import PlainWriter
from rootsrv.capture.facts import FACT_OCTETS, Fact, Kind, OptBits
from tests.capture import cdns_decoder, random_facts

WALL = 1_700_000_000 * 10**9 + 987_654_321
BOTH = pytest.mark.parametrize("writer", [ColumnWriter, PlainWriter])

Writer = Callable[[Collection], BlockWriter]


def written(writer: Writer, found: list[Fact], collection: Collection | None = None, **losses: int) -> bytes:
    """*found* as a file."""
    collection = collection or Collection()
    blocks = writer(collection)
    complete = blocks.add(random_facts.rows(found), WALL, **losses)
    return cdns.head(collection) + b"".join(complete) + blocks.flush() + cdns.END


def in_order(found: list[Fact]) -> list[Fact]:
    return sorted(found)


@BOTH
@pytest.mark.parametrize("anything", [True, False])
def test_every_field_of_20_000_queries_comes_back(writer: Writer, anything: bool) -> None:
    found = random_facts.facts(8618, 20_000, anything=anything)
    decoded = cdns_decoder.decode(written(writer, found))
    assert [len(block.get(3, [])) + len(block.get(5, [])) for block in decoded.blocks] == [10_000, 10_000]
    assert in_order(decoded.facts) == in_order([cdns_decoder.expected(fact, WALL) for fact in found])


@BOTH
def test_items_of_a_block_are_in_the_order_of_arrival(writer: Writer) -> None:
    found = random_facts.facts(1, 500, malformed_share=0)
    decoded = cdns_decoder.decode(written(writer, found))
    assert decoded.facts == [cdns_decoder.expected(fact, WALL) for fact in found]


@BOTH
@pytest.mark.parametrize("octets", [1, 3, 23, 24, 25, 54, 55, 56, 166, 167, 168, 254, 255])
def test_a_name_of_any_length_comes_back(writer: Writer, octets: int) -> None:
    draw = random.Random(octets)
    found = [
        random_facts.query(draw, number, anything=True)._replace(octets=name, name_octets=octets)
        for number in range(1, 30)
        if (name := random_facts.wire_name(draw, octets))
    ]
    assert cdns_decoder.decode(written(writer, found)).facts == [cdns_decoder.expected(fact, WALL) for fact in found]


@BOTH
def test_names_that_differ_in_one_octet_are_two_entries(writer: Writer) -> None:
    draw = random.Random(2)
    name = random_facts.wire_name(draw, 255)
    at = [place for place in range(1, 254, 5) if name[place] > 63]
    names = [name, *(name[:place] + bytes([name[place] ^ 0x80]) + name[place + 1 :] for place in at)]
    like = random_facts.query(draw, 1, anything=True)
    found = [like._replace(octets=each, name_octets=255) for each in names * 2]
    block = cdns_decoder.decode(written(writer, found)).blocks[0]
    assert sorted(block[2][2]) == sorted(names)
    assert len(block[2][3]) == 1


@BOTH
@pytest.mark.parametrize("octets", [0, 1, 55, 56, 511, 65_535])
def test_a_malformed_message_is_kept_raw(writer: Writer, octets: int) -> None:
    draw = random.Random(octets)
    found = [random_facts.malformed(draw, number, draw.randbytes(octets)) for number in range(1, 4)]
    decoded = cdns_decoder.decode(written(writer, found))
    assert decoded.facts == [cdns_decoder.expected(fact, WALL) for fact in found]
    assert decoded.blocks[0][1][5] == 3
    assert 3 not in decoded.blocks[0]


@BOTH
def test_a_flood_of_large_malformed_messages_does_not_make_a_block_large(writer: Writer) -> None:
    raw = bytes(65_535)
    found = [random_facts.malformed(random.Random(3), number, raw) for number in range(1, 200)]
    blocks = cdns_decoder.decode(written(writer, found)).blocks
    assert [len(block[5]) for block in blocks] == [111, 88]  # 586 rows each, 65,536 a block


@BOTH
def test_rows_may_come_in_portions_of_any_size(writer: Writer) -> None:
    found = random_facts.facts(4, 25_000, anything=False)
    blocks = writer(Collection())
    made: list[bytes] = []
    at = 0
    draw = random.Random(4)
    while at < len(found):
        size = draw.choice([0, 1, 4_000, 12_345])
        made += blocks.add(random_facts.rows(found[at : at + size]), WALL)
        at += size
    file = cdns.head(Collection()) + b"".join(made) + blocks.flush() + cdns.END
    decoded = cdns_decoder.decode(file)
    assert in_order(decoded.facts) == in_order([cdns_decoder.expected(fact, WALL) for fact in found])
    assert len(decoded.blocks) == 3
    assert blocks.flush() == b""


@BOTH
def test_losses_are_told_even_by_a_block_without_items(writer: Writer) -> None:
    blocks = writer(Collection())
    assert blocks.flush() == b""
    assert blocks.add(b"", WALL, lost=3, not_sampled=9) == []
    block = cbor2.loads(blocks.flush())
    assert (block[0], block[1][-7], block[1][-8]) == ({}, 3, 9)
    assert blocks.flush() == b""


@BOTH
def test_a_fact_that_misses_a_continuation_counts_as_lost(writer: Writer) -> None:
    draw = random.Random(5)
    before, after = (random_facts.query(draw, number) for number in (1, 3))
    long = random_facts.query(draw, 2)._replace(octets=random_facts.wire_name(draw, 255), name_octets=255)
    for rows in (
        before.to_rows() + long.to_rows()[:-FACT_OCTETS] + after.to_rows(),
        before.to_rows() + after.to_rows() + long.to_rows()[: 2 * FACT_OCTETS],
    ):
        blocks = writer(Collection())
        assert blocks.add(rows, WALL) == []
        block = cbor2.loads(blocks.flush())
        assert (block[1][1], block[1][-7]) == (2, 1)


@BOTH
def test_continuations_that_belong_to_nothing_change_nothing(writer: Writer) -> None:
    draw = random.Random(6)
    fact = random_facts.query(draw, 1)._replace(octets=b"\0", name_octets=1)
    stray = random_facts.malformed(draw, 1, bytes(200)).to_rows()[FACT_OCTETS:]
    blocks = writer(Collection())
    blocks.add(stray + fact.to_rows() + stray, WALL)
    decoded = cdns_decoder.decode(cdns.head(Collection()) + blocks.flush() + cdns.END)
    assert decoded.facts == [cdns_decoder.expected(fact, WALL)]
    assert decoded.blocks[0][1][-7] == 0


@BOTH
def test_a_row_of_an_unknown_kind_counts_as_lost(writer: Writer) -> None:
    fact = random_facts.query(random.Random(7), 1)._replace(octets=b"\0", name_octets=1)
    blocks = writer(Collection())
    blocks.add(fact._replace(kind=77).to_rows() + fact.to_rows(), WALL)
    block = cbor2.loads(blocks.flush())
    assert (block[1][1], block[1][-7]) == (1, 1)


@BOTH
def test_times_may_go_back_and_far_apart(writer: Writer) -> None:
    draw = random.Random(8)
    found = [random_facts.query(draw, time) for time in (10**15, 5, 3 * 10**15, 10**15 + 1_999)]
    decoded = cdns_decoder.decode(written(writer, found))
    assert decoded.facts == [cdns_decoder.expected(fact, WALL) for fact in found]


@BOTH
def test_a_wall_clock_that_was_never_set_is_written_as_it_is(writer: Writer) -> None:
    fact = random_facts.query(random.Random(13), 10**15)
    blocks = writer(Collection())
    blocks.add(fact.to_rows(), -(10**15) + 5_000_000)
    assert cbor2.loads(blocks.flush())[0][0] == [0, 5_000]


@BOTH
def test_a_query_without_a_question_has_neither_name_nor_class(writer: Writer) -> None:
    draw = random.Random(9)
    fact = random_facts.query(draw, 1)._replace(octets=b"", name_octets=0, qdcount=0, qtype=0, qclass=0)
    named = random_facts.query(draw, 2)
    for found in ([fact], [fact, named]):
        decoded = cdns_decoder.decode(written(writer, found))
        assert decoded.facts == [cdns_decoder.expected(each, WALL) for each in found]


@BOTH
@pytest.mark.parametrize(
    "field",
    [
        "transport", "response_flags", "query_flags", "destination_port", "qtype", "opt_udp_size", "destination",
        "ancount", "nscount", "edns_version", "extended_rcode", "qdcount", "qclass", "arcount", "hop_limit", "id",
    ],
)  # fmt: skip
def test_queries_that_differ_in_one_thing_keep_it(writer: Writer, field: str) -> None:
    """Whatever makes two signatures of two queries."""
    first = random_facts.query(random.Random(14), 1)._replace(
        opt_bits=int(OptBits.PRESENT), response_octets=100, hop_limit=0, extended_rcode=0
    )
    known = getattr(first, field)
    other = bytes([known[0] ^ 1]) + known[1:] if field == "destination" else known ^ (32 if "flags" in field else 1)
    both = [first, first._replace(**{field: other})]
    decoded = cdns_decoder.decode(written(writer, both))
    assert decoded.facts == [cdns_decoder.expected(each, WALL) for each in both]
    assert decoded.facts[0] != decoded.facts[1]
    assert len(decoded.blocks[0][2][3]) == (1 if field in ("hop_limit", "id") else 2)


@BOTH
def test_what_a_query_lacks_is_not_there_and_no_zero(writer: Writer) -> None:
    """RFC 8618 §7.6: a hop limit of 0 or a response of no octets would be something that was seen."""
    there = random_facts.query(random.Random(15), 1)._replace(response_octets=9, hop_limit=64, opt_bits=0)
    lacking = there._replace(response_octets=0, hop_limit=0, octets=b"", name_octets=0, qdcount=0, qtype=0, qclass=0)
    for found, fields in ((there, {5, 7, 9}), (lacking, set())):
        (item,) = cbor2.loads(written(writer, [there, found]))[2][0][3][1:]
        assert {5, 7, 9} & set(item) == fields


def test_the_preamble_says_what_is_collected() -> None:
    collection = Collection(
        host_id="a.example",
        interfaces=("eth0",),
        server_addresses=(bytes([198, 41, 0, 4]),),
        filter="udp port 53",
        sampling="https://rootsrv.example/sampling#1-in-16",
    )
    _, preamble, blocks = cbor2.loads(cdns.head(collection) + cdns.END)
    assert blocks == []
    (parameters,) = preamble[3]
    storage, described = parameters[0], parameters[1]
    # Not collected: response delay, what processed it, further questions, all sections; RDATA of OPT; address events.
    assert storage[2] == {0: 0b11_1011_1111, 1: 0b1_0111_1111_1111_1111, 2: 0, 3: 1}
    assert (storage[0], storage[1], storage[3], storage[4]) == (1_000_000, 10_000, [*range(16)], [41])
    assert (storage[5], storage[10]) == (2, "https://rootsrv.example/sampling#1-in-16")
    assert not {6, 7, 8, 9, 11} & set(storage)
    assert described[8].startswith("rootsrv ")
    assert (described[4], described[5], described[7], described[9]) == (
        ["eth0"], [bytes([198, 41, 0, 4])], "udp port 53", "a.example",
    )  # fmt: skip


def test_what_the_hints_deny_is_not_there_and_what_they_promise_is() -> None:
    decoded = cdns_decoder.decode(written(ColumnWriter, random_facts.facts(10, 3_000)))
    hints = decoded.preamble[3][0][0][2]
    fields: set[int] = set()
    signatures: set[int] = set()
    for block in decoded.blocks:
        fields = fields.union(*block[3])
        signatures = signatures.union(*block[2][3])
    assert fields == {bit for bit in range(18) if hints[0] >> bit & 1}
    assert signatures == {bit for bit in range(17) if hints[1] >> bit & 1}


def test_numpy_is_chosen_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(cdns.block_writer(Collection()), ColumnWriter)
    monkeypatch.setitem(sys.modules, "rootsrv.capture.cdns_columns", None)
    monkeypatch.delattr("rootsrv.capture.cdns_columns")
    assert isinstance(cdns.block_writer(Collection()), PlainWriter)


@pytest.mark.parametrize("kind", ["cdns", "pcap"])
def test_without_numpy_it_says_what_rate_it_takes(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(sys.modules, "rootsrv.capture.cdns_columns", None)
    monkeypatch.delattr("rootsrv.capture.cdns_columns")
    monkeypatch.setattr(pcap, "numpy", None)

    assert 500 < formats.rate(kind) < 10**7


def test_facts_of_any_octets_never_make_a_file_that_cannot_be_read() -> None:
    # Whatever the rows: both writers make files that decode, with as many items, and count the rest as lost.
    draw = random.Random(12)
    for _ in range(60):
        rows = bytearray()
        for _ in range(draw.randint(1, 40)):
            row = bytearray(draw.randbytes(FACT_OCTETS))
            row[8] = draw.choice([0, 0, 0, 1, 2, 3])
            row[9] = draw.choice([0, 4, 6])
            row[64] &= 15
            rows += row
        counts = []
        for writer in (ColumnWriter, PlainWriter):
            blocks = writer(Collection())
            made = [*blocks.add(rows, 0), blocks.flush()]
            decoded = [cbor2.loads(block) for block in made if block]
            counts.append(
                [sum(block[1][key] for block in decoded) for key in (1, 5, -7)]
                + [sum(len(block.get(key, [])) for block in decoded) for key in (3, 5)]
            )
        assert counts[0] == counts[1]
        assert sum(counts[0][:3]) == sum(rows[at + 8] != Kind.CONTINUATION for at in range(0, len(rows), FACT_OCTETS))
