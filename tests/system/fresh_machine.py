"""A machine with nothing installed: a Debian of debootstrap in a directory, entered as its own root."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.needs import REPOSITORY, require_root, require_tool

SUITE = "bookworm"
"""What a fresh machine is unless something else is asked for."""

DEBOOTSTRAP_SECONDS = 900

# How this machine gets at packages, which the other one needs as well; nothing else of the environment goes along.
_WAYS_OUT = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL")
_CA_BUNDLE = "ca-bundle.crt"

# Everything mounted is in a mount namespace of its own and goes with the command.  The root is bound to itself because
# `ip netns` wants it to be a mount point.
_ENTER = """
set -e
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
exec chroot "$root" /usr/bin/env -i "$@"
"""


@dataclass(frozen=True)
class FreshMachine:
    """A directory that is the root of a Debian."""

    root: Path

    def command(self, *command: str) -> list[str]:
        """What runs *command* there."""
        environment = {name: os.environ[name] for name in _WAYS_OUT if name in os.environ}
        environment |= {"HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "dumb"}
        if (self.root / _CA_BUNDLE).exists():
            environment["PIP_CERT"] = f"/{_CA_BUNDLE}"
        words = [f"{name}={value}" for name, value in environment.items()]
        enter = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _ENTER, "sh"]
        return [*enter, str(self.root), *words, *command]

    def run(self, *command: str, seconds: float = 600.0, prefix: Sequence[str] = ()) -> str:
        """Run *command* there; what it prints.  AssertionError when it fails; it and what it started end in time."""
        with subprocess.Popen(
            [*prefix, *self.command(*command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                printed, complained = process.communicate(timeout=seconds)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # or it would go on writing to what is being removed
                raise
        failed = f"{' '.join(command)}: status {process.returncode}\n{printed[-8000:]}{complained[-2000:]}"
        assert process.returncode == 0, failed
        return printed

    def clone_repository(self, at: str) -> None:
        """A clone of this repository, with its history and with the tracked files as they are now."""
        subprocess.run(
            ["git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, self.root / at],
            stdin=subprocess.DEVNULL, timeout=120, check=True,
        )  # fmt: skip
        self.put_repository(at)

    def put_repository(self, at: str) -> None:
        """The tracked files as they are now."""
        listed = subprocess.run(
            ["git", "-C", REPOSITORY, "ls-files", "-z"], capture_output=True, text=True, timeout=60, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            source, target = REPOSITORY / name, self.root / at / name
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


@contextlib.contextmanager
def fresh_machine(directory: Path, suite: str = SUITE) -> Iterator[FreshMachine]:
    """A minimal Debian *suite* in *directory*, with what a user has who could clone a repository: git and make."""
    require_root()
    debootstrap = require_tool("debootstrap")
    root = directory / "root"
    subprocess.run(
        [debootstrap, "--variant=minbase", "--include=git,make", suite, str(root)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=DEBOOTSTRAP_SECONDS, check=True,
    )  # fmt: skip
    for name in ("resolv.conf", "hosts"):
        shutil.copy(Path("/etc") / name, root / "etc" / name)
    if bundle := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
        shutil.copy(bundle, root / _CA_BUNDLE)
    try:
        yield FreshMachine(root)
    finally:
        # A mount that outlived its namespace would take what it shows along.
        if not any(str(root) in line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()):
            shutil.rmtree(root)
