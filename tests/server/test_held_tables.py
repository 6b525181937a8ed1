"""Tables that are answered from stay in memory, whatever becomes of the disk that they came from."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.page.layout import Page
from rootsrv.server.held_tables import HeldTables
from rootsrv.store.table_file import table_path
from tests.disks import own_disk
from tests.server.live import serving, wait_until
from tests.waiting import until


def locked(pid: int | str, tables: Path) -> set[int]:
    """Generations of the tables in *tables* that process *pid* has locked in memory (smaps, "lo")."""
    found, generation = set(), 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            path = Path(line.split(maxsplit=5)[5]) if len(line.split(maxsplit=5)) == 6 else Path()
            generation = int(path.stem) if path.parent == tables and path.suffix == ".table" else 0
        elif generation and line.startswith("VmFlags:") and "lo" in line.split():
            found.add(generation)
    return found


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page.create(tmp_path / "page")


def test_what_is_in_force_and_what_is_staged_is_locked_in_memory_and_nothing_of_before(
    tmp_path: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootsrv.server.held_tables.LOOK_SECONDS", 0.001)
    for generation in (1, 2, 3):
        table_path(tmp_path, generation).write_bytes(bytes(10_000))

    async def run() -> None:
        task = asyncio.create_task(HeldTables(page, tmp_path).run())
        page.active, page.staged = 1, 2
        await until(lambda: locked("self", tmp_path) == {1, 2})
        page.active, page.staged = 2, 0
        await until(lambda: locked("self", tmp_path) == {2})
        page.staged = 4  # which is not there
        page.active = 3
        await until(lambda: locked("self", tmp_path) == {3})
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert locked("self", tmp_path) == set()


def test_the_role_that_serves_holds_what_it_answers_from(tmp_path: Path) -> None:
    with serving(tmp_path) as instance:
        tables = tmp_path / "state" / "tables"
        wait_until(lambda: locked(instance.process.pid, tables) == {instance.page.active}, "it is locked")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, whose disk fails for reading and writing when `image` beside it is cut to nothing."""
    with own_disk(tmp_path) as place:
        yield place


def test_a_worker_that_starts_while_the_disk_of_the_state_fails_answers_all_the_same(
    tmp_path: Path, disk: Path
) -> None:
    directory = tmp_path / "instance"
    directory.mkdir()
    (directory / "state").symlink_to(disk)
    with serving(directory) as instance:
        tables = disk / "tables"
        wait_until(lambda: locked(instance.process.pid, tables) == {instance.page.active}, "it is locked")
        (before,) = instance.worker_pids()
        table = os.open(table_path(tables, instance.page.active), os.O_RDONLY)
        os.fsync(table)
        os.truncate(tmp_path / "image", 0)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: instance.worker_pids() != [before], "it is gone")
        os.posix_fadvise(table, 0, 0, os.POSIX_FADV_DONTNEED)  # what nobody holds is gone
        os.close(table)

        wait_until(lambda: instance.is_ready() and instance.worker_pids() != [before], "another one is there")
        assert instance.ask(".", "SOA").rcode() == 0
        assert instance.ask("x.nosuch.", "A", want_dnssec=True).rcode() == 3
