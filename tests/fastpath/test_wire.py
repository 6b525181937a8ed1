"""On a wire between two network namespaces: the kernel answers real clients, and steps aside when it should."""

import contextlib
import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.frames import Frame
from bench.peers import unbound
from tests.fastpath.conftest import message, opt, require_program, wire
from tests.fastpath.site import CLIENT, SERVICE, WIRE, RawEnd, Site, mac_of, site
from tests.needs import REPOSITORY, require_tool
from tests.server.live import wait_until


@pytest.fixture(scope="module")
def tc_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """mode = "auto" on veth: tc, since veth leaves no room for XDP replies."""
    require_program()
    with site(tmp_path_factory.mktemp("tc")) as made:
        yield made


def raw_end(made: Site) -> RawEnd:
    return RawEnd(made.client)


def query_frame(made: Site, query: bytes, family: int, **changes: object) -> bytes:
    return Frame(
        source=CLIENT[family], destination=SERVICE[family], source_mac=mac_of(made.client),
        destination_mac=mac_of(made.server), payload=query, **changes,  # type: ignore[arg-type]
    ).to_octets()  # fmt: skip


def test_auto_takes_tc_on_veth_and_says_why(tc_site: Site) -> None:
    (interface,) = tc_site.status()["interfaces"]

    assert interface["hook"] in ("tcx", "clsact")
    assert "no room for replies" in interface["why"]
    print(f"hook {interface['hook']}, mode {tc_site.status()['mode']}")


@pytest.mark.parametrize("tool", ["dig", "kdig"])
@pytest.mark.parametrize("family", [4, 6])
def test_clients_get_their_answers_from_the_kernel(tc_site: Site, tool: str, family: int) -> None:
    require_tool(tool)
    before = tc_site.kernel_replies(family)

    printed = tc_site.dig(f"@{SERVICE[family]}", "nosuchtld.", "A", "+dnssec", "+nsid", tool=tool)

    assert "NXDOMAIN" in printed
    assert "wire.example" in printed
    assert "RRSIG" in printed
    assert tc_site.kernel_replies(family) == before + 1


@pytest.mark.parametrize("offload", ["off", "on"])
@pytest.mark.parametrize("family", [4, 6])
def test_checksums_are_right_where_they_arrive(tc_site: Site, family: int, offload: str) -> None:
    # With offload the sender leaves the checksum to be finished, and the reply comes back in the same state.
    tc_site.client.run(require_tool("ethtool"), "-K", WIRE, "tx", offload)
    far_end = raw_end(tc_site)
    try:
        before = tc_site.kernel_replies(family)
        tc_site.dig(f"@{SERVICE[family]}", "www.example.com.", "A", "+dnssec")
        (octets,) = far_end.replies(1)
        received = Frame.from_octets(octets)
        assert received.partial == (offload == "on")
        assert tc_site.kernel_replies(family) == before + 1
    finally:
        far_end.close()
        tc_site.client.run("ethtool", "-K", WIRE, "tx", "on")


@pytest.mark.parametrize("family", [4, 6])
def test_a_query_with_a_corrupted_checksum_is_answered_by_nobody(tc_site: Site, family: int) -> None:
    far_end = raw_end(tc_site)
    try:
        good = message(wire(b"com"), opt=opt(), ident=1)
        bad = message(wire(b"com"), opt=opt(), ident=2)
        far_end.send(query_frame(tc_site, bad, family, udp_checksum=0x1234))
        far_end.send(query_frame(tc_site, good, family))
        (reply,) = far_end.replies(2, seconds=1.0)
        assert Frame.from_octets(reply).payload[:2] == b"\0\1"
    finally:
        far_end.close()


def test_a_query_from_the_links_broadcast_address_is_answered_by_nobody(tc_site: Site) -> None:
    """The stack gives it to a worker, but lets no socket send there; the kernel passes it."""
    query = message(wire(b"nosuchtld"), opt=opt())
    of_broadcast, plain = (
        Frame(
            source=source, destination=SERVICE[4], source_mac=mac_of(tc_site.client),
            destination_mac=mac_of(tc_site.server), payload=query,
        ).to_octets()
        for source in ("192.0.2.255", CLIENT[4])
    )  # fmt: skip
    end = raw_end(tc_site)
    try:
        end.send(of_broadcast)
        assert end.replies(1, 1.0) == []
        end.send(plain)
        assert len(end.replies(1)) == 1
    finally:
        end.close()


@pytest.mark.parametrize("family", [4, 6])
def test_what_the_kernel_passes_up_the_workers_answer(tc_site: Site, family: int) -> None:
    before = tc_site.kernel_replies(family)

    assert "wire.example" in tc_site.dig(f"@{SERVICE[family]}", "id.server.", "CH", "TXT")
    assert "NOERROR" in tc_site.dig(f"@{SERVICE[family]}", ".", "SOA", "+tcp")

    assert tc_site.kernel_replies(family) == before
    assert tc_site.status()["counters"]["passes"]["qclass"] >= 1


def test_a_validating_resolver_resolves_through_the_kernel(tc_site: Site, tmp_path: Path) -> None:
    anchor = tmp_path / "anchor"
    anchor.write_bytes(tc_site.zones.anchor)
    hints = tmp_path / "hints"
    hints.write_text(f". 3600000 NS a.root.\na.root. 3600000 A {SERVICE[4]}\na.root. 3600000 AAAA {SERVICE[6]}\n")
    before = {family: tc_site.kernel_replies(family) for family in (4, 6)}
    with unbound.resolve(
        tmp_path, root_hints=hints, trust_anchor=anchor, prefix=tc_site.client.prefix,
        # The zone's own addresses are documentation's: ask nobody but the service addresses.
        options=("forward-zone:", 'name: "."', f"forward-addr: {SERVICE[4]}", f"forward-addr: {SERVICE[6]}"),
    ):  # fmt: skip
        printed = tc_site.client.run("dig", "@127.0.0.1", "nosuchtld.", "A", "+dnssec", "+time=10", "+tries=1")
    assert "NXDOMAIN" in printed
    assert " ad" in printed.split("flags:", 1)[1].split(";")[0]
    assert any(tc_site.kernel_replies(family) > before[family] for family in (4, 6))


def test_the_status_command_tells_all_of_it(tc_site: Site) -> None:
    command = (
        sys.executable,
        "-m",
        "rootsrv",
        "fastpath",
        "status",
        "--config",
        str(tc_site.directory / "rootsrv.toml"),
    )
    plain = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=True).stdout
    told = json.loads(
        subprocess.run(
            [*command, "--json"], cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    )

    assert f"{WIRE}: " in plain
    assert "replies ipv4" in plain
    assert told["active"] == tc_site.page.active
    assert told["serials"] == [2026112101, 2026112101]
    assert all(0 < seconds <= 60 for seconds in told["answer_until_seconds"])
    document = (REPOSITORY / "docs" / "fastpath.md").read_text()
    figures = re.search(r"\* (\d+) MB of kernel memory .*, and some (\d+) KB per core\.", document)
    assert figures
    said = int(figures[1]) * 1_000_000 + int(figures[2]) * 1_000 * (os.cpu_count() or 1)
    assert told["memory_octets"] == pytest.approx(said, abs=1_000_000)
    assert f"{figures[1]} MB in the kernel" in (REPOSITORY / "docs" / "install.md").read_text()
    assert set(told) >= {"mode", "kernel", "interfaces", "self_tests", "staged"}


def test_detached_by_order_the_workers_answer_alone_until_it_is_attached_again(tc_site: Site) -> None:
    tc_site.ask_serve("fastpath-detach", reason="a test")
    try:
        assert tc_site.hook() == "off"
        before = tc_site.kernel_replies(4)
        assert "NXDOMAIN" in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A")
        assert tc_site.kernel_replies(4) == before
    finally:
        tc_site.ask_serve("fastpath-attach")
    assert tc_site.hook() != "off"
    assert "NXDOMAIN" in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A")
    assert tc_site.kernel_replies(4) == before + 1


def test_an_interface_that_goes_away_and_comes_back_is_attached_to_again(tc_site: Site) -> None:
    tc_site.server.ip("link", "delete", WIRE)
    wait_until(lambda: tc_site.hook() == "off", "detached", 40)
    tc_site.network.link(
        tc_site.server,
        tc_site.client,
        WIRE,
        tuple((f"{SERVICE[family]}/{length}", f"{CLIENT[family]}/{length}") for family, length in ((4, 24), (6, 64))),
    )
    wait_until(lambda: tc_site.hook() != "off", "attached again", 60)
    before = tc_site.kernel_replies(4)

    assert "NXDOMAIN" in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A")
    assert tc_site.kernel_replies(4) == before + 1


def test_killed_the_owner_is_started_again_and_with_it_the_fast_path(tc_site: Site) -> None:
    os.kill(before := tc_site.serve_pid(), signal.SIGKILL)

    def is_back() -> bool:
        with contextlib.suppress(OSError, ValueError):
            return tc_site.serve_pid() != before and tc_site.is_ready() and tc_site.hook() != "off"
        return False

    wait_until(is_back, "back", 60)
    before_asking = tc_site.kernel_replies(4)
    assert "NXDOMAIN" in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A")
    assert tc_site.kernel_replies(4) == before_asking + 1


def test_the_kernel_follows_a_new_zone_after_the_workers(tc_site: Site) -> None:
    old = tc_site.page.active
    (tc_site.directory / "root.zone").write_bytes(tc_site.zones.versions[1])
    tc_site.process.send_signal(1)  # SIGHUP: what `systemctl reload` does

    wait_until(lambda: tc_site.status()["active"] not in (0, old), "switched", 30)
    printed = tc_site.dig(f"@{SERVICE[4]}", ".", "SOA", "+short")

    assert "2026112102" in printed
    assert tc_site.status()["serials"][0] == 2026112102


def test_a_reload_changes_what_the_kernel_answers_as_well(tc_site: Site) -> None:
    path = tc_site.directory / "rootsrv.toml"
    path.write_text(path.read_text().replace('nsid = "wire.example"', 'nsid = "a-longer-name.example"'))
    tc_site.process.send_signal(1)
    before = 0

    def new_name_from_the_kernel() -> bool:
        nonlocal before
        before = tc_site.kernel_replies(4)
        return "a-longer-name.example" in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A", "+nsid")

    wait_until(new_name_from_the_kernel, "the new name")

    assert tc_site.kernel_replies(4) == before + 1
    assert tc_site.ask_serve("fastpath-probe")["state"] == "right"


def test_a_blocked_prefix_gets_nothing_from_kernel_and_workers_until_its_time_is_over(tc_site: Site) -> None:
    def rootsrv(*arguments: str) -> str:
        command = (sys.executable, "-m", "rootsrv", *arguments, "--config", str(tc_site.directory / "rootsrv.toml"))
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=True).stdout

    said = rootsrv("block", f"{CLIENT[4]}/32", "--for", "1h", "--reason", "a test")
    assert f"{CLIENT[4]}/32" in said
    assert said.split(",")[1] == rootsrv("blocks").split(",")[1]
    wait_until(lambda: "NXDOMAIN" not in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A", "+time=1"), "blocked")
    assert "wire.example" not in tc_site.dig(f"@{SERVICE[4]}", "id.server.", "CH", "TXT", "+time=1")
    wait_until(lambda: "NXDOMAIN" not in tc_site.dig(f"@{SERVICE[4]}", "x.", "A", "+tcp", "+time=1"), "blocked by TCP")
    assert "NXDOMAIN" in tc_site.dig(f"@{SERVICE[6]}", "nosuchtld.", "A")
    assert tc_site.status()["counters"]["blocked"]["ipv4"] >= 2
    assert 'block made prefix=192.0.2.7/32 seconds=3600 reason="a test"' in tc_site.log

    tc_site.ask_serve("block", prefix=f"{CLIENT[4]}/32", seconds=2, reason="a shorter test")
    wait_until(lambda: "NXDOMAIN" in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A", "+time=1"), "answered again", 20)
    wait_until(lambda: rootsrv("blocks") == "nothing is blocked\n", "forgotten", 10)


def test_in_the_kernel_a_block_in_a_wider_one_ends_and_the_wider_one_goes_on(tc_site: Site) -> None:
    def blocked() -> int:
        counted: int = tc_site.status()["counters"]["blocked"]["ipv4"]
        return counted

    wide = str(ipaddress.ip_network(f"{CLIENT[4]}/28", strict=False))
    told = tc_site.ask_serve("block", prefix=wide, seconds=600, reason="the wider one")
    told = tc_site.ask_serve("block", prefix=f"{CLIENT[4]}/32", seconds=1, reason="the one in it")
    assert told["ok"], told
    try:
        # Asked while the inner one has ended and before it is forgotten: from the moment that its time is over.
        wait_until(lambda: len(tc_site.ask_serve("blocks")["blocks"]) == 2, "both")
        asked = 0
        while len(tc_site.ask_serve("blocks")["blocks"]) == 2:
            assert "NXDOMAIN" not in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A", "+time=1", "+tries=1")
            asked += 1
        assert asked
        before = blocked()
        assert "NXDOMAIN" not in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A", "+time=1", "+tries=1")
        assert blocked() > before
    finally:
        for each in tc_site.ask_serve("blocks")["blocks"]:
            tc_site.ask_serve("unblock", prefix=each["prefix"])
