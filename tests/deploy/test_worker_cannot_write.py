"""What a worker could do that somebody has taken over, in the sandbox of the shipped unit and of the container.

The attempts are made in a real worker, from within, when it has confined itself; or would have: a kernel without
Landlock and seccomp leaves what the unit and the container keep from its account.
"""

import contextlib
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

from bench.peers.daemon import free_port
from rootsrv.page.layout import Page, PageUnusable
from tests.deploy.test_container_roles import SCRIPT, given_here
from tests.needs import REPOSITORY, require_root, require_tool
from tests.process.test_privileges import NOBODY
from tests.server.live import put_zones, wait_until

STATE = "/var/lib/rootsrv"

# In the worker's own interpreter: what is tried, after (or in place of) confining itself, and what came of it.
ATTEMPTS = """
import errno, os, sys

if "rootsrv.server.worker" in sys.orig_argv:
    from rootsrv.process import sandbox

    state, run = (os.environ["ATTEMPTS"] + each for each in ("/state", "/run"))
    table = next(iter(sorted(os.listdir(state + "/tables"))))

    def write(path):
        os.close(os.open(path, os.O_WRONLY))

    def make(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

    TRIED = {
        "state: writes a table": lambda: write(f"{state}/tables/{table}"),
        "state: makes a table": lambda: make(f"{state}/tables/99.table"),
        "state: removes a table": lambda: os.unlink(f"{state}/tables/{table}"),
        "state: renames a table": lambda: os.rename(f"{state}/tables/{table}", f"{state}/tables/98.table"),
        "state: cuts a table short": lambda: os.truncate(f"{state}/tables/{table}", 0),
        "state: closes a table": lambda: os.chmod(f"{state}/tables/{table}", 0),
        "state: closes the state": lambda: os.chmod(state, 0),
        "state: writes the ledger": lambda: write(f"{state}/ledger.json"),
        "state: replaces the ledger": lambda: make(f"{state}/ledger.json.x"),
        "state: makes a key of its own": lambda: make(f"{state}/sources.key.x"),
        "state: links": lambda: os.symlink("/etc/passwd", f"{state}/tables/97.table"),
        "key: reads the key of the tables": lambda: os.close(os.open(f"{state}/secret/table.key", os.O_RDONLY)),
        "run: writes the head of the page": lambda: write(f"{run}/page"),
        "run: writes the parent's part": lambda: write(f"{run}/page.serving"),
        "run: writes the kernel's slot": lambda: write(f"{run}/page.worker-63"),
        "run: replaces the page": lambda: make(f"{run}/page.new"),
        "run: closes the page": lambda: os.chmod(f"{run}/page", 0),
        "run: closes the control socket": lambda: os.chmod(f"{run}/maintain.sock", 0),
        "run: removes the control socket": lambda: os.unlink(f"{run}/maintain.sock"),
        "run: gives an order": lambda: __import__("socket").socket(1).connect(f"{run}/maintain.sock"),
        "processes: writes its parent's memory": lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR),
        "processes: ends its parent": lambda: os.kill(os.getppid(), 0),
    }
    enter = sandbox.Confinement.enter

    def enter_and_try(self):
        missing = enter(self) if os.environ["CONFINED"] else ""
        for name, attempt in TRIED.items():
            try:
                attempt()
                came = "DONE"
            except OSError as error:
                came = errno.errorcode[error.errno]
            os.write(2, f"attempt {name}: {came}\\n".encode())
        os.write(2, b"attempts are over\\n")
        return missing

    sandbox.Confinement.enter = enter_and_try
"""


def sandbox_of(kind: str) -> tuple[list[str], list[str]]:
    """Of the role serve: paths below the state that are there for reading only, and that are not there at all."""
    if kind == "container":
        printed = subprocess.run([str(SCRIPT), "print", "serve"], capture_output=True, text=True, check=True)
        words = shlex.split(printed.stdout)
        assert "--read-only" in words
        return [STATE] if f"rootsrv-state:{STATE}:ro" in words else [], []
    unit = (REPOSITORY / "deploy" / "systemd" / "rootsrv-serve.service").read_text()
    assert "ProtectSystem=strict" in unit

    def paths(key: str) -> list[str]:
        return [each.lstrip("-") for line in re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE) for each in line.split()]

    return paths("ReadOnlyPaths"), paths("InaccessiblePaths")


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every account can enter, with an instance's configuration, all of it nobody's."""
    require_root()
    with tempfile.TemporaryDirectory(prefix=f"rs-{os.getpid()}-", dir="/tmp") as name:
        made = Path(name)
        made.chmod(0o755)
        (made / "hook").mkdir()
        (made / "hook" / "sitecustomize.py").write_text(ATTEMPTS)
        zones = put_zones(made)
        (made / "rootsrv.toml").write_text(
            f'service = {{ addresses = ["127.0.0.1"], port = {free_port()}, workers = 1 }}\n{zones}'
        )
        for each in (made, *made.iterdir()):
            shutil.chown(each, NOBODY, NOBODY)
        yield made


@contextlib.contextmanager
def running(role: str, directory: Path, before: str = "", **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """*role* as the account, after the shell has done *before* as root in a mount namespace of its own."""
    names = ",".join(f"+{each.lower()}" for each in given_here(role))
    sets = [f"--{kind}-caps={names}" for kind in ("inh", "ambient") if names]
    command = [
        require_tool("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", *sets,
        f"--bounding-set=-all{',' + names if names else ''}", "--", sys.executable, "-m", "rootsrv", "run", "--config",
        str(directory / "rootsrv.toml"), "--role", role,
    ]  # fmt: skip
    shell = f"set -e; mount --make-rprivate /; {before} exec {shlex.join(command)}"
    with (directory / f"log.{role}").open("wb") as log:
        process = subprocess.Popen(
            [require_tool("unshare"), "--mount", "sh", "-c", shell],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def active(directory: Path) -> int:
    with contextlib.suppress(PageUnusable):
        return Page.open(directory / "run" / "page", writable=False).active
    return 0


@pytest.mark.parametrize("confined", ["confined", ""], ids=["confined", "without_landlock_and_seccomp"])
@pytest.mark.parametrize("kind", ["unit", "container"])
def test_a_worker_writes_neither_tables_nor_ledger_nor_page(directory: Path, kind: str, confined: str) -> None:
    read_only, inaccessible = sandbox_of(kind)
    assert read_only
    before = ""
    for path in read_only:
        here = shlex.quote(path.replace(STATE, str(directory / "state")))
        before += f"mount --bind {here} {here}; mount -o remount,bind,ro {here}; "
    for path in inaccessible:
        here = shlex.quote(path.replace(STATE, str(directory / "state")))
        before += f"mount -t tmpfs -o mode=000,size=4k,ro rs-none {here}; "
    hook = {"PYTHONPATH": str(directory / "hook"), "ATTEMPTS": str(directory), "CONFINED": confined}
    with running("maintain", directory) as maintain:
        wait_until(lambda: active(directory) or maintain.poll() is not None, "a table", 60)
        kept = {path: path.read_bytes() for path in (directory / "state" / "tables").iterdir()}
        with running("serve", directory, before, **hook) as serve:
            log = directory / "log.serve"
            wait_until(lambda: b"attempts are over" in log.read_bytes() or serve.poll() is not None, "tried", 60)
            told = dict(re.findall(r"^attempt (.*): (\w+)$", log.read_text(), re.MULTILINE))
            assert len(told) > 20, log.read_text()
            stands = {name for name, came in told.items() if came == "DONE"}
            if confined:
                assert not stands
            else:  # the account's own mounts keep the state, and nothing more
                assert not {name for name in stands if name.startswith("state: ")}
                assert kind == "container" or "key: reads the key of the tables" not in stands
        assert {path: path.read_bytes() for path in kept} == kept
        assert active(directory)
