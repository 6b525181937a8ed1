"""A machine that boots without the time, or with a wrong one: nothing is served past its end, nothing is shut out."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from rootsrv.secondary.maintainer import Maintainer
from rootsrv.zone.lease import ClockState, Reading
from tests.secondary.unattended import Clock, deliver, take_all, unattended
from tests.secondary.versions import FIRST, version

DAY, YEAR = 86_400.0, 365 * 86_400.0


@dataclass
class Booted:
    """Both clocks of a machine that has just booted."""

    wall: float
    boottime: float = 20.0
    synchronised: bool = False

    def __call__(self) -> Reading:
        return Reading(self.wall, self.boottime, self.synchronised)

    def later(self, seconds: float) -> None:
        """So much later."""
        self.wall += seconds
        self.boottime += seconds


def in_service(directory: Path) -> Clock:
    """An instance had FIRST in service; the clock when it was switched off."""
    clock = Clock()
    with unattended(directory, clock) as maintainer:
        asyncio.run(maintainer.resume())
        deliver(maintainer.zones.root, version(FIRST), clock)
        take_all(maintainer)
        assert maintainer.zones.root.life.is_served(FIRST)
    reboot(directory)
    return clock


def reboot(directory: Path) -> None:
    """What was written down becomes that of another boot."""
    (directory / "run" / "page").unlink()
    ledger = directory / "state" / "ledger.json"
    ledger.write_text(json.dumps(json.loads(ledger.read_text()) | {"boot": "another"}))


def left(maintainer: Maintainer, clock: Booted) -> float:
    """How long workers may answer from the root."""
    return maintainer.page.deadline(0) / 1e9 - clock.boottime


def test_without_a_battery_and_off_for_days_a_lease_is_over_once_somebody_says_what_time_it_is(tmp_path: Path) -> None:
    off_at = in_service(tmp_path)().wall
    clock = Booted(wall=0.0)
    with unattended(tmp_path, clock) as maintainer:
        asyncio.run(maintainer.resume())
        expire = maintainer.zones.root.life.serving.contents.soa.expire  # type: ignore[union-attr]
        assert 0 < left(maintainer, clock) <= expire
        clock.later(90)  # longer than it is waited for
        maintainer.time.trusted.settle()
        asyncio.run(maintainer._tick())
        assert left(maintainer, clock) > 0
        clock.wall, clock.synchronised = off_at + expire - 100, True
        asyncio.run(maintainer._tick())
        assert maintainer.time.trusted.state is ClockState.SYNCHRONISED
        assert 0 < left(maintainer, clock) <= 100
        clock.later(101)
        asyncio.run(maintainer._tick())
        assert left(maintainer, clock) <= 0


def test_a_boot_years_ahead_does_not_shut_out_every_zone_after_it(tmp_path: Path) -> None:
    off_at = in_service(tmp_path)().wall
    clock = Booted(wall=off_at + 70 * YEAR, synchronised=True)
    with unattended(tmp_path, clock) as maintainer:
        asyncio.run(maintainer.resume())
        asyncio.run(maintainer._tick())
        assert left(maintainer, clock) <= 0
        assert maintainer.zones.write_ledger()
        until = maintainer.zones.root.life.serving.lease.signatures_until  # type: ignore[union-attr]
        assert until is not None
    reboot(tmp_path)
    # The time is right again, but for what was answered before: that is over, and stays so.
    clock = Booted(wall=off_at + 60, boottime=100.0, synchronised=True)
    with unattended(tmp_path, clock) as maintainer:
        asyncio.run(maintainer.resume())
        asyncio.run(maintainer._tick())
        assert left(maintainer, clock) <= 0
        assert maintainer.time.now() <= until + 1
    reboot(tmp_path)
    clock = Booted(wall=until + 60, boottime=200.0, synchronised=True)
    with unattended(tmp_path, clock) as maintainer:
        assert maintainer.time.trusted.state is ClockState.SYNCHRONISED
        assert maintainer.time.now() == clock.wall
