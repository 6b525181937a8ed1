"""A root of another shape and signed hosts: the kernel answers as the Responder does, or passes."""

from collections.abc import Iterator

import pytest

from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import AnswerTable
from rootsrv.demo.sign import sign_root
from rootsrv.demo.signed import generate_root
from rootsrv.fastpath.layout import Reason
from rootsrv.wire.name import from_text
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import RRset
from rootsrv.zone.verify import verify, verify_hosts
from tests.fastpath.conftest import (
    DAY,
    NOW,
    Hook,
    InKernel,
    in_kernel,
    message,
    opt,
    wire,
)
from tests.zone.altered import with_rrset

NEW_TYPE = 65280
QTYPES = (1, 2, 6, 16, 28, 43, 46, 47, 48, 50, 255, NEW_TYPE)


@pytest.fixture(scope="module")
def changed() -> Iterator[InKernel]:
    generated = generate_root(tlds=20, inception=NOW - DAY, expiration=NOW + 13 * DAY, algorithm=13, seed=9)
    added = [RRset(from_text(owner), NEW_TYPE, 86400, (b"\1\2\3",)) for owner in ("com.", "org.", ".")]
    root = verify(
        sign_root(with_rrset(generated.root, *added), generated.signing),
        TrustAnchors.from_text(generated.trust_anchor),
        NOW,
    )
    hosts = verify_hosts(sign_root(generated.hosts, generated.signing), root, NOW)
    with in_kernel(AnswerTable(compile_table(root, hosts))) as made:
        yield made


@pytest.mark.parametrize("do", [False, True], ids=["plain", "DO"])
def test_the_kernel_answers_as_the_responder_or_passes(changed: InKernel, hook: Hook, do: bool) -> None:
    hosts = (b"root-servers", b"net")
    qnames = [(), (b"com",), (b"org",), (b"www", b"com"), (b"nosuch",), hosts]
    qnames += [(bytes((letter,)), *hosts) for letter in b"abm"]
    for qname in qnames:
        for number, qtype in enumerate(QTYPES):
            for size in (512, 1232):
                query = message(wire(*qname), qtype, opt=opt(size, do=do))
                family = 4 if number % 2 else 6
                response = changed.ask(hook, query, family)
                if qname[-2:] == hosts and qtype == 43:
                    assert response is Reason.HOST_ZONE  # at the apex it is the parent's side
                else:
                    assert response == changed.expected(query, family), (qname, qtype)
    for qname in ((b"x", *hosts), (b"x", b"a", *hosts)):
        assert changed.ask(hook, message(wire(*qname), 1, opt=opt(do=do))) is Reason.HOST_ZONE
