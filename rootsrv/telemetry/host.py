"""What the kernel says of our processes and sockets (/proc); nothing, where there is no /proc."""

import contextlib
import ipaddress
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PAGE_OCTETS = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One of our processes."""

    name: str
    """The role, or worker-<slot>."""

    resident_octets: int
    cpu_seconds: float
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Sockets:
    """What the kernel dropped in front of the service sockets."""

    udp_drops: int = 0
    """Datagrams that found the receive buffer of a service socket full, or whose checksum was wrong."""

    udp_waiting_octets: int = 0
    listen_overflows: int = 0
    """Connections that found an accept queue full, of all sockets of this network namespace."""


def processes(pids: Mapping[str, int], workers: Sequence[int]) -> list[Process]:
    """The processes *pids* (by role) and *workers* (by slot) that exist; 0 = none."""
    named = [*pids.items(), *((f"worker-{slot}", pid) for slot, pid in enumerate(workers))]
    return [found for name, pid in named if pid and (found := _process(name, pid)) is not None]


def _process(name: str, pid: int) -> Process | None:
    try:
        pages = int((_PROC / str(pid) / "statm").read_text(encoding="utf-8").split()[1])
        # The command's name, in parentheses, may hold anything.
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (OSError, IndexError, ValueError):
        return None
    return Process(name, pages * _PAGE_OCTETS, (int(fields[11]) + int(fields[12])) / _TICKS, pid)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the whole machine has and uses; 0 where it is not known."""

    processors: int = 0
    processor_ticks: int = 0
    """Of all processors, since the machine was started."""

    idle_ticks: int = 0
    """Of those, in which none of them had anything to do, waiting for a disk included."""

    memory_octets: int = 0
    memory_available_octets: int = 0
    disk_octets: int = 0
    """Of the file system that was asked for."""

    disk_used_octets: int = 0
    received_octets: int = 0
    """By all interfaces but loopback, since they were made."""

    sent_octets: int = 0


def read_machine(directory: Path) -> Machine:
    """What /proc says, and the file system that *directory* is in."""
    ticks = next((line.split()[1:9] for line in _lines(_PROC / "stat") if line.startswith("cpu ")), [])
    used = [int(each) for each in ticks]  # without guests', which are in user and nice already (proc_stat(5))
    memory = {line.partition(":")[0]: line.split()[1] for line in _lines(_PROC / "meminfo") if ":" in line}
    interfaces = [line.partition(":") for line in _lines(_PROC / "net" / "dev") if ":" in line]
    octets = [rest.split() for name, _, rest in interfaces if name.strip() != "lo"]
    disk = disk_used = 0
    with contextlib.suppress(OSError):
        told = os.statvfs(directory)
        disk, disk_used = told.f_blocks * told.f_frsize, (told.f_blocks - told.f_bfree) * told.f_frsize
    return Machine(
        os.cpu_count() or 0,
        sum(used),
        sum(used[3:5]),
        1024 * int(memory.get("MemTotal", 0)),
        1024 * int(memory.get("MemAvailable", 0)),
        disk,
        disk_used,
        sum(int(each[0]) for each in octets),
        sum(int(each[8]) for each in octets),
    )


def read_sockets(addresses: Iterable[str], port: int) -> Sockets:
    """What /proc/net says of the UDP sockets on *addresses* and *port*, and of listening."""
    wanted = {f"{_as_in_proc(address)}:{port:04X}" for address in addresses}
    drops = waiting = 0
    for table in ("udp", "udp6"):
        for line in _lines(_PROC / "net" / table)[1:]:
            fields = line.split()
            if len(fields) >= 13 and fields[1] in wanted:
                waiting += int(fields[4].partition(":")[2], 16)
                drops += int(fields[12])
    return Sockets(drops, waiting, _listen_overflows())


def _as_in_proc(address: str) -> str:
    """An IP address as /proc/net/udp writes it: 32-bit words in host order."""
    packed = ipaddress.ip_address(address.partition("%")[0]).packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words)


def _listen_overflows() -> int:
    lines = [line.split() for line in _lines(_PROC / "net" / "netstat") if line.startswith("TcpExt:")]
    if len(lines) != 2 or "ListenOverflows" not in lines[0]:
        return 0
    return int(lines[1][lines[0].index("ListenOverflows")])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
