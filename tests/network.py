"""Network namespaces of a test's own: hosts with a loopback each, joined by veth pairs.  Needs root."""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.needs import require_root, require_tool

_number = itertools.count()


@dataclass(frozen=True)
class Host:
    """One network namespace."""

    name: str
    """Its name for `ip netns`: rs-<pid of the test run>-<number>-<name>."""

    @property
    def prefix(self) -> list[str]:
        """What to put before a command so that it runs there."""
        return ["ip", "netns", "exec", self.name]

    def run(self, *command: str, check: bool = True) -> str:
        """Run *command* there; what it prints."""
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, timeout=30, check=False)
        if check and done.returncode:
            raise AssertionError(f"{self.name}: {' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def forward(self) -> None:
        """Make it a router, once it has its links.

        Without reverse path filter: a strict one (RFC 3704 §2.2) drops what a site still answers while the traffic to
        its anycast address already goes to another.
        """
        self.run(
            "sh", "-ec",
            "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; "
            "for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $each; done",
        )  # fmt: skip

    def ip(self, *arguments: str) -> str:
        """`ip arguments` there."""
        return _ip("-n", self.name, *arguments)


class Network:
    """Hosts that `network` removes in the end, with all that is in them."""

    def __init__(self) -> None:
        self._hosts: list[Host] = []
        self._stem = f"rs-{os.getpid()}-{next(_number)}"

    def host(self, name: str) -> Host:
        """A new host with its loopback up."""
        host = Host(f"{self._stem}-{name}")
        _ip("netns", "add", host.name)
        self._hosts.append(host)
        host.ip("link", "set", "lo", "up")
        return host

    def link(
        self, one: Host, other: Host, interface: str, addresses: tuple[tuple[str, str], ...], at_other: str = ""
    ) -> None:
        """Join two hosts by a veth pair; *addresses* are pairs (one's, the other's).

        It is called *interface* at both ends, or *at_other* at the other one's.
        """
        names = (interface, at_other or interface)
        _ip("link", "add", names[0], "netns", one.name, "type", "veth", "peer", names[1], "netns", other.name)
        for host, name, side in zip((one, other), names, (0, 1), strict=True):
            for pair in addresses:
                # nodad: duplicate address detection would keep an IPv6 address unusable for a second.
                flags = ["nodad"] if ":" in pair[side] else []
                host.ip("address", "add", pair[side], "dev", name, *flags)
            host.ip("link", "set", name, "up")

    def close(self) -> None:
        """Remove all hosts."""
        for host in self._hosts:
            with contextlib.suppress(AssertionError):
                _ip("netns", "delete", host.name)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network for the block."""
    require_root()
    require_tool("ip")
    _remove_orphans()
    made = Network()
    try:
        yield made
    finally:
        made.close()


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def _remove_orphans() -> None:
    """Remove what test runs that were killed have left behind: their pid, which is in the name, is gone."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        parts = name.split("-")
        if len(parts) == 4 and parts[0] == "rs" and parts[1].isdigit() and not os.path.exists(f"/proc/{parts[1]}"):
            with contextlib.suppress(AssertionError):
                _ip("netns", "delete", name)
