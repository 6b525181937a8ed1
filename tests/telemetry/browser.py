"""Chromium, headless, asked for one page of ours on loopback."""

import subprocess
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
