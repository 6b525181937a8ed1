"""deploy/container: each role does its work as an account without privilege, with the capabilities that it is given."""

import contextlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.commands.parser import parser
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.roles.run import ROLES
from tests.control.asking import ask
from tests.fastpath.conftest import require_program
from tests.needs import REPOSITORY, require_root, require_tool
from tests.network import Host, network
from tests.process.test_privileges import NOBODY, capabilities
from tests.server.live import put_zones, wait_until

SCRIPT = REPOSITORY / "deploy" / "container" / "rootsrv-container"
SERVICE, ADMIN, CLIENT = "192.0.2.53", "192.0.2.54", "192.0.2.7"
BITS = {"DAC_OVERRIDE": 1, "NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "PERFMON": 38, "BPF": 39}


def arguments(role: str) -> list[str]:
    """What the engine is told for *role*."""
    printed = subprocess.run([str(SCRIPT), "print", role], capture_output=True, text=True, timeout=10, check=True)
    return shlex.split(printed.stdout)


@pytest.mark.parametrize(
    ("role", "configured", "asked"),
    [
        ("serve", "[service]\nreal_time_priority = 1\n", True),
        ("serve", "real_time_priority = 0\n", False),
        ("serve", "# real_time_priority = 1\n", False),
        ("serve", None, False),
        ("maintain", "real_time_priority = 1\n", False),
    ],
)
def test_a_priority_is_allowed_where_one_is_configured(
    role: str, configured: str | None, asked: bool, tmp_path: Path
) -> None:
    """Else the engine need not be able to allow one: without, all starts."""
    path = tmp_path / "rootsrv.toml"
    if configured is not None:
        path.write_text(configured)
    environment = {**os.environ, "CONFIGURATION": str(path)}
    words = subprocess.check_output([str(SCRIPT), "print", role], env=environment, timeout=10, text=True).split()
    assert ("rtprio=49" in words) == asked
    assert words[1] == "run"


def given(role: str) -> list[str]:
    """The capabilities of *role* in its container."""
    words = arguments(role)
    return [after for before, after in itertools.pairwise(words) if before == "--cap-add"]


@pytest.mark.parametrize("role", ROLES)
def test_a_container_has_the_capabilities_of_its_units_role_and_no_more(role: str) -> None:
    words = arguments(role)
    assert words[words.index("--cap-drop") + 1] == "ALL"
    assert words[words.index("--security-opt") + 1] == "no-new-privileges"
    assert "--read-only" in words
    assert words[words.index("--user") + 1] == "rootsrv"
    assert words[-2:] == ["--role", role]
    unit = (REPOSITORY / "deploy" / "systemd" / f"rootsrv-{role}.service").read_text()
    bounding = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert [f"CAP_{each}" for each in given(role)] == bounding[0].split()


def test_hyperlocal_has_a_container_without_any_capability_and_a_state_of_its_own() -> None:
    words = arguments("hyperlocal")
    assert words[words.index("--cap-drop") + 1] == "ALL"
    assert not given("hyperlocal")
    assert "--read-only" in words
    assert words[words.index("--user") + 1] == "rootsrv"
    volumes = [after for before, after in itertools.pairwise(words) if before == "--volume"]
    assert [each.partition(":")[2] for each in volumes] == ["/var/lib/rootsrv", "/run/rootsrv"]
    assert all(each.startswith("rootsrv-hyperlocal-") for each in volumes)
    told = parser().parse_args(words[words.index("hyperlocal") :])
    assert (told.state, told.runtime) == (Path("/var/lib/rootsrv"), Path("/run/rootsrv"))
    unit = (REPOSITORY / "deploy" / "systemd" / "rootsrv-hyperlocal.service").read_text()
    assert re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE) == [""]


@pytest.mark.parametrize("role", ["localroot", "portal"])
def test_the_roles_of_a_localroot_service_share_a_state_and_a_configuration_of_their_own(role: str) -> None:
    words = arguments(role)
    assert words[words.index("--cap-drop") + 1] == "ALL"
    assert "--read-only" in words
    volumes = [after for before, after in itertools.pairwise(words) if before == "--volume"]
    assert [each.partition(":")[0] for each in volumes[1:]] == ["rootsrv-localroot-state", "rootsrv-localroot-run"]
    told = parser().parse_args(words[words.index("run", words.index("--volume")) :])
    assert (told.role, told.config) == (role, Path("/etc/rootsrv/localroot.toml"))
    unit = (REPOSITORY / "deploy" / "systemd" / f"rootsrv-{role}.service").read_text()
    bounding = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert [f"CAP_{each}" for each in given(role)] == bounding[0].split()
    assert given(role) == (["NET_BIND_SERVICE"] if role == "localroot" else [])


def test_another_word_than_a_role_is_refused() -> None:
    for words in (("print", "all"), ("run",), ("stop", "serve")):
        done = subprocess.run([str(SCRIPT), *words], capture_output=True, text=True, timeout=10, check=False)
        assert (done.returncode, done.stderr[:6]) == (2, "usage:")


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every account can enter."""
    with tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def configure(directory: Path) -> None:
    zones = put_zones(directory)
    (directory / "rootsrv.toml").write_text(
        f"""
service = {{ addresses = ["{SERVICE}"], workers = 1 }}
admin = {{ addresses = ["{ADMIN}"] }}
fastpath = {{ mode = "tc", interfaces = ["wire"] }}
{zones}
"""
    )
    for each in (directory, *directory.iterdir()):
        shutil.chown(each, NOBODY, NOBODY)


def given_here(role: str) -> list[str]:
    """The same, and one more where the interpreter that runs these tests is not for everybody to read."""
    program = Path(sys.executable).resolve()
    readable = all(each.stat().st_mode & 0o001 for each in (program, *program.parents))
    return given(role) if readable else [*given(role), "DAC_OVERRIDE"]


@contextlib.contextmanager
def running(role: str, host: Host, directory: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """*role* as the container has it: account, capabilities, no way to more of them."""
    names = ",".join(f"+{each.lower()}" for each in given_here(role))
    sets = [f"--{kind}-caps={names}" for kind in ("inh", "ambient") if names]
    bounding = f"--bounding-set=-all{',' + names if names else ''}"
    with (directory / f"log.{role}").open("wb") as log:
        process = subprocess.Popen(
            [*host.prefix, require_tool("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
             "--no-new-privs", *sets, bounding, "--", sys.executable, "-m", "rootsrv", "run",
             "--config", str(directory / "rootsrv.toml"), "--role", role],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def test_each_role_does_its_work_with_its_containers_capabilities(directory: Path) -> None:
    require_root()
    require_program()
    require_tool("dig")
    configure(directory)
    with network() as net, contextlib.ExitStack() as stack:
        server, client = net.host("server"), net.host("client")
        net.link(server, client, "wire", ((f"{SERVICE}/24", f"{CLIENT}/24"),))
        server.ip("address", "add", f"{ADMIN}/24", "dev", "wire")
        processes = {}
        for role in ("maintain", "serve", "report"):
            processes[role] = stack.enter_context(running(role, server, directory))

            def is_up(role: str = role) -> bool:
                log = (directory / f"log.{role}").read_text()
                assert processes[role].poll() is None, log
                match role:
                    case "maintain":  # on port 53 of the administrative address
                        return f"{ADMIN}:53" in server.run("ss", "-Hlnt") and active(directory) > 0
                    case "serve":
                        return "fast path switched" in log
                    case _:
                        return f"{ADMIN}:9353" in server.run("ss", "-Hlnt")

            wait_until(is_up, f"{role} works", 60)
        assert "RRSIG" in client.run("dig", f"@{SERVICE}", "+dnssec", "+norec", ".", "SOA")
        assert kernel_replies(directory) > 0
        for role, process in processes.items():
            held = capabilities(process.pid)
            kept = given(role) if role == "report" else given_here(role)  # that one gives up what it does not need
            wanted, bounds = (sum(1 << BITS[each] for each in names) for names in (kept, given_here(role)))
            assert (role, held["CapPrm"], held["CapBnd"]) == (role, wanted, bounds)


def active(directory: Path) -> int:
    try:
        return Page.open(directory / "run" / "page").active
    except PageUnusable:
        return 0


def kernel_replies(directory: Path) -> int:
    document = ask(directory / "run" / "serve.sock", "fastpath-status")
    return sum(sum(each.values()) for each in document["counters"]["replies"].values())
