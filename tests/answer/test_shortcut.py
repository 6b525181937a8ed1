"""Invariant: whatever the octets, `respond` gives what `respond_fully` gives, and never raises."""

import struct

import dns.message
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rootsrv.answer import prepared
from rootsrv.answer.responder import Responder, Transport
from tests.answer.conftest import NOW

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
