"""An instance with the fast path on one end of a wire, and a client with a stack of its own at the other.

server (rootsrv; 192.0.2.53, 2001:db8::53) ── wire ── client (192.0.2.7, 2001:db8::7)
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rootsrv.page.layout import Page, PageUnusable
from tests.control.asking import ask
from tests.needs import REPOSITORY, require_tool
from tests.network import Host, Network, network
from tests.server.live import ZoneFiles, put_zones, wait_until, zone_files

WIRE = "wire"
SERVICE = {4: "192.0.2.53", 6: "2001:db8::53"}
CLIENT = {4: "192.0.2.7", 6: "2001:db8::7"}
START_SECONDS = 40.0


@dataclass
class Site:
    """Both hosts and the server."""

    network: Network
    server: Host
    client: Host
    directory: Path
    process: "subprocess.Popen[bytes]"
    zones: ZoneFiles

    @property
    def log(self) -> str:
        """All that the server has logged."""
        return (self.directory / "log").read_text()

    @property
    def page(self) -> Page:
        """The server's shared page."""
        return Page.open(self.directory / "run" / "page")

    def ask_serve(self, command: str, **request: Any) -> dict[str, Any]:
        """One command over the status socket of *serve*."""
        return self._ask("serve", command, request)

    def order(self, command: str, **request: Any) -> dict[str, Any]:
        """One command over the control socket of *maintain*."""
        return self._ask("maintain", command, request)

    def _ask(self, role: str, command: str, request: dict[str, Any]) -> dict[str, Any]:
        return ask(self.directory / "run" / f"{role}.sock", command, **request)

    def status(self) -> dict[str, Any]:
        """The fast path's."""
        return self.ask_serve("fastpath-status")

    def hook(self) -> str:
        """Where the program is attached."""
        hook: str = self.status()["interfaces"][0]["hook"]
        return hook

    def kernel_replies(self, family: int) -> int:
        """Responses that the kernel has sent."""
        return sum(self.status()["counters"]["replies"][f"ipv{family}"].values())

    def is_ready(self) -> bool:
        """Whether workers and kernel answer from the active generation."""
        try:
            page = self.page
            status = self.status()
        except (PageUnusable, OSError):
            return False
        workers = [page.worker(slot) for slot in range(page.workers)]
        return bool(
            page.active
            and workers
            and all(each.pid and each.active == page.active for each in workers)
            and (status["mode"] == "off" or status["active"] == page.active)
        )

    def dig(self, *arguments: str, tool: str = "dig") -> str:
        """What dig or kdig prints at the client."""
        once = "+tries=1" if tool == "dig" else "+retry=0"
        return self.client.run(tool, "+norec", once, "+time=3", *arguments, check=False)

    def serve_pid(self) -> int:
        """The process that owns the attachment."""
        pid: int = self.ask_serve("status")["pid"]
        return pid


def _start(server: Host, directory: Path, launcher: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            [*server.prefix, *launcher, sys.executable, "-m", "rootsrv", "run", "--config", directory / "rootsrv.toml"],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def start_server(made: "Site") -> None:
    """Start the server of *made* again, once it has ended; does not wait until it is ready."""
    made.process = _start(made.server, made.directory)


@contextlib.contextmanager
def site(
    directory: Path, fastpath: str = "", *, mode: str = "auto", workers: int = 1, launcher: Sequence[str] = ()
) -> Iterator[Site]:
    """A site that is ready; *fastpath* are further lines of its section, *launcher* comes before the command."""
    require_tool("dig")
    with network() as made:
        server, client = made.host("server"), made.host("client")
        made.link(
            server,
            client,
            WIRE,
            ((f"{SERVICE[4]}/24", f"{CLIENT[4]}/24"), (f"{SERVICE[6]}/64", f"{CLIENT[6]}/64")),
        )
        zones = put_zones(directory)
        (directory / "rootsrv.toml").write_text(
            f"""
[service]
addresses = ["{SERVICE[4]}", "{SERVICE[6]}"]
port = 53
workers = {workers}
[identity]
nsid = "wire.example"
[cookies]
secret = "000102030405060708090a0b0c0d0e0f"
{zones}
[fastpath]
mode = "{mode}"
interfaces = ["{WIRE}"]
{fastpath}
"""
        )
        process = _start(server, directory, launcher)
        made_site = Site(made, server, client, directory, process, zone_files())
        try:
            wait_until(lambda: made_site.is_ready() or made_site.process.poll() is not None, "ready", START_SECONDS)
            assert made_site.process.poll() is None, made_site.log
            yield made_site
        finally:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                made_site.process.terminate()
                made_site.process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(made_site.process.pid, signal.SIGKILL)
            made_site.process.wait()


# ── raw frames at the client's end ──

_CLONE_NEWNET = 0x40000000
_LISTEN_ALL = 0x0003  # ETH_P_ALL


def socket_in(host: Host, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket in the host's namespace."""
    opened: list[socket.socket] = []
    failed: list[OSError] = []

    def open_there() -> None:
        # A thread may enter a namespace on its own; the socket stays there when the thread is gone.
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{host.name}") as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                failed.append(OSError(ctypes.get_errno(), "setns"))
            else:
                opened.append(socket.socket(family, kind, protocol))

    thread = threading.Thread(target=open_there)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return opened[0]


class RawEnd:
    """A packet socket on the client's end of the wire: sends frames as they are, sees what arrives."""

    def __init__(self, host: Host) -> None:
        self.socket = socket_in(host, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_LISTEN_ALL))
        self.socket.bind((WIRE, _LISTEN_ALL))

    def send(self, frame: bytes) -> None:
        """Send a whole Ethernet frame."""
        self.socket.send(frame)

    def replies(self, count: int, seconds: float = 5.0) -> list[bytes]:
        """The first *count* DNS frames that arrive from the service; fewer when time is over."""
        found: list[bytes] = []
        self.socket.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            while len(found) < count:
                octets, address = self.socket.recvfrom(65535)
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                at = 14 + (20 if octets[12:14] == b"\x08\0" else 40)
                if octets[12:14] in (b"\x08\0", b"\x86\xdd") and octets[at : at + 2] == struct.pack("!H", 53):
                    found.append(octets)
        return found

    def close(self) -> None:
        self.socket.close()


def mac_of(host: Host) -> bytes:
    """The MAC address of a host's end of the wire."""
    (link,) = json.loads(host.ip("-j", "link", "show", "dev", WIRE))
    return bytes.fromhex(link["address"].replace(":", ""))
