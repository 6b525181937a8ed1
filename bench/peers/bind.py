"""BIND 9 (ISC), authoritative only, else as shipped."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.peers.daemon import Peer, release_of, serve_daemon, tool, version_of


def lock_option(named: str) -> str:
    """The line for `options` that keeps the program *named* from locking a file in /run, as only one of them could.

    9.20 locks none, and refuses the option.
    """
    return "" if release_of(version_of([named, "-v"])) >= (9, 20) else "lock-file none;"


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
    """Serve *zones* from *processes* threads."""
    named = program or tool("named")

    def configure(chosen: int) -> Sequence[str]:
        configuration = workdir / "named.conf"
        listen = "\n".join(
            f"    {family} port {chosen} {{ {''.join(f'{each}; ' for each in chosen_addresses) or 'none; '}}};"
            for family, chosen_addresses in (
                ("listen-on", [each for each in (address, *also) if ":" not in each]),
                ("listen-on-v6", [each for each in (address, *also) if ":" in each]),
            )
        )
        configuration.write_text(
            f"""
options {{
    directory "{workdir}";
    pid-file "{workdir}/named.pid";
    {lock_option(named)}
    session-keyfile "{workdir}/session.key";
    managed-keys-directory "{workdir}";
{listen}
    tcp-clients 1000;
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
