"""`make demo-fleet`: a mesh of five in network namespaces, under load, and a tour of what it stands.

    m0 … m4 (rootsrv, BIRD) ── r (BIRD, NSD, three nodes of etcd, Prometheus) ── c (load)

m0 and m1 are distribution hosts, m3 and m4 are canaries; all five announce the same prefixes.  Nothing of it is in this
machine's own network but two ports on loopback, for a browser; with Ctrl-C all of it goes.
"""

import argparse
import contextlib
import functools
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

from pyroute2 import netns

from bench.guardian import guarded
from bench.peers.daemon import PeerFailed, ToolMissing, tool
from rootsrv.commands.demo import ended_by_signals
from rootsrv.wire.rdata import ZONEMD
from tests.network import Host
from tests.secondary import versions
from tests.system.anycast_network import PREFIX, SERVICE, Load, address
from tests.system.mesh_network import HOSTS, REPORT_PORT, MeshNetwork, mesh_network, small_contents, spread_ms
from tests.telemetry.browser import browse
from tests.telemetry.prometheus_server import prometheus_server

FIRST = 2026112800
MEMBERS, CANARIES = 5, 2
RATE = 200
_CHUNK_OCTETS = 65_536
_WITHOUT_ENGINE_SECONDS = 8.0
_PICTURE_SECONDS = 90
"""How long the fleet answers before it is photographed, so that there is something in its charts."""

_PATIENCE_SECONDS = 240.0  # two cores have forty processes

Tell = Callable[[str], object]


class Door:
    """A port on this machine's loopback that leads to *target*, as *host* reaches it."""

    def __init__(self, host: Host, target: tuple[str, int]) -> None:
        self._target = target
        # A socket stays in the namespace of the thread that made it.
        self._inside = ThreadPoolExecutor(1, initializer=netns.setns, initargs=(host.name,))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                outer, _ = self._listener.accept()
                try:
                    inner = self._inside.submit(socket.create_connection, self._target, 5).result()
                except OSError:
                    outer.close()
                    continue
                for one, other in ((outer, inner), (inner, outer)):
                    threading.Thread(target=_carry, args=(one, other), daemon=True).start()

    def close(self) -> None:
        """Shut it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._inside.shutdown()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while octets := one.recv(_CHUNK_OCTETS):
            other.sendall(octets)
        other.shutdown(socket.SHUT_WR)


class Tour:
    """What is done to the fleet; each scene tells what it does, what there is to see, and what came of it."""

    def __init__(self, fleet: MeshNetwork, directory: Path, altered: set[int], tell: Tell) -> None:
        self._fleet = fleet
        self._directory = directory
        self._altered = altered
        self._tell = tell
        self._serial = FIRST

    def run(self) -> None:
        """All scenes once."""
        for scene in (self.update, self.drain, self.kill, self.bad_zone, self.engine):
            scene()

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """Queries from the client for the block, and then how many were lost."""
        with Load(
            self._fleet.client, self._directory / "load.json", 600, RATE, tuple(SERVICE.values())
        ).begun() as load:
            yield
            result = load.result().values()
        sent, lost = sum(each["sent"] for each in result), sum(len(each["lost"]) for each in result)
        self._tell(f"  {sent} queries meanwhile, {lost} without an answer")

    def _gateway(self) -> str:
        found = re.search(r"via (?:inet6 )?(\S+)", self._fleet.router.ip("route", "show", PREFIX[4]))
        return found[1] if found else ""

    def _serving(self) -> str:
        """The member that the router sends the client's queries to; "" = none."""
        gateway = self._gateway()
        return next((name for name, each in self._fleet.members.items() if each.gateway(4) == gateway), "")

    def _moved(self, before: str) -> str:
        return str(self._fleet.wait(lambda: (now := self._serving()) != before and now, f"traffic leaves {before}"))

    def update(self) -> None:
        """One instant for all."""
        self._serial += 1
        self._tell(f"A new version, {self._serial}, at the primary: canaries first, then all others at one instant")
        with self.loaded():
            self._fleet.publish(self._serial)
            self._fleet.wait_for_all(self._serial)
        flips = self._fleet.flips(self._serial)
        others = set(flips) - {f"m{MEMBERS - 1 - number}" for number in range(CANARIES)}
        self._tell(
            f"  {len(flips)} members serve it; those after the canaries did so within {spread_ms(flips, others):.0f} ms"
        )

    def drain(self) -> None:
        """Traffic goes before the route does."""
        before = self._serving()
        self._tell(f"Drain {before}, which the router prefers: rootsrv drain")
        with self.loaded():
            self._fleet.members[before].rootsrv("drain")
            self._tell(f"  traffic goes to {self._moved(before)} now")
        self._fleet.members[before].rootsrv("undrain")
        self._fleet.members[before].await_state("up", _PATIENCE_SECONDS)

    def kill(self) -> None:
        """The promise is a lease."""
        before = self._serving()
        site = self._fleet.members[before]
        self._tell(f"Kill every process of rootsrv on {before}; its BIRD goes on, and would announce for ever")
        began = time.monotonic()
        site.kill()
        now = self._moved(before)
        self._tell(f"  after {time.monotonic() - began:.1f} s nobody renewed its route's lease: traffic goes to {now}")
        site.start()
        site.await_state("up", _PATIENCE_SECONDS)
        self._tell(f"  {before} is started again, and announced")

    def bad_zone(self) -> None:
        """What is unverified cannot be served."""
        good, self._serial = self._serial, self._serial + 1
        self._altered.add(self._serial)
        self._tell(f"A version whose ZONEMD somebody altered, {self._serial}, at the primary")
        with self.loaded():
            self._fleet.publish(self._serial)
            found = self._fleet.wait(self._refusals, "both distribution hosts refuse it")
        for name, reason in found.items():
            self._tell(f"  {name}: {reason}")
        answered = {site.serial() for site in self._fleet.members.values()}
        assert answered == {good}, answered
        self._tell(f"  all answer {good} on, and all are announced: {len(self._fleet.announced())} routes")
        self._serial += 1
        self._fleet.publish(self._serial)
        self._fleet.wait_for_all(self._serial)
        self._tell(f"  {self._serial} is good again, and served by all")

    def _refusals(self) -> dict[str, str]:
        found = {}
        for name in HOSTS:
            for line in self._fleet.members[name].log.splitlines():
                if "zone rejected" in line and f"={self._serial}" in line:
                    found[name] = line[line.index("zone rejected") :][:160]
        return found if len(found) == len(HOSTS) else {}

    def engine(self) -> None:
        """A lost engine withdraws nothing."""
        before, withdrawn = self._fleet.announced(), self._fleet.withdrawals()
        self._tell("Kill all three nodes of etcd")
        with self.loaded():
            for node in self._fleet.engine.nodes:
                node.kill()
            began = time.monotonic()
            self._fleet.wait(
                lambda: self._nobody_sees_the_engine() and time.monotonic() > began + _WITHOUT_ENGINE_SECONDS,
                "the members have noticed",
            )
        assert self._fleet.announced() == before
        assert self._fleet.withdrawals() == withdrawn
        self._tell(f"  the members have noticed, and nothing happens: {len(before)} routes before, {len(before)} now")
        for node in self._fleet.engine.nodes:
            node.start(wait=False)
        self._fleet.wait(self._everybody_sees_the_engine, "the engine is back")
        self._tell("  started again, and found again by all")

    def _sees(self, name: str) -> bool:
        return bool(self._fleet.ask(name).get("engine", {}).get("there"))

    def _nobody_sees_the_engine(self) -> bool:
        return not any(self._sees(name) for name in self._fleet.members)

    def _everybody_sees_the_engine(self) -> bool:
        return all(self._sees(name) for name in self._fleet.members)


def _calm(url: str) -> bool:
    with urlopen(url, timeout=10) as response:
        return b"Somebody should look" not in response.read()


def show(directory: Path, tell: Tell, pictures: Path | None = None) -> Generator[None, None, None]:
    """Start the fleet and go on the tour, again with each `next`; all of it ends when the generator is closed.

    *pictures*: where screenshots go, of the pages under load.
    """
    altered: set[int] = set()

    def text(serial: int) -> bytes:
        contents = small_contents(serial)
        if serial in altered:
            contents = versions.with_rdata(contents, ZONEMD, lambda rdata: rdata[:-1] + bytes((rdata[-1] ^ 1,)))
        return versions.text(contents)

    tell("Starting five instances with their BIRD, a router with NSD and etcd, and a client: half a minute")
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(
            mesh_network(directory, FIRST, text=text, members=MEMBERS, canaries=CANARIES, metrics=True)
        )
        at = f"{address(1, 1, 4)}:{REPORT_PORT}"
        changes = {"192.0.2.10:9353": at, "15s": "1s", "60s": "2s"}
        page = Door(fleet.router, (address(1, 1, 4), REPORT_PORT))
        stack.callback(page.close)
        tell(f"The fleet: http://{page.address}/mesh, and one of its members: http://{page.address}/")
        with contextlib.suppress(ToolMissing):
            port = stack.enter_context(prometheus_server(directory, "fleet.yml", changes, fleet.router.prefix))
            metrics = Door(fleet.router, ("127.0.0.1", port))
            stack.callback(metrics.close)
            tell(f"Prometheus, with the rules of deploy/prometheus: http://{metrics.address}/alerts")
        tell(f"Look inside: ip netns exec {fleet.client.name} dig @{SERVICE[4]} . SOA +nsid +norecurse")
        tell("Ctrl-C ends it")
        tour = Tour(fleet, directory, altered, tell)
        if pictures is not None:
            tour.update()
            with tour.loaded():
                threading.Event().wait(_PICTURE_SECONDS)
                # So high that they end between two cards.
                for name, path, size in (("status", "", "1180,1105"), ("fleet", "mesh", "1180,1163")):
                    url = f"http://{page.address}/{path}"
                    fleet.wait(functools.partial(_calm, url), f"{url} has no alarm", _PATIENCE_SECONDS)
                    browse(url, directory, f"--screenshot={pictures / name}-page.png", f"--window-size={size}")
        while True:
            tour.run()
            yield


TOOLS = ("bird", "nsd", "etcd", "dig", "ip")


def _lacking() -> str:
    """What this machine has not, and the demo needs; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    try:
        for each in TOOLS:
            tool(each)
    except ToolMissing as missing:
        return str(missing)
    # As `ip netns add` does: a namespace, and a place that is shared with others.
    made = subprocess.run(
        ["unshare", "--net", "--mount", "true"], capture_output=True, text=True, timeout=30, check=False
    )
    if made.returncode:
        return f"needs network namespaces, which root of a container mostly may not make: {made.stderr.strip()}"
    return ""


def main() -> int:
    """Until Ctrl-C, or once with --once; the exit status."""
    parser = argparse.ArgumentParser(prog="demo-fleet", description=__doc__)
    parser.add_argument("--once", action="store_true", help="the tour once, then end")
    parser.add_argument("--pictures", type=Path, metavar="DIRECTORY", help="screenshots of its pages go there")
    parser.add_argument("--pause", type=float, default=20.0, metavar="SECONDS", help="between two tours (default 20)")
    wanted = parser.parse_args()
    if lacking := _lacking():
        print(f"demo-fleet: {lacking}", file=sys.stderr)
        return 1

    def tell(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)

    interrupted = False
    try:
        with (
            guarded("ROOTSRV_DEMO_FLEET"),
            ended_by_signals(),
            tempfile.TemporaryDirectory(prefix="rootsrv-fleet-") as name,
        ):
            directory = Path(name)
            directory.chmod(0o755)
            tours = show(directory, tell, wanted.pictures)
            with contextlib.closing(tours):
                try:
                    for _ in tours:
                        if wanted.once:
                            break
                        threading.Event().wait(wanted.pause)
                except KeyboardInterrupt:
                    interrupted = True
                    print("Stopping: processes, namespaces, files", flush=True)
    except PeerFailed:
        # Ctrl-C at a terminal reaches the daemons as well.
        if not interrupted:
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
