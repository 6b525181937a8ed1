"""Programs that are not ours see the same server as our engines do; how far apart they are, the benchmark says."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from bench import compare, independent, zones
from bench.subjects import SUBJECTS
from tests.needs import require_root, require_tool

CORES = sorted(os.sched_getaffinity(0))
OPTIONS = compare.Options(subjects=(), queries=1000, engine="socket", generator_cpu=CORES[0], server_cpu=CORES[-1])


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[compare.Comparison, compare.Comparison]]:
    """Two wires; the first with rootsrv at work."""
    require_root()
    for tool in ("ip", "ethtool", "nsenter", "taskset"):
        require_tool(tool)
    served = zones.generated(tmp_path_factory.mktemp("zones"), tlds=40)
    with contextlib.ExitStack() as stack:
        first, second = (compare.Comparison(served, OPTIONS, stack) for _ in range(2))
        stack.enter_context(first.serving(SUBJECTS["rootsrv"], 700))
        yield first, second


@pytest.mark.long
def test_dnsperf_and_the_socket_engine_see_the_same_server(
    wires: tuple[compare.Comparison, compare.Comparison],
) -> None:
    require_tool("dnsperf")

    found = independent.beside_dnsperf(wires[0], turns=1)

    assert min(found.theirs, found.ours) > 100
    assert 1 / 5 < found.ratio < 5


@pytest.mark.long
def test_kxdpgun_and_our_generator_see_the_same_server(wires: tuple[compare.Comparison, compare.Comparison]) -> None:
    require_tool("kxdpgun")

    found = independent.beside_kxdpgun(*wires, SUBJECTS["rootsrv"], 700, rate=2000, turns=1)

    assert min(found.theirs, found.ours) > 100
    assert 1 / 5 < found.ratio < 5


def test_a_program_that_is_not_there_is_named(
    wires: tuple[compare.Comparison, compare.Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.independent.shutil.which", lambda *_, **__: None)

    with pytest.raises(independent.ToolFailed, match="dnsperf is not installed"):
        independent.beside_dnsperf(wires[0], turns=1)


@pytest.mark.parametrize(("ratio", "good"), [(1.0, True), (0.86, True), (1.16, False), (0.84, False)])
def test_within_15_per_cent_is_agreement(ratio: float, good: bool) -> None:
    assert independent.Agreement(ratio, 1.0, ratio).good == good
