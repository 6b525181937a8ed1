"""deploy/ and docs/ are those of the modules that run, however they were installed."""

import sys
from pathlib import Path

import pytest

import rootsrv
from rootsrv.process import installation
from tests.needs import REPOSITORY

WITNESS = "network/network.conf"


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment, and in it what a wheel brings."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    put(tmp_path / "venv/share/rootsrv/deploy" / WITNESS)
    return tmp_path


def run_from(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootsrv, "__file__", str(put(modules / "rootsrv/__init__.py")))


def test_the_sources_come_before_what_an_editable_installation_copied_once(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_from(environment / "sources", monkeypatch)
    put(environment / "sources/pyproject.toml")
    put(environment / "sources/deploy" / WITNESS)
    assert installation.brought("deploy", WITNESS) == environment / "sources/deploy"


def test_what_lies_beside_the_modules_of_a_wheel_is_of_others(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_packages = environment / "venv/lib/python3/site-packages"
    run_from(site_packages, monkeypatch)
    put(site_packages / "deploy" / WITNESS)
    assert installation.brought("deploy", WITNESS) == environment / "venv/share/rootsrv/deploy"


def test_half_an_installation_has_none(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_from(environment / "elsewhere", monkeypatch)
    assert installation.brought("docs", "runbook.md") is None


def test_here_both_are_the_repositorys() -> None:
    assert installation.brought("deploy", WITNESS) == REPOSITORY / "deploy"
    assert installation.brought("docs", "runbook.md") == REPOSITORY / "docs"
