"""A resolver that knows no other root servers than ours, in a network that leads nowhere else.

unbound holds the genuine trust anchor and root hints; the genuine zone is served at the genuine addresses, which exist
only in a network namespace here.  Both keep the zone's time.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.peers import unbound
from bench.peers.daemon import running
from bench.peers.nsd import configuration as nsd_configuration
from rootsrv.page.layout import Page, PageUnusable
from tests.conformance.zone_file import ZoneFile
from tests.needs import REPOSITORY, require_genuine_zones, require_tool
from tests.network import Host, network
from tests.server.live import wait_until, zone_sections

UNSIGNED_TLD = "ae."
"""A delegation without DS, whose name server we can be without being bogus."""

CLOCK = "2025-11-01T12:00:00Z"
UNBOUND_CLOCK = "20251101120000"


@dataclass
class Resolved:
    """What dig printed."""

    text: str

    @property
    def status(self) -> str:
        """RCODE."""
        return self._find(r"status: (\w+)")

    @property
    def flags(self) -> set[str]:
        """Header flags."""
        return set(self._find(r"flags: ([\w ]*);").split())

    @property
    def answer(self) -> list[list[str]]:
        """Records of the answer section, split at blanks."""
        _, _, rest = self.text.partition(";; ANSWER SECTION:\n")
        return [line.split() for line in rest.partition("\n\n")[0].splitlines()]

    def _find(self, pattern: str) -> str:
        found = re.search(pattern, self.text)
        assert found, self.text
        return found.group(1)


@dataclass
class World:
    """Namespaces: one with our server at all root server addresses, one with the resolver, one with a TLD's server."""

    roots: Host
    resolver: Host

    def ask(self, name: str, rtype: str) -> Resolved:
        """Ask the resolver, as a stub resolver does that wants to know about authenticity."""
        command = ("dig", "@127.0.0.1", "+tries=3", "+time=10", "+adflag", "+dnssec", name, rtype)
        return Resolved(self.resolver.run(*command))

    def queries(self) -> int:
        """Queries that reached our server's host so far: datagrams and connections to port 53."""
        listed = self.roots.run("nft", "list", "table", "inet", "count")
        return sum(int(packets) for packets in re.findall(r"packets (\d+)", listed))

    def settled_queries(self) -> int:
        """The same, once the resolver has nothing more to ask in the background."""
        seen = [self.queries()]

        def is_settled() -> bool:
            seen.append(self.queries())
            return len(seen) > 50 and len(set(seen[-50:])) == 1  # half a second without a query

        wait_until(is_settled, "the resolver is idle")
        return seen[-1]


@pytest.fixture(scope="module")
def zone(genuine_root: Path) -> ZoneFile:
    return ZoneFile(genuine_root)


@pytest.fixture(scope="module")
def world(
    zone: ZoneFile, genuine_root: Path, genuine_root_servers_net: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    for tool in ("dig", "nft", "nsd", "unbound"):
        require_tool(tool)
    directory = tmp_path_factory.mktemp("world")
    servers = zone.name_servers(".")
    with network() as net, contextlib.ExitStack() as stack:
        roots, resolver, child = net.host("roots"), net.host("resolver"), net.host("child")
        net.link(roots, resolver, "vroots", (("192.0.2.1/30", "192.0.2.2/30"), ("2001:db8::1/64", "2001:db8::2/64")))
        net.link(
            child, resolver, "vchild", (("192.0.2.5/30", "192.0.2.6/30"), ("2001:db8:1::1/64", "2001:db8:1::2/64"))
        )
        root_addresses = [address for server in servers for address in addresses(zone, server)]
        give(roots, resolver, root_addresses, ("192.0.2.1", "2001:db8::1"))
        tld_addresses = [a for server in zone.name_servers(UNSIGNED_TLD) for a in addresses(zone, server)]
        give(child, resolver, tld_addresses, ("192.0.2.5", "2001:db8:1::1"))
        rules = "udp dport 53 counter; tcp dport 53 tcp flags & (syn | ack) == syn counter"
        roots.run("nft", f"table inet count {{ chain counted {{ type filter hook input priority 0; {rules}; }}; }}")
        stack.enter_context(served(directory, roots, root_addresses, genuine_root, genuine_root_servers_net))
        stack.enter_context(tld_server(directory, child, tld_addresses))
        hints = directory / "root.hints"
        hints.write_text("".join(
            [f". 3600000 NS {server}\n" for server in servers]
            + [f"{s} 3600000 {'AAAA' if ':' in a else 'A'} {a}\n" for s in servers for a in addresses(zone, s)]
        ))  # fmt: skip
        anchor = require_genuine_zones() / "root.key"
        options = (
            f'val-override-date: "{UNBOUND_CLOCK}"',
            "aggressive-nsec: yes",
            'target-fetch-policy: "0 0 0 0 0"',
            "trust-anchor-signaling: no",
        )
        stack.enter_context(
            unbound.resolve(directory, root_hints=hints, trust_anchor=anchor, options=options, prefix=resolver.prefix)
        )
        yield World(roots, resolver)


def addresses(zone: ZoneFile, server: str) -> list[str]:
    """Presentation format of a name server's addresses."""
    return zone.texts(server, "A") + zone.texts(server, "AAAA")


def give(host: Host, other: Host, owned: list[str], gateways: tuple[str, str]) -> None:
    """Give *host* addresses, and *other* the way there."""
    for address in owned:
        is_v6 = ":" in address
        host.ip("address", "add", f"{address}/{128 if is_v6 else 32}", "dev", "lo", *(["nodad"] if is_v6 else []))
        other.ip("route", "add", address, "via", gateways[is_v6])


@contextlib.contextmanager
def served(directory: Path, host: Host, owned: list[str], root: Path, hosts: Path) -> Iterator[None]:
    """rootsrv on port 53 of all *owned* addresses."""
    (directory / "rootsrv.toml").write_text(
        f"""
[service]
addresses = {owned}
workers = 1
{zone_sections(root, hosts, require_genuine_zones() / "root-anchors.xml", 'zonemd = "required"')}
"""
    )
    command = [*host.prefix, sys.executable, "-m", "rootsrv", "run", "--config", str(directory / "rootsrv.toml")]
    with (directory / "rootsrv.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "ROOTSRV_TEST_CLOCK": CLOCK},
            start_new_session=True,
        )

    def is_ready() -> bool:
        assert process.poll() is None, (directory / "rootsrv.log").read_text()
        try:
            page = Page.open(directory / "run" / "page")
        except PageUnusable:
            return False
        return bool(page.active) and page.worker(0).active == page.active

    try:
        wait_until(is_ready, "rootsrv is ready", 30.0)
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tld_server(directory: Path, host: Host, owned: list[str]) -> contextlib.AbstractContextManager[int]:
    """NSD for the unsigned TLD."""
    (directory / "tld.zone").write_text(
        f"$ORIGIN {UNSIGNED_TLD}\n$TTL 60\n@ SOA ns1.aedns hostmaster 1 60 60 60 60\n@ NS ns1.aedns\n"
        f"ns1.aedns A {owned[0]}\nwww.example A 203.0.113.7\n"
    )
    zone = f'zone:\n    name: "{UNSIGNED_TLD}"\n    zonefile: "tld.zone"\n'
    path = nsd_configuration(directory, owned, 53, clauses=zone)
    command = [*host.prefix, require_tool("nsd"), "-d", "-c", str(path)]

    def ready() -> bool:
        printed = host.run("dig", f"@{owned[0]}", "+tries=1", "+time=1", UNSIGNED_TLD, "SOA", check=False)
        return "status: NOERROR" in printed

    return running("NSD", command, directory / "nsd.log", ready)


def test_primes_and_validates_the_apex(world: World) -> None:
    resolved = world.ask(".", "NS")
    assert resolved.status == "NOERROR"
    assert "ad" in resolved.flags
    assert sum(record[3] == "NS" for record in resolved.answer) == 13


def test_validates_dnskey_and_ds(world: World) -> None:
    for name, rtype in ((".", "DNSKEY"), ("com.", "DS"), ("org.", "DS")):
        resolved = world.ask(name, rtype)
        assert resolved.status == "NOERROR", resolved.text
        assert "ad" in resolved.flags, resolved.text
        assert any(record[3] == rtype for record in resolved.answer)


def test_validates_that_there_is_no_ds(world: World) -> None:
    resolved = world.ask(UNSIGNED_TLD, "DS")
    assert (resolved.status, resolved.answer) == ("NOERROR", [])
    assert "ad" in resolved.flags, resolved.text


def test_follows_a_referral(world: World) -> None:
    resolved = world.ask(f"www.example.{UNSIGNED_TLD}", "A")
    assert resolved.status == "NOERROR", resolved.text
    assert [record[-1] for record in resolved.answer if record[3] == "A"] == ["203.0.113.7"]
    assert "ad" not in resolved.flags  # proven to be unsigned


def test_validates_an_nxdomain(world: World) -> None:
    for name in ("nosuch-tld.", "a.b.another-nosuch-tld."):
        resolved = world.ask(name, "A")
        assert resolved.status == "NXDOMAIN", resolved.text
        assert "ad" in resolved.flags, resolved.text


def test_a_second_name_in_the_same_gap_does_not_reach_us(world: World) -> None:
    # Between com. and comcast. there is nothing.
    before = world.settled_queries()
    first = world.ask("com-a.", "A")
    after_first = world.settled_queries()
    second = world.ask("com-b.", "A")
    after_second = world.settled_queries()

    assert (first.status, second.status) == ("NXDOMAIN", "NXDOMAIN")
    assert after_first > before
    assert after_second == after_first
    assert "ad" in second.flags
    # A name in another gap does.
    assert world.ask("nic-a-b-c.", "A").status == "NXDOMAIN"
    assert world.queries() > after_second
