"""BIRD (CZ.NIC): a routing daemon, one in each network namespace."""

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.peers.daemon import Namespace, running, tool

_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bird:
    """A BIRD that runs."""

    pid: int
    control: Path
    log: Path

    def birdc(self, *command: str) -> str:
        """What `birdc command` prints."""
        birdc = tool("birdc")
        return subprocess.run(
            [birdc, "-s", str(self.control), *command], capture_output=True, text=True, timeout=10, check=False
        ).stdout


def deployed_configuration(kind: str, changes: Mapping[str, str]) -> str:
    """deploy/bird/*kind*.conf with the site's values changed; every one of *changes* must be there to be changed."""
    text = (_REPOSITORY / "deploy" / "bird" / f"{kind}.conf").read_text()
    for old, new in changes.items():
        if old not in text:
            raise AssertionError(f"deploy/bird/{kind}.conf has no {old!r} to be changed")
        text = text.replace(old, new)
    return re.sub(r"^log syslog all;", "log stderr all;", text, flags=re.MULTILINE)


@contextlib.contextmanager
def route(host: Namespace, workdir: Path, configuration: str) -> Iterator[Bird]:
    """Run BIRD on *host* with *configuration* until the block ends."""
    bird = tool("bird")
    workdir.mkdir(parents=True, exist_ok=True)
    path, control, log = workdir / "bird.conf", workdir / "bird.ctl", workdir / "bird.log"
    path.write_text(configuration)

    def ready() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            return client.connect_ex(str(control)) == 0

    command = [*host.prefix, bird, "-f", "-c", str(path), "-s", str(control), "-P", str(workdir / "bird.pid")]
    with running("bird", command, log, ready) as pid:
        yield Bird(pid, control, log)
