"""docs/install.md, followed command by command on Debian machines that boot, up to the route and a signed answer.

    manager ── eth0 ── box ── eth1 ── router ──┐
                                               core ── client
    manager ── eth0 ── box ── eth1 ── router ──┘

Both sites have the addresses of the guide; the second box comes from the first one's medium.  The addresses are those
of deploy/, so nothing in the files has to be edited.  Left out: fetching from the Internet, and setting the clock.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.peers.bird import route
from tests.deploy.machine import Machine, booted, debian
from tests.deploy.racks import (
    CORE,
    LINKS,
    LOCAL_AS,
    PREFIX,
    SERVICE,
    asked_by,
    in_chroot,
    join_router,
    primary,
    router_configuration,
    way_to,
)
from tests.needs import REPOSITORY
from tests.network import Host, Network, network
from tests.secondary import versions
from tests.server.live import SERIALS, wait_until, zone_files
from tests.system.anycast_network import Load

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1500)]

APPROVED = 2026112200
"""The serial that the guide approves."""

GUIDE = (REPOSITORY / "docs" / "install.md").read_text()


def block(label: str) -> str:
    """The commands of the guide below the comment *label*."""
    found = re.findall(rf"<!-- {re.escape(label)} -->\n```sh\n(.*?)```", GUIDE, re.DOTALL)
    assert len(found) == 1, label
    return str(found[0])


def test_every_block_of_the_guide_is_followed_or_left_out_for_a_reason() -> None:
    labels = re.findall(r"<!-- (.*?) -->\n```sh", GUIDE)
    assert len(re.findall(r"^```sh", GUIDE, re.MULTILINE)) == len(labels)
    assert [each for each in labels if each.startswith("not in the lab")] == [
        "not in the lab: fetched from elsewhere, for the package",
        "not in the lab: fetched from elsewhere", "not in the lab: sets the clock",
    ]  # fmt: skip
    source = "".join(each.read_text() for each in Path(__file__).parent.glob("test_guide*.py"))
    assert [each for each in labels if f'"{each}"' not in source] == []


# ── the lab ──


@dataclass(frozen=True)
class Site:
    """Where a box is plugged in."""

    box: Host
    manager: Host
    router: Host


def cable(net: Network, number: int, core: Host) -> Site:
    """A rack: management network and router, the same addresses in each."""
    box, manager, router = (net.host(f"{name}{number}") for name in ("box", "mgr", "rtr"))
    net.link(box, manager, "eth0", (("203.0.113.10/24", "203.0.113.53/24"), ("2001:db8:a::10/64", "2001:db8:a::53/64")))
    box.ip("route", "add", "default", "via", "203.0.113.53")
    join_router(net, number, box, router, core, LINKS[0])
    return Site(box, manager, router)


@dataclass
class Lab:
    """Everything."""

    directory: Path
    sites: tuple[Site, Site]
    core: Host
    client: Host
    first: Machine
    stack: contextlib.ExitStack
    second: Machine | None = None

    def nexthop(self) -> str:
        """Where the core sends the service prefix."""
        return way_to(self.core)

    def answer(self) -> str:
        """What the client gets."""
        return asked_by(self.client)


def wheels(directory: Path) -> None:
    """The wheel of now, and the same as the next version."""
    for version, text in (("0.2.0", None), ("0.3.0", "0.3.0")):
        source = directory / version
        listed = subprocess.run(["git", "-C", REPOSITORY, "ls-files", "-z"], capture_output=True, text=True, check=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (REPOSITORY / name).exists() and not name.startswith(("tests/", "bench/")):
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, source / name)
        if text:
            for name in ("pyproject.toml", "rootsrv/__init__.py"):
                path = source / name
                path.write_text(re.sub(r'^(_*version_* = )"[^"]+"', rf'\1"{text}"', path.read_text(), flags=re.M))
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(source)],
            env={**os.environ, "ROOTSRV_BPF": "required"}, check=True, timeout=300,
        )  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two racks; the first has a Debian box on which the guide's packages and software are installed."""
    directory = tmp_path_factory.mktemp("guide")
    (directory / "wheels").mkdir()
    wheels(directory / "wheels")
    with network() as net, contextlib.ExitStack() as stack:
        core, client = net.host("core"), net.host("client")
        sites = (cable(net, 1, core), cable(net, 2, core))
        net.link(core, client, "inside", (("100.64.0.1/24", "100.64.0.2/24"),))
        client.ip("route", "add", "default", "via", "100.64.0.1")
        core.forward()
        for number, site in enumerate(sites, 1):
            configured = router_configuration(number, LINKS[0], LOCAL_AS[0])
            stack.enter_context(route(site.router, directory / f"router{number}", configured))
            stack.enter_context(primary(site.manager, directory / f"primary{number}", ("203.0.113.10",)))
        stack.enter_context(route(core, directory / "core", CORE))
        (directory / "one").mkdir()
        root = debian(directory / "one")
        for wheel in (directory / "wheels").glob("*.whl"):
            shutil.copy(wheel, root / "root")
        in_chroot(root, block("box: packages"))
        # The second box is bare: packages, and nothing of ours.
        (directory / "two").mkdir()
        subprocess.run(["cp", "-a", "--reflink=auto", root, directory / "two" / "root"], check=True, timeout=300)
        in_chroot(root, block("box: software"))
        in_chroot(
            root, block("box: upgrade-install").splitlines()[0] + "\n" + block("box: upgrade-install").splitlines()[1]
        )
        first = stack.enter_context(booted(root, sites[0].box))
        yield Lab(directory, sites, core, client, first, stack)


# ── the guide ──


def test_the_guide_leads_from_a_bare_box_to_a_signed_answer_at_the_client(lab: Lab) -> None:
    box = lab.first
    box.run(block("box: files"))
    box.run(block("box: setup"))
    files = zone_files()
    for name, octets in (
        ("root.zone", files.versions[0]), ("root-servers.net.zone", files.hosts), ("root-anchors.xml", files.anchor)
    ):  # fmt: skip
        box.path(f"/etc/rootsrv/{name}").write_bytes(octets)
    box.run(block("box: zones"))
    box.run(block("box: network"))
    box.run(block("box: router"))
    fit = box.run(block("box: doctor"), check=False)
    failures = [line for line in fit.splitlines() if line.startswith("FAIL")]
    assert [line for line in failures if not line.startswith("FAIL  clock")] == [], fit

    printed = box.run(block("box: serve"), check=False)
    assert "RRSIG" in printed, printed + box.journal()
    assert lab.nexthop() == ""

    box.run(block("box: announce"))
    shown = lambda: "anycast4_up" in box.run(block("box: announced"), check=False)  # noqa: E731
    wait_until(shown, f"BIRD has the route\n{box.journal()}", 60)
    wait_until(lambda: lab.nexthop() == "10.9.1.1", f"the core has the route\n{box.journal()}", 60)
    wait_until(lambda: "RRSIG" in lab.answer(), "the client has a signed answer", 30)
    active = box.run("systemctl is-active rootsrv-maintain rootsrv-serve rootsrv-report rootsrv-advertise")
    assert active.split() == ["active"] * 4


def test_no_role_runs_as_root_and_workers_have_no_capability(lab: Lab) -> None:
    processes = lab.first.run("ps -eo user:20,args").splitlines()
    ours = [line.split() for line in processes if "/opt/rootsrv/" in line and "python" in line.split()[1]]
    assert len(ours) >= 5
    assert {words[0] for words in ours} == {"rootsrv"}
    told = lab.first.run(
        "for pid in $(pgrep -f '[r]ootsrv.server.worker'); do grep -h 'Cap[PEA]' /proc/$pid/status; done"
    )
    assert told
    assert set(re.findall(r"\t(\w+)", told)) == {"0" * 16}


def test_a_role_that_hangs_is_restarted_by_the_watchdog(lab: Lab) -> None:
    show = "systemctl show -P MainPID rootsrv-report"
    before = lab.first.run(show)
    lab.first.run("systemctl show -P WatchdogUSec rootsrv-report")
    lab.first.run("mkdir -p /run/systemd/system/rootsrv-report.service.d; "
                  "printf '[Service]\\nWatchdogSec=3\\n' > /run/systemd/system/rootsrv-report.service.d/short.conf; "
                  "systemctl daemon-reload; systemctl restart rootsrv-report")  # fmt: skip
    running = lab.first.run(show)
    assert running != before
    lab.first.run(f"kill -STOP {running}")
    wait_until(lambda: lab.first.run(show) not in (running, "0\n", ""), "another process", 60)


OF_THE_BOX = """
find /etc/rootsrv /opt /var/lib/rootsrv /usr/local /etc/systemd/system /etc/sysctl.d /etc/chrony /etc/bird 2>/dev/null |
    sort || true
md5sum /etc/bird/bird.conf
"""
"""Lists what a restore brings, and what a package's file is that it replaces."""


def test_an_empty_second_box_is_restored_from_the_medium_in_one_command(lab: Lab) -> None:
    lab.first.run(block("box: save"))
    medium = lab.directory / "two" / "root" / "media" / "rootsrv"
    shutil.copytree(lab.first.path("/media/rootsrv"), medium)
    box = lab.second = lab.stack.enter_context(booted(lab.directory / "two" / "root", lab.sites[1].box))

    box.run("mount -t tmpfs -o size=4m tmpfs /opt")  # a disk that is full before the end
    before = box.run(OF_THE_BOX)
    failed = box.run(block("second box: restore"), check=False)
    assert "not restored" in failed
    assert box.run(OF_THE_BOX) == before
    box.run("umount /opt")

    printed = box.run(block("second box: restore"))

    assert "restored version 0.2.0" in printed
    wait_until(
        lambda: "192.0.2.0/24" in lab.sites[1].router.ip("route", "show", PREFIX),
        f"its router has the route\n{printed}\n{box.journal()}", 90,
    )  # fmt: skip
    asked = lab.sites[1].router.run("dig", f"@{SERVICE}", "+dnssec", "+norec", "+tries=1", ".", "SOA")
    assert "RRSIG" in asked
    again = box.run(block("second box: restore"), check=False)
    assert "there is an instance on this box already" in again


def test_an_upgrade_under_load_loses_no_query(lab: Lab) -> None:
    assert lab.second is not None
    wait_until(lambda: lab.nexthop() == "10.9.1.1", "traffic at the first site", 60)
    checked = lab.first.run(block("box: upgrade-install").splitlines()[2])
    assert "192.0.2.53" in checked
    with Load(lab.client, lab.directory / "load.json", 120, 200, addresses=[SERVICE]).begun() as load:
        lab.first.run(block("box: upgrade"))
        result = load.result()

    assert lab.first.run("rootsrv --version") == "rootsrv 0.3.0\n"
    assert '"version": "0.3.0"' in lab.first.run("rootsrv status --json")
    assert result["4"]["sent"] > 500
    assert result["4"]["lost"] == []
    wait_until(lambda: lab.nexthop() == "10.9.1.1", "traffic back at the first site", 60)


def test_a_rollback_under_load_takes_the_software_back_and_not_the_zone(lab: Lab) -> None:
    box = lab.first
    box.path("/media/root.zone").write_bytes(zone_files().versions[1])
    box.run(block("box: emergency"))
    served = box.run(f"dig @{SERVICE} +short . SOA")
    assert str(SERIALS[1]) in served
    with Load(lab.client, lab.directory / "rollback.json", 120, 200, addresses=[SERVICE]).begun() as load:
        box.run(block("box: rollback"))
        result = load.result()

    assert box.run("rootsrv --version") == "rootsrv 0.2.0\n"
    assert '"version": "0.2.0"' in box.run("rootsrv status --json")
    assert result["4"]["lost"] == []
    assert box.run(f"dig @{SERVICE} +short . SOA") == served
    wait_until(lambda: lab.nexthop() == "10.9.1.1", "traffic back at the first site", 60)


def test_a_zone_with_the_rolled_key_is_taken_after_the_guides_roll_and_a_gross_one_after_a_word(lab: Lab) -> None:
    box = lab.first
    contents = versions.version(APPROVED, tlds=10)  # with another KSK, too
    box.path("/media/root.zone").write_bytes(versions.text(contents))
    assert "covered by a trust anchor" in box.run(block("box: emergency"), check=False)
    anchors = zone_files().anchor.decode() + versions.anchor()
    box.path("/etc/rootsrv/root-anchors.xml.new").write_text(anchors)
    box.run(block("box: ksk"))
    assert "held" in box.run(block("box: emergency"), check=False)
    box.run(block("box: emergency held"))
    wait_until(lambda: str(APPROVED) in lab.answer(), "the client has the new zone", 30)


def test_a_medium_that_is_not_whole_restores_nothing(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.directory / "two" / "root" / "media" / "rootsrv", tmp_path / "medium")
    with (tmp_path / "medium" / "state.tar").open("r+b") as state:
        state.seek(2000)
        state.write(b"damaged")
    box = lab.second
    assert box is not None
    shutil.copytree(tmp_path / "medium", box.path("/media/damaged"))
    box.run("mv /opt/rootsrv/current /opt/rootsrv/away")
    try:
        printed = box.run("/media/damaged/rootsrv-medium restore", check=False)
        assert "the medium is not complete" in printed
        assert not box.path("/opt/rootsrv/current").is_symlink()
    finally:
        box.run("mv /opt/rootsrv/away /opt/rootsrv/current")
