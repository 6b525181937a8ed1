"""NSD, Knot and BIND as hidden primaries on loopback: TSIG, NOTIFY, IXFR where they know it, XoT (BIND)."""

import base64
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype
import dns.tsig

from bench.peers import bind, knot, nsd
from bench.peers.daemon import PeerFailed, free_port, running, tool

KEY_NAME = "transfer.example."
SECRET = base64.b64encode(b"a secret of at least 16 octets..").decode()
NSD_KEY = f'key:\n    name: "{KEY_NAME}"\n    algorithm: hmac-sha256\n    secret: "{SECRET}"\n'
KNOT_KEY = f"key:\n  - id: {KEY_NAME}\n    algorithm: hmac-sha256\n    secret: {SECRET}\n"
BIND_KEY = f'key "{KEY_NAME}" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
KEY = dns.tsig.Key(KEY_NAME, SECRET, "hmac-sha256")


def without_last_soa(text: bytes) -> bytes:
    """A zone file that is the output of AXFR, without the SOA that ends it."""
    lines = text.splitlines(keepends=True)
    return b"".join(line for at, line in enumerate(lines) if at == 0 or line.split()[3] != b"SOA")


@dataclass
class HiddenPrimary:
    """A running primary; `publish` gives it another version of its zone."""

    kind: str
    address: str
    port: int
    pid: int
    files: dict[str, Path]
    directory: Path
    tls_port: int = 0

    def publish(self, text: bytes, zone: str = ".") -> None:
        """Load another version and send NOTIFY."""
        beside = self.files[zone].with_suffix(".next")
        beside.write_bytes(text)
        beside.replace(self.files[zone])
        self.reload()

    def reload(self) -> None:
        """Read the zone files again."""
        if self.kind in {"BIND", "NSD"}:
            os.kill(self.pid, signal.SIGHUP)
        else:
            subprocess.run(
                [tool("knotc"), "-s", str(self.directory / "knot.sock"), "zone-reload"],
                check=True,
                capture_output=True,
                timeout=20,
            )


def _answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError, dns.query.BadResponse, Exception):
        query = dns.message.make_query(".", "SOA")
        return bool(dns.query.tcp(query, address, port=port, timeout=1).answer)
    return False


@contextlib.contextmanager
def hidden_primary(
    kind: str,
    zones: dict[str, bytes],
    directory: Path,
    *,
    notify_port: int = 0,
    certificate: tuple[Path, Path] | None = None,
    tsig: bool = True,
) -> Iterator[HiddenPrimary]:
    """Run *kind* as primary of *zones*; NOTIFY goes to 127.0.0.1 at *notify_port*; XoT (BIND) with *certificate*."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, (name, text) in enumerate(zones.items()):
        files[name] = directory / f"zone{number}.zone"
        files[name].write_bytes(text)
    address = "127.0.0.1"
    for attempt in range(3):
        port, tls_port = free_port(address), free_port(address) if certificate else 0
        command = _CONFIGURE[kind](directory, port, files, notify_port, tls_port, certificate, tsig)
        log = directory / f"{kind}.log"
        try:
            with running(kind, command, log, lambda port=port: _answers(address, port)) as pid:  # type: ignore[misc]
                yield HiddenPrimary(kind, address, port, pid, files, directory, tls_port)
                return
        except PeerFailed as failure:
            if attempt == 2 or "in use" not in str(failure):
                raise


def _nsd(
    directory: Path,
    port: int,
    files: dict[str, Path],
    notify_port: int,
    tls_port: int,
    certificate: tuple[Path, Path] | None,
    tsig: bool,
) -> list[str]:
    key = KEY_NAME if tsig else "NOKEY"
    zones = "".join(
        f'zone:\n  name: "{name}"\n  zonefile: "{path}"\n  provide-xfr: 127.0.0.1 {key}\n'
        + (f"  notify: 127.0.0.1@{notify_port} {key}\n" if notify_port else "")
        for name, path in files.items()
    )
    path = nsd.configuration(
        directory, ("127.0.0.1",), port, ("server-count: 1", "zonefiles-check: yes"), NSD_KEY + zones
    )
    return [tool("nsd"), "-d", "-c", str(path)]


def _knot(
    directory: Path,
    port: int,
    files: dict[str, Path],
    notify_port: int,
    tls_port: int,
    certificate: tuple[Path, Path] | None,
    tsig: bool,
) -> list[str]:
    zones = [
        f"  - domain: {name}\n    file: {path}\n    zonefile-sync: -1\n    zonefile-load: difference\n"
        "    journal-content: changes\n    semantic-checks: off\n    acl: transfer\n"
        + ("    notify: secondary\n" if notify_port else "")
        for name, path in files.items()
    ]
    key = f"    key: {KEY_NAME}\n" if tsig else ""
    clauses = (
        f"{KNOT_KEY}remote:\n  - id: secondary\n    address: 127.0.0.1@{notify_port or 1}\n{key}"
        f"acl:\n  - id: transfer\n    address: 127.0.0.1\n    action: transfer\n{key}"
    )
    patient = ("tcp-io-timeout: 5000",)  # half a second as shipped, in which a busy machine may not read a whole zone
    path = knot.configuration(directory, ("127.0.0.1",), port, zones, options=patient, clauses=clauses)
    return [tool("knotd"), "-c", str(path)]


def _bind(
    directory: Path,
    port: int,
    files: dict[str, Path],
    notify_port: int,
    tls_port: int,
    certificate: tuple[Path, Path] | None,
    tsig: bool,
) -> list[str]:
    transfer = f'key "{KEY_NAME}"' if tsig else "127.0.0.1"
    notify = (
        f'also-notify {{ 127.0.0.1 port {notify_port} key "{KEY_NAME}"; }}; notify explicit;' if notify_port else ""
    )
    zones = "".join(
        f'zone "{name}" {{ type primary; file "{path}"; check-names ignore; masterfile-format text;'
        f' ixfr-from-differences yes; max-ixfr-ratio unlimited; journal "{directory}/{number}.jnl";'
        f" {notify} allow-transfer {{ {transfer}; }}; }};\n"
        for number, (name, path) in enumerate(files.items())
    )
    named = tool("named")
    options = [
        f"notify {'explicit' if notify_port else 'no'}",
        "notify-delay 0",
        "serial-query-rate 1000",
        "startup-notify-rate 1000",
    ]
    tls = ""
    if certificate:
        tls = f'tls xot {{ cert-file "{certificate[0]}"; key-file "{certificate[1]}"; protocols {{ TLSv1.3; }}; }};\n'
        options.append(f"listen-on port {tls_port} tls xot {{ 127.0.0.1; }}")
    path = bind.configuration(named, directory, ("127.0.0.1",), port, options, BIND_KEY + tls + zones)
    return [named, "-g", "-n", "1", "-c", str(path)]


_CONFIGURE = {"NSD": _nsd, "Knot": _knot, "BIND": _bind}
