"""A mesh of real instances on loopback, with real etcd: two distribution hosts, the others fetch from them."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.instance import end
from bench.peers.daemon import free_port
from bench.peers.etcd import Cluster, cluster
from bench.peers.primaries import KEY_NAME
from rootsrv.zone.contents import ZoneContents
from tests.control.asking import ask
from tests.mesh.mesh_of import QUICK, SERVICE, Mesh, key_of, mesh_of
from tests.secondary.maintained import WAIT_SECONDS, Maintained, configure
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, version


def flips_in(logs: Mapping[str, str], serial: int) -> dict[str, float]:
    """When each of the members whose *logs* these are went into service with *serial*, as it wrote down itself."""
    found = {}
    for name, log in logs.items():
        for line in log.splitlines():
            if " zones in service " in line and f".={serial}" in line and "flipped_at=" in line:
                found[name] = float(line.partition("flipped_at=")[2].split()[0])
    return found


@dataclass
class FleetUnderTest:
    """Instances that run, their engine and the primary of their distribution hosts."""

    mesh: Mesh
    engine: Cluster
    primary: ScriptedPrimary
    members: dict[str, Maintained] = field(default_factory=dict)
    make: Callable[[int], ZoneContents] = version
    """The zone with a serial."""

    def wait(self, condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = WAIT_SECONDS) -> Any:
        """The first true value of *condition*."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{each.log[-2500:]}" for name, each in self.members.items())
                told = what if isinstance(what, str) else what()
                raise AssertionError(f"not within {seconds} s: {told}\n{logs}")
            time.sleep(0.05)
        return value

    def publish(self, serial: int, contents: ZoneContents | None = None) -> None:
        """A new version at the primary; the distribution hosts are told."""
        self.primary.publish(contents or self.make(serial))
        for name in self.mesh.roster.distribution_hosts:
            if self.members[name].process.poll() is None:
                self.members[name].notify(serial)

    def serials(self) -> dict[str, int | None]:
        """What each member answers."""
        return {name: each.serial() for name, each in self.members.items() if each.process.poll() is None}

    def wait_for_all(self, serial: int, seconds: float = WAIT_SECONDS) -> None:
        """Until all members that run answer *serial*, and have said so."""
        self.wait(lambda: set(self.serials().values()) == {serial}, f"{serial} everywhere: {self.serials()}", seconds)
        self.wait(lambda: set(self.serials()) <= set(self.flips(serial)), f"{serial} in every log", seconds)

    def flips(self, serial: int) -> dict[str, float]:
        """When each member went into service with *serial*, seconds since 1970, as it wrote down itself."""
        return flips_in({name: each.log for name, each in self.members.items()}, serial)

    def ask(self, name: str, command: str = "status", **facts: Any) -> dict[str, Any]:
        """What the role mesh of a member says; empty while it does not."""
        with contextlib.suppress(OSError, ValueError):
            return ask(self.members[name].directory / "run" / "mesh.sock", command, patience=10, **facts)
        return {}

    def orders(self, stage: str, serial: int) -> list[dict[str, Any]]:
        """The orders of this stage that some member has heard."""
        heard = self.ask(next(iter(self.members))).get("orders", [])
        return [each for each in heard if (each["stage"], each["serial"]) == (stage, serial)]


def section(mesh: Mesh, name: str, directory: Path, engine: Cluster) -> str:
    """`[mesh]` of a member whose files are in *directory*."""
    path = directory / "member.key"
    octets = key_of(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(octets)
    (directory / "roster").write_bytes(mesh.octets)
    files = engine.certificates
    endpoints = ", ".join(f'"{each}"' for each in engine.endpoints)
    return f"""
[mesh]
service = "{SERVICE}"
member = "{name}"
key = "{path}"
roster = "{directory / "roster"}"
roster_keys = ["{mesh.roster.signing_keys[0]}"]
endpoints = [{endpoints}]
tls_ca = "{files.ca}"
tls_certificate = "{files.certificate("member")}"
tls_key = "{files.key("member")}"
request_seconds = 1.0
"""


@contextlib.contextmanager
def fleet(
    directory: Path,
    n: int = 3,
    *,
    nodes: int = 1,
    hosts: int = 1,
    make: Callable[[int], ZoneContents] = version,
    by_roster: bool = False,
    **settings: Any,
) -> Iterator[FleetUnderTest]:
    """*n* members that all answer FIRST, the first *hosts* of them distribution hosts.

    *by_roster*: nothing but the roster says who has zones from whom.
    """
    mesh = mesh_of(n, hosts=hosts, timing=QUICK)
    at = {each.name: f"127.0.28.{10 + number}" for number, each in enumerate(mesh.roster.member)}
    reports = {name: free_port(address) for name, address in at.items()}
    admins = {name: (address, free_port(address)) for name, address in at.items()}
    listed = (
        replace(
            each,
            metrics=f"{at[each.name]}:{reports[each.name]}",
            transfers=f"{at[each.name]}:{admins[each.name][1]}" if by_roster else "",
        )
        for each in mesh.roster.member
    )
    mesh = mesh.changed(member=tuple(listed))
    with (
        cluster(directory / "engine", nodes, clients=["member"]) as engine,
        scripted(make(FIRST)) as primary,
        contextlib.ExitStack() as stack,
    ):
        running = FleetUnderTest(mesh, engine, primary, make=make)
        names = [each.name for each in mesh.roster.member]
        for number, name in enumerate(names):
            is_host = number < hosts
            home = directory / name
            home.mkdir()
            sections = section(mesh, name, home, engine) + f"[report]\nport = {reports[name]}\n"
            if is_host:
                sections += primary_section(primary, "scripted")
            if by_roster:
                pass
            elif is_host:
                for other in names:
                    if other != name:
                        address, port = admins[other]
                        sections += f'[[peer]]\nname = "{other}"\naddress = "{address}"\nport = {port}\n'
                        sections += f'key = "{KEY_NAME}"\n'
            else:
                for other in names[:hosts]:
                    address, port = admins[other]
                    sections += f'[[primary]]\nname = "{other}"\naddress = "{address}"\nport = {port}\n'
                    sections += f'zones = ["."]\nkey = "{KEY_NAME}"\n'
            service = (f"127.0.28.{100 + number}", free_port())
            configure(home, sections, service=service, admin=admins[name], **settings)
            member = Maintained(home, service, admins[name], None, dict(os.environ))  # type: ignore[arg-type]
            running.members[name] = member
            stack.callback(_stop, member)
        for member in running.members.values():
            member.start()
        running.wait_for_all(FIRST, 60)
        running.wait(
            lambda: all(running.ask(name).get("engine", {}).get("there") for name in names), "the engine is there"
        )
        yield running


def _stop(member: Maintained) -> None:
    if member.process is not None:
        end(member.process)
