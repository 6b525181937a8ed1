"""Pages as a browser has them: Chromium, headless, asked for a page of ours on loopback; whether they are whole."""

import subprocess
from html.parser import HTMLParser
from pathlib import Path

from tests.needs import require_tool

# As root and without a desktop; nothing that would look for a network.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
    "--no-first-run", "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip


def browse(url: str, directory: Path, *flags: str) -> tuple[str, str]:
    """What chromium prints, and what it logs, with a fresh profile in *directory*."""
    assert url.startswith("http://127.")
    profile = directory / "chromium"
    done = subprocess.run(
        [require_tool("chromium"), *FLAGS, f"--user-data-dir={profile}", *flags, url],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


class Checker(HTMLParser):
    """Whether every element that is opened is closed."""

    EMPTY = frozenset({"meta", "br", "line", "circle", "path", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag
