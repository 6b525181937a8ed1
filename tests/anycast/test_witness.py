"""What the controller makes of what its neighbours say, and of their silence."""

import time
from pathlib import Path
from typing import Any

import pytest

from rootsrv.anycast.witness import PATIENCE_SECONDS, ControlPlane, Witness, boottime, is_writable
from rootsrv.page.layout import Page

HEALTH = {
    "behind_seconds": 70.5,
    "held_serials": [2026112101],
    "switchover_failed": True,
    "primaries_reachable": False,
    "clock_synchronised": True,
    "alarms": ["zone . is held"],
}


def heard(health: Any, now: float = 100.0) -> ControlPlane:
    said = ControlPlane()
    said.hear({"health": health}, now)
    return said


def test_takes_what_maintain_says() -> None:
    said = heard(HEALTH)

    assert (said.behind(100.0), said.held_serials, said.switchover_failed) == (70.5, (2026112101,), True)
    assert (said.primaries_reachable, said.clock_synchronised, said.alarms) == (False, True, ("zone . is held",))


def test_what_was_known_goes_on_ageing_in_silence() -> None:
    assert heard(HEALTH).behind(130.0) == 100.5
    assert heard(HEALTH | {"behind_seconds": 0}).behind(1e9) == 0


@pytest.mark.parametrize("health", [None, [], "x", {}, dict.fromkeys(HEALTH, "nonsense"), dict.fromkeys(HEALTH)])
def test_what_is_not_understood_is_not_known_and_never_bad(health: Any) -> None:
    said = heard(health)

    assert (said.behind(200.0), said.held_serials, said.switchover_failed) == (0, (), False)
    assert (said.primaries_reachable, said.clock_synchronised) == (None, None)


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page.create(tmp_path / "page")


def witness(page: Page, tmp_path: Path) -> Witness:
    return Witness(page, lambda: (b"\0", b"\x0croot-servers\x03net\0"), tmp_path / "maintain.sock", tmp_path)


def grant(page: Page, zone: int, seconds: float) -> None:
    page.set_deadline(zone, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9))


def test_reads_leases_generation_and_workers_from_the_page(page: Page, tmp_path: Path) -> None:
    page.active, page.workers = 7, 2
    grant(page, 0, 50)
    grant(page, 1, 60)
    page.worker(0).heartbeat = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    seen = witness(page, tmp_path).observe()
    assert (seen.generation, seen.workers, seen.workers_alive, seen.silenced) == (7, 2, 1, False)
    assert 49 < seen.lease_seconds <= 50
    assert seen.other_leases_over == ()


def test_the_host_zones_lease_is_not_the_roots(page: Page, tmp_path: Path) -> None:
    grant(page, 0, 50)

    seen = witness(page, tmp_path).observe()
    assert seen.lease_seconds > 0
    assert seen.other_leases_over == ("root-servers.net.",)


def test_a_lease_that_was_never_granted_is_over(page: Page, tmp_path: Path) -> None:
    assert witness(page, tmp_path).observe().lease_seconds < 0


def test_without_a_table_there_is_no_lease(page: Page, tmp_path: Path) -> None:
    grant(page, 0, 50)

    assert Witness(page, tuple, tmp_path / "maintain.sock", tmp_path).observe().lease_seconds < 0


def test_maintain_is_unreachable_only_after_some_patience(page: Page, tmp_path: Path) -> None:
    watching = witness(page, tmp_path)
    assert not watching.observe().control_plane_reachable

    watching.control_plane.hear({}, boottime() - PATIENCE_SECONDS + 1)
    assert watching.observe().control_plane_reachable


def test_a_directory_that_is_gone_is_not_writable(tmp_path: Path) -> None:
    assert is_writable(tmp_path)
    assert not is_writable(tmp_path / "gone")
