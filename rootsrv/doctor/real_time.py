"""Workers that go before ordinary processes: do they, does the card keep step, and what is left to all others?"""

import asyncio
import contextlib
import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rootsrv.config.file import Config
from rootsrv.control import client
from rootsrv.control.client import NoAnswer
from rootsrv.doctor.finding import Finding, bad, good, remark
from rootsrv.process import real_time

_UNIT = "rootsrv-serve.service"
_PATIENCE_SECONDS = 10.0
_SYSTEM = Path("/proc/sys/kernel")
_NETWORK = Path("/sys/class/net")
_GROUPS = Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us")

_ORDINARY_ARE_LET_IN = (6, 12)
"""From this Linux on ordinary processes that wait are let in for 5 % of the time, and nothing is stopped else."""

_TICK_MILLISECONDS = 10
"""The longest that a kernel has: 1 ms is rounded up to its own."""

_COMM_OCTETS = 15
"""Of a kernel thread's name, in older kernels."""


def checks(config: Config) -> Iterator[Finding]:
    """All of them; nothing where workers neither have such a priority nor are to have one."""
    wanted = config.service.real_time_priority
    workers = _workers(config)
    first = [each for each in workers or () if real_time.is_real_time(each.get("policy"))]
    if not wanted and not first:
        return
    yield from _priority(wanted, workers, first)
    yield _left_to_others()
    yield _turns()
    priority = int(max((each.get("priority", 0) for each in first), default=wanted))
    for name in config.fastpath.interfaces:
        yield _card(name, priority)


def _workers(config: Config) -> list[Mapping[str, Any]] | None:
    """As serve tells of them, DNS over TLS included; None where it does not run."""
    socket = Path(config.state.runtime_directory) / "serve.sock"
    try:
        status = asyncio.run(client.ask(socket, {"command": "status"}, _PATIENCE_SECONDS))
    except NoAnswer:
        return None
    return [each for each in (*status["workers"], status.get("dot", {})) if each.get("pid")]


def _priority(
    wanted: int, workers: list[Mapping[str, Any]] | None, first: list[Mapping[str, Any]]
) -> Iterator[Finding]:
    about = "real-time priority"
    if workers is None:
        yield _to_be_had(about, wanted)
        return
    found = f"{len(first)} of {len(workers)} processes that answer go before ordinary ones"
    if not wanted:
        yield remark(
            about, f"{found}, though service.real_time_priority is 0: a unit or an operator gave it to them",
            "set service.real_time_priority, so that each has it that comes after them, and what they start has not",
        )  # fmt: skip
    elif len(first) < len(workers):
        yield bad(about, f"{found}, {wanted} is configured: {_why_not(wanted) or 'the log of serve says why'}",
                  _remedy(wanted))  # fmt: skip
    elif differing := {f"{each['policy']} {each['priority']}" for each in first} - {f"fifo {wanted}"}:
        yield remark(about, f"{found}, with {', '.join(sorted(differing))} where fifo {wanted} is configured",
                     "systemctl restart rootsrv-serve")  # fmt: skip
    else:
        yield good(about, f"{found} (fifo {wanted})")


def _to_be_had(about: str, wanted: int) -> Finding:
    if why := _why_not(wanted):
        return bad(about, f"{wanted} is configured, and cannot be had: {why}", _remedy(wanted))
    return good(about, f"{wanted} is configured; serve does not run")


def _why_not(wanted: int) -> str:
    """What in the unit, or in groups of real time, is in the way; empty if nothing is known of."""
    said = _of_the_unit("LoadState", "RestrictRealtime", "LimitRTPRIO", "CPUSchedulingPolicy")
    if said.get("LoadState") == "loaded":
        if said.get("RestrictRealtime") == "yes":
            return f"RestrictRealtime=yes in {_UNIT}"
        if (limit := said.get("LimitRTPRIO", "")).isdecimal() and int(limit) < wanted:
            return f"LimitRTPRIO={limit} in {_UNIT}"
    if has_groups():
        return "this kernel shares real time out among groups (CONFIG_RT_GROUP_SCHED), and that of the unit has none"
    return ""


def _remedy(wanted: int) -> str:
    if has_groups():
        return "boot with rt_group_sched=0, or give the group some (cpu.rt_runtime_us); or real_time_priority = 0"
    return (
        f"systemctl edit {_UNIT}, with [Service], RestrictRealtime=no and LimitRTPRIO={wanted}; then restart it"
        f" (in a container: --ulimit rtprio={wanted})"
    )


def _of_the_unit(*properties: str) -> dict[str, str]:
    """Nothing where no systemd runs."""
    if shutil.which("systemctl") is None:
        return {}
    command = ["systemctl", "show", _UNIT, f"--property={','.join(properties)}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split("=", 1) for line in told.splitlines() if "=" in line)


def _left_to_others() -> Finding:
    about = "time of ordinary processes"
    share = stopped_share()
    if share is None:
        return good(about, "those that wait are let in for 5 % of each second (Linux 6.12 and later)")
    if share == 0:
        return remark(
            about, "nothing is kept for them (kernel.sched_rt_runtime_us): what goes first may have a core for itself;"
            " workers leave it, threads of the card need not",
            "sysctl kernel.sched_rt_runtime_us=990000, so that this host stays within reach",
        )  # fmt: skip
    remedy = (
        "plan for cores that are never that busy: of this kernel (CONFIG_RT_GROUP_SCHED) a larger share was of no use"
        if has_groups()
        else "plan for cores that are never that busy, or sysctl kernel.sched_rt_runtime_us=990000, which leaves 10 ms"
    )
    found = f"what goes first is stopped for up to {share * 1000:.0f} ms of each second, as soon as it is that busy"
    return remark(about, found, f"{remedy} (docs/install.md, Capacity)")


def _turns() -> Finding:
    about = "turns of the card's threads"
    milliseconds = int((_SYSTEM / "sched_rr_timeslice_ms").read_text(encoding="utf-8"))
    if milliseconds > _TICK_MILLISECONDS:
        return remark(
            about, f"may take {milliseconds} ms each (kernel.sched_rr_timeslice_ms), in which a worker answers nothing",
            "sysctl kernel.sched_rr_timeslice_ms=1, which is a tick of the clock (docs/install.md, Capacity)",
        )  # fmt: skip
    return good(about, f"a tick of the clock at most, {milliseconds} ms")


def stopped_share() -> float | None:
    """The share of each second for which Linux stops what goes first, as soon as it is that busy.

    None: it stops nothing, and lets ordinary processes in all the same.  0: nothing lets them in.
    """
    runtime, period = (
        int((_SYSTEM / f"sched_rt_{each}_us").read_text(encoding="utf-8")) for each in ("runtime", "period")
    )
    if release() >= _ORDINARY_ARE_LET_IN and not has_groups():
        return None
    return 0.0 if runtime < 0 else max(0.0, 1 - runtime / period)


def has_groups() -> bool:
    """Whether this kernel shares real time out among groups (CONFIG_RT_GROUP_SCHED)."""
    if _GROUPS.exists():
        return True
    built = ""
    with contextlib.suppress(OSError, EOFError):
        built = gzip.decompress(Path("/proc/config.gz").read_bytes()).decode(errors="replace")
    with contextlib.suppress(OSError):
        built = built or Path(f"/boot/config-{os.uname().release}").read_text(errors="replace", encoding="utf-8")
    return "CONFIG_RT_GROUP_SCHED=y" in built and "rt_group_sched=0" not in Path("/proc/cmdline").read_text(
        encoding="utf-8"
    )


def release() -> tuple[int, int]:
    """Of this kernel: its two first numbers."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _card(name: str, priority: int) -> Finding:
    """Whether the threads that take packets from the card are in step with workers of *priority*."""
    about = f"threads of {name}"
    threaded = _NETWORK / name / "threaded"
    steps = f"echo 1 > {threaded}; chrt --rr --pid {priority} for each thread napi/{name}-… (docs/install.md, Capacity)"
    try:
        is_threaded = threaded.read_text(encoding="utf-8").strip() == "1"
    except OSError as error:
        return remark(about, f"{threaded}: {error.strerror}", "workers of no real-time priority, on this interface")
    if not is_threaded:
        return remark(
            about, "packets are taken in interrupts, which go before all, or behind workers (ksoftirqd) when there"
            " are many: a busy worker then has the card's ring run full", steps,
        )  # fmt: skip
    threads = threads_of(name)
    out_of_step = [
        f"{number} {each['policy']} {each['priority']}"
        for number, each in threads.items()
        if (each.get("policy"), each.get("priority")) != ("rr", priority)
    ]
    if not threads or out_of_step:
        which = f"not in step with workers of fifo {priority}: {', '.join(out_of_step)}" if threads else "none is there"
        return remark(about, which, steps)
    return good(about, f"{len(threads)} take turns with the workers (rr {priority})")


def threads_of(name: str) -> dict[int, dict[str, str | int]]:
    """Policy and priority of the kernel's threads that take packets from an interface, by process id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8").rstrip("\n").startswith(f"napi/{name}-"[:_COMM_OCTETS]):
                number = int(path.parent.name)
                if said := real_time.of(number):
                    found[number] = said
    return found
