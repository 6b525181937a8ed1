"""Whatever is changed in a signed zone, it is refused with a reason, or it is still the same zone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.demo import signed
from rootsrv.wire.name import ROOT
from rootsrv.wire.record import Record, ZoneMalformed
from rootsrv.zone import presentation
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.builder import from_records
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.verify import ZoneRejected, verify

NOW = 1_800_000_000.0
GENERATED = signed.generate_root(tlds=4, algorithm=13, inception=NOW - 3600, expiration=NOW + 86400)
ANCHORS = TrustAnchors.from_text(GENERATED.trust_anchor)
RECORDS = list(GENERATED.root.records())
TEXT = GENERATED.root_text.encode()


def is_believed(contents: ZoneContents) -> bool:
    try:
        verify(contents, ANCHORS, NOW)
    except ZoneRejected:
        return False
    return True


def test_the_unchanged_zone_is_believed() -> None:
    assert is_believed(from_records(ROOT, RECORDS))


@st.composite
def changed_records(draw: st.DrawFn) -> list[Record]:
    records = list(RECORDS)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(records) - 1))
        owner, rtype, ttl, rdata = records[at]
        change = draw(st.sampled_from(["drop", "owner", "type", "ttl", "bit", "bit", "bit", "shorter", "longer"]))
        if change == "drop":
            del records[at]
            continue
        if change == "owner":
            owner = records[draw(st.integers(0, len(records) - 1))][0]
        elif change == "type":
            rtype = draw(st.sampled_from([1, 2, 5, 6, 16, 28, 39, 43, 46, 47, 48, 50, 63, 65000]))
        elif change == "ttl":
            ttl ^= 1 << draw(st.integers(0, 30))
        elif change == "bit" and rdata:
            octets = bytearray(rdata)
            octets[draw(st.integers(0, len(rdata) - 1))] ^= 1 << draw(st.integers(0, 7))
            rdata = bytes(octets)
        elif change == "shorter" and rdata:
            rdata = rdata[: draw(st.integers(0, len(rdata) - 1))]
        else:
            rdata += draw(st.binary(min_size=1, max_size=4))
        records[at] = owner, rtype, ttl, rdata
    return records


@settings(deadline=None, max_examples=500)
@given(changed_records())
def test_changed_records_are_refused(records: list[Record]) -> None:
    try:
        contents = from_records(ROOT, records)
    except ZoneMalformed:
        return
    assert is_believed(contents) == (contents == GENERATED.root)


@settings(deadline=None, max_examples=500)
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 255))
def test_a_zone_file_with_any_octet_changed_is_refused(at: int, octet: int) -> None:
    try:
        contents = presentation.from_text(TEXT[:at] + bytes((octet,)) + TEXT[at + 1 :], ROOT)
    except ZoneMalformed:
        return
    assert is_believed(contents) == (contents == GENERATED.root)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(TEXT)))
def test_a_truncated_zone_file_is_refused(end: int) -> None:
    try:
        contents = presentation.from_text(TEXT[:end], ROOT)
    except ZoneMalformed:
        return
    assert is_believed(contents) == (contents == GENERATED.root)
