"""Packets that are written anew, and records of them: what tools that read them would complain about, or not see."""

import struct

import pytest

from rootsrv.capture import formats, pcap, sequence
from rootsrv.capture.cdns import Collection
from rootsrv.capture.messages import CapturedMessage, fact_of
from rootsrv.wire.codes import BADCOOKIE, BADVERS
from tests.capture.test_role import packets, query
from tests.fastpath.conftest import message, opt, wire


def told(octets: bytes, family: int = 4, transport: int = 0, response: bytes = b"", size: int = 0) -> CapturedMessage:
    source, own = (bytes([192, 0, 2, 7]), bytes([198, 41, 0, 4])) if family == 4 else (b"\x20" * 16, b"\x30" * 16)
    return CapturedMessage(
        5, family, transport, source.ljust(16, b"\0"), 4000, own.ljust(16, b"\0"), 53, size, response, octets
    )


@pytest.mark.parametrize("octets", [0, 12, 17, 100, 4096])
@pytest.mark.parametrize("transport", [0, 1])
def test_the_checksum_of_a_header_is_right(octets: int, transport: int) -> None:
    """RFC 791 §3.1; whoever reads the file drops what has another."""
    (packet,) = pcap.packets_of(told(bytes(octets), transport=transport))
    total = sum(struct.unpack("!10H", packet[:20]))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert packet[10:12] != b"\0\0"


@pytest.mark.parametrize("has_columns", [True, False])
def test_a_wall_clock_that_was_never_set_is_written_as_it_is(
    monkeypatch: pytest.MonkeyPatch, has_columns: bool
) -> None:
    if not has_columns:
        monkeypatch.setattr(pcap, "numpy", None)
    rows = pcap.rows_of(told(query(1))._replace(time=10**18))
    ((at, _),) = packets(pcap.HEAD + pcap.records(rows, 7 * 10**9 + 5 - 10**18)[0])
    assert at == 7 * 10**9 + 5


@pytest.mark.parametrize("has_columns", [True, False])
@pytest.mark.parametrize("size", [20, 84, 85, 300])
def test_continuations_that_a_packet_has_no_octets_for_change_nothing(
    monkeypatch: pytest.MonkeyPatch, has_columns: bool, size: int
) -> None:
    if not has_columns:
        monkeypatch.setattr(pcap, "numpy", None)
    rows = pcap.rows_of(told(bytes(size)))
    stray = pcap.rows_of(told(b"\1" * 400))[128:]
    assert pcap.records(rows + stray + rows, 0) == pcap.records(rows + rows, 0)
    assert len(packets(pcap.HEAD + pcap.records(rows + stray, 0)[0])) == 1


@pytest.mark.parametrize("has_columns", [True, False])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_packet_that_has_not_all_of_its_rows_is_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch, has_columns: bool, missing: int
) -> None:
    """The rest of the file is read, whatever went wrong with one."""
    if not has_columns:
        monkeypatch.setattr(pcap, "numpy", None)
    made = formats.make("pcap", Collection())
    rows = [
        pcap.rows_of(told(query(number, b"\x3f" + b"x" * 63 + b"\x3f" + b"y" * 63 + b"\x3f" + b"z" * 63 + b"\0")))
        for number in range(3)
    ]
    octets = made.add(rows[0] + rows[1][: -128 * missing] + rows[2], 0, 0, 0)
    assert len(rows[1]) > 128 * missing
    assert [packet[28:30] for _, packet in packets(pcap.HEAD + octets)] == [b"\0\0", b"\0\2"]
    assert made.left_out == 1


@pytest.mark.parametrize("has_columns", [True, False])
def test_facts_among_packets_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch, has_columns: bool) -> None:
    """Somebody has just changed his mind of the format."""
    if not has_columns:
        monkeypatch.setattr(pcap, "numpy", None)
    made = formats.make("pcap", Collection())
    packet, fact = pcap.rows_of(told(query(1))), fact_of(told(bytes(300))).to_rows()
    assert len(packets(pcap.HEAD + made.add(fact + packet + fact + packet, 0, 0, 0))) == 2
    assert made.left_out == 2
    assert made.add(fact, 0, 0, 0) == b""
    assert made.left_out == 3


@pytest.mark.parametrize("octets", [1, 128, 1000, 4000, 66_000, 10**6])
def test_a_portion_of_rows_ends_where_a_query_does(octets: int) -> None:
    """Also behind one over TCP that takes two packets."""
    queries = [pcap.rows_of(told(bytes(size), transport=size > 9000)) for size in (40, 300, 65_100, 12, 500)] * 3
    rows, begins = b"".join(queries), {sum(map(len, queries[:number])) for number in range(1, 16)}
    at = 0
    while at < len(rows):
        found = sequence.portion(rows[at:], octets)
        assert found >= min(octets - octets % 128, len(rows) - at)
        assert found <= octets + 80_000
        at += found
        assert at in begins


@pytest.mark.parametrize("rcode", [BADVERS, BADCOOKIE])
def test_the_upper_bits_of_an_rcode_are_in_the_fact(rcode: int) -> None:
    """RFC 6891 §6.1.3: they are in the response's OPT record; BADVERS has a question before it, or not."""
    asked = message(wire(b"com"), opt=opt())
    for question in (asked[12:-11], b""):
        if rcode == BADCOOKIE and not question:
            continue
        head = asked[:2] + struct.pack("!HHHHH", 0x8000 | rcode & 15, bool(question), 0, 0, 1)
        response = head + question + b"\0" + struct.pack("!HHBBHH", 41, 1232, rcode >> 4, 0, 0, 0)
        fact = fact_of(told(asked, response=response[2:18].ljust(16, b"\0"), size=len(response)))
        assert fact.extended_rcode << 4 | fact.response_flags & 15 == rcode
    unanswered = fact_of(told(asked, response=bytes(16)))
    assert unanswered.extended_rcode == 0


def test_ports_and_addresses_are_those_of_their_ends() -> None:
    for family in (4, 6):
        asked = told(query(1), family)
        fact = fact_of(asked)
        assert (fact.source, fact.source_port) == (asked.source, 4000)
        assert (fact.destination, fact.destination_port) == (asked.destination, 53)
