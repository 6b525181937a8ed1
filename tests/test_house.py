"""The rules of the house that no other tool checks, and that the rules about skipping really bite."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rootsrv.commands.parser import parser
from tests.conftest import SECONDS
from tests.needs import REPOSITORY

SOURCES = sorted(
    path.relative_to(REPOSITORY)
    for folder in ("rootsrv", "bench", "tests")
    for path in (REPOSITORY / folder).rglob("*.py")
)


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "core", "manager", "misc"}
    assert [path for path in SOURCES if vague & {part.removesuffix(".py") for part in path.parts}] == []


def test_the_bench_needs_nothing_of_the_tests() -> None:
    importing = [
        str(path) for path in SOURCES
        if path.parts[0] == "bench" and re.search(r"^\s*(from|import) tests\b", (REPOSITORY / path).read_text(), re.M)
    ]  # fmt: skip
    assert importing == []


ONE_PLACE = {
    r"SSLContext\(|create_default_context\(": "distribution/tls.py",
    r"random/boot_id": "process/clocks.py",
    r"gethostname\(|\bnodename\b": "process/host_name.py",
    r"\b_?(TYPE_OPT|OPT_TYPE|OPT) *(=|, .*=) *(41\b|.*\b41,)|\\0\\0\\x29": "wire/edns.py",
    r"\b_?(NXDOMAIN|SERVFAIL|REFUSED|FORMERR|NOTIMP|NOTAUTH|BADVERS|BADCOOKIE) *(=|, .*=) *\d": "wire/codes.py",
}
"""What is made, or has its number, in one place of rootsrv."""


@pytest.mark.parametrize("words", ONE_PLACE)
def test_what_is_made_in_one_place_is_made_nowhere_else(words: str) -> None:
    """Contexts for TLS, this boot's name, the OPT record, RCODEs: a second one is soon another one."""
    rooms = (path for path in SOURCES if path.parts[0] == "rootsrv" and "declared" not in path.parts)
    found = [str(path) for path in rooms if re.search(words, (REPOSITORY / path).read_text())]
    assert found == [f"rootsrv/{ONE_PLACE[words]}"]


def opens_in_the_locales_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text and does not say in which encoding."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name in {"read_text", "write_text"}:
        return True
    modes = {each.value for each in call.args if isinstance(each, ast.Constant)} & {"r", "w", "a", "x", "r+", "w+"}
    return name in {"open", "fdopen"} and bool(modes or (isinstance(function, ast.Name) and len(call.args) == 1))


def test_what_is_read_and_written_does_not_depend_on_the_hosts_locale() -> None:
    """All boxes have the same one.  A standard stream (printing.py) is for whoever looks at it, in theirs."""
    found = [
        f"{path}:{node.lineno}"
        for path in SOURCES
        if path.parts[0] == "rootsrv" and path.name != "printing.py"
        for node in ast.walk(ast.parse((REPOSITORY / path).read_text()))
        if isinstance(node, ast.Call) and opens_in_the_locales_encoding(node)
    ]
    assert found == []


LIMITS = {"rootsrv": 400, "bench": 500, "tests": 500}
"""Lines, by folder; a file may have more if a line at its top says why: `# Over 400 lines: …`."""


def size_fault(path: Path, text: str) -> str:
    """Why a file is too long, or gives a reason that it does not need; empty if neither."""
    lines, limit = text.splitlines(), LIMITS[path.parts[0]]
    if len(lines) <= limit and "# Over" not in text:
        return ""
    docstring = ast.parse(text).body[0].end_lineno or 0 if lines else 0
    reason = re.fullmatch(rf"# Over {limit} lines: \w.{{20,}}\.", [*lines, ""][docstring])
    if len(lines) > limit and not reason:
        return f"{path}: {len(lines)} lines, {limit} are the limit, and the line after its docstring gives no reason"
    if len(lines) <= limit and reason:
        return f"{path}: {len(lines)} lines need no reason"
    return ""


def test_no_source_file_has_grown_past_what_one_sitting_reads_without_saying_why() -> None:
    faults = [size_fault(path, (REPOSITORY / path).read_text()) for path in SOURCES]
    assert [fault for fault in faults if fault] == []


def test_a_long_file_needs_its_reason_and_a_short_one_needs_none() -> None:
    path = Path("rootsrv", "zone", "long.py")
    reason = "# Over 400 lines: it is one table, row by row.\n"
    for head, rows, fault in [
        ("", 399, ""),
        ("", 400, "gives no reason"),
        (reason, 399, ""),
        (reason, 398, "need no reason"),
        (reason.replace("400", "500"), 400, "gives no reason"),
        ("# Over 400 lines: .\n", 400, "gives no reason"),
        ("\n" + reason, 400, "gives no reason"),
    ]:
        found = size_fault(path, '"""A table."""\n' + head + "row = 1\n" * rows)
        assert (fault in found) if fault else not found, (head, rows)


def test_the_picture_of_the_house_names_every_room_and_only_files_that_exist() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    picture = text[text.index("    rootsrv/\n") : text.index("    bench/  deploy/")]
    rooms = dict(re.findall(r"^      ([a-z]+)/ +(.*(?:\n {20,}.*)*)", picture, re.MULTILINE))
    there = {path.parent.name for path in (REPOSITORY / "rootsrv").glob("*/__init__.py")}
    assert set(rooms) == there
    named = {room: re.findall(r"\b([a-z0-9_]+\.py)\b", about) for room, about in rooms.items()}
    missing = [
        f"{room}/{file}"
        for room, files in named.items()
        for file in files
        if not (REPOSITORY / "rootsrv" / room / file).exists()
    ]
    assert missing == []


def test_every_role_is_in_the_picture_and_among_the_processes() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    (running,) = (each for each in parser(["run"])._actions if isinstance(each.choices, dict))
    assert isinstance(running.choices, dict)
    (roles,) = (each.choices for each in running.choices["run"]._actions if "--role" in each.option_strings)
    processes = text[text.index("## Processes") : text.index("## Two clocks")]
    assert [role for role in roles if f"**{role}**" not in processes] == []
    picture = text[text.index("      roles/ ") : text.index("      doctor/ ")]
    assert [role for role in roles if f"{role}.py" not in picture] == []


def test_the_files_that_start_first_exist() -> None:
    assert [name for name in SECONDS if not (REPOSITORY / name).exists()] == []


def run_pytest(directory: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "CI" and not key.startswith("PYTEST_")}
    clean["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # no rule of the house needs one, and a run starts sooner without
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull,
         "--rootdir", directory, "-ra", *options, directory],
        cwd=REPOSITORY, env=clean | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


SKIPS = {
    "in_the_test": "import pytest\n\ndef test_it():\n    pytest.skip('no such thing here')\n",
    "by_a_marker": "import pytest\n\n@pytest.mark.skip(reason='no such thing here')\ndef test_it():\n    pass\n",
    "of_a_module": "import pytest\n\npytest.skip('no such thing here', allow_module_level=True)\n",
    "of_an_import": "import pytest\n\npytest.importorskip('there_is_no_such_module', reason='no such thing here')\n",
    "of_a_tool": "from tests.needs import require_tool\n\ndef test_it():\n    require_tool('no such thing here')\n",
    "of_a_peer": "from bench.peers import tool\n\ndef test_it():\n    tool('no such thing here')\n",
    "of_a_peer_in_a_fixture": (
        "import pytest\nfrom bench.peers import tool\n\n@pytest.fixture(scope='module')\ndef peer():\n"
        "    return tool('no such thing here')\n\ndef test_it(peer):\n    pass\n"
    ),
}


def test_every_kind_of_skip_is_a_failure_when_ci_is_true(tmp_path: Path) -> None:
    for name, source in SKIPS.items():
        (tmp_path / f"test_{name}.py").write_text(source)

    elsewhere = run_pytest(tmp_path)
    in_ci = run_pytest(tmp_path, "--continue-on-collection-errors", CI="true")

    assert (elsewhere.returncode, in_ci.returncode) == (0, 1), elsewhere.stdout + in_ci.stdout
    assert sum(map(int, re.findall(r"^SKIPPED \[(\d+)\]", elsewhere.stdout, re.MULTILINE))) == len(SKIPS)
    for name in SKIPS:
        assert re.search(rf"^(FAILED|ERROR) .*test_{name}.py", in_ci.stdout, re.MULTILINE), name
    assert in_ci.stdout.count("although CI=true") >= len(SKIPS)
    assert "no such thing here" in in_ci.stdout


def test_no_class_goes_by_another_ones_name() -> None:
    """Who reads a name should not have to look up whose it is."""
    found: dict[str, list[str]] = {}
    for path in sorted((REPOSITORY / "rootsrv").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(REPOSITORY)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_no_class_is_imported_under_another_name() -> None:
    """Of our own; nor would a search for it find that place."""
    renamed = [
        f"{path}: {name.name} as {name.asname}"
        for path in SOURCES
        for node in ast.walk(ast.parse((REPOSITORY / path).read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("rootsrv", "bench", "tests")
        for name in node.names
        if name.asname and name.name[:1].isupper() and name.name != name.name.upper()
    ]
    assert renamed == []
