"""Bodies: compression, cuts, and the sums and pointers that let them move."""

import struct

import dns.message
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootsrv.answer.body import ADDITIONAL, AUTHORITY, Body
from rootsrv.answer.responder import TARGETS, Responder
from rootsrv.answer.table import Answer
from rootsrv.wire import name as names
from rootsrv.zone.contents import RRset
from tests.answer.conftest import Compiled


def ones_complement_sum(octets: bytes) -> int:
    """RFC 1071, the plain way."""
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets[: len(octets) // 2 * 2]))
    if len(octets) % 2:
        total += octets[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def same_sum(first: int, second: int) -> bool:
    return first % 0xFFFF == second % 0xFFFF


def moved(answer: Answer, size: int, by: int) -> bytes:
    """The first *size* octets of the body with every pointer moved, one by one."""
    body = bytearray(answer.body[:size])
    for at in answer.pointers:
        if at < size:
            (pointer,) = struct.unpack_from("!H", body, at)
            struct.pack_into("!H", body, at, pointer + by)
    return bytes(body)


def name_server(tld: str) -> RRset:
    return RRset(names.from_text(tld), 2, 172800, (names.from_text(f"a.nic.{tld}"), names.from_text(f"b.nic.{tld}")))


def test_names_are_compressed_against_the_question_and_each_other() -> None:
    body = Body(names.from_text("example"))
    body.add(AUTHORITY, name_server("example"), signed=False)
    answer = body.finish(flags=0, zone=0)
    fixed = bytes.fromhex("c00c 0002 0001 0002a300")
    first = fixed + b"\0\x08" + b"\1a\3nic\xc0\x0c"
    # The second ends in the first's RDATA: "nic" lies 12 + 9 + 4 octets of header and question plus 14 behind.
    second = fixed + b"\0\x04" + b"\1b\xc0\x27"
    assert answer.body == first + second
    assert [answer.body[at] & 0xC0 for at in answer.pointers] == [0xC0] * 4


def test_a_cut_before_something_needed_is_truncated() -> None:
    body = Body(names.from_text("example"))
    body.add(AUTHORITY, name_server("example"), signed=False)
    body.add(ADDITIONAL, RRset(names.from_text("a.nic.example"), 1, 172800, (bytes(4),)), signed=False)
    body.add(ADDITIONAL, RRset(names.from_text("b.nic.other"), 1, 172800, (bytes(4),)), signed=False, needed=False)
    answer = body.finish(flags=0, zone=0)
    assert [(cut.ancount, cut.nscount, cut.arcount, cut.truncated) for cut in answer.cuts] == [
        (0, 0, 0, True),
        (0, 2, 0, True),
        (0, 2, 1, False),
        (0, 2, 2, False),
    ]


def test_every_cut_of_every_answer_has_the_sum_and_the_pointers_of_its_octets(compiled: Compiled) -> None:
    for answer in compiled.table.answers():
        for cut in answer.cuts:
            before = [at for at in answer.pointers if at < cut.size]
            assert same_sum(cut.partial_sum, ones_complement_sum(answer.body[: cut.size]))
            assert cut.odd_pointers == sum(at % 2 for at in before)
            assert cut.even_pointers == len(before) - cut.odd_pointers
        assert answer.cuts[0].size == 0
        assert answer.cuts[-1].size == len(answer.body)
        assert not answer.cuts[-1].truncated


@pytest.mark.parametrize("by", [1, 2, 9, 12, 254])
def test_the_sum_of_a_moved_body_follows_from_the_stored_one(compiled: Compiled, by: int) -> None:
    swapped = (by << 8 | by >> 8) & 0xFFFF
    for answer in compiled.table.answers():
        for cut in answer.cuts:
            expected = ones_complement_sum(moved(answer, cut.size, by))
            assert same_sum(cut.partial_sum + cut.even_pointers * by + cut.odd_pointers * swapped, expected)


def test_a_body_at_an_odd_offset_has_the_sum_with_its_octets_swapped(compiled: Compiled) -> None:
    for answer in list(compiled.table.answers())[::17]:
        at_odd = ones_complement_sum(b"\0" + answer.body)
        stored = answer.cuts[-1].partial_sum
        assert same_sum(at_odd, (stored << 8 | stored >> 8) & 0xFFFF)


@given(prefix=st.lists(st.binary(min_size=1, max_size=20), max_size=8), pick=st.integers(min_value=0))
def test_every_cut_of_every_answer_parses_behind_a_longer_qname(
    responder: Responder, compiled: Compiled, prefix: list[bytes], pick: int
) -> None:
    tlds = compiled.root.contents.delegations
    qname = b"".join(bytes((len(label),)) + label for label in prefix) + tlds[pick % len(tlds)]
    for rtype in (1, 43):
        for do in (False, True):
            prepared = responder._answers.find(qname, rtype, do=do)
            question = qname + struct.pack("!HH", rtype, 1)
            query = struct.pack("!6H", 7, 0, 1, 0, 0, 0) + question
            for limit in (len(query), 300, 512, 700, 900, 1232, 65535):
                response = prepared.fitted(query, question, b"", limit - len(query))
                assert len(response) <= max(limit, len(query))
                parsed = dns.message.from_wire(response, ignore_trailing=False)
                for rrset in (*parsed.answer, *parsed.authority, *parsed.additional):
                    owner = rrset.name.to_wire()
                    if rrset.rdtype in (dns.rdatatype.RRSIG, dns.rdatatype.NSEC):
                        continue
                    ours = compiled.root.contents.rrset(owner, rrset.rdtype)
                    assert ours is not None, rrset
                    assert {each.to_digestable() for each in rrset} == set(ours.rdatas)


@pytest.mark.parametrize("by", [0, 1, 17, 254])
def test_every_cut_of_every_prepared_answer_is_the_tables_octets_with_each_pointer_moved(
    responder: Responder, compiled: Compiled, by: int
) -> None:
    cut_behind_a_percent_sign = False
    for _ in responder.put_together():
        pass
    for prepared in responder._answers._prepared.values():
        answer = compiled.table.answer(prepared._at)
        question = bytes(answer.anchor_size + by + 4)
        for cut in answer.cuts[1:]:
            response = prepared.fitted(bytes(12), question, b"opt", cut.size)
            assert response[12 + len(question) :] == moved(answer, cut.size, by) + b"opt"
            cut_behind_a_percent_sign |= len(answer.pointers) > 1 and b"%" in answer.body[: cut.size]
    assert cut_behind_a_percent_sign  # `%` has a meaning of its own where a body is made


def test_targets_are_compression_pointers() -> None:
    assert TARGETS[12] == b"\xc0\x0c"
    assert TARGETS[-1] == b"\xff\xff"
