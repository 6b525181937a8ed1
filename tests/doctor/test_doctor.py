"""`rootsrv doctor` on a host with two interfaces: silent when it is fit, and naming each thing that is not."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.peers.nsd import configuration as nsd_configuration
from rootsrv.doctor.host import may_read
from rootsrv.doctor.network import SYSCTLS, SYSCTLS_AT_LEAST, SYSCTLS_OF_THE_HOST, NetworkSettings
from tests.needs import REPOSITORY, require_root, require_tool
from tests.network import Host, network
from tests.server.live import put_zones, wait_until, zone_sections

DEPLOYED = REPOSITORY / "deploy" / "network"
OF_THE_MACHINE = {"account rootsrv", "clock", "memory"}
"""What is wrong with the machine that runs the tests is not what is tested here."""


@dataclass(frozen=True)
class Box:
    """A host that is fit."""

    host: Host
    directory: Path

    def doctor(self, *before: str, config: str = "rootsrv.toml") -> dict[str, dict[str, Any]]:
        """Findings by what they are about; *before* is put before the command."""
        done = subprocess.run(
            [*self.host.prefix, *before, sys.executable, "-m", "rootsrv", "doctor", "--json", "--config", config],
            cwd=self.directory, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        document = json.loads(done.stdout)
        assert done.returncode == (0 if document["fit"] else 1), done.stderr
        assert document["fit"] == all(each["grade"] != "FAIL" for each in document["findings"])
        for each in document["findings"]:
            assert each["remedy"] or each["grade"] == "ok"
        return {each["about"]: each for each in document["findings"]}

    def wrong(self, *before: str, config: str = "rootsrv.toml") -> dict[str, str]:
        """What is to be mended, and how it was found."""
        return {
            about: each["found"]
            for about, each in self.doctor(*before, config=config).items()
            if each["grade"] == "FAIL" and about not in OF_THE_MACHINE
        }

    def script(self, *arguments: str) -> None:
        """`rootsrv-network arguments`."""
        environment = {**os.environ, "ROOTSRV_NETWORK": str(self.directory)}
        command = [*self.host.prefix, str(DEPLOYED / "rootsrv-network"), *arguments]
        subprocess.run(command, env=environment, timeout=60, check=True)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Interfaces, addresses, sysctls, filter, rules, zone files and a primary as the guide wants them."""
    nsd = require_tool("nsd")
    directory = tmp_path_factory.mktemp("doctor")
    for name in ("network.conf", "rootsrv.nft"):
        shutil.copy(DEPLOYED / name, directory)
    put_zones(directory)
    for name in ("state", "run"):
        (directory / name).mkdir()
    (directory / "rootsrv.toml").write_text(CONFIGURATION)
    with network() as net:
        host, other, router = (net.host(name) for name in ("box", "mgr", "rtr"))
        for key, value in {**{key.format("default"): value for key, value in SYSCTLS.items()},
                           **{key.format("all"): value for key, value in SYSCTLS.items()},
                           **SYSCTLS_OF_THE_HOST, **SYSCTLS_AT_LEAST}.items():  # fmt: skip
            host.run("sh", "-c", f"test ! -e /proc/sys/{key.replace('.', '/')} || sysctl -qw {key}={value}")
        net.link(
            host, other, "eth0", (("203.0.113.10/24", "203.0.113.53/24"), ("2001:db8:a::10/64", "2001:db8:a::53/64"))
        )
        net.link(host, router, "eth1", (("198.51.100.1/30", "198.51.100.2/30"),
                                        ("2001:db8:ffff::1/64", "2001:db8:ffff::2/64")))  # fmt: skip
        host.ip("address", "add", "192.0.2.53/32", "dev", "lo")
        host.ip("address", "add", "2001:db8::53/128", "dev", "lo", "nodad")
        made = Box(host, directory)
        made.script("firewall", "up")
        made.script("routing", "up")
        zone = 'zone:\n    name: "."\n    zonefile: "root.zone"\n'
        nsd_configuration(directory, ("203.0.113.53",), 53, clauses=zone)
        with (directory / "nsd.log").open("wb") as log:
            primary = subprocess.Popen(
                [*other.prefix, nsd, "-d", "-c", "nsd.conf"], cwd=directory, stdout=log, stderr=log
            )
        try:
            wait_until(lambda: "203.0.113.53:53" in other.run("ss", "-Hlnt"), "the primary listens", 30)
            yield made
        finally:
            primary.terminate()
            primary.wait(20)


CONFIGURATION = f"""
service = {{ addresses = ["192.0.2.53", "2001:db8::53"] }}
admin = {{ addresses = ["203.0.113.10", "2001:db8:a::10"] }}
{zone_sections("root.zone", "hosts.zone", "anchor")}
[[primary]]
name = "lab"
address = "203.0.113.53"
"""


def test_nothing_is_wrong_with_a_host_that_is_fit(box: Box) -> None:
    findings = box.doctor()
    assert box.wrong() == {}
    assert findings["primary lab, zone ."]["found"] == "203.0.113.53 has serial 2026112101"
    for about in (
        "packet filter",
        "routing rules for IPv4",
        "routing rules for IPv6",
        "interface eth0",
        "interface eth1",
    ):
        assert findings[about]["grade"] == "ok"


FAULTS: dict[str, tuple[str, str, str, str]] = {
    # name: (what breaks it, what mends it, what it is about, what is found)
    "a_sysctl": (
        "sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.eth1.arp_ignore=0",
        "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.eth1.arp_ignore=1",
        "sysctl net.ipv4.conf.eth1.arp_ignore", "is 0, must be 1",
    ),
    "a_queue": (
        "sysctl -qw net.core.somaxconn=128", "sysctl -qw net.core.somaxconn=4096",
        "sysctl net.core.somaxconn", "is 128, must be at least 4096",
    ),
    "a_router": (
        "sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv4.ip_forward=0",
        "sysctl net.ipv4.ip_forward", "is 1, must be 0",
    ),
    "the_filter": (
        "nft delete element inet rootsrv service4 { 192.0.2.53 }",
        "nft add element inet rootsrv service4 { 192.0.2.53 }",
        "packet filter", "lets 2001:db8::53 through",
    ),
    "the_way_out": (
        "ip route del default table 53", "ip route add default via 198.51.100.2 dev eth1 table 53",
        "routing rules for IPv4", "no default route over eth1",
    ),
    "a_rule": (
        "ip rule del priority 153 from 192.0.2.53",
        "ip rule add priority 153 from 192.0.2.53 lookup 53 protocol kernel",
        "routing rules for IPv4", "responses from 192.0.2.53 leave by any interface",
    ),
    "the_two_sides_joined": (
        "ip rule del priority 53 iif eth1 to 203.0.113.10 blackhole",
        "ip rule add priority 53 iif eth1 to 203.0.113.10 blackhole protocol kernel",
        "routing rules for IPv4", "203.0.113.10 is reachable over eth1",
    ),
    "a_service_address": (
        "ip address del 192.0.2.53/32 dev lo", "ip address add 192.0.2.53/32 dev lo",
        "service address 192.0.2.53", "is on no interface",
    ),
    "an_address_on_the_wrong_interface": (
        "ip address del 203.0.113.10/24 dev eth0; ip address add 203.0.113.10/24 dev lo",
        "ip address del 203.0.113.10/24 dev lo; ip address add 203.0.113.10/24 dev eth0",
        "interface eth0", "203.0.113.10 is not on it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(box: Box, fault: str) -> None:
    breaks, mends, about, found = FAULTS[fault]
    box.host.run("sh", "-ec", breaks)
    try:
        wrong = box.wrong()
    finally:
        box.host.run("sh", "-ec", mends)
    assert found in wrong.get(about, ""), wrong


def test_rules_that_networkd_would_take_away_are_told(box: Box) -> None:
    change = "ip rule {} priority 153 from 192.0.2.53 lookup 53 {}"
    box.host.run("sh", "-ec", change.format("del", "") + "; " + change.format("add", ""))
    try:
        finding = box.doctor()["routing rules for IPv4"]
    finally:
        box.host.run("sh", "-ec", change.format("add", "protocol kernel") + "; " + change.format("del", ""))
    assert (finding["grade"], "systemd-networkd" in finding["found"]) == ("note", True)


def test_the_loss_of_the_rule_for_the_table_local_is_named(box: Box) -> None:
    box.host.run("ip", "-6", "rule", "del", "priority", "100")
    try:
        wrong = box.wrong()
    finally:
        box.host.run("ip", "-6", "rule", "add", "priority", "100", "lookup", "local", "protocol", "kernel")
    assert "table local" in wrong["routing rules for IPv6"]


def test_secrets_that_everybody_can_read_are_named(box: Box) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "transfer.secret").write_text("c2VjcmV0IG9mIHRoZSBrZXk=")
        for each in directory.iterdir():
            each.chmod(0o644)
        file = directory / "rootsrv.toml"
        file.write_text(
            f"""{CONFIGURATION}
[cookies]
secret = "{"0123456789abcdef" * 2}"
[[key]]
name = "inline"
secret = "c2VjcmV0IG9mIHRoZSBrZXk="
[[key]]
name = "k"
secret_file = "{directory}/transfer.secret"
"""
        )
        file.chmod(0o644)

        wrong = box.wrong(config=str(file))
        assert wrong[f"secrets in {file}"] == "everybody on this host can read cookies.secret, key.secret"
        assert wrong[f"secrets in {directory}/transfer.secret"].endswith("key.secret_file")

        for each in directory.iterdir():
            each.chmod(0o640)
        findings = box.doctor(config=str(file))
        assert findings["secrets"]["grade"] == "ok"


@pytest.mark.parametrize(
    ("owner", "mode", "directory", "may"),
    [
        ((4711, 0), 0o600, 0o755, True),
        ((0, 4711), 0o640, 0o755, True),
        ((0, 4711), 0o600, 0o755, False),
        ((0, 0), 0o644, 0o755, True),
        ((0, 0), 0o600, 0o755, False),
        ((0, 0), 0o644, 0o700, False),
        ((4711, 0), 0o044, 0o755, False),
    ],
)
def test_who_may_read_a_file(owner: tuple[int, int], mode: int, directory: int, may: bool) -> None:
    require_root()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "key"
        path.touch()
        os.chown(path, *owner)
        path.chmod(mode)
        Path(name).chmod(directory)
        assert may_read(4711, [4711], path) == may
        # The kernel agrees.
        read = ["setpriv", "--reuid=4711", "--regid=4711", "--clear-groups", "cat", path]
        assert (subprocess.run(read, capture_output=True, timeout=10, check=False).returncode == 0) == may


def test_a_cable_that_is_out_is_named(box: Box) -> None:
    box.host.ip("link", "set", "eth1", "down")
    try:
        assert box.wrong()["interface eth1"] == "is down"
    finally:
        box.host.ip("link", "set", "eth1", "up")
        box.host.ip("address", "add", "2001:db8:ffff::1/64", "dev", "eth1", "nodad")
        box.script("routing", "up")


def test_another_server_on_our_port_is_named(box: Box) -> None:
    program = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('192.0.2.53', 53)); print(1, flush=True); "
        "input()"
    )
    command = [*box.host.prefix, sys.executable, "-c", program]
    squatter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with squatter:
        assert squatter.stdout is not None
        squatter.stdout.readline()
        assert "in use" in box.wrong()["UDP port 53 of 192.0.2.53"]
        squatter.terminate()


CONFIGURATIONS: dict[str, tuple[Callable[[str], str], str, str]] = {
    "a_primary_that_is_not_there": (
        lambda text: text.replace('"203.0.113.53"', '"203.0.113.54"'), "primary lab, zone .", "203.0.113.54: "
    ),
    "a_key_that_the_primary_does_not_have": (
        lambda text: text + 'key = "k"\n[[key]]\nname = "k"\nsecret = "' + "A" * 24 + '"\n',
        "primary lab, zone .", "the primary says BADKEY",
    ),
    "a_zone_file": (
        lambda text: text.replace('"root.zone"', '"gone.zone"').replace('name = "lab"', 'name = "lab"\nzones=["."]')
        .replace('"hosts.zone"', '"gone.hosts"'),
        "zone root-servers.net. file", "No such file",
    ),
    "the_anchors": (lambda text: text.replace('"anchor"', '"gone"'), "zone . trust_anchors", "No such file"),
    "an_address_that_the_network_does_not_know": (
        lambda text: text.replace('"192.0.2.53", ', '"192.0.2.54", '), "network.conf SERVICE_ADDRESSES", "differs"
    ),
    "a_port_that_the_network_does_not_let_through": (
        lambda text: "dot = {}\n" + text, "network.conf SERVICE_TLS_PORTS", "DNS over TLS has 853"
    ),
    "an_account": (
        lambda text: text.replace("service = { ", 'service = { user = "nosuchuser", '),
        "account nosuchuser", "does not exist",
    ),
    "bird_that_does_not_run": (
        lambda text: 'anycast = { prefix_v4 = "192.0.2.0/24", bgp_v4 = ["u"], bird_socket = "none" }\n' + text,
        "BIRD, anycast.bird_socket", "none",
    ),
    "xdp_on_an_interface_that_has_none": (
        lambda text: 'fastpath = { mode = "xdp", interfaces = ["eth1"] }\n' + text,
        "fast path on eth1", "veth leaves no room",
    ),
    "an_interface_that_is_not_there": (
        lambda text: 'fastpath = { interfaces = ["eth9"] }\n' + text, "fast path on eth9", "no such interface"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_what_the_configuration_wants_and_is_not_there_is_named(box: Box, case: str) -> None:
    change, about, found = CONFIGURATIONS[case]
    (box.directory / "changed.toml").write_text(change(CONFIGURATION))
    wrong = box.wrong(config="changed.toml")
    assert found in wrong.get(about, ""), wrong


HIDE = 'mount --bind /dev/null "$1"; shift; exec "$@"'


@pytest.mark.parametrize(
    ("program", "about", "found"),
    [("bird", "BIRD", "is not installed"), ("nft", "packet filter", "nft is not installed")],
)
def test_a_program_that_is_missing_is_named(box: Box, program: str, about: str, found: str) -> None:
    path = str(Path(require_tool(program)).resolve())
    text = 'anycast = { prefix_v4 = "192.0.2.0/24", bgp_v4 = ["u"] }\n' + CONFIGURATION
    (box.directory / "changed.toml").write_text(text)
    wrong = box.wrong("unshare", "--mount", "sh", "-ec", HIDE, "sh", path, config="changed.toml")
    assert wrong[about] == found


def test_a_read_only_disk_is_named(box: Box) -> None:
    mount = 'mount -t tmpfs -o ro none state; exec "$@"'
    wrong = box.wrong("unshare", "--mount", "sh", "-ec", mount, "sh")
    (found,) = (text for about, text in wrong.items() if about.startswith("state directory"))
    assert "read-only" in found


def test_capabilities_that_nobody_can_have_are_named(box: Box) -> None:
    wrong = box.wrong(require_tool("setpriv"), "--bounding-set=-bpf,-perfmon", "--inh-caps=-bpf,-perfmon")
    assert wrong["capabilities"] == "nobody on this host can have CAP_BPF, CAP_PERFMON"


def test_a_network_conf_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    conf = tmp_path / "network.conf"
    for text, message in (
        ("ADMIN_INTERFACE=eth0\n", "SERVICE_INTERFACE is missing"),
        ("ADMIN_INTERFACE=eth0 eth1\n", "line 1: must be NAME="),
        ('ADMIN_INTERFACE="eth0\n', "line 1: No closing quotation"),
    ):
        conf.write_text(text)
        with pytest.raises(ValueError, match=message):
            NetworkSettings.read(conf)


def test_what_the_doctor_wants_is_what_is_deployed() -> None:
    lines = (DEPLOYED / "60-rootsrv.conf").read_text().splitlines()
    deployed = dict(line.split(" = ") for line in lines if line and not line.startswith("#"))
    wanted = {key.format(name): value for key, value in SYSCTLS.items() for name in ("all", "default")}
    assert {key: deployed.get(key) for key in wanted | SYSCTLS_OF_THE_HOST} == wanted | SYSCTLS_OF_THE_HOST
    assert {key: int(deployed[key]) for key in SYSCTLS_AT_LEAST} == SYSCTLS_AT_LEAST


def test_it_reads_well(box: Box) -> None:
    printed = box.host.run(
        "env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "rootsrv", "doctor",
        "--config", str(box.directory / "rootsrv.toml"), check=False,
    )  # fmt: skip
    assert "ok    packet filter: loaded" in printed.splitlines()
    assert printed.splitlines()[-1].endswith(("to mend", "is fit"))
