"""Other people's DNS software, started for real on loopback or in a namespace, to compare with and to be asked by.

    with nsd.serve({".": root_zone_file}, workdir) as peer:
        ask(peer.address, peer.port)

`nsd`, `knot`, `bind` and `powerdns` have the same `serve(zones, workdir, …)`; `unbound.resolve` is a validating
resolver.  They run as whoever runs the tests, keep all their files in *workdir*, and end with the `with` block.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from bench.peers import bind, knot, nsd, powerdns, unbound
from bench.peers.daemon import Peer, PeerFailed, ToolMissing, free_port, tool


class Serve(Protocol):
    """What `serve` of every name server here takes."""

    def __call__(
        self,
        zones: Mapping[str, Path],
        workdir: Path,
        *,
        address: str = ...,
        also: Sequence[str] = ...,
        port: int | None = ...,
        processes: int = ...,
        program: str | None = ...,
    ) -> AbstractContextManager[Peer]:
        """Serve the zone files *zones* (by zone name) at *address*, and *also* at others; *port* None takes a free one.

        *program* is the daemon to run; None = the one installed.
        """


AUTHORITATIVE: Mapping[str, Serve] = {
    "NSD": nsd.serve,
    "Knot": knot.serve,
    "BIND": bind.serve,
    "PowerDNS": powerdns.serve,
}

__all__ = [
    "AUTHORITATIVE", "Peer", "PeerFailed", "Serve", "ToolMissing", "bind", "free_port", "knot", "nsd", "powerdns",
    "tool", "unbound",
]  # fmt: skip
