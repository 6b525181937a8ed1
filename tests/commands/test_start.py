"""What a process is started with: a role and a command load what they use, which is most of the time a start takes."""

import subprocess
import sys
from argparse import ArgumentParser

import pytest

from rootsrv.commands import parser

HEAVY = {"cffi", "cryptography", "dns", "email", "numpy", "prometheus_client", "pycparser", "pyroute2", "starlette"}


def _loaded(code: str) -> set[str]:
    told = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], check=True, capture_output=True, text=True
    )
    return set(told.stdout.split())


@pytest.mark.parametrize(
    ("started", "used"),
    [
        ("import rootsrv.server.worker", set()),
        ("import rootsrv.roles.run, rootsrv.commands.parser", set()),
        ("import rootsrv.roles.serve", set()),
        ("import rootsrv.roles.maintain", {"cryptography", "dns", "email"}),
        ("import rootsrv.roles.report", {"cryptography", "dns", "email", "prometheus_client"}),
        ("import rootsrv.roles.capture", {"cryptography", "dns", "email", "numpy"}),
    ],
)
def test_a_role_loads_what_it_uses(started: str, used: set[str]) -> None:
    assert HEAVY & _loaded(started) <= used


def test_a_worker_knows_no_configuration_file() -> None:
    assert "rootsrv.config.file" not in _loaded("import rootsrv.server.worker")


@pytest.mark.parametrize("command", ["status", "drain", "reload", "block", "top", "zone list", "run", "doctor"])
def test_a_command_loads_what_it_uses(command: str) -> None:
    # Its own module alone, and what that shares with others.
    told = _loaded(f"from rootsrv.commands.parser import parser\nparser({command.split()!r})")
    assert not HEAVY & told
    assert not {f"rootsrv.commands.{each}" for each in ("probe", "setup", "demo", "fleet", "hyperlocal")} & told


def test_what_is_asked_for_is_found_as_among_all() -> None:
    assert list(parser._COMMANDS) == _names(parser.parser())
    assert list(parser._ZONE_COMMANDS) == _names(_below(parser.parser(), "zone"))
    for name in parser._COMMANDS:
        assert name in _names(parser.parser([name]))
        assert _below(parser.parser([name]), name).format_help() == _below(parser.parser(), name).format_help()
    for name in parser._ZONE_COMMANDS:
        assert name in _names(_below(parser.parser(["zone", name]), "zone"))


@pytest.mark.parametrize("nothing", [[], [""], ["--help"], ["no-such-command"], ["zone"], ["zone", "no-such"]])
def test_what_is_no_command_is_looked_for_among_all(nothing: list[str]) -> None:
    found = parser.parser(nothing)
    if nothing[:1] == ["zone"]:
        assert _names(_below(found, "zone")) == list(parser._ZONE_COMMANDS)
    else:
        assert _names(found) == list(parser._COMMANDS)


def _choices(of: ArgumentParser) -> dict[str, ArgumentParser]:
    assert of._subparsers is not None
    found = of._subparsers._group_actions[0].choices
    assert isinstance(found, dict)
    return found


def _names(of: ArgumentParser) -> list[str]:
    return list(_choices(of))


def _below(of: ArgumentParser, name: str) -> ArgumentParser:
    return _choices(of)[name]
