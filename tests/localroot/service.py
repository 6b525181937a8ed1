"""A running LocalRoot service (`rootsrv run --role localroot`) with NSD as its primary, and its register."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.tsig

from bench.peers.daemon import free_port, running
from bench.peers.primaries import KEY_NAME, SECRET, HiddenPrimary, hidden_primary
from rootsrv.localroot.observations import FILE, Observed
from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import Servers, ServerWish
from rootsrv.localroot.subscribers import LiveKey
from rootsrv.wire import name as names
from rootsrv.wire.message import AXFR, parse
from rootsrv.wire.tsig import Key, Signer
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import Inbound, TsigStream
from tests.control.asking import ask
from tests.distribution.service import send
from tests.framing import receive
from tests.localroot import zones
from tests.localroot.accounts import add_user
from tests.secondary import versions
from tests.server.live import wait_until

NAME = "localroot.example"
ROOT, HOSTS, ARPA, CC = ".", "root-servers.net.", "arpa.", "cc."
ZONES = (ROOT, HOSTS, ARPA, CC)
FIRST = 2026112100
WAIT_SECONDS = 40.0


@dataclass
class Service:
    """The service and what one can do to it."""

    directory: Path
    address: str
    port: int
    tls_port: int
    https_port: int
    notify_port: int
    primary: HiddenPrimary
    register: Register
    servers: Servers
    user: int
    extra: str = ""
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    clock: list[float] = field(default_factory=list)

    @property
    def log(self) -> str:
        """What it has said."""
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    @property
    def observed(self) -> Observed:
        """What it has observed."""
        return Observed(self.directory / "state" / FILE)

    def status(self, role: str = "localroot") -> dict[str, Any]:
        """What it says of itself."""
        return ask(self.directory / "run" / f"{role}.sock", "status")

    def zone(self, name: str) -> dict[str, Any]:
        """One zone of its status."""
        found: dict[str, Any] = next(each for each in self.status()["zones"] if each["name"] == name)
        return found

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
        """The first true value of *condition*; the log in the AssertionError if there is none."""
        try:
            return wait_until(condition, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-6000:]}") from None

    def wait_for(self, name: str, serial: int | None) -> None:
        """Until the zone is given out with *serial* (None: withheld)."""
        self.wait(lambda: self.zone(name)["given"] == serial, f"{name} {serial}")

    def publish(self, name: str, contents: ZoneContents) -> None:
        """The primary has another version, and says so."""
        self.primary.publish(versions.text(contents), name)

    def sign_up(self, name: str, addresses: tuple[str, ...], *, wanted: tuple[str, ...] = ZONES) -> int:
        """A server."""
        return self.servers.add(self.user, ServerWish(name, "bind", addresses, wanted), time.time())

    def key(self, server: int) -> LiveKey:
        """A new key of it."""
        return self.servers.new_key(self.user, server, time.time())

    def knows(self, key: LiveKey, address: str) -> None:
        """Wait until it has read the register: *key* works."""
        self.wait(lambda: self.soa(".", key, address=address) == 0, f"key {key.name} is known")

    # Asking.

    def connect(self, address: str = "", *, port: int = 0) -> socket.socket:
        """Over TCP, from *address*."""
        source = (address, 0) if address else None
        return socket.create_connection((self.address, port or self.port), timeout=20, source_address=source)

    def soa(self, zone: str, key: LiveKey | None = None, *, address: str = "") -> int:
        """The rcode of an SOA query over TCP."""
        with self.connect(address) as client:
            send(client, question(zone, 6, key)[0])
            return parse(receive(client)).rcode

    def udp(self, zone: str, key: LiveKey | None = None, *, address: str = "") -> Any:
        """The response to an SOA query over UDP."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.bind((address, 0))
            client.sendto(question(zone, 6, key)[0], (self.address, self.port))
            return parse(client.recv(65535))

    def axfr(self, zone: str, key: LiveKey | None = None, *, address: str = "") -> int | ZoneContents:
        """A transfer; the rcode if it is refused."""
        with self.connect(address) as client:
            return transferred(client, zone, key)

    # Running.

    def start(self) -> None:
        """Run it."""
        command = [sys.executable, "-m", "rootsrv", "run", "--config", str(self.directory / "rootsrv.toml"),
                   "--role", "localroot"]  # fmt: skip

        def ready() -> bool:
            with contextlib.suppress(Exception):
                return bool(self.status()["zones"])
            return False

        self.running.enter_context(running("rootsrv", command, self.directory / "log", ready))

    def stop(self) -> None:
        """End it."""
        self.running.close()

    def configure(self, extra: str = "", distribute: str = "") -> None:
        """Write its configuration; *extra*: lines of [localroot]."""
        (self.directory / "anchors").write_text(versions.anchor())
        listed = json.dumps(list(self.primary.files))
        (self.directory / "rootsrv.toml").write_text(
            f"""
service = {{ addresses = ["127.23.255.1"] }}
admin = {{ addresses = ["127.0.0.1"], port = {self.notify_in} }}
state = {{ directory = "state", runtime_directory = "run" }}
refresh = {{ min_seconds = 1, backoff_seconds = 0.1, query_timeout_seconds = 5 }}
clock = {{ source = "trusted" }}
zone = [
  {{ name = ".", trust_anchors = "anchors", zonemd = "required" }},
  {{ name = "{HOSTS}", validation = "none" }},
]
key = [{{ name = "{KEY_NAME}", secret = "{SECRET}" }}]

[[primary]]
name = "hidden"
address = "{self.primary.address}"
port = {self.primary.port}
key = "{KEY_NAME}"
notify_from = ["127.0.0.1"]
zones = {listed}

{distribute or DISTRIBUTE}

[localroot]
name = "{NAME}"
addresses = ["{self.address}"]
port = {self.port}
tls_port = {self.tls_port}
notify_port = {self.notify_port}
{(extra or self.extra).format(https_port=self.https_port)}
"""
        )

    notify_in: int = 0


DISTRIBUTE = f"""
[[distribute]]
name = "{ARPA}"
owner = "IAB"

[[distribute]]
name = "{CC}"
"""


def question(zone: str, rtype: int, key: LiveKey | None) -> tuple[bytes, Signer | None]:
    """A query in wire format, and what signed it."""
    octets = os.urandom(2) + b"\0\0\0\1\0\0\0\0\0\0" + names.from_text(zone) + rtype.to_bytes(2, "big") + b"\0\1"
    if key is None:
        return octets, None
    signer = Signer(wire_key(key))
    return signer.sign(octets, time.time()), signer


def wire_key(key: LiveKey) -> Key:
    """As TSIG wants it."""
    return Key.make(names.from_text(key.name), key.algorithm, key.secret)


def keyring(key: LiveKey) -> dns.tsig.Key:
    """As dnspython wants it."""
    return dns.tsig.Key(key.name, key.secret, key.algorithm)


def transferred(client: socket.socket, zone: str, key: LiveKey | None) -> int | ZoneContents:
    """All of an AXFR on *client*, its TSIG checked; the rcode if it is refused."""
    octets, signer = question(zone, AXFR, key)
    send(client, octets)
    stream = TsigStream(wire_key(key), signer.mac) if key is not None and signer is not None else None
    inbound = Inbound(names.from_text(zone), AXFR, int.from_bytes(octets[:2], "big"), tsig=stream)
    while not inbound.complete:
        message = receive(client)
        if rcode := parse(message).rcode:
            return rcode
        inbound.receive_message(message, time.time())
    result = inbound.result()
    assert result is not None
    return result


def contents_of(name: str, serial: int) -> ZoneContents:
    """A version of one of ZONES."""
    if name == ROOT:
        return zones.root(serial)
    if name == HOSTS:
        return versions.hosts(serial)
    return zones.delegated(names.from_text(name), serial)


@contextlib.contextmanager
def localroot(
    directory: Path, *, address: str = "127.23.0.1", extra: str = "", start: bool = True
) -> Iterator[Service]:
    """Run one until the block ends."""
    texts = {each: versions.text(contents_of(each, FIRST)) for each in ZONES}
    notify_in = free_port("127.0.0.1")
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(hidden_primary("NSD", texts, directory / "primary", notify_port=notify_in))
        register = Register(directory / "state" / "register")
        stack.callback(register.close)
        made = Service(
            directory,
            address,
            free_port(address),
            free_port(address),
            free_port(address),
            free_port("0.0.0.0"),
            primary,
            register,
            Servers(register, NAME, ZONES, private=True),
            add_user(register, "operator@example.net", time.time()),
            extra,
            notify_in=notify_in,
        )
        made.configure()
        stack.callback(made.stop)
        if start:
            made.start()
            for each in ZONES:
                made.wait_for(each, FIRST)
        yield made
