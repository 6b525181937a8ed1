"""Two network namespaces and the veth pair between them, gone with the process that made them.

The namespaces have no name: each lives as long as its holder, a sleeping process that the kernel kills with its parent.
So they end whatever happens to the benchmark, SIGKILL included.
"""

import ctypes
import os
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

_CLONE_NEWNET = 0x40000000
_START_SECONDS = 5.0
# util-linux does between fork and exec what Python should not do there.
_DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")

# Benchmarking prefixes (RFC 2544 §C.2.2, RFC 5180 §8): never routed on the Internet.
SERVER_IPV4, SERVER_IPV6 = "198.18.0.53", "2001:2:0:1::53"
CLIENT_IPV4, CLIENT_IPV6 = "198.18.0.1", "2001:2:0:1::1"
SOURCE_PREFIX_IPV4, SOURCE_PREFIX_IPV6 = "198.19.0.0/16", "2001:2:0:2::/64"
SERVER_INTERFACE, CLIENT_INTERFACE = "rs-server", "rs-client"
SERVER_MAC, CLIENT_MAC = "02:00:00:00:00:53", "02:00:00:00:00:01"


class NetworkUnavailable(Exception):
    """Namespaces cannot be made here."""


_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: str) -> None:
    """Move this thread into the network namespace at *path*."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise NetworkUnavailable(f"{path}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


class Namespace:
    """One network namespace."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            [*_DIES_WITH_PARENT, "unshare", "--net", "--", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for all of a session's foreground: we end it when all is put away
        )
        self.path = f"/proc/{self._holder.pid}/ns/net"
        ours = os.stat("/proc/self/ns/net").st_ino
        deadline = time.monotonic() + _START_SECONDS
        while os.stat(self.path).st_ino == ours:
            if self._holder.poll() is not None or time.monotonic() > deadline:
                self._holder.kill()
                said = self._holder.communicate()[1].decode().strip()
                raise NetworkUnavailable(f"a network namespace cannot be made (root is needed): {said}")
            time.sleep(0.001)

    def spawn(self, command: Sequence[str], *, cpu: int | None = None, **options: Any) -> "subprocess.Popen[bytes]":
        """Start *command* inside, pinned to *cpu*; it is killed when this process ends."""
        pinned = [] if cpu is None else ["taskset", "--cpu-list", str(cpu)]
        return subprocess.Popen(
            [*_DIES_WITH_PARENT, "nsenter", f"--net={self.path}", *pinned, *command], start_new_session=True, **options
        )

    def run(self, *command: str) -> str:
        """Run *command* inside to its end; NetworkUnavailable with what it said when it fails."""
        process = self.spawn(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=30)
        if process.returncode:
            said = output.decode(errors="replace").strip()
            raise NetworkUnavailable(f"`{' '.join(command)}`: {said or f'exit status {process.returncode}'}")
        return output.decode()

    def close(self) -> None:
        """End the holder; the namespace goes when nothing else is inside."""
        self._holder.kill()
        self._holder.wait()
        if self._holder.stderr:
            self._holder.stderr.close()


class Wire:
    """Server and client namespace, joined by a veth pair with fixed addresses.

    All of the source prefixes are local to the client side, so that sockets may be bound to any address in them, and
    the server side routes them back.
    """

    def __init__(self, *, tcp_apart: bool = False) -> None:
        """*tcp_apart*: two queues, as cards have several: what sockets send does not wait, nor get lost, behind what
        the kernel engine sends."""
        self._queues = 2 if tcp_apart else 1
        self.server = Namespace()
        try:
            self.client = Namespace()
        except NetworkUnavailable:
            self.server.close()
            raise
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        pid = self.client.path.split("/")[2]
        queues = f"numtxqueues {self._queues} numrxqueues {self._queues}"
        self.server.run(
            *f"ip link add {SERVER_INTERFACE} address {SERVER_MAC} {queues} type veth "
            f"peer name {CLIENT_INTERFACE} address {CLIENT_MAC} {queues} netns {pid}".split()
        )
        for side, interface, ipv4, ipv6, peers in (
            (self.server, SERVER_INTERFACE, SERVER_IPV4, SERVER_IPV6, (CLIENT_IPV4, CLIENT_IPV6, CLIENT_MAC)),
            (self.client, CLIENT_INTERFACE, CLIENT_IPV4, CLIENT_IPV6, (SERVER_IPV4, SERVER_IPV6, SERVER_MAC)),
        ):
            side.run("ip", "link", "set", "lo", "up")
            side.run(
                "sysctl", "-qw", f"net.ipv6.conf.{interface}.accept_dad=0", f"net.ipv6.conf.{interface}.accept_ra=0"
            )
            side.run("ip", "address", "add", f"{ipv4}/24", "dev", interface)
            side.run("ip", "address", "add", f"{ipv6}/64", "dev", interface, "nodad")
            side.run("ip", "link", "set", interface, "up")
            for address in peers[:2]:
                side.run("ip", "neigh", "replace", address, "lladdr", peers[2], "dev", interface, "nud", "permanent")
        # Frames that are redirected to a veth end are only taken when its receive side runs NAPI: with a native XDP
        # program of its own, or with GRO on.
        self.server.run("ethtool", "-K", SERVER_INTERFACE, "gro", "on")
        self.server.run("ip", "route", "add", SOURCE_PREFIX_IPV4, "via", CLIENT_IPV4)
        self.server.run("ip", "route", "add", SOURCE_PREFIX_IPV6, "via", CLIENT_IPV6)
        self.client.run("ip", "route", "add", "local", SOURCE_PREFIX_IPV4, "dev", "lo")
        self.client.run("ip", "route", "add", "local", SOURCE_PREFIX_IPV6, "dev", "lo")

    def send_apart_from(self, cpu: int) -> None:
        """Have sockets use the queue that a program on *cpu* does not redirect to (veth: its number by queues)."""
        every_cpu = f"{(1 << (os.cpu_count() or 1)) - 1:x}"
        setting = f"/sys/class/net/{CLIENT_INTERFACE}/queues/tx-{(cpu + 1) % self._queues}/xps_cpus"
        self.client.run("unshare", "--mount", "sh", "-c", f"mount -t sysfs none /sys && echo {every_cpu} > {setting}")

    def close(self) -> None:
        """Take all of it down."""
        self.client.close()
        self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def interface_counters(namespace: Namespace, interface: str) -> dict[str, int]:
    """Packets and drops of an interface, as `ip -s link` and the driver count them."""
    counters: dict[str, int] = {}
    for line in namespace.run("ethtool", "-S", interface).splitlines():
        name, _, value = line.strip().partition(": ")
        if value.isdigit():
            counters[name] = int(value)
    lines = namespace.run("ip", "-s", "link", "show", interface).splitlines()
    for direction in ("RX", "TX"):
        at = next(number for number, line in enumerate(lines) if line.strip().startswith(direction + ":"))
        values = lines[at + 1].split()
        counters[f"{direction.lower()}_packets"] = int(values[1])
        counters[f"{direction.lower()}_dropped"] = int(values[3])
    return counters
