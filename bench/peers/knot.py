"""Knot DNS (CZ.NIC), options as shipped."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.peers.daemon import Peer, serve_daemon, tool, version_of


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
) -> AbstractContextManager[Peer]:
    """Serve *zones* from *processes* UDP workers and as many TCP workers; UDP on *xdp_interface* over AF_XDP."""
    knotd = program or tool("knotd")

    def configure(chosen: int) -> Sequence[str]:
        configuration = workdir / "knot.conf"
        listen = ", ".join(f"{each}@{chosen}" for each in (address, *also))
        xdp = f"xdp:\n    listen: {xdp_interface}@{chosen}\n" if xdp_interface else ""
        configuration.write_text(
            f"""
{xdp}server:
    rundir: {workdir}
    listen: [ {listen} ]
    udp-workers: {processes}
    tcp-workers: {processes}
    background-workers: 1
    tcp-idle-timeout: 30
control:
    listen: {workdir}/knot.sock
database:
    storage: {workdir}/knot
log:
  - target: stderr
    any: info
zone:
"""
            + "".join(
                f"  - domain: {name}\n    file: {path}\n    zonefile-sync: -1\n    journal-content: none\n"
                "    semantic-checks: off\n"
                for name, path in zones.items()
            )
        )
        return [knotd, "-c", str(configuration)]

    return serve_daemon(
        "Knot",
        version_of([knotd, "--version"]),
        configure,
        zones=list(zones),
        workdir=workdir,
        address=address,
        port=port,
    )
