import hashlib
import ipaddress
import random
import struct
import subprocess
from pathlib import Path

import cbor2
import numpy
import pytest

from rootsrv.capture import anonymise, anonymise_packets, cdns, pcap
from rootsrv.capture.anonymise import Aes128, Anonymiser, CryptoPan, KeyLengthWrong, Truncation, client_subnets
from rootsrv.capture.anonymise_packets import RecordCutOff, packets
from rootsrv.capture.cdns import Collection
from rootsrv.capture.cdns_columns import ColumnWriter
from rootsrv.capture.cdns_plain import PlainWriter
from rootsrv.capture.facts import Kind
from rootsrv.capture.messages import CapturedMessage
from rootsrv.capture.pcap_reader import EMPTY, message_fact
from tests.capture import random_facts
from tests.capture.test_cdns import BOTH, Writer, written
from tests.needs import require_tool

KEY, PADDING = b"0123456789abcdef", b"ABCDEFGHIJKLMNOP"
SERVERS = frozenset((bytes([198, 41, 0, 4]), bytes.fromhex("20010503ba3e00000000000200000030")))
V4, V6 = bytes([198, 41, 0, 4]), bytes.fromhex("20010503ba3e00000000000200000030")


def subnet_option(address: bytes, octets: int) -> bytes:
    """A client subnet option (RFC 7871 §6) with the first *octets* of *address*."""
    family = 1 if len(address) == 4 else 2
    return struct.pack("!HHHBB", 8, 4 + octets, family, 8 * octets, 0) + address[:octets]


def query_packet(source: bytes, options: bytes = b"", port: int = 40_000) -> bytes:
    """A pcap record with a query over UDP from *source* to a service address, its checksums right."""
    opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(options)) + options
    message = struct.pack("!6H", 4711, 0, 1, 0, 0, 1) + b"\x03com\0" + struct.pack("!HH", 1, 1) + opt
    udp = struct.pack("!4H", port, 53, 8 + len(message), 0) + message
    destination = V4 if len(source) == 4 else V6
    pseudo = source + destination + struct.pack("!HH", 17, len(udp))
    udp = udp[:6] + checksum(pseudo + udp) + udp[8:]
    if len(source) == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0) + source + destination
        packet = header[:10] + checksum(header) + header[12:] + udp
    else:
        packet = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + source + destination + udp
    return struct.pack("<4I", 1_700_000_000, 0, len(packet), len(packet)) + packet


def checksum(octets: bytes) -> bytes:
    padded = octets + bytes(len(octets) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2)


def addresses(count: int, size: int, seed: int = 0) -> list[bytes]:
    draw = random.Random(seed)
    found = [draw.randbytes(size) for _ in range(count)]
    return found + [found[0][:-1] + bytes([octet]) for octet in range(40)] + [bytes(size), b"\xff" * size]


@pytest.mark.parametrize(
    "how", [Truncation(), Truncation(19, 61), CryptoPan(KEY + PADDING), Aes128(KEY)], ids=lambda how: how.name
)
@pytest.mark.parametrize("size", [4, 16])
def test_many_addresses_become_what_each_becomes(how: Anonymiser, size: int) -> None:
    found = addresses(300, size)
    array = numpy.frombuffer(b"".join(found), numpy.uint8).reshape(-1, size)
    made = how.addresses(array)
    assert made.shape == array.shape
    assert [bytes(row) for row in made] == [how.address(each) for each in found]
    assert how.addresses(array[:0]).shape == (0, size)


@pytest.mark.parametrize("size", [4, 16])
def test_cryptopan_keeps_prefixes_of_a_word_and_loses_nothing(size: int) -> None:
    how = CryptoPan(KEY + PADDING)
    found = addresses(200, size)
    made = {how.address(each) for each in found}
    assert len(made) == len(set(found))

    def common(one: bytes, other: bytes) -> int:
        return 8 * size - (int.from_bytes(one) ^ int.from_bytes(other)).bit_length()

    for other in found[1:]:
        kept = min(common(found[0], other), 31)
        assert min(common(how.address(found[0]), how.address(other)), 31) == kept


def test_truncation_keeps_a_24_and_a_48() -> None:
    how = Truncation()
    assert how.address(bytes([192, 0, 2, 77])) == bytes([192, 0, 2, 0])
    assert how.address(ipaddress.ip_address("2001:db8:1:2::3").packed) == ipaddress.ip_address("2001:db8:1::").packed


def test_a_key_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(KeyLengthWrong, match="cryptopan needs a key of 32 octets, this one has 16"):
        CryptoPan(KEY)
    with pytest.raises(KeyLengthWrong, match="aes-128 needs a key of 16 octets, this one has 0"):
        anonymise.anonymiser("aes-128", b"")
    with pytest.raises(ValueError, match="a prefix of 33 bits of 32"):
        Truncation(33, 48)


def test_without_a_key_one_is_made_for_this_file_alone() -> None:
    one, other = (anonymise.anonymiser("cryptopan") for _ in range(2))
    assert one.method != other.method
    assert one.address(bytes(4)) != other.address(bytes(4)) or one.address(bytes(16)) != other.address(bytes(16))


def test_the_method_is_a_uri_and_tells_which_files_share_a_key() -> None:
    how = anonymise.anonymiser("aes-128", KEY)
    assert how.method == f"{anonymise.RSSAC040}#aes-128,key={hashlib.sha256(KEY).hexdigest()[:8]}"
    assert Truncation().method == f"{anonymise.RSSAC040}#truncation,ipv4=/24,ipv6=/48"


# ── beside dnscap ──


def dnscap_sources(directory: Path, records: bytes, *plugin: str) -> list[bytes]:
    """IP packets as dnscap writes them, with a plugin that anonymises."""
    dnscap = require_tool("dnscap")
    read = directory / "in.pcap"
    read.write_bytes(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, 101) + records)
    folder = next(path for path in Path("/usr/lib").glob("*/dnscap"))
    command = [dnscap, "-r", str(read), "-w", str(directory / "out"), "-P", str(folder / plugin[0]), *plugin[1:]]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    (made,) = directory.glob("out.*")
    octets = made.read_bytes()
    assert int.from_bytes(octets[20:24], "little") == 101
    at, found = 24, []
    while at < len(octets):
        size = int.from_bytes(octets[at + 8 : at + 12], "little")
        found.append(octets[at + 16 : at + 16 + size])
        at += 16 + size
    return found


def ours(records: bytes, how: Anonymiser) -> list[bytes]:
    octets = packets(records, how, SERVERS)
    assert len(octets) == len(records)
    at, found = 0, []
    while at < len(octets):
        size = int.from_bytes(octets[at + 8 : at + 12], "little")
        found.append(octets[at + 16 : at + 16 + size])
        at += 16 + size
    return found


@pytest.mark.parametrize(
    ("how", "plugin"),
    [
        (CryptoPan(KEY + PADDING), ("cryptopan.so", "-k", KEY.decode(), "-i", "0" * 16, "-a", PADDING.decode(), "-6")),
        (Aes128(KEY), ("anonaes128.so", "-k", KEY.decode(), "-i", "0" * 16, "-4")),
    ],
    ids=["cryptopan", "aes-128"],
)
def test_dnscap_makes_the_same_of_the_same_key(tmp_path: Path, how: Anonymiser, plugin: tuple[str, ...]) -> None:
    draw = random.Random(1)
    records = b""
    for source in addresses(100, 4) + addresses(100, 16):
        records += query_packet(source, port=draw.randint(1024, 65_535))
    theirs = dnscap_sources(tmp_path, records, *plugin, "-c")

    made = ours(records, how)
    assert len(made) == len(theirs) == 284
    for mine, other in zip(made, theirs, strict=True):
        if mine[0] >> 4 == 4:
            assert mine[12:20] == other[12:20]
            assert mine[28:] == other[28:]
        else:
            assert mine[8:40] == other[8:40]
            assert mine[48:] == other[48:]


# ── client subnets ──


@pytest.mark.parametrize("how", [Truncation(), CryptoPan(KEY + PADDING), Aes128(KEY)], ids=lambda how: how.name)
def test_client_subnets_are_replaced_wherever_they_lie(how: Anonymiser) -> None:
    address = ipaddress.ip_address("2001:db8:1:2:3:4:5:6").packed
    for octets in (1, 6, 7, 16):
        option = subnet_option(address, octets)
        message = b"garbage" + option + b"more" + subnet_option(address[:4], 4) + b"end"
        made = client_subnets(message, how)
        expected = how.address(address[:octets].ljust(16, b"\0"))[:octets]
        four = how.address(address[:4])
        assert made == b"garbage" + option[:8] + expected + b"more" + subnet_option(address[:4], 4)[:8] + four + b"end"


def test_a_client_subnet_that_is_cut_off_is_replaced_as_far_as_it_is_there() -> None:
    option = subnet_option(bytes([192, 0, 2, 77]), 4)
    assert client_subnets(b"x" + option[:-1], Truncation(8, 8)) == b"x" + option[:8] + bytes([192, 0, 0])
    assert client_subnets(option[:8], Truncation()) == option[:8]


@pytest.mark.parametrize("code", [8, 20730])
@pytest.mark.parametrize("octets", [5, 12, 16, 100])
def test_an_address_that_is_longer_than_those_of_its_family_is_not_left(code: int, octets: int) -> None:
    """As of who writes the family of IPv4 before an address of IPv6, or pads it."""
    data = b"\0\x01\x18\0" + bytes([192, 0, 2, 77]) + b"\xaa" * (octets - 4)
    made = client_subnets(b"x" + struct.pack("!HH", code, len(data)) + data + b"y", Aes128(KEY))
    assert made[9:] == Aes128(KEY).address(data[4:8]) + bytes(octets - 4) + b"y"


def test_an_address_of_ipv4_that_is_said_to_be_of_ipv6_is_not_left() -> None:
    """A truncation to /48 leaves all of its octets."""
    option = struct.pack("!HHHBB", 8, 8, 2, 32, 0) + bytes([192, 0, 2, 77])
    for how in (Truncation(), CryptoPan(KEY + PADDING), Aes128(KEY)):
        assert client_subnets(option, how) == option[:8] + how.address(option[8:])


@pytest.mark.parametrize("ident", [8, 20730])
@pytest.mark.parametrize("flags", [0x0010, 0x0030])
def test_a_header_is_no_option(ident: int, flags: int) -> None:
    message = struct.pack("!6H", ident, flags, 1, 0, 0, 0) + b"\3com\0\0\1\0\1"
    found = CapturedMessage(1, 4, 0, bytes(16), 40_000, bytes(16), 53, 0, b"", message)
    for transport in (0, 1):
        records, _ = pcap.records(pcap.rows_of(found._replace(transport=transport)), 0)
        assert packets(records, Aes128(KEY), SERVERS).endswith(message)
    broken = message_fact(message + b"x", EMPTY)
    assert broken.kind == Kind.MALFORMED
    for writer in (ColumnWriter, PlainWriter):
        assert message + b"x" in written(writer, [broken._replace(family=4)], Collection(anonymiser=Aes128(KEY)))


def test_an_option_whose_head_begins_within_the_head_of_another_is_replaced() -> None:
    """In a message that nobody could parse: the first one is none, and must not hide the second."""
    option = subnet_option(bytes([192, 0, 2, 77]), 4)
    made = client_subnets(b"\0\x08\0\x08\0\x01" + option, Aes128(KEY))
    assert made[14:] == Aes128(KEY).address(bytes([192, 0, 2, 77]))


def test_many_client_subnets_become_what_each_becomes() -> None:
    draw = random.Random(2)
    options = [subnet_option(draw.randbytes(4), 4) + subnet_option(draw.randbytes(16), 16) for _ in range(50)]
    how = CryptoPan(KEY + PADDING)
    ends = [sum(map(len, options[: number + 1])) for number in range(50)]
    begins = [0, *ends[:-1]]
    together = client_subnets(b"".join(options), how, begins, ends)
    assert together == b"".join(client_subnets(each, how) for each in options)
    # What is before a message's beginning is not the message's own.
    assert client_subnets(options[0], how, [1], [len(options[0])])[:12] == options[0][:12]


@BOTH
@pytest.mark.parametrize("how", [Truncation(), CryptoPan(KEY + PADDING), Aes128(KEY)], ids=lambda how: how.name)
def test_no_address_of_a_client_is_left_in_a_file(writer: Writer, how: Anonymiser) -> None:
    draw = random.Random(3)
    found = []
    for number in range(1, 400):
        client = draw.randbytes(draw.choice([4, 16]))
        raw = draw.randbytes(30) + subnet_option(client, len(client)) + draw.randbytes(5)
        fact = random_facts.malformed(draw, number, raw) if number % 3 else random_facts.query(draw, number)
        # No prefix becomes the whole address with the first octet of what is written behind it.
        source = draw.randbytes(15 if fact.family == 6 else 3) + b"\xfe"
        found.append(fact._replace(source=source.ljust(16, b"\0")))
    file = written(writer, found, Collection(anonymiser=how))
    storage = cbor2.loads(file)[1][3][0][0]
    assert storage[5] == 1
    assert storage[11] == how.method
    for fact in found:
        assert fact.source[: 4 if fact.family == 4 else 16] not in file
        if fact.kind == Kind.MALFORMED:
            size = 4 if b"\0\x08\0\x08\0\1" in fact.octets else 16
            assert fact.octets[30 : 38 + size] not in file or how.address(fact.octets[38 : 38 + size]) in file


@pytest.mark.parametrize("how", [None, Truncation(), CryptoPan(KEY + PADDING), Aes128(KEY)])
def test_both_writers_write_the_same_clients(how: Anonymiser | None) -> None:
    found = random_facts.facts(4, 2_000, anything=False, malformed_share=0.1)

    def clients(writer: Writer) -> list[tuple[int, bytes, bytes]]:
        told = []
        for block in cbor2.loads(written(writer, found, Collection(anonymiser=how)))[2]:
            tables = block[2]
            told += [(item[2], tables[0][item[1]], b"") for item in block[3]]
            told += [(item[2], tables[0][item[1]], tables[8][item[3]][3]) for item in block[5]]
        return told

    assert clients(ColumnWriter) == clients(PlainWriter)
    if how:
        storage = cbor2.loads(cdns.head(Collection(anonymiser=how)) + cdns.END)[1][3][0][0]
        if how.prefixes:
            assert (storage[6], storage[7]) == (24, 48)
            assert {len(address) for _, address, _ in clients(ColumnWriter)} == {3, 6}


# ── packets ──


def test_checksums_do_not_tell_the_address() -> None:
    for source in (bytes([192, 0, 2, 77]), ipaddress.ip_address("2001:db8::7").packed):
        (packet,) = ours(query_packet(source), Aes128(KEY))
        assert source not in packet
        if len(source) == 4:
            assert checksum(packet[:20]) == b"\0\0"
            assert packet[26:28] == b"\0\0"
            assert packet[16:20] == V4
        else:
            assert packet[46:48] == b"\0\0"
            assert packet[24:40] == V6


def test_responses_are_anonymised_at_their_destination() -> None:
    source = bytes([192, 0, 2, 77])
    record = bytearray(query_packet(source))
    record[16 + 12 : 16 + 20] = V4 + source
    (packet,) = ours(bytes(record), Aes128(KEY))
    assert packet[12:20] == V4 + Aes128(KEY).address(source)


def test_tcp_icmp_fragments_and_short_packets() -> None:
    source = bytes([192, 0, 2, 77])
    like = query_packet(source, subnet_option(source, 4))[16:]

    def made(packet: bytes) -> bytes:
        (found,) = ours(struct.pack("<4I", 0, 0, len(packet), len(packet)) + packet, Aes128(KEY))
        assert source not in found
        return found

    tcp = made(like[:9] + b"\x06" + like[10:20] + bytes(16) + b"\xab\xcd" + bytes(20))
    assert tcp[36:38] == b"\0\0"
    icmp = made(like[:9] + b"\x01" + like[10:20] + bytes(range(8)) + like)
    assert icmp[20:] == bytes(range(8)) + bytes(len(like))
    later = made(like[:6] + b"\x00\x10" + like[8:])
    assert later[26:28] == like[26:28]  # in a later fragment these are no checksum
    assert made(b"\x45" + source) == bytes(5)
    assert made(b"") == b""


def test_extension_headers_of_ipv6_are_stepped_over() -> None:
    source = ipaddress.ip_address("2001:db8::7").packed
    packet = query_packet(source)[16:]
    options = bytes([17, 0]) + bytes(6)
    longer = packet[:6] + b"\x3c" + packet[7:40] + options + packet[40:]
    (found,) = ours(struct.pack("<4I", 0, 0, len(longer), len(longer)) + longer, Aes128(KEY))
    assert found[48 + 6 : 48 + 8] == b"\0\0"
    options = bytes([17, 1]) + bytes(14)
    longer = packet[:6] + b"\x3c" + packet[7:40] + options + packet[40:]
    (found,) = ours(struct.pack("<4I", 0, 0, len(longer), len(longer)) + longer, Aes128(KEY))
    assert found[56 + 6 : 56 + 8] == b"\0\0"
    for offset in (b"\x05\0", b"\0\x08"):
        fragment = bytes([17, 0]) + offset + bytes(4)
        later = packet[:6] + b"\x2c" + packet[7:40] + fragment + packet[40:]
        (found,) = ours(struct.pack("<4I", 0, 0, len(later), len(later)) + later, Aes128(KEY))
        assert found[48:] == packet[40:]


def test_a_record_that_is_cut_off_is_refused() -> None:
    record = query_packet(bytes(4))
    for octets in (record[:-1], record[:10]):
        with pytest.raises(RecordCutOff, match="cut off"):
            packets(octets, Truncation(), SERVERS)


def test_any_octets_at_all_keep_their_places() -> None:
    # Whatever the packet: as many octets come back, and no exception.
    draw = random.Random(5)
    for _ in range(500):
        size = draw.randint(0, 90)
        packet = bytearray(draw.randbytes(size))
        if packet:
            packet[0] = draw.choice([0x45, 0x46, 0x4F, 0x60, 0x6F, draw.getrandbits(8)])
        if size > 6 and draw.random() < 0.5:
            packet[6] = draw.choice([0, 43, 44, 60, 17])
        record = struct.pack("<4I", 0, 0, size, size) + packet
        for how in (Truncation(), Aes128(KEY)):
            made = anonymise_packets.packets(record, how, SERVERS)
            assert len(made) == len(record)
            assert made[:16] == record[:16]
