"""unbound (NLnet Labs): a validating resolver whose root hints and trust anchor are given."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.peers.daemon import Peer, running, tool, version_of


@contextmanager
def resolve(
    workdir: Path,
    *,
    root_hints: Path,
    trust_anchor: Path,
    address: str = "127.0.0.1",
    port: int = 53,
    options: Sequence[str] = (),
    prefix: Sequence[str] = (),
) -> Iterator[Peer]:
    """Resolve on *address* (of the namespace that *prefix* enters); *options* are lines for `server:`.

    It is ready when its control socket, a Unix socket in *workdir*, accepts: the namespace need not be ours.
    """
    unbound = tool("unbound")
    control = workdir / "unbound.control"
    configuration = workdir / "unbound.conf"
    lines = "".join(f"    {option}\n" for option in options)
    configuration.write_text(
        f"""
server:
    interface: {address}
    port: {port}
    username: ""
    chroot: ""
    directory: "{workdir}"
    pidfile: "{workdir}/unbound.pid"
    use-syslog: no
    logfile: ""
    num-threads: 1
    do-daemonize: no
    do-not-query-localhost: no
    access-control: 0.0.0.0/0 allow
    root-hints: "{root_hints}"
    trust-anchor-file: "{trust_anchor}"
{lines}
remote-control:
    control-enable: yes
    control-interface: "{control}"
    control-use-cert: no
"""
    )

    def ready() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            return client.connect_ex(str(control)) == 0

    log = workdir / "unbound.log"
    with running("unbound", [*prefix, unbound, "-d", "-c", str(configuration)], log, ready) as pid:
        yield Peer("unbound", version_of([unbound, "-V"]), address, port, pid, log)
