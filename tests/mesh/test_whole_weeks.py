"""Two weeks of updates with random faults, with whole members under the test clock: one history, in order.

The roles are real (whole_members.py says what is not).  A small root twice a day, of which a few cannot be switched to
by anybody; in the long test genuine versions on the days of their serials, between versions that were made.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rootsrv.zone import instant, presentation
from rootsrv.zone.contents import ZoneContents
from tests.mesh.clockwork import ClockworkLoop, passes
from tests.mesh.mesh_of import QUICK, mesh_of
from tests.mesh.whole_members import WholeFleet, WholeMember, whole_fleet
from tests.needs import genuine_root_zone_text, require_genuine_zones
from tests.secondary import versions

TIMING = replace(QUICK, wait=20, max_delay=20, void=40)
MEMBERS, HOSTS = 6, ("m0", "m1")
BEGAN = "2025-09-11T18:00:00Z"
FIRST = 2025091101
DAY_SECONDS = 86_400
WITHIN_SECONDS = 400.0
"""An update has reached all by then, whatever fails: longer than a void, the local rule after it, another attempt."""

GENUINE = {0: 2025091101, 12: 2025091701, 17: 2025091902}
"""By number of the update: two a day, each in the first half day in which all of its signatures are valid."""


@dataclass
class Update:
    """One of them, and what happens to whom."""

    number: int
    contents: ZoneContents
    is_bad: bool
    """Nobody's worker can map it any more once it is staged."""

    told: list[str] = field(default_factory=list)
    """Of its faults, for people."""

    steady: bool = True
    """Whether whoever is in touch has to go at one T."""

    @property
    def serial(self) -> int:
        """Of the SOA."""
        return self.contents.serial


Script = Callable[[WholeFleet, Update], Awaitable[None]]
"""A fault, from its beginning to its end."""


def sometime(rng: random.Random, most: float = 12.0) -> float:
    return rng.uniform(0.0, most)


def drawn(rng: random.Random) -> list[Script]:
    """What goes wrong during one update; often nothing."""
    names = [f"m{number}" for number in range(MEMBERS)]
    begin, lasts = sometime(rng), rng.uniform(3.0, 60.0)
    who = rng.choice(names)

    async def engine_is_gone(fleet: WholeFleet, update: Update) -> None:
        update.steady = False
        await passes(begin)
        fleet.engine.gone, fleet.engine.alone = "gone", rng.random() < 0.5
        await passes(lasts)
        fleet.engine.gone = ""

    async def engine_is_full(fleet: WholeFleet, update: Update) -> None:
        update.steady = False
        await passes(begin)
        fleet.engine.full = True
        await passes(lasts)
        fleet.engine.full = False

    async def all_keys_are_deleted(fleet: WholeFleet, update: Update) -> None:
        await passes(begin)
        fleet.engine.delete_all()

    async def member_is_cut_off(fleet: WholeFleet, update: Update) -> None:
        update.steady = False
        await passes(begin)
        fleet.engine.cut.add(who)
        await passes(lasts)
        fleet.engine.cut.discard(who)

    async def member_has_it_late(fleet: WholeFleet, update: Update) -> None:
        update.steady = False
        late = rng.choice([name for name in names if name not in HOSTS])
        fleet.without_transfers.add(late)
        await passes(lasts)
        fleet.without_transfers.discard(late)
        fleet.refresh(late)

    async def leader_dies(fleet: WholeFleet, update: Update) -> None:
        await passes(begin)
        if (leader := fleet.leader()) is not None:
            update.told.append(f"it was {leader.name}")
            await leader.end("mesh", killed=True)
            await passes(lasts)
            leader.start_mesh()

    async def member_restarts(fleet: WholeFleet, update: Update) -> None:
        update.steady = False
        await passes(begin)
        member = fleet.members[who]
        killed = rng.random() < 0.5
        await member.end("mesh", killed=killed)
        await member.end("maintain", killed=killed)
        await passes(lasts / 4)
        member.start_maintain()
        member.start_mesh()

    async def clock_is_lost(fleet: WholeFleet, update: Update) -> None:
        update.steady = False
        await passes(begin)
        fleet.unsynchronised.add(who)
        await passes(lasts)
        fleet.unsynchronised.discard(who)

    async def worker_loses_the_table(fleet: WholeFleet, update: Update) -> None:
        update.steady = False
        worker = fleet.members[who].worker
        await passes(begin)
        worker.lose(None)
        await passes(lasts)
        worker.lose(frozenset())

    faults: list[Script] = [
        engine_is_gone, engine_is_full, all_keys_are_deleted, member_is_cut_off, member_has_it_late, leader_dies,
        member_restarts, clock_is_lost, worker_loses_the_table,
    ]  # fmt: skip
    return rng.sample(faults, rng.choice((0, 0, 1, 1, 1, 2)))


async def nobody_can_map_it(fleet: WholeFleet, update: Update) -> None:
    """Once it is staged everywhere."""

    def has_staged(member: WholeMember) -> bool:
        return any(f"zone scheduled zone=. serial={update.serial}" in line for line in member.log)

    await fleet.wait(lambda: all(map(has_staged, fleet.members.values())), "all have staged it", WITHIN_SECONDS)
    for member in fleet.members.values():
        member.worker.lose(frozenset({update.serial}))
    canaries = fleet.mesh.roster.canaries

    def is_put_off(member: WholeMember) -> bool:
        said = "zone put off" if member.name in canaries else "canaries failed with it"
        return any(said in line and f"serial={update.serial} " in line for line in member.log)

    await fleet.wait(lambda: all(map(is_put_off, fleet.members.values())), "it is put off", WITHIN_SECONDS)


class Weeks:
    """The whole of it."""

    def __init__(self, fleet: WholeFleet, seed: int) -> None:
        self.fleet = fleet
        self.rng = random.Random(seed)

    async def update(self, number: int, contents: ZoneContents, *, is_bad: bool) -> None:
        """Publish, have go wrong what does, and wait for the end of it."""
        fleet, members = self.fleet, self.fleet.members.values()
        update = Update(number, contents, is_bad)
        scripts = [nobody_can_map_it] if is_bad else drawn(self.rng)
        update.told += [each.__name__ for each in scripts]
        before = {each.name: each.worker.serial() for each in members}
        fleet.publish(contents)
        await asyncio.gather(*(script(fleet, update) for script in scripts))
        if is_bad:
            assert {each.name: each.worker.serial() for each in members} == before, update.told
        else:
            what = f"{update.serial} everywhere in spite of {', '.join(update.told)}"
            await fleet.wait(lambda: all(each.has(update.serial) for each in members), what, WITHIN_SECONDS)
            self.check_times(update)
        assert not any(each.page.silenced for each in members)
        await fleet.wait(fleet.leader, f"somebody leads after {', '.join(update.told)}", 60)
        print(update.number, update.serial, ", ".join(update.told), self.spread(update))

    def spread(self, update: Update) -> dict[str, float]:
        went = {
            each.name: each.went[update.serial] for each in self.fleet.members.values() if update.serial in each.went
        }
        return {name: round(at - min(went.values()), 1) for name, at in went.items()}

    def check_times(self, update: Update) -> None:
        """Whoever was in touch went at one T; nobody went before the canaries could have."""
        roster = self.fleet.mesh.roster
        others = [each for each in self.fleet.members.values() if each.name not in roster.canaries]
        times = {round(each.went[update.serial], 1) for each in others}
        if update.steady:
            assert len(times) == 1, (update.told, self.spread(update))
        canaries = [self.fleet.members[name].went[update.serial] for name in roster.canaries]
        assert min(canaries) <= min(times) + 3 * TIMING.align, (update.told, self.spread(update))


def made(serial: int) -> ZoneContents:
    return versions.version(serial)


def genuine(serial: int) -> ZoneContents:
    return presentation.from_text(genuine_root_zone_text(serial), b"\0")


async def two_weeks(
    directory: Path, loop: ClockworkLoop, seed: int, updates: int, bad: frozenset[int], real: dict[int, int]
) -> None:
    anchors = versions.anchor()
    if real:
        anchors += (require_genuine_zones() / "root.key").read_text()

    def contents(number: int) -> ZoneContents:
        if number in real:
            return genuine(real[number])
        # Behind the genuine ones of the day before, in front of those of this one.
        day = instant.to_text(loop.wall() - DAY_SECONDS)[:10].replace("-", "")
        return made(int(day) * 100 + 50 + (number + 1) % 2)

    first, began = contents(0), loop.wall()
    async with whole_fleet(directory, loop, mesh_of(MEMBERS, timing=TIMING), first, anchors) as fleet:
        weeks, wanted, gaps = Weeks(fleet, seed), [first.serial], []
        for number in range(1, updates):
            await fleet.let_pass(number * DAY_SECONDS / 2 - (loop.wall() - began))
            coming = contents(number)
            await weeks.update(number, coming, is_bad=number in bad)
            (gaps if number in bad else wanted).append(coming.serial)
        for member in fleet.members.values():
            assert member.history == wanted, member.name
            for serial in gaps:
                told = [line for line in member.log if f"serial={serial} " in line]
                assert any("zone put off" in line or "zone overtaken" in line for line in told), (member.name, told)


def run(coroutine: Callable[[ClockworkLoop], Awaitable[None]]) -> None:
    loop = ClockworkLoop(instant.from_text(BEGAN))
    with loop.as_the_clock():
        try:
            asyncio.set_event_loop(loop)
            loop.run_until_complete(coroutine(loop))
        finally:
            asyncio.set_event_loop(None)
            loop.close()


@pytest.mark.timeout(300)
def test_all_members_have_one_history_in_order(tmp_path: Path) -> None:
    run(lambda loop: two_weeks(tmp_path, loop, 0, 6, frozenset({3}), {}))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
def test_two_weeks_with_genuine_versions(tmp_path: Path, seed: int) -> None:
    require_genuine_zones()
    run(lambda loop: two_weeks(tmp_path, loop, seed, 28, frozenset({9, 20}), GENUINE))
