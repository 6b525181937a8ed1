"""`python -m bench.owner`: the owner's place is what its name says, the tree is the one named, each has its figures."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench import owner, subjects
from bench.compare import Comparison
from tests.needs import REPOSITORY, require_root

pytestmark = pytest.mark.long


def test_the_owner_is_where_the_table_says_and_each_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    monkeypatch.setattr(owner, "MODES", ("tc",))
    seen: list[tuple[set[int], ...]] = []
    figures = owner._figures

    def noted(comparison: Comparison, rate: float, seconds: float) -> dict[str, Any]:
        seen.append(tuple(os.sched_getaffinity(int(task)) for task in os.listdir(f"/proc/{pid[-1]}/task")))
        return figures(comparison, rate, seconds)

    pid: list[int] = []
    owner_of = owner.owner_of

    def found(running: subjects.Running) -> int:
        pid.append(owner_of(running))
        return pid[-1]

    monkeypatch.setattr(owner, "owner_of", found)
    monkeypatch.setattr(owner, "_figures", noted)

    rows = owner.run(seconds=0.5, loads=2, rounds=1, share=0.3)

    server, generator = {1}, {0}
    assert [set(map(frozenset, each)) for each in seen] == [{frozenset(server)}, {frozenset(generator)}] * 2
    assert [row["owner"] for row in rows] == [owner.ON, owner.OFF]
    for row in rows:
        assert len(row["loads"]) == 2
        for load in row["loads"]:
            assert load["sent"] > 1000
            assert load["answered"] > 0
            assert 0 < load["microseconds"]["0.5"] <= load["microseconds"]["0.999"]
    text = owner.to_markdown(
        {"machine": owner.machine.describe(), "share": 0.3, "seconds": 0.5, "loads": 2, "rounds": 1, "rows": rows}
    )
    assert text.count("| tc | ") == 2


def test_a_tree_without_its_program_is_not_measured_as_if_it_were_another(tmp_path: Path) -> None:
    require_root()
    subprocess.run(["git", "archive", "-o", tmp_path / "tree.tar", "HEAD"], cwd=REPOSITORY, check=True)
    (tmp_path / "tree").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "tree.tar", "-C", tmp_path / "tree"], check=True)

    with pytest.raises(subjects.FAILURES, match="BPF program is not built"):
        owner.run(seconds=0.2, loads=1, rounds=1, share=0.3, before=tmp_path / "tree")
