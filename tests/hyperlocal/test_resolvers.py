"""Real resolvers beside `rootsrv hyperlocal`, on a host whose only way out are a publisher and a stand-in root server.

Everything is in one network namespace.  Each resolver asks the root servers from an address of its own, and what comes
from there is counted.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.peers.daemon import running
from rootsrv.hyperlocal import resolvers
from tests.hyperlocal.asked import AskedResolvers
from tests.hyperlocal.programs import STARTS, software
from tests.hyperlocal.stand_ins import FIRST, PUBLISHER, answers, nsd, root, root_addresses
from tests.needs import REPOSITORY, require_tool
from tests.network import Host, network
from tests.secondary import versions
from tests.server.live import wait_until

ADDRESS, PORT, HTTPS_PORT = "127.12.12.12", 8806, 8807
RESOLVERS = {
    "unbound": ("127.0.0.2", "127.0.1.2"),
    "bind": ("127.0.0.3", "127.0.1.3"),
    "pdns": ("127.0.0.4", "127.0.1.4"),
    "kresd": ("127.0.0.5", "127.0.1.5"),
}
"""Where each listens, and from where it asks."""

FALLING_BACK = ("unbound", "bind")
"""Those with a copy of their own, which answer nxdomain from it; the others have it in their cache."""


@dataclass
class World(AskedResolvers):
    """The host with everything that runs on it."""

    host: Host
    directory: Path
    publisher: contextlib.ExitStack
    hyperlocal: contextlib.ExitStack
    resolvers: contextlib.ExitStack
    servers: dict[str, int] = field(default_factory=dict)
    """Process ids of both NSDs."""

    running: dict[str, contextlib.ExitStack] = field(default_factory=dict)
    """The resolvers."""

    newest: int = FIRST

    def publish(self, serial: int) -> None:
        """Both the publisher and the root server have *serial* now."""
        self.newest = serial
        (self.directory / "root.zone").write_bytes(versions.text(root(serial)))
        for pid in self.servers.values():
            os.kill(pid, signal.SIGHUP)

    def start_publisher(self, rcode: str = "NOERROR") -> None:
        running_nsd = nsd(self.directory / "publisher", self.host, [PUBLISHER], rcode)
        self.servers["publisher"] = self.publisher.enter_context(running_nsd)

    def stop_publisher(self) -> None:
        del self.servers["publisher"]
        self.publisher.close()

    def start_resolver(self, kind: str) -> None:
        """Anew, with nothing in its cache, if it runs."""
        if kind in self.running:
            self.running[kind].close()
        address, own = RESOLVERS[kind]
        command = [*self.host.prefix, *STARTS[kind](self.directory, generated(kind, self.directory), address, own)]
        ready = lambda: answers(self.host, address)  # noqa: E731
        stack = self.running[kind] = self.resolvers.enter_context(contextlib.ExitStack())
        stack.enter_context(running(kind, command, self.directory / f"{kind}.log", ready))

    def start_hyperlocal(self) -> None:
        command = [sys.executable, "-m", "rootsrv", "hyperlocal", "--config", str(self.directory / "rootsrv.toml")]
        log = self.directory / "log"
        begun = log.stat().st_size if log.exists() else 0
        there = lambda: "copy is " in log.read_text()[begun:]  # noqa: E731
        self.hyperlocal.enter_context(running("rootsrv", [*self.host.prefix, *command], log, there))

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`rootsrv …` on the host."""
        return subprocess.run(
            [*self.host.prefix, sys.executable, "-m", "rootsrv", *arguments,
             "--config", str(self.directory / "rootsrv.toml")],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def ends(self, name: str) -> tuple[str, str]:
        return RESOLVERS[name]

    def nxdomains(self, kind: str, names: int) -> int:
        """How many of *names* that do not exist are answered so."""
        path = self.directory / "names"
        path.write_text("".join(f"{secrets.token_hex(8)}.\n" for _ in range(names)))
        address, _ = RESOLVERS[kind]
        printed = self.host.run("dig", f"@{address}", "+tries=1", "+time=5", "+dnssec", "-f", str(path))
        return printed.count("status: NXDOMAIN")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    for tool in ("dig", "nft", "nsd", "unbound", "named", "pdns_recursor", "kresd"):
        require_tool(tool)
    directory = tmp_path_factory.mktemp("hyperlocal")
    directory.chmod(0o755)
    # BIND knows root servers of its own beside hints: the genuine addresses, which exist only here.
    roots = root_addresses(root(FIRST))
    with network() as net, contextlib.ExitStack() as stack:
        host = net.host("host")
        # BIND listens where an interface has the address itself.
        for address in (*roots, PUBLISHER, *(each for both in RESOLVERS.values() for each in both)):
            host.ip("address", "add", f"{address}/32", "dev", "lo")
        rules = "".join(
            f"ip saddr {own} {protocol} dport 53 counter; "
            for _, own in RESOLVERS.values()
            for protocol in ("udp", "tcp")
        )
        host.run("nft", f"table inet count {{ chain counted {{ type filter hook input priority 0; {rules} }}; }}")
        made = World(
            host,
            directory,
            *(stack.enter_context(contextlib.ExitStack()) for _ in range(3)),
        )
        made.publish(FIRST)
        configure(directory)
        made.servers["roots"] = stack.enter_context(nsd(directory / "roots", host, roots))
        made.start_publisher()
        made.start_hyperlocal()
        hints = "".join(f". 3600000 NS r{at}.test.\nr{at}.test. 3600000 A {each}\n" for at, each in enumerate(roots))
        (directory / "hints").write_text(hints)
        for kind in STARTS:
            made.start_resolver(kind)
        yield made


def configure(directory: Path) -> None:
    (directory / "anchors").write_text(versions.anchor())
    (directory / "rootsrv.toml").write_text(
        f"""
service = {{ addresses = ["127.0.0.1"] }}
admin = {{ addresses = ["{ADDRESS}"], port = {PORT} }}
zone = [{{ name = ".", trust_anchors = "anchors", zonemd = "required" }}]
state = {{ directory = "state", runtime_directory = "run" }}
refresh = {{ min_seconds = 1, backoff_seconds = 0.1, query_timeout_seconds = 2 }}
switchover = {{ align_seconds = 0, lead_seconds = 0, keep_versions = 2 }}
clock = {{ source = "trusted" }}
hyperlocal = {{ notify = {[address for address, _ in RESOLVERS.values()]}, https_port = {HTTPS_PORT} }}
primary = [{{ name = "publisher", address = "{PUBLISHER}" }}]
"""
    )


def generated(kind: str, directory: Path) -> str:
    """What `--configure` prints for it."""
    copy = resolvers.Copy(ADDRESS, PORT, HTTPS_PORT, str(directory / "run" / "https.pem"))
    return resolvers.HERE[software(kind)].configuration(copy.wanted(kind, str(directory)))


MAY_ASK = {"unbound": 0, "bind": 0, "kresd": 0, "pdns": versions.TLDS + 2}
"""Root queries for a thousand names that do not exist: PowerDNS learns one gap between two TLDs at a time."""


def test_every_resolver_has_the_root_from_the_copy(world: World) -> None:
    for kind, (address, _) in RESOLVERS.items():
        wait_until(lambda kind=kind: world.serial(kind) == FIRST, f"{kind} has the root")
        assert " ad" in world.dig(kind, ".", "SOA").split(";; flags:")[1].split(";")[0], kind
        if kind in FALLING_BACK:
            wait_until(lambda kind=kind: world.answers_alone(kind), f"{kind} answers without the root servers")
            checked = world.command("hyperlocal", f"--check={address}")
            assert checked.returncode == 0, checked.stdout + checked.stderr
    wait_until(lambda: world.answers_alone("kresd"), "Knot Resolver has the root")
    for kind in RESOLVERS:
        before = world.root_queries(kind)
        assert sum(world.nxdomains(kind, 250) for _ in range(4)) == 1000, kind
        asked = world.root_queries(kind) - before
        assert asked <= MAY_ASK[kind], f"{kind} asked the root servers {asked} times"
    assert "zone given" in (world.directory / "log").read_text()


def test_a_new_root_is_with_the_resolvers_at_once(world: World) -> None:
    all_have(world, FIRST + 1)
    for kind in FALLING_BACK:
        assert world.answers_alone(kind), kind


def all_have(world: World, serial: int) -> None:
    """Publish the root with *serial*, unless it is out already, and wait until each has it that hears of it."""
    world.publish(serial)
    for kind in FALLING_BACK:
        wait_until(lambda kind=kind: world.serial(kind) == serial, f"{kind} has {serial}")


@pytest.mark.long
def test_resolvers_fall_back_when_the_copy_expires_and_return_by_themselves(world: World) -> None:
    all_have(world, FIRST + 1)
    world.stop_publisher()
    log = (world.directory / "log").read_text
    wait_until(lambda: "copy is withheld" in log(), "the copy is withheld")
    for kind in FALLING_BACK:
        wait_until(lambda kind=kind: world.asks_the_roots(kind), f"{kind} asks the root servers", 60)
    checked = world.command("hyperlocal", f"--check={RESOLVERS['unbound'][0]}")
    assert checked.returncode == 1
    assert "not given out" in checked.stdout

    world.start_publisher()
    for kind in FALLING_BACK:
        wait_until(lambda kind=kind: world.answers_alone(kind, 5), f"{kind} answers from its copy again", 60)
        assert world.serial(kind) == world.newest


@pytest.mark.long
def test_resolvers_fall_back_when_nobody_gives_the_copy_and_a_restart_keeps_the_serial(world: World) -> None:
    all_have(world, FIRST + 1)
    world.hyperlocal.close()
    for kind in FALLING_BACK:
        wait_until(lambda kind=kind: world.asks_the_roots(kind), f"{kind} asks the root servers", 60)

    world.stop_publisher()
    world.publish(FIRST)  # a publisher that has gone back
    world.start_publisher()
    world.start_hyperlocal()
    passed = f"has {FIRST}, which is older than {FIRST + 1}"
    wait_until(lambda: passed in (world.directory / "log").read_text(), "the publisher is passed over")
    assert f'"served": {FIRST + 1}' in world.command("status", "--json").stdout

    world.publish(FIRST + 2)
    for kind in FALLING_BACK:
        wait_until(lambda kind=kind: world.serial(kind) == FIRST + 2, f"{kind} has the newest root", 60)
        wait_until(lambda kind=kind: world.answers_alone(kind, 5), f"{kind} answers from its copy again")


@pytest.mark.long
@pytest.mark.parametrize("rcode", ["NOERROR", "SERVFAIL"], ids=["an older root", "SERVFAIL"])
def test_a_publisher_that_answers_and_confirms_nothing_does_not_keep_the_copy_alive(world: World, rcode: str) -> None:
    # After failures Unbound waits twice as long each time, and a transfer that NOTIFY brought about does not end such a
    # wait: only behind it does it see that its copy is over.  Those of the tests before would take minutes.
    world.start_resolver("unbound")
    wait_until(lambda: world.answers_alone("unbound", 5), "Unbound has its copy again")
    log = world.directory / "log"
    begun = len(log.read_text())
    world.stop_publisher()
    older = versions.text(root(FIRST - 1))
    # The root servers go on with what they have: they look at the file when they are told to.
    (world.directory / "root.zone").write_bytes(older if rcode == "NOERROR" else b"no zone\n")
    world.start_publisher(rcode)
    wait_until(lambda: "copy is withheld" in log.read_text()[begun:], "the copy is withheld")
    for kind in FALLING_BACK:
        wait_until(lambda kind=kind: world.asks_the_roots(kind), f"{kind} asks the root servers", 60)
        assert world.serial(kind) == world.newest, kind
    # The others have it in their caches, where nobody can take it from them; one that starts now is not given it.
    for kind in RESOLVERS.keys() - set(FALLING_BACK):
        world.start_resolver(kind)
        before = world.root_queries(kind)
        assert world.nxdomains(kind, 20) == 20, kind
        assert world.root_queries(kind) > before, kind

    world.stop_publisher()
    world.publish(world.newest + 1)
    world.start_publisher()
    for kind in FALLING_BACK:
        wait_until(lambda kind=kind: world.answers_alone(kind, 5), f"{kind} answers from its copy again", 60)
        wait_until(lambda kind=kind: world.serial(kind) == world.newest, f"{kind} has the newest root")
    for kind in RESOLVERS.keys() - set(FALLING_BACK):
        world.start_resolver(kind)
        wait_until(lambda kind=kind: world.serial(kind) == world.newest, f"{kind} has the newest root")
    wait_until(lambda: world.answers_alone("kresd", 5), "Knot Resolver has it from the copy")
