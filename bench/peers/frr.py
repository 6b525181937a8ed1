"""FRR: zebra and bgpd in a network namespace, with sockets of their own, beside any other FRR of the machine."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.peers.daemon import Namespace, running, tool


@contextlib.contextmanager
def frr(host: Namespace, configuration: str) -> Iterator[Path]:
    """Run FRR's zebra and bgpd on *host* until the block ends, which gets the directory of their sockets and logs.

    *configuration* is bgpd's.  They drop root for the user frr, whom pytest's directories do not let in.
    """
    tool("bgpd")
    with tempfile.TemporaryDirectory(prefix="rs-frr-") as name, contextlib.ExitStack() as stack:
        workdir = Path(name)
        shutil.chown(workdir, "frr", "frr")
        for daemon, text in (("zebra", ""), ("bgpd", configuration)):
            path = workdir / f"{daemon}.conf"
            path.write_text(f"log stdout\n{text}")
            path.chmod(0o644)
            vty = workdir / f"{daemon}.vty"
            command = [
                *host.prefix, tool(daemon), "-f", str(path), "-z", str(workdir / "zserv.api"),
                "-i", str(workdir / f"{daemon}.pid"), "--vty_socket", str(workdir),
            ]  # fmt: skip
            stack.enter_context(running(daemon, command, workdir / f"{daemon}.log", vty.exists))
        yield workdir


def vtysh(host: Namespace, sockets: Path, command: str) -> str:
    """What `vtysh -c command` prints."""
    return subprocess.run(
        [*host.prefix, tool("vtysh"), "--vty_socket", str(sockets), "-c", command],
        capture_output=True, text=True, timeout=10, check=False,
    ).stdout  # fmt: skip
