"""Members whose role mesh began with a wrong clock: they are heard once it is right, and put nobody out of office."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rootsrv.config.file import load
from rootsrv.engine.board import Board
from rootsrv.engine.etcd import Entry, Etcd
from rootsrv.engine.fleet import Fleet
from rootsrv.engine.leader import LEAD, Leader
from rootsrv.mesh.envelope import Envelope, seal
from rootsrv.mesh.member import Now
from rootsrv.mesh.orders import Subject
from rootsrv.mesh.roster import RosterBook
from rootsrv.process import clock
from rootsrv.roles.mesh_presence import Presence
from tests.mesh.clockwork import ClockworkLoop, passes
from tests.mesh.mesh_of import SERVICE, key_of, mesh_of
from tests.mesh.paper_engine import PaperClient, PaperEngine
from tests.mesh.test_whole_weeks import run
from tests.secondary.maintained import configure

NOON = 1_790_000_000.0
HOUR, DAY = 3600.0, 86_400.0
MESH = mesh_of(4)


def listener(directory: Path) -> Fleet:
    """Somebody who reads the board."""
    fleet = Fleet(SERVICE, RosterBook(SERVICE, MESH.roster.signing_keys[:1]), directory / "mesh" / "roster")
    assert fleet.adopt_roster(MESH.octets, 0.0, "file")
    return fleet


class Speaker:
    """The member m1, whose role mesh is started when the clock says what it says."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        key = directory / "m1.key"
        key.touch(mode=0o600)
        key.write_bytes(key_of("m1").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        mesh = f"""
[mesh]
service = "{SERVICE}"
member = "m1"
key = "{key}"
roster_keys = ["{MESH.roster.signing_keys[0]}"]
endpoints = ["http://127.0.0.1:2379"]
"""
        self._config = load(configure(directory, mesh, service=("127.0.0.2", 5300), admin=("127.0.0.1", 5301)))
        self._monkeypatch = monkeypatch

    def start(self, wall: float) -> Presence:
        """The role, started at that time by the clock of the machine."""
        assert self._config.mesh is not None
        with self._monkeypatch.context() as then:
            then.setattr(clock, "validity_now", lambda: wall)
            return Presence(self._config, self._config.mesh)


def say(presence: Presence, wall: float, serial: int) -> bytes:
    """What stands on the board once it is ready for *serial* and maintain has told that it is *wall*."""
    presence.now = Now(wall, presence.now.boottime, True)
    presence.look_at_clock()
    presence.say("member/m1/ready", Subject(".", serial, "ab").to_content())
    return presence.board._published["member/m1/ready"]


def hear(fleet: Fleet, value: bytes, wall: float) -> int | None:
    """Of which serial a listener then believes that it is ready."""
    fleet.take("member/m1/ready", Entry("member/m1/ready", value, 0, 0, 0), Now(wall, 0.0, True))
    return fleet.ready["m1"].serial if "m1" in fleet.ready else None


@pytest.mark.parametrize("off", [-56 * 365 * DAY, -HOUR, HOUR, 70 * 365 * DAY])
def test_who_began_without_the_time_is_heard_once_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    fleet, speaker = listener(tmp_path), Speaker(tmp_path, monkeypatch)
    before = speaker.start(NOON - DAY)
    assert hear(fleet, say(before, NOON - DAY, 1), NOON - DAY) == 1
    rebooted = speaker.start(NOON + off)
    said_then = say(rebooted, NOON + off, 2)
    hear(fleet, said_then, NOON)
    assert hear(fleet, say(rebooted, NOON, 2), NOON) == 2
    assert hear(fleet, say(rebooted, NOON + 1, 3), NOON + 1) == 3
    assert hear(fleet, said_then, NOON + 2) == 3  # … and what was said before is not heard again


def test_a_clock_that_is_kept_in_time_changes_nothing_that_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence = Speaker(tmp_path, monkeypatch).start(NOON)
    said = say(presence, NOON, 1)
    assert say(presence, NOON + 0.2, 1) == said


def host(directory: Path, engine: PaperEngine, name: str, loop: ClockworkLoop) -> tuple[Leader, Board]:
    """A distribution host."""
    board = Board(cast(Etcd, PaperClient(engine, name)), f"/rootsrv/v1/{SERVICE}/", loop.time)

    def sign(key: str, epoch: float, seq: int, content: Any) -> bytes:
        return seal(Envelope(key, name, epoch, seq, epoch, 2.0**52, content), SERVICE, key_of(name))

    return Leader(board, listener(directory / name), name, sign), board


def test_a_host_whose_clock_is_behind_or_is_nobodys_puts_no_other_out_of_office(tmp_path: Path) -> None:
    async def work(loop: ClockworkLoop) -> None:
        engine = PaperEngine()
        (good, its), (behind, board) = (host(tmp_path, engine, name, loop) for name in ("m0", "m1"))
        tasks = [asyncio.create_task(each.run()) for each in (its, board)]

        async def turns(leader: Leader, off: float, synchronised: bool = True) -> None:
            for _ in range(8):
                await leader.turn(Now(loop.wall() + off, loop.time(), synchronised), frozenset())
                await passes(0.5)

        try:
            await passes(1.0)
            await turns(behind, 0.0, synchronised=False)
            assert not behind.leads
            await turns(good, 0.0)
            assert good.leads
            elected = its.entries[LEAD]
            await asyncio.gather(turns(good, 0.0), turns(behind, -HOUR))
            assert (good.leads, behind.leads) == (True, False)
            assert its.entries[LEAD].create_revision == elected.create_revision
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            engine.close()

    run(work)
