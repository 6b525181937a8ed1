"""Whose time a core's time was: the server's, the generator's, nobody's, another machine's."""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from bench import processes
from bench.subjects import Running

_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # fields of a line of /proc/stat (proc_stat(5))
_TICKS_END = 8  # what follows is contained in user time


class Cores:
    """Reads the server's core and the generator's; `shares` says who had them since."""

    def __init__(self, running: Running, *, server_cpu: int, generator_cpu: int, clients: Mapping[str, int]) -> None:
        """*clients*: processes on the generator's core, by name."""
        self._running = running
        self._cpus = {"server's core": server_cpu, "generator's core": generator_cpu}
        self._clients = clients
        self._began = self._read()

    def shares(self) -> dict[str, dict[str, float]]:
        """By core, parts of its time by name; their sum is 1, but for the clock ticks in which idle time is counted."""
        (seconds, ticks, used), now = self._began, self._read()
        passed = now[0] - seconds
        found: dict[str, dict[str, float]] = {}
        for core, cpu in self._cpus.items():
            spent = [after - before for before, after in zip(ticks[cpu], now[1][cpu], strict=True)]
            total = max(1, sum(spent))
            shares = {
                name: (nanoseconds - used.get((core, name), 0)) / 1e9 / passed
                for (where, name), nanoseconds in now[2].items()
                if where == core
            }
            idle, stolen = (spent[_IDLE] + spent[_IOWAIT]) / total, spent[_STEAL] / total
            shares["others"] = max(0.0, 1 - idle - stolen - sum(shares.values()))
            found[core] = shares | {"idle": idle, "other machines": stolen}
        return found

    def _read(self) -> tuple[float, dict[int, list[int]], dict[tuple[str, str], int]]:
        ticks = {}
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("cpu") and line[3].isdigit():
                name, *fields = line.split()
                ticks[int(name[3:])] = [int(field) for field in fields[:_TICKS_END]]
        used: dict[tuple[str, str], int] = {}
        on_server, on_generator = self._cpus
        for pid in processes.of_session(self._running.session):
            part = (on_server, "workers") if is_worker(pid) else (on_generator, "the server's other processes")
            used[part] = used.get(part, 0) + processes.cpu_nanoseconds(pid)
        if self._running.threads:
            used[on_server, "answers in the kernel"] = sum(map(processes.cpu_nanoseconds, self._running.threads))
        for client, pid in self._clients.items():
            used[on_generator, client] = processes.cpu_nanoseconds(pid)
        return time.monotonic(), ticks, used


def held_up(pid: int) -> tuple[int, int]:
    """Nanoseconds that the threads of a process were ready and had no core, and how often they had to leave one."""
    waited = preempted = 0
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            directory = Path(f"/proc/{pid}/task/{task}")
            waited += int((directory / "schedstat").read_text().split()[1])
            for line in (directory / "status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "nonvoluntary_ctxt_switches":
                    preempted += int(value)
    return waited, preempted


def is_worker(pid: int) -> bool:
    """Whether this process is one of rootsrv's that answer."""
    try:
        return b"rootsrv.server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def to_text(shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each core."""
    return [
        f"{core}: " + ", ".join(f"{name} {share:.0%}" for name, share in parts.items() if share >= 0.005)
        for core, parts in shares.items()
    ]
