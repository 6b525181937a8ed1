"""What C-DNS says of a response is what the response says, whatever was asked."""

import itertools
import struct
from collections.abc import Iterator

import dns.message
import pytest

from rootsrv.answer.responder import Responder, Transport
from rootsrv.capture.facts import INLINE_OCTETS, Kind
from rootsrv.capture.messages import CapturedMessage, fact_of
from rootsrv.wire.codes import FORMERR
from tests.answer.conftest import NOW, compiled, responder  # noqa: F401  (fixtures)
from tests.capture.cdns_decoder import decode
from tests.capture.test_cdns import BOTH, Writer, written
from tests.fastpath.conftest import message, opt, option, wire

OPTS = {
    "none": b"", "plain": opt(), "no DO": opt(do=False), "version 1": opt(ttl=1 << 16), "RCODE": opt(ttl=0x23 << 24),
    "cookie": opt(options=option(10, bytes(8))), "server cookie": opt(options=option(10, bytes(16))),
    "malformed cookie": opt(options=option(10, bytes(9))), "no size": opt(0), "greatest size": opt(65535),
}  # fmt: skip
KINDS = [(1, 1), (255, 1), (252, 1), (251, 1), (16, 3), (1, 255), (0, 0), (0xFFFF, 0xFFFF)]
NAMES = [wire(), wire(b"com"), wire(b"no", b"such"), wire(b"version", b"bind"), wire(b"x" * (INLINE_OCTETS + 1))]
FLAGS = [0, 0x0100, 0x0010, 0x0020, 0x0640, 0x000F, *(opcode << 11 for opcode in range(1, 16)), 0x8000, 0x8400]


def soa(refresh: int) -> bytes:
    return wire() + struct.pack("!HHIH2x5I", 6, 1, 0, 22, 1, refresh, 900, 604800, 86400)


def text(octets: bytes) -> bytes:
    return wire() + struct.pack("!HHIH", 16, 1, 0, 1 + len(octets)) + bytes([len(octets)]) + octets


def tsig() -> bytes:
    rdata = wire(b"hmac-sha256") + bytes(6) + struct.pack("!5H", 300, 0, 1, 0, 0)
    return wire(b"key") + struct.pack("!HHIH", 250, 255, 0, len(rdata)) + rdata


def queries(found: bytes) -> Iterator[bytes]:
    """With the OPT record *found*, or without one if it is empty."""
    for name, (qtype, qclass), flags in itertools.product(NAMES, KINDS, FLAGS):
        yield message(name, qtype, opt=found, flags=flags, qclass=qclass)
    for flags in FLAGS:
        yield struct.pack("!6H", 1, flags, 0, 0, 0, bool(found)) + found
    for refresh in (1800, 41, 41 << 8, 41 << 16):  # what looks like the head of an OPT record, before there is one
        yield (
            struct.pack("!6H", 1, 0, 1, 0, 1, bool(found)) + wire() + struct.pack("!HH", 251, 1) + soa(refresh) + found
        )
    ixfr = struct.pack("!6H", 1, 0, 1, 0, 0, 1 + bool(found)) + wire(b"com") + struct.pack("!HH", 1, 1)
    yield ixfr + text(b"\0\0\x29\xff\xff\0\0\0\0\0\4\0\x0a\0\0") + found
    yield ixfr + found + tsig()


@BOTH
@pytest.mark.parametrize("has", OPTS)
def test_a_signature_says_what_the_response_has(
    responder: Responder,  # noqa: F811
    writer: Writer,
    has: str,
) -> None:
    asked = list(queries(OPTS[has]))
    answers = [responder.respond(each, bytes([192, 0, 2, 1]), Transport.UDP, NOW) for each in asked]
    found = [
        fact_of(
            CapturedMessage(
                number * 1000, 4, 0, bytes(16), 40_000, bytes(16), 53, len(answer or b""), (answer or b"")[2:18], octets
            )
        )
        for number, (octets, answer) in enumerate(zip(asked, answers, strict=True))
    ]
    (block,) = decode(written(writer, found)).blocks
    items, signatures = iter(block.get(3, [])), block[2].get(3, [])
    for octets, answer, fact in zip(asked, answers, found, strict=True):
        is_malformed = answer is None or answer[3] & 15 == FORMERR
        if octets[2] & 0x78 == 0 or answer is None:  # of other opcodes all that is well-formed gets NOTIMP
            assert (fact.kind == Kind.MALFORMED) == is_malformed, octets
        if fact.kind == Kind.MALFORMED:
            continue
        item = next(items)
        signature = signatures[item[4]]
        assert answer is not None
        response = dns.message.from_wire(answer, keyring=False)
        assert item[9] == len(answer)
        assert bool(signature[4] & 8) == (response.edns >= 0), octets
        assert bool(signature[4] & 32) == (not response.question), octets
        assert signature[16] == response.rcode(), octets
        assert signature[6] >> 8 & 0x7F == response.flags >> 4 & 0x7F, octets
        if OPTS[has]:
            assert signature[14] == int.from_bytes(OPTS[has][3:5]), octets
    assert next(items, None) is None
