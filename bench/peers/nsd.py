"""NSD (NLnet Labs), options as shipped, rate limiting off, TCP connections as many as the others take."""

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
) -> AbstractContextManager[Peer]:
    """Serve *zones* from *processes* server processes."""
    nsd = program or tool("nsd")

    def configure(chosen: int) -> Sequence[str]:
        configuration = workdir / "nsd.conf"
        listen = "\n    ".join(f"ip-address: {each}" for each in (address, *also))
        configuration.write_text(
            f"""
server:
    {listen}
    port: {chosen}
    server-count: {processes}
    username: ""
    chroot: ""
    zonesdir: "{workdir}"
    database: ""
    pidfile: "{workdir}/nsd.pid"
    xfrdfile: "{workdir}/xfrd.state"
    xfrdir: "{workdir}"
    zonelistfile: "{workdir}/zone.list"
    cookie-secret-file: "{workdir}/cookie.secrets"
    reuseport: yes
    tcp-count: 1000
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
remote-control:
    control-enable: no
"""
            + "".join(f'zone:\n    name: "{name}"\n    zonefile: "{path}"\n' for name, path in zones.items())
        )
        return [nsd, "-d", "-c", str(configuration)]

    return serve_daemon(
        "NSD", version_of([nsd, "-v"]), configure, zones=list(zones), workdir=workdir, address=address, port=port
    )
