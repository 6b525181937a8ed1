"""Invariant: whatever the octets, `respond` gives what `respond_fully` gives, and never raises."""

import gc
import struct
import weakref

import dns.message
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rootsrv.answer import prepared
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.responder import Responder, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.wire.codes import NXDOMAIN
from tests.answer.conftest import NOW, SETTINGS, Compiled

LABELS = st.one_of(
    st.sampled_from([b"com", b"CoM", b"net", b"root-servers", b"a", b"m", b"arpa", b"nosuch", b"\0", b"\0\0", b"zz"]),
    st.binary(min_size=1, max_size=63),
)
NAMES = st.one_of(
    st.lists(LABELS, max_size=6).map(lambda found: b"".join(bytes((len(each),)) + each for each in found) + b"\0"),
    st.binary(max_size=40),
)
OPTIONS = st.lists(
    st.tuples(st.sampled_from([3, 10, 11, 12, 15, 19, 65001]), st.sampled_from([b"", bytes(8), bytes(24), b"\1"])),
    max_size=3,
).map(lambda found: b"".join(struct.pack("!HH", code, len(data)) + data for code, data in found))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Queries, most of them good."""
    flags = draw(st.sampled_from([0, 0x100, 0x10, 0x120, 0x200, 0x400, 0x2000, 0x8000]))
    qtype = draw(st.sampled_from([1, 2, 6, 28, 43, 46, 47, 48, 63, 255, 251, 252, 41, 250, 0, 65535]))
    qclass = draw(st.sampled_from([1, 1, 1, 1, 3, 255]))
    opt = b""
    if draw(st.booleans()):
        options = draw(OPTIONS)
        size = draw(st.sampled_from([0, 511, 512, 700, 1232, 4096, 65535]))
        fields = (0, 41, size, 0, draw(st.sampled_from([0, 0, 0, 1])), draw(st.sampled_from([0, 0x8000, 0xFFFF])))
        opt = struct.pack("!BHHBBHH", *fields, len(options)) + options
    arcount = draw(st.sampled_from([bool(opt)] * 9 + [1, 2]))
    header = struct.pack("!6H", draw(st.integers(0, 65535)), flags, 1, 0, 0, arcount)
    return header + draw(NAMES) + struct.pack("!HH", qtype, qclass) + opt + draw(st.sampled_from([b""] * 9 + [b"\0"]))


@given(octets=st.one_of(messages(), st.binary(max_size=80)), transport=st.sampled_from(Transport))
@example(octets=bytes(12), transport=Transport.UDP)
@example(octets=b"\0\0\1\0\0\1\0\0\0\0\0\1" + b"\1" * 200, transport=Transport.UDP)
@example(octets=b"\0\0\1\0\0\1\0\0\0\0\0\0" + b"\1", transport=Transport.UDP)
def test_the_shortcut_never_differs(responder: Responder, octets: bytes, transport: Transport) -> None:
    response = responder.respond(octets, bytes(16), transport, NOW)
    assert response == responder.respond_fully(octets, bytes(16), transport, NOW)
    if response is not None:
        assert response[:2] == octets[:2]
        assert transport or len(response) <= 1232
        dns.message.from_wire(response, ignore_trailing=False, keyring=False)


@pytest.fixture(scope="module")
def alone(compiled: Compiled) -> Responder:
    """On the table of a root without its host zone."""
    return Responder(AnswerTable(compile_table(compiled.root)), SETTINGS)


@given(octets=messages(), transport=st.sampled_from(Transport))
@example(octets=b"\0\0\1\0\0\1\0\0\0\0\0\0\0\0\x2b\0\1", transport=Transport.UDP)
def test_nor_does_it_without_a_host_zone(alone: Responder, octets: bytes, transport: Transport) -> None:
    source = b"\xc0\0\2\1"
    expected = alone.respond_fully(octets, source, transport, NOW)
    assert alone.respond(octets, source, transport, NOW) == expected
    if octets[12:17] == b"\0\0\x2b\0\1" and expected is not None and not expected[2] & 0x78:
        assert expected[3] & 15 != NXDOMAIN, "the root exists"


def test_a_flood_of_different_tails_does_not_grow_without_bound(responder: Responder) -> None:
    closure = dict(
        zip(responder._fast.__code__.co_freevars, responder._fast.__closure__ or (), strict=True)  # type: ignore[attr-defined]
    )
    tails = closure["known_tail"].cell_contents.__self__
    for number in range(20_000):
        fields = (0, 41, number & 0xFFFF, 0, 0, 0x8000 | number >> 4 & 0x7FFF)
        opt = struct.pack("!BHHBBHH", *fields, 0)
        responder.respond(b"\0\0\0\0\0\1\0\0\0\0\0\1\3com\0\0\1\0\1" + opt, bytes(4), Transport.UDP, NOW)
    assert len(tails) <= 8192 + 1000


def test_cuts_that_are_kept_do_not_grow_without_bound_and_stay_right(
    responder: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_CUTS_KEPT", 8)
    kept = responder._answers.nxdomain._shared.cuts
    kept.clear()
    labels = [label for label in responder._answers.delegations if label]
    for number in range(200):
        label = labels[number % len(labels)]
        prefix = b"\x01x" * (number % 60)
        question = prefix + bytes((len(label),)) + label + b"\0\0\1\0\1"
        opt = struct.pack("!BHHBBHH", 0, 41, 512 + number % 7, 0, 0, 0x8000, 0)
        octets = b"\0\7\0\0\0\1\0\0\0\0\0\1" + question + opt
        response = responder.respond(octets, bytes(4), Transport.UDP, NOW)
        assert response is not None
        assert len(response) <= 512 + number % 7
        parsed = dns.message.from_wire(response)
        assert parsed.question[0].name.to_wire() == question[:-4]
        assert len(kept) <= 8
        assert len(kept._older) <= 8


def queries_about_every_name(compiled: Compiled) -> list[bytes]:
    """Delegations and what is denied in front of, between and behind them, of each kind of room and options."""
    labels = [info.label for info in compiled.table.names() if info.label]
    asked = [*labels, *(label + b"\0" for label in labels), *(bytes((octet,)) for octet in range(256))]
    found = []
    for number, label in enumerate(asked):
        for qtype, size, flags in ((1, 1232, 0x8000), (43, 1232, 0x8000), (2, 4096, 0), (28, 512, 0x8000)):
            option = struct.pack("!HH", 19, 0) if number % 3 == 0 else b""  # ZONEVERSION
            opt = struct.pack("!BHHBBHH", 0, 41, size, 0, 0, flags, len(option)) + option
            prefix = b"\1x" * ((number + qtype) % 3)
            qname = prefix + bytes((len(label),)) + label + b"\0"
            found.append(b"\0\7\0\0\0\1\0\0\0\0\0\1" + qname + struct.pack("!HH", qtype, 1) + opt)
    return found


@pytest.mark.parametrize("transport", Transport)
@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_an_answer_is_the_same_before_at_and_after_it_was_prepared(
    compiled: Compiled, transport: Transport, backwards: bool
) -> None:
    queries = queries_about_every_name(compiled)[:: -1 if backwards else 1]
    prepared_before, fresh = Responder(compiled.table, SETTINGS), Responder(compiled.table, SETTINGS)
    steps = sum(1 for _ in prepared_before.put_together())
    assert steps == len(prepared_before._answers.labels)
    expected = [prepared_before.respond_fully(each, bytes(4), transport, NOW) for each in queries]
    for _ in ("prepared when asked for", "prepared"):
        assert [fresh.respond(each, bytes(4), transport, NOW) for each in queries] == expected
    assert [prepared_before.respond(each, bytes(4), transport, NOW) for each in queries] == expected


def test_what_is_put_together_needs_no_second_look_and_nothing_is_prepared_that_nobody_asked_for(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    responder = Responder(compiled.table, SETTINGS)
    few = len(responder._answers._prepared)
    assert few < compiled.table.answer_count / 4
    for _ in responder.put_together():
        pass
    assert len(responder._answers._prepared) == compiled.table.answer_count
    monkeypatch.setattr(prepared.PreparedAnswers, "_prepare_delegation", None)
    monkeypatch.setattr(prepared.PreparedAnswers, "_prepare_denial", None)
    monkeypatch.setattr(prepared._NotYet, "fitted", None)
    for octets in queries_about_every_name(compiled):
        assert responder.respond(octets, bytes(4), Transport.UDP, NOW)


def test_a_responder_that_is_half_prepared_is_taken_apart_without_a_collection(compiled: Compiled) -> None:
    gc.collect()
    gc.disable()
    try:
        responder = Responder(compiled.table, SETTINGS)
        for _, octets in zip(range(40), queries_about_every_name(compiled), strict=False):
            responder.respond(octets, bytes(4), Transport.UDP, NOW)
        answers = weakref.ref(responder._answers)
        for _ in responder.take_apart():
            pass
        del responder
        assert answers() is None
    finally:
        gc.enable()
