"""The query mix: reproducible, with the shares that its file documents; and queries of one's own."""

import struct
from collections import Counter
from pathlib import Path

import dns.message
import dns.rdataclass
import pytest

from bench.mix import ROOT_MIX, Mix, MixUnusable
from bench.queries import MAX_QUERY_OCTETS, QueriesUnusable, Query, read_names, read_pcap, same_response
from rootsrv.demo.generate import tld_labels

TLDS = tld_labels(1440, 1)
COUNT = 40_000


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    return Mix.read().queries(TLDS, COUNT, seed=7)


def test_the_same_seed_gives_the_same_queries_and_another_does_not() -> None:
    mix = Mix.read()

    assert mix.queries(TLDS, 500, seed=3) == mix.queries(TLDS, 500, seed=3)
    assert mix.queries(TLDS, 500, seed=3) != mix.queries(TLDS, 500, seed=4)


def test_the_shares_of_the_file_come_out(queries: list[Query]) -> None:
    tables = Mix.read().tables
    kinds = Counter(query.kind for query in queries)

    for kind, share in tables["kinds"].items():
        assert kinds[kind] / COUNT == pytest.approx(share, abs=0.01), kind
    assert sum(query.family == 6 for query in queries) / COUNT == pytest.approx(tables["measured"]["ipv6"], abs=0.01)
    assert sum(query.tcp for query in queries) / COUNT == pytest.approx(tables["measured"]["tcp"], abs=0.003)


def test_edns_options_come_out_in_their_shares(queries: list[Query]) -> None:
    edns = Mix.read().tables["edns"]
    messages = [dns.message.from_wire(query.octets) for query in queries[:6000]]
    with_opt = [message for message in messages if message.edns >= 0]

    assert 1 - len(with_opt) / len(messages) == pytest.approx(edns["absent"], abs=0.02)
    assert sum(bool(message.ednsflags & 0x8000) for message in with_opt) / len(with_opt) == pytest.approx(
        edns["do"], abs=0.02
    )
    cookies = sum(any(option.otype == 10 for option in message.options) for message in with_opt)
    assert cookies / len(with_opt) == pytest.approx(edns["cookie"], abs=0.03)
    sizes = Counter(message.payload for message in with_opt)
    for size, share in edns["sizes"].items():
        assert sizes[int(size)] / len(with_opt) == pytest.approx(share, abs=0.03), size


def test_every_query_is_well_formed_and_asks_what_its_kind_says(queries: list[Query]) -> None:
    existing = set(TLDS)
    for query in queries[:4000]:
        message = dns.message.from_wire(query.octets)
        (question,) = message.question
        assert len(query.octets) <= MAX_QUERY_OCTETS
        assert message.id == 0
        last_label = question.name.labels[-2].decode().lower() if len(question.name.labels) > 1 else ""
        if query.kind == "nxdomain":
            assert last_label not in existing
        elif query.kind in ("referral", "ds"):
            assert last_label in existing
        elif query.kind == "chaos":
            assert question.rdclass == dns.rdataclass.CH


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("nxdomain = 0.566", "nxdomain = 0.6", "must sum to 1, not 1.034"),
        ("nxdomain = 0.566", "nxdomian = 0.566", "kinds.nxdomian: known are nxdomain"),
        ("[referral_labels]", "[referal_labels]", "table [referral_labels] is missing"),
        ("do = 0.85", "do = 0,85", "line"),
        ("tcp = 0.0217", "", "measured.tcp is missing"),
    ],
)
def test_a_wrong_mix_file_is_refused_with_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = ROOT_MIX.read_text()
    assert old in text
    path = tmp_path / "own.toml"
    path.write_text(text.replace(old, new))

    with pytest.raises(MixUnusable) as refusal:
        Mix.read(path)

    assert str(path) in str(refusal.value)
    assert said in str(refusal.value)


def test_queries_are_read_from_lines_of_name_and_type(tmp_path: Path) -> None:
    path = tmp_path / "queries"
    path.write_text("# two\nwww.example.com A\n\n. DNSKEY\n")

    found = [dns.message.from_wire(query.octets).question[0].to_text() for query in read_names(path)]

    assert found == ["www.example.com. IN A", ". IN DNSKEY"]


@pytest.mark.parametrize("line", ["www.example.com", "www.example.com NOTATYPE", "a..b A", "x" * 64 + " A"])
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "queries"
    path.write_text(f". SOA\n{line}\n")

    with pytest.raises(QueriesUnusable, match=f"{path}:2: expected `name type`"):
        read_names(path)


def _capture(*frames: bytes) -> bytes:
    header = b"\xd4\xc3\xb2\xa1" + struct.pack("<HHiIII", 2, 4, 0, 0, 65535, 1)
    return header + b"".join(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)


def _frame(message: bytes, *, port: int = 53, tag: bytes = b"", ipv6: bool = False) -> bytes:
    udp = struct.pack("!HHHH", 4000, port, 8 + len(message), 0) + message
    if ipv6:
        packet = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + bytes(32) + udp
    else:
        packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + bytes(8) + udp
    return bytes(12) + tag + (b"\x86\xdd" if ipv6 else b"\x08\x00") + packet


def test_queries_are_read_from_a_capture_in_its_order(tmp_path: Path) -> None:
    asked = dns.message.make_query("example.org", "AAAA").to_wire()
    response = asked[:2] + b"\x80" + asked[3:]
    path = tmp_path / "capture.pcap"
    path.write_bytes(
        _capture(_frame(asked), _frame(response), _frame(asked, port=54), _frame(asked, tag=b"\x81\0\0\1", ipv6=True))
    )

    found = read_pcap(path)

    assert [(query.family, query.octets[2:]) for query in found] == [(4, asked[2:]), (6, asked[2:])]


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "not a pcap file"),
        (b"", "not a pcap file"),
        (_capture(), "no UDP queries to port 53"),
        (_capture()[:20] + struct.pack("<I", 99), "link type 99 is not known"),
    ],
)
def test_what_is_no_capture_of_queries_is_refused(tmp_path: Path, octets: bytes, said: str) -> None:
    path = tmp_path / "capture.pcap"
    path.write_bytes(octets)

    with pytest.raises(QueriesUnusable, match=said):
        read_pcap(path)


def test_responses_are_the_same_but_for_id_server_cookie_and_order_of_records() -> None:
    cookie = b"\0\x0a\0\x08" + b"clientco"
    asked = b"\0\0\0\0\0\1\0\0\0\0\0\1\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\x0c" + cookie
    opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\x1c\0\x0a\0\x18clientco"
    first, second = b"\xc0\0\0\1\0\1\0\0\0\1\0\4\1\1\1\1", b"\xc0\0\0\1\0\1\0\0\0\1\0\4\2\2\2\2"
    header = b"\x84\0\0\1\0\2\0\0\0\1" + b"\0\0\1\0\1"

    def response(identity: bytes, *records: bytes, server: bytes) -> bytes:
        return identity + header + b"".join(record.replace(b"\xc0\0", b"\0") for record in records) + opt + server

    query = Query(asked, "apex")
    right = response(b"ab", first, second, server=b"s" * 16)
    assert same_response(query, response(b"cd", first, second, server=b"t" * 16), right)
    assert same_response(query, response(b"cd", second, first, server=b"t" * 16), right)
    assert not same_response(query, response(b"cd", first, first, server=b"t" * 16), right)
    assert not same_response(query, right[:-1], right)
