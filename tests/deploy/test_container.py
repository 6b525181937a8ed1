"""The container image, built where no registry can be reached: a debootstrap root as base, buildah without a daemon."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.machine import debian
from tests.needs import REPOSITORY, require_root, require_tool
from tests.network import network
from tests.server.live import wait_until

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1800)]

BASE = "localhost/bookworm"
IMAGE = "localhost/rootsrv"
PORT = "5300"


@dataclass(frozen=True)
class Buildah:
    """buildah with a storage of its own."""

    storage: Path

    def command(self, *arguments: str) -> list[str]:
        """What runs it."""
        root, run = self.storage / "root", self.storage / "run"
        return ["buildah", "--root", str(root), "--runroot", str(run), "--storage-driver", "vfs", *arguments]

    def __call__(self, *arguments: str, seconds: float = 900) -> str:
        done = subprocess.run(
            self.command(*arguments), cwd=REPOSITORY, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"buildah {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """With the image built."""
    require_root()
    require_tool("buildah")
    made = Buildah(tmp_path_factory.mktemp("buildah"))
    try:
        container = made("from", "--isolation", "chroot", "scratch")
        made("copy", container, f"{debian(tmp_path_factory.mktemp('base'))}/", "/")
        made("commit", "--rm", container, BASE)
        options = ["--isolation", "chroot", "--pull-never", "--build-arg", f"BASE={BASE}", "--tag", IMAGE]
        if bundle := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
            options += ["--volume", f"{bundle}:/run/ca.crt:ro", "--build-arg", "PIP_CERT=/run/ca.crt"]
        made("build", *options, ".")
        yield made
    finally:
        shutil.rmtree(made.storage)


@pytest.fixture
def container(buildah: Buildah) -> Iterator[str]:
    """A container of the image."""
    name = buildah("from", "--isolation", "chroot", "--pull-never", IMAGE)
    yield name
    buildah("rm", name)


def test_it_has_neither_compiler_nor_installer_and_is_not_root(buildah: Buildah, container: str) -> None:
    tools = "for each in clang gcc cc make pip pip3; do command -v $each; done; true"
    assert buildah("run", "--isolation", "chroot", container, "--", "sh", "-c", tools) == ""
    assert buildah("run", "--isolation", "chroot", container, "--", "id", "-un") == "rootsrv"


def test_it_has_the_program_for_the_kernel(buildah: Buildah, container: str) -> None:
    code = "from rootsrv.fastpath.program import built_object; print(built_object()[:4].hex())"
    python = "/opt/rootsrv/current/bin/python"
    assert buildah("run", "--isolation", "chroot", container, "--", python, "-c", code) == b"\x7fELF".hex()


def test_the_demo_answers_signed_in_it(buildah: Buildah, container: str, tmp_path: Path) -> None:
    with network() as net, (tmp_path / "log").open("wb") as log:
        host = net.host("container")
        command = buildah.command("run", "--isolation", "chroot", container, "--", "rootsrv", "demo", "--port", PORT)
        process = subprocess.Popen([*host.prefix, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:

            def answers() -> bool:
                assert process.poll() is None, (tmp_path / "log").read_text()
                asked = host.run(
                    "dig", "@127.0.0.1", "-p", PORT, "+dnssec", "+tries=1", "+time=1", ".", "SOA", check=False
                )
                return "RRSIG" in asked

            wait_until(answers, "the demo answers", 120)
        finally:
            process.terminate()
            process.wait(60)
