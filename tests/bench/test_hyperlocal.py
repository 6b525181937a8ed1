"""What `rootsrv hyperlocal` takes of memory, as the benchmark measures it."""

import subprocess
import sys
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
    for way, found in hyperlocal.run(zones.generated(tmp_path), repeats=1)["ways"].items():
        assert max(found["first_octets"], found["kept_octets"]) <= AT_REST_OCTETS, way


@pytest.mark.parametrize(
    ("modules", "verifies"),
    [
        ("rootsrv.roles.hyperlocal, rootsrv.hyperlocal.answering, rootsrv.hyperlocal.relay", False),
        ("rootsrv.roles.maintain", True),
        ("rootsrv.roles.localroot", True),
    ],
    ids=["hyperlocal", "maintain", "localroot"],
)
def test_what_verifies_is_loaded_where_each_fork_would_load_it_again_and_not_where_it_lies_idle(
    modules: str, verifies: bool
) -> None:
    code = f"import sys, {modules}; print('cryptography.hazmat.primitives.asymmetric.ec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{verifies}\n"
