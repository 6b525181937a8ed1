"""NSD, Knot and BIND as secondaries of ours: what they transfer is what we gave."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from bench.peers import bind, knot, nsd
from bench.peers.daemon import START_SECONDS, running, tool
from bench.peers.primaries import BIND_KEY, KEY_NAME, KNOT_KEY, NSD_KEY


@dataclass
class Secondary:
    """A running secondary."""

    port: int

    def serial(self) -> int | None:
        """The serial that it answers."""
        with contextlib.suppress(OSError, dns.exception.DNSException):
            answer = dns.query.udp(dns.message.make_query(".", "SOA"), "127.0.0.1", port=self.port, timeout=1).answer
            if answer:
                return int(answer[0][0].serial)
        return None


@contextlib.contextmanager
def secondary(
    kind: str,
    port: int,
    primary_port: int,
    directory: Path,
    *,
    tls: tuple[Path, str] | None = None,
    seconds: float = START_SECONDS,
) -> Iterator[Secondary]:
    """Run *kind* at *port* as secondary of 127.0.0.1 at *primary_port*; NSD and BIND over TLS: (CA, host name).

    PeerFailed when it has no zone after so many *seconds*.
    """
    directory.mkdir()
    made = Secondary(port)
    if kind == "Knot":
        command = _knot(directory, port, primary_port)  # 3.2 has no XoT
    else:
        command = (_nsd if kind == "NSD" else _bind)(directory, port, primary_port, tls)
    with running(kind, command, directory / f"{kind}.log", lambda: made.serial() is not None, seconds):
        yield made


def _nsd(directory: Path, port: int, primary_port: int, tls: tuple[Path, str] | None) -> list[str]:
    options = ["server-count: 1", "xfrd-reload-timeout: 0", *([f'tls-cert-bundle: "{tls[0]}"'] if tls else [])]
    authentication = f'tls-auth:\n    name: "strict"\n    auth-domain-name: "{tls[1]}"\n' if tls else ""
    zone = f"""zone:
    name: "."
    zonefile: "root.zone"
    request-xfr: 127.0.0.1@{primary_port} {KEY_NAME} {"strict" if tls else ""}
    allow-notify: 127.0.0.1 {KEY_NAME}
"""
    path = nsd.configuration(directory, ("127.0.0.1",), port, options, NSD_KEY + authentication + zone)
    return [tool("nsd"), "-d", "-c", str(path)]


def _knot(directory: Path, port: int, primary_port: int) -> list[str]:
    clauses = f"""{KNOT_KEY}remote:
  - id: primary
    address: 127.0.0.1@{primary_port}
    key: {KEY_NAME}
acl:
  - id: notify
    address: 127.0.0.1
    action: notify
    key: {KEY_NAME}
"""
    zone = f"""  - domain: .
    storage: {directory}
    file: root.zone
    master: primary
    acl: notify
    semantic-checks: off
"""
    path = knot.configuration(directory, ("127.0.0.1",), port, [zone], clauses=clauses)
    return [tool("knotd"), "-c", str(path)]


def _bind(directory: Path, port: int, primary_port: int, tls: tuple[Path, str] | None) -> list[str]:
    named = tool("named")
    context = f'tls strict {{ ca-file "{tls[0]}"; remote-hostname "{tls[1]}"; }};\n' if tls else ""
    zone = f"""zone "." {{
    type secondary; file "{directory}/root"; masterfile-format text; allow-notify {{ key "{KEY_NAME}"; }};
    primaries {{ 127.0.0.1 port {primary_port} key "{KEY_NAME}" {"tls strict" if tls else ""}; }};
}};
"""
    options = ("notify no", "min-retry-time 1", "max-retry-time 1")
    path = bind.configuration(named, directory, ("127.0.0.1",), port, options, BIND_KEY + context + zone)
    return [named, "-g", "-n", "1", "-c", str(path)]
