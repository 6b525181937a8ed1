"""What the kernel says of processes (proc(5)): which there are, their processor time, their memory."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def of_session(session: int) -> Iterator[int]:
    """The pids of a session; none of session 0."""
    if not session:
        return
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                # pid (comm) state ppid pgrp session …; comm may hold anything
                with open(f"/proc/{entry}/stat") as stream:
                    if int(stream.read().rpartition(")")[2].split()[3]) == session:
                        yield int(entry)


def tree(pid: int) -> Iterator[int]:
    """*pid* and all processes that it began and that still are."""
    yield pid
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                    yield from tree(int(child))


def cpu_nanoseconds(pid: int) -> int:
    """Processor time of all threads of a process that is still there."""
    nanoseconds = 0
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as stream:
                nanoseconds += int(stream.read().split()[0])
    return nanoseconds


def cpu_seconds_with_ended(pid: int) -> float:
    """Processor time of *pid*, also of threads that have ended, and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory_octets(pid: int, kind: str = "Pss") -> int:
    """Of a process; 0 of one that is gone.

    *kind*: "Pss", pages that it shares counted by share; "VmRSS", all that it has; "VmHWM", the most of that so far.
    """
    name = "smaps_rollup" if kind == "Pss" else "status"
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}") as stream:
        for line in stream:
            if line.startswith(f"{kind}:"):
                return 1024 * int(line.split()[1])
    return 0
