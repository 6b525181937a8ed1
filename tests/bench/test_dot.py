"""`python -m bench dot`: every engine answers in every manner."""

from pathlib import Path

import pytest

from bench.cli import main
from bench.dot import MANNERS
from bench.dot_engine import ENGINES
from tests.needs import require_root, require_tool


def test_each_server_and_each_engine_alone_has_a_figure_in_each_manner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_root()
    require_tool("nsd")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert main(["dot", "--rounds", "1", "--handshakes", "3", "--queries", "512"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows[-len(ENGINES) :]] == [f"{engine} alone" for engine in ENGINES]
    assert all(len(row) == 1 + len(MANNERS) and min(map(float, row[1:])) > 0 for row in rows)
