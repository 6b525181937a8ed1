"""The embedded default: a generated, test-signed root zone taken through the whole pipeline and served on loopback."""
# The zone is written to a file, and from there everything is as with a real one: `instance.run` reads, verifies,
# compiles and serves it.  Addresses are from documentation prefixes; the keys are thrown away with the process.

import contextlib
import hashlib
import os
import signal
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

from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, SigningKey, sign_root
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.process import clock
from rootsrv.process.children import environment
from rootsrv.roles.supervisor import SUPERVISOR
from rootsrv.server.sockets import CannotBind, ipv6_is_there, refuse_if_taken
from rootsrv.wire import rdata
from rootsrv.wire.name import ROOT
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents

_VALIDITY_SECONDS = 13 * 86_400  # as the root's signatures
_READY_SECONDS = 120.0  # a loaded machine; on an idle one it takes three
_STOP_SECONDS = 15.0
REPORT_ADDRESS, REPORT_PORT = "127.0.0.2", 9353
"""Of the status page: on loopback, but no service address; of two demos the second one has none."""

_HOST_ZONE = "root-servers.net."


@dataclass(frozen=True, slots=True)
class DemoZones:
    """What the demo serves, with the key that it is to be trusted by."""

    root: ZoneContents
    hosts: ZoneContents
    trust_anchor: str
    """The KSK's DS record in presentation format."""


def generate_zones(tlds: int, now: float, *, seed: int = 1) -> DemoZones:
    """A root of *tlds* delegations signed at *now* with fresh keys, and its host zone."""
    serial = int(time.strftime("%Y%m%d01", time.gmtime(now)))
    with ThreadPoolExecutor() as pool:
        private = list(pool.map(lambda _: rsa.generate_private_key(public_exponent=65_537, key_size=2048), range(2)))
        keys = [SigningKey(private[0], is_sep=True), SigningKey(private[1], is_sep=False)]
        inception = int(now) - 3600
        root = sign_root(
            generate.root_contents(serial=serial, tlds=tlds, seed=seed),
            Signing(keys=keys, inception=inception, expiration=inception + _VALIDITY_SECONDS),
            parallel_map=pool.map,
        )
    hosts = generate.hosts_contents(serial=serial)
    return DemoZones(root, hosts, f". IN DS {rdata.to_text(rdata.DS, _ds(keys[0]))}")


def _ds(key: SigningKey) -> bytes:
    """DS RDATA of the root's *key*, with a SHA-256 digest (RFC 4509)."""
    digest = hashlib.sha256(ROOT + key.dnskey).digest()
    return key.tag.to_bytes(2, "big") + bytes((key.algorithm, 2)) + digest


def write_configuration(
    zones: DemoZones, directory: Path, *, addresses: tuple[str, ...], port: int, workers: int
) -> Path:
    """Write *zones* and a configuration that serves them into *directory*; returns the configuration's path."""
    (directory / "root.zone").write_text(presentation.to_text(zones.root))
    (directory / "root-servers.net.zone").write_text(presentation.to_text(zones.hosts))
    (directory / "trust-anchor.ds").write_text(zones.trust_anchor + "\n")
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
port = {REPORT_PORT}

[fastpath]
interfaces = [{'"lo"' if os.geteuid() == 0 else ""}]
"""
    )
    return path


def run(*, port: int, tlds: int, workers: int) -> int:
    """`rootsrv demo`: returns the exit status when stopped by Ctrl-C or SIGTERM (0) or by a failure (1)."""
    console = Console(stderr=True, markup=False)
    addresses = ("127.0.0.1", "::1") if ipv6_is_there() else ("127.0.0.1",)
    if not 1 <= port <= 65_535 or not generate.MIN_TLDS <= tlds <= 20_000 or not 0 <= workers <= 64:
        console.print(f"rootsrv: port 1..65535, tlds {generate.MIN_TLDS}..20000, workers 0..64")
        return 2
    try:
        for address in addresses:
            refuse_if_taken(address, port)
    except CannotBind as error:
        console.print(f"rootsrv: {error.strerror}. Another one: rootsrv demo --port {port + 1}")
        return 1
    if len(addresses) == 1:
        console.print("This host has no IPv6 on loopback: serving IPv4 only.")
    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="rootsrv-demo-") as name:
        try:
            return _run(console, Path(name), addresses, port, tlds, workers)
        except KeyboardInterrupt:
            return 0


def _run(console: Console, directory: Path, addresses: tuple[str, ...], port: int, tlds: int, workers: int) -> int:
    began = time.monotonic()
    server: subprocess.Popen[bytes] | None = None
    output = directory / "log"
    try:
        with _progress(console) as progress:
            step = progress.add_task(f"Generating and signing a root zone of {tlds} TLDs (RSA-2048, ZONEMD SHA-384)")
            zones = generate_zones(tlds, clock.validity_now())
            progress.update(step, completed=1, total=1)
            step = progress.add_task("Verifying, compiling and starting workers, as with a real one")
            path = write_configuration(zones, directory, addresses=addresses, port=port, workers=workers)
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
            console.print(output.read_text(), end="")
            return 1
        _print_welcome(console, zones, addresses, port, time.monotonic() - began, path)
        status = server.wait()
        console.print(output.read_text(), end="")
        console.print(f"The server ended with exit status {status}.")
        return 1
    except KeyboardInterrupt:
        console.print("Stopping.")
        return 0
    finally:
        if server is not None:
            _end(server)


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
    console: Console, zones: DemoZones, addresses: tuple[str, ...], port: int, seconds: float, path: Path
) -> None:
    listening = " and ".join(addresses)
    tld = _a_signed_tld(zones.root)
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
        *((f"  rootsrv fastpath status --config {path}",) if os.geteuid() == 0 else ()),
        "",
        f"Status page and metrics: http://{REPORT_ADDRESS}:{REPORT_PORT}/ and /metrics",
        "",
        "Ctrl-C stops it.",
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
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does: the server stopped, the directory removed."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
