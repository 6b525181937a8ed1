"""Two instances that announce one service address to a router, and a client behind it; each in a namespace of its own.

    a (rootsrv, BIRD) ── 10.0.1.0/24, fd00:0:1::/64 ──┐
                                                      r (BIRD or FRR) ── 10.0.3.0/24, fd00:0:3::/64 ── c
    b (rootsrv, BIRD) ── 10.0.2.0/24, fd00:0:2::/64 ──┘

Both are started as an operator starts them, a with deploy/bird/global.conf, b with local.conf.  Where traffic goes, and
since when, is read from the router's kernel.  With equal paths the router prefers a, which has the lower router id.
"""
# Over 500 lines: it is one network, with both routers that it is tried with.

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from bench.peers.bird import Bird, deployed_configuration, route
from bench.peers.daemon import PeerFailed, running
from bench.peers.frr import frr, vtysh
from bench.peers.nsd import configuration as nsd_configuration
from rootsrv.page.layout import Page
from tests.control.asking import ask
from tests.needs import REPOSITORY, require_tool
from tests.network import Host, network
from tests.server.live import put_zones, wait_until

SERVICE = {4: "192.0.2.53", 6: "2001:db8::53"}
PREFIX = {4: "192.0.2.0/24", 6: "2001:db8::/48"}
ROUTER_AS, SITE_AS = 65000, 65001
VERSIONS = (4, 6)
LOWEST_LIMITS = """
[limits]
mode = "on"
rate = 1
burst_seconds = 4.0
connections = 1
ipv4_multipliers = [1, 1, 1, 1]
ipv6_multipliers = [1, 1, 1, 1]
"""
SHORT = "hold_down_seconds = 1\nhold_down_max_seconds = 1"


def address(network_number: int, host: int, version: int) -> str:
    """Of host number *host* on link number *network_number*."""
    return f"10.0.{network_number}.{host}" if version == 4 else f"fd00:0:{network_number}::{host}"


@dataclass
class Site:
    """One instance with its BIRD."""

    number: int
    host: Host
    directory: Path
    kind: str = "global"
    """Which of the configurations in deploy/bird its BIRD has."""

    environment: dict[str, str] = field(default_factory=dict)

    bird: Bird | None = None
    process: "subprocess.Popen[bytes] | None" = None
    birds: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def page(self) -> Page:
        """Its shared page."""
        return Page.open(self.directory / "run" / "page")

    @property
    def log(self) -> str:
        """All that rootsrv has logged."""
        return (self.directory / "log").read_text()

    def gateway(self, version: int) -> str:
        """The address by which the router reaches it."""
        return address(self.number, 1, version)

    # ── the daemon ──

    def start_bird(self) -> None:
        """Start BIRD with the deployed configuration."""
        changes = {
            "router id 198.51.100.1;": f"router id {address(self.number, 1, 4)};",
            "local 198.51.100.1;": f"local {address(self.number, 1, 4)};",
            "neighbor 198.51.100.2": f"neighbor {address(self.number, 2, 4)}",
            "local 2001:db8:ffff::1;": f"local {address(self.number, 1, 6)};",
            "neighbor 2001:db8:ffff::2": f"neighbor {address(self.number, 2, 6)}",
        }
        self.bird = self.birds.enter_context(
            route(self.host, self.directory / "bird", deployed_configuration(self.kind, changes))
        )

    def restart_bird(self, down: Callable[[], None] = lambda: None) -> None:
        """SIGKILL to BIRD; then *down*; then start it again."""
        assert self.bird is not None
        os.kill(self.bird.pid, signal.SIGKILL)
        with contextlib.suppress(PeerFailed):  # it ended by itself, as far as who started it knows
            self.birds.close()
        down()
        self.start_bird()

    def bird_says(self, *command: str) -> str:
        """What `birdc command` prints."""
        assert self.bird is not None
        return self.bird.birdc(*command)

    # ── rootsrv ──

    def configure(self, *, workers: int = 1, anycast: str = "", more: str = "", hold_down: str = SHORT) -> None:
        """Write zones and configuration; *anycast* and *more* are further lines of that section and of the file."""
        zones = put_zones(self.directory)
        (self.directory / "rootsrv.toml").write_text(
            f"""
[service]
addresses = ["{SERVICE[4]}", "{SERVICE[6]}"]
workers = {workers}
[identity]
nsid = "{self.host.name}"
{zones}
[anycast]
prefix_v4 = "{PREFIX[4]}"
prefix_v6 = "{PREFIX[6]}"
manage_addresses = true
bird_socket = "{self.directory}/bird/bird.ctl"
bgp_v4 = ["upstream4"]
bgp_v6 = ["upstream6"]
{hold_down}
drain_seconds = 4
stop_linger_seconds = 1
{anycast}
{more}
"""
        )

    def start(self) -> None:
        """`rootsrv run`, without waiting."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.host.prefix, sys.executable, "-m", "rootsrv", "run", "--config", "rootsrv.toml"],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), **self.environment},
                start_new_session=True,
            )

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)

    def kill(self) -> None:
        """SIGKILL to every process of it at once."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def pids(self, role: str) -> list[int]:
        """Processes of a role: serve, maintain, advertise, worker, or run (all of them)."""
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[3]) != self.process.pid:
                        continue  # of another session
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                    is_worker = b"rootsrv.server.worker" in command
                    named = command[command.index(b"--role") + 1].decode() if b"--role" in command else ""
                    if role == "run" or (role == "worker" and is_worker) or named == role:
                        found.append(int(entry.name))
        return found

    def has_all_workers(self) -> bool:
        """Whether every worker is up and there is none that is being replaced."""
        page, pids = self.page, set(self.pids("worker"))
        return {page.worker(slot).pid for slot in range(page.workers)} == pids

    def signal(self, role: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a role."""
        pids = self.pids(role)
        assert pids, f"{self.host.name} has no {role}"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # ── faults ──

    @contextlib.contextmanager
    def stopped(self, *roles: str) -> Iterator[float]:
        """SIGSTOP to all processes of *roles* for the block, which gets the instant."""
        pids = [pid for role in roles for pid in self.pids(role)]
        assert pids, f"{self.host.name} has no {roles}"
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield time.time()
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def dropping(self, *rules: str) -> Iterator[float]:
        """nft drops what matches one of *rules*, on its way in over lo, for the block, which gets the instant."""
        self.host.run("nft", "add table inet fault; add chain inet fault in { type filter hook input priority 0; }")
        try:
            for rule in rules:
                self.host.run("nft", f"add rule inet fault in iifname lo {rule} drop")
            yield time.time()
        finally:
            self.host.run("nft", "delete table inet fault")

    @contextlib.contextmanager
    def limiting_everybody(self) -> Iterator[Callable[[], int]]:
        """Limits are in force and as low as they can be, for the block, which gets what says how often they were."""
        path = self.directory / "rootsrv.toml"
        text = path.read_text()

        def limits() -> dict[str, Any]:
            return dict(self.ask("serve", {"command": "top"})["limits"])

        def reload(text: str, mode: str) -> None:
            path.write_text(text)
            assert self.ask("serve", {"command": "reload"})["ok"]
            wait_until(lambda: limits()["in_force"] == mode, f"limits are {mode}")

        try:
            reload(text + LOWEST_LIMITS, "on")
            yield lambda: int(limits()["limited"])
        finally:
            reload(text, "off")

    # ── the operator ──

    def rootsrv(self, *arguments: str, check: bool = True, seconds: float = 60.0) -> str:
        """What an operator's command prints."""
        done = subprocess.run(
            [*self.host.prefix, sys.executable, "-m", "rootsrv", *arguments, "--config", "rootsrv.toml"],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def ask(self, role: str, request: dict[str, Any]) -> dict[str, Any]:
        """One request to a role's status socket."""
        return ask(self.directory / "run" / f"{role}.sock", **request)

    def family(self, version: int) -> dict[str, Any]:
        """The controller's status of one IP version; {} while there is no controller."""
        with contextlib.suppress(OSError, ValueError):
            for each in self.ask("advertise", {"command": "status"})["families"]:
                if each["ip_version"] == version:
                    return dict(each)
        return {}

    def is_in(self, state: str) -> bool:
        """Whether both IP versions are in *state*, confirmed."""
        families = [self.family(version) for version in VERSIONS]
        return all(each.get("state") == state and each["confirmed"] for each in families)

    def await_state(self, state: str, seconds: float = 25.0) -> None:
        """Wait until both IP versions are in *state* and BIRD confirms it."""
        try:
            wait_until(lambda: self.is_in(state), state, seconds)
        except AssertionError as error:
            seen = [self.family(version) for version in VERSIONS]
            raise AssertionError(f"{self.host.name}: {error}; it is {seen}\n{self.log[-4000:]}") from None


_ROUTER_SECONDS = 0.1


@dataclass(frozen=True)
class RouteChange:
    """One change of the router's route to a service prefix, as its kernel told it."""

    at: float
    """Epoch seconds."""

    version: int
    gateway: str
    """Where traffic goes from now on; empty = nowhere."""


class RouteWatch:
    """Follows the router's kernel table by `ip monitor`."""

    def __init__(self, host: Host) -> None:
        self._process = subprocess.Popen(
            [*host.prefix, "ip", "-ts", "monitor", "route"], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.changes: list[RouteChange] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = re.match(r"\[(\S+)\] (Deleted )?(\S+) (?:.*via (?:inet6 )?(\S+))?", line)
            if found is None or found[3] not in PREFIX.values():
                continue
            at = datetime.fromisoformat(found[1]).timestamp()
            version = 4 if found[3] == PREFIX[4] else 6
            self.changes.append(RouteChange(at, version, "" if found[2] else found[4] or ""))

    def since(self, start: float, version: int) -> list[RouteChange]:
        """Changes of one IP version after *start*."""
        return [each for each in self.changes if each.at >= start and each.version == version]

    def await_gateway(self, gateway: str, start: float, version: int, seconds: float) -> float:
        """When, in seconds after *start*, the route first led to *gateway* (empty = nowhere)."""

        def found() -> list[RouteChange]:
            return [each for each in self.since(start, version) if each.gateway == gateway]

        first = wait_until(found, f"IPv{version} route via {gateway or 'nothing'}: {self.changes[-4:]}", seconds)[0]
        return float(first.at - start)

    def holes(self, version: int) -> list[tuple[float, float]]:
        """From when to when there was no route, of those that have ended; a little longer, for `ip` may be late."""
        changes = self.since(0.0, version)
        return [
            (before.at - _ROUTER_SECONDS, after.at + _ROUTER_SECONDS)
            for before, after in itertools.pairwise(changes)
            if not before.gateway and after.gateway
        ]

    def close(self) -> None:
        """Stop following."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._thread.join()
        self._process.stdout.close()


@dataclass
class Anycast:
    """The whole of it."""

    router: Host
    client: Host
    a: Site
    b: Site
    watch: RouteWatch
    router_says: Callable[..., str]
    """What `birdc` prints on the router, or with FRR `vtysh`."""

    directory: Path
    loads: list["Load"] = field(default_factory=list)
    """Those begun by `load`, of tests that failed, too."""

    def gateway(self, version: int) -> str:
        """Where the router sends the service prefix now; empty = nowhere."""
        flags = ["-6"] if version == 6 else []
        found = re.search(r"via (?:inet6 )?(\S+)", self.router.ip(*flags, "route", "show", PREFIX[version]))
        return found[1] if found else ""

    def rest(self) -> None:
        """Both sites up, no load, and traffic where it goes then; where it is not so, that is waited for."""
        self.end_loads()
        for site in (self.a, self.b):
            wait_until(site.has_all_workers, "all workers up")
            if any(site.family(version).get("order") for version in VERSIONS):  # of a test that failed
                site.rootsrv("undrain")
            site.await_state("up")
        for version in VERSIONS:
            wait_until(functools.partial(self._leads_to_a, version), f"IPv{version} traffic back to the first site")

    def _leads_to_a(self, version: int) -> bool:
        return self.gateway(version) == self.a.gateway(version)

    def await_answers(self, site: Site, number: int = 1000) -> None:
        """Until the workers of *site* have answered so many queries more."""

        def answered() -> int:
            page = site.page
            return sum(sum(page.worker(slot).counters[4:8]) for slot in range(page.workers))

        before = answered()
        wait_until(lambda: answered() >= before + number, f"{site.host.name} answers")

    def loses_nothing(self, load: "Load", measured: list[str], what: str) -> None:
        """End *load*: no query was lost, but for those of IPv6 while the router replaced its route in two steps."""
        for version, counts in load.result().items():
            holes = self.watch.holes(6) if version == "6" else []
            lost = counts["lost"]
            ours = [at for at in lost if not any(begun <= at <= ended for begun, ended in holes)]
            measured.append(
                f"{what}: IPv{version} lost {len(lost)} of {counts['sent']} queries, {len(lost) - len(ours)} of them "
                "while the router had no route (bound 0 else)"
            )
            assert ours == [], (
                f"IPv{version}: {ours} are lost; the routes: {self.watch.changes[-8:]}\n{self.a.log[-4000:]}"
            )

    def load(self, rate: int = 1000) -> "Load":
        """Queries from the client at a steady rate, half of them over IPv6, from now until they are counted."""
        load = Load(self.client, self.directory / "load.json", 120, rate)
        self.loads.append(load)
        return load.begun()

    def end_loads(self) -> None:
        """End what a test that failed has left, or its process would be a warning of whichever test is next."""
        while self.loads:
            self.loads.pop().close()


class Load:
    """Queries that a client sends at a steady rate, each counted as answered or lost, at most until the block ends."""

    def __init__(
        self, client: Host, report: Path, seconds: float, rate: int, addresses: Sequence[str] = tuple(SERVICE.values())
    ) -> None:
        self._report, self._begun = report, report.with_name(f"{report.name}.begun")
        for left in (report, self._begun):
            left.unlink(missing_ok=True)
        command = [
            sys.executable,
            str(Path(__file__).with_name("steady_load.py")),
            str(report),
            str(seconds),
            str(rate),
        ]
        self._process = subprocess.Popen([*client.prefix, *command, *addresses], start_new_session=True)

    def begun(self) -> Self:
        """Itself, once each address has answered."""
        try:
            wait_until(self._begun.exists, "the load is answered", 60)
        except BaseException:
            self.close()
            raise
        return self

    def result(self) -> dict[str, Any]:
        """End it; {"4": {"sent": n, "lost": [epoch seconds, …]}, "6": …}."""
        self._process.terminate()
        assert self._process.wait(60) == 0
        report: dict[str, Any] = json.loads(self._report.read_text())
        return report

    def close(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bird_router_configuration(numbers: Sequence[int] = (1, 2)) -> str:
    """BIRD at the provider: the sites with *numbers*, GRACEFUL_SHUTDOWN honoured (RFC 8326 §4.1), all in its kernel."""
    sessions = "".join(
        f"""
protocol bgp site{number}v{version} from site {{
    local {address(number, 2, version)};
    neighbor {address(number, 1, version)} as {SITE_AS};
    ipv{version} {{ import filter from_site; export none; }};
}}"""
        for number in numbers
        for version in VERSIONS
    )
    return f"""
log stderr all;
router id 10.0.3.2;
protocol device {{ scan time 10; }}
protocol kernel {{ ipv4 {{ import none; export all; }}; }}
protocol kernel {{ ipv6 {{ import none; export all; }}; }}
protocol bfd {{ interface "*" {{ min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }}; }}
filter from_site {{
    if (65535, 0) ~ bgp_community then bgp_local_pref = 0;
    accept;
}}
template bgp site {{
    local as {ROUTER_AS};
    hold time 9;
    keepalive time 3;
    bfd yes;
    connect delay time 1;
    error wait time 1, 5;
    ttl security yes;
    password "change-me";
    graceful restart no;
}}
{sessions}
"""


@contextlib.contextmanager
def anycast_network(
    directory: Path,
    router: str = "bird",
    *,
    anycast: str = "",
    more: str = "",
    workers: int = 2,
    hold_down: str = SHORT,
    environment: dict[str, str] | None = None,
    started: bool = True,
) -> Iterator[Anycast]:
    """All of it, with both sites announced, until the block ends; if not *started* that is for the caller to do."""
    with network() as net, contextlib.ExitStack() as stack:
        hosts = {name: net.host(name) for name in "abrc"}
        for number, name in enumerate("abc", 1):
            pairs = tuple(
                (f"{address(number, 1, version)}/{length}", f"{address(number, 2, version)}/{length}")
                for version, length in ((4, 24), (6, 64))
            )
            net.link(hosts[name], hosts["r"], f"to-{name}", pairs)
            hosts[name].ip("route", "add", "default", "via", address(number, 2, 4))
            hosts[name].ip("-6", "route", "add", "default", "via", address(number, 2, 6))
        hosts["r"].forward()
        watch = RouteWatch(hosts["r"])
        stack.callback(watch.close)
        router_says: Callable[..., str]
        if router == "bird":
            bird = stack.enter_context(route(hosts["r"], directory / "router", bird_router_configuration()))
            router_says = bird.birdc
        else:
            sockets = stack.enter_context(frr(hosts["r"], frr_router_configuration()))
            router_says = functools.partial(vtysh, hosts["r"], sockets)
        sites = []
        for number, name in enumerate("ab", 1):
            site = Site(number, hosts[name], directory / name, kind="global" if name == "a" else "local")
            site.environment = environment or {}
            site.directory.mkdir()
            stack.enter_context(_ended(site))
            site.start_bird()
            site.configure(workers=workers if name == "a" else 1, anycast=anycast, more=more, hold_down=hold_down)
            if started:
                site.start()
            sites.append(site)
        a, b = sites
        made = Anycast(hosts["r"], hosts["c"], a, b, watch=watch, router_says=router_says, directory=directory)
        stack.callback(made.end_loads)
        for site in sites if started else ():
            site.await_state("up", 90)
        yield made


@contextlib.contextmanager
def nsd_on(host: Host, workdir: Path, addresses: Sequence[str], port: int, zone: bytes) -> Iterator[int]:
    """NSD serves the root *zone* on *host*, to whoever asks and transfers, until the block ends, which gets its pid."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "root.zone").write_bytes(zone)
    zones = 'zone:\n    name: "."\n    zonefile: "root.zone"\n    provide-xfr: 0.0.0.0/0 NOKEY\n'
    path = nsd_configuration(workdir, addresses, port, clauses=zones)
    command = [*host.prefix, require_tool("nsd"), "-d", "-c", str(path)]
    with running("nsd", command, workdir / "nsd.log", lambda: f":{port} " in host.run("ss", "-Hltn")) as pid:
        yield pid


@contextlib.contextmanager
def _ended(site: Site) -> Iterator[None]:
    try:
        yield
    finally:
        if site.process is not None:
            site.kill()
        site.birds.close()


def frr_router_configuration() -> str:
    """FRR's bgpd at the provider, as above."""
    neighbours = [address(number, 1, version) for version in VERSIONS for number in (1, 2)]
    lines = ["router bgp 65000", " bgp router-id 10.0.3.2"]
    lines += [" no bgp ebgp-requires-policy", " bgp bestpath compare-routerid"]
    for each in neighbours:
        lines += [
            f" neighbor {each} remote-as {SITE_AS}",
            f" neighbor {each} password change-me",
            f" neighbor {each} timers 3 9",
            f" neighbor {each} timers connect 1",
            f" neighbor {each} ttl-security hops 1",
        ]
    for version in VERSIONS:
        lines += [f" address-family ipv{version} unicast", "  maximum-paths 1"]
        for each in neighbours:
            inside = (":" in each) == (version == 6)
            lines.append(f"  {'' if inside else 'no '}neighbor {each} activate")
            if inside:
                lines.append(f"  neighbor {each} route-map from-site in")
        lines.append(" exit-address-family")
    lines += [
        "bgp community-list standard graceful-shutdown permit graceful-shutdown",
        "route-map from-site permit 10",
        " match community graceful-shutdown",
        " set local-preference 0",
        " set ipv6 next-hop prefer-global",
        "route-map from-site permit 20",
        " set ipv6 next-hop prefer-global",
    ]
    return "\n".join(lines) + "\n"
