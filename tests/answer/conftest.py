"""A small generated root, verified and compiled, and its Responder."""

from dataclasses import dataclass

import pytest

from rootsrv.answer.compiler import compile_table
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, ResponderSettings
from rootsrv.answer.table import AnswerTable
from rootsrv.demo.signed import GeneratedRoot, generate_root
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.verify import VerifiedZone, verify, verify_hosts

NOW = 1_780_000_000.0
DAY = 86400
SECRET = bytes(range(16))

SETTINGS = ResponderSettings(nsid=b"lax1a.example", version=b"rootsrv", cookies=ServerCookies(SECRET))


@dataclass(frozen=True)
class Compiled:
    """A zone on every step of its way."""

    generated: GeneratedRoot
    root: VerifiedZone
    hosts: VerifiedZone
    octets: bytes
    table: AnswerTable


@pytest.fixture(scope="session")
def compiled() -> Compiled:
    generated = generate_root(tlds=120, inception=NOW - DAY, expiration=NOW + 13 * DAY, algorithm=8, seed=4)
    root = verify(generated.root, TrustAnchors.from_text(generated.trust_anchor), NOW)
    hosts = verify_hosts(generated.hosts, root, NOW)
    octets = compile_table(root, hosts)
    return Compiled(generated, root, hosts, octets, AnswerTable(octets))


@pytest.fixture(scope="session")
def responder(compiled: Compiled) -> Responder:
    return Responder(compiled.table, SETTINGS)
