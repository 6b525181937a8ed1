"""Two racks with a Debian box each that boots, their routers, a core and a client; a management network for both.

              ┌── eth0 ── box1 ── eth1 ── router1 ──┐
    manager ──┤                                     core ── client
              └── eth0 ── box2 ── eth1 ── router2 ──┘

The first box has the addresses of docs/install.md and deploy/site.toml.  The manager is also the hidden primary (NSD).
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.peers.bird import route
from bench.peers.daemon import running
from bench.peers.nsd import configuration as nsd_configuration
from tests.needs import REPOSITORY, require_tool
from tests.network import Host, Network, network
from tests.server.live import zone_files

SERVICE = "192.0.2.53"
PREFIX = "192.0.2.0/24"
PRIMARY = "203.0.113.53"


@dataclass(frozen=True)
class Link:
    """Addresses of a box on its link to the router, and the router's."""

    box4: str
    router4: str
    box6: str
    router6: str


LINKS = (
    Link("198.51.100.1", "198.51.100.2", "2001:db8:ffff::1", "2001:db8:ffff::2"),
    Link("198.51.100.5", "198.51.100.6", "2001:db8:ffff:1::1", "2001:db8:ffff:1::2"),
)
ADMIN = (("203.0.113.10", "2001:db8:a::10"), ("203.0.113.138", "2001:db8:b::10"))
"""Administrative addresses of the two boxes."""

_MANAGER = (("203.0.113.53/25", "2001:db8:a::53/64"), ("203.0.113.181/25", "2001:db8:b::53/64"))
LOCAL_AS = (65001, 65002)


def join_router(net: Network, number: int, box: Host, router: Host, core: Host, link: Link) -> None:
    """Cables from *box* to its router and from there to the core; the router forwards."""
    net.link(
        box, router, "eth1", ((f"{link.box4}/30", f"{link.router4}/30"), (f"{link.box6}/64", f"{link.router6}/64"))
    )
    net.link(router, core, f"core{number}", ((f"10.9.{number}.1/30", f"10.9.{number}.2/30"),))
    router.ip("route", "add", "default", "via", f"10.9.{number}.2")
    router.forward()


def router_configuration(number: int, link: Link, box_as: int) -> str:
    """BIRD of rack *number*'s router: the box on one side, the core on the other."""
    return f"""
log stderr all;
router id 10.9.{number}.1;
protocol device {{ scan time 10; }}
protocol kernel {{ ipv4 {{ import none; export all; }}; }}
protocol bfd {{ interface "eth1" {{ min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }}; }}
template bgp box {{
    local as 65000; hold time 9; connect delay time 1; error wait time 1, 5; bfd yes; ttl security yes;
    password "change-me"; graceful restart no;
}}
protocol bgp box4 from box {{
    local {link.router4}; neighbor {link.box4} as {box_as}; ipv4 {{ import all; export none; }};
}}
protocol bgp box6 from box {{
    local {link.router6}; neighbor {link.box6} as {box_as}; ipv6 {{ import all; export none; }};
}}
protocol bgp core {{
    local 10.9.{number}.1 as 65000; neighbor 10.9.{number}.2 as 65100; connect delay time 1; error wait time 1, 5;
    graceful restart no; ipv4 {{ import none; export where proto = "box4"; next hop self; }};
}}
"""


CORE = """
log stderr all;
router id 10.9.0.1;
protocol device { scan time 10; }
protocol kernel { ipv4 { import none; export all; }; }
filter from_site { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; }
template bgp site {
    local as 65100; connect delay time 1; error wait time 1, 5; graceful restart no;
}
protocol bgp site1 from site {
    local 10.9.1.2; neighbor 10.9.1.1 as 65000; ipv4 { import filter from_site; export none; };
}
protocol bgp site2 from site {
    local 10.9.2.2; neighbor 10.9.2.1 as 65000; ipv4 { import filter from_site; export none; };
}
"""


def way_to(core: Host) -> str:
    """Where the core sends the service prefix; empty: nowhere."""
    found = re.search(r"via (\S+)", core.ip("route", "show", PREFIX))
    return found[1] if found else ""


def asked_by(client: Host) -> str:
    """What *client* gets for the root's SOA."""
    return client.run("dig", f"@{SERVICE}", "+dnssec", "+norec", "+tries=1", "+time=2", ".", "SOA", check=False)


@contextlib.contextmanager
def primary(manager: Host, directory: Path, boxes: tuple[str, ...]) -> Iterator[None]:
    """The hidden primary: NSD, at PRIMARY, for *boxes*."""
    nsd = require_tool("nsd")
    directory.mkdir()
    (directory / "root.zone").write_bytes(zone_files().versions[0])
    zone = 'zone:\n    name: "."\n    zonefile: "root.zone"\n'
    zone += "".join(f"    provide-xfr: {each} NOKEY\n" for each in boxes)
    nsd_configuration(directory, (PRIMARY,), 53, clauses=zone)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*manager.prefix, nsd, "-d", "-c", "nsd.conf"], cwd=directory, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def in_chroot(root: Path, script: str) -> str:
    """What *script* prints in *root*, before the machine boots, with this machine's way to the package archives."""
    names = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL")
    words = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    if bundle := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
        shutil.copy(bundle, root / "ca-bundle.crt")
        words.append("PIP_CERT=/ca-bundle.crt")
    enter = 'mount -t proc proc "$1/proc"; exec chroot "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", enter, "sh", str(root), "/usr/bin/env", "-i",
         "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *words,
         "sh", "-ec", f"cd /root\n{script}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@dataclass(frozen=True)
class Racks:
    """Everything but the machines."""

    directory: Path
    net: Network
    manager: Host
    boxes: tuple[Host, Host]
    core: Host
    client: Host


@contextlib.contextmanager
def racks(directory: Path) -> Iterator[Racks]:
    """Cabled, with routers and primary up."""
    with network() as net, contextlib.ExitStack() as stack:
        manager, core, client = net.host("mgr"), net.host("core"), net.host("client")
        boxes = (net.host("box1"), net.host("box2"))
        for number, (box, link) in enumerate(zip(boxes, LINKS, strict=True), 1):
            router = net.host(f"rtr{number}")
            (admin4, admin6), (manager4, manager6) = ADMIN[number - 1], _MANAGER[number - 1]
            addresses = ((f"{admin4}/25", manager4), (f"{admin6}/64", manager6))
            net.link(box, manager, "eth0", addresses, f"box{number}")
            box.ip("route", "add", "default", "via", manager4.partition("/")[0])
            join_router(net, number, box, router, core, link)
            configured = router_configuration(number, link, LOCAL_AS[number - 1])
            stack.enter_context(route(router, directory / f"router{number}", configured))
        net.link(core, client, "inside", (("100.64.0.1/24", "100.64.0.2/24"),))
        client.ip("route", "add", "default", "via", "100.64.0.1")
        for host in (core, manager):
            host.forward()
        stack.enter_context(route(core, directory / "core", CORE))
        stack.enter_context(primary(manager, directory / "primary", tuple(each for each, _ in ADMIN)))
        yield Racks(directory, net, manager, boxes, core, client)


@contextlib.contextmanager
def engine(manager: Host, directory: Path, authority: Path) -> Iterator[str]:
    """The URL of a node of etcd at the manager, with certificates as an operator makes them."""
    script = REPOSITORY / "deploy/etcd/rootsrv-etcd-certificates"
    for words in (("authority", authority), ("node", authority, "node", PRIMARY)):
        subprocess.run([script, *words], check=True, timeout=60, stdout=subprocess.DEVNULL)
    url = f"https://{PRIMARY}:2379"
    peers = f"https://{PRIMARY}:2380"
    command = [
        *manager.prefix, require_tool("etcd"), "--name", "node", "--data-dir", str(directory / "etcd"),
        "--log-level", "error", "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"node={peers}",
        "--client-cert-auth", "--trusted-ca-file", str(authority / "ca.pem"),
        "--cert-file", str(authority / "node.pem"), "--key-file", str(authority / "node.key"),
        "--peer-client-cert-auth", "--peer-trusted-ca-file", str(authority / "ca.pem"),
        "--peer-cert-file", str(authority / "node.pem"), "--peer-key-file", str(authority / "node.key"),
    ]  # fmt: skip
    listens = lambda: ":2379" in manager.run("ss", "-tln")  # noqa: E731
    with running("etcd", command, directory / "etcd.log", listens):
        yield url
