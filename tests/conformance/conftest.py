"""The implementations that the corpus is put to: ours in its several ways, and four others."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from bench.peers import AUTHORITATIVE, Peer
from bench.peers.daemon import free_port
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, ResponderSettings
from rootsrv.answer.table import AnswerTable
from rootsrv.wire import name as names
from rootsrv.zone import presentation
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.verify import verify, verify_hosts
from tests.conformance import likeness
from tests.conformance.corpus import NSID, Served
from tests.conformance.likeness import Likeness
from tests.conformance.zone_file import ZoneFile
from tests.needs import genuine_zones_directory
from tests.server.live import Instance, start, wait_until, zone_sections

VALID_AT = 1761998400.0
"""2025-11-01T12:00:00Z, when the genuine zone was valid, and its likeness says it is."""

COOKIE_SECRET = "e5e973e5a6b2a43f48e7dc849e37bfcf"
"""That of RFC 9018 appendix A."""

CORPUS_SETTINGS = ResponderSettings(nsid=NSID.encode(), cookies=ServerCookies(bytes.fromhex(COOKIE_SECRET)))
"""What the corpus expects us to be configured as."""


@pytest.fixture(scope="session")
def zones(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Likeness:
    """The zones that all implementations serve: the genuine ones, or where they are not at hand their likeness."""
    directory = genuine_zones_directory()
    if directory is None:
        return likeness.write(tmp_path_factory.mktemp("likeness"))
    root, hosts = (request.getfixturevalue(each) for each in ("genuine_root", "genuine_root_servers_net"))
    return Likeness(root, hosts, directory / "root-anchors.xml")


@pytest.fixture(scope="session")
def served(zones: Likeness) -> Served:
    """The zones that all implementations serve."""
    return Served(ZoneFile(zones.root), ZoneFile(zones.hosts))


@pytest.fixture(scope="session")
def table(zones: Likeness) -> AnswerTable:
    """The zones, verified at their time and compiled."""
    anchors = TrustAnchors.from_text(zones.anchors.read_text())
    root = verify(presentation.from_text(zones.root.read_bytes(), names.ROOT), anchors, VALID_AT)
    host_contents = presentation.from_text(zones.hosts.read_bytes(), names.from_text("root-servers.net."))
    return AnswerTable(compile_table(root, verify_hosts(host_contents, root, VALID_AT)))


@pytest.fixture(scope="session")
def responder(table: AnswerTable) -> Responder:
    """Ours, in process."""
    return Responder(table, CORPUS_SETTINGS)


@pytest.fixture(scope="session")
def live(zones: Likeness, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
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
{zone_sections(zones.root, zones.hosts, zones.anchors)}
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
def peer(zones: Likeness, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Peer]]:
    """A function: the name server of that name, serving the zones, started once."""
    running: dict[str, Peer] = {}
    with contextlib.ExitStack() as stack:

        def get(name: str) -> Peer:
            if name not in running:
                files = {".": zones.root, "root-servers.net.": zones.hosts}
                running[name] = stack.enter_context(AUTHORITATIVE[name](files, tmp_path_factory.mktemp(name)))
            return running[name]

        yield get
