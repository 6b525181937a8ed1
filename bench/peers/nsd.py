"""NSD (NLnet Labs), options as shipped, rate limiting off, TCP connections as many as the others take."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.peers.daemon import Peer, serve_daemon, tool, version_of


def configuration(
    workdir: Path, addresses: Sequence[str], port: int, options: Sequence[str] = (), clauses: str = ""
) -> Path:
    """Write nsd.conf: everything under *workdir*, *options* of the server, *clauses* after it."""
    server = "\n    ".join((*(f"ip-address: {each}" for each in addresses), *options))
    path = workdir / "nsd.conf"
    path.write_text(
        f"""
server:
    {server}
    port: {port}
    username: ""
    chroot: ""
    zonesdir: "{workdir}"
    database: ""
    pidfile: "{workdir}/nsd.pid"
    xfrdfile: "{workdir}/xfrd.state"
    xfrdir: "{workdir}"
    zonelistfile: "{workdir}/zone.list"
    cookie-secret-file: "{workdir}/cookie.secrets"
remote-control:
    control-enable: no
{clauses}"""
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
    options: Sequence[str] = (),
) -> AbstractContextManager[Peer]:
    """Serve *zones* from *processes* server processes; *options* are further lines for `server:`."""
    nsd = program or tool("nsd")

    def configure(chosen: int) -> Sequence[str]:
        path = configuration(
            workdir,
            (address, *also),
            chosen,
            (
                f"server-count: {processes}",
                "reuseport: yes",
                "tcp-count: 1000",
                "rrl-ratelimit: 0",
                "rrl-whitelist-ratelimit: 0",
                *options,
            ),
            "".join(f'zone:\n    name: "{name}"\n    zonefile: "{path}"\n' for name, path in zones.items()),
        )
        return [nsd, "-d", "-c", str(path)]

    return serve_daemon(
        "NSD", version_of([nsd, "-v"]), configure, zones=list(zones), workdir=workdir, address=address, port=port
    )
