"""What a result was measured on, and how steady that was."""

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

_LOOPS = 300_000


def describe() -> dict[str, Any]:
    """Processor, memory, kernel and versions."""
    model = "unknown"
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = next((int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "virtual": any("hypervisor" in line.split() for line in _lines("/proc/cpuinfo") if line.startswith("flags")),
        "memory_octets": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "system": next((line.partition("=")[2].strip('"') for line in _lines("/etc/os-release")
                        if line.startswith("PRETTY_NAME")), platform.system()),
        "command": " ".join(["python -m", _module(), *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def _module() -> str:
    """What was run: `bench`, or one of its modules that has a command line of its own."""
    spec = sys.modules["__main__"].__spec__
    name = "bench" if spec is None else spec.name
    return name.removesuffix(".__main__") if name.startswith("bench") else "bench"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def additions_per_second(cpu: int) -> float:
    """How fast a plain Python loop runs on *cpu* right now.

    On a machine shared with others it varies, and with it everything that is measured: results taken while it varied
    by much say little.
    """
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        start = time.perf_counter()
        total = 0
        for number in range(_LOOPS):
            total += number
        return _LOOPS / (time.perf_counter() - start)
    finally:
        os.sched_setaffinity(0, affinity)
