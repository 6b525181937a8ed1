"""Real resolvers as subscribers of a LocalRoot service, with the configuration that is generated for them.

Everything is in one network namespace.  Root queries go to a stand-in root server, and are counted by who asks.
"""

import base64
import contextlib
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.peers.daemon import running
from rootsrv.localroot.observations import FILE, Notified, Observed, TransferSeen
from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import Servers, ServerWish
from rootsrv.localroot.subscribers import LiveKey
from rootsrv.resolvers.software import SOFTWARE
from rootsrv.resolvers.wanted import Publisher, ResolverKey, ResolverSetup
from rootsrv.wire.serial import serial_is_newer
from tests.control.asking import ask
from tests.hyperlocal.asked import AskedResolvers
from tests.hyperlocal.programs import STARTS, software
from tests.hyperlocal.stand_ins import FIRST, PUBLISHER, answers, nsd, root, root_addresses
from tests.localroot.accounts import add_user
from tests.needs import require_tool
from tests.network import Host, network
from tests.secondary import versions
from tests.secondary.certificates import Authority
from tests.server.live import wait_until

CANARY = "canary.localroot.example."
SERVICE, NAME = "198.51.100.60", "localroot.example"
SYSTEMS_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True)
class Resolver:
    """One of the resolvers."""

    software: str
    address: str
    """Where it listens, and from where it asks."""

    falls_back: bool = True
    """Whether it has a copy of its own, which NOTIFY renews and which answers nxdomain."""


RESOLVERS = {
    "Unbound": Resolver("unbound", "127.0.0.2"),
    "Unbound over TLS": Resolver("unbound", "127.0.0.6"),
    "Unbound with a url": Resolver("unbound", "127.0.0.7"),
    "BIND with TSIG": Resolver("bind", "127.0.0.3"),
    "PowerDNS": Resolver("pdns", "127.0.0.4", falls_back=False),
    "Knot Resolver": Resolver("kresd", "127.0.0.5", falls_back=False),
}
WITH_COPY = [name for name, each in RESOLVERS.items() if each.falls_back]


@dataclass
class World(AskedResolvers):
    """The host with everything that runs on it."""

    host: Host
    directory: Path
    service: contextlib.ExitStack
    servers: dict[str, int] = field(default_factory=dict)
    """Ids of the resolvers at the service."""

    pids: dict[str, int] = field(default_factory=dict)
    """Of both NSDs."""

    @property
    def observed(self) -> Observed:
        return Observed(self.directory / "state" / FILE)

    def publish(self, serial: int) -> None:
        """Both the publisher and the root server have *serial* now."""
        self.put(versions.text(root(serial)))

    def put(self, text: bytes) -> None:
        (self.directory / "root.zone").write_bytes(text)
        for pid in self.pids.values():
            os.kill(pid, signal.SIGHUP)

    def start_service(self) -> None:
        command = [sys.executable, "-m", "rootsrv", "run", "--config", str(self.directory / "rootsrv.toml"),
                   "--role", "localroot"]  # fmt: skip
        log = self.directory / "log"
        begun = log.stat().st_size if log.exists() else 0
        there = lambda: "zone is given out zone=." in log.read_text()[begun:]  # noqa: E731
        self.service.enter_context(running("rootsrv", [*self.host.prefix, *command], log, there))

    def given(self) -> int | None:
        """The serial of the root that the service gives out."""
        status = ask(self.directory / "run" / "localroot.sock", "status")
        found = next(each["given"] for each in status["zones"] if each["name"] == ".")
        return None if found is None else int(found)

    def ends(self, name: str) -> tuple[str, str]:
        return RESOLVERS[name].address, RESOLVERS[name].address

    def prove(self, name: str, key: LiveKey) -> None:
        """As docs/localroot.md says: a signed SOA query over TCP from its address."""
        secret = base64.b64encode(key.secret).decode()
        printed = self.host.run(
            "dig", f"@{SERVICE}", "-b", RESOLVERS[name].address, "-y", f"{key.algorithm}:{key.name}:{secret}", "+tcp",
            ".", "SOA",
        )  # fmt: skip
        assert "status: NOERROR" in printed, printed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    for tool in ("dig", "nft", "nsd", "unbound", "named", "pdns_recursor", "kresd"):
        require_tool(tool)
    directory = tmp_path_factory.mktemp("localroot")
    directory.chmod(0o755)
    roots = root_addresses(root(FIRST))
    authority = Authority(directory)
    certified = authority.certify(NAME, SERVICE)
    with network() as net, contextlib.ExitStack() as stack:
        host = net.host("host")
        for address in (*roots, PUBLISHER, SERVICE, *(each.address for each in RESOLVERS.values())):
            host.ip("address", "add", f"{address}/32", "dev", "lo")
        rules = "".join(
            f"ip saddr {each.address} ip daddr {{ {', '.join(roots)} }} {protocol} dport 53 counter; "
            for each in RESOLVERS.values()
            for protocol in ("udp", "tcp")
        )
        host.run("nft", f"table inet count {{ chain counted {{ type filter hook input priority 0; {rules} }}; }}")
        made = World(host, directory, stack.enter_context(contextlib.ExitStack()))
        made.publish(FIRST)
        configure(directory, certified.certificate, certified.key)
        keys = sign_up(made)
        made.pids["roots"] = stack.enter_context(nsd(directory / "roots", host, roots))
        made.pids["publisher"] = stack.enter_context(nsd(directory / "publisher", host, [PUBLISHER]))
        made.start_service()
        hints = "".join(f". 3600000 NS r{at}.test.\nr{at}.test. 3600000 A {each}\n" for at, each in enumerate(roots))
        (directory / "hints").write_text(hints)
        for name in WITH_COPY:
            if name != "BIND with TSIG":  # which proves its address by itself
                made.prove(name, keys[name])
        for name, each in RESOLVERS.items():
            part = generated(name, directory, authority.path, keys)
            command = [*host.prefix, *STARTS[each.software](directory, part, each.address, each.address)]
            ready = lambda address=each.address: answers(host, address)  # noqa: E731
            stack.enter_context(running(name, command, directory / f"{name}.log", ready))
        yield made


def configure(directory: Path, certificate: Path, key: Path) -> None:
    (directory / "anchors").write_text(versions.anchor())
    (directory / "hosts.zone").write_bytes(versions.text(versions.hosts(FIRST)))
    (directory / "rootsrv.toml").write_text(
        f"""
service = {{ addresses = ["127.0.255.1"] }}
zone = [
  {{ name = ".", trust_anchors = "anchors", zonemd = "required" }},
  {{ name = "root-servers.net.", file = "hosts.zone", validation = "none" }},
]
state = {{ directory = "state", runtime_directory = "run" }}
refresh = {{ min_seconds = 1, backoff_seconds = 0.1, query_timeout_seconds = 2 }}
clock = {{ source = "trusted" }}
primary = [{{ name = "publisher", address = "{PUBLISHER}" }}]
localroot = {{ name = "{NAME}", addresses = ["{SERVICE}"], https_port = 443, \
tls_certificate = "{certificate}", tls_key = "{key}", without_key_per_serial = 1000, \
whole_zones_per_serial = 0, canary_zone = "{CANARY}", canary_seconds = 3600 }}
"""
    )


def sign_up(world: World) -> dict[str, LiveKey]:
    """All resolvers, each with a key."""
    register = Register(world.directory / "state" / "register")
    now = time.time()
    servers = Servers(register, NAME, (".", "root-servers.net.", CANARY), private=True)
    user = add_user(register, "operator@example.net", now)
    keys = {}
    for name, each in RESOLVERS.items():
        world.servers[name] = servers.add(user, ServerWish(name, each.software, (each.address,), (".", CANARY)), now)
        keys[name] = servers.new_key(user, world.servers[name], now)
    register.close()
    return keys


def generated(name: str, directory: Path, authority: Path, keys: dict[str, LiveKey]) -> str:
    """What its operator is given."""
    plain, over_tls = Publisher(SERVICE), Publisher(SERVICE, 853, NAME)
    url = f"https://{SERVICE}/root.zone"
    key = keys[name]
    match name:
        case "Unbound over TLS":
            wanted = ResolverSetup(publishers=(over_tls,), storage=str(directory / "over-tls"), hosts=True)
        case "Unbound with a url":
            wanted = ResolverSetup(publishers=(plain,), url=url, storage=str(directory / "url"))
        case "BIND with TSIG":
            secret = base64.b64encode(key.secret).decode()
            signing = ResolverKey(key.name, secret, key.algorithm)
            wanted = ResolverSetup(
                publishers=(plain,), key=signing, storage=str(directory / "bind"), hosts=True, canary=CANARY
            )
        case "Knot Resolver":
            wanted = ResolverSetup(publishers=(), url=url, ca_file=str(authority), storage=str(directory / "knot"))
        case _:
            canary = CANARY if RESOLVERS[name].falls_back else ""
            wanted = ResolverSetup(publishers=(plain,), storage=str(directory / "plain"), canary=canary)
    Path(wanted.storage).mkdir(exist_ok=True)
    Path(wanted.storage).chmod(0o777)
    part = SOFTWARE[software(RESOLVERS[name].software)].configuration(wanted)
    if name == "Unbound with a url":  # whose url's certificate is believed as every other
        part = part.replace("server:\n", f'server:\n    tls-cert-bundle: "{SYSTEMS_CERTIFICATES}"\n', 1)
    return part.replace(SYSTEMS_CERTIFICATES, str(authority))


def test_every_resolver_has_the_root_from_the_service_and_answers_without_the_root_servers(world: World) -> None:
    for name in WITH_COPY:
        wait_until(lambda name=name: world.serial(name) == FIRST, f"{name} has the root")
        wait_until(lambda name=name: world.answers_alone(name), f"{name} answers without the root servers")
    wait_until(lambda: world.answers_alone("Knot Resolver"), "Knot Resolver has the root")
    wait_until(lambda: world.serial("PowerDNS") == FIRST, "PowerDNS has the root")
    for name in RESOLVERS:
        assert " ad" in world.dig(name, ".", "SOA").split(";; flags:")[1].split(";")[0], name
    # Unbound fetches from whichever address the system chooses: here, where all are one host, from nobody's.
    server = world.servers["BIND with TSIG"]
    had = wait_until(lambda: world.observed.of_server(TransferSeen, server), "what BIND had was seen")
    assert {each.zone for each in had} <= {".", "root-servers.net.", CANARY}
    assert all(each.key for each in had)


def test_a_new_root_is_with_them_by_notify(world: World) -> None:
    world.publish(FIRST + 1)
    for name in WITH_COPY:
        wait_until(lambda name=name: world.serial(name) == FIRST + 1, f"{name} has the new root")
        told = lambda name=name: [  # noqa: E731
            (each.serial, each.outcome) for each in world.observed.of_server(Notified, world.servers[name])
        ]
        try:
            wait_until(lambda told=told: (FIRST + 1, "confirmed") in told(), f"{name} confirmed it", 15)
        except AssertionError:
            raise AssertionError(f"{name}: {told()}") from None
        assert world.answers_alone(name, 5), name


def test_a_root_with_a_wrong_zonemd_reaches_nobody(world: World) -> None:
    good = root(FIRST + 2)
    bad = versions.with_rdata(good, 1, lambda _: b"\1\2\3\4")
    world.put(versions.text(bad))
    log = world.directory / "log"
    wait_until(lambda: "zone rejected" in log.read_text(), "the service refuses it")
    for name in WITH_COPY:
        assert world.serial(name) == FIRST + 1
    world.publish(FIRST + 3)
    for name in WITH_COPY:
        wait_until(lambda name=name: world.serial(name) == FIRST + 3, f"{name} has the next good one")


def test_a_canary_is_with_them_when_somebody_wants_to_know(world: World) -> None:
    names = ("Unbound", "BIND with TSIG")

    def serial(name: str) -> int | None:
        # Nobody above delegates it here: what a validating resolver thinks of that is not what is tried.
        asked = (f"@{RESOLVERS[name].address}", "+tries=1", "+cd", f"{secrets.token_hex(8)}.{CANARY}", "A")
        found = re.search(r"IN\s+SOA\s+\S+ \S+ (\d+)", world.host.run("dig", *asked, check=False))
        return int(found.group(1)) if found else None

    def told(name: str) -> list[tuple[int | None, str]]:
        seen = world.observed.of_server(Notified, world.servers[name])
        return [(each.serial, each.outcome) for each in seen if each.zone == CANARY]

    first = {name: wait_until(lambda name=name: serial(name), f"{name} has the canary") for name in names}
    register = Register(world.directory / "state" / "register")
    try:
        servers = Servers(register, NAME, (".", "root-servers.net.", CANARY), private=True)
        (user,) = {each.user for each in servers.all()}
        servers.nudge(user, world.servers["Unbound"], CANARY, time.time())
    finally:
        register.close()
    for name in names:
        newer = lambda name=name: serial_is_newer(serial(name) or first[name], first[name])  # noqa: E731
        wait_until(newer, f"{name} has another version")
        confirmed = lambda name=name: (serial(name), "confirmed") in told(name)  # noqa: E731
        wait_until(confirmed, f"{name} confirmed it")


@pytest.mark.long
def test_without_the_service_they_ask_the_root_servers_and_return_by_themselves(world: World) -> None:
    # BIND without a copy has the root servers' NSEC records, and asks nobody for names that they cover (RFC 8198).
    server = world.servers["BIND with TSIG"]
    had = lambda: {each.zone for each in world.observed.of_server(TransferSeen, server)}  # noqa: E731
    wait_until(lambda: "." in had(), "BIND has the root")
    world.service.close()
    for name in WITH_COPY:
        wait_until(lambda name=name: world.asks_the_roots(name), f"{name} asks the root servers", 60)
    world.start_service()
    for name in WITH_COPY:
        wait_until(lambda name=name: world.answers_alone(name, 5), f"{name} answers from its copy again", 90)
