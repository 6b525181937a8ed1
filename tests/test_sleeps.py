"""Tests wait for the thing itself: a fixed sleep is too short on a busy machine and too long on every other."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.needs import REPOSITORY

JUSTIFIED = {
    "anycast/test_netlink.py::test_a_promise_that_is_not_renewed_lapses_and_one_that_is_does_not":
        "how long the kernel keeps an address",
    "distribution/test_slow_readers.py::test_the_last_messages_reach_who_stops_reading_for_a_while":
        "for how long a client reads nothing",
    "fastpath/test_switchover.py::verdicts": "the kernel's clock is read once in a tick",
    "mesh/clockwork.py::passes": "of the test clock, for which nobody waits",
    "process/test_real_time.py::test_who_sleeps_may_go_on_for_longer": "a sleep is what is tested",
    "secondary/test_decisions.py::test_on_hold_timeout_keep_keeps": "that nothing happens, for two rounds",
    "secondary/test_hostile_primaries.py::trickle": "a primary that sends slowly",
    "secondary/test_service_goes_on.py::kill_loop": "the instant itself is what is drawn",
    "server/test_tcp.py::test_an_idle_connection_is_closed_and_an_active_one_stays": "idle time",
    "system/test_anycast_common_mode.py::"
    "test_two_instances_with_the_same_bad_zone_clock_and_primaries_stay_until_the_hard_limit":
        "that no route goes, for a while",
    "telemetry/test_sums.py::captured": "dnscap looks at its buffer once a second and tells nobody",
    "telemetry/test_sums.py::not_at_midnight": "midnight itself, once a day",
}  # fmt: skip
"""Where time is what is tested: file::function, and why nothing can be waited for instead."""


def fixed_sleeps(source: str) -> Iterator[tuple[str, int]]:
    """Function and line of each sleep that is in no `while` loop of its function, in which it would be a poll.

    Python handed to another process as text counts, and so does a `sleep` that is run to its end.
    """

    def look(node: ast.AST, function: str, polls: bool) -> Iterator[tuple[str, int]]:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                function, polls = node.name, False
            case ast.While():
                polls = True
            case ast.Call(func=ast.Attribute(attr="sleep"), args=[argument]) if not polls:
                if not (isinstance(argument, ast.Constant) and argument.value == 0):
                    yield function, node.lineno
            case ast.Call(func=ast.Attribute(attr="run"), args=[ast.Constant(value="sleep"), *_]):
                yield function, node.lineno
            case ast.Call(func=ast.Attribute(attr="run"), args=[ast.List(elts=[ast.Constant(value="sleep"), *_]), *_]):
                yield function, node.lineno
            case ast.Constant(value=str(text)) if "sleep(" in text and "\n" in text.strip():
                yield function, node.lineno
        for child in ast.iter_child_nodes(node):
            yield from look(child, function, polls)

    return look(ast.parse(source), "", polls=False)


def test_no_test_sleeps_for_a_fixed_time_but_where_time_itself_is_tested() -> None:
    found: dict[str, list[int]] = {}
    for path in sorted((REPOSITORY / "tests").rglob("*.py")):
        source = path.read_text()
        if "sleep" in source and path != Path(__file__).resolve():
            for function, line in fixed_sleeps(source):
                found.setdefault(f"{path.relative_to(REPOSITORY / 'tests')}::{function}", []).append(line)
    assert {name: lines for name, lines in found.items() if name not in JUSTIFIED} == {}
    assert JUSTIFIED.keys() - found.keys() == set(), "these need no justification any more"


def test_what_counts_as_a_fixed_sleep() -> None:
    for source, sleeps in [
        ("def f():\n time.sleep(1)", 1),
        ("async def f():\n await asyncio.sleep(SECONDS)", 1),
        ("for _ in range(9):\n time.sleep(0.1)", 1),
        ("with a:\n if b:\n  self.host.run('sleep', '2')", 1),
        ("subprocess.run(['sleep', '2'], check=True)", 1),
        ("while not f():\n time.sleep(0.1)", 0),
        ("while True:\n def g():\n  time.sleep(0.1)", 1),
        ("asyncio.sleep(0)", 0),
        ("subprocess.Popen(['sleep', '97'])", 0),
        ("there(host, '''\nawait asyncio.sleep(1.2)\nprint()\n''')", 1),
    ]:
        assert len(list(fixed_sleeps(source))) == sleeps, source
