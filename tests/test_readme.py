"""README: short, its picture drawn from the house, its figures those of bench/results, its demo as the demo is."""

import re
from pathlib import Path

import pytest

from bench import pictures
from rootsrv.commands import demo_tour, demo_watch
from rootsrv.page.layout import COUNTER_WORDS
from tests.needs import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
RESULTS = REPOSITORY / "bench" / "results"


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 120


def test_the_picture_is_the_one_that_is_drawn() -> None:
    assert pictures.PIPELINE.read_text() == pictures.pipeline()


def test_a_picture_of_a_file_that_is_gone_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pictures.BOXES, "verify", pictures.Box(0, 0, "verified", "", "zone/belief.py"))
    with pytest.raises(FileNotFoundError, match=r"rootsrv/zone/belief\.py"):
        pictures.pipeline()


def rates(name: str) -> dict[str, str]:
    """Server → its highest rate of which 99.9 % were answered, as the table of a result has it."""
    (table,) = re.findall(r"^\| server \| ≥ 99\.9 % .*\n.*\n((?:\|.*\n)+)", (RESULTS / name).read_text(), re.MULTILINE)
    rows = [line.split("|") for line in table.splitlines()]
    return {re.sub(r" [\d.]+$", "", row[1].strip()): row[2].strip() for row in rows}


def test_the_figures_are_those_of_the_benchmarks() -> None:
    kernel, sockets = rates("compare-kernel.md"), rates("compare.md")
    told = " ".join(README.split())
    assert f"rootsrv answers {kernel['rootsrv XDP']}, NSD {kernel['NSD']}, Knot XDP {kernel['Knot XDP']}." in told
    assert f"Python answers {sockets['rootsrv']} where NSD answers {sockets['NSD']}" in told
    unit = " k"
    bars = [kernel[each].removesuffix(unit) for each in ("rootsrv XDP", "NSD", "Knot XDP")]
    assert f"![{bars[0]} k, {bars[1]} k and {bars[2]} k queries a second]" in README
    figures = set(re.findall(r"[\d.]+ k\b", README))
    assert figures == {
        *(kernel[each] for each in ("rootsrv XDP", "NSD", "Knot XDP")),
        sockets["rootsrv"],
        sockets["NSD"],
    }


def test_what_it_shows_of_the_demo_is_what_the_demo_says() -> None:
    shape = re.sub(r"\d+", "N", demo_watch.line(1, 1.0, [0] * COUNTER_WORDS, [0] * COUNTER_WORDS, kernel_is_there=True))
    lines = re.findall(r"^    [\d:]{8}  (serial .*)$", README, re.MULTILINE)
    assert lines
    assert {re.sub(r"\d+", "N", each) for each in lines} == {shape}
    source = re.sub(r"\s+", " ", Path(demo_tour.__file__).read_text())
    for said in (
        "is offered; its signatures are good, one bit of its ZONEMD is not",
        "is answered on",
        "tour: refused: ",
    ):
        assert said in README
        assert said in source
