"""What a demo and a supervisor start ends with them, whatever ends them."""

import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path

from bench.guardian import marked
from bench.peers.daemon import free_port
from tests.killed import ends_with_its_demo
from tests.server.live import running, wait_until


def test_all_processes_of_a_demo_that_is_killed_end() -> None:
    directory = tempfile.mkdtemp()
    try:
        # Itself, the supervisor, maintain, serve, a worker, perhaps report.
        arguments = ("--port", str(free_port()), "--tlds", "60", "--workers", "1")
        ends_with_its_demo(Path(directory), *arguments, least=5, seconds=30)
    finally:
        shutil.rmtree(directory)


def test_all_roles_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    with running(tmp_path, environment={"MARK": mark}) as instance:
        assert len(marked(f"MARK={mark}")) >= 4
        os.kill(instance.process.pid, signal.SIGKILL)
        instance.process.wait()
        wait_until(lambda: not marked(f"MARK={mark}"), "all have ended", 30)
