"""What `rootsrv hyperlocal` takes of memory, as the benchmark measures it."""

from pathlib import Path

import pytest

from bench import hyperlocal, zones
from tests.needs import require_tool

AT_REST_OCTETS = 60e6


def test_each_way_is_started_twice_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_tool("nsd")
    monkeypatch.setattr(hyperlocal, "SETTLE_SECONDS", 0.0)
    figures = hyperlocal.run(zones.generated(tmp_path, tlds=40), repeats=1)
    assert list(figures["ways"]) == list(hyperlocal.WAYS)
    for found in figures["ways"].values():
        assert min(found.values()) > 0
        for start in ("first", "kept"):
            assert found[f"{start}_peak_octets"] >= found[f"{start}_octets"] > 10e6
    assert "| from the kept zone |" in hyperlocal.to_markdown(figures)


@pytest.mark.long
def test_at_rest_it_takes_no_more_than_it_promises(tmp_path: Path) -> None:
    require_tool("nsd")
    found = hyperlocal.run(zones.generated(tmp_path), repeats=1)["ways"]["as a primary"]
    assert max(found["first_octets"], found["kept_octets"]) <= AT_REST_OCTETS
