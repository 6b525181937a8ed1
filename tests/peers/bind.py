"""BIND 9 (ISC), authoritative only, else as shipped."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.needs import require_tool
from tests.peers.daemon import Peer, serve_daemon, version_of


def serve(
    zones: Mapping[str, Path], workdir: Path, *, address: str = "127.0.0.1", port: int | None = None, processes: int = 1
) -> AbstractContextManager[Peer]:
    """Serve *zones* from *processes* threads."""
    named = require_tool("named")

    def configure(chosen: int) -> Sequence[str]:
        configuration = workdir / "named.conf"
        family, other = ("listen-on-v6", "listen-on") if ":" in address else ("listen-on", "listen-on-v6")
        configuration.write_text(
            f"""
options {{
    directory "{workdir}";
    pid-file "{workdir}/named.pid";
    lock-file none;
    session-keyfile "{workdir}/session.key";
    managed-keys-directory "{workdir}";
    {family} port {chosen} {{ {address}; }};
    {other} {{ none; }};
    recursion no;
    dnssec-validation no;
    empty-zones-enable no;
    notify no;
    allow-transfer {{ none; }};
}};
controls {{ }};
"""
            + "".join(
                f'zone "{name}" {{ type primary; file "{path}"; check-names ignore; }};\n'
                for name, path in zones.items()
            )
        )
        return [named, "-g", "-n", str(processes), "-c", str(configuration)]

    return serve_daemon(
        "BIND", version_of([named, "-v"]), configure, zones=list(zones), workdir=workdir, address=address, port=port
    )
