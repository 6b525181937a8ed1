"""Knot DNS (CZ.NIC), options as shipped."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.peers.daemon import Peer, serve_daemon, tool, version_of

_TLS_WORKERS = 32
"""Knot 3.4.6 closes a connection over TLS when its worker takes another one, as seen: one each, and some to spare."""


def configuration(
    workdir: Path,
    addresses: Sequence[str],
    port: int,
    zones: Sequence[str],
    *,
    options: Sequence[str] = (),
    workers: int = 1,
    clauses: str = "",
) -> Path:
    """Write knot.conf: everything under *workdir*, *options* of the server, *clauses* before the *zones*."""
    listen = ", ".join(f"{each}@{port}" for each in addresses)
    (workdir / "knot").mkdir(exist_ok=True)
    path = workdir / "knot.conf"
    path.write_text(
        f"""
server:
    rundir: {workdir}
    listen: [ {listen} ]
    udp-workers: {workers}
    tcp-workers: {workers}
    background-workers: 1
{"".join(f"    {each}{chr(10)}" for each in options)}control:
    listen: {workdir}/knot.sock
database:
    storage: {workdir}/knot
log:
  - target: stderr
    any: info
{clauses}zone:
{"".join(zones)}"""
    )
    return path


def serve(
    zones: Mapping[str, Path],
    workdir: Path,
    *,
    address: str = "127.0.0.1",
    also: Sequence[str] = (),
    port: int | None = None,
    processes: int = 1,
    program: str | None = None,
    xdp_interface: str | None = None,
    tls_port: int | None = None,
) -> AbstractContextManager[Peer]:
    """Serve *zones* from *processes* UDP workers and as many TCP workers; UDP on *xdp_interface* over AF_XDP.

    *tls_port*: DNS over TLS as well, with a certificate that it makes for itself (from Knot 3.4 on).
    """
    knotd = program or tool("knotd")

    def configure(chosen: int) -> Sequence[str]:
        path = configuration(
            workdir,
            (address, *also),
            chosen,
            [
                f"  - domain: {name}\n    file: {path}\n    zonefile-sync: -1\n    journal-content: none\n"
                "    semantic-checks: off\n"
                for name, path in zones.items()
            ],
            options=(
                "tcp-idle-timeout: 30",
                # Between two records of a client that has others to serve pass more than its 500 ms.
                *([f"listen-tls: {address}@{tls_port}", "tcp-io-timeout: 5000"] if tls_port is not None else []),
            ),
            workers=processes if tls_port is None else _TLS_WORKERS,
            clauses=f"xdp:\n    listen: {xdp_interface}@{chosen}\n" if xdp_interface else "",
        )
        return [knotd, "-c", str(path)]

    return serve_daemon(
        "Knot",
        version_of([knotd, "--version"]),
        configure,
        zones=list(zones),
        workdir=workdir,
        address=address,
        port=port,
    )
