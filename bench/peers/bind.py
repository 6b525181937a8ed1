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


def configuration(
    named: str, workdir: Path, addresses: Sequence[str], port: int, options: Sequence[str], clauses: str
) -> Path:
    """Write named.conf for the program *named*: everything under *workdir*, authoritative only; no control channel."""
    families = (
        ("listen-on", [each for each in addresses if ":" not in each]),
        ("listen-on-v6", [each for each in addresses if ":" in each]),
    )
    listen = "\n".join(
        f"    {family} port {port} {{ {''.join(f'{each}; ' for each in chosen) or 'none; '}}};"
        for family, chosen in families
    )
    path = workdir / "named.conf"
    path.write_text(
        f"""
options {{
    directory "{workdir}";
    pid-file "{workdir}/named.pid";
    {lock_option(named)}
    session-keyfile "{workdir}/session.key";
    managed-keys-directory "{workdir}";
{listen}
    recursion no;
    dnssec-validation no;
    empty-zones-enable no;
{"".join(f"    {each};{chr(10)}" for each in options)}}};
controls {{ }};
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
) -> AbstractContextManager[Peer]:
    """Serve *zones* from *processes* threads."""
    named = program or tool("named")

    def configure(chosen: int) -> Sequence[str]:
        path = configuration(
            named,
            workdir,
            (address, *also),
            chosen,
            ("tcp-clients 1000", "notify no", "allow-transfer { none; }"),
            "".join(
                f'zone "{name}" {{ type primary; file "{path}"; check-names ignore; }};\n'
                for name, path in zones.items()
            ),
        )
        return [named, "-g", "-n", str(processes), "-c", str(path)]

    return serve_daemon(
        "BIND", version_of([named, "-v"]), configure, zones=list(zones), workdir=workdir, address=address, port=port
    )
