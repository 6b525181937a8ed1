"""Trust anchors are read from IANA's XML and from DS and DNSKEY records, and count when they are valid."""

import re
from dataclasses import replace

import pytest

from rootsrv.wire.name import ROOT
from rootsrv.wire.rdata import DNSKEY, DS, key_tag
from rootsrv.zone import instant
from rootsrv.zone.anchors import AnchorsMalformed, TrustAnchor, TrustAnchors
from tests.needs import require_genuine_zones

# The root's key-signing key of 2017, public knowledge.
KEY_20326 = (
    "AwEAAaz/tAm8yTn4Mfeh5eyI96WSVexTBAvkMgJzkKTOiW1vkIbzxeF3+/4RgWOq7HrxRixHlFlExOLAJr5emLvN7SWXgnLh4+B5xQlNVz8Og8kv"
    "ArMtNROxVQuCaSnIDdD5LKyWbRd2n9WGe2R8PzgCmr3EgVLrjyBxWezF0jLHwVN8efS3rCj/EWgvIWgb9tarpVUDK/b58Da+sqqls3eNbuv7pr+e"
    "oZG+SrDK6nWeL3c6H5Apxz7LjVc1uTIdsIXxuOLYA4/ilBmSVIzuDWfdRUfhHdY6+cn8HFRm+2hM8AnXGXws9555KrUB5qihylGa8subX2Nn6UwN"
    "R1AkUTV74bU="
)
DIGEST_20326 = "E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"

XML = f"""<?xml version="1.0" encoding="UTF-8"?>
<TrustAnchor id="x" source="http://data.iana.org/root-anchors/root-anchors.xml">
  <Zone>.</Zone>
  <KeyDigest id="Klajeyz" validFrom="2017-02-02T00:00:00+00:00" validUntil="2027-02-02T00:00:00Z">
    <KeyTag>20326</KeyTag><Algorithm>8</Algorithm><DigestType>2</DigestType><Digest>{DIGEST_20326}</Digest>
    <PublicKey>{KEY_20326}</PublicKey><Flags>257</Flags>
  </KeyDigest>
</TrustAnchor>
"""


def only(text: str) -> TrustAnchor:
    (anchor,) = TrustAnchors.from_text(text).anchors
    return anchor


def test_the_three_ways_to_name_a_key_agree() -> None:
    by_key = only(f". 172800 IN DNSKEY 257 3 8 {KEY_20326} ; a comment\n")
    by_digest = only(f". IN DS 20326 8 2 {DIGEST_20326}\n")
    by_xml = only(XML)

    assert by_key.key_tag == by_digest.key_tag == by_xml.key_tag == key_tag(by_key.rdata) == 20326
    assert (by_key.rtype, by_digest.rtype, by_xml.rtype) == (DNSKEY, DS, DS)
    for anchor in (by_key, by_digest, by_xml):
        assert anchor.covers(ROOT, by_key.rdata)
        assert not anchor.covers(b"\3com\0", by_key.rdata)
        assert not anchor.covers(ROOT, by_key.rdata[:-1] + b"\0")
        assert not anchor.covers(ROOT, b"")


def test_validity_in_the_xml_counts() -> None:
    anchors = TrustAnchors.from_text(XML)

    def valid_at(text: str) -> bool:
        return bool(anchors.valid_at(instant.from_text(text)))

    assert not valid_at("2017-02-01T23:59:59Z")
    assert valid_at("2017-02-02T00:00:00Z")
    assert valid_at("2027-02-01T23:59:59Z")
    assert not valid_at("2027-02-02T00:00:00Z")
    assert str(anchors) == "20326 from 2017-02-02T00:00:00Z until 2027-02-02T00:00:00Z"


def test_records_are_valid_for_ever() -> None:
    anchor = only(f". DS 20326 8 2 {DIGEST_20326}\n")

    assert anchor.is_valid(0)
    assert anchor.is_valid(2**40)
    assert str(anchor) == "20326"


def test_the_files_that_iana_publishes() -> None:
    zones = require_genuine_zones()
    xml = TrustAnchors.from_text((zones / "root-anchors.xml").read_text())
    records = TrustAnchors.from_text((zones / "root.key").read_text())

    assert [anchor.key_tag for anchor in xml.anchors] == [19036, 20326, 38696]
    assert [anchor.key_tag for anchor in records.anchors] == [20326, 38696]
    assert [anchor.key_tag for anchor in xml.valid_at(instant.from_text("2025-09-20T12:00:00Z"))] == [20326, 38696]
    for by_digest, by_key in zip(xml.anchors[1:], records.anchors, strict=True):
        assert by_digest.covers(ROOT, by_key.rdata)


def test_other_digests_of_the_ds() -> None:
    sha1 = "AEA19CA9C3C4A0E5DA1A2F7B0BDB5AD8DF0E1E7B"  # of some other key
    sha384 = "00" * 48

    assert only(f". DS 20326 8 1 {sha1}").key_tag == 20326
    assert not only(f". DS 20326 8 4 {sha384}").covers(ROOT, only(f". DNSKEY 257 3 8 {KEY_20326}").rdata)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no trust anchor: neither a KeyDigest element nor a DS or DNSKEY record"),
        ("; nothing\n", "no trust anchor: neither"),
        ("hello\n", "line 1: expected a DS or DNSKEY record on one line"),
        ("\n. IN A 192.0.2.1\n", "line 2: expected a DS or DNSKEY record on one line"),
        (". IN DS 20326 8 2 ABCD\n", "line 1: "),
        (f". IN DS 20326 8 3 {DIGEST_20326}\n", "line 1: digest type 3 is not supported (supported: 1, 2, 4)"),
        (". IN DNSKEY 257 3 8 !!!\n", "line 1: "),
        ("<TrustAnchor>", "XML: no element found"),
        ("<Other/>", "XML: the element is Other, expected TrustAnchor"),
        ("<TrustAnchor><Zone>.</Zone></TrustAnchor>", "no trust anchor"),
        (XML.replace(">20326<", ">x<"), "XML: KeyDigest Klajeyz: KeyTag: must be 0..65535, got 'x'"),
        (XML.replace(">20326<", ">65536<"), "XML: KeyDigest Klajeyz: KeyTag: must be 0..65535, got '65536'"),
        (XML.replace("<Algorithm>8</Algorithm>", ""), "XML: KeyDigest Klajeyz: Algorithm: must be 0..255, got ''"),
        (XML.replace(DIGEST_20326, "ABCD"), "XML: KeyDigest Klajeyz: digest of 2 octets, digest type 2 has 32"),
        (XML.replace("<DigestType>2", "<DigestType>9"), "XML: KeyDigest Klajeyz: digest type 9 is not supported"),
        (XML.replace(DIGEST_20326[:2], "00", 1), "XML: KeyDigest Klajeyz: PublicKey is not the key that Digest is of"),
        (XML.replace("2017-02-02T", "soon "), "XML: KeyDigest Klajeyz: Invalid isoformat string"),
        (XML.replace("<Zone>.<", "<Zone>..<"), "XML: Zone: "),
        ('<!DOCTYPE x [<!ENTITY a "b">]><TrustAnchor/>', "a document type definition has no place in trust anchors"),
    ],
)
def test_errors_name_the_cause(text: str, why: str) -> None:
    with pytest.raises(AnchorsMalformed) as error:
        TrustAnchors.from_text(text)

    assert str(error.value).startswith(why)


def test_an_anchor_of_another_algorithm_does_not_cover_the_key() -> None:
    anchor = only(f". DS 20326 8 2 {DIGEST_20326}")
    key = only(f". DNSKEY 257 3 8 {KEY_20326}").rdata

    assert not replace(anchor, rdata=anchor.rdata[:2] + b"\x0d" + anchor.rdata[3:]).covers(ROOT, key)


UNKNOWN_DIGEST = "<KeyDigest id='new'><KeyTag>17</KeyTag><Algorithm>17</Algorithm><DigestType>6</DigestType>" + (
    "<Digest>00</Digest></KeyDigest>"
)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (UNKNOWN_DIGEST, "KeyDigest new: digest type 6 is not supported"),
        (UNKNOWN_DIGEST.replace("17</KeyTag>", "x</KeyTag>"), "KeyDigest new: KeyTag: must be 0..65535, got 'x'"),
        ("<KeyDigest id='new' validFrom='0'/>", "KeyDigest new: KeyTag"),
        (
            XML[XML.index("<KeyDigest") : XML.index("</Trust")].replace("257", "99999"),
            "Flags: must be 0..65535, got '99999'",
        ),
        (XML[XML.index("<KeyDigest") : XML.index("</Trust")].replace("257", "385"), "the key is revoked"),
    ],
)
def test_an_entry_of_the_xml_that_cannot_be_used_is_passed_over_while_there_is_another(entry: str, told: str) -> None:
    anchors = TrustAnchors.from_text(XML.replace("</TrustAnchor>", f"{entry}</TrustAnchor>"))

    assert [anchor.key_tag for anchor in anchors.anchors] == [20326]
    (alarm,) = anchors.alarms
    assert told in alarm
    with pytest.raises(AnchorsMalformed, match=re.escape(told)):
        TrustAnchors.from_text(f"<TrustAnchor><Zone>.</Zone>{entry}</TrustAnchor>")


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (". IN DS 17 17 6 00", "line 2: digest type 6 is not supported"),
        (f". IN DNSKEY 385 3 8 {KEY_20326}", "line 2: the key is revoked"),
        (f". IN DNSKEY 0 3 8 {KEY_20326}", "line 2: the key is no zone key"),
        (". IN TXT hello", "line 2: expected a DS or DNSKEY record"),
    ],
)
def test_a_record_that_cannot_be_used_is_passed_over_while_there_is_another(record: str, told: str) -> None:
    anchors = TrustAnchors.from_text(f". IN DS 20326 8 2 {DIGEST_20326}\n{record}\n")

    assert [anchor.key_tag for anchor in anchors.anchors] == [20326]
    assert told in anchors.alarms[0]
    with pytest.raises(AnchorsMalformed, match=re.escape(told.replace("line 2", "line 1"))):
        TrustAnchors.from_text(record)


@pytest.mark.parametrize(
    ("state", "trusted"),
    [
        ("0 [  START  ]", False),
        ("1 [ ADDPEND ]", False),
        ("2 [  VALID  ]", True),
        ("3 [ MISSING ]", True),
        ("4 [ REVOKED ]", False),
        ("5 [ REMOVED ]", False),
        ("9 [ ??? ]", False),
    ],
)
def test_the_states_of_an_autotrust_file_count(state: str, trusted: bool) -> None:
    """Unbound's root.key (RFC 5011 §4.2, §4.3)."""
    line = (
        f".\t86400\tIN\tDNSKEY\t257 3 8 {KEY_20326} ;{{id = 20326 (ksk), size = 2048b}} ;;state={state} ;;count=0 "
        ";;lastchange=1700000000 ;;Tue Nov 14 22:13:20 2023\n"
    )
    text = f"; autotrust trust anchor file\n;;id: . 1\n;;last_queried: 1700000000 ;;Tue Nov 14 22:13:20 2023\n{line}"
    if trusted:
        assert only(text).key_tag == 20326
    else:
        with pytest.raises(AnchorsMalformed, match=rf"line 4: key 20326 is in state {state[0]} .*not trusted"):
            TrustAnchors.from_text(text)
