"""Whenever the power fails or a process is killed: nothing older is served afterwards, and what is newer still can be.

A process that takes one version after another is killed before each file that it opens for writing, renames or removes
in the state directory, in the process itself and in the child that prepares; then another starts from what is left.
"""

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rootsrv.mesh.roster import public_text
from rootsrv.page.layout import Page
from rootsrv.process import whole_file
from rootsrv.secondary import keeper
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.switchover import SwitchoverState
from rootsrv.store.store import StoreFailed
from rootsrv.store.table_file import open_table
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.life import InService
from rootsrv.zone.refresh import Fetch, Refresh
from tests.mesh.mesh_of import key_of
from tests.secondary import versions
from tests.secondary.unattended import Clock, deliver, take_all, unattended
from tests.secondary.versions import FIRST

KEEP_TWO = "align_seconds = 0\nkeep_versions = 2"
LATER = "align_seconds = 3600\nlead_seconds = 600"


def served(directory: Path) -> int:
    """The serial that workers answer from: that of the table that the page names; 0 = none."""
    active = Page.keep_head(directory / "run" / "page").active
    return int(open_table(directory / "state" / "tables" / f"{active}.table").zones[0].serial) if active else 0


class Writes:
    """What is about to be written into a state directory, counted over a process and its children."""

    def __init__(self, directory: Path, end_at: int) -> None:
        """Before number *end_at* (from 1) the process that made this, and whoever is at it, is killed."""
        self._directory = f"{directory / 'state'}"
        self._end_at = end_at
        self._process = os.getpid()
        self._told = Path(f"{directory}.writes")

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """As sys.addaudithook has it: called before the thing is done."""
        if not self._is_write(event, arguments):
            return
        shown = f"{event} {' '.join(str(each) for each in arguments[:2])}\n".encode()
        told = _raw_append(self._told, shown)
        if told == self._end_at:
            os.kill(self._process, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_write(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event not in {"open", "os.rename", "os.remove"} or not isinstance(arguments[0], str | os.PathLike):
            return False
        if not str(arguments[0]).startswith(self._directory):
            return False
        if str(arguments[0]).endswith(whole_file.SUFFIX):
            return event == "os.rename"  # before it was opened nothing had changed
        # A directory is opened to have a rename flushed: that is between the rename and what follows it.
        return event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY))


def _raw_append(path: Path, line: bytes) -> int:
    """Append *line*; how many there are now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, line)
        return os.pread(descriptor, 1 << 20, 0).count(b"\n")
    finally:
        os.close(descriptor)


def in_a_process(work: Callable[[], None]) -> int:
    """Its exit status; negative = the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 2)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dataclass(frozen=True)
class Start:
    """What an instance has when it takes the next version."""

    directory: Path
    clock: Clock
    serial: int
    """In service; 0 = none."""


def take(maintainer: Maintainer, clock: Clock, *deliveries: ZoneContents) -> None:
    """Have the root's *deliveries* taken, one after the other."""
    for contents in deliveries:
        clock.boottime += 10
        deliver(maintainer.zones.root, contents, clock)
        take_all(maintainer)


version = functools.cache(versions.version)


@pytest.fixture(
    params=[
        pytest.param(0, id="the first version", marks=pytest.mark.long),
        pytest.param(FIRST + 1, id="the next version"),
    ]
)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """An instance with nothing in service, or with FIRST + 1 and all that is kept."""
    clock = Clock()
    with unattended(tmp_path / "start", clock, KEEP_TWO) as maintainer:
        asyncio.run(maintainer.resume())
        if request.param:
            take(maintainer, clock, version(FIRST), version(FIRST + 1))
    return Start(tmp_path / "start", clock, request.param)


def go_on(directory: Path, clock: Clock, end_at: int, contents: ZoneContents) -> int:
    """Start, take *contents*, and be killed before the write number *end_at*; how it ended."""

    def work() -> None:
        sys.addaudithook(Writes(directory, end_at))
        with unattended(directory, clock, KEEP_TWO) as maintainer:
            asyncio.run(maintainer.resume())
            take(maintainer, clock, contents)

    return in_a_process(work)


def check_restart(directory: Path, clock: Clock, floor: int, newest: int) -> None:
    """What has to be true of the next start: at once, when something older comes, and when something newer does."""
    with unattended(directory, clock, KEEP_TWO) as maintainer:
        life = maintainer.zones.root.life
        asyncio.run(maintainer.resume())
        if floor:
            assert life.serving is not None
            assert life.serving.serial >= floor
            assert served(directory) == life.serving.serial
            assert maintainer.page.deadline(0) > clock.boottime * 1e9
        take_all(maintainer)
        before = served(directory)
        assert before >= floor
        assert before in {floor, newest}

        for older in (serial for serial in (FIRST - 1, FIRST, FIRST + 1) if serial < before):
            take(maintainer, clock, version(older))
            assert served(directory) == before
            assert life.is_served(before)
        take(maintainer, clock, version(newest + 1))
        assert served(directory) == newest + 1
        assert life.floor == newest + 1


@pytest.mark.parametrize(
    "rebooted",
    [
        pytest.param(False, id="the workers live on"),
        pytest.param(True, id="the machine was off", marks=pytest.mark.long),
    ],
)
def test_a_crash_before_any_write(start: Start, tmp_path: Path, rebooted: bool) -> None:
    newest = version(start.serial + 1 if start.serial else FIRST)
    end_at, floors = 0, []
    while True:
        end_at += 1
        directory = tmp_path / f"crash{end_at}"
        shutil.copytree(start.directory, directory, symlinks=True)
        ended = go_on(directory, start.clock, end_at, newest)
        assert ended in {0, -signal.SIGKILL}
        lines = Path(f"{directory}.writes").read_text().splitlines()
        floor = served(directory)
        floors.append(floor)
        if rebooted:
            (directory / "run" / "page").unlink()
        try:
            check_restart(directory, Clock(start.clock.boottime + 60, start.clock.began), floor, newest.serial)
        except AssertionError as error:
            raise AssertionError(f"killed before write {end_at} ({lines[-1]}): {error}") from error
        shutil.rmtree(directory)
        if ended == 0:
            break
    assert floors == sorted(floors)
    assert {floors[0], floors[-1]} == {start.serial, newest.serial}
    renamed = [Path(line.split()[2]).suffix for line in lines if line.startswith("os.rename")]
    others = {".key", ".twin", ".aside"}  # of the ledger: process/twice.py
    assert [each for each in renamed if each not in others] == [".zone", ".mac", ".table", ".json", ".json"]


@pytest.mark.parametrize(
    ("rebooted", "after"),
    [
        pytest.param(False, False, id="the workers live on, before the set time"),
        pytest.param(True, True, id="the machine was off, after the set time"),
        pytest.param(False, True, id="the workers live on, after the set time", marks=pytest.mark.long),
        pytest.param(True, False, id="the machine was off, before the set time", marks=pytest.mark.long),
    ],
)
def test_what_waits_for_its_set_time_is_served_from_then_on_and_not_before(
    tmp_path: Path, rebooted: bool, after: bool
) -> None:
    clock = Clock()
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        asyncio.run(maintainer.resume())
        take(maintainer, clock, version(FIRST))

    ledger = tmp_path / "state" / "ledger.json"

    async def until_it_waits(maintainer: Maintainer) -> None:
        root = maintainer.zones.root
        deliver(root, version(FIRST + 1), clock)
        taking = asyncio.create_task(maintainer.pipeline.take(root, root.life.queue.pop(0), at_once=False))
        while not taking.done():
            if maintainer.switchover.state is SwitchoverState.SCHEDULED:
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(0)

    def work() -> None:
        with unattended(tmp_path, clock, LATER) as maintainer:
            asyncio.run(maintainer.resume())
            asyncio.run(until_it_waits(maintainer))

    assert in_a_process(work) == -signal.SIGKILL
    assert served(tmp_path) == FIRST
    following = json.loads(ledger.read_text())["next"]
    assert following["leases"]["."]["serial"] == FIRST + 1
    if rebooted:
        (tmp_path / "run" / "page").unlink()
    later = Clock(clock.boottime + 60, clock.began)
    later.boottime += following["activate_at"] - later().wall if after else 0
    with unattended(tmp_path, later, LATER) as maintainer:
        asyncio.run(maintainer.resume())
        assert served(tmp_path) == FIRST + after
        life = maintainer.zones.root.life
        assert life.floor == FIRST + after
        if not after:  # nobody need decide again
            assert [(each.serial, each.approved, each.kept) for each in life.queue] == [(FIRST + 1, True, True)]
        older = deliver(maintainer.zones.root, version(FIRST - 1), later)
        asyncio.run(maintainer.pipeline.take(maintainer.zones.root, older, at_once=False))
        assert served(tmp_path) == FIRST + after


MESH = """
[mesh]
service = "x-root"
member = "m0"
key = "/nowhere/member.key"
roster_keys = ["{key}"]
endpoints = ["http://127.0.0.1:2379"]
"""


@contextlib.contextmanager
def member(directory: Path, clock: Clock) -> Iterator[Maintainer]:
    """One that is a member of a mesh, of which it hears nothing."""
    mesh = MESH.format(key=public_text(key_of("first signer")))
    with unattended(directory, clock, KEEP_TWO, mesh) as maintainer:
        yield maintainer


@contextlib.asynccontextmanager
async def staged(maintainer: Maintainer, clock: Clock, contents: ZoneContents) -> AsyncIterator[asyncio.Task[None]]:
    """While *contents* are staged and wait for the mesh, and what takes them."""
    root = maintainer.zones.root
    deliver(root, contents, clock)
    taking = asyncio.create_task(maintainer.pipeline.take(root, root.life.queue.pop(0), at_once=False))
    while maintainer.switchover.state is not SwitchoverState.SCHEDULED or maintainer.switchover.activate_at is None:
        assert not taking.done()
        await asyncio.sleep(0.01)
    yield taking
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)


def set_time_on_disk(directory: Path) -> float:
    """T of what comes next, as a start would find it."""
    return float(json.loads((directory / "state" / "ledger.json").read_text())["next"]["activate_at"])


def test_a_member_that_loses_its_power_at_the_instant_of_the_switchover_does_not_go_back(tmp_path: Path) -> None:
    clock = Clock()
    with member(tmp_path, clock) as maintainer:
        asyncio.run(maintainer.resume())
        take(maintainer, clock, version(FIRST))

    async def switch(maintainer: Maintainer) -> None:
        flip = maintainer.switchover.flip

        def flip_and_end(generation: int, grant: Callable[[], None]) -> None:
            flip(generation, grant)
            os.kill(os.getpid(), signal.SIGKILL)

        maintainer.switchover.flip = flip_and_end  # type: ignore[method-assign]
        async with staged(maintainer, clock, version(FIRST + 1)) as taking:
            at = maintainer.switchover.activate_at
            assert at is not None
            assert set_time_on_disk(tmp_path) > at + 86_400  # it may be voided yet, also while we are off
            clock.boottime += at - maintainer.time.now()
            await taking

    def work() -> None:
        with member(tmp_path, clock) as maintainer:
            asyncio.run(maintainer.resume())
            asyncio.run(switch(maintainer))

    assert in_a_process(work) == -signal.SIGKILL
    assert served(tmp_path) == FIRST + 1
    (tmp_path / "run" / "page").unlink()
    with member(tmp_path, Clock(clock.boottime + 3600, clock.began)) as maintainer:
        asyncio.run(maintainer.resume())
        assert served(tmp_path) == FIRST + 1
        assert maintainer.zones.root.life.floor == FIRST + 1


def test_a_member_that_cannot_write_down_its_set_time_stays_with_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()

    def full(*_: object) -> None:
        raise StoreFailed("ledger.json: No space left on device")

    async def wait(maintainer: Maintainer) -> None:
        async with staged(maintainer, clock, version(FIRST + 1)) as taking:
            at = maintainer.switchover.activate_at
            assert at is not None
            with monkeypatch.context() as meanwhile:
                meanwhile.setattr(maintainer.store, "write_ledger", full)
                clock.boottime += at - maintainer.time.now()
                await taking
            assert served(tmp_path) == FIRST
            assert maintainer.zones.root.life.is_served(FIRST)
            assert "it cannot be kept" in maintainer.zones.root.life.last_rejection
            assert maintainer.zones.write_ledger()
            clock.boottime += 60
            maintainer.activation.watch()
            assert [each.serial for each in maintainer.zones.root.life.queue] == [FIRST + 1]

    with member(tmp_path, clock) as maintainer:
        asyncio.run(maintainer.resume())
        take(maintainer, clock, version(FIRST))
        asyncio.run(wait(maintainer))


@pytest.mark.parametrize("rebooted", [False, True], ids=["the workers live on", "the machine was off"])
def test_what_is_held_or_was_dropped_is_so_after_a_crash(tmp_path: Path, rebooted: bool) -> None:
    clock = Clock()
    small = version(FIRST + 1, tlds=5)  # a fifth of the TLDs: somebody has to decide
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        asyncio.run(maintainer.resume())
        take(maintainer, clock, version(FIRST))

    def work() -> None:
        with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
            asyncio.run(maintainer.resume())
            take(maintainer, clock, small)
            root = maintainer.zones.root
            assert list(root.life.held) == [FIRST + 1]
            take(maintainer, clock, version(FIRST + 2, tlds=5))
            maintainer.reject(root, FIRST + 2)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_process(work) == -signal.SIGKILL
    if rebooted:
        (tmp_path / "run" / "page").unlink()
    clock.boottime += 60
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        root = maintainer.zones.root
        asyncio.run(maintainer.resume())
        take_all(maintainer)
        assert list(root.life.held) == [FIRST + 1]
        assert served(tmp_path) == FIRST
        assert root.refresh.dropped_serials == {FIRST + 2}
        asyncio.run(maintainer.approve(root, FIRST + 1))
        take_all(maintainer)
        assert served(tmp_path) == FIRST + 1


def test_since_when_a_version_is_known_and_served_is_still_known(tmp_path: Path) -> None:
    clock = Clock()
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        root = maintainer.zones.root
        asyncio.run(maintainer.resume())
        take(maintainer, clock, version(FIRST))
        known_at = maintainer.time.now() + 10
        clock.boottime += 10
        root.life.receive(FIRST + 1, clock.boottime)
        take(maintainer, clock, version(FIRST + 1))
        served_at = maintainer.time.now()
        assert root.life.service == InService(root.life.serving, clock.boottime, known_at)  # type: ignore[arg-type]
    clock.boottime += 500
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        asyncio.run(maintainer.resume())
        service = maintainer.zones.root.life.service
        assert isinstance(service, InService)
        assert service.known_at == pytest.approx(known_at)
        assert maintainer.time.now() - (clock.boottime - service.since) == pytest.approx(served_at)


def test_what_is_held_and_cannot_be_read_any_more_is_fetched_again(tmp_path: Path) -> None:
    clock = Clock()
    held = version(FIRST + 1, tlds=5)
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        root = maintainer.zones.root
        asyncio.run(maintainer.resume())
        take(maintainer, clock, version(FIRST), held)
        assert list(root.life.held) == [FIRST + 1]
        root.refresh.answered("one", FIRST + 1, clock.boottime)
        fetch = Fetch("one", FIRST + 1)
        assert fetch not in root.refresh.decide(clock.boottime)
        maintainer.store.forget_version(b"\0", FIRST + 1)
        asyncio.run(maintainer.approve(root, FIRST + 1))
        root.refresh.answered("one", FIRST + 1, clock.boottime)
        assert fetch in root.refresh.decide(clock.boottime)
        take(maintainer, clock, held)
        assert list(root.life.held) == [FIRST + 1]
        asyncio.run(maintainer.approve(root, FIRST + 1))
        take_all(maintainer)
        assert served(tmp_path) == FIRST + 1


def test_an_exception_in_the_refresh_of_a_zone_ends_one_attempt_of_it_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "FAILED_SECONDS", 0.01)

    async def work(maintainer: Maintainer) -> None:
        stop, again = asyncio.Event(), asyncio.Event()
        decide, calls = Refresh.decide, Counter[int]()

        def fail_once(refresh: Refresh, now: float) -> list[Any]:
            calls[id(refresh)] += 1
            if calls[id(refresh)] == 1:
                raise RuntimeError("nobody expected this")
            if all(calls[id(each.refresh)] > 1 for each in maintainer.zones):
                again.set()
            return decide(refresh, now)

        monkeypatch.setattr(Refresh, "decide", fail_once)
        running = asyncio.create_task(maintainer.run(stop))
        async with asyncio.timeout(20):
            await again.wait()
        stop.set()
        await running

    clock = Clock()
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        asyncio.run(maintainer.resume())
        take(maintainer, clock, version(FIRST))
        asyncio.run(work(maintainer))
        assert maintainer.zones.root.life.is_served(FIRST)
    assert "nobody expected this" in caplog.text
