"""A worker that takes its time to start, on a host that is very busy, is left to it."""

import os
import signal
import socket
from pathlib import Path

import dns.message
import dns.rcode

from rootsrv.server.parent import STUCK_SECONDS
from tests.server.live import running, serving, wait_until


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


def test_a_worker_that_cannot_map_the_table_for_a_moment_lets_queries_wait(tmp_path: Path) -> None:
    """It starts beside others that answer: SERVFAIL would be an answer, and a wrong one."""
    with serving(tmp_path) as instance, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        wait_until(instance.is_ready, "ready")
        table = tmp_path / "state" / "tables" / "1.table"
        away = table.with_suffix(".away")
        table.rename(away)
        os.kill(instance.worker_pids()[0], signal.SIGKILL)
        wait_until(lambda: "alarm: table unusable" in instance.log, "its successor has tried")
        client.settimeout(10)
        client.sendto(dns.message.make_query(".", "SOA").to_wire(), ("127.0.0.1", instance.port))
        away.rename(table)
        assert dns.message.from_wire(client.recv(4096)).rcode() == dns.rcode.NOERROR
        assert instance.ask(".", "SOA", tcp=True).answer


def test_a_worker_that_never_gets_the_table_says_so(tmp_path: Path) -> None:
    with serving(tmp_path) as instance:
        wait_until(instance.is_ready, "ready")
        (tmp_path / "state" / "tables" / "1.table").unlink()
        os.kill(instance.worker_pids()[0], signal.SIGKILL)
        wait_until(lambda: "alarm: table unusable" in instance.log, "its successor has tried")
        assert instance.ask(".", "SOA").rcode() == dns.rcode.SERVFAIL
