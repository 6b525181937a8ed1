"""The network side of a box with two interfaces (deploy/network), probed from both sides; a real instance runs on it.

    manager ── eth0 (administrative) ── box ── eth1 (service) ── router ── client

All in namespaces; the addresses are those of deploy/network/network.conf.
"""
# Over 500 lines: one site, whose making is half of it, for the filter and the rules.

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.needs import REPOSITORY, require_tool
from tests.network import Host, network
from tests.server.live import put_zones, wait_until

DEPLOYED = REPOSITORY / "deploy" / "network"
SCRIPT = DEPLOYED / "rootsrv-network"

ADMIN = {4: "203.0.113.10", 6: "2001:db8:a::10"}
MANAGER = {4: "203.0.113.20", 6: "2001:db8:a::20"}
PRIMARY = {4: "203.0.113.53", 6: "2001:db8:a::53"}
STRANGER = {4: "198.18.0.7", 6: "2001:db8:bad::7"}
"""Reaches the administrative interface, but is not in MANAGEMENT."""

SERVICE = {4: "192.0.2.53", 6: "2001:db8::53"}
LINK = {4: "198.51.100.1", 6: "2001:db8:ffff::1"}
ROUTER = {4: "198.51.100.2", 6: "2001:db8:ffff::2"}
CLIENT = {4: "100.64.0.2", 6: "2001:db8:c::2"}
ANCHOR = {4: "192.0.2.1", 6: "2001:db8::1"}
VERSIONS = (4, 6)


@dataclass(frozen=True)
class Site:
    """The box and what surrounds it."""

    box: Host
    manager: Host
    router: Host
    client: Host
    directory: Path

    def script(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """`rootsrv-network arguments` on the box."""
        done = subprocess.run(
            [*self.box.prefix, str(SCRIPT), *arguments],
            env={**os.environ, "ROOTSRV_NETWORK": str(self.directory)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With the sysctls applied, the instance running, the filter and the rules in force."""
    require_tool("nft")
    directory = tmp_path_factory.mktemp("network")
    for name in ("network.conf", "rootsrv.nft"):
        shutil.copy(DEPLOYED / name, directory)
    with network() as net:
        box, manager, router, client = (net.host(name) for name in ("box", "mgr", "rtr", "cli"))
        for key, value in sysctls().items():
            # Only what a namespace has of its own: the rest is the machine's.
            if key.startswith(("net.ipv4.", "net.ipv6.")):
                box.run("sh", "-c", f"test ! -e /proc/sys/{key.replace('.', '/')} || sysctl -qw {key}={value}")
        # On the administrative side everything is on one segment, the stranger as well.
        net.link(box, manager, "eth0", tuple(
            (f"{ADMIN[v]}/{length}", f"{MANAGER[v]}/{length}") for v, length in ((4, 24), (6, 64))
        ))  # fmt: skip
        net.link(box, router, "eth1", tuple(
            (f"{LINK[v]}/{length}", f"{ROUTER[v]}/{length}") for v, length in ((4, 30), (6, 64))
        ))  # fmt: skip
        net.link(router, client, "inside", tuple(
            (f"{CLIENT[v].removesuffix('2')}1/{length}", f"{CLIENT[v]}/{length}") for v, length in ((4, 24), (6, 64))
        ))  # fmt: skip
        for version in VERSIONS:
            flags = ("-6",) if version == 6 else ()
            width = {4: 32, 6: 128}[version]
            nodad = ("nodad",) if version == 6 else ()
            for address in (STRANGER[version], PRIMARY[version]):
                manager.ip("address", "add", f"{address}/{width}", "dev", "eth0", *nodad)
            # The box's way to the Internet is the administrative one: without rules responses would take it.
            box.ip(*flags, "route", "add", "default", "via", MANAGER[version])
            client.ip(*flags, "route", "add", "default", "via", f"{CLIENT[version].removesuffix('2')}1")
            router.ip(*flags, "route", "add", f"{SERVICE[version]}/{width}", "via", LINK[version])
            # What an intruder would try: the other side's address by way of this one.
            router.ip(*flags, "route", "add", f"{ADMIN[version]}/{width}", "via", LINK[version])
            manager.ip(*flags, "route", "add", f"{SERVICE[version]}/{width}", "via", ADMIN[version])
            manager.ip(*flags, "route", "add", f"{LINK[version]}/{width}", "via", ADMIN[version])
            # The anchors, as rootsrv holds them while it announces.
            box.ip("address", "add", f"{ANCHOR[version]}/{ {4: 24, 6: 48}[version] }", "dev", "lo", *nodad)
            box.ip("address", "add", f"{SERVICE[version]}/{width}", "dev", "lo", *nodad)
        router.forward()
        made = Site(box, manager, router, client, directory)
        made.script("firewall", "up")
        made.script("routing", "up")
        with instance(box, directory):
            yield made


@contextlib.contextmanager
def instance(box: Host, directory: Path) -> Iterator[None]:
    """`rootsrv run` on the box: DNS on the service addresses, transfers and metrics on the administrative ones."""
    zones = put_zones(directory)
    (directory / "rootsrv.toml").write_text(
        f"""
service = {{ addresses = ["{SERVICE[4]}", "{SERVICE[6]}"], workers = 1 }}
admin = {{ addresses = ["{ADMIN[4]}", "{ADMIN[6]}"] }}
{zones}
"""
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*box.prefix, sys.executable, "-m", "rootsrv", "run", "--config", "rootsrv.toml"],
            cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip

    def listens() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        listening = box.run("ss", "-Hlnt")
        return all(text in listening for text in (f"{SERVICE[4]}:53", f"{ADMIN[4]}:53", f"{ADMIN[4]}:9353"))

    try:
        wait_until(listens, "the instance listens", 120)
        yield
    finally:
        process.terminate()
        process.wait(30)


def sysctls() -> dict[str, str]:
    """Keys and values of the deployed file, but for patterns."""
    lines = (DEPLOYED / "60-rootsrv.conf").read_text().splitlines()
    return {
        key.strip(): value.strip()
        for key, value in (line.split("=", 1) for line in lines if line and not line.startswith("#"))
        if "*" not in key
    }


_PROBE = """
import socket, sys
kind, source, target, port = sys.argv[1:5]
family = socket.AF_INET6 if ":" in target else socket.AF_INET
query = bytes.fromhex("123400000001000000000000000006") + b"\\0\\1"
with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as probe:
    probe.settimeout(float(sys.argv[5]))
    probe.bind((source, 0))
    try:
        probe.connect((target, int(port)))
        if kind == "udp":
            probe.send(bytes.fromhex("1234000000010000000000000000060001"))
            probe.recv(4096)
        print("answers")
    except ConnectionRefusedError:
        print("refuses")
    except OSError as error:
        print("silent")
"""


def probe(host: Host, kind: str, source: str, target: str, port: int, seconds: float = 0.4) -> str:
    """What a UDP query or a TCP connection from *source* meets: "answers", "refuses" (a sign of life) or "silent"."""
    return host.run(sys.executable, "-c", _PROBE, kind, source, target, str(port), str(seconds)).strip()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_the_client_is_answered_on_the_service_address(site: Site, kind: str, version: int) -> None:
    assert probe(site.client, kind, CLIENT[version], SERVICE[version], 53, seconds=5) == "answers"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manager_reaches_metrics_and_the_primary_the_zone_port(site: Site, version: int) -> None:
    assert probe(site.manager, "tcp", MANAGER[version], ADMIN[version], 9353, seconds=5) == "answers"
    assert probe(site.manager, "tcp", PRIMARY[version], ADMIN[version], 53, seconds=5) == "answers"


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_else_answers_on_either_side(site: Site, version: int) -> None:
    probes = [
        # What is not DNS, on the service side.
        (site.client, "tcp", CLIENT, SERVICE, 22),
        (site.client, "tcp", CLIENT, SERVICE, 9353),
        (site.client, "udp", CLIENT, SERVICE, 123),
        (site.client, "tcp", CLIENT, LINK, 53),
        (site.client, "tcp", CLIENT, LINK, 179),
        (site.client, "udp", CLIENT, LINK, 53),
        (site.client, "udp", CLIENT, ANCHOR, 53),
        # The administrative address by way of the service interface.
        (site.client, "tcp", CLIENT, ADMIN, 53),
        (site.client, "tcp", CLIENT, ADMIN, 9353),
        (site.router, "tcp", ROUTER, ADMIN, 9353),
        (site.router, "udp", ROUTER, ADMIN, 53),
        # The service by way of the administrative interface.
        (site.manager, "udp", MANAGER, SERVICE, 53),
        (site.manager, "tcp", MANAGER, SERVICE, 53),
        (site.manager, "tcp", MANAGER, LINK, 179),
        # Neither a manager nor a primary.
        (site.manager, "tcp", STRANGER, ADMIN, 9353),
        (site.manager, "tcp", STRANGER, ADMIN, 53),
        (site.manager, "udp", STRANGER, ADMIN, 53),
        # A manager is no primary.
        (site.manager, "tcp", MANAGER, ADMIN, 53),
    ]

    def meet(case: tuple[Host, str, dict[int, str], dict[int, str], int]) -> str:
        host, kind, source, target, port = case
        outcome = probe(host, kind, source[version], target[version], port)
        return "" if outcome == "silent" else f"{kind} {source[version]} -> {target[version]} {port}: {outcome}"

    with ThreadPoolExecutor(6) as pool:
        assert [told for told in pool.map(meet, probes) if told] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rules_alone_keep_the_two_sides_apart(site: Site, version: int) -> None:
    site.script("firewall", "down")
    try:
        assert probe(site.client, "tcp", CLIENT[version], ADMIN[version], 9353) == "silent"
        assert probe(site.router, "tcp", ROUTER[version], ADMIN[version], 9353) == "silent"
        assert probe(site.manager, "udp", MANAGER[version], SERVICE[version], 53) == "silent"
        # And what is to work does.
        assert probe(site.client, "udp", CLIENT[version], SERVICE[version], 53, seconds=5) == "answers"
        assert probe(site.manager, "tcp", MANAGER[version], ADMIN[version], 9353, seconds=5) == "answers"
    finally:
        site.script("firewall", "up")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_filter_alone_keeps_the_two_sides_apart(site: Site, version: int) -> None:
    site.script("routing", "down")
    try:
        assert probe(site.client, "tcp", CLIENT[version], ADMIN[version], 9353) == "silent"
        assert probe(site.manager, "udp", MANAGER[version], SERVICE[version], 53) == "silent"
        # The response would leave by the default route, which is the administrative side's: the filter drops it.
        assert probe(site.client, "udp", CLIENT[version], SERVICE[version], 53) == "silent"
    finally:
        site.script("routing", "up")
    assert probe(site.client, "udp", CLIENT[version], SERVICE[version], 53, seconds=5) == "answers"


def test_no_arp_for_the_address_of_the_other_side(site: Site) -> None:
    site.router.ip("route", "replace", f"{ADMIN[4]}/32", "dev", "eth1")
    try:
        assert probe(site.router, "udp", ROUTER[4], ADMIN[4], 53, seconds=1) == "silent"
        neighbour = site.router.ip("neigh", "show", "to", ADMIN[4], "dev", "eth1")
        assert "lladdr" not in neighbour, neighbour
    finally:
        site.router.ip("route", "replace", f"{ADMIN[4]}/32", "via", LINK[4])


def test_the_sysctls_hold_on_the_interfaces_that_came_after_them(site: Site) -> None:
    for key, value in sysctls().items():
        if ".conf.default." in key:
            for interface in ("eth0", "eth1"):
                found = site.box.run("sysctl", "-n", key.replace(".default.", f".{interface}."))
                assert (key, interface, found.strip()) == (key, interface, value)


def test_up_may_be_repeated_and_down_leaves_nothing(site: Site) -> None:
    before = rules(site.box)
    site.script("routing", "up")
    site.script("firewall", "up")
    assert rules(site.box) == before
    site.script("routing", "down")
    site.script("firewall", "down")
    try:
        assert site.box.run("nft", "list", "ruleset") == ""
        assert site.box.ip("-4", "rule", "show").split("\n")[0] == "0:\tfrom all lookup local"
        assert not any(re.match(r"(53|100|153|154):", line) for line in rules(site.box))
        assert site.box.ip("route", "show", "table", "53") == ""
    finally:
        site.script("firewall", "up")
        site.script("routing", "up")


@contextlib.contextmanager
def routing_kept(site: Site, path: str = os.environ["PATH"]) -> Iterator[None]:
    """What the unit rootsrv-routing runs."""
    process = subprocess.Popen(
        [*site.box.prefix, str(SCRIPT), "routing", "keep"],
        env={**os.environ, "ROOTSRV_NETWORK": str(site.directory), "PATH": path}, start_new_session=True,
    )  # fmt: skip
    try:
        yield
        assert process.poll() is None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_responses_leave_again_when_the_service_interface_was_down_and_is_up(site: Site) -> None:
    with routing_kept(site):
        site.box.ip("link", "set", "eth1", "down")
        for version in VERSIONS:
            assert site.box.ip(f"-{version}", "route", "show", "table", "53") == ""
            # By the other side they do not leave meanwhile.
            assert probe(site.client, "udp", CLIENT[version], SERVICE[version], 53) == "silent"
        site.box.ip("link", "set", "eth1", "up")
        for version in VERSIONS:
            answers = lambda: probe(site.client, "udp", CLIENT[version], SERVICE[version], 53, 1) == "answers"  # noqa: B023, E731
            wait_until(answers, f"IPv{version} is answered", 20)


def rules(host: Host) -> list[str]:
    """All routing rules; those of one priority in no order."""
    return sorted(line for v in VERSIONS for line in host.ip(f"-{v}", "-d", "rule", "show").splitlines())


def lose_what_networkd_takes(host: Host) -> None:
    """Every rule that is not of the protocol `kernel`, and the routes of the table, as networkd does."""
    for version in VERSIONS:
        for line in host.ip(f"-{version}", "-d", "rule", "show").splitlines():
            if not line.endswith("proto kernel"):
                host.ip(f"-{version}", "rule", "del", "priority", line.partition(":")[0])
        host.ip(f"-{version}", "route", "flush", "table", "53")


def lose_all(host: Host) -> None:
    for version in VERSIONS:
        host.ip(f"-{version}", "rule", "flush")
    # The last one of the kernel's, whose table is empty, is nobody's business here.
    host.ip("rule", "add", "priority", "32767", "lookup", "default", "protocol", "kernel")


def lose_the_rule_for_local(host: Host) -> None:
    for version in VERSIONS:
        host.ip(f"-{version}", "rule", "del", "priority", "100")


def lose_one_that_keeps_the_sides_apart(host: Host) -> None:
    for version in VERSIONS:
        host.ip(f"-{version}", "rule", "del", "priority", "53", "iif", "eth1", "to", ADMIN[version])


def get_the_rule_of_the_kernel_back(host: Host) -> None:
    """Asked first, it would serve an address of the one side on the other."""
    for version in VERSIONS:
        host.ip(f"-{version}", "rule", "add", "priority", "0", "lookup", "local")


@pytest.mark.parametrize(
    "lose",
    [lose_what_networkd_takes, lose_all, lose_the_rule_for_local, lose_one_that_keeps_the_sides_apart,
     get_the_rule_of_the_kernel_back],
)  # fmt: skip
def test_whatever_is_lost_of_rules_and_routes_comes_back(site: Site, lose: Callable[[Host], None]) -> None:
    before = rules(site.box)
    with routing_kept(site):
        assert probe(site.manager, "tcp", MANAGER[4], ADMIN[4], 9353, seconds=5) == "answers"
        lose(site.box)
        wait_until(lambda: rules(site.box) == before, "the rules are back", 20)
        for version in VERSIONS:
            answers = lambda: probe(site.client, "udp", CLIENT[version], SERVICE[version], 53, 1) == "answers"  # noqa: B023, E731
            wait_until(answers, f"IPv{version} is answered", 20)
            assert probe(site.manager, "tcp", MANAGER[version], ADMIN[version], 9353, seconds=5) == "answers"


def test_the_rules_come_back_while_the_service_interface_is_down(site: Site) -> None:
    """Without the rule for `local` nobody reaches the box to put the cable in."""
    with routing_kept(site):
        site.box.ip("link", "set", "eth1", "down")
        try:
            lose_all(site.box)
            answers = lambda: probe(site.manager, "tcp", MANAGER[4], ADMIN[4], 9353, 1) == "answers"  # noqa: E731
            wait_until(answers, "the manager reaches the box", 20)
        finally:
            site.box.ip("link", "set", "eth1", "up")
        answers = lambda: probe(site.client, "udp", CLIENT[4], SERVICE[4], 53, 1) == "answers"  # noqa: E731
        wait_until(answers, "the service is reached", 20)


@pytest.mark.parametrize("change", ["rule add priority 0 lookup local", "route flush table 53"])
def test_what_changes_while_they_are_put_up_for_the_first_time_is_not_kept(
    site: Site, change: str, tmp_path: Path
) -> None:
    before, routes = rules(site.box), site.box.ip("route", "show", "table", "53")
    # An `ip` that changes something by itself, once, when the last of the rules has been put up.
    command, changed = tmp_path / "ip", tmp_path / "changed"
    command.write_text(
        f"""#!/bin/sh
{shutil.which("ip")} "$@"
status=$?
[ "$*" = "-6 rule del priority 0 lookup local" ] || exit $status
if ! mkdir {tmp_path}/rules 2>/dev/null && mkdir {changed} 2>/dev/null
then
    {shutil.which("ip")} -4 {change}
    {shutil.which("ip")} -6 {change}
fi
exit $status
"""
    )
    command.chmod(0o755)

    with routing_kept(site, f"{tmp_path}:{os.environ['PATH']}"):
        wait_until(changed.exists, "something has changed", 20)
        wait_until(lambda: rules(site.box) == before, "the rules are back", 20)
        wait_until(lambda: site.box.ip("route", "show", "table", "53") == routes, "the routes are back", 20)


def test_every_rule_is_one_that_networkd_leaves_alone(site: Site) -> None:
    """systemd's networkd-routing-policy-rule.c passes over the protocol `kernel` and drops all other foreign rules."""
    assert [line for line in rules(site.box) if not line.endswith("proto kernel")] == []


def test_rules_of_an_earlier_version_get_the_mark(site: Site) -> None:
    before = rules(site.box)
    for version in VERSIONS:
        site.box.ip(f"-{version}", "rule", "add", "priority", "153", "from", SERVICE[version], "lookup", "53")
        site.box.ip(f"-{version}", "rule", "del", "priority", "153", "from", SERVICE[version], "protocol", "kernel")
        site.box.ip(f"-{version}", "rule", "add", "priority", "100", "lookup", "local")
    assert rules(site.box) != before

    site.script("routing", "up")

    assert rules(site.box) == before


@pytest.mark.long
def test_networkd_leaves_the_rules_and_routes_alone(site: Site, tmp_path: Path) -> None:
    """The genuine one, started in the box as on a host that runs it, with the configuration that is shipped."""
    networkd = Path("/lib/systemd/systemd-networkd")
    if not networkd.exists():
        pytest.skip("systemd-networkd is not installed")
    before = rules(site.box), site.box.ip("route", "show", "table", "53")
    # Its directories are made in a mount namespace of its own; /run is fresh there, and so is its configuration.
    script = f"""
set -e
mount -t tmpfs none /run
cd /run
mkdir -p systemd/netif/links systemd/netif/leases systemd/netif/lldp systemd/networkd.conf.d systemd/network
chown -R systemd-network /run/systemd/netif
cp {DEPLOYED}/networkd.conf /run/systemd/networkd.conf.d/60-rootsrv.conf
echo started
exec env SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console timeout 3 {networkd}
"""
    done = subprocess.run(
        [*site.box.prefix, "unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Enumeration completed" in done.stdout + done.stderr, done.stderr
    assert (rules(site.box), site.box.ip("route", "show", "table", "53")) == before


BAD = {
    "an_unknown_interface": (
        "SERVICE_INTERFACE=eth1", "SERVICE_INTERFACE=eth7", "routing", "there is no interface eth7"
    ),
    "a_router_that_is_not_there": (
        'ROUTERS="198.51.100.2', 'ROUTERS="203.0.113.99', "routing", "203.0.113.99 is not on the link of eth1"
    ),
    "nobody_may_manage": ('MANAGEMENT="203.0.113.0/24 2001:db8:a::/64"', 'MANAGEMENT=""', "firewall", "MANAGEMENT:"),
    "an_address_that_is_none": ("192.0.2.53", "192.0.2.530", "firewall", "not accepted by nft"),
    "one_interface_for_both": ("SERVICE_INTERFACE=eth1", "SERVICE_INTERFACE=eth0", "firewall", "must be another one"),
    "a_service_address_of_the_box": ('LINK_ADDRESSES="198.51.100.1', 'LINK_ADDRESSES="192.0.2.53', "firewall", "also"),
    "a_family_without_router": ("198.51.100.2 2001:db8:ffff::2", "198.51.100.2", "firewall", "no IPv6 address"),
    "not_the_form": ('ROUTERS="198.51.100.2', 'ROUTERS=("198.51.100.2', "firewall", "not in the form"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_bad_network_conf_is_named_and_changes_nothing(site: Site, case: str) -> None:
    good, bad, part, message = BAD[case]
    conf = site.directory / "network.conf"
    text = conf.read_text()
    assert good in text
    state = lambda: site.box.run("nft", "list", "ruleset") + site.box.ip("rule") + site.box.ip("-6", "rule")  # noqa: E731
    before = re.sub(r"packets \d+ bytes \d+", "", state())
    conf.write_text(text.replace(good, bad, 1))
    try:
        done = site.script(part, "up", check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert re.sub(r"packets \d+ bytes \d+", "", state()) == before
    finally:
        conf.write_text(text)


def test_ipv6_that_is_off_is_named(site: Site) -> None:
    with network() as net:
        other = net.host("no-v6")
        other.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        done = Site(other, other, other, other, site.directory).script("check", check=False)
    assert (done.returncode, "IPv6 is off" in done.stderr) == (1, True)


def test_every_deployed_sysctl_is_one_of_this_kernel() -> None:
    unknown = [key for key in sysctls() if not Path("/proc/sys", *key.split(".")).exists()]
    assert unknown == []
