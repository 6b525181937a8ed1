"""docs/runbook.md has an entry for every alarm that the program can raise, and for none that it cannot."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from tests.needs import REPOSITORY

RUNBOOK = (REPOSITORY / "docs" / "runbook.md").read_text()


def listed() -> set[str]:
    """What stands in the first column of a table."""
    found = set()
    for line in RUNBOOK.splitlines():
        if line.startswith("|") and not line.startswith(("|--", "| alarm ", "| alert ")):
            found |= set(re.findall(r"`([^`]+)`", line.split("|")[1]))
    return found


@functools.cache
def calls() -> tuple[tuple[Path, ast.Call, str], ...]:
    """Every call in rootsrv/, with the dotted name of what is called."""
    return tuple(_calls())


def _calls() -> Iterator[tuple[Path, ast.Call, str]]:
    for path in sorted((REPOSITORY / "rootsrv").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


# Where the text is made of an argument: the call that gives it, and how the text is then.
INDIRECT = {
    "server/tcp.py": ("self._log_seldom", "{}"),
    "roles/serve.py": ("_descriptor_of", "{} cannot be had"),
    "process/troubles.py": ("Troubles", "{}"),
    "process/held_back.py": ("held_back.watch", "{} address held back"),
}


def raised() -> set[str]:
    found = set()
    indirect = set()
    for path, call, name in calls():
        if name.rpartition(".")[2] != "alarm" or not name.startswith("log."):
            continue
        text = call.args[0]
        if isinstance(text, ast.Constant):
            found.add(str(text.value))
        else:
            indirect.add(str(path.relative_to(REPOSITORY / "rootsrv")))
    assert indirect == set(INDIRECT), "an alarm whose text cannot be listed"
    for giver, form in INDIRECT.values():
        given = [call.args[0] for _, call, name in calls() if f".{name}".endswith(f".{giver.removeprefix('self.')}")]
        assert given, giver
        for each in given:
            assert isinstance(each, ast.Constant), ast.unparse(each)
            found.add(form.format(each.value))
    return found


def test_every_alarm_of_the_log_has_an_entry() -> None:
    alarms = {name for name in listed() if not name.startswith("Rootsrv")}
    assert sorted(raised() - alarms) == []
    assert sorted(alarms - raised()) == []


def test_every_alert_has_an_entry() -> None:
    rules = (REPOSITORY / "deploy" / "prometheus" / "alerts.yml").read_text()
    alerts = set(re.findall(r"alert: (\S+)", rules))
    assert len(alerts) > 20
    assert {name for name in listed() if name.startswith("Rootsrv")} == alerts
