"""`python -m bench load`: offer load to one server, and say what came back."""
# Only loopback is asked without further words: whoever sends a million packets per second to anybody else has to say
# that the target is theirs.  The servers of `compare` and `peak` are in namespaces that the benchmark itself made.

import fcntl
import ipaddress
import json
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.engine_kernel import KernelEngine
from bench.engine_socket import SocketEngine
from bench.engine_tcp import TcpEngine
from bench.load import Engine, Load, Target
from bench.queries import Query

MAX_SECONDS = 3600.0
MAX_RATE = 20_000_000.0
MAX_PACKETS = 4_000_000_000
_SIOCGIFHWADDR = 0x8927  # linux/sockios.h


class NotOurs(Exception):
    """The target is neither loopback nor declared to be the operator's own."""


class CannotLoad(Exception):
    """The load cannot be made; the text names what is wrong or missing."""


@dataclass(frozen=True)
class Order:
    """What load is wanted."""

    targets: tuple[str, ...]
    port: int = 53
    rate: float | None = None
    seconds: float = 10.0
    packets: int = 0
    """At most; 0 = as many as rate and time make."""

    engine: str = "socket"
    interface: str | None = None
    source_prefixes: tuple[str, ...] = ()
    connections: int = 32
    window: int = 1
    owned: bool = False

    def check(self) -> Target:
        """The target; NotOurs or CannotLoad if this order must not be carried out."""
        addresses: dict[int, str] = {}
        for text in self.targets:
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                raise CannotLoad(f"--target: {text!r} is not an IP address") from None
            if address.version in addresses:
                raise CannotLoad(f"--target: one address per family, got {addresses[address.version]} and {text}")
            if not address.is_loopback and not self.owned:
                raise NotOurs(
                    f"--target {text}: not loopback.  Load goes only to servers of one's own: say --i-own-this-target"
                )
            addresses[address.version] = text
        for name, value, highest in (
            ("--seconds", self.seconds, MAX_SECONDS),
            ("--port", self.port, 65_535),
            ("--rate", 1 if self.rate is None else self.rate, MAX_RATE),
            ("--packets", self.packets or 1, MAX_PACKETS),
        ):
            if not 0 < value <= highest:
                raise CannotLoad(f"{name}: must be above 0 and at most {highest:,.0f}, got {value:g}")
        if self.packets and self.rate is None:
            raise CannotLoad("--packets: needs a --rate")
        if self.engine == "kernel" and any(ipaddress.ip_address(text).is_loopback for text in self.targets):
            raise CannotLoad("--engine kernel: loopback takes no frames from a program; use --engine socket")
        if self.engine == "kernel" and self.interface is None:
            raise CannotLoad("--engine kernel: needs --interface")
        return Target(addresses.get(4), addresses.get(6), self.port)

    @property
    def bounded_seconds(self) -> float:
        """The time that *packets* leaves."""
        if self.packets and self.rate:
            return min(self.seconds, self.packets / self.rate)
        return self.seconds


def make_engine(order: Order, queries: Sequence[Query]) -> Engine:
    """The engine for *order*, in this process."""
    target = order.check()
    udp = [query for query in queries if not query.tcp]
    match order.engine:
        case "socket":
            return SocketEngine(udp, target)
        case "tcp":
            return TcpEngine(queries, target, connections=order.connections, window=order.window)
        case "tcp-once":
            return TcpEngine(queries, target, connections=order.connections, persistent=False)
    assert order.interface is not None
    return KernelEngine(
        udp,
        target,
        interface=order.interface,
        macs=(_own_mac(order.interface), _next_hop_mac(order.interface, order.targets[0])),
        sources=_prefixes(order),
    )


def _prefixes(order: Order) -> tuple[str, str]:
    by_version = {4: "", 6: ""}
    for text in order.source_prefixes:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise CannotLoad(f"--source-prefix: {error}") from None
        by_version[network.version] = text
    for target in order.targets:
        version = ipaddress.ip_address(target).version
        if not by_version[version]:
            raise CannotLoad(f"--source-prefix: an IPv{version} prefix that is routed to this host is needed")
    return by_version[4] or "198.19.0.0/16", by_version[6] or "2001:2:0:2::/64"


def _own_mac(interface: str) -> str:
    # Not from /sys: that shows the namespace in which it was mounted.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFHWADDR, interface.encode()[:15].ljust(40, b"\0"))
        except OSError:
            raise CannotLoad(f"--interface: there is no {interface} here") from None
    return answer[18:24].hex(":")


def _next_hop_mac(interface: str, target: str) -> str:
    """The link address that the kernel would send to."""
    if shutil.which("ip") is None:
        raise CannotLoad("the program ip (iproute2) is not installed")
    with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((target, 9))
        probe.send(b"")  # has the neighbour resolved
    routes = _ip("route", "get", target)
    hop = routes[0].get("gateway", target) if routes else target
    for neighbour in _ip("neigh", "show", hop, "dev", interface):
        if "lladdr" in neighbour:
            return str(neighbour["lladdr"])
    raise CannotLoad(f"{target}: the link address of its next hop {hop} on {interface} is not known")


def _ip(*arguments: str) -> list[dict[str, Any]]:
    asked = subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=False)
    return list(json.loads(asked.stdout)) if asked.returncode == 0 and asked.stdout.strip() else []


def to_text(load: Load) -> str:
    """What a run found, for a terminal."""
    lines = [
        f"offered  {load.sent:,} queries in {load.seconds:.2f} s ({load.offered_rate:,.0f}/s)",
        f"answered {load.answered:,} ({load.answered_share:.4%}, {load.answer_rate:,.0f}/s), lost {load.lost:,}",
        f"latency  p50 {load.latency_at(0.5) * 1e6:,.0f} µs, p99 {load.latency_at(0.99) * 1e6:,.0f} µs",
        "rcodes   " + ", ".join(f"{rcode}: {count:,}" for rcode, count in load.rcodes.items()),
        f"size     {load.octets / max(1, load.answered):,.0f} octets on average, truncated {load.truncated:,}",
    ]
    if load.wrong:
        lines.append("wrong    " + ", ".join(f"{what}: {count:,}" for what, count in load.wrong.items()))
    if load.asked_rate and load.offered_rate < 0.98 * load.asked_rate:
        lines.append(f"the generator did not keep up: {load.asked_rate:,.0f}/s were asked for")
    return "\n".join(lines) + "\n"
