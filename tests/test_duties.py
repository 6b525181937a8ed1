"""Every duty that code, tests or a document names by its number is one of docs/duties.md."""

import re
from pathlib import Path

import pytest

from tests.needs import REPOSITORY

DUTIES = frozenset(re.findall(r"^\| (D\d+a?) \|", (REPOSITORY / "docs" / "duties.md").read_text(), re.MULTILINE))
READ = sorted(
    path
    for pattern in ("rootsrv/**/*.py", "rootsrv/**/*.[ch]", "tests/**/*.py", "bench/**/*.py", "docs/*.md", "*.md",
                    "deploy/**/*")
    for path in REPOSITORY.glob(pattern)
    if path.is_file() and path.suffix in {".py", ".c", ".h", ".md", ".toml", ".conf", ".service", ".nft", ""}
)  # fmt: skip

# A duty stands alone or in brackets ("(D31)", "D5, D8"): neither in a name (RFC numbers, hex, D1TOKEN) nor in a path.
_NAMED = re.compile(r"(?<![\w./#-])D([1-9]\d?a?)(?![\w-])")


def named_in(text: str) -> set[str]:
    return {f"D{number}" for number in _NAMED.findall(text)}


def test_the_list_is_whole() -> None:
    assert {"D1", "D31", "D43a", "D53"} <= DUTIES
    assert len(DUTIES) == 39


@pytest.mark.parametrize("text", ["(D31)", "D5, D8", "as D27 wants:", "D43a.", "`D9`"])
def test_what_names_a_duty_is_seen(text: str) -> None:
    assert named_in(text)


@pytest.mark.parametrize("text", ["0xD3", "D1x", "ID5", "RFC-D2", "/D4", "D100", "D0"])
def test_what_only_looks_like_one_is_not(text: str) -> None:
    assert not named_in(text)


def test_every_duty_that_is_named_exists() -> None:
    named = {path: named_in(path.read_text()) for path in READ if path != Path(__file__)}
    assert sum(map(len, named.values())) > 50, "nothing names a duty: the search is wrong"
    unknown = {str(path.relative_to(REPOSITORY)): found - DUTIES for path, found in named.items() if found - DUTIES}
    assert unknown == {}


def test_every_duty_has_a_source() -> None:
    for line in (REPOSITORY / "docs" / "duties.md").read_text().splitlines():
        if line.startswith("| D"):
            number, duty, source = (cell.strip() for cell in line.strip("|").split("|"))
            assert duty, number
            assert source, number
