"""What a demo and a supervisor start ends with them, whatever ends them."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.guardian import marked
from bench.peers.daemon import free_port
from tests.needs import REPOSITORY
from tests.server.live import running, wait_until


def test_all_processes_of_a_demo_that_is_killed_end() -> None:
    mark, directory = secrets.token_hex(8), tempfile.mkdtemp()
    with tempfile.TemporaryFile("w+") as told:
        demo = subprocess.Popen(
            [sys.executable, "-m", "rootsrv", "demo", "--port", str(free_port()), "--tlds", "60", "--workers", "1"],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=told, stderr=told,
            env={**os.environ, "MARK": mark, "TMPDIR": directory},
        )  # fmt: skip

        def is_ready() -> bool:
            told.seek(0)
            text = told.read()
            assert demo.poll() is None, text
            return "Ctrl-C stops it." in text

        try:
            wait_until(is_ready, "the demo answers", 90)
            assert len(marked(f"MARK={mark}")) >= 5  # itself, the supervisor, maintain, serve, a worker, perhaps report
            demo.kill()
            demo.wait()
            wait_until(lambda: not marked(f"MARK={mark}"), "all have ended", 30)
        finally:
            demo.kill()
            demo.wait()
            for pid in marked(f"MARK={mark}"):
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(directory)


def test_all_roles_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    with running(tmp_path, environment={"MARK": mark}) as instance:
        assert len(marked(f"MARK={mark}")) >= 4
        os.kill(instance.process.pid, signal.SIGKILL)
        instance.process.wait()
        wait_until(lambda: not marked(f"MARK={mark}"), "all have ended", 30)
