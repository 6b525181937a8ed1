"""Of a zone beyond any that was seen the kernel answers as the Responder does what it can hold, and passes the rest."""

from collections import Counter
from collections.abc import Iterator

import pytest

from rootsrv.answer.compiler import compile_table
from rootsrv.answer.responder import ResponderSettings
from rootsrv.answer.table import AnswerTable
from rootsrv.demo import generate
from rootsrv.fastpath.layout import Reason
from rootsrv.fastpath.self_test import run_self_test
from rootsrv.zone.verify import accept_unverified
from tests.answer.large import TLD, with_name_servers
from tests.fastpath.conftest import NOW, SERVICE, Hook, InKernel, in_kernel, message, opt, wire

LARGEST = ResponderSettings(max_udp_response_octets=3000)


@pytest.fixture(scope="module")
def large() -> Iterator[InKernel]:
    """A zone with one TLD of 130 name servers below other TLDs."""
    zone = with_name_servers(generate.root_contents(serial=2026112101, tlds=20, seed=6), 130)
    with in_kernel(AnswerTable(compile_table(accept_unverified(zone, NOW))), LARGEST) as made:
        yield made


def test_every_offered_size_is_answered_alike_or_passed(large: InKernel, hook: Hook) -> None:
    large.configure(LARGEST)
    outcomes: Counter[str] = Counter()
    for number, offered in enumerate(range(512, 3073, 32)):
        family = 4 if number % 2 else 6
        for prefix in ((), (b"www",), (b"a" * 63, b"b" * 62)):
            query = message(wire(*prefix, TLD[1:-1]), 1, opt=opt(offered))
            response = large.ask(hook, query, family)
            if isinstance(response, Reason):
                assert response is Reason.TABLE
                outcomes["passed"] += 1
                continue
            assert response == large.expected(query, family)
            outcomes["answered"] += 1
    assert outcomes["answered"] > 0


def test_its_self_test_passes(large: InKernel, hook: Hook) -> None:
    result = run_self_test(
        large.program, large.table, large.responder, tuple(SERVICE.values()), 53, is_xdp=hook.name == "xdp"
    )
    assert result.passed, str(result)
