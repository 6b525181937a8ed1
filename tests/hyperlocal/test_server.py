"""`rootsrv hyperlocal --serve`: a root server for this host alone, its copy fresh, stale and fresh again."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.peers.daemon import running
from tests.hyperlocal.stand_ins import FIRST, PUBLISHER, answers, nsd, root, root_addresses
from tests.needs import require_tool
from tests.network import Host, network
from tests.secondary import versions
from tests.server.live import wait_until

SERVERS = {"relay": ("127.12.12.53", "127.12.12.12"), "servfail": ("127.12.13.53", "127.12.13.12")}
"""What it does while it is stale → where it answers, where it gives the zone out."""

VALIDATING = "127.0.0.2"
"""An Unbound whose only root server is the relaying one."""


@dataclass
class World:
    """One host: both modes, a publisher, the root servers, all at addresses that exist only there."""

    host: Host
    directory: Path
    publisher: contextlib.ExitStack
    servers: dict[str, int] = field(default_factory=dict)

    def publish(self, serial: int) -> None:
        (self.directory / "root.zone").write_bytes(versions.text(root(serial)))
        for pid in self.servers.values():
            os.kill(pid, signal.SIGHUP)

    def start_publisher(self) -> None:
        started = nsd(self.directory / "publisher", self.host, [PUBLISHER])
        self.servers["publisher"] = self.publisher.enter_context(started)

    def stop_publisher(self) -> None:
        del self.servers["publisher"]
        self.publisher.close()

    def dig(self, server: str, *arguments: str) -> str:
        return self.host.run("dig", f"@{server}", "+tries=1", "+time=9", "+norecurse", *arguments, check=False)

    def root_queries(self) -> int:
        listed = self.host.run("nft", "list", "table", "inet", "count")
        return sum(map(int, re.findall(r"packets (\d+)", listed)))

    def log(self, mode: str) -> str:
        return (self.directory / mode / "log").read_text()

    def is_stale(self, mode: str) -> bool:
        """As its log said last."""
        log = self.log(mode)
        return log.rfind("copy is stale") > log.rfind("copy answers")

    def counters(self, mode: str) -> dict[str, int]:
        printed = self.host.run(
            sys.executable, "-m", "rootsrv", "status", "--json", "--config", str(self.directory / mode / "rootsrv.toml")
        )
        return {name: int(count) for name, count in re.findall(r'"(answered|relay\w*)": (\d+)', printed)}


def start(world: World, mode: str) -> contextlib.AbstractContextManager[int]:
    address, given_at = SERVERS[mode]
    directory = world.directory / mode
    directory.mkdir()
    (directory / "anchors").write_text(versions.anchor())
    (directory / "rootsrv.toml").write_text(
        f"""
service = {{ addresses = ["{address}"] }}
admin = {{ addresses = ["{given_at}"], port = 8806 }}
hyperlocal = {{ answer = true, on_stale = "{mode}", notify = [], follow_key_rolls = true }}
zone = [{{ name = ".", trust_anchors = "anchors", zonemd = "required" }}]
state = {{ directory = "state", runtime_directory = "run" }}
refresh = {{ min_seconds = 1, backoff_seconds = 0.1, query_timeout_seconds = 2 }}
switchover = {{ align_seconds = 0, lead_seconds = 0, keep_versions = 2 }}
clock = {{ source = "trusted" }}
primary = [{{ name = "publisher", address = "{PUBLISHER}" }}]
"""
    )
    command = [sys.executable, "-m", "rootsrv", "hyperlocal", "--config", str(directory / "rootsrv.toml")]
    ready = lambda: "copy answers" in (directory / "log").read_text()  # noqa: E731
    return running("rootsrv", [*world.host.prefix, *command], directory / "log", ready)


def unbound(world: World) -> contextlib.AbstractContextManager[int]:
    """Unbound, which has the relaying server for its root server and validates."""
    directory = world.directory
    (directory / "hints").write_text(f". 3600000 NS here.test.\nhere.test. 3600000 A {SERVERS['relay'][0]}\n")
    (directory / "unbound.conf").write_text(
        f"""
server:
    interface: {VALIDATING}
    do-ip6: no
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: "{directory}/unbound.pid"
    use-syslog: no
    module-config: "validator iterator"
    root-hints: "{directory}/hints"
    trust-anchor-file: "{directory}/relay/anchors"
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    aggressive-nsec: no
    cache-max-ttl: 0
    cache-max-negative-ttl: 0
remote-control:
    control-enable: no
stub-zone:
    name: "."
    stub-addr: {SERVERS["relay"][0]}
"""
    )
    command = [*world.host.prefix, require_tool("unbound"), "-d", "-c", str(directory / "unbound.conf")]
    ready = lambda: answers(world.host, VALIDATING)  # noqa: E731
    return running("unbound", command, directory / "unbound.log", ready)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    for tool in ("dig", "nft", "nsd", "unbound"):
        require_tool(tool)
    directory = tmp_path_factory.mktemp("server")
    directory.chmod(0o755)
    roots = root_addresses(root(FIRST))
    with network() as net, contextlib.ExitStack() as stack:
        host = net.host("host")
        for address in (*roots, PUBLISHER):
            host.ip("address", "add", f"{address}/32", "dev", "lo")
        rules = "".join(
            f"ip daddr {{ {', '.join(roots)} }} {protocol} dport 53 counter; " for protocol in ("udp", "tcp")
        )
        host.run("nft", f"table inet count {{ chain counted {{ type filter hook input priority 0; {rules} }}; }}")
        made = World(host, directory, stack.enter_context(contextlib.ExitStack()))
        made.publish(FIRST)
        made.servers["roots"] = stack.enter_context(nsd(directory / "roots", host, roots))
        made.start_publisher()
        for mode in SERVERS:
            stack.enter_context(start(made, mode))
        stack.enter_context(unbound(made))
        yield made


def flags(printed: str) -> str:
    return printed.split(";; flags:")[1].split(";", maxsplit=1)[0]


ANSWER_ONLY = ("+noauthority", "+noadditional")
"""NSD adds to what it was asked for."""

QUESTIONS = [
    (".", "SOA", *ANSWER_ONLY),
    (".", "DNSKEY", *ANSWER_ONLY),
    ("no-such-name", "A"),
    ("no-such-name", "DS"),
]


def sections(printed: str) -> list[str]:
    """Records and status, without what differs from one message to the next."""
    lines = [each for each in printed.splitlines() if each and not each.startswith((";", "\n"))]
    return sorted([*lines, printed.split("status: ")[1].split(",", maxsplit=1)[0]])


def test_a_fresh_copy_answers_as_the_root_servers_do_and_asks_nobody(world: World) -> None:
    theirs = root_addresses(root(FIRST))[0]
    expected = {each: sections(world.dig(theirs, *each, "+dnssec")) for each in QUESTIONS}
    before = world.root_queries()
    for server, _ in SERVERS.values():
        for question in QUESTIONS:
            for transport in ("+notcp", "+tcp"):
                printed = world.dig(server, *question, "+dnssec", transport)
                assert sections(printed) == expected[question]
                assert " aa" in flags(printed)
    assert world.root_queries() == before


def test_what_is_stale_is_relayed_or_servfail_and_answers_again_by_itself(world: World) -> None:
    theirs = root_addresses(root(FIRST))[0]
    relaying, failing = (server for server, _ in SERVERS.values())
    world.stop_publisher()
    for mode in SERVERS:
        wait_until(lambda mode=mode: world.is_stale(mode), f"{mode}: the copy is stale")

    for question in QUESTIONS:
        expected = sections(world.dig(theirs, *question, "+dnssec"))
        for transport in ("+notcp", "+tcp"):
            before = world.root_queries()
            assert sections(world.dig(relaying, *question, "+dnssec", transport)) == expected
            assert world.root_queries() > before
            assert "status: SERVFAIL" in world.dig(failing, *question, transport)
    assert sections(world.dig(relaying, "no-such-name", "A")) == sections(world.dig(theirs, "no-such-name", "A"))
    before = world.root_queries()
    assert "status: SERVFAIL" in world.dig(relaying, "version.server", "TXT", "-c", "CH")
    assert "Transfer failed" in world.dig(relaying, ".", "AXFR")
    assert world.root_queries() == before
    # What is relayed is the resolver's to validate, and validates.
    printed = world.host.run("dig", f"@{VALIDATING}", "+time=9", "+adflag", "no-such-name", "A")
    assert "status: NXDOMAIN" in printed
    assert " ad" in flags(printed)

    counted = world.counters("relay")
    assert counted["relayed"] >= 2 * len(QUESTIONS)
    assert not counted["relay_failed"]

    world.publish(FIRST + 1)
    world.start_publisher()
    for mode, (server, _) in SERVERS.items():
        wait_until(lambda server=server: str(FIRST + 1) in world.dig(server, ".", "SOA"), f"{mode}: the new root", 60)

    def asks_nobody() -> bool:
        before = world.root_queries()
        for server in (relaying, failing):
            assert "status: NXDOMAIN" in world.dig(server, "no-such-name", "A")
        return world.root_queries() == before

    wait_until(asks_nobody, "nothing is relayed any more")  # one of before may still be asked again


def test_a_publisher_that_answers_with_an_older_root_keeps_no_copy_alive(world: World) -> None:
    """It answers all the time, and confirms nothing: the copy ends with SOA expire, and is there again with a newer."""
    relaying, failing = (server for server, _ in SERVERS.values())
    newest = FIRST + 5
    world.publish(newest)
    for mode, (server, _) in SERVERS.items():
        wait_until(lambda server=server: str(newest) in world.dig(server, ".", "SOA"), f"{mode}: the new root", 60)
    world.publish(newest - 1)
    wait_until(lambda: str(newest - 1) in world.dig(PUBLISHER, ".", "SOA"), "the publisher has the older one")
    for mode in SERVERS:
        wait_until(lambda mode=mode: world.is_stale(mode), f"{mode}: the copy is stale", 60)
    # The older one is taken by nobody: it is relayed, as what the root servers say, or SERVFAIL.
    assert str(newest - 1) in world.dig(relaying, ".", "SOA")
    assert "status: SERVFAIL" in world.dig(failing, ".", "SOA")
    for mode, (_, given_at) in SERVERS.items():
        assert "status: SERVFAIL" in world.dig(given_at, ".", "SOA", "-p", "8806"), mode
    world.publish(newest + 1)
    for mode, (server, _) in SERVERS.items():
        wait_until(lambda server=server: str(newest + 1) in world.dig(server, ".", "SOA"), f"{mode}: it is back", 60)
        wait_until(lambda mode=mode: not world.is_stale(mode), f"{mode}: the copy answers")


def test_the_root_keys_are_kept(world: World) -> None:
    ksk = versions.keys()[0]
    kept = world.directory / "relay" / "state" / "root.key"
    wait_until(kept.exists, "the keys are kept")
    assert f"key {ksk.tag}: START -> VALID" in world.log("relay")
    assert ";;state=2 [VALID]" in kept.read_text()
    twin = kept.with_name("root.key.twin")  # process/twice.py
    wait_until(lambda: twin.exists() and twin.read_text().partition("\n")[2] == kept.read_text(), "kept twice")
