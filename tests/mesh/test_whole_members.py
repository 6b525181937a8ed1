"""Whole members under the test clock: what is held, overtaken or wanted no more is answered by nobody."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.mesh.envelope import Envelope, seal
from rootsrv.mesh.orders import Decision, OperatorVerdict
from rootsrv.secondary.activation import Activation
from rootsrv.secondary.membership import subject_of
from rootsrv.secondary.preparation import Preparation, PreparedTable
from rootsrv.zone.contents import ZoneContents
from tests.mesh.clockwork import WHO, ClockworkLoop
from tests.mesh.mesh_of import SERVICE, key_of, mesh_of
from tests.mesh.paper_engine import PaperClient
from tests.mesh.test_whole_weeks import FIRST, TIMING, run
from tests.mesh.whole_members import WholeFleet, whole_fleet
from tests.secondary import versions


async def order(fleet: WholeFleet, decision: Decision, contents: ZoneContents, seq: int) -> None:
    """As alice orders it."""
    now = fleet.loop.wall()
    verdict = OperatorVerdict(subject_of(".", contents), decision, "alice", now, "because", now + 5)
    key = f"zone/./verdict/alice/{seq}"
    envelope = Envelope(key, "alice", now, seq, now, now + 86_400, verdict.to_content())
    octets = seal(envelope, SERVICE, key_of("alice"))
    await PaperClient(fleet.engine, "").put(f"/rootsrv/v1/{SERVICE}/{key}", octets)
    said = f"decision={decision} zone=. serial={contents.serial}"
    await fleet.wait(lambda: all(any(said in line for line in m.log) for m in fleet.members.values()), said, 60)


def test_a_version_that_was_staged_and_overtaken_is_never_answered(tmp_path: Path) -> None:

    async def work(loop: ClockworkLoop) -> None:
        held, newer, rejected, last = (versions.version(FIRST + number) for number in range(1, 5))
        async with whole_fleet(tmp_path, loop, mesh_of(4, timing=TIMING), versions.version(FIRST), versions.anchor()
                               ) as fleet:  # fmt: skip
            members = fleet.members.values()

            async def staged(contents: ZoneContents) -> None:
                said = f"serial={contents.serial} activate_at=never"
                await fleet.wait(lambda: all(any(said in line for line in m.log) for m in members), said, 60)
                assert all(each.worker.serial() != contents.serial for each in members)

            async def everywhere(contents: ZoneContents) -> None:
                await fleet.wait(lambda: all(m.has(contents.serial) for m in members), f"{contents.serial}", 120)

            await order(fleet, Decision.HOLD, held, 1)
            fleet.publish(held)
            await staged(held)
            fleet.publish(newer)
            await everywhere(newer)

            await order(fleet, Decision.HOLD, rejected, 2)
            fleet.publish(rejected)
            await staged(rejected)
            await order(fleet, Decision.REJECT, rejected, 3)
            fleet.publish(last)
            await everywhere(last)
            wanted = [FIRST, newer.serial, last.serial]
            assert all(each.history == wanted for each in members)
            assert not any("tsig_failed" in line or "notify_spoofed" in line for each in members for line in each.log)

    run(work)


@pytest.mark.parametrize("when", ["before T", "at the flip"])
def test_a_member_that_was_away_at_the_set_time_says_that_it_is_in_service_once_it_is_back(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of m2.  What the mesh does not hear as done counts as not done, and its peers would wait for a refresh."""

    async def work(loop: ClockworkLoop) -> None:
        async with whole_fleet(tmp_path, loop, mesh_of(4, timing=TIMING), versions.version(FIRST), versions.anchor()
                               ) as fleet:  # fmt: skip
            away, coming = fleet.members["m2"], versions.version(FIRST + 1)
            others = [each for each in fleet.members.values() if each is not away]
            if when == "at the flip":
                assert away.maintain is not None

                async def confirm(*_: object) -> bool:
                    return await asyncio.Event().wait()

                monkeypatch.setattr(away.maintain.maintainer.switchover, "confirm", confirm)
            fleet.publish(coming)
            said = f"serial={coming.serial} activate_at=" if when == "before T" else f".={coming.serial}"
            by = 'by="order' if when == "before T" else "flipped_at="
            await fleet.wait(lambda: any(said in line and by in line for line in away.log), said, 60)
            await away.end("mesh", killed=True)
            await away.end("maintain", killed=True)
            await fleet.wait(lambda: all(each.has(coming.serial) for each in others), "the others", 60)
            away.start_maintain()
            away.start_mesh()
            await fleet.wait(lambda: away.has(coming.serial), "it has it", 60)

            def is_done() -> bool:
                assert others[0].presence is not None
                done = others[0].presence.fleet.done.get("m2")
                return done is not None and done.subject == subject_of(".", coming) and done.ok

            await fleet.wait(is_done, "the others hear that it is done", 60)
            assert away.history == [FIRST, coming.serial]
            served = [each["serial"] for each in away.journal() if each["event"] == "zone served"]
            assert served == [FIRST, coming.serial]

    run(work)


def test_an_error_in_telling_what_is_in_service_again_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def fails(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    async def work(loop: ClockworkLoop) -> None:
        async with whole_fleet(tmp_path, loop, mesh_of(4, timing=TIMING), versions.version(FIRST), versions.anchor()
                               ) as fleet:  # fmt: skip
            again = fleet.members["m2"]
            told: list[str] = []
            loop.set_exception_handler(lambda _, context: told.append(context["message"]))
            monkeypatch.setattr(Activation, "resumed", fails)
            await again.end("maintain", killed=True)
            again.start_maintain()
            coming = versions.version(FIRST + 1)
            fleet.publish(coming)
            await fleet.wait(lambda: again.has(coming.serial), "it goes on", 120)
            assert told == ["what is in service again was not told"]

    run(work)


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
def test_a_table_that_is_not_the_one_that_others_made_is_made_again_and_silences_nobody(
    tmp_path: Path, for_good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of m2: a machine that reckons wrong."""

    async def work(loop: ClockworkLoop) -> None:
        async with whole_fleet(tmp_path, loop, mesh_of(4, timing=TIMING), versions.version(FIRST), versions.anchor()
                               ) as fleet:  # fmt: skip
            odd, run_it = fleet.members["m2"], Preparation.run
            coming = versions.version(FIRST + 1)

            def told() -> list[str]:
                return [line for line in odd.log if "table differs" in line]

            def prepare(self: Preparation) -> PreparedTable:
                wrong = WHO.get() == "m2" and (for_good or not told())
                return replace(run_it(self), table_digest="00" * 32) if wrong else run_it(self)

            monkeypatch.setattr(Preparation, "run", prepare)
            fleet.publish(coming)
            await fleet.wait(lambda: all(m.has(coming.serial) for m in fleet.members.values()), "everywhere", 120)
            assert f"zone=. serial={coming.serial}" in told()[0], told()
            assert [line.rpartition("effect=")[2] for line in told()] == [
                '"made again"', *(['"goes on all the same"'] if for_good else [])
            ]  # fmt: skip
            for other in (each for each in fleet.members.values() if each is not odd):
                # One whose table was the second, after m2's, cannot know whose is the good one.
                differs = [line for line in other.log if "table differs" in line]
                assert all("1 members made" in line and "1 with us" in line for line in differs), differs
                assert [line.rpartition("effect=")[2] for line in differs] in ([], ['"made again"']), differs
            went = {round(fleet.members[name].went[coming.serial], 1) for name in ("m2", "m3")}
            assert len(went) == 1, went
            assert not odd.page.silenced

    run(work)
