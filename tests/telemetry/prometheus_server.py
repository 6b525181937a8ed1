"""A real Prometheus, with a configuration of deploy/prometheus and our rules."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from bench.peers.daemon import free_port
from tests.needs import REPOSITORY, require_tool

DEPLOY = REPOSITORY / "deploy" / "prometheus"
RULES = ("recording.yml", "alerts.yml")


@contextlib.contextmanager
def prometheus_server(
    directory: Path, name: str, changes: Mapping[str, str], prefix: Sequence[str] = ()
) -> Iterator[int]:
    """The port of a Prometheus with deploy/prometheus/*name*; each of *changes* must be there to be changed.

    *prefix*: a command that starts it (`ip netns exec …`).
    """
    program = require_tool("prometheus")
    port = free_port()
    configuration = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert old in configuration
        configuration = configuration.replace(old, new)
    for rules in RULES:
        (directory / rules).write_text((DEPLOY / rules).read_text())
    (directory / name).write_text(configuration)
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            (
                *prefix,
                program,
                f"--config.file={directory / name}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def ask(port: int, expression: str) -> list[dict[str, Any]]:
    """Prometheus' answer to a query: its samples."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': expression})}", timeout=5) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
            return result
    except OSError:
        return []
