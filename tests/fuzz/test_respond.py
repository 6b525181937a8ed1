"""Invariant: whatever the octets, `respond` returns None or a response that dnspython parses, with the same id.

And: what it returns is what the complete way without shortcuts returns, within the size limit, a response to the
query's opcode, and repeats the question as it was sent or not at all.
"""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import dns.message
import pytest

from rootsrv.answer.compiler import compile_table
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.demo.signed import generate_root
from rootsrv.wire.name import to_text
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.verify import verify, verify_hosts
from tests.conformance import queries
from tests.conformance.corpus import load_cases
from tests.conformance.wire import read_name
from tests.fuzz.messages import mutated

QUICK, LONG = 200_000, 2_000_000
MAX_OCTETS = {Transport.UDP: 1232, Transport.TCP: 65535}
NOW, DAY = 1_780_000_000.0, 86400
SOURCES = (b"\xc0\0\2\1", bytes.fromhex("20010db8000000000000000000000001"))

SETTINGS = {
    "usual": ResponderSettings(nsid=b"site.example", version=b"1", cookies=ServerCookies(bytes(16))),
    "cookies required": ResponderSettings(cookies=ServerCookies(bytes(16)), require_server_cookie=True),
    "bare": ResponderSettings(),
}


@pytest.fixture(scope="module")
def table() -> AnswerTable:
    generated = generate_root(tlds=200, inception=NOW - DAY, expiration=NOW + DAY, algorithm=13, seed=7)
    root = verify(generated.root, TrustAnchors.from_text(generated.trust_anchor), NOW)
    return AnswerTable(compile_table(root, verify_hosts(generated.hosts, root, NOW)))


@pytest.fixture(scope="module")
def seeds(table: AnswerTable) -> list[bytes]:
    """Queries that are well formed, or wrong in a way that somebody thought of."""
    corpus = [case.query for path in Path(queries.__file__).parent.glob("*.txt") for case in load_cases(path)]
    tlds = [to_text(bytes([len(name.label)]) + name.label + b"\0") for name in table.names() if name.label]
    hosts = [to_text(owner.name) for owner in table.owners() if owner.zone]
    assert len(corpus) > 100
    return [*corpus, *queries.generated(tlds, hosts, hosts, 5000)]


class Checked:
    """Parses every response with dnspython, but none twice that can only parse alike.

    Parsing sees the same in two messages whose flags and counts, size of the question and octets behind it are the
    same, once the question is known to be the query's own.
    """

    def __init__(self) -> None:
        self._forms: set[tuple[bytes, int, bytes]] = set()
        self.responses = 0

    @property
    def parsed(self) -> int:
        """How many differed."""
        return len(self._forms)

    def check(self, query: bytes, response: bytes, limit: int) -> None:
        self.responses += 1
        assert response[:2] == query[:2]
        assert response[2] & 0xF8 == 0x80 | query[2] & 0x78
        assert len(response) <= limit
        (qdcount,) = struct.unpack_from("!H", response, 4)
        end = 12
        if qdcount:
            assert qdcount == 1
            _, end = read_name(response, 12, {})
            end += 4
            assert response[12:end] == query[12:end]
        form = (response[2:12], end, response[end:])
        if form not in self._forms:
            # keyring False: a TSIG is parsed and not verified (ours to an unknown key has no signature).
            dns.message.from_wire(response, keyring=False)
            self._forms.add(form)


def fuzz(table: AnswerTable, seeds: list[bytes], count: int, seed: int, record_property: Callable[..., None]) -> None:
    source = random.Random(seed)
    checked = Checked()
    responders = [Responder(table, settings) for settings in SETTINGS.values()]
    for message in mutated(source, seeds, count):
        responder = source.choice(responders)
        transport = source.choice((Transport.UDP, Transport.UDP, Transport.TCP))
        arguments = (message, source.choice(SOURCES), transport, NOW + source.randrange(4000))
        try:
            response = responder.respond(*arguments)
            assert response == responder.respond_fully(*arguments)
            if response is None:
                assert len(message) < 12 or message[2] & 0x80
            else:
                checked.check(message, response, MAX_OCTETS[transport])
        except Exception as error:
            error.add_note(f"seed {seed}, {transport.name}: {message.hex()}")
            raise
    record_property(
        "summary", f"fuzz: {count} messages, {checked.responses} responses, {checked.parsed} of them of different form"
    )
    assert checked.responses > count // 2


def test_every_message_gets_a_response_that_parses_or_none(
    table: AnswerTable, seeds: list[bytes], record_property: Callable[..., None]
) -> None:
    fuzz(table, seeds, QUICK, 1, record_property)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(2, 6))
def test_every_message_of_many_gets_a_response_that_parses_or_none(
    seed: int, table: AnswerTable, seeds: list[bytes], record_property: Callable[..., None]
) -> None:
    fuzz(table, seeds, LONG // 4, seed, record_property)
