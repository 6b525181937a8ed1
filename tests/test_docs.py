"""What README and the documents name exists: paths, make targets, rootsrv commands, packages."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.commands.parser import parser
from tests.needs import REPOSITORY

DOCUMENTS = sorted(
    path.relative_to(REPOSITORY)
    for pattern in ("*.md", "docs/*.md", "bench/*.md", "deploy/**/*.md")
    for path in REPOSITORY.glob(pattern)
)


def text_of(document: Path) -> str:
    return (REPOSITORY / document).read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_of_a_document_leads_to_a_file(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", text_of(document))
    local = [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("#")]
    missing = [target for target in local if not (REPOSITORY / document.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_path_of_ours_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"(?<![\w./-])((?:rootsrv|tests|bench|deploy|docs|\.ci)/[\w./-]*[\w/])", text_of(document))
    missing = [path for path in named if not (REPOSITORY / path).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([\w-]+)", text_of(document), re.MULTILINE))
    assert named <= targets


ALERTS = Path("deploy", "prometheus", "alerts.yml")


def commands_in(text: str) -> Iterator[tuple[str, set[str]]]:
    """The rootsrv commands in *text*, without what they are given, and the options of each."""
    in_prose = re.findall(r"`rootsrv ([^`]+)`", text)
    in_code = re.findall(r"^    (?:\$ |# |sudo )?rootsrv ((?:[^\n\\]|\\\n)+)", text, re.MULTILINE)
    for said in in_prose + [re.split(r" [|;#>&]", line)[0] for line in in_code]:
        if words := re.match(r"[a-z][a-z0-9-]*(?:\s+[a-z][a-z0-9-]*(?![\w=.@-]))*", said):
            yield " ".join(words[0].split()), set(re.findall(r"(?<=\s)--[a-z][a-z-]*", said))


@pytest.mark.parametrize("document", [*DOCUMENTS, ALERTS], ids=str)
def test_every_rootsrv_command_that_a_document_names_is_accepted_with_its_options(
    document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list(commands_in(text_of(document)))
    for command in sorted({command for command, _ in found}):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([*command.split(), "--help"])
        told = capsys.readouterr()
        assert ended.value.code == 0, f"rootsrv {command}: {told.err}"
        options = set().union(*(options for each, options in found if each == command))
        assert options <= set(re.findall(r"--[a-z][a-z-]*", told.out)), f"rootsrv {command}"


def test_the_commands_of_alerts_and_of_a_night_under_attack_are_found_with_their_options() -> None:
    assert ("shed", {"--match", "--do", "--dry-run"}) in commands_in(text_of(ALERTS))
    in_the_night = list(commands_in(text_of(Path("docs", "under-attack.md"))))
    assert ("shed", {"--match", "--do", "--for", "--reason"}) in in_the_night
    assert ("block", {"--for", "--reason"}) in in_the_night


def test_the_tracked_files_name_no_path_of_a_developers_machine() -> None:
    listed = subprocess.run(
        ["git", "-C", REPOSITORY, "grep", "-nIE", r"(^|[^[:alnum:]_.])/(work|root|home)/[[:alnum:]]"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert listed.returncode in (0, 1), listed.stderr
    assert listed.stdout == ""


def overlong_prose(text: str) -> list[int]:
    """Numbers of the lines of prose over COLUMNS; tables, code, headings and what cannot be broken are none."""
    found, in_code = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif in_code or line.startswith("    ") or re.match(r"\s*(\||#|<|>|\[[^]]+\]:)", line):
            continue
        elif len(line) > COLUMNS and " " in line[:COLUMNS].strip(" *-+0123456789."):
            found.append(number)
    return found


COLUMNS = 120


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each.name != "CHANGELOG.md"], ids=str)
def test_prose_is_wrapped_as_the_code_is(document: Path) -> None:
    assert overlong_prose(text_of(document)) == []


def test_what_counts_as_prose() -> None:
    long = "word " * 30
    for text, lines in [
        (long, [1]),
        (f"* {long}", [1]),
        (f"one\n{long}\n", [2]),
        (f"| {long} |", []),
        (f"# {long}", []),
        (f"    {long}", []),
        (f"```\n{long}\n```\n{long}", [4]),
        ("* https://example.net/" + "x" * 120, []),
        ("ü" * 60 + " " + "ü" * 59, []),
    ]:
        assert overlong_prose(text) == lines, text


def anchors(text: str) -> set[str]:
    """What a heading is called in a link, as GitHub has it."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_to_a_heading_leads_to_one(document: Path) -> None:
    missing = []
    for target in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", text_of(document)):
        name, _, anchor = target.partition("#")
        if "://" in target or (name and not name.endswith(".md")):
            continue
        to = document.parent / name if name else document
        if anchor not in anchors(text_of(to)):
            missing.append(target)
    assert missing == []


def test_the_index_has_every_document() -> None:
    index = text_of(Path("docs/README.md"))
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    assert linked == {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}
