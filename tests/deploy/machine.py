"""A Debian that really boots: systemd as process 1 of a pid namespace, in a debootstrap root, on a host of the test.

Units run as they do on a box, with their sandboxes, capabilities and watchdogs.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.needs import require_root, require_tool
from tests.network import Host

SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,iproute2,python3,ca-certificates,procps"
"""What a Debian box has that was installed from a medium; the guide installs the rest."""

# The control groups of its services are below one of ours, on the unified hierarchy.
_BOOT = """
set -e
root=$1
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
# What is not the namespace's own is the whole machine's, and not ours to set: a copy takes what is written.
for each in kernel vm fs; do
    mkdir -p "$root/run/sys/$each"
    cp -r "$root/proc/sys/$each/." "$root/run/sys/$each" 2>/dev/null || true
    chmod -R u+w "$root/run/sys/$each"
    mount --bind "$root/run/sys/$each" "$root/proc/sys/$each"
done
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for each in null zero full random urandom tty; do
    touch "$root/dev/$each"
    mount --bind "/dev/$each" "$root/dev/$each"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    unshare --cgroup --root="$root" --wd=/ /lib/systemd/systemd --system --log-target=journal
"""


def debian(directory: Path) -> Path:
    """A Debian root in *directory*, which may be changed: debootstrap's, or a copy of $ROOTSRV_DEBIAN_ROOT."""
    require_root()
    root = directory / "root"
    if ready := os.environ.get("ROOTSRV_DEBIAN_ROOT"):
        subprocess.run(["cp", "-a", "--reflink=auto", ready, root], check=True, timeout=300)
    else:
        debootstrap = require_tool("debootstrap")
        subprocess.run(
            [debootstrap, "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=900, check=True,
        )  # fmt: skip
    # The clock of the machine that runs the test is not ours to set.
    masked = root / "etc/systemd/system/chrony.service"
    masked.unlink(missing_ok=True)
    masked.symlink_to("/dev/null")
    for name in ("resolv.conf", "hosts"):
        shutil.copy(Path("/etc") / name, root / "etc" / name)
    # Services are started by who boots the machine, not by installing packages.
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    return root


@dataclass
class Machine:
    """A machine that is up."""

    root: Path
    host: Host
    pid: int
    """Of its process 1, as seen from here."""

    def run(self, script: str, *, check: bool = True, seconds: float = 180) -> str:
        """What a root shell there prints."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C",
             f"--root=/proc/{self.pid}/root", "--wdns=/",
             "env", "-i", "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
             "sh", "-ec", f"cd /\n{script}"],
            cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{script}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def path(self, path: str) -> Path:
        """A file there, from here."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def journal(self) -> str:
        """What its units have logged last."""
        return self.run("journalctl --no-pager -o cat -n 80 -u 'rootsrv*' -u bird", check=False)


@contextlib.contextmanager
def booted(root: Path, host: Host) -> Iterator[Machine]:
    """Boot the Debian in *root* on *host*."""
    groups = root.parent / "cgroup"
    groups.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", groups], check=True)
    ours = groups / f"rs-{host.name}"
    ours.mkdir()
    enter = f'echo $$ > {ours}/cgroup.procs; exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", enter, "sh", *host.prefix, "unshare", "--pid", "--mount", "--uts", "--ipc", "--fork",
         "--propagation", "private", "--mount-proc=/proc", "sh", "-c", _BOOT, "sh", str(root)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    pid = 0
    try:
        deadline = time.monotonic() + 90
        while not pid:
            assert process.poll() is None, "systemd did not start"
            assert time.monotonic() < deadline, "systemd did not start in time"
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd":
                pid = int(children[0])
            time.sleep(0.05)
        machine = Machine(root, host, pid)
        while "running" not in (state := machine.run("systemctl is-system-running || true", check=False)):
            assert time.monotonic() < deadline, f"{state}\n{machine.run('systemctl --failed --no-pager', check=False)}"
            if "degraded" in state:
                break
            time.sleep(0.1)
        yield machine
    finally:
        # With process 1 of a pid namespace all of it ends.
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        _remove_groups(ours)
        subprocess.run(["umount", groups], check=False)


def _remove_groups(group: Path) -> None:
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        for path, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        time.sleep(0.05)
