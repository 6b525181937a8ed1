"""What an operator needs to read at night, from the box itself: the runbook and what it points to, as pages."""
# The network may be what is broken.  So the documents come with the program, and the role report shows them; it reads
# them before it gives up its privileges, and makes a page of one when somebody asks for it.

import contextlib
import functools
import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from rootsrv.process import installation
from rootsrv.telemetry.page_style import STYLE, runbook_entry, still_headers

if TYPE_CHECKING:
    from markdown_it.token import Token

RUNBOOK = "runbook"

DOCUMENTS = (
    RUNBOOK, "operations", "under-attack", "anycast", "fastpath", "mesh", "capture", "dot", "localroot", "hyperlocal",
    "install",
)  # fmt: skip
"""Those for operators, by name in docs/."""

_DOCUMENT_STYLE = (
    STYLE
    + """
main{display:block;max-width:64rem}article{background:var(--card);border:1px solid var(--line);border-radius:.5rem;
padding:.9rem 1.2rem}nav{margin:0 0 .8rem}nav a{margin-right:.8rem}
article h1{margin:.2rem 0 .8rem}article h2,article h3{font-size:1rem;color:var(--text);text-transform:none;
letter-spacing:0;margin:1.4rem 0 .5rem}
article p,article ul,article ol{margin:.6rem 0}article td,article th{font-variant-numeric:normal;min-width:5.5rem}
article th{font-weight:600}
.scroll{overflow-x:auto}pre{overflow-x:auto;background:var(--back);padding:.6rem;border-radius:.3rem}
code{font-size:.9em;overflow-wrap:anywhere}
tr:target>*,tr:has(:target)>*{background:var(--back);border-top:2px solid var(--c0);border-bottom:2px solid var(--c0)}
:target{outline:2px solid var(--c0);outline-offset:2px}[id]{scroll-margin-top:4rem}
@media(max-width:40rem){article{padding:.7rem}}
"""
)

DOCUMENT_HEADERS = still_headers(_DOCUMENT_STYLE)

_OURS = re.compile(r"^(?:docs/)?([a-z-]+)\.md(#[\w-]+)?$")
_NAMED = re.compile(r"\bdocs/([a-z-]+)\.md\b")


class Documentation:
    """The documents that this installation has."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """*texts*: Markdown, by name."""
        self.texts = texts
        self._page = functools.lru_cache(maxsize=4)(self._made)

    @classmethod
    def installed(cls) -> "Documentation":
        """What is beside the sources, or in share/rootsrv/docs; what is missing there is missing here."""
        directory = installation.brought("docs", f"{RUNBOOK}.md")
        if directory is None:
            return cls({})
        found = {}
        for name in DOCUMENTS:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found[name] = (directory / f"{name}.md").read_text(encoding="utf-8")
        return cls(found)

    def page(self, name: str) -> str | None:
        """The document as HTML; None if there is none of that name."""
        return self._page(name) if name in self.texts else None

    def _made(self, name: str) -> str:
        # Only who reads pays for it.
        from markdown_it import MarkdownIt

        markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        tokens = markdown.parse(self.texts[name])
        self._name_places(tokens)
        for token in tokens:
            inside = 0
            for child in token.children or ():
                inside += child.nesting if child.type.startswith("link") else 0
                self._lead(child, is_in_link=bool(inside))
        article = markdown.renderer.render(tokens, markdown.options, {})
        article = article.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
        links = "".join(f'<a href="/docs/{each}">{escape(each)}</a> ' for each in self.texts)
        return (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>rootsrv: {escape(name)}</title><style>{_DOCUMENT_STYLE}</style></head><body><main>"
            f'<nav aria-label="Documents"><a href="/">status</a> {links}</nav><article>{article}</article>'
            f"</main></body></html>\n"
        )

    @staticmethod
    def _name_places(tokens: "list[Token]") -> None:
        """Every heading and, in the first column of a table, every alarm gets a name that a link can lead to."""
        taken = set()
        column = 0
        for at, token in enumerate(tokens):
            if token.type == "tr_open":
                column = 0
            elif token.type == "td_open":
                column += 1
            elif token.type == "inline" and tokens[at - 1].type == "heading_open":
                # As GitHub names them, so that links work in both places.
                slug = re.sub(r"[^\w -]", "", token.content.lower()).replace(" ", "-")
                if slug not in taken:
                    tokens[at - 1].attrSet("id", slug)
                    taken.add(slug)
            elif token.type == "inline" and column == 1 and tokens[at - 1].type == "td_open":
                for child in token.children or ():
                    if child.type == "code_inline" and (place := runbook_entry(child.content)) not in taken:
                        child.attrSet("id", place)
                        taken.add(place)

    def _lead(self, token: "Token", *, is_in_link: bool) -> None:
        """A link to another of the documents leads to its page here; one to anything else is text."""
        if token.type == "link_open":
            target = str(token.attrs.get("href", ""))
            ours = _OURS.match(target)
            if ours and ours[1] in self.texts:
                token.attrSet("href", f"/docs/{ours[1]}{ours[2] or ''}")
            elif not target.startswith(("https://", "http://", "#")):
                token.attrs = {}
        elif token.type == "text" and not is_in_link and _NAMED.search(token.content):
            token.type, token.content = "html_inline", _NAMED.sub(self._link, escape(token.content))
        elif token.type == "image":
            token.type, token.content = "text", f"[{token.content}]"

    def _link(self, named: re.Match[str]) -> str:
        return f'<a href="/docs/{named[1]}">{named[0]}</a>' if named[1] in self.texts else named[0]
