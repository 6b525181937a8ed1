"""A demo that is killed takes along what it has started."""

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from bench.guardian import marked
from tests.needs import REPOSITORY
from tests.server.live import wait_until


def ends_with_its_demo(directory: Path, *arguments: str, least: int, seconds: float) -> None:
    """Start `rootsrv demo`, kill it when all has been shown, and see what it has started end within *seconds*.

    *directory*: for its log and temporary files; *least*: processes that there are before, itself among them.
    """
    mark = secrets.token_hex(8)
    log = directory / "log"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, "-m", "rootsrv", "demo", *arguments],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, "MARK": mark, "TMPDIR": str(directory)},
        )  # fmt: skip

    def is_ready() -> bool:
        assert demo.poll() is None, log.read_text()
        return "Ctrl-C stops it." in log.read_text()

    try:
        wait_until(is_ready, "all has been shown", 120)
        assert len(marked(f"MARK={mark}")) >= least, log.read_text()
        demo.kill()
        demo.wait()
        wait_until(lambda: not marked(f"MARK={mark}"), "all have ended", seconds)
    finally:
        demo.kill()
        demo.wait()
        for pid in marked(f"MARK={mark}"):
            os.kill(pid, signal.SIGKILL)
