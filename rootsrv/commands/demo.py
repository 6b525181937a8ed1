"""The embedded default: a generated, test-signed root zone taken through the whole pipeline and served on loopback."""
# The zone is written to a file, and from there everything is as with a real one: `instance.run` reads, verifies,
# compiles and serves it.  Addresses are from documentation prefixes; the keys are thrown away with the process.

import asyncio
import contextlib
import hashlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rootsrv.commands.demo_tour import Tour
from rootsrv.commands.demo_watch import DemoAsker, watch
from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, SigningKey, sign_root
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.process import clock
from rootsrv.process.children import environment
from rootsrv.process.held_back import ipv6_is_there
from rootsrv.roles.supervisor import SUPERVISOR
from rootsrv.server.sockets import CannotBind, refuse_if_taken
from rootsrv.wire import rdata
from rootsrv.wire.name import ROOT
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents

_VALIDITY_SECONDS = 13 * 86_400  # as the root's signatures
_READY_SECONDS = 120.0  # a loaded machine; on an idle one it takes three
_STOP_SECONDS = 15.0
_FIRST_UNPRIVILEGED_PORT = 1024
MAX_RATE = 1000  # one thread that asks; bench/ has what loads
REPORT_ADDRESS, REPORT_PORTS = "127.0.0.2", range(9353, 9363)
"""Of the status page: on loopback, but no service address; the first port that nobody has."""

GENERATING = "Generating and signing a root zone of {tlds} TLDs (RSA-2048, ZONEMD)"
STARTING = "Verifying, compiling and starting workers, as with a real one"

_HOST_ZONE = "root-servers.net."


@dataclass(frozen=True, slots=True)
class DemoZones:
    """What the demo serves, with the key that it is to be trusted by."""

    root: ZoneContents
    hosts: ZoneContents
    trust_anchor: str
    """The KSK's DS record in presentation format."""

    signing: Signing
    """What the next version is to be signed with."""


def generate_zones(tlds: int, now: float, *, seed: int = 1) -> DemoZones:
    """A root of *tlds* delegations signed at *now* with fresh keys, and its host zone."""
    serial = int(time.strftime("%Y%m%d01", time.gmtime(now)))
    with ThreadPoolExecutor() as pool:
        private = list(pool.map(lambda _: rsa.generate_private_key(public_exponent=65_537, key_size=2048), range(2)))
        keys = [SigningKey(private[0], is_sep=True), SigningKey(private[1], is_sep=False)]
        inception = int(now) - 3600
        signing = Signing(keys=keys, inception=inception, expiration=inception + _VALIDITY_SECONDS)
        root = sign_root(generate.root_contents(serial=serial, tlds=tlds, seed=seed), signing, parallel_map=pool.map)
    hosts = generate.hosts_contents(serial=serial)
    return DemoZones(root, hosts, f". IN DS {rdata.to_text(rdata.DS, _ds(keys[0]))}", signing)


def _ds(key: SigningKey) -> bytes:
    """DS RDATA of the root's *key*, with a SHA-256 digest (RFC 4509)."""
    digest = hashlib.sha256(ROOT + key.dnskey).digest()
    return key.tag.to_bytes(2, "big") + bytes((key.algorithm, 2)) + digest


def write_configuration(
    zones: DemoZones, directory: Path, *, addresses: tuple[str, ...], port: int, workers: int,
    report_port: int = REPORT_PORTS[0],
) -> Path:  # fmt: skip
    """Write *zones* and a configuration that serves them into *directory*; returns the configuration's path."""
    (directory / "root.zone").write_text(presentation.to_text(zones.root), encoding="utf-8")
    (directory / "root-servers.net.zone").write_text(presentation.to_text(zones.hosts), encoding="utf-8")
    (directory / "trust-anchor.ds").write_text(zones.trust_anchor + "\n", encoding="utf-8")
    (directory / "sources.key").write_text(secrets.token_hex(16) + "\n", encoding="utf-8")
    listed = ", ".join(f'"{address}"' for address in addresses)
    path = directory / "rootsrv.toml"
    path.write_text(
        f"""\
[service]
addresses = [{listed}]
port = {port}
workers = {workers}

[identity]
nsid = "demo.rootsrv.example"

[[zone]]
name = "."
file = "root.zone"
trust_anchors = "trust-anchor.ds"
zonemd = "required"

[[zone]]
name = "{_HOST_ZONE}"
file = "root-servers.net.zone"
validation = "none"

[state]
directory = "state"
runtime_directory = "run"

[report]
addresses = ["{REPORT_ADDRESS}"]
port = {report_port}
sources_key_file = "sources.key"

[clock]
source = "trusted"

[fastpath]
interfaces = [{'"lo"' if os.geteuid() == 0 else ""}]
""",
        encoding="utf-8",
    )
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoWanted:
    """What `rootsrv demo` was asked for."""

    port: int
    tlds: int
    workers: int
    rate: int
    """Queries a second that it asks itself; 0 = none."""

    tour_seconds: float
    """From one version of the zone to the next; 0 = no tour."""

    def fault(self) -> str:
        """What cannot be; empty if nothing."""
        if not 1 <= self.port <= 65_535 or not generate.MIN_TLDS <= self.tlds <= 20_000 or not 0 <= self.workers <= 64:
            return f"port 1..65535, tlds {generate.MIN_TLDS}..20000, workers 0..64"
        if not 0 <= self.rate <= MAX_RATE or self.tour_seconds < 0:
            return f"rate 0..{MAX_RATE}, tour seconds 0 or more"
        return ""


def run(wanted: DemoWanted) -> int:
    """`rootsrv demo`: returns the exit status when stopped by Ctrl-C or SIGTERM (0) or by a failure (1)."""
    console = Console(stderr=True, markup=False, soft_wrap=True)  # a command is copied as one line
    addresses = ("127.0.0.1", "::1") if ipv6_is_there() else ("127.0.0.1",)
    if fault := wanted.fault():
        console.print(f"rootsrv: {fault}")
        return 2
    try:
        for address in addresses:
            refuse_if_taken(address, wanted.port)
    except CannotBind as error:
        another = f"{typed_name()} demo --port {_another_port(addresses, wanted.port)}"
        console.print(f"rootsrv: {error.strerror}. Another one: {another}")
        return 1
    if len(addresses) == 1:
        console.print("This host has no IPv6 on loopback: serving IPv4 only.")
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="rootsrv-demo-") as name:
        try:
            return _run(console, Path(name), addresses, wanted)
        except KeyboardInterrupt:
            return 0


def _run(console: Console, directory: Path, addresses: tuple[str, ...], wanted: DemoWanted) -> int:
    began = time.monotonic()
    server: subprocess.Popen[bytes] | None = None
    output = directory / "log"
    try:
        with _progress(console) as progress:
            step = progress.add_task(GENERATING.format(tlds=wanted.tlds))
            zones = generate_zones(wanted.tlds, clock.validity_now())
            progress.update(step, completed=1, total=1)
            step = progress.add_task(STARTING)
            report_port = _free_report_port()
            try:
                path = write_configuration(
                    zones, directory, addresses=addresses, port=wanted.port, workers=wanted.workers,
                    report_port=report_port,
                )  # fmt: skip
            except OSError as error:
                console.print(f"rootsrv: {directory} cannot be written: {error.strerror}; TMPDIR names another place")
                return 1
            with output.open("wb") as stream:
                server = subprocess.Popen(
                    (sys.executable, "-m", "rootsrv", "run", "--config", str(path)),
                    stdin=subprocess.DEVNULL,
                    stderr=stream,
                    env=environment() | {SUPERVISOR: str(os.getpid())},  # it ends with us, whatever ends us
                    start_new_session=True,  # Ctrl-C reaches us alone, and we end it in order
                )
            ready = _wait_until_ready(server, directory / "run" / "page")
            progress.update(step, completed=1, total=1)
        if not ready:
            console.print("The server did not start:")
            _print_log(console, output)
            return 1
        _print_welcome(console, zones, addresses, wanted, time.monotonic() - began, path, report_port)
        asyncio.run(_show(console, server, zones, addresses, wanted, path))
        status = server.wait()
        _print_log(console, output)
        console.print(f"The server ended with exit status {status}.")
        return 1
    except KeyboardInterrupt:
        console.print("Stopping.")
        return 0
    finally:
        if server is not None:
            _end(server)


async def _show(
    console: Console, server: "subprocess.Popen[bytes]", zones: DemoZones, addresses: tuple[str, ...],
    wanted: DemoWanted, path: Path,
) -> None:  # fmt: skip
    """Ask, go on the tour, and tell a line per second, until the *server* ends."""

    def tell(text: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')}  {text}", highlight=False, soft_wrap=True)

    asker = DemoAsker(zones.root, addresses, wanted.port, wanted.rate) if wanted.rate else None
    tour = None
    if wanted.tour_seconds:
        tour = asyncio.create_task(Tour(zones.root, zones.signing, path, wanted.tour_seconds, tell, typed_name()).run())
    if asker:
        asker.start()
    try:
        await watch(server, path.parent / "run", path.parent / "state", addresses, wanted.port, tell)
    finally:
        if tour:
            tour.cancel()
        if asker:
            asker.stop()


def _another_port(addresses: tuple[str, ...], taken: int) -> int:
    """The next port that anybody may have and nobody has; *taken* itself where there is none."""
    above, below = range(max(taken + 1, _FIRST_UNPRIVILEGED_PORT), 65_536), range(_FIRST_UNPRIVILEGED_PORT, taken)
    for port in itertools.chain(above, below):
        with contextlib.suppress(CannotBind):
            for address in addresses:
                refuse_if_taken(address, port)
            return port
    return taken


def _free_report_port() -> int:
    """Where the status page of an earlier demo is not."""
    for port in REPORT_PORTS:
        with contextlib.suppress(CannotBind):
            refuse_if_taken(REPORT_ADDRESS, port, (socket.SOCK_STREAM,))
            return port
    return REPORT_PORTS[0]  # the role says in its log that it cannot have it


def _print_log(console: Console, output: Path) -> None:
    """What the roles said, in lines as they are, so that one can be found and copied."""
    console.print(output.read_text(encoding="utf-8"), end="", highlight=False, soft_wrap=True)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
    )


def _wait_until_ready(server: "subprocess.Popen[bytes]", page_path: Path) -> bool:
    """Whether all workers answer from the table before the server ends, or time is over."""
    deadline = time.monotonic() + _READY_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(PageUnusable):
            page = Page.open(page_path)
            workers = [page.worker(slot) for slot in range(page.workers)]
            if workers and page.active and all(each.pid and each.active == page.active for each in workers):
                return True
        time.sleep(0.02)
    return False


def _print_welcome(
    console: Console, zones: DemoZones, addresses: tuple[str, ...], wanted: DemoWanted, seconds: float, path: Path,
    report_port: int,
) -> None:  # fmt: skip
    port = wanted.port
    listening = " and ".join(addresses)
    tld, rootsrv = _a_signed_tld(zones.root), typed_name()
    lines = (
        "",
        f"Serving serial {zones.root.serial} on {listening}, port {port}, UDP and TCP; ready after {seconds:.1f} s.",
        "",
        "Trust anchor (thrown away with this process):",
        f"  {zones.trust_anchor}",
        "",
        "Try:",
        f"  dig @127.0.0.1 -p {port} . NS +norecurse",
        f"  dig @{addresses[-1]} -p {port} www.example.{tld} A +dnssec +norecurse",
        f"  dig @127.0.0.1 -p {port} no-such-tld. A +dnssec +nsid +tcp +norecurse",
        f"  {rootsrv} status --config {path}",
        *((f"  {rootsrv} fastpath status --config {path}",) if os.geteuid() == 0 else ()),
        *(() if wanted.tour_seconds else (f"  {rootsrv} demo --tour: new versions, one refused, one held",)),
        "",
        f"Status page and metrics: http://{REPORT_ADDRESS}:{report_port}/ and /metrics",
        "",
        *((f"The tour: something new every {wanted.tour_seconds:g} s.",) if wanted.tour_seconds else ()),
        'The clock is believed, synchronised or not (clock.source = "trusted").',
        f"Ctrl-C stops it. Each second, with {wanted.rate} queries a second of its own:",
        "",
    )
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _a_signed_tld(root: ZoneContents) -> str:
    """A delegation that has a DS record and a name that is easy to type."""
    names = (owner[1:-1].decode() for owner in root.delegations if root.rrset(owner, rdata.DS))
    return next(each for each in sorted(names, key=len) if each.isalpha())


def _end(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.terminate()
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does: the server stopped, the directory removed.

    Once: `make` hands on what its whole group gets, and people press Ctrl-C twice; what clears up is not to be left.
    """

    def interrupt(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def typed_name() -> str:
    """How `rootsrv` of this environment is typed here: a newcomer has not put it on the PATH."""
    ours = Path(sys.executable).with_name("rootsrv")
    found = shutil.which("rootsrv")
    if not ours.exists() or (found and Path(found).resolve() == ours.resolve()):
        return "rootsrv"
    checked_out = ours.parents[2]
    return str(ours.relative_to(checked_out) if checked_out == Path.cwd() else ours)
