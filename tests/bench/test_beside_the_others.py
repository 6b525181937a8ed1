"""README's table of the others (docs/peers.md): their own checkers take the settings that a cell names."""

import re
import subprocess
from pathlib import Path

from tests.needs import require_tool

NSD = """
server:
    zonesdir: "/tmp"
    {server}
verify:
    enable: yes
    verifier: a-verifier
zone:
    name: "."
    zonefile: "root.zone"
    verify-zone: yes
"""

KNOT = """
server:
    listen: 127.0.0.1@5353
xdp:
    listen: lo
    tcp: on
mod-stats:
  - id: counters
    query-type: on
zone:
  - domain: .
    file: root.zone
    zonemd-verify: on
    dnssec-validation: on
    module: mod-stats/counters
"""

BIND = """
options {{ directory "/tmp"; }};
statistics-channels {{ inet 127.0.0.1 port 8053; }};
zone "." {{ type mirror; {zone} }};
"""


def refused(path: Path, text: str, *command: str) -> str:
    """Why a checker does not take *text*; empty when it does."""
    path.write_text(text)
    done = subprocess.run([*command], capture_output=True, text=True, timeout=30, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_nsd_has_a_verifier_and_in_4_6_no_xdp(tmp_path: Path) -> None:
    checker = require_tool("nsd-checkconf")
    path = tmp_path / "nsd.conf"
    assert refused(path, NSD.format(server=""), checker, str(path)) == ""
    told = subprocess.run([require_tool("nsd"), "-v"], capture_output=True, text=True, timeout=30, check=False)
    version = re.findall(r"NSD version (\d+)\.(\d+)", told.stdout + told.stderr)[0]
    if tuple(map(int, version)) < (4, 11):
        assert "xdp-interface" in refused(path, NSD.format(server="xdp-interface: lo"), checker, str(path))


def test_knot_checks_zonemd_and_signatures_and_has_af_xdp_and_counters(tmp_path: Path) -> None:
    path = tmp_path / "knot.conf"
    assert refused(path, KNOT, require_tool("knotc"), "-c", str(path), "conf-check") == ""


def test_bind_validates_a_mirror_zone_and_knows_no_zonemd_setting(tmp_path: Path) -> None:
    checker, path = require_tool("named-checkconf"), tmp_path / "named.conf"
    assert refused(path, BIND.format(zone=""), checker, str(path)) == ""
    assert "zonemd" in refused(path, BIND.format(zone="check-zonemd yes;"), checker, str(path))


def test_powerdns_has_counters_and_no_setting_that_proves_a_zone() -> None:
    done = subprocess.run(
        [require_tool("pdns_server"), "--config=default"], capture_output=True, text=True, timeout=30, check=False
    )
    settings = re.findall(r"^# ([\w-]+)=", done.stdout, re.MULTILINE)
    assert "webserver" in settings
    assert [each for each in settings if re.search("zonemd|validat|verif|xdp", each)] == []
