"""A root of 5,000 TLDs, with signatures of the genuine size, fits into the kernel and is answered as above it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import AnswerTable
from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, SigningKey, sign_root
from rootsrv.demo.signed import generate_keys
from rootsrv.fastpath.program import TABLE_ROOM
from rootsrv.zone.verify import accept_unverified
from tests.fastpath.conftest import (
    NOW,
    Hook,
    InKernel,
    in_kernel,
    message,
    opt,
    wire,
)

TLDS = 5000
OCTETS_PER_TLD = 2000
"""With the name's place among the names: docs/fastpath.md says how many TLDs there is room for."""


@dataclass(frozen=True)
class Quick(SigningKey):
    """Signatures as large as RSA's with 2,048 bits, for nobody to verify: 15,000 right ones take minutes."""

    def sign(self, octets: bytes) -> bytes:
        return hashlib.sha256(octets).digest() * 8


@pytest.fixture(scope="module")
def filled() -> Iterator[InKernel]:
    keys = [Quick(key.private, key.is_sep) for key in generate_keys()]
    signing = Signing(keys=keys, inception=int(NOW) - 86400, expiration=int(NOW) + 86400)
    root = sign_root(generate.root_contents(serial=2026112101, tlds=TLDS, seed=6), signing)
    with in_kernel(AnswerTable(compile_table(accept_unverified(root, NOW))), now=NOW) as made:
        yield made


def test_five_thousand_tlds_fit(filled: InKernel) -> None:
    octets = len(filled.table.octets)
    assert octets / TLDS < OCTETS_PER_TLD
    assert octets < TABLE_ROOM * 0.9


def test_their_answers_are_the_responders(filled: InKernel, hook: Hook) -> None:
    for info in list(filled.table.names())[1::97]:
        for labels, qtype in (((b"www", info.label), 1), ((info.label,), 43), ((info.label[:40] + b"-",), 1)):
            for additional in (b"", opt(1232), opt(1232, do=True)):
                query = message(wire(*labels), qtype, opt=additional)
                assert filled.ask(hook, query, 4) == filled.expected(query, 4)
