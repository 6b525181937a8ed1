"""A worker that takes its time to start, on a host that is very busy, is left to it."""

import os
import signal
import socket
from pathlib import Path

from rootsrv.server.parent import STUCK_SECONDS
from tests.server.live import running, wait_until


def test_a_worker_that_starts_slowly_while_queries_wait_is_not_killed(tmp_path: Path) -> None:
    with running(tmp_path) as instance, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        (old,) = instance.worker_pids()
        os.kill(old, signal.SIGKILL)

        def successor() -> int:
            (worker,) = instance.status()["workers"]
            return int(worker["pid"]) if worker["pid"] not in {0, old} and not worker["ready"] else 0

        starting = wait_until(successor, "another worker starts")
        os.kill(starting, signal.SIGSTOP)
        client.sendto(bytes(12), ("127.0.0.1", instance.port))
        wait_until(
            lambda: instance.status()["workers"][0]["heartbeat_age_seconds"] > STUCK_SECONDS + 1, "it looks stuck"
        )
        os.kill(starting, signal.SIGCONT)

        wait_until(lambda: instance.worker_pids() == [starting], "the same one is up")
        assert instance.ask(".", "SOA").answer
