"""A real instance on loopback, started as an operator starts it, and a client that says what it got."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import dns.message
import dns.query
from cryptography.hazmat.primitives.asymmetric import ec

from bench.peers.daemon import free_port
from rootsrv.answer.compiler import compile_table
from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, SigningKey, sign_root
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.process import clock
from rootsrv.wire import name as names
from rootsrv.zone import presentation
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.verify import verify, verify_hosts
from tests.control.asking import ask

REPOSITORY = Path(__file__).resolve().parent.parent.parent
VALID_SECONDS = 13 * 86_400  # as the root's signatures
TLDS = 40
START_SECONDS = 45.0
SERIALS = (2026112101, 2026112102)


@dataclass(frozen=True)
class ZoneFiles:
    """Two versions of a small signed root, in which every TLD's answers differ, and its host zone."""

    versions: tuple[bytes, bytes]
    hosts: bytes
    anchor: bytes
    expires: int
    """When the first signatures of the first version do, seconds since 1970."""


@cache
def zone_files() -> ZoneFiles:
    """Signed now, with throw-away ECDSA keys; the same for all tests of a run."""
    keys = [SigningKey(ec.generate_private_key(ec.SECP256R1()), is_sep=is_sep) for is_sep in (True, False)]
    now = int(time.time())
    versions = [
        presentation.to_text(
            sign_root(
                generate.root_contents(serial=serial, tlds=TLDS, seed=3),
                Signing(keys=keys, inception=now - 3600 + serial % 100, expiration=now + VALID_SECONDS + serial % 100),
            )
        ).encode()
        for serial in SERIALS
    ]
    dnskey = next(line for line in versions[0].splitlines() if b"DNSKEY" in line.split() and b"257" in line.split())
    hosts = presentation.to_text(generate.hosts_contents(serial=SERIALS[0])).encode()
    return ZoneFiles((versions[0], versions[1]), hosts, dnskey + b"\n", now + VALID_SECONDS + SERIALS[0] % 100)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """The first true value of *condition*; AssertionError when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)
    return value


@dataclass
class Instance:
    """A running instance."""

    directory: Path
    port: int
    workers: int
    process: "subprocess.Popen[bytes]"
    zones: ZoneFiles = field(default_factory=zone_files)

    @property
    def page(self) -> Page:
        """Its shared page."""
        return Page.open(self.directory / "run" / "page")

    @property
    def log(self) -> str:
        """All that it has logged."""
        return (self.directory / "log").read_text()

    def worker_pids(self) -> list[int]:
        """Process ids by slot; 0 where a worker is being replaced."""
        page = self.page
        return [page.worker(slot).pid for slot in range(self.workers)]

    def is_ready(self) -> bool:
        """Whether every worker answers from the active generation."""
        try:
            page = self.page
        except PageUnusable:
            return False
        slots = [page.worker(slot) for slot in range(self.workers)]
        return bool(page.active and page.workers) and all(s.pid and s.active == page.active for s in slots)

    def ask(self, name: str, rtype: str, *, tcp: bool = False, address: str = "127.0.0.1", **options: Any) -> Any:
        """The parsed response."""
        query = dns.message.make_query(name, rtype, **options)
        send = dns.query.tcp if tcp else dns.query.udp
        return send(query, address, timeout=5, port=self.port)

    def connect(self, address: str = "127.0.0.1", source: str = "") -> socket.socket:
        """A TCP connection, from the address *source* if that matters."""
        return socket.create_connection((address, self.port), timeout=5, source_address=(source, 0))

    def status(self) -> dict[str, Any]:
        """What serve's status socket tells."""
        return ask(self.directory / "run" / "serve.sock", "status", patience=5)

    def put_zone(self, version: int) -> None:
        """Put another version of the root zone in place of the file."""
        put(self.directory / "root.zone", self.zones.versions[version])

    def reload(self) -> None:
        """What `systemctl reload` does."""
        self.process.send_signal(signal.SIGHUP)

    def stop(self, seconds: float = 15.0) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(seconds)


def put(path: Path, octets: bytes) -> None:
    """Write *path* so that a reader finds the old or the new octets."""
    new = path.with_suffix(".put")
    new.write_bytes(octets)
    new.rename(path)


def put_zones(directory: Path) -> str:
    """Put the first version of the zones into *directory*; `zone_sections` of it."""
    files = zone_files()
    put(directory / "root.zone", files.versions[0])
    put(directory / "hosts.zone", files.hosts)
    put(directory / "anchor", files.anchor)
    return zone_sections("root.zone", "hosts.zone", "anchor")


def zone_sections(root: Path | str, hosts: Path | str, anchors: Path | str, more: str = "") -> str:
    """`[[zone]]` and `[state]` of a configuration in whose directory the state is to be; *more* is said of the root."""
    return f"""
[[zone]]
name = "."
file = "{root}"
trust_anchors = "{anchors}"
{more}
[[zone]]
name = "root-servers.net."
file = "{hosts}"
validation = "none"
[state]
directory = "state"
runtime_directory = "run"
"""


def configure(directory: Path, port: int, workers: int, service: str = "", zone: str = "") -> Path:
    """Write zones and configuration into *directory*; *service* and *zone* are further lines of those sections."""
    put_zones(directory)
    path = directory / "rootsrv.toml"
    path.write_text(
        f"""
[service]
addresses = ["127.0.0.1", "::1"]
port = {port}
workers = {workers}
{service}
[identity]
nsid = "live.example"
{zone_sections("root.zone", "hosts.zone", "anchor", zone)}
"""
    )
    return path


def start(
    path: Path,
    port: int,
    workers: int,
    environment: Mapping[str, str] | None = None,
    role: str | None = None,
    by: Sequence[str] = (),
) -> Instance:
    """Start `rootsrv run` (or one role of it) with the configuration at *path*, by command *by*, without waiting."""
    with (path.parent / "log").open("ab") as log:
        process = subprocess.Popen(
            (*by, sys.executable, "-m", "rootsrv", "run", "--config", str(path), *(("--role", role) if role else ())),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    return Instance(path.parent, port, workers, process)


@contextlib.contextmanager
def running(
    directory: Path,
    *,
    workers: int = 1,
    service: str = "",
    zone: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Instance]:
    """An instance that is ready, stopped and reaped at the end whatever happens."""
    port = free_port()
    path = configure(directory, port, workers, service, zone)
    with _stopped_at_the_end(start(path, port, workers, environment)) as instance:
        yield instance


@contextlib.contextmanager
def _stopped_at_the_end(instance: Instance) -> Iterator[Instance]:
    try:
        wait_until(lambda: instance.is_ready() or instance.process.poll() is not None, "ready", START_SECONDS)
        assert instance.process.poll() is None, instance.log
        yield instance
    finally:
        with contextlib.suppress(ProcessLookupError):
            if instance.process.poll() is None:
                instance.stop()
            # All of its processes are in its session, stopped ones too.
            os.killpg(instance.process.pid, signal.SIGKILL)
        instance.process.wait()


@cache
def tables() -> tuple[bytes, bytes]:
    """The answer tables of the two versions."""
    files = zone_files()
    anchors = TrustAnchors.from_text(files.anchor.decode())
    made = []
    for version in files.versions:
        root = verify(presentation.from_text(version, names.ROOT), anchors, time.time())
        hosts = presentation.from_text(files.hosts, names.from_text("root-servers.net."))
        made.append(compile_table(root, verify_hosts(hosts, root, time.time())))
    return made[0], made[1]


@contextlib.contextmanager
def serving(directory: Path, *, workers: int = 1, service: str = "", by: Sequence[str] = ()) -> Iterator[Instance]:
    """The role `serve` alone, with both versions as generations 1 and 2: the test owns the head of the page.

    *by*: a command that starts it.
    """
    port = free_port()
    path = configure(directory, port, workers, service)
    (directory / "state" / "tables").mkdir(parents=True)
    for generation, octets in enumerate(tables(), 1):
        (directory / "state" / "tables" / f"{generation}.table").write_bytes(octets)
    (directory / "run").mkdir()
    page = Page.create(directory / "run" / "page")
    for zone in (0, 1):
        page.set_deadline(zone, clock.boottime_ns() + 3_600_000_000_000)
    page.active = 1
    with _stopped_at_the_end(start(path, port, workers, role="serve", by=by)) as instance:
        yield instance
