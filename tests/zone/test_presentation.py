"""Zone files: the short way reads nothing otherwise than dnspython does, and errors name line and cause."""

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.demo import signed
from rootsrv.wire.name import ROOT
from rootsrv.wire.name import from_text as name_from_text
from rootsrv.wire.rdata import AAAA, DS, MX, NS, NSEC, RRSIG, SOA, TXT, A, type_bitmap
from rootsrv.wire.rdata import to_text as rdata_to_text
from rootsrv.wire.record import ZoneMalformed
from rootsrv.zone import builder, presentation
from rootsrv.zone.contents import ZoneContents
from tests.needs import genuine_root_zone_text

SOA_LINE = "@ 300 IN SOA ns.example. host.example. 1 2 3 4 5\n"
APEX = name_from_text("example.")
GENERATED = signed.generate_root(tlds=4, algorithm=13, inception=1.7e9, expiration=1.8e9)


def read(text: str, apex: bytes = APEX) -> ZoneContents:
    return presentation.from_text(text.encode(), apex)


def read_by_dnspython(text: str, apex: bytes = APEX) -> ZoneContents | str:
    try:
        return presentation._read_any(text, apex)
    except ZoneMalformed as error:
        return str(error)


# ── the two ways agree ──


@pytest.mark.parametrize("serial", [2025091701, 2025103100])  # one is AXFR output, one as it was published
def test_both_ways_read_a_genuine_root_alike(serial: int) -> None:
    text = genuine_root_zone_text(serial).decode()

    short = presentation._read_published(text, ROOT)

    assert short is not None
    assert short.serial == serial
    assert short == presentation._read_any(text, ROOT)


@pytest.mark.long
@pytest.mark.parametrize("serial", [2020101902, 2023112000, 2025091101, 2025091902, 2025103001])
def test_both_ways_read_every_genuine_root_alike(serial: int) -> None:
    text = genuine_root_zone_text(serial).decode()

    assert presentation._read_published(text, ROOT) == presentation._read_any(text, ROOT)


def test_what_is_written_is_as_it_was_published() -> None:
    text = genuine_root_zone_text(2025103100).decode()
    contents = read(text, ROOT)

    written = presentation.to_text(contents)

    # Ours are the order of the lines, the number of tabs behind an owner, and IPv6 addresses as RFC 5952 writes them.
    def fields(zone: str) -> list[list[str]]:
        return sorted(line.split() for line in zone.splitlines() if "\tAAAA\t" not in line)

    assert fields(written) == fields(text)
    assert written.split("\t")[:4] == [".", "86400", "IN", "SOA"]
    assert read(written, ROOT) == contents
    assert presentation.to_text(read(written, ROOT)) == written


ZONE_LINES = GENERATED.root_text.splitlines(keepends=True)
SNIPPETS = [
    "(",
    ")",
    ";",
    '"',
    "\\",
    "\n",
    " ",
    "\t",
    "@",
    ".",
    "..",
    "0",
    "-1",
    "*",
    "$TTL 5\n",
    "\\#",
    "IN",
    "CH",
    "A",
]


@st.composite
def damaged_zone_texts(draw: st.DrawFn) -> str:
    """The generated zone, or part of it, with some lines and characters dropped, doubled, moved or replaced."""
    lines = ZONE_LINES[:1] + draw(st.lists(st.sampled_from(ZONE_LINES), max_size=6))
    text = "".join(lines)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        length = draw(st.sampled_from([0, 0, 1, 1, 2, 8]))
        new = draw(st.one_of(st.sampled_from(SNIPPETS), st.text(st.characters(codec="ascii"), max_size=3)))
        text = text[:at] + new + text[at + length :]
    return text


@settings(deadline=None, max_examples=400)
@given(damaged_zone_texts())
def test_whatever_the_text_both_ways_read_the_same_or_both_refuse(text: str) -> None:
    expected = read_by_dnspython(text, ROOT)
    try:
        found = read(text, ROOT)
    except ZoneMalformed:
        assert isinstance(expected, str)
    else:
        assert found == expected


LABELS = st.text(st.sampled_from("abcxyz019-_AZ"), min_size=1, max_size=12)
NAMES = st.lists(LABELS, max_size=3).map(lambda labels: ".".join([*labels, "example."]))
RDATA = st.one_of(
    st.tuples(st.just("A"), st.ip_addresses(v=4).map(str)),
    st.tuples(st.just("AAAA"), st.ip_addresses(v=6).map(str)),
    st.tuples(st.just("AAAA"), st.ip_addresses(v=6).map(lambda address: address.exploded.upper())),
    st.tuples(st.just("NS"), NAMES),
    st.tuples(st.just("MX"), st.tuples(st.integers(0, 65535), NAMES).map(lambda mx: f"{mx[0]} {mx[1]}")),
    st.tuples(st.just("DS"), st.binary(min_size=32, max_size=32).map(lambda digest: f"1 8 2 {digest.hex(' ', 8)}")),
    st.tuples(st.just("TXT"), st.text(st.sampled_from("ab;() @"), max_size=9).map(lambda text: f'"{text}"')),
    st.tuples(st.just("NSEC"), st.tuples(NAMES, st.sampled_from(["A", "NS SOA TYPE999", "CAA URI"])).map(" ".join)),
    st.tuples(st.just("TYPE65000"), st.binary(max_size=5).map(lambda data: f"\\# {len(data)} {data.hex()}")),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(NAMES, RDATA), max_size=8))
def test_what_is_read_is_written_and_read_again_the_same(records: list[tuple[str, tuple[str, str]]]) -> None:
    text = SOA_LINE + "".join(f"{owner}\t300\tIN\t{rtype}\t{rdata}\n" for owner, (rtype, rdata) in records)
    contents = read(text)

    assert read_by_dnspython(text) == contents
    assert read(presentation.to_text(contents)) == contents
    assert builder.from_records(APEX, contents.records()) == contents


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_any_address_text_is_read_as_dnspython_reads_it(text: str) -> None:
    for rtype in ("A", "AAAA"):
        zone = f"{SOA_LINE}a.example. 300 IN {rtype} {text}\n"
        expected = read_by_dnspython(zone)
        try:
            assert read(zone) == expected
        except ZoneMalformed:
            assert isinstance(expected, str)


# ── all of RFC 1035 §5 ──


def test_directives_relative_names_parentheses_and_left_out_fields() -> None:
    contents = read(
        """\
$TTL 1h
$ORIGIN example.
@       IN SOA ns host ( 1 ; serial
                         2 3 4
                         5 )
            NS    ns
            NS    ns.other.example.org.
ns          A     192.0.2.1      ; a comment (
        60  IN AAAA 2001:db8::1
$ORIGIN sub.example.
txt     IN  60 TXT  "two words" semi\\;colon "\\065"
$GENERATE 1-3 h$ A 192.0.2.$
"""
    )

    def rdatas(owner: str, rtype: int) -> tuple[bytes, ...]:
        rrset = contents.rrset(name_from_text(owner), rtype)
        assert rrset is not None
        return rrset.rdatas

    assert rdatas("example.", NS) == tuple(map(name_from_text, ("ns.other.example.org.", "ns.example.")))
    assert contents.rrsets[name_from_text("ns.example."), A].ttl == 3600
    assert contents.rrsets[name_from_text("ns.example."), AAAA].ttl == 60
    assert rdatas("txt.sub.example.", TXT) == (b"\x09two words\x0asemi;colon\x01A",)
    assert rdatas("h3.sub.example.", A) == (bytes((192, 0, 2, 3)),)


def test_names_are_canonical_also_inside_rdata() -> None:
    contents = read(SOA_LINE + "WWW.Example. 300 IN MX 10 MAIL.Example.\nExample. 300 IN NS NS.Example.\n")

    assert contents.rrsets[name_from_text("www.example."), MX].rdatas == (b"\0\x0a\4mail\7example\0",)
    assert contents.rrsets[APEX, NS].rdatas == (b"\2ns\7example\0",)


def test_the_next_name_of_an_nsec_keeps_its_case() -> None:  # RFC 6840 §5.1
    contents = read(SOA_LINE + "example. 300 IN NSEC WWW.example. SOA NSEC\n")

    assert contents.rrsets[APEX, 47].rdatas[0].startswith(b"\3WWW\7example\0")


def test_identical_records_are_merged() -> None:
    contents = read(SOA_LINE + "a.example. 300 IN A 192.0.2.1\nA.EXAMPLE. 300 IN A 192.0.2.1\n" + SOA_LINE)

    assert contents.record_count == 2


def test_rdata_is_in_canonical_order() -> None:
    contents = read(SOA_LINE + "".join(f"a.example. 300 IN A 192.0.2.{n}\n" for n in (200, 3, 17)))

    assert [rdata[3] for rdata in contents.rrsets[name_from_text("a.example."), A].rdatas] == [3, 17, 200]


def test_a_signature_hangs_on_what_it_covers_in_whichever_order_they_come() -> None:
    rrsig = "example. 300 IN RRSIG SOA 13 1 300 20260101000000 20250101000000 7 example. AAAA\n"

    contents = read(rrsig + SOA_LINE)

    assert contents == read(SOA_LINE + rrsig)
    assert len(contents.rrsets) == 1
    assert [rrsig[18:] for rrsig in contents.rrsets[APEX, 6].rrsigs] == [APEX + bytes(3)]


# ── errors ──

LONG = ".".join(["a" * 60] * 5)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there are no records"),
        ("; nothing\n\n", "there are no records"),
        ("example. 300 IN NS ns.example.\n", "example. has 0 different SOA records instead of one"),
        (SOA_LINE + "example. 300 IN SOA a. b. 2 2 3 4 5\n", "example. has 2 different SOA records instead of one"),
        (
            SOA_LINE + "a.example. 300 IN SOA a. b. 2 2 3 4 5\n",
            "line 2: SOA at a.example., but the zone is example.",
        ),
        (
            SOA_LINE + "\n; comment\na.example. 300 IN A 192.0.2.1\na.example. 301 IN A 192.0.2.2\n",
            "line 5: a.example. A: TTL 301 differs from 300 in the same RRset",
        ),
        (
            SOA_LINE + "example. 301 IN RRSIG SOA 13 1 300 20260101000000 20250101000000 7 example. AAAA\n",
            "line 2: example. RRSIG of SOA: TTL 301 differs from 300 in the same RRset",
        ),
        (SOA_LINE + "a.org. 300 IN A 192.0.2.1\n", "line 2: a.org. A is not in the zone example."),
        (
            SOA_LINE + "a.example. 2147483648 IN A 192.0.2.1\n",
            "line 2: a.example. A: TTL 2147483648 is not 0..2147483647",
        ),
        (SOA_LINE + "a.example. 300 CH A 192.0.2.1\n", "line 2: RR class is not zone's class"),
        (SOA_LINE + "a.example. 300 IN NOSUCHTYPE x\n", "line 2: unknown rdatatype 'NOSUCHTYPE'"),
        (SOA_LINE + f"{LONG}.example. 300 IN A 192.0.2.1\n", "line 2: A DNS name is > 255 octets long."),
        (SOA_LINE + f"{'a' * 64}.example. 300 IN A 192.0.2.1\n", "line 2: A DNS label is > 63 octets long."),
        (SOA_LINE + f"a.example. 300 IN NS {LONG}.\n", "line 2: A DNS name is > 255 octets long."),
        (SOA_LINE + "a..example. 300 IN A 192.0.2.1\n", "line 2: A DNS label is empty."),
        (SOA_LINE + "a.example. 300 IN A 192.0.2.256\n", "line 2: Text input is malformed."),
        (SOA_LINE + "a.example. 300 IN A\n", "line 2: expecting an identifier"),
        (SOA_LINE + "\na.example. 300 IN TXT (\n\n\n", "line 3: "),
        (SOA_LINE + '\na.example. 300 IN TXT "abc\n', "line 3: "),
        (SOA_LINE + "a.example. 300 IN LOC 51 0 0 N 0 0 0 E 999999999999m\n", "line 2: LOC RDATA cannot be encoded: "),
        (SOA_LINE + "$INCLUDE /etc/passwd\n", "line 2: zone file directive '$INCLUDE' is not allowed"),
        (SOA_LINE + "; caf\u00e9\n", "line 2: octet 0xc3 is not ASCII (RFC 1035 §5.1 has \\DDD for such octets)"),
    ],
)
def test_errors_name_line_and_cause(text: str, why: str) -> None:
    with pytest.raises(ZoneMalformed) as error:
        read(text)

    assert str(error.value).startswith(why)


def test_there_is_a_limit_to_the_records_of_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "MAX_RECORDS", 100)

    with pytest.raises(ZoneMalformed, match=r"^line 2: more than 100 records$"):
        read(SOA_LINE + "$GENERATE 1-4000000000 a A 192.0.2.1\n")


def test_a_truncated_zone_file_is_refused_wherever_it_ends_within_a_line() -> None:
    text = GENERATED.root_text
    for end in range(len(text) - 400, len(text) - 1, 7):
        try:
            contents = read(text[:end], ROOT)
        except ZoneMalformed:
            continue
        assert contents != GENERATED.root  # what is missing is found by verify


# ── records from a transfer ──


def test_records_from_a_transfer_become_canonical() -> None:
    soa = (APEX.upper(), 6, 300, b"\2NS\0\4host\0" + bytes(20))
    contents = builder.from_records(APEX, [soa, (b"\1A" + APEX, NS, 300, b"\2NS\3COM\0"), soa])

    assert contents.rrsets[b"\1a" + APEX, NS].rdatas == (b"\2ns\3com\0",)
    assert contents.record_count == 2


@pytest.mark.parametrize(
    ("rtype", "rdata"),
    [
        (A, bytes(3)),
        (AAAA, bytes(17)),
        (NS, b""),
        (NS, b"\3com"),
        (NS, b"\3com\0\0"),
        (NS, b"\x40" + bytes(65)),
        (NS, b"\1a" * 127 + b"\0\0"),
        (DS, b"\0\1\x08\2ab"),
        (SOA, b"\0\0" + bytes(19)),
        (RRSIG, bytes(18)),
        (NSEC, b"\0\0"),
    ],
)
def test_malformed_rdata_is_refused(rtype: int, rdata: bytes) -> None:
    with pytest.raises(ZoneMalformed, match=f"^{len(rdata)} octets are not "):
        builder.from_records(APEX, [(APEX, rtype, 300, rdata)])


@given(st.lists(st.sampled_from((0, 0, 1, 0x10, 0x1000, 0xABCD)), min_size=8, max_size=8))
def test_an_address_is_written_as_rfc_5952_wants_it(groups: list[int]) -> None:
    octets = struct.pack("!8H", *groups)

    assert presentation._write_aaaa(octets, presentation._NamesToText()) == str(ipaddress.IPv6Address(octets))


@given(st.sets(st.integers(1, 300), min_size=1))
def test_nsec_is_written_as_dnspython_writes_it(types: set[int]) -> None:
    rdata = name_from_text("Next.example.") + type_bitmap(types)

    assert presentation._write_nsec(rdata, presentation._NamesToText()) == rdata_to_text(NSEC, rdata)
