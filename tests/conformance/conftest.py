"""The implementations that the corpus is put to: ours in its several ways, and four others."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.peers import AUTHORITATIVE, Peer
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, ResponderSettings
from rootsrv.answer.table import AnswerTable
from rootsrv.wire import name as names
from rootsrv.zone import presentation
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.verify import verify, verify_hosts
from tests.conformance.corpus import NSID, Served
from tests.conformance.zone_file import ZoneFile
from tests.needs import require_genuine_zones
from tests.server.live import Instance, free_port, start, wait_until, zone_sections

VALID_AT = 1761998400.0
"""2025-11-01T12:00:00Z, when the genuine zone was valid."""

COOKIE_SECRET = "e5e973e5a6b2a43f48e7dc849e37bfcf"
"""That of RFC 9018 appendix A."""

CORPUS_SETTINGS = ResponderSettings(nsid=NSID.encode(), cookies=ServerCookies(bytes.fromhex(COOKIE_SECRET)))
"""What the corpus expects us to be configured as."""


@pytest.fixture(scope="session")
def served(genuine_root: Path, genuine_root_servers_net: Path) -> Served:
    """The zones that all implementations serve."""
    return Served(ZoneFile(genuine_root), ZoneFile(genuine_root_servers_net))


@pytest.fixture(scope="session")
def genuine_table(genuine_root: Path, genuine_root_servers_net: Path) -> AnswerTable:
    """The genuine zones, verified at their time and compiled."""
    anchors = TrustAnchors.from_text((require_genuine_zones() / "root-anchors.xml").read_text())
    root = verify(presentation.from_text(genuine_root.read_bytes(), names.ROOT), anchors, VALID_AT)
    host_contents = presentation.from_text(genuine_root_servers_net.read_bytes(), names.from_text("root-servers.net."))
    return AnswerTable(compile_table(root, verify_hosts(host_contents, root, VALID_AT)))


@pytest.fixture(scope="session")
def responder(genuine_table: AnswerTable) -> Responder:
    """Ours, in process."""
    return Responder(genuine_table, CORPUS_SETTINGS)


@pytest.fixture(scope="session")
def live(
    genuine_root: Path, genuine_root_servers_net: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Instance]:
    """Ours, running as an operator runs it."""
    directory = tmp_path_factory.mktemp("live")
    port = free_port()
    (directory / "rootsrv.toml").write_text(
        f"""
[service]
addresses = ["127.0.0.1", "::1"]
port = {port}
workers = 1
[identity]
nsid = "{NSID}"
[cookies]
secret = "{COOKIE_SECRET}"
{zone_sections(genuine_root, genuine_root_servers_net, require_genuine_zones() / "root-anchors.xml")}
"""
    )
    environment = {"ROOTSRV_TEST_CLOCK": "2025-11-01T12:00:00Z"}
    instance = start(directory / "rootsrv.toml", port, 1, environment)
    try:
        wait_until(lambda: instance.is_ready() or instance.process.poll() is not None, "ready", 30.0)
        assert instance.process.poll() is None, instance.log
        yield instance
        assert instance.stop() == 0, instance.log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(instance.process.pid, signal.SIGKILL)
        instance.process.wait()


@pytest.fixture(scope="session")
def peer(
    genuine_root: Path, genuine_root_servers_net: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Peer]]:
    """A function: the name server of that name, serving the genuine zones, started once."""
    running: dict[str, Peer] = {}
    with contextlib.ExitStack() as stack:

        def get(name: str) -> Peer:
            if name not in running:
                zones = {".": genuine_root, "root-servers.net.": genuine_root_servers_net}
                running[name] = stack.enter_context(AUTHORITATIVE[name](zones, tmp_path_factory.mktemp(name)))
            return running[name]

        yield get
