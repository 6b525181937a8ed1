"""PowerDNS authoritative server with its bind backend; signed zones are served as they are (presigned)."""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.peers.daemon import Peer, PeerFailed, serve_daemon, tool, version_of


def serve(
    zones: Mapping[str, Path],
    workdir: Path,
    *,
    address: str = "127.0.0.1",
    also: Sequence[str] = (),
    port: int | None = None,
    processes: int = 1,
    program: str | None = None,
) -> AbstractContextManager[Peer]:
    """Serve *zones* from *processes* receiver threads, caches as shipped."""
    pdns_server, pdnsutil = program or tool("pdns_server"), tool("pdnsutil")

    listen = ",".join((address, *also))

    def configure(chosen: int) -> Sequence[str]:
        (workdir / "zones.conf").write_text(
            "".join(f'zone "{name}" {{ type native; file "{path}"; }};\n' for name, path in zones.items())
        )
        (workdir / "pdns.conf").write_text(
            f"""
launch=bind
bind-config={workdir}/zones.conf
bind-dnssec-db={workdir}/dnssec.sqlite
local-address={listen}
local-port={chosen}
max-tcp-connections=1000
socket-dir={workdir}
receiver-threads={processes}
distributor-threads=1
disable-syslog=yes
guardian=no
daemon=no
security-poll-suffix=
version-string=anonymous
"""
        )
        if not (workdir / "dnssec.sqlite").exists():
            _pdnsutil("create-bind-db", str(workdir / "dnssec.sqlite"))
            for name, path in zones.items():
                if b"RRSIG" in path.read_bytes():
                    _pdnsutil("set-presigned", name)
        return [pdns_server, f"--config-dir={workdir}"]

    def _pdnsutil(*command: str) -> None:
        done = subprocess.run(
            [pdnsutil, f"--config-dir={workdir}", *command], capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode != 0:
            raise PeerFailed(f"pdnsutil {' '.join(command)}: {done.stdout}{done.stderr}")

    return serve_daemon(
        "PowerDNS",
        version_of([pdns_server, "--version"]),
        configure,
        zones=list(zones),
        workdir=workdir,
        address=address,
        port=port,
    )
