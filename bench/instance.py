"""A rootsrv that has its zones from primaries, on loopback: its configuration and its processes."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.peers.daemon import free_port
from bench.peers.primaries import KEY_NAME, SECRET

REPOSITORY = Path(__file__).resolve().parent.parent
Address = tuple[str, int]
KEY_SECTION = f'[[key]]\nname = "{KEY_NAME}"\nsecret = "{SECRET}"\n'
AT_ONCE = "align_seconds = 0\nlead_seconds = 0.0"
"""`[switchover]`: no set time is waited for."""

_STOP_SECONDS = 15.0


def configure(
    directory: Path,
    sections: str,
    *,
    service: Address,
    admin: Address,
    anchors: str,
    zone: str = "",
    workers: int = 1,
    switchover: str = AT_ONCE,
    limits: str = "",
) -> Path:
    """Write the configuration of an instance into *directory*, and its trust *anchors*; the file.

    *sections*: its primaries and peers; *zone*, *switchover*: further lines of these sections; *limits*: sections.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "anchors").write_text(anchors)
    path = directory / "rootsrv.toml"
    path.write_text(
        f"""
[service]
addresses = ["{service[0]}"]
port = {service[1]}
workers = {workers}
[admin]
addresses = ["{admin[0]}"]
port = {admin[1]}
idle_seconds = 20
[[zone]]
name = "."
trust_anchors = "{directory}/anchors"
{zone}
[state]
directory = "{directory}/state"
runtime_directory = "{directory}/run"
[switchover]
{switchover}
[clock]
source = "trusted"
{limits}
{KEY_SECTION}
{sections}
"""
    )
    return path


def start(
    configuration: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """`rootsrv run`, in a session of its own; it logs to `log` beside the *configuration*."""
    with (configuration.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "rootsrv", "run", "--config", str(configuration), *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def kill(process: "subprocess.Popen[bytes]") -> None:
    """kill -9 of every process of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, and what has not ended then is killed."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
    kill(process)


@contextlib.contextmanager
def instance(directory: Path, sections: str, anchors: str) -> Iterator[tuple[Address, Address]]:
    """One that switches over at once: where it answers, and where it takes NOTIFY."""
    service, admin = ("127.0.0.2", free_port("127.0.0.2")), ("127.0.0.1", free_port())
    process = start(configure(directory, sections, service=service, admin=admin, anchors=anchors))
    try:
        yield service, admin
    finally:
        end(process)
