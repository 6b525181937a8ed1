import gzip
import json
import lzma
import random
import struct
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import cbor2
import pytest
import zstandard

from rootsrv.capture import cdns, cdns_reader
from rootsrv.capture import tally as tallying
from rootsrv.capture.anonymise import Truncation
from rootsrv.capture.cdns import Collection
from rootsrv.capture.cdns_columns import ColumnWriter
from rootsrv.capture.cdns_plain import PlainWriter
from rootsrv.capture.cdns_reader import CaptureUnreadable
from rootsrv.capture.facts import Fact, Kind
from rootsrv.capture.report import page
from rootsrv.capture.summary import summary
from rootsrv.capture.tally import MostFrequent, Tally
from tests.answer.conftest import NOW, Compiled, compiled, responder  # noqa: F401  (fixtures)
from tests.capture import random_facts
from tests.capture.test_anonymise import query_packet
from tests.capture.test_cdns import BOTH, WALL, Writer, written

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".xz": lzma.compress,
}
PCAP_HEAD = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, 101)


def tally_of(*paths: Path) -> Tally:
    made = Tally()
    for path in paths:
        made.read(path)
    return made


def kept(directory: Path, octets: bytes, name: str = "x.cdns") -> Path:
    path = directory / name
    path.write_bytes(octets)
    return path


@BOTH
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_counts_are_those_of_the_facts(tmp_path: Path, writer: Writer, compression: str) -> None:
    found = random_facts.facts(1, 3_000, anything=False, malformed_share=0.05, step=10**9)
    octets = COMPRESSIONS[compression](written(writer, found, Collection(host_id="a.example"), lost=7, not_sampled=9))
    counted = tally_of(kept(tmp_path, octets, "x.cdns" + compression))

    queries = [fact for fact in found if fact.kind == Kind.QUERY]
    rcodes = [fact.response_flags & 15 if fact.response_octets else tallying.NO_RESPONSE for fact in queries]
    assert (counted.queries, counted.malformed, counted.lost, counted.not_sampled) == (
        len(queries), len(found) - len(queries), 7, 9,
    )  # fmt: skip
    assert counted.sources == Counter((fact.family, fact.transport) for fact in queries)
    assert counted.qtypes == Counter(fact.qtype for fact in queries)
    assert counted.rcodes == Counter(rcodes)
    assert counted.name_octets == Counter(len(fact.octets) for fact in queries)
    assert counted.with_opt == sum(fact.opt_bits & 1 for fact in queries)
    assert counted.with_do == sum(fact.opt_bits >> 1 & 1 for fact in queries)
    assert counted.with_rd == sum(fact.query_flags >> 8 & 1 for fact in queries)
    assert counted.sizes == Counter(
        (rcode, fact.response_octets // 64) for fact, rcode in zip(queries, rcodes, strict=True) if fact.response_octets
    )
    networks = Counter((fact.family, fact.source[: 3 if fact.family == 4 else 6]) for fact in queries)
    assert dict(counted.prefixes.most_common(10**6)) == networks
    last_labels = Counter(
        fact.octets[:-1].split(b".")[-1] for fact, rcode in zip(queries, rcodes, strict=True) if rcode == 3
    )
    assert counted.undelegated_queries == sum(last_labels.values())
    assert (counted.first, counted.last) == ((found[0].time + WALL) // 1000, (found[-1].time + WALL) // 1000)
    by_interval = Counter((fact.time + WALL) // 10**9 // 300 * 300 for fact in queries)
    assert {begin: each.sources.total() for begin, each in counted.intervals.items()} == by_interval
    assert sum(each.malformed for each in counted.intervals.values()) == counted.malformed
    assert counted.about["host", "a.example"] == 1


def test_undelegated_labels_are_the_last_ones_in_lower_case(tmp_path: Path) -> None:
    draw = random.Random(2)
    names = [b"\x03www\x04HoMe\0", b"\x04home\0", b"\0", b"\x05local\0"]
    found = [
        random_facts.query(draw, 1)._replace(
            octets=name, name_octets=len(name), response_flags=0x8403, response_octets=99
        )
        for name in names
    ]
    counted = tally_of(kept(tmp_path, written(ColumnWriter, found)))
    assert counted.undelegated.most_common(9) == [(b"home", 2), (b"", 1), (b"local", 1)]


def test_files_are_added_up(tmp_path: Path) -> None:
    found = random_facts.facts(3, 400)
    one, other = written(ColumnWriter, found[:150]), written(PlainWriter, found[150:])
    together = tally_of(kept(tmp_path, written(ColumnWriter, found)))
    added = tally_of(kept(tmp_path, one, "1.cdns"), kept(tmp_path, other, "2.cdns"))
    assert summary(added) | {"files": 1} == summary(together)


def test_networks_of_truncated_addresses_are_counted(tmp_path: Path) -> None:
    found = random_facts.facts(4, 500, anything=False)
    whole = tally_of(kept(tmp_path, written(ColumnWriter, found)))
    cut = tally_of(kept(tmp_path, written(ColumnWriter, found, Collection(anonymiser=Truncation()))))
    assert summary(cut)["prefixes"] == summary(whole)["prefixes"]
    assert summary(cut)["about"]["anonymised"] == [Truncation().method]


@pytest.mark.parametrize("bits", [16, 20, 32, 56, 128])
def test_prefixes_that_others_have_stored_are_of_the_family_that_the_signature_says(tmp_path: Path, bits: int) -> None:
    """RFC 8618 §6.2.4: of an IPv6 /32 as many octets are stored as of an IPv4 address."""
    _, preamble, (block,) = cbor2.loads(written(PlainWriter, random_facts.facts(4, 300, anything=False)))
    preamble[3][0][0][7] = bits
    octets = -(-bits // 8)
    block[2][0] = [each if len(each) == 4 else each[:octets] for each in block[2][0]]
    six = sum(block[2][3][item[4]][2] & 1 for item in block[3])

    counted = tally_of(kept(tmp_path, cbor2.dumps(["C-DNS", preamble, [block]])))

    found = Counter[int]()
    for (family, _), count in counted.prefixes.most_common(1000):
        found[family] += count
    assert found == {4: len(block[3]) - six, 6: six}
    for signature in block[2][3]:
        del signature[2]
    assert tally_of(kept(tmp_path, cbor2.dumps(["C-DNS", preamble, [block]]))).sources == {(0, 0): len(block[3])}


# ── what is broken ──


def test_a_file_that_is_cut_off_gives_the_blocks_before(tmp_path: Path) -> None:
    found = random_facts.facts(5, 300)
    writer = ColumnWriter(Collection())
    blocks = [
        b"".join([*writer.add(random_facts.rows(found[at : at + 60]), WALL), writer.flush()])
        for at in range(0, 300, 60)
    ]

    start = cdns.head(Collection())
    whole = start + b"".join(blocks) + cdns.END
    ends = [len(start) + sum(map(len, blocks[:number])) for number in range(6)]
    for size in [*range(len(start), len(whole), 997), *ends]:
        counted = tally_of(kept(tmp_path, whole[:size]))
        there = sum(end <= size for end in ends) - 1
        assert counted.queries + counted.malformed == 60 * there
        assert [path.name for path in counted.cut_off] == ["x.cdns"]
    assert tally_of(kept(tmp_path, whole)).cut_off == []
    frames = [whole[at : at + 9000] for at in range(0, len(whole), 9000)]
    for compress in (gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress):
        counted = tally_of(kept(tmp_path, b"".join(map(compress, frames))[:-100]))
        assert counted.cut_off
        assert counted.queries
        with pytest.raises(CaptureUnreadable, match="holds nothing that can be read"):
            tally_of(kept(tmp_path, compress(whole)[:12]))
    members = gzip.compress(whole[:9000]) + gzip.compress(whole[9000:]) + bytes(300)
    assert summary(tally_of(kept(tmp_path, members))) == summary(tally_of(kept(tmp_path, whole)))
    for size in range(1, len(start)):
        with pytest.raises(CaptureUnreadable):
            tally_of(kept(tmp_path, whole[:size]))


def head(version: int | str) -> bytes:
    return b"\x83\x65C-DNS" + cbor2.dumps({0: version, 1: 0, 3: [{0: {0: 1, 2: {}}}]})


@pytest.mark.parametrize(
    ("octets", "told"),
    [
        (b"", "holds nothing that can be read"),
        (b"hello, world", "is neither C-DNS nor pcap"),
        (b"\x83\x65C-DNT", "is neither C-DNS nor pcap"),
        (b"\x0a\x0d\x0d\x0a" + bytes(24), "is pcapng"),
        (b"\x83\x65C-DNS\x01\x80", "has a preamble that is not C-DNS"),
        (head(2) + b"\x80", "is C-DNS 2.0; 1.0 is understood"),
        (head(2**20_000) + b"\x80", "has a preamble that is not C-DNS$"),
        (head("1" * 20_000) + b"\x80", "has a preamble that is not C-DNS$"),
        (head(1) + b"\x01", "has no array of blocks"),
        (head(1) + b"\x9f\x01", "has a block 1 that is none"),
        (head(1) + b"\x9f\xfc", "is not CBOR"),
        (b"\x1f\x8b" + bytes(20), "cannot be decompressed"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 20, "cannot be decompressed"),
        (b"\xd4\xc3\xb2\xa1" + bytes(9), "is no pcap file"),
        (PCAP_HEAD[:20] + struct.pack("<I", 113), "link type 113 is not understood"),
        (PCAP_HEAD + struct.pack("<4I", 0, 0, 1 << 30, 1 << 30), "a packet of 1073741824 octets"),
    ],
)  # fmt: skip
def test_what_is_no_capture_is_said(tmp_path: Path, octets: bytes, told: str) -> None:
    with pytest.raises(CaptureUnreadable, match=told):
        tally_of(kept(tmp_path, octets))


def test_a_definite_array_and_a_tag_are_read_too(tmp_path: Path) -> None:
    file = cbor2.loads(written(ColumnWriter, random_facts.facts(6, 50)))
    counted = tally_of(kept(tmp_path, b"\xd9\xd9\xf7" + cbor2.dumps(file)))
    assert counted.queries + counted.malformed == 50
    assert not counted.cut_off


def test_whatever_the_octets_only_one_exception_comes(tmp_path: Path) -> None:
    draw = random.Random(7)
    whole = written(PlainWriter, random_facts.facts(7, 25, malformed_share=0.2))
    packets = PCAP_HEAD + b"".join(query_packet(draw.randbytes(4)) for _ in range(20))
    for number in range(250):
        octets = bytearray(whole if number % 2 else packets)
        for _ in range(draw.randint(1, 4)):
            octets[draw.randrange(4, len(octets))] = draw.getrandbits(8)
        counted = Tally()
        try:
            counted.read(kept(tmp_path, bytes(octets)))
            summary(counted)
        except CaptureUnreadable:
            pass


def test_whatever_the_values_only_one_exception_comes(tmp_path: Path) -> None:
    draw = random.Random(11)
    odd = [
        -1,
        0,
        3,
        2**16,
        2**64 - 1,
        2**300,
        1.5,
        float("nan"),
        b"",
        b"\x05ab",
        "text",
        None,
        True,
        [],
        {},
        [[]],
        {0: b"x"},
    ]
    whole = cbor2.loads(written(PlainWriter, random_facts.facts(7, 12, malformed_share=0.2), Collection(sampling="x")))
    for _ in range(700):
        file = cbor2.loads(cbor2.dumps(whole))
        at = file[draw.choice([1, 2, 2, 2])]
        while True:
            key = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
            if not isinstance(at[key], dict | list) or not at[key] or draw.random() < 0.15:
                break
            at = at[key]
        at[key] = draw.choice(odd)
        counted = Tally()
        try:
            counted.read(kept(tmp_path, cbor2.dumps(file)))
        except CaptureUnreadable:
            continue
        assert page(counted)


@pytest.mark.parametrize(
    "path",
    [
        (1, -7), (1, -8), (0, 0, 0), (0, 0, 1), (3, 0, 0), (3, 0, 4), (3, 0, 7), (3, 0, 1), (3, 0, 9), (2, 1, 0, 0),
        (2, 3, 0, 8), (2, 3, 0, 16),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    "value",
    [-1, 2**64, 10**5000, 1.0, float("nan"), float("inf"), Decimal("1E+99"), Fraction(1300, 7), "7"],
    ids=["-1", "2**64", "10**5000", "1.0", "nan", "inf", "decimal", "fraction", "text"],
)
def test_a_number_that_none_can_be_is_said_and_not_added_up(
    tmp_path: Path, path: tuple[int, ...], value: object
) -> None:
    block: Any = {
        0: {0: [1_700_000_000, 0]},
        1: {-7: 1},
        2: {0: [b"abcd"], 1: [{0: 1, 1: 1}], 2: [b"\3com\0"], 3: [{0: 0, 2: 0, 4: 3, 8: 0, 16: 3}]},
        3: [{0: 0, 1: 0, 4: 0, 7: 0, 8: 30, 9: 100}],
    }
    assert tally_of(kept(tmp_path, head(1) + b"\x81" + cbor2.dumps(block))).lost == 1
    at = block
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    counted = Tally()
    with pytest.raises(CaptureUnreadable, match="makes no sense"):
        counted.read(kept(tmp_path, head(1) + b"\x81" + cbor2.dumps(block)))
    assert json.dumps(summary(counted), allow_nan=False)
    assert page(counted)


def test_what_a_file_says_about_itself_is_short_text_or_not_shown(tmp_path: Path) -> None:
    described = [{0: {0: 1, 2: {}}, 1: {7: [["x"]], 8: {1: 2}, 9: "h" * 100_000}}]
    described += [{0: {0: 1, 2: {}}, 1: {9: f"host {number}"}} for number in range(5000)]
    octets = b"\x83\x65C-DNS" + cbor2.dumps({0: 1, 1: 0, 3: described}) + b"\x80"
    about = summary(tally_of(kept(tmp_path, octets)))["about"]
    assert set(about) == {"format", "host"}
    assert "h" * 100 in about["host"]
    assert len(about["host"]) < 101


@pytest.mark.parametrize("thing", [b"\xa0", b"\x9f\xff"], ids=bytes.hex)
def test_a_block_of_too_many_things_is_not_decoded(tmp_path: Path, thing: bytes) -> None:
    """Some kilobytes in the file, and in memory some hundred million octets."""
    most = cdns_reader.MAX_BLOCK_THINGS
    octets = cdns.head(Collection()) + b"\x9a" + (2 * most).to_bytes(4) + 2 * most * thing
    with pytest.raises(CaptureUnreadable, match="has a block of more than 2,000,000 things"):
        tally_of(kept(tmp_path, gzip.compress(octets, 1)))


def test_long_blocks_are_read_as_short_ones_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = random_facts.facts(12, 500, malformed_share=0.2)
    octets = written(ColumnWriter, found[:400])
    other = cbor2.loads(octets)
    other[2][0][-99] = [1.5, None, {"a": [b"x" * 70_000, "y" * 300]}, 2**70]
    indefinite = octets[:-1] + b"\xbf\x00\xa0\x01\xbf\x26\x07\xff\x20\x5f\x41a\x41b\xff\xff" + cdns.END
    for each in (octets, cbor2.dumps(other), indefinite):
        short = summary(tally_of(kept(tmp_path, each)))
        with monkeypatch.context() as patched:
            patched.setattr(cdns_reader, "DECODED_AT_ONCE_OCTETS", 500)
            assert summary(tally_of(kept(tmp_path, each))) == short
            for size in range(1000, len(each), 4999):
                counted = tally_of(kept(tmp_path, each[:size]))
                assert counted.cut_off


def test_xz_that_wants_gigabytes_for_its_dictionary_is_refused(tmp_path: Path) -> None:
    huge = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    octets = lzma.compress(written(ColumnWriter, random_facts.facts(6, 50)), filters=huge)
    with pytest.raises(CaptureUnreadable, match="cannot be decompressed: Memory usage limit"):
        tally_of(kept(tmp_path, octets))


# ── memory ──


def test_only_the_most_frequent_are_kept_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallying, "_KEPT", 50)
    frequent: MostFrequent[int] = MostFrequent()
    draw = random.Random(8)
    for _ in range(20_000):
        frequent.add(draw.choice([1, 2, 3, draw.randrange(10**9)]))
        assert len(frequent) <= 100
    kept_counts = dict(frequent.most_common(10**6))
    assert [thing for thing, _ in frequent.most_common(3)] == sorted((1, 2, 3), key=lambda thing: -kept_counts[thing])
    assert sum(kept_counts.values()) + frequent.forgotten == 20_000


def test_intervals_grow_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallying, "_MAX_INTERVALS", 20)
    counted = Tally()
    draw = random.Random(9)
    for number in range(500):
        counted.add_fact(random_facts.query(draw, number * 300 * 10**9)._replace(response_octets=0))
    assert len(counted.intervals) <= 20
    assert counted.grain_seconds == 300 * 32
    assert sum(each.sources.total() for each in counted.intervals.values()) == 500


def test_no_fact_is_lost_that_lies_across_intervals(tmp_path: Path) -> None:
    draw = random.Random(10)
    found: list[Fact] = [random_facts.query(draw, number * 40 * 10**9) for number in range(50)]
    counted = tally_of(kept(tmp_path, written(ColumnWriter, found)))
    assert [each.sources.total() for _, each in sorted(counted.intervals.items())] == [
        count for _, count in sorted(Counter((fact.time + WALL) // 10**9 // 300 for fact in found).items())
    ]
