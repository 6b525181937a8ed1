"""The head of the shared page is gone, as when somebody has emptied /run: it is put back, and all go by it again."""

import os
import signal
from pathlib import Path

import pytest

from tests.process.test_privileges import role_pid
from tests.server.live import SERIALS, Instance, running, wait_until


def serial(instance: Instance) -> int:
    return int(instance.ask(".", "SOA").answer[0][0].serial)


def test_it_is_put_back_workers_follow_and_the_next_zone_comes_into_service(tmp_path: Path) -> None:
    with running(tmp_path, workers=2) as instance:
        pids = instance.worker_pids()
        (tmp_path / "run" / "page").unlink()
        wait_until(lambda: instance.is_ready() and not set(pids) & set(instance.worker_pids()), "they follow")
        assert serial(instance) == SERIALS[0]
        instance.put_zone(1)
        instance.reload()
        wait_until(lambda: serial(instance) == SERIALS[1], "the next zone")
        assert "shared page was lost, and is put back" in instance.log


def test_who_serves_was_started_anew_meanwhile(tmp_path: Path) -> None:
    with running(tmp_path) as instance:
        maintain, serve = (role_pid(instance, role) for role in ("maintain", "serve"))
        os.kill(maintain, signal.SIGSTOP)
        try:
            (tmp_path / "run" / "page").unlink()
            os.kill(serve, signal.SIGKILL)
            wait_until((tmp_path / "run" / "page").exists, "a head that says nothing")
            assert instance.page.active == 0
        finally:
            os.kill(maintain, signal.SIGCONT)
        wait_until(instance.is_ready, "put back")
        assert serial(instance) == SERIALS[0]


@pytest.mark.parametrize("how", ["gone", "cut off"])
def test_a_table_that_is_lost_is_made_again_when_who_serves_starts_anew(tmp_path: Path, how: str) -> None:
    with running(tmp_path, workers=2) as instance:
        table = tmp_path / "state" / "tables" / "1.table"
        if how == "gone":
            table.unlink()
        else:
            damaged = table.with_suffix(".damaged")
            damaged.write_bytes(table.read_bytes()[:100])
            damaged.replace(table)
        os.kill(role_pid(instance, "serve"), signal.SIGKILL)
        wait_until(lambda: instance.page.active == 2 and instance.is_ready(), "another one is in force", 40)
        assert serial(instance) == SERIALS[0]
        assert instance.log.count("it is made again") == 1
        instance.put_zone(1)
        instance.reload()
        wait_until(lambda: serial(instance) == SERIALS[1], "the next zone")
