"""One bad input that reaches all instances – a zone, a primary, a clock – does not silence them all (design D31).

Two instances with the same only primary, on the client's host.  The limits are seconds here instead of hours; the order
in which things happen is the real one.
"""

import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.server.live import SERIALS, wait_until, zone_files
from tests.system.anycast_network import PREFIX, VERSIONS, Anycast, Site, address, anycast_network, nsd_on

SOFT_SECONDS, HARD_SECONDS = 3, 12
PRIMARY = address(3, 1, 4)
LIMITS = f"stale_soft_seconds = {SOFT_SECONDS}\nstale_hard_seconds = {HARD_SECONDS}"
SECTIONS = f"""
[[primary]]
name = "only"
address = "{PRIMARY}"
port = 5399
zones = ["."]
[refresh]
min_seconds = 1
max_seconds = 1
backoff_seconds = 0.5
query_timeout_seconds = 0.5
[switchover]
align_seconds = 0
lead_seconds = 0
[clock]
source = "trusted"
"""


def damaged(zone: bytes) -> bytes:
    """The zone with one octet of one signature changed: its serial is as announced, and it does not verify."""
    line = next(each for each in zone.split(b"\n") if b"\tRRSIG\tDS " in each)
    other = b"B" if line[-12:-11] == b"A" else b"A"
    return zone.replace(line, line[:-12] + other + line[-11:])


def routes(net: Anycast) -> list[str]:
    """The router's paths to the IPv4 prefix, one text for each instance that announces it."""
    return re.split(r"\tvia ", net.router_says("show", "route", PREFIX[4], "all"))[1:]


@dataclass(frozen=True)
class WallClock:
    """The wall clock of everything that runs with `environment`; other clocks are the machine's (libfaketime)."""

    file: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables under which a program reads this clock."""
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            pytest.skip("libfaketime is not installed (tests/system-packages.txt)")
        return {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step_to(self, offset: str) -> None:
        """From now on it differs from the real one by *offset* (+0, +400d, -1h)."""
        new = self.file.with_suffix(".new")
        new.write_text(offset + "\n")
        new.rename(self.file)


def test_two_instances_with_the_same_bad_zone_clock_and_primaries_stay_until_the_hard_limit(tmp_path: Path) -> None:
    good, newer = zone_files().versions
    clock = WallClock(tmp_path / "clock")
    clock.step_to("+0")
    with anycast_network(tmp_path, anycast=LIMITS, more=SECTIONS, workers=1, environment=clock.environment) as net:
        sites = (net.a, net.b)
        with nsd_on(net.client, tmp_path / "same", [PRIMARY], 5399, good):
            wait_until(lambda: all(not alarms(site) for site in sites), "no alarm")

        # The clocks of both step together, beyond the end of every signature and back before their beginning.
        start = time.time()
        for offset in ("+400d", "-400d", "+0"):
            clock.step_to(offset)
            believed = "believed" if offset == "+0" else "stepped"
            for site in sites:
                wait_until(lambda site=site, state=believed: maintain(site)["clock"] == state, "the step is seen")
            for _ in range(15):
                time.sleep(0.1)
                assert len(routes(net)) == 2

        # Both lose their only primary.
        for site in sites:
            wait_until(lambda site=site: "no primary can be reached" in alarms(site), "the loss is seen")

        # Both are offered the same newer zone, which does not verify; then the primary is gone again.
        with nsd_on(net.client, tmp_path / "bad", [PRIMARY], 5399, damaged(newer)):
            for site in sites:
                wait_until(lambda site=site: behind(site) > 0, "a newer serial is known")
        known = time.time()
        for site in sites:
            site.await_state("degraded", SOFT_SECONDS + 5)
        marked = routes(net)
        assert len(marked) == 2
        for text in marked:
            assert "BGP.med: 1000" in text
            assert "(65001, 53, 1)" in text
            assert "BGP.as_path: 65001 65001 65001" in text
        while time.time() < known + HARD_SECONDS - 3:
            assert len(routes(net)) == 2
            time.sleep(0.2)
        lost = [change for change in net.watch.changes if change.at >= start and not change.gateway]
        assert not [change for change in lost if change.version == 4]  # IPv6 is replaced in two steps

        # The hard limit; service goes on, without attracting traffic.
        for site in sites:
            site.await_state("down", 15)
            assert "a newer serial has been known and not served" in site.family(4)["reason"]
        assert routes(net) == []

        # A good zone heals both, with no operator's command (D28).
        with nsd_on(net.client, tmp_path / "good", [PRIMARY], 5399, newer):
            for site in sites:
                site.await_state("up", 25)
        for version in VERSIONS:
            assert net.gateway(version)
        for site in sites:
            assert maintain(site)["zones"][0]["served"] == SERIALS[1]


@pytest.mark.parametrize("manage", [True, False], ids=["addresses managed", "addresses of the operator"])
def test_ipv6_that_is_switched_off_everywhere_leaves_both_announced_over_ipv4_whatever_is_started_then(
    tmp_path: Path, manage: bool
) -> None:
    with anycast_network(tmp_path, workers=1) as net:
        sites = (net.a, net.b)
        for site in sites:
            site.await_state("up")
            configuration = site.directory / "rootsrv.toml"
            text = configuration.read_text()
            configuration.write_text(text.replace("manage_addresses = true", f"manage_addresses = {manage}".lower()))
            site.host.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
            site.kill()
            if not manage:
                site.host.run("ip", "address", "replace", "192.0.2.53/32", "dev", "lo")
            site.start()
        for site in sites:
            wait_until(lambda site=site: site.family(4).get("state") == "up", "announced over IPv4", 40)
        wait_until(lambda: len(routes(net)) == 2, "both are")
        for site in sites:
            for role in ("serve", "advertise"):
                site.signal(role, signal.SIGKILL)
        for site in sites:
            wait_until(lambda site=site: site.pids("advertise") and site.family(4).get("state") == "up", "again", 40)
            assert site.family(6)["state"] == "down"
        wait_until(lambda: len(routes(net)) == 2, "both are")


def alarms(site: Site) -> str:
    return "; ".join(site.family(4).get("alarms", []))


def maintain(site: Site) -> dict[str, Any]:
    """The status of the role maintain."""
    return site.ask("maintain", {"command": "status"})


def behind(site: Site) -> float:
    return float(maintain(site)["health"]["behind_seconds"])
