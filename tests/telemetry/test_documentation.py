"""What the role report shows of docs/: every alarm has its place there, and links lead on."""

import ast
import re
import tomllib
from collections.abc import Iterator

from rootsrv.telemetry.documentation import DOCUMENTS, RUNBOOK, Documentation
from rootsrv.telemetry.page_style import runbook_entry
from tests.needs import REPOSITORY
from tests.telemetry.browser import Checker
from tests.test_runbook import listed

ALL = Documentation.installed()


def page(name: str) -> str:
    made = ALL.page(name)
    assert made is not None, name
    return made


def test_every_alarm_and_every_alert_has_its_own_place_in_the_runbook() -> None:
    places = re.findall(r' id="([^"]+)"', page(RUNBOOK))
    assert len(places) == len(set(places))
    assert {runbook_entry(name) for name in listed()} <= set(places)
    assert len({runbook_entry(name) for name in listed()}) == len(listed())


def test_every_document_is_a_page_whose_links_lead_to_one() -> None:
    assert set(ALL.texts) == set(DOCUMENTS)
    places = {name: set(re.findall(r' id="([^"]+)"', page(name))) for name in DOCUMENTS}
    for name in DOCUMENTS:
        checker = Checker()
        checker.feed(page(name))
        assert checker.open == []
        for target in re.findall(r'<a href="([^"]+)"', page(name)):
            if target == "/" or target.startswith("https://"):
                continue
            where, _, place = target.partition("#")
            other = where.removeprefix("/docs/") if where else name
            assert other in places, (name, target)
            assert not place or place in places[other], (name, target)


def test_what_a_document_names_in_words_is_a_link_too_and_html_in_it_is_text() -> None:
    made = Documentation({"runbook": "see docs/mesh.md, docs/none.md <b>&</b> [it](docs/mesh.md)", "mesh": "x"})
    text = made.page("runbook") or ""
    assert 'see <a href="/docs/mesh">docs/mesh.md</a>, docs/none.md &lt;b&gt;&amp;&lt;/b&gt;' in text
    assert '<a href="/docs/mesh">it</a>' in text
    assert made.page("none") is None
    assert made.page("../runbook") is None


def test_the_wheel_brings_what_is_shown() -> None:
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    brought = {source: target for source, target in wheel["shared-data"].items() if source.startswith("docs/")}
    assert brought == {f"docs/{name}.md": f"share/rootsrv/docs/{name}.md" for name in DOCUMENTS}


def entries(tree: ast.AST) -> Iterator[str]:
    """What a module says that the runbook has a problem under."""
    for node in ast.walk(tree):
        said: list[ast.expr] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Problem" and len(node.args) > 1:
            said = [node.args[1]]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "entry":
            said = [node.value]
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple) and "entry" in ast.unparse(node.target):
            said = [each.elts[2] for each in node.iter.elts if isinstance(each, ast.Tuple)]
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            said = node.value.elts[1:]
        for each in said:
            branches = [each.body, each.orelse] if isinstance(each, ast.IfExp) else [each]
            yield from (str(e.value) for e in branches if isinstance(e, ast.Constant) and e.value)


def test_whatever_leads_to_the_runbook_leads_to_an_entry_of_it() -> None:
    found = set()
    for name in ("telemetry/problems.py", "telemetry/fleet_page.py", "roles/maintain_status.py"):
        said = set(entries(ast.parse((REPOSITORY / "rootsrv" / name).read_text())))
        assert len(said) > 5, name
        found |= said
    assert sorted(found - listed()) == []
