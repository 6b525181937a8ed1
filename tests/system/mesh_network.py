"""Six members of a mesh, each in a namespace of its own with its BIRD, around one router.

    m0 … m5 (rootsrv, BIRD) ── 10.0.1.0/24 … 10.0.6.0/24, fd00:0:1::/64 … ── r (BIRD, NSD, three nodes of etcd)

m0 and m1 are distribution hosts and have their zones from NSD, the others from them; m4 and m5 are canaries.  All are
started as an operator starts them.  What of the service prefix is announced is read from the router's BIRD.
"""

import concurrent.futures
import contextlib
import functools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.peers.bird import Bird, route
from bench.peers.etcd import Cluster, cluster
from bench.peers.primaries import KEY_NAME
from rootsrv.mesh.roster import Timing
from rootsrv.zone import instant
from rootsrv.zone.contents import ZoneContents
from tests.mesh.fleets import flips_in, section
from tests.mesh.mesh_of import QUICK, Mesh, mesh_of
from tests.network import Host, network
from tests.secondary import versions
from tests.secondary.maintained import SMALL_LIMITS
from tests.secondary.scripted import KEY_SECTION
from tests.system.anycast_network import (
    PREFIX,
    SERVICE,
    Site,
    address,
    bird_router_configuration,
    nsd_on,
)

STEADY = replace(QUICK, wait=20, max_delay=20, void=40)
"""Of six instances on one small machine some are ready ten seconds after the first: they count from the offer, too."""

MEMBERS = 6
HOSTS = ("m0", "m1")
CANARIES = ("m4", "m5")
ADMIN_PORT = 5353
PRIMARY_PORT = 5300
REPORT_PORT = 9353
CLIENT_NETWORK = 100
WAIT_SECONDS = 60.0  # the machine may be busy with other tests

GENUINE_LIMITS = SMALL_LIMITS.replace("max_octets = 300000", "max_octets = 30000000").replace(
    "max_records = 1000", "max_records = 100000"
)


@dataclass
class MeshSite(Site):
    """One member."""

    name: str = ""

    def configure_member(self, mesh: Mesh, engine: Cluster, anchors: str, limits: str) -> None:
        """Write its configuration."""
        here = address(self.number, 1, 4)
        if self.name in HOSTS:
            at = address(self.number, 2, 4)
            sections = f'[[primary]]\nname = "nsd"\naddress = "{at}"\nport = {PRIMARY_PORT}\nzones = ["."]\n' + "".join(
                f'[[peer]]\nname = "m{n}"\naddress = "{address(n + 1, 1, 4)}"\nport = {ADMIN_PORT}\n'
                f'key = "{KEY_NAME}"\n'
                for n in range(len(mesh.roster.member))
                if n + 1 != self.number
            )
        else:
            sections = "".join(
                f'[[primary]]\nname = "{name}"\naddress = "{address(number, 1, 4)}"\nport = {ADMIN_PORT}\n'
                f'zones = ["."]\nkey = "{KEY_NAME}"\n'
                for number, name in enumerate(HOSTS, 1)
            )
        (self.directory / "anchors").write_text(anchors)
        (self.directory / "rootsrv.toml").write_text(
            f"""
[service]
addresses = ["{SERVICE[4]}", "{SERVICE[6]}"]
workers = 2
[identity]
nsid = "{self.name}"
[admin]
addresses = ["{here}"]
port = {ADMIN_PORT}
[report]
port = {REPORT_PORT}
[[zone]]
name = "."
trust_anchors = "anchors"
[state]
directory = "{self.directory}/state"
runtime_directory = "{self.directory}/run"
[switchover]
align_seconds = 0
grace_seconds = 3
[clock]
source = "trusted"
[anycast]
prefix_v4 = "{PREFIX[4]}"
prefix_v6 = "{PREFIX[6]}"
manage_addresses = true
bird_socket = "{self.directory}/bird/bird.ctl"
bgp_v4 = ["upstream4"]
bgp_v6 = ["upstream6"]
hold_down_seconds = 1
hold_down_max_seconds = 1
drain_seconds = 10
stop_linger_seconds = 1
{limits}
{KEY_SECTION}
{sections}
{section(mesh, self.name, self.directory, engine)}
"""
        )

    def status(self) -> dict[str, Any]:
        """What its role maintain says; empty while it does not."""
        with contextlib.suppress(OSError, ValueError):
            return self.ask("maintain", {"command": "status"})
        return {}

    def serial(self) -> int | None:
        """The serial that its service address answers, asked from itself; None without a good answer."""
        said = self.host.run(
            "dig", "+norec", "+time=1", "+tries=2", f"@{SERVICE[4]}", ".", "SOA", "+short", check=False
        )
        fields = said.split()
        return int(fields[2]) if len(fields) > 2 and fields[2].isdigit() else None

    @contextlib.contextmanager
    def cut_off(self, *ports: int) -> Iterator[float]:
        """nft drops all it sends to the router's and the other members' TCP *ports*, for the block."""
        listed = ", ".join(map(str, ports))
        self.host.run("nft", "add table inet cut; add chain inet cut out { type filter hook output priority 0; }")
        self.host.run("nft", f"add rule inet cut out tcp dport {{ {listed} }} drop")
        try:
            yield time.time()
        finally:
            self.host.run("nft", "delete table inet cut")


@dataclass(frozen=True)
class Way:
    """How a member went into service with a version; seconds since 1970."""

    at: float
    due: float
    """T, a whole second."""

    by: str
    """The rule or order that T is of."""

    heard_late: float
    """How long after its T it heard of an order; 0 = it did before."""

    def __str__(self) -> str:
        heard = f", heard {self.heard_late:.1f} s late" if self.heard_late else ""
        return f"T {self.due % 1000:.0f} + {1000 * (self.at - self.due):.0f} ms ({self.by}{heard})"


@dataclass
class MeshNetwork:
    """The whole of it."""

    router: Host
    bird: Bird
    engine: Cluster
    mesh: Mesh
    members: dict[str, MeshSite]
    zone_file: Path
    primary_pid: int
    text: Callable[[int], bytes]
    """The zone file of a serial."""

    client: Host
    """Behind the router, with routes to everybody."""

    down: set[str] = field(default_factory=set)
    """Members that a test has ended."""

    def living(self) -> dict[str, MeshSite]:
        """Those that should run."""
        return {name: each for name, each in self.members.items() if name not in self.down}

    def wait(self, condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = WAIT_SECONDS) -> Any:
        """The first true value of *condition*."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                told = what if isinstance(what, str) else what()
                logs = "\n".join(f"--- {name}\n{each.log[-5000:]}" for name, each in self.members.items())
                raise AssertionError(f"not within {seconds} s: {told}\n{logs}")
            time.sleep(0.1)
        return value

    def ask(self, name: str, command: str = "status", **facts: Any) -> dict[str, Any]:
        """What the role mesh of a member says; empty while it does not."""
        with contextlib.suppress(OSError, ValueError):
            return self.members[name].ask("mesh", {"command": command, **facts})
        return {}

    def publish(self, serial: int) -> None:
        """A new version at the primary; the distribution hosts ask for it."""
        beside = self.zone_file.with_suffix(".next")
        beside.write_bytes(self.text(serial))
        beside.replace(self.zone_file)
        os.kill(self.primary_pid, signal.SIGHUP)
        self.wait(lambda: f" {serial} " in self._primary_soa(), f"NSD has {serial}")
        for name in HOSTS:
            if name not in self.down:
                self.members[name].rootsrv("zone", "refresh")

    def _primary_soa(self) -> str:
        at = address(1, 2, 4)
        return self.router.run("dig", f"@{at}", "-p", str(PRIMARY_PORT), ".", "SOA", "+short", "+time=1", check=False)

    def serials(self) -> dict[str, int | None]:
        """What each living member has in service."""
        return {
            name: next((each["served"] for each in site.status().get("zones", [])), None)
            for name, site in self.living().items()
        }

    def wait_for_all(self, serial: int, seconds: float = WAIT_SECONDS) -> None:
        """Until all living members have *serial* in service, have said so, and answer it."""
        self.wait(
            lambda: set(self.living()) <= set(self.flips(serial)),
            lambda: f"{serial} everywhere: {self.serials()}",
            seconds,
        )
        for site in self.living().values():
            self.wait(functools.partial(_answers, site, serial), f"{site.name} answers {serial}")

    def flips(self, serial: int) -> dict[str, float]:
        """When each member went into service with *serial*, seconds since 1970, as it wrote down itself."""
        return flips_in({name: each.log for name, each in self.members.items()}, serial)

    def ways(self, serial: int) -> dict[str, "Way"]:
        """How each member went into service with *serial*, as it wrote down itself."""
        found = {}
        for name, at in self.flips(serial).items():
            lines = [line for line in self.members[name].log.splitlines() if f"serial={serial} " in line]
            by = [line.partition(" by=")[2].strip('"') for line in lines if " set time " in line]
            served = next(
                e for e in self.members[name].log.splitlines() if "zones in service" in e and f".={serial}" in e
            )
            due = served.partition("was_due=")[2].split()[0]
            late = [float(line.partition("late_seconds=")[2].split()[0]) for line in lines if "late_seconds=" in line]
            due_at = at if due == "now" else instant.from_text(due)
            found[name] = Way(at, due_at, by[-1] if by else "", max(late, default=0.0))
        return found

    def orders(self, stage: str, serial: int) -> list[dict[str, Any]]:
        """The orders of this stage that m2 has heard."""
        return [e for e in self.ask("m2").get("orders", []) if (e["stage"], e["serial"]) == (stage, serial)]

    def leader(self) -> str:
        """Which distribution host leads; empty = none does."""
        return next((name for name in HOSTS if name not in self.down and self.ask(name).get("leads")), "")

    def stand(self, serial: int) -> str:
        """Where the leader's distribution of *serial* stands."""
        leader = self.leader()
        for each in self.ask(leader).get("distribution", []) if leader else []:
            if each["serial"] == serial:
                return str(each["state"])
        return ""

    def announced(self, version: int = 4) -> set[str]:
        """Members whose route to the service prefix the router has, whatever it prefers."""
        said = self.bird.birdc("show", "route", "for", PREFIX[version], "all")
        gateways = set(re.findall(r"via (\S+)", said))
        return {name for name, site in self.members.items() if site.gateway(version) in gateways}

    def withdrawals(self) -> int:
        """How often members have withdrawn, as they wrote down themselves."""
        return sum(site.log.count(" site withdrawn ") for site in self.members.values())


def _answers(site: MeshSite, serial: int) -> bool:
    return site.serial() == serial


@functools.cache
def small_contents(serial: int) -> ZoneContents:
    """A small signed root, the same for the same serial."""
    return versions.version(serial)


def small_zone(serial: int) -> bytes:
    """The same, as text."""
    return versions.text(small_contents(serial))


@contextlib.contextmanager
def mesh_network(
    directory: Path,
    first: int,
    *,
    text: Callable[[int], bytes] = small_zone,
    anchors: str = "",
    environment: dict[str, str] | None = None,
    limits: str = SMALL_LIMITS,
    quota_octets: int = 0,
    members: int = MEMBERS,
    canaries: int = len(CANARIES),
    metrics: bool = False,
    timing: Timing = STEADY,
) -> Iterator[MeshNetwork]:
    """All of it, with all members announced and answering *first*, until the block ends.

    *metrics*: the roster says where each member's are.
    """
    numbers = range(1, members + 1)
    mesh = mesh_of(members, hosts=len(HOSTS), canaries=canaries, timing=timing)
    if metrics:
        pages = [f"{address(number, 1, 4)}:{REPORT_PORT}" for number in numbers]
        listed = zip(mesh.roster.member, pages, strict=True)
        mesh = mesh.changed(member=tuple(replace(member, metrics=page) for member, page in listed))
    with network() as net, contextlib.ExitStack() as stack:
        router = net.host("r")
        hosts = {number: net.host(f"m{number - 1}") for number in numbers}
        for number, host in hosts.items():
            pairs = tuple(
                (f"{address(number, 1, version)}/{length}", f"{address(number, 2, version)}/{length}")
                for version, length in ((4, 24), (6, 64))
            )
            net.link(host, router, f"to-m{number - 1}", pairs)
            host.ip("route", "add", "default", "via", address(number, 2, 4))
            host.ip("-6", "route", "add", "default", "via", address(number, 2, 6))
        client = net.host("c")
        net.link(
            client, router, "to-client",
            tuple((f"{address(CLIENT_NETWORK, 1, version)}/{length}", f"{address(CLIENT_NETWORK, 2, version)}/{length}")
                  for version, length in ((4, 24), (6, 64))),
        )  # fmt: skip
        client.ip("route", "add", "default", "via", address(CLIENT_NETWORK, 2, 4))
        client.ip("-6", "route", "add", "default", "via", address(CLIENT_NETWORK, 2, 6))
        router.forward()
        bird = stack.enter_context(route(router, directory / "router", bird_router_configuration(numbers)))
        at = address(1, 2, 4)
        engine = stack.enter_context(
            cluster(
                directory / "engine",
                3,
                clients=["member"],
                address=at,
                prefix=tuple(router.prefix),
                quota_octets=quota_octets,
            )
        )
        addresses = [address(number, 2, 4) for number in numbers[:2]]
        pid = stack.enter_context(nsd_on(router, directory / "nsd", addresses, PRIMARY_PORT, text(first)))
        sites = {}
        for number, host in hosts.items():
            name = f"m{number - 1}"
            site = MeshSite(number, host, directory / name, environment=environment or {}, name=name)
            site.directory.mkdir()
            stack.callback(_end, site)
            site.start_bird()
            site.configure_member(mesh, engine, anchors or versions.anchor(), limits)
            site.start()
            sites[name] = site
        made = MeshNetwork(router, bird, engine, mesh, sites, directory / "nsd" / "root.zone", pid, text, client)
        made.wait_for_all(first, 120)
        for site in sites.values():
            site.await_state("up", 90)
        made.wait(
            lambda: all(made.ask(name).get("engine", {}).get("there") for name in sites) and made.leader(),
            "the engine is there, and somebody leads",
        )
        yield made


def _end(site: Site) -> None:
    if site.process is not None:
        site.kill()
    site.birds.close()


def break_tables(sites: Sequence[Site], generations: Sequence[int]) -> None:
    """Have no worker of *sites* able to map the one of *generations* that is staged there; answers go on."""
    with concurrent.futures.ThreadPoolExecutor(len(sites)) as pool:
        list(pool.map(_break_table, sites, generations))


def _break_table(site: Site, generation: int) -> None:
    path = site.directory / "state" / "tables" / f"{generation}.table"
    damaged = path.with_suffix(".damaged")
    damaged.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    damaged.replace(path)
    page = site.page
    before = page.active
    for slot in range(page.workers):  # one after the other: one of them always answers
        pid = page.worker(slot).pid
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + WAIT_SECONDS
        while page.worker(slot).pid in {0, pid} or page.worker(slot).active != before:
            assert time.monotonic() < deadline, f"worker {slot} of {site.host.name} is not replaced"
            time.sleep(0.02)


def spread_ms(flips: dict[str, float], names: Sequence[str] | set[str]) -> float:
    """Between the first and the last of *names*."""
    times = [flips[name] for name in names]
    return 1000 * (max(times) - min(times))
