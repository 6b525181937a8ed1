"""Primaries with many subscribers: the LocalRoot service as it is run, NSD and Knot."""

import base64
import contextlib
import ipaddress
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers import knot, nsd
from bench.peers.daemon import answers_for, free_port, running, tool
from bench.peers.primaries import KNOT_KEY, NSD_KEY, SECRET, HiddenPrimary, hidden_primary
from bench.zones import Zones
from rootsrv.localroot.observations import FILE, Observations, Proved, TransferSeen
from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import MAX_SERVERS, Servers, ServerWish
from rootsrv.wire import name as names
from rootsrv.wire.tsig import Key, Signer

SERVICE = "127.63.0.1"
FIRST_ADDRESS = int(ipaddress.IPv4Address("127.64.0.1"))
KEY_NAME = "transfer.example."


def address_of(number: int) -> str:
    """Of the subscriber *number*."""
    return str(ipaddress.IPv4Address(FIRST_ADDRESS + number))


@dataclass
class Subject:
    """A server with the first version, and how it gets the second."""

    address: tuple[str, int]
    pid: int
    notify_port: int
    keys: Sequence[tuple[str, str, bytes]]
    publish: Callable[[], None]
    probe: Callable[[], None] | None = None
    """Asks for another zone, if it has one."""


@contextlib.contextmanager
def _rootsrv(directory: Path, first: Zones, second: Zones, number: int, mbit: float) -> Iterator[Subject]:
    notify_in, port, notify_port = free_port("127.0.0.1"), free_port(SERVICE), free_port("0.0.0.0")
    texts = {".": first.root.read_bytes(), "root-servers.net.": first.hosts.read_bytes()}
    with hidden_primary("NSD", texts, directory / "primary", notify_port=notify_in) as primary:
        _configure(directory, first, primary, notify_in, port, notify_port, mbit)
        keys = _sign_up(directory, number, first.contents.serial)
        command = [sys.executable, "-m", "rootsrv", "run", "--config", str(directory / "rootsrv.toml"),
                   "--role", "localroot"]  # fmt: skip
        log = directory / "log"

        def ready() -> bool:
            text = log.read_text()
            return "zone is given out zone=." in text and f"register read servers={number}" in text

        with running("rootsrv", command, log, ready) as pid:

            def probe() -> None:
                key = Key.make(names.from_text(keys[0][0]), keys[0][1], keys[0][2])
                name = names.from_text("root-servers.net.")
                query = Signer(key).sign(b"\0\2\0\0\0\1\0\0\0\0\0\0" + name + b"\0\6\0\1", time.time())
                with socket.create_connection((SERVICE, port), timeout=20) as client:
                    client.sendall(len(query).to_bytes(2, "big") + query)
                    assert client.recv(65535)

            publish = lambda: primary.publish(second.root.read_bytes())  # noqa: E731
            yield Subject((SERVICE, port), pid, notify_port, keys, publish, probe)


def _configure(
    directory: Path, zones: Zones, primary: HiddenPrimary, notify_in: int, port: int, notify_port: int, mbit: float
) -> None:
    (directory / "rootsrv.toml").write_text(
        f"""
service = {{ addresses = ["127.63.255.1"] }}
admin = {{ addresses = ["127.0.0.1"], port = {notify_in} }}
state = {{ directory = "state", runtime_directory = "run" }}
clock = {{ source = "trusted" }}
zone = [
  {{ name = ".", trust_anchors = "{zones.anchors}", zonemd = "required" }},
  {{ name = "root-servers.net.", validation = "none" }},
]
key = [{{ name = "{KEY_NAME}", secret = "{SECRET}" }}]

[[primary]]
name = "hidden"
address = "{primary.address}"
port = {primary.port}
key = "{KEY_NAME}"
zones = [".", "root-servers.net."]

[localroot]
name = "localroot.example"
addresses = ["{SERVICE}"]
port = {port}
notify_port = {notify_port}
mbit_per_second = {mbit}
transfers_per_prefix = 1000
"""
    )


def _sign_up(directory: Path, number: int, serial: int) -> list[tuple[str, str, bytes]]:
    """So many servers, with their keys and their addresses proved; all have *serial*, so that nobody is told of it."""
    now = time.time()
    register = Register(directory / "state" / "register")
    servers = Servers(register, "localroot.example", (".", "root-servers.net."), private=True)
    observations = Observations(directory / "state" / FILE)
    keys = []
    user = 0
    with register.writing() as database:
        for at in range(number):
            if at % MAX_SERVERS == 0:
                added = database.execute(
                    "INSERT INTO users (email, email_verified, handle, created) VALUES (?, ?, ?, ?)",
                    (f"operator{at}@example.net", now, at.to_bytes(32, "big"), now),
                ).lastrowid
                assert added is not None
                user = added
            server = servers.add(user, ServerWish(f"s{at % MAX_SERVERS}", "bind", (address_of(at),), (".",)), now)
            key = servers.new_key(user, server, now)
            keys.append((key.name, key.algorithm, key.secret))
            observations.note(Proved(server, address_of(at), now, key.name))
            observations.note(TransferSeen(server, ".", serial, now, "axfr", 1, address_of(at), "tcp", key.name, None))
    register.close()
    observations.close()
    return keys


def one_key(number: int) -> list[tuple[str, str, bytes]]:
    return [(KEY_NAME, "hmac-sha256", base64.b64decode(SECRET))] * number


@contextlib.contextmanager
def _nsd(directory: Path, first: Zones, second: Zones, number: int, mbit: float) -> Iterator[Subject]:
    port, notify_port = free_port("127.0.0.1"), free_port("0.0.0.0")
    path = directory / "root.zone"
    path.write_bytes(first.root.read_bytes())
    listed = "".join(f"  notify: {address_of(at)}@{notify_port} NOKEY\n" for at in range(number))
    zone = f'zone:\n  name: "."\n  zonefile: "{path}"\n  provide-xfr: 127.0.0.0/8 {KEY_NAME}\n{listed}'
    configured = nsd.configuration(
        directory, ("127.0.0.1",), port, ("server-count: 1", "tcp-count: 200"), NSD_KEY + zone
    )
    command = [tool("nsd"), "-d", "-c", str(configured)]
    with _started("NSD", command, directory, port) as pid:
        there = HiddenPrimary("NSD", "127.0.0.1", port, pid, {".": path}, directory)
        yield Subject(
            ("127.0.0.1", port), pid, notify_port, one_key(number), lambda: there.publish(second.root.read_bytes())
        )


@contextlib.contextmanager
def _knot(directory: Path, first: Zones, second: Zones, number: int, mbit: float) -> Iterator[Subject]:
    port, notify_port = free_port("127.0.0.1"), free_port("0.0.0.0")
    path = directory / "root.zone"
    path.write_bytes(first.root.read_bytes())
    remotes = "".join(f"  - id: r{at}\n    address: {address_of(at)}@{notify_port}\n" for at in range(number))
    zone = (
        f"  - domain: .\n    file: {path}\n    zonefile-sync: -1\n    zonefile-load: whole\n    journal-content: none\n"
        "    semantic-checks: off\n    acl: transfer\n"
        f"    notify: [{', '.join(f'r{at}' for at in range(number))}]\n"
    )

    rule = f"acl:\n  - id: transfer\n    address: 127.0.0.0/8\n    action: transfer\n    key: {KEY_NAME}\n"
    configured = knot.configuration(
        directory,
        ("127.0.0.1",),
        port,
        [zone],
        options=("tcp-max-clients: 400",),
        clauses=f"{KNOT_KEY}remote:\n{remotes}{rule}",
    )
    command = [tool("knotd"), "-c", str(configured)]
    with _started("Knot", command, directory, port) as pid:
        there = HiddenPrimary("Knot", "127.0.0.1", port, pid, {".": path}, directory)
        yield Subject(
            ("127.0.0.1", port), pid, notify_port, one_key(number), lambda: there.publish(second.root.read_bytes())
        )


@contextlib.contextmanager
def _started(kind: str, command: list[str], directory: Path, port: int) -> Iterator[int]:
    with running(kind, command, directory / f"{kind}.log", answers_for("127.0.0.1", port, ["."])) as pid:
        yield pid


SUBJECTS = {"rootsrv": _rootsrv, "NSD": _nsd, "Knot": _knot}
