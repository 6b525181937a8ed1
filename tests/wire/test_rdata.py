"""What is done with RDATA and names here gives what dnspython gives."""

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rootsrv.wire import name, rdata
from rootsrv.wire.record import ZoneMalformed

TYPES = st.sets(st.integers(1, 65535), max_size=20)
LABELS = st.binary(min_size=1, max_size=20)
NAMES = st.lists(LABELS, max_size=5).map(lambda labels: dns.name.Name([*labels, b""]))


@given(TYPES)
def test_type_bitmaps_are_read_as_they_were_written(types: set[int]) -> None:
    assert rdata.types_in_bitmap(rdata.type_bitmap(types)) == types


@given(TYPES)
def test_type_bitmaps_are_those_of_dnspython(types: set[int]) -> None:
    text = " ".join(dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rtype)) for rtype in sorted(types))
    nsec = dns.rdata.from_text("IN", "NSEC", f"a.example. {text}").to_digestable()

    assert rdata.nsec_bitmap(nsec) == rdata.type_bitmap(types)
    assert rdata.nsec_next(nsec) == name.from_text("a.example.")


@pytest.mark.parametrize(
    "octets",
    [
        *(b"\0", b"\0\0", b"\0\x21" + bytes(32) + b"\1", b"\0\2\x40", b"\1\1\x40\0\1\x40", b"\0\1\x40" * 2),
        *(b"\0\1\0", b"\0\2\x40\0", b"\0\1\x40\1\1\0"),  # zeroes at the end of a block must be left out
    ],
)
def test_bitmaps_that_are_not_well_formed(octets: bytes) -> None:
    with pytest.raises(ZoneMalformed, match="not well-formed"):
        rdata.types_in_bitmap(octets)


@given(st.sampled_from([1, 2, 6, 15, 16, 28, 43, 46, 47, 48, 63, 65000]), st.binary(max_size=60))
def test_any_octets_have_the_canonical_form_of_dnspython_or_none(rtype: int, octets: bytes) -> None:
    try:
        parsed = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.RdataType.make(rtype), octets, 0, len(octets))
    except Exception:
        with pytest.raises(ZoneMalformed):
            rdata.canonical(rtype, octets)
    else:
        assert rdata.canonical(rtype, octets) == parsed.to_digestable()


@given(NAMES, TYPES, st.integers(0, 400), st.integers(0, 255))
@example(dns.name.Name([b"\0\x1a\0", bytes(6), bytes(7), bytes(8), b""]), set(), 0, 0)
def test_an_nsec_with_one_wrong_octet_is_taken_or_refused_as_by_dnspython(
    following: dns.name.Name, types: set[int], place: int, octet: int
) -> None:
    nsec = bytearray((following.to_wire() or b"") + rdata.type_bitmap(types))
    nsec[place % len(nsec)] = octet
    try:
        parsed = dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.NSEC, bytes(nsec), 0, len(nsec))
    except Exception:
        with pytest.raises(ZoneMalformed):
            rdata.canonical(47, bytes(nsec))
    else:
        assert rdata.canonical(47, bytes(nsec)) == parsed.to_digestable()


@given(NAMES)
def test_names_are_written_as_dnspython_writes_them(given_name: dns.name.Name) -> None:
    wire = given_name.to_wire()
    assert wire is not None

    assert name.to_text(wire) == given_name.to_text()
    assert name.from_text(name.to_text(wire)) == given_name.to_digestable()
    assert name.labels(wire) == given_name.labels[:-1]


@given(NAMES, NAMES)
def test_names_are_ordered_and_nested_as_in_dnspython(one: dns.name.Name, other: dns.name.Name) -> None:
    ours, theirs = one.to_digestable(), other.to_digestable()

    assert (name.canonical_key(ours) < name.canonical_key(theirs)) == (one.canonicalize() < other.canonicalize())
    assert name.is_at_or_below(ours, theirs) == one.is_subdomain(other)
    assert name.is_at_or_below(b"\1x" + ours if len(ours) < 250 else ours, ours)
