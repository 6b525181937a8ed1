"""`rootsrv-medium save`: whatever is saved of an instance is for nobody but root."""

import subprocess
from pathlib import Path

from tests.needs import REPOSITORY, require_root, require_tool

# In a mount namespace of its own, where /etc, /opt and /var/lib are empty but for an instance.
INSTANCE = """
set -e
umask 022
mount -t tmpfs none /opt
cp -a /etc/alternatives /opt
for each in /etc /var/lib; do mount -t tmpfs none $each; done
mv /opt/alternatives /etc
mkdir -p /etc/rootsrv /etc/systemd/system /opt/rootsrv/0.1.0/bin /var/lib/rootsrv
ln -s 0.1.0 /opt/rootsrv/current
touch /opt/rootsrv/0.1.0/bin/rootsrv /etc/systemd/system/rootsrv.target /var/lib/rootsrv/ledger.json
echo 'cookies = { secret = "0123456789abcdef0123456789abcdef" }' >/etc/rootsrv/rootsrv.toml
chmod 640 /etc/rootsrv/rootsrv.toml
"""


def test_what_is_saved_is_readable_by_root_alone(tmp_path: Path) -> None:
    require_root()
    require_tool("unshare")
    medium = tmp_path / "medium"
    medium.mkdir(mode=0o755)
    # A save of an earlier version, which everybody could read, is there already.
    (medium / "host.tar").write_bytes(b"")
    (medium / "host.tar").chmod(0o644)
    script = f"{INSTANCE}\nexec {REPOSITORY}/deploy/rootsrv-medium save {medium}"

    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in medium.iterdir()}
    assert set(modes) == {"host.tar", "software.tar", "state.tar", "enabled", "rootsrv-medium", "SHA256SUMS"}
    assert {name: mode for name, mode in modes.items() if mode not in ("0o600", "0o700")} == {}
    listed = subprocess.run(
        ["tar", "-tvf", str(medium / "host.tar")], capture_output=True, text=True, check=True
    ).stdout
    # What is put back by `restore` has the modes that it had, whatever the umask of saving was.
    assert "-rw-r-----" in next(line for line in listed.splitlines() if line.endswith("rootsrv.toml"))
