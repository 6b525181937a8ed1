"""Padding: to 468 octets, for those that pad, and never anything else."""

import struct

import dns.edns
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.dot.padding import BLOCK_OCTETS, PADDING, asks_for_padding, padded
from tests.server.live import tables

SOURCE = b"\xc0\0\2\1"
NAMES = (".", "com.", "a.b.example.", "nosuchtld.", "x" * 63 + "." + "y" * 63 + ".nosuch.")


@pytest.fixture(scope="module")
def responder() -> Responder:
    return Responder(AnswerTable(tables()[0]), ResponderSettings(nsid=b"\0\0\x29\4\xd0\0\0nsid"))


def asked(name: str, padding: bytes | None, *more: dns.edns.Option) -> bytes:
    options = [*more, *([] if padding is None else [dns.edns.GenericOption(PADDING, padding)])]
    return dns.message.make_query(name, "NS", use_edns=0, want_dnssec=True, options=options).to_wire()


def option(code: int, octets: bytes = b"") -> dns.edns.Option:
    return dns.edns.GenericOption(code, octets)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", [b"", bytes(50), bytes(300)])
def test_a_query_with_padding_is_answered_in_blocks_of_468_octets(
    responder: Responder, name: str, padding: bytes
) -> None:
    query = asked(name, padding, option(3), option(11), option(10, bytes(8)))
    plain = responder.respond(query, SOURCE, Transport.TCP, 0.0)
    response = padded(query, plain)
    assert plain is not None
    assert response is not None
    assert len(response) % BLOCK_OCTETS == 0
    assert len(plain) + 4 <= len(response) < len(plain) + 4 + BLOCK_OCTETS

    message = dns.message.from_wire(response)
    (found,) = (each for each in message.options if each.otype == PADDING)
    assert found.to_wire() == bytes(len(response) - len(plain) - 4)
    message.use_edns(
        0, message.ednsflags, message.payload, options=[each for each in message.options if each.otype != PADDING]
    )
    assert message.options == dns.message.from_wire(plain).options
    assert message.sections == dns.message.from_wire(plain).sections


@pytest.mark.parametrize("name", NAMES)
def test_a_query_without_padding_is_answered_as_over_tcp(responder: Responder, name: str) -> None:
    for query in (
        asked(name, None),
        asked(name, None, option(3), option(10, b"\0\x0c\0\x0c\0\x0c\0\x0c")),
        dns.message.make_query(name, "NS").to_wire(),
    ):
        response = responder.respond(query, SOURCE, Transport.TCP, 0.0)
        assert padded(query, response) == response


def test_what_is_in_a_name_or_behind_another_record_asks_for_nothing() -> None:
    name = b"\x0d\0\x0c\0\0\0\0\x29\0\0\0\0\0\x0c\0"
    assert not asks_for_padding(struct.pack("!6H", 1, 0, 1, 0, 0, 1) + name + b"\0\0\1\0\1")
    assert not asks_for_padding(b"\0" * 5 + b"\1" + bytes(6))
    assert padded(b"\0\x0c", None) is None


def test_a_response_that_would_be_too_long_is_padded_to_what_a_message_may_have() -> None:
    query = asked(".", b"")
    opt = b"\0\0\x29\4\xd0\0\0\0\0\0\0"
    for size in (65_531, 65_532, 65_535):
        response = padded(query, bytes(size - len(opt)) + opt)
        assert response is not None
        assert len(response) == (65_535 if size == 65_531 else size)


@given(st.binary(max_size=200), st.binary(max_size=700))
def test_whatever_the_octets_nothing_is_raised_and_a_response_only_grows(query: bytes, response: bytes) -> None:
    made = padded(query, response)
    assert made is not None
    assert len(made) >= len(response)
    opt = b"\0\0\x29\4\xd0\0\0\0\0" + struct.pack("!H", 4) + b"\0\x0c\0\0"
    whole = padded(struct.pack("!6H", 1, 0, 1, 0, 0, 1) + b"\0\0\1\0\1" + opt + query, response + opt[:-6] + bytes(2))
    assert whole is not None
    assert len(whole) % BLOCK_OCTETS == 0 or len(whole) == len(response) + len(opt) - 4
