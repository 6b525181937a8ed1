"""deploy/ansible as an operator runs it: over ssh, on two Debian boxes that boot, up to announced in a mesh."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.machine import Machine, booted, debian
from tests.deploy.packaged import package
from tests.deploy.racks import ADMIN, LINKS, LOCAL_AS, PRIMARY, Racks, asked_by, engine, in_chroot, racks, way_to
from tests.needs import REPOSITORY, require_tool
from tests.server.live import wait_until, zone_files

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1800)]

ROLE = REPOSITORY / "deploy" / "ansible"
NAMES = ("lax1a.example", "zrh1a.example")
NEEDED = "openssh-server python3-apt bird2 nftables chrony ethtool bind9-dnsutils libbpf1 adduser"
"""Of the archives: the boxes of the lab reach none once they are up."""


@dataclass
class Lab:
    """Boxes that are up, and an operator's directory."""

    racks: Racks
    boxes: list[Machine]
    operator: Path
    endpoint: str

    def play(self, book: str, *options: str, check: bool = True) -> str:
        """What `ansible-playbook BOOK` says, at the manager."""
        programs = Path(sys.executable).parent
        done = subprocess.run(
            [*self.racks.manager.prefix, programs / "ansible-playbook", "-i", "inventory.yml", ROLE / book, *options],
            cwd=self.operator,
            env={**os.environ, "HOME": str(self.operator), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOST_KEY_CHECKING": "0",
                 "ANSIBLE_LOCAL_TEMP": str(self.operator / "tmp"), "ANSIBLE_HOME": str(self.operator / "home"),
                 "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.operator / "cp")},
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        told = done.stdout + done.stderr
        assert not check or done.returncode == 0, told[-6000:]
        return told

    def rootsrv(self, *arguments: object) -> str:
        """What a command of rootsrv prints on the operator's own machine."""
        return subprocess.run(
            [sys.executable, "-m", "rootsrv", *map(str, arguments)],
            cwd=self.operator, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip


def inventory(lab: Lab, built: Path) -> dict[str, Any]:
    """The two boxes, and a member that somebody else runs."""
    lab.rootsrv("mesh", "init", lab.operator / "offline", "--service", "x-root")
    keys = re.findall(r'^    "([0-9a-f]{64})"', (lab.operator / "offline/roster.toml").read_text(), re.MULTILINE)
    others = lab.rootsrv("mesh", "key", lab.operator / "offline/other.key").strip()
    hosts = {
        name: {
            "ansible_host": ADMIN[number][0],
            "rootsrv_answers": {
                "admin_addresses": list(ADMIN[number]),
                "link_addresses": [LINKS[number].box4, LINKS[number].box6],
                "routers": [LINKS[number].router4, LINKS[number].router6],
                "local_as": LOCAL_AS[number],
            },
            "rootsrv_member": {"site": "here", "group": "all", "canary": number == 1, "distribution_host": True,
                               "transfers": f"{ADMIN[number][0]}:53"},
        }
        for number, name in enumerate(NAMES)
    }  # fmt: skip
    shared = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(lab.operator / "id"),
        "ansible_ssh_common_args": "-o UserKnownHostsFile=/dev/null",
        "rootsrv_package": str(built),
        "rootsrv_answers_of_all": {
            "admin_interface": "eth0",
            "management": ["203.0.113.0/24", "2001:db8:a::/64", "2001:db8:b::/64"],
            "service_interface": "eth1",
            "service_addresses": ["192.0.2.53", "2001:db8::53"],
            "prefixes": ["192.0.2.0/24", "2001:db8::/48"],
            "router_as": 65000,
            "session_password": "change-me",
            "primaries": [PRIMARY],
        },
        "rootsrv_mesh": {"service": "x-root", "roster_key": keys[0], "endpoints": [lab.endpoint]},
        "rootsrv_roster": {
            "signing_keys": keys,
            "group": [{"name": "all", "k": 1}],
            "site": [{"name": "here"}],
            "member": [{"name": "other", "public_key": others, "site": "here", "group": "all", "canary": True}],
        },
        # Nobody sets the clock of the machine that runs the test.
        "rootsrv_chrony": False,
        "rootsrv_doctor_accepted": ["clock"],
    }
    return {"rootsrv": {"vars": shared, "hosts": hosts}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for tool in ("ssh", "ssh-keygen", "etcd", "openssl"):
        require_tool(tool)
    built = package("bookworm")
    directory = tmp_path_factory.mktemp("ansible")
    operator = directory / "operator"
    for name in ("files", "secrets", "cp"):
        (operator / name).mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", operator / "id"], check=True, timeout=60)
    (directory / "one").mkdir()
    root = debian(directory / "one")
    in_chroot(root, f"apt-get update && apt-get install -y --no-install-recommends {NEEDED}")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(operator / "id.pub", root / "root/.ssh/authorized_keys")
    (directory / "two").mkdir()
    subprocess.run(["cp", "-a", "--reflink=auto", root, directory / "two/root"], check=True, timeout=300)
    files = zone_files()
    for name, octets in (
        ("root.zone", files.versions[0]), ("root-servers.net.zone", files.hosts), ("root-anchors.xml", files.anchor)
    ):  # fmt: skip
        (operator / "files" / name).write_bytes(octets)
    with racks(directory) as cabled, contextlib.ExitStack() as stack:
        url = stack.enter_context(engine(cabled.manager, directory, operator / "secrets/engine"))
        roots = (root, directory / "two/root")
        boxes = [stack.enter_context(booted(each, host)) for each, host in zip(roots, cabled.boxes, strict=True)]
        made = Lab(cabled, boxes, operator, url)
        (operator / "inventory.yml").write_text(yaml.safe_dump(inventory(made, built)))
        yield made


def changed(told: str) -> dict[str, int]:
    """Host → how many tasks changed something."""
    recap = told.partition("PLAY RECAP")[2]
    return {host: int(count) for host, count in re.findall(r"^(\S+) +: .*?changed=(\d+)", recap, re.MULTILINE)}


def test_two_boxes_are_announced_and_in_the_mesh_and_a_second_run_changes_nothing(lab: Lab) -> None:
    lab.play("roster.yml")
    offline, files = lab.operator / "offline", lab.operator / "files"
    lab.rootsrv(
        "mesh", "roster", "sign", files / "roster.toml", "--key", offline / "roster-1.key", "--output", files / "roster"
    )
    told = lab.play("site.yml")
    assert "RRSIG" in asked_by(lab.racks.client), told[-3000:]
    assert way_to(lab.racks.core) in {"10.9.1.1", "10.9.2.1"}
    for box in lab.boxes:
        wait_until(lambda box=box: all(name in box.run("rootsrv mesh status") for name in NAMES), "both are seen", 60)
    assert lab.play("roster.yml").count("sign it where its keys are") == 0
    again = lab.play("site.yml")
    assert changed(again) == dict.fromkeys(NAMES, 0), again[-6000:]


def test_a_changed_answer_restarts_one_box_after_the_other_with_a_token(lab: Lab) -> None:
    path = lab.operator / "inventory.yml"
    document = yaml.safe_load(path.read_text())
    document["rootsrv"]["hosts"][NAMES[1]]["rootsrv_answers"]["name"] = "another.example"
    path.write_text(yaml.safe_dump(document))
    pid = "systemctl show -P MainPID rootsrv-serve"
    before = [box.run(pid) for box in lab.boxes]
    trial = lab.play("site.yml", "--check", "--diff")
    assert 'nsid = \\"another.example\\"' in trial or "another.example" in trial
    assert [box.run(pid) for box in lab.boxes] == before
    told = lab.play("site.yml")
    after = [box.run(pid) for box in lab.boxes]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False), told[-3000:]
    assert set(changed(lab.play("site.yml")).values()) == {0}
