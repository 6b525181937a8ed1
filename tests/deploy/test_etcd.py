"""deploy/etcd: the certificates that the script makes and the flags as they are deployed make an engine that works."""

import contextlib
import os
import re
import socket
import subprocess
from pathlib import Path

from bench.peers.daemon import free_port, running
from tests.needs import REPOSITORY, require_tool

DEPLOY = REPOSITORY / "deploy" / "etcd"
SCRIPT = DEPLOY / "rootsrv-etcd-certificates"


def made(*arguments: object, status: int = 0) -> str:
    require_tool("openssl")
    done = subprocess.run([str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def flags(directory: Path, client: int, peer: int) -> dict[str, str]:
    """The environment that deploy/etcd/etcd is, for one node on loopback."""
    text = (DEPLOY / "etcd").read_text()
    found = dict(re.findall(r'^(ETCD_[A-Z_]+)="(.*)"$', text, re.MULTILINE))
    assert len(found) == len(re.findall(r"^ETCD_", text, re.MULTILINE))
    for name, value in found.items():
        for old, new in (
            ("/etc/etcd", str(directory)),
            ("192.0.2.31:2379", f"127.0.0.1:{client}"),
            ("192.0.2.31:2380", f"127.0.0.1:{peer}"),
        ):
            value = value.replace(old, new)
        found[name] = value.partition(",")[0] if name == "ETCD_INITIAL_CLUSTER" else value
    return found | {"ETCD_DATA_DIR": str(directory / "data")}


def test_a_node_with_the_deployed_flags_takes_members_and_nobody_else(tmp_path: Path) -> None:
    made("authority", tmp_path)
    made("node", tmp_path, "node", "127.0.0.1", "::1", "etcd1.example")
    made("member", tmp_path, "zrh1-a")
    assert {each.stat().st_mode & 0o777 for each in tmp_path.glob("*.key")} == {0o600}
    client, peer = free_port(), free_port()

    def asked(certificate: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [require_tool("etcdctl"), f"--endpoints=https://127.0.0.1:{client}", f"--cacert={tmp_path / 'ca.pem'}",
             *certificate, "--command-timeout=5s", "--dial-timeout=3s", "put", "/rootsrv/v1/x-root/lead", "x"],
            capture_output=True, text=True, check=False, timeout=60, env=os.environ | {"ETCDCTL_API": "3"},
        )  # fmt: skip

    def ready() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", client), 0.2):
            return True
        return False

    command = ["env", *(f"{k}={v}" for k, v in flags(tmp_path, client, peer).items()), require_tool("etcd")]
    with running("etcd", command, tmp_path / "log", ready):
        member = (f"--cert={tmp_path / 'zrh1-a.pem'}", f"--key={tmp_path / 'zrh1-a.key'}")
        for _ in range(20):
            if (done := asked(member)).returncode == 0:
                break
        assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()[-2000:]
        assert asked(()).returncode != 0
        other = tmp_path / "other"
        made("authority", other)
        made("member", other, "zrh1-a")
        assert asked((f"--cert={other / 'zrh1-a.pem'}", f"--key={other / 'zrh1-a.key'}")).returncode != 0


def test_nothing_that_exists_is_overwritten_and_a_mistake_is_named(tmp_path: Path) -> None:
    assert "there is no authority here" in made("member", tmp_path, "a", status=1)
    made("authority", tmp_path)
    before = (tmp_path / "ca.key").read_bytes()
    assert "exists" in made("authority", tmp_path, status=1)
    assert (tmp_path / "ca.key").read_bytes() == before
    made("member", tmp_path, "a")
    assert "exists" in made("member", tmp_path, "a", status=1)
    for wrong in (
        ("member", tmp_path, "A b"),
        ("member", tmp_path, "ca"),
        ("node", tmp_path, "n"),
        ("guest", tmp_path),
    ):
        made(*wrong, status=1)
    assert {each.name for each in tmp_path.iterdir()} == {"ca.key", "ca.pem", "a.key", "a.pem"}


def test_the_drop_in_is_one_that_systemd_reads(tmp_path: Path) -> None:
    analyze = require_tool("systemd-analyze")
    unit = tmp_path / "etcd.service"
    unit.write_text(f"[Unit]\nDescription=etcd\n[Service]\nExecStart={require_tool('etcd')}\n")
    (tmp_path / "etcd.service.d").mkdir()
    (tmp_path / "etcd.service.d" / "rootsrv.conf").write_text((DEPLOY / "rootsrv.conf").read_text())
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60)
    assert "rootsrv.conf" not in done.stderr, done.stderr
