"""The Debian package of both releases: installed, upgraded, downgraded and purged on a machine with nothing on it.

What runs while it is upgraded goes on: not a query is lost, and it still finds the files that it was started from.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from rootsrv.page.layout import Page, PageUnusable
from tests.deploy.packaged import package
from tests.needs import require_tool
from tests.network import Host, network
from tests.server.live import SERIALS, configure, put, wait_until, zone_files
from tests.system.anycast_network import Load
from tests.system.fresh_machine import FreshMachine, fresh_machine

pytestmark = [pytest.mark.machine, pytest.mark.timeout(2400)]

INSTANCE = "srv/instance"
EXAMPLE = "/usr/lib/rootsrv/current/share/rootsrv/deploy/site.toml"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Box:
    """A machine of one release, and two revisions of the package, the second not built but made of the first."""

    machine: FreshMachine
    built: Path
    versions: tuple[str, str]

    def install(self, number: int) -> None:
        """Install a revision, as an operator does with a package that is at hand."""
        self.machine.run(
            *("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends"),
            *("--allow-downgrades", "--reinstall", f"/srv/{number}.deb"),
        )

    def path(self, path: str) -> Path:
        """A file there, from here."""
        return self.machine.root / path.lstrip("/")

    def versions_there(self) -> set[str]:
        """Versions whose files are there."""
        names = {each.name for each in self.path("/usr/lib/rootsrv").iterdir()}
        return names - {"current", "dist"}


def revised(package: Path, version: str, directory: Path) -> Path:
    """The same package as another *version*."""
    (before,) = re.findall(r"_(.*)_", package.name)
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True, timeout=120)
    for name in (
        "DEBIAN/control",
        "DEBIAN/postinst",
        "usr/lib/rootsrv/dist/bin/rootsrv",
        "usr/lib/rootsrv/dist/pyvenv.cfg",
    ):
        path = tree / name
        path.write_text(path.read_text().replace(before, version))
    sums = [line.split(maxsplit=1) for line in (tree / "DEBIAN/md5sums").read_text().splitlines()]
    digests = ((hashlib.md5((tree / name).read_bytes()).hexdigest(), name) for _, name in sums)
    (tree / "DEBIAN/md5sums").write_text("".join(f"{digest}  {name}\n" for digest, name in digests))
    made = directory / f"{version}.deb"
    subprocess.run(["dpkg-deb", "-Znone", "--build", tree, made], check=True, timeout=120, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return made


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    built = package(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    (version,) = re.findall(r"_(.*)_", built.name)
    later = f"{version}+later"
    with fresh_machine(directory, request.param) as machine:
        shutil.copy(built, machine.root / "srv/0.deb")
        revised(built, later, directory).rename(machine.root / "srv/1.deb")
        yield Box(machine, built, (version, later))


def test_lintian_finds_no_error_and_nothing_that_is_not_explained(box: Box, tmp_path: Path) -> None:
    done = subprocess.run(
        [require_tool("lintian"), "--allow-root", "--fail-on=error,warning", box.built],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# ── an instance of what is installed ──


@dataclass
class Running:
    """`rootsrv run` of the package, on a host of its own."""

    box: Box
    host: Host
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def log(self) -> str:
        return self.box.path(f"{INSTANCE}/log").read_text()

    def serial(self) -> int:
        """Of the SOA record that is answered; 0 without an answer."""
        printed = self.host.run(
            "dig", "@127.0.0.1", "-p", str(self.port), "+short", "+tries=1", "+time=2", ".", "SOA", check=False
        )
        words = printed.split()
        return int(words[2]) if len(words) == 7 else 0

    def workers(self) -> list[int]:
        """Process ids; empty before there is a page."""
        with contextlib.suppress(PageUnusable):
            page = Page.open(self.box.path(f"{INSTANCE}/run/page"))
            return [page.worker(slot).pid for slot in range(page.workers)]
        return []

    def version(self) -> str:
        """The version whose interpreter it is."""
        words = Path(f"/proc/{self.process.pid}/cmdline").read_bytes().split(b"\0")
        return words[0].decode().split("/")[4]


@contextlib.contextmanager
def running(box: Box, host: Host, port: int, serial: int) -> Iterator[Running]:
    with box.path(f"{INSTANCE}/log").open("wb") as log:
        process = subprocess.Popen(
            [*host.prefix, *box.machine.command("/usr/bin/rootsrv", "run", "--config", f"/{INSTANCE}/rootsrv.toml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    instance = Running(box, host, port, process)
    try:
        wait_until(lambda: process.poll() is not None or instance.serial() == serial, "it answers", START_SECONDS)
        assert process.poll() is None, instance.log
        yield instance
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, instance.log
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_it_is_installed_upgraded_under_load_downgraded_and_purged(box: Box, tmp_path: Path) -> None:
    older, newer = box.versions
    box.install(0)
    assert box.machine.run("rootsrv", "--version").startswith("rootsrv ")
    assert [path for path in box.path("/etc/systemd/system").rglob("*") if "rootsrv" in path.name] == []
    assert box.machine.run("stat", "-c", "%U:%G %a", "/etc/rootsrv").strip() == "root:rootsrv 750"
    assert box.machine.run("dpkg-query", "-W", "-f=${Conffiles}", "rootsrv") == ""
    listed = box.machine.run("dpkg", "-L", "rootsrv").split()
    for name in ("man/man1/rootsrv.1.gz", "man/man8/rootsrv-network.8.gz", "bash-completion/completions/rootsrv"):
        assert f"/usr/share/{name}" in listed

    with network() as net:
        host = net.host("deb")
        port = free_port()
        box.path(INSTANCE).mkdir()
        configure(box.path(INSTANCE), port, 2)
        with running(box, host, port, SERIALS[0]) as instance:
            assert instance.version() == older
            wait_until(lambda: all(instance.workers()), "all workers up")
            workers = instance.workers()
            with Load(host, tmp_path / "upgrade", 900, 200, (f"127.0.0.1@{port}", f"::1@{port}")).begun() as load:
                box.install(1)
                assert {each: found["lost"] for each, found in load.result().items()} == {"4": [], "6": []}
            # It was not touched, and what it starts now it still finds where it was started from.
            assert instance.workers() == workers
            assert box.versions_there() == {older, newer}
            os.kill(workers[0], signal.SIGKILL)
            wait_until(lambda: workers[0] not in instance.workers() and all(instance.workers()), "a new worker")
            put(box.path(f"{INSTANCE}/root.zone"), zone_files().versions[1])
            instance.process.send_signal(signal.SIGHUP)
            wait_until(lambda: instance.serial() == SERIALS[1], "the next version of the zone", START_SECONDS)
            assert "Traceback" not in instance.log
        with running(box, host, port, SERIALS[1]) as instance:
            assert instance.version() == newer
            with Load(host, tmp_path / "downgrade", 900, 200, (f"127.0.0.1@{port}",)).begun() as load:
                box.install(0)
                assert load.result()["4"]["lost"] == []
        with running(box, host, port, SERIALS[1]) as instance:
            assert instance.version() == older
    # Nobody uses the newer one any more: the next installation takes it away.
    box.install(0)
    assert box.versions_there() == {older}

    box.machine.run("apt-get", "purge", "--yes", "rootsrv")
    for path in (
        "/usr/lib/rootsrv",
        "/etc/rootsrv",
        "/var/lib/rootsrv",
        "/usr/bin/rootsrv",
        "/usr/sbin/rootsrv-network",
    ):
        assert not box.path(path).exists(), path
        assert not box.path(path).is_symlink(), path


def test_setup_and_medium_work_from_the_package(box: Box) -> None:
    """From the package to a configuration that all who read it accept, onto a medium, and back on an empty machine."""
    run = box.machine.run
    install = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends")
    policy = box.path("/usr/sbin/policy-rc.d")
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    run(*install, "systemd", "procps", "bird2", "chrony", "ethtool")
    box.install(0)
    run("rootsrv", "setup", "--answers", EXAMPLE, "--yes")
    assert run("stat", "-c", "%U:%G %a", "/etc/rootsrv/rootsrv.toml").strip() == "root:rootsrv 640"
    run("rootsrv-network", "check")
    edited = box.path("/etc/rootsrv/rootsrv.toml").read_text() + "# mine\n"
    box.path("/etc/rootsrv/rootsrv.toml").write_text(edited)
    box.install(1)
    box.path("/var/lib/rootsrv").mkdir(exist_ok=True)
    box.path("/var/lib/rootsrv/kept").write_text("state")

    run("rootsrv-medium", "save", "/srv/medium")
    assert (box.path("/srv/medium/host.tar").stat().st_mode & 0o777) == 0o600
    run("apt-get", "remove", "--yes", "rootsrv")
    assert box.path("/etc/rootsrv/rootsrv.toml").read_text() == edited
    run("apt-get", "purge", "--yes", "rootsrv")
    # Nothing is booted, and nothing was enabled.
    run("env", "SYSTEMD_OFFLINE=1", "/srv/medium/rootsrv-medium", "restore")

    assert run("dpkg-query", "-W", "-f=${db:Status-Status} ${Version}", "rootsrv") == f"installed {box.versions[1]}"
    assert run("dpkg", "--verify", "rootsrv") == ""
    assert run("rootsrv", "--version").startswith("rootsrv ")
    assert box.path("/etc/rootsrv/rootsrv.toml").read_text() == edited
    assert box.path("/var/lib/rootsrv/kept").read_text() == "state"
    run("apt-get", "purge", "--yes", "rootsrv")
