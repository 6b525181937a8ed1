"""Work in a forked child: whatever happens there, and to its parent's descriptors, ends with it."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rootsrv.process import child
from rootsrv.process.child import ChildFailed, ChildHindered, in_child
from tests.needs import REPOSITORY


class Nothing:
    def leave_in_child(self) -> None:
        pass


def children() -> str:
    """Processes of ours, those among them that have ended and were not waited for."""
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()


# The parent's log is on a full disk: what could not be written waits in its buffer, and so it does in every child.
FULL = """
import asyncio, os, sys
from rootsrv.process.child import ChildFailed, in_child
sys.stderr = open("/dev/full", "w")
sys.stderr.write("a line that finds no room")
class Nothing:
    def leave_in_child(self): pass
async def main():
    parent = os.getpid()
    try:
        found = await in_child(WORK, Nothing(), timeout_seconds=20)
    except ChildFailed as error:
        found = error
    print("parent" if os.getpid() == parent else "child", found, flush=True)
asyncio.run(main())
os._exit(0)
"""


@pytest.mark.parametrize(
    ("work", "told"),
    [
        ("lambda: 7", "parent 7"),
        ("lambda: 1 / 0", "parent ZeroDivisionError: division by zero"),
        ("lambda: sys.exit(3)", "parent ended with status 1"),
    ],
    ids=["result", "exception", "exit"],
)
def test_a_child_never_goes_on_as_its_parent_where_the_log_cannot_be_written(work: str, told: str) -> None:
    code = FULL.replace("WORK", work)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == [told]


def test_a_loop_that_cannot_watch_it_leaves_neither_process_nor_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    before, others = len(os.listdir("/proc/self/fd")), children()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        kept = len(os.listdir("/proc/self/fd"))

        def add_reader(*_: object) -> None:
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(loop, "add_reader", add_reader)
        with pytest.raises(OSError, match="Cannot allocate memory"):
            await in_child(lambda: 7, Nothing())
        assert len(os.listdir("/proc/self/fd")) == kept

    asyncio.run(main())
    assert children() == others
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_that_cannot_be_had_is_told_and_costs_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))

    def fork() -> int:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(child.os, "fork", fork)
    with pytest.raises(ChildHindered, match="no process: Resource temporarily unavailable"):
        asyncio.run(in_child(lambda: 7, Nothing()))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_child_that_is_killed_failed() -> None:
    with pytest.raises(ChildFailed, match="status -9"):
        asyncio.run(in_child(lambda: os.kill(os.getpid(), 9), Nothing()))
