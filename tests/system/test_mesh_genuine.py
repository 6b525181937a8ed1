"""Genuine updates of the root go through a mesh of six, all into service at one T."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mesh.mesh_of import QUICK
from tests.needs import genuine_root_zone_text, require_genuine_zones
from tests.system.mesh_network import CANARIES, GENUINE_LIMITS, mesh_network, spread_ms

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

UNHURRIED = replace(QUICK, offer=20, wait=60, max_delay=60, void=120)
"""Six instances of one small machine verify a genuine zone at once: some ten seconds."""

BEFORE, AFTER = 2025103001, 2025103100


def test_a_genuine_update_is_in_service_everywhere_at_one_t(tmp_path: Path, measured: list[str]) -> None:
    directory = require_genuine_zones()
    environment = {"ROOTSRV_TEST_CLOCK": f"2025-11-01T12:00:00Z@{time.time()!r}"}
    with mesh_network(
        tmp_path,
        BEFORE,
        text=genuine_root_zone_text,
        anchors=(directory / "root.key").read_text(),
        environment=environment,
        limits=GENUINE_LIMITS,
        timing=UNHURRIED,
    ) as net:
        net.publish(AFTER)
        net.wait_for_all(AFTER, 120)
        flips = net.flips(AFTER)
        (canary,), (everybody,) = net.orders("canary", AFTER), net.orders("all", AFTER)
        for at, names in ((canary["at"], set(CANARIES)), (everybody["at"], set(net.members) - set(CANARIES))):
            late = {name: round(1000 * (flips[name] - at)) for name in sorted(names)}
            measured.append(f"{BEFORE} to {AFTER}: {late} ms after T, spread {spread_ms(flips, names):.0f} ms")
            assert spread_ms(flips, names) <= 50
        assert net.withdrawals() == 0
        assert net.announced() == set(net.members)
