"""What README and the documents name exists: paths, make targets, rootsrv commands, packages."""

import re
import subprocess
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_rootsrv_command_that_a_document_names_is_accepted(
    document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = re.findall(
        r"(?:`|^    (?:\$ |# |sudo )?)rootsrv ((?:[a-z][a-z0-9-]*)(?: [a-z][a-z0-9-]*(?![\w=.@-]))*)",
        text_of(document),
        re.MULTILINE,
    )
    for command in sorted(set(named)):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([*command.split(), "--help"])
        assert ended.value.code == 0, f"rootsrv {command}: {capsys.readouterr().err}"


def test_the_tracked_files_name_no_path_of_a_developers_machine() -> None:
    listed = subprocess.run(
        ["git", "-C", REPOSITORY, "grep", "-nIE", r"(^|[^[:alnum:]_.])/(work|root|home)/[[:alnum:]]"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert listed.returncode in (0, 1), listed.stderr
    assert listed.stdout == ""
