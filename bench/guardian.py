"""A process beside a run, which ends all that the run has started when the run is killed.

    python -m bench.guardian PID NAME=VALUE

What it started is told by the mark NAME=VALUE, in the environment that each process began with.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_IN_ORDER_SECONDS = 15.0
"""How long what gets SIGTERM may take, before SIGKILL: kernel programs detached, routes taken back."""

_TURN_SECONDS = 0.2


@contextlib.contextmanager
def guarded(name: str) -> Iterator[None]:
    """What is started in the block, and is left when this process is killed in it, is ended."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    before = os.environ.get(name)
    os.environ[name] = mark
    guardian = watch(f"{name}={mark}")
    try:
        yield
    finally:
        dismiss(guardian)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def watch(mark: str) -> "subprocess.Popen[bytes]":
    """A guardian of this process, for all that have *mark*; it has none itself."""
    name, _, value = mark.partition("=")
    return subprocess.Popen(
        [sys.executable, "-m", "bench.guardian", str(os.getpid()), mark],
        cwd=Path(__file__).parent.parent,
        env={each: other for each, other in os.environ.items() if (each, other) != (name, value)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # what ends a whole group is not to end it
    )


def dismiss(guardian: "subprocess.Popen[bytes]") -> None:
    """The run ends in order."""
    guardian.kill()
    guardian.wait()


def marked(mark: str) -> list[int]:
    """The processes that began with *mark* in their environment and have not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def main(pid: int, mark: str) -> None:
    """Wait until process *pid*, our parent, has ended; then end what it has left."""
    with contextlib.suppress(ProcessLookupError):
        parent = os.pidfd_open(pid)
        if os.getppid() == pid:
            select.select([parent], [], [])
    in_order_until = time.monotonic() + _IN_ORDER_SECONDS
    asked: set[int] = set()
    while left := marked(mark):
        killed = time.monotonic() > in_order_until
        for each in left:
            if killed or each not in asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL if killed else signal.SIGTERM)
        asked.update(left)
        time.sleep(_TURN_SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
