"""What the kernel says of our processes and sockets (/proc); nothing, where there is no /proc."""

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
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
        # The command's name, in parentheses, may hold anything.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError, ValueError):
        return None
    return Process(name, pages * _PAGE_OCTETS, (int(fields[11]) + int(fields[12])) / _TICKS)


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
        return path.read_text().splitlines()
    except OSError:
        return []
