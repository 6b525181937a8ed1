"""What is counted of pcap files: those of a capture, with what lies beside them, and those of others."""

import gzip
import json
import struct
from pathlib import Path

import pytest

from rootsrv.answer.responder import Responder, Transport
from rootsrv.capture import pcap
from rootsrv.capture.cdns import Collection
from rootsrv.capture.cdns_plain import PlainWriter
from rootsrv.capture.messages import CapturedMessage, fact_of
from tests.answer.conftest import NOW, compiled, responder  # noqa: F401  (fixtures)
from tests.capture.test_anonymise import query_packet
from tests.capture.test_cdns import written
from tests.capture.test_tally import COMPRESSIONS, PCAP_HEAD, kept, tally_of


def response_packet(source: bytes, rcode: int) -> bytes:
    record = query_packet(source)
    octets = bytearray(record)
    start = 16 + (28 if len(source) == 4 else 48)
    octets[start + 2 : start + 4] = struct.pack("!H", 0x8400 | rcode)
    ends, size = start - 8 - 2 * len(source), len(source)
    octets[ends : ends + size], octets[ends + size : ends + 2 * size] = record[ends + size : ends + 2 * size], source
    octets[start - 8 : start - 4] = record[start - 6 : start - 4] + record[start - 8 : start - 6]
    return bytes(octets)


@pytest.mark.parametrize("size", [1, 3])
def test_a_member_of_few_octets_hides_no_format(tmp_path: Path, size: int) -> None:
    octets = PCAP_HEAD + query_packet(bytes([192, 0, 2, 1]))
    packed = gzip.compress(octets[:size]) + gzip.compress(b"") + gzip.compress(octets[size:])
    assert tally_of(kept(tmp_path, packed)).queries == 1


def test_what_a_pcap_has_no_place_for_is_read_beside_it(tmp_path: Path) -> None:
    path = kept(tmp_path, PCAP_HEAD + query_packet(bytes([192, 0, 2, 1])))
    beside = path.with_name(f"{path.name}.json")
    told = {
        "octets": path.stat().st_size, "lost": 5, "passed_over": 7, "host": "a.example", "software": "rootsrv 1",
        "filter": "ip", "every": 2, "anonymisation_method": "a uri",
    }  # fmt: skip
    beside.write_text(json.dumps(told))

    counted = tally_of(path)

    assert (counted.lost, counted.not_sampled, counted.losses_unknown) == (5, 7, 0)
    assert counted.about.keys() == {
        ("format", "pcap"), ("written by", "rootsrv 1"), ("host", "a.example"), ("filter", "ip"),
        ("anonymised", "a uri"), ("sampled", "one query of 2"),
    }  # fmt: skip
    odd: list[object] = [-1, 1 << 64, 1.5, "5", None, True, [], {}]
    for document in ([], "x", {}, *(told | {key: value} for key in ("octets", "lost", "passed_over") for value in odd)):
        beside.write_text(json.dumps(document))
        counted = tally_of(path)
        assert (counted.lost, counted.not_sampled, counted.losses_unknown) == (0, 0, 1), document
    for key in ("host", "software", "filter", "every", "anonymisation_method"):
        others: list[object] = [-1, 1.5, 5, None, True, [], {}, "x" * 1000]
        for value in others:
            beside.write_text(json.dumps(told | {key: value}))
            assert tally_of(path).lost == 5
    beside.unlink()
    assert tally_of(path).losses_unknown == 1


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_pcap_is_counted(tmp_path: Path, compression: str) -> None:
    sources = [bytes([192, 0, 2, n]) for n in range(5)] + [bytes([0x20, 1] + [n] * 14) for n in range(3)]
    records = b"".join(map(query_packet, sources)) + response_packet(sources[0], 3) + response_packet(sources[1], 0)
    records += struct.pack("<4I", 1_700_000_000, 0, 3, 3) + b"\x45ab"
    counted = tally_of(kept(tmp_path, COMPRESSIONS[compression](PCAP_HEAD + records)))
    assert (counted.queries, counted.malformed, counted.other_packets) == (8, 0, 1)
    assert counted.sources == {(4, 0): 5, (6, 0): 3}
    assert counted.rcodes == {3: 1, 0: 1}
    assert counted.qtypes == {1: 8}
    assert counted.with_opt == 8
    assert counted.undelegated.most_common(9) == [(b"com", 1)]
    assert counted.prefixes.most_common(1) == [((4, bytes([192, 0, 2])), 5)]


_COM = b"\3com\0\0\1\0\1"
_OPT = b"\0\0\x29\4\xd0\0\0\x80\0\0\0"
_COOKIE = b"\0\0\x29\4\xd0\0\0\0\0\0\x0c\0\x0a\0\x08" + b"cookie!!"
_SOA = b"\0\0\6\0\1" + bytes(6)
_ALGORITHM = b"\x0bhmac-sha256\0"
_TSIG = b"\1k\0" + struct.pack("!HHIH", 250, 255, 0, 29) + _ALGORITHM + bytes(6) + struct.pack("!5H", 300, 0, 1, 0, 0)


@pytest.mark.parametrize(
    ("counts", "behind", "is_query"),
    [
        ((1, 0, 0, 0), _COM, True),
        ((1, 0, 0, 1), _COM + _OPT, True),
        ((1, 0, 0, 1), _COM + _COOKIE, True),
        ((0, 0, 0, 0), b"", False),
        ((0, 0, 0, 1), _OPT, False),
        ((0, 0, 0, 1), _COOKIE, True),
        ((0, 0, 0, 1), _OPT[:6] + b"\1" + _OPT[7:], True),
        ((0, 0, 0, 1), _TSIG, True),
        ((1, 0, 0, 0), b"\3com\0\0\xfb\0\1", True),
        ((1, 0, 1, 0), b"\3com\0\0\xfb\0\1" + _SOA, True),
        ((1, 0, 0, 0), _COM + b"\0", False),
        ((1, 0, 0, 0), _COM + _OPT, False),
        ((1, 0, 0, 1), _COM + _OPT + b"x", False),
        ((0, 0, 0, 0), _COM, False),
        ((1, 0, 0, 1), _COM + _OPT[:-1], False),
        ((1, 0, 0, 1), _COM + _OPT[:-1] + b"\4", False),
        ((1, 0, 0, 1), _COM, False),
        ((1, 0, 0, 2), _COM + _OPT + _OPT, False),
        ((1, 0, 0, 1), _COM + b"\1x" + _OPT, False),
        ((1, 1, 0, 0), _COM + _SOA, False),
        ((1, 0, 1, 0), _COM + _SOA, False),
        ((2, 0, 0, 0), _COM + _COM, False),
        ((1, 0, 0, 0), b"\xc0\x0c\0\1\0\1", False),
        ((1, 0, 0, 0), _COM[:-1], False),
    ],
)
def test_a_query_is_malformed_in_pcap_and_cdns_alike(
    tmp_path: Path,
    responder: Responder,  # noqa: F811
    counts: tuple[int, ...],
    behind: bytes,
    is_query: bool,
) -> None:
    """And that is when it is answered with FORMERR."""
    message = struct.pack("!6H", 4711, 0, *counts) + behind
    response = responder.respond(message, bytes([192, 0, 2, 1]), Transport.UDP, NOW)
    assert response is not None
    captured = CapturedMessage(
        0, 4, 0, bytes(16), 40_000, bytes(16), 53, len(response), response[2:18].ljust(16, b"\0"), message
    )
    as_cdns = tally_of(kept(tmp_path, written(PlainWriter, [fact_of(captured)], Collection(host_id="a.example"))))

    udp = struct.pack("!4H", 40_000, 53, 8 + len(message), 0) + message
    packet = struct.pack("!BBHHHBBH8x", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0) + udp
    record = struct.pack("<4I", 1_700_000_000, 0, len(packet), len(packet)) + packet
    as_pcap = tally_of(kept(tmp_path, PCAP_HEAD + record, "x.pcap"))

    assert [(each.queries, each.malformed) for each in (as_cdns, as_pcap)] == [(is_query, not is_query)] * 2
    assert (as_cdns.qtypes, as_cdns.with_opt, as_cdns.with_do) == (as_pcap.qtypes, as_pcap.with_opt, as_pcap.with_do)
    assert is_query == (response[3] & 15 != 1)


@pytest.mark.parametrize("ports", [(40_000, 53), (53, 40_000), (53, 53)])
def test_what_has_qr_set_is_no_query_in_pcap_and_cdns_alike(tmp_path: Path, ports: tuple[int, int]) -> None:
    """It is answered by nobody; from a port of DNS it is a response, but in the file of a capture, where none is."""
    message = struct.pack("!6H", 4711, 0x8400, 1, 0, 0, 0) + _COM
    captured = CapturedMessage(0, 4, 0, bytes(16), ports[0], bytes(16), ports[1], 0, b"", message)
    as_cdns = tally_of(kept(tmp_path, written(PlainWriter, [fact_of(captured)])))
    assert (as_cdns.queries, as_cdns.malformed) == (0, 1)

    record = bytearray(query_packet(bytes([192, 0, 2, 1])))
    record[36:40], record[46:48] = struct.pack("!2H", *ports), b"\x84\0"
    path = kept(tmp_path, PCAP_HEAD + record, "x.pcap")
    as_pcap = tally_of(path)
    is_response = ports[0] == 53
    assert (as_pcap.queries, as_pcap.malformed, as_pcap.rcodes.total()) == (0, not is_response, is_response)
    told = {"octets": path.stat().st_size, "lost": 0, "passed_over": 0}
    path.with_name("x.pcap.json").write_text(json.dumps(told))
    as_ours = tally_of(path)
    assert (as_ours.queries, as_ours.malformed, as_ours.rcodes.total()) == (0, 1, 0)


def test_a_captures_own_pcap_is_read_whatever_the_port_of_the_service_is(tmp_path: Path) -> None:
    record = bytearray(query_packet(bytes([192, 0, 2, 1])))
    record[38:40] = struct.pack("!H", 5300)
    path = kept(tmp_path, PCAP_HEAD + record, "x.pcap")
    assert (tally_of(path).queries, tally_of(path).other_packets) == (0, 1)
    told = {"octets": path.stat().st_size, "lost": 0, "passed_over": 0}
    path.with_name("x.pcap.json").write_text(json.dumps(told))
    assert (tally_of(path).queries, tally_of(path).other_packets) == (1, 0)


def test_queries_over_tls_are_told_from_those_over_tcp_in_pcap_and_cdns_alike(tmp_path: Path) -> None:
    message = query_packet(bytes(4))[44:]
    found = [
        CapturedMessage(0, 4, transport, bytes(16), 40_000, bytes(16), port, 0, b"", message)
        for transport, port in ((0, 53), (1, 53), (2, 853))
    ]
    as_cdns = tally_of(kept(tmp_path, written(PlainWriter, list(map(fact_of, found)))))
    records = pcap.records(b"".join(map(pcap.rows_of, found)), 0)[0]
    as_pcap = tally_of(kept(tmp_path, pcap.HEAD + records, "x.pcap"))
    assert as_pcap.sources == as_cdns.sources == {(4, 0): 1, (4, 1): 1, (4, 2): 1}


def test_a_pcap_of_another_byte_order_of_ethernet_and_of_tcp(tmp_path: Path) -> None:
    packet = query_packet(bytes([192, 0, 2, 1]))[16:]
    message = packet[28:]
    tcp = packet[:9] + b"\x06" + packet[10:20] + packet[20:24] + bytes(8) + b"\x50" + bytes(7)
    segments = [tcp + struct.pack("!H", len(message)) + message, tcp, tcp + b"\x00\x20" + message[:8]]
    records = b"".join(
        struct.pack(">4I", 1_700_000_000, 5, len(frame), len(frame)) + frame
        for frame in [bytes(12) + b"\x81\x00\0\7\x08\x00" + segment for segment in segments]
    )
    start = struct.pack(">IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)
    counted = tally_of(kept(tmp_path, start + records))
    assert (counted.queries, counted.other_packets) == (1, 2)
    assert counted.sources == {(4, 1): 1}
    assert counted.first == 1_700_000_000 * 10**6 + 5
