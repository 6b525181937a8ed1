"""The corpus, and the queries of the differential run, put to the fast path: it answers as all others do, or passes."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from rootsrv.answer.table import AnswerTable
from rootsrv.fastpath.layout import Reason
from tests.conformance import queries
from tests.conformance.conftest import CORPUS_SETTINGS, VALID_AT
from tests.conformance.corpus import Case, Served, mismatches
from tests.conformance.test_conformance import with_transport
from tests.conformance.wire import parse, show
from tests.fastpath.conftest import HOOKS, Hook, InKernel, in_kernel

GENERATED = 5_000


@pytest.fixture(scope="module")
def kernel(table: AnswerTable) -> Iterator[InKernel]:
    """The program with the genuine table."""
    with in_kernel(table, CORPUS_SETTINGS, now=VALID_AT) as loaded:
        loaded.now = VALID_AT
        yield loaded


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("hook", HOOKS, ids=str)
@pytest.mark.parametrize("case", with_transport("udp"), ids=str)
def test_the_kernel_answers_as_the_corpus_says_or_passes(
    case: Case, hook: Hook, family: int, kernel: InKernel, served: Served
) -> None:
    response = kernel.ask(hook, case.query, family)
    if not isinstance(response, Reason):
        message = parse(response)
        assert mismatches(case, message, served) == [], show(message)


@pytest.mark.parametrize("hook", HOOKS, ids=str)
def test_every_tld_and_5000_queries_are_answered_as_by_the_responder(
    hook: Hook, kernel: InKernel, served: Served, record_property: Callable[[str, object], None]
) -> None:
    tlds = served.root.delegations
    asked = [
        *queries.of_every_tld(tlds),
        *queries.generated(tlds, served.hosts.owners, served.root.glue_owners, GENERATED),
    ]
    counts: Counter[str] = Counter()
    for number, query in enumerate(asked):
        family = 4 + number % 2 * 2
        response = kernel.ask(hook, query, family)
        if isinstance(response, Reason):
            counts[response.name.lower()] += 1
        else:
            counts["answered"] += 1
            assert response == kernel.expected(query, family), query.hex()
    told = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    record_property("summary", f"in the kernel ({hook}): {told}")
    assert counts["answered"] > 0.9 * len(asked)
