"""The owner follows the shared page: workers first, and whatever goes wrong the kernel passes."""
# Over 500 lines: it is one state machine, tried with everything that the page can say and the kernel refuse.

import asyncio
import contextlib
import errno
import hashlib
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rootsrv.admission.blocks import words_of_prefix
from rootsrv.admission.limits import LimitSettings
from rootsrv.answer.table import AnswerTable, TableUnusable
from rootsrv.config.fastpath import FastPathConfig
from rootsrv.config.limits import LimitsConfig
from rootsrv.demo.signed import generate_root, generate_successor
from rootsrv.fastpath import libbpf, staging
from rootsrv.fastpath import owner as owner_module
from rootsrv.fastpath import program as program_module
from rootsrv.fastpath.attachment import FoundInterface
from rootsrv.fastpath.layout import constant
from rootsrv.fastpath.owner import FastPath
from rootsrv.fastpath.program import FastPathUnavailable, Interface
from rootsrv.page.layout import Page
from rootsrv.page.unique_sources import SourcesKey
from tests.fastpath.conftest import DAY, NOW, SERVICE, SETTINGS, compiled, require_program
from tests.waiting import until

ORPHAN_SECONDS = 60.0
KEY = SourcesKey.random()


@dataclass
class Followed:
    """A fast path that is attached nowhere, and the page that it follows."""

    page: Page
    fastpath: FastPath
    tables: dict[int, AnswerTable] = field(default_factory=dict)

    def follow(self) -> None:
        asyncio.run(self.fastpath.follow())

    def workers(self, *active: int) -> None:
        """So many workers, each answering from the given generation."""
        self.page.workers = len(active)
        for number, generation in enumerate(active):
            self.page.worker(number).pid = 1000 + number
            self.page.worker(number).active = generation

    def lease(self, seconds: float) -> int:
        until = boottime() + int(seconds * 1e9)
        for zone in (0, 1):
            self.page.set_deadline(zone, until)
        return until

    def serial(self) -> int:
        """Of the table that the kernel answers from; 0 = it passes everything."""
        status = self.fastpath.status()
        if not any(status["answer_until_seconds"]):
            return 0
        serial: int = status["serials"][0]
        return serial


def boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.fixture(scope="module")
def versions() -> list[AnswerTable]:
    first = generate_root(inception=NOW - DAY, expiration=NOW + 13 * DAY, seed=11, tlds=40, algorithm=13, serial=100)
    return [compiled(first), compiled(generate_successor(first, serial=101))]


@pytest.fixture
def followed(tmp_path: Path, versions: list[AnswerTable]) -> Iterator[Followed]:
    require_program()
    tables = {1: versions[0], 2: versions[1]}

    def open_table(generation: int) -> AnswerTable:
        if generation not in tables:
            raise TableUnusable(f"no table {generation}")
        return tables[generation]

    page = Page.create(tmp_path / "page")
    fastpath = FastPath(
        FastPathConfig(interfaces=("lo",), orphan_seconds=ORPHAN_SECONDS),
        addresses=tuple(SERVICE.values()), port=53, responses=SETTINGS, page=page, open_table=open_table,
        sources_key=KEY,
    )  # fmt: skip
    fastpath.program = fastpath._load()
    fastpath.program.set_interfaces([])
    made = Followed(page, fastpath, tables)
    made.lease(3600)
    yield made
    fastpath.close()


def test_what_is_staged_is_tested_and_does_not_answer(followed: Followed) -> None:
    followed.page.staged = 1
    followed.follow()

    status = followed.fastpath.status()
    assert status["staged"] == 1
    assert "all rightly" in status["self_tests"]["1"]
    assert followed.serial() == 0


def test_the_kernel_flips_when_the_last_worker_has(followed: Followed) -> None:
    followed.page.active = 1
    followed.workers(0, 0)
    followed.follow()
    assert followed.serial() == 0
    followed.workers(1, 1)
    followed.follow()
    assert followed.serial() == 100

    followed.page.staged = 2
    followed.follow()
    followed.page.active = 2
    for active in ((1, 1), (2, 1)):
        followed.workers(*active)
        followed.follow()
        assert followed.serial() == 100
    followed.workers(2, 2)
    followed.follow()
    assert followed.serial() == 101


def test_a_worker_without_a_process_holds_nothing_up(followed: Followed) -> None:
    followed.page.active = 1
    followed.workers(1, 0)
    followed.page.worker(1).pid = 0
    followed.follow()
    assert followed.serial() == 100


def test_the_kernel_answers_until_the_lease_ends_and_no_longer_than_it_may_without_an_owner(followed: Followed) -> None:
    followed.page.active = 1
    followed.workers(1)
    followed.follow()
    assert followed.fastpath.program is not None
    assert all(each <= boottime() + ORPHAN_SECONDS * 1e9 for each in followed.fastpath.program.answer_until())

    until = followed.lease(20)
    followed.follow()
    assert followed.fastpath.program.answer_until() == (until, until)


def test_what_the_kernel_may_answer_until_is_granted_again_at_once_after_a_suspend(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.page.active = 1
    followed.workers(1)
    until = followed.lease(3600)
    followed.follow()
    assert followed.fastpath.program is not None

    # While the machine is suspended CLOCK_BOOTTIME goes on, and CLOCK_MONOTONIC does not.
    suspended_ns = int(2 * ORPHAN_SECONDS * 1e9)
    monkeypatch.setattr(
        time, "clock_gettime_ns", lambda _, real=time.clock_gettime_ns: real(time.CLOCK_BOOTTIME) + suspended_ns
    )
    asyncio.run(followed.fastpath._do_duties(time.monotonic()))
    assert all(boottime() < each <= until for each in followed.fastpath.program.answer_until())


def test_an_old_table_is_not_renewed_with_the_leases_of_a_new_one(followed: Followed) -> None:
    followed.page.active = 1
    followed.workers(1)
    until = followed.lease(5)
    followed.follow()
    followed.page.active = 2
    followed.lease(3600)
    followed.follow()  # the worker has not flipped yet

    assert followed.fastpath.program is not None
    assert followed.serial() == 100
    assert followed.fastpath.program.answer_until() == (until, until)


def test_a_flip_that_nobody_follows_and_that_is_taken_back_leaves_the_kernel_where_the_workers_are(
    followed: Followed,
) -> None:
    followed.page.active = 1
    followed.workers(1, 1)
    followed.lease(5)
    followed.follow()
    followed.page.staged = 2
    followed.follow()
    followed.page.active, followed.page.staged = 2, 0
    followed.follow()
    assert followed.serial() == 100

    # As Switchover.stay: the page names the old one again, then come its deadlines.
    followed.page.active = 1
    until = followed.lease(20)
    followed.follow()
    assert followed.serial() == 100
    assert followed.fastpath.program is not None
    assert followed.fastpath.program.answer_until() == (until, until)

    # The same zone is tried again as another generation, and this time they follow.
    followed.tables[3] = followed.tables[2]
    followed.page.staged = 3
    followed.follow()
    followed.page.active, followed.page.staged = 3, 0
    followed.workers(3, 3)
    followed.follow()
    assert followed.serial() == 101


def test_silenced_it_passes_everything_and_comes_back(followed: Followed) -> None:
    followed.page.active = 1
    followed.workers(1)
    followed.follow()
    followed.page.silenced = True
    followed.follow()
    assert followed.serial() == 0
    assert followed.fastpath.probe()["state"] == "off"
    followed.page.silenced = False
    followed.follow()
    assert followed.serial() == 100


@pytest.mark.parametrize("order", ["admit_as", "respond_as"])
def test_orders_that_come_while_a_table_is_changed_hold_nobody_up_and_are_done_in_order(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    fastpath, done = followed.fastpath, []
    assert fastpath.program is not None
    if order == "admit_as":
        monkeypatch.setattr(fastpath.program.admission, "change", done.append)
    else:
        monkeypatch.setattr(fastpath.program, "set_responses", done.append)
    begun, given = threading.Event(), threading.Event()
    waited = []

    def copy_and_test() -> None:
        with fastpath._changing:
            begun.set()
            waited.append(given.wait(30))

    staging_it = threading.Thread(target=copy_and_test)
    staging_it.start()
    assert begun.wait(30)
    orders: list[Any] = [{"number": number} for number in (1, 2)] if order == "admit_as" else [SETTINGS, SETTINGS]
    for each in orders:
        getattr(fastpath, order)(each)
    assert done == []
    given.set()
    staging_it.join()
    assert waited == [True]  # the orders came back before it was over
    asyncio.run(until(lambda: len(done) == 2))
    assert done == orders
    getattr(fastpath, order)(orders[0])
    assert len(done) == 3  # nobody changes anything: at once


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_owner_that_looks_once_an_hour_is_told_of_each_step(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    monkeypatch.setattr(owner_module, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(owner_module, "DUTY_SECONDS", 3600.0)
    monkeypatch.setattr(owner_module, "own_addresses", list)
    monkeypatch.setattr(followed.fastpath, "_keep_attached", lambda now: None)
    maintain = Page.open(followed.page._path)
    looked: list[int] = []
    follow = followed.fastpath.follow

    async def noted() -> None:
        await follow()
        looked.append(followed.page.active)

    monkeypatch.setattr(followed.fastpath, "follow", noted)

    async def switch() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(followed.fastpath.run(stop))
        await until(lambda: bool(looked))
        await asyncio.sleep(0)  # it has found nothing, and waits
        maintain.active = 1
        await asyncio.sleep(0)
        followed.workers(1)  # who flips tells nobody: it is looked for
        await until(lambda: followed.serial() == 100)
        maintain.staged = 2
        await until(lambda: followed.fastpath.status()["staged"] == 2)
        maintain.active = 2
        followed.workers(2)
        await until(lambda: followed.serial() == 101)
        maintain.silenced = True
        await until(lambda: followed.serial() == 0)
        maintain.silenced = False
        await until(lambda: followed.serial() == 101)
        stop.set()
        async with asyncio.timeout(20):
            await running

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(switch())


def test_without_a_watch_it_looks_all_the_time(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full() -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(owner_module, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(followed.page, "watch", full)
    monkeypatch.setattr(followed.fastpath, "_keep_attached", lambda now: None)
    followed.workers(1)

    async def switch() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(followed.fastpath.run(stop))
        followed.page.active = 1
        await until(lambda: followed.serial() == 100)
        stop.set()
        await running

    asyncio.run(switch())
    assert "Too many open files" in caplog.text


def test_a_table_that_cannot_be_had_is_left_to_the_workers_and_the_next_one_is_taken(followed: Followed) -> None:
    followed.page.active = 1
    followed.workers(1)
    followed.follow()
    followed.page.active = 7
    followed.workers(7)
    followed.follow()
    assert followed.serial() == 0
    assert followed.fastpath.status()["active"] == 0

    followed.page.active = 2
    followed.workers(2)
    followed.follow()
    assert followed.serial() == 101


def test_a_failed_self_test_keeps_the_kernel_from_answering(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = staging.SelfTest(5, 5, "a difference")
    monkeypatch.setattr(staging, "run_self_test", lambda *_, **__: wrong)
    followed.page.staged = followed.page.active = 1
    followed.workers(1)
    followed.follow()
    assert followed.serial() == 0
    assert "a difference" in followed.fastpath.status()["self_tests"]["1"]


def test_a_damaged_copy_fails_its_self_test_and_the_table_before_it_goes_on(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.page.active = 1
    followed.workers(1)
    followed.follow()
    program = followed.fastpath.program
    assert program is not None
    stage = program.stage

    def damage(table: AnswerTable) -> int:
        generation = stage(table)
        # One bit in the kernel's copy, in the signed answer for a type that the apex does not have.
        start = generation * (constant("TABLE_ROOM") + constant("TABLE_SLACK"))
        at, _ = max(table.pieces(next(table.owners()).nodata[1]), key=lambda piece: piece[1])
        program._tables[start + at + 20] ^= 1
        return generation

    monkeypatch.setattr(program, "stage", damage)
    followed.page.staged = 2
    followed.follow()

    status = followed.fastpath.status()
    assert status["self_tests"]["2"].startswith("wrong: the response to")
    assert (status["staged"], status["active"], followed.serial()) == (0, 1, 100)
    followed.page.staged = 0  # the switchover is void
    followed.follow()
    assert followed.serial() == 100


def test_an_unexpected_error_detaches_and_is_tried_again(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = asyncio.Event()
    tried = []

    async def fail(now: float) -> None:
        tried.append(now)
        if len(tried) == 2:
            stop.set()
        raise RuntimeError("netlink has errors of its own")

    monkeypatch.setattr(owner_module, "DUTY_SECONDS", 0.0)
    monkeypatch.setattr(followed.fastpath, "_do_duties", fail)
    asyncio.run(followed.fastpath.run(stop))
    assert len(tried) == 2


def test_an_error_that_stays_is_told_once_and_not_tried_again_all_the_time(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop, waits = asyncio.Event(), []
    timeout = asyncio.timeout

    def noted(seconds: float) -> asyncio.Timeout:
        waits.append(seconds)
        if len(waits) == 3:
            stop.set()
        return timeout(0)

    async def fail() -> None:
        raise RuntimeError("as long as the page says this")

    monkeypatch.setattr(followed.fastpath, "_keep_attached", lambda now: None)
    monkeypatch.setattr(followed.fastpath, "follow", fail)
    monkeypatch.setattr(owner_module.asyncio, "timeout", noted)
    followed.page.active = 2  # behind: a look every FOLLOW_SECONDS
    asyncio.run(followed.fastpath.run(stop))
    assert set(waits) == {owner_module.LOOK_SECONDS}
    assert caplog.text.count("as long as the page says this") == 1


def test_a_table_whose_answers_are_wrong_is_left_to_the_workers_with_the_cause(
    followed: Followed, versions: list[AnswerTable]
) -> None:
    octets = bytearray(versions[1].octets)
    for name in versions[1].names():
        struct.pack_into("<H", octets, name.nxdomain + 12, 0xFFFF)  # cuts: more than there are octets before it
    octets[16:48] = bytes(32)
    octets[16:48] = hashlib.sha256(octets).digest()
    followed.tables[2] = AnswerTable(bytes(octets))
    followed.page.active = 1
    followed.workers(1)
    followed.follow()
    followed.page.staged = 2
    followed.follow()
    assert followed.fastpath.status()["self_tests"]["2"].startswith("answer table is damaged: ")
    assert followed.serial() == 100


@contextlib.contextmanager
def refused(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """The kernel has no memory for another prefix in the map *name*."""
    update = libbpf.Map.update

    def no_memory(each: libbpf.Map, key: int | bytes, value: bytes) -> None:
        if each.name == name:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        update(each, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(libbpf.Map, "update", no_memory)
        yield


def test_blocks_that_the_kernel_has_no_room_for_are_tried_again(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.page.set_blocks([(*words_of_prefix("198.51.100.0/24"), boottime() + 10**12)])
    with refused(monkeypatch, "blocks"):
        for _ in range(2):
            with pytest.raises(OSError, match="Cannot allocate memory"):
                followed.follow()
    followed.follow()
    assert followed.fastpath.program is not None
    assert len(list(followed.fastpath.program.blocks.keys())) == 1


def test_limits_that_the_kernel_could_not_be_told_are_told_again_before_it_answers(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed.page.active = 1
    followed.workers(1)
    followed.follow()
    policy = {
        "exempt": ["192.0.2.0/24"],
        "limits": LimitSettings.of(LimitsConfig(), bytes(16)).to_document(),
        "rules": [],
        "sample_every": 0,
    }
    with refused(monkeypatch, "exempt"):
        followed.fastpath.admit_as(policy)
        assert followed.serial() == 0
        followed.page.active = 2
        followed.workers(2)
        followed.follow()
        assert followed.serial() == 0, "a switchover alone does not tell it"
    followed.page.active = 1
    followed.workers(1)
    followed.follow()
    assert followed.serial() == 100
    assert followed.fastpath.program is not None
    assert len(list(followed.fastpath.program.admission._exempt.keys())) == 1


def test_what_is_being_answered_when_it_ends_is_counted(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    fastpath, done = followed.fastpath, []
    publish = fastpath._publish

    def published(wall_seconds: float) -> None:
        done.append("published")
        publish(wall_seconds)

    monkeypatch.setattr(fastpath, "_detach_all", lambda reason: done.append("detached"))
    monkeypatch.setattr(program_module, "_wait_for_packets_under_way", lambda: done.append("waited"))
    monkeypatch.setattr(fastpath, "_publish", published)
    fastpath.close()
    assert done == ["detached", "waited", "published"]


def test_what_the_kernel_counts_is_shown_while_a_table_is_staged_for_however_long(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed owner has not shown is lost: a second of it, and not the time that a busy host takes to stage."""
    fastpath, staging, shown = followed.fastpath, threading.Event(), threading.Semaphore(0)
    publish, stage = fastpath._publish, fastpath.program.stage  # type: ignore[union-attr]
    stop = asyncio.Event()

    def published(wall_seconds: float) -> None:
        publish(wall_seconds)
        if staging.is_set():
            shown.release()

    def takes_long(table: AnswerTable) -> int:
        staging.set()
        in_time = [shown.acquire(timeout=10) for _ in range(3)]
        staging.clear()
        stopped.append(all(in_time))
        loop[0].call_soon_threadsafe(stop.set)
        return stage(table)

    async def run() -> None:
        loop.append(asyncio.get_running_loop())
        await fastpath.run(stop)

    stopped: list[bool] = []
    loop: list[asyncio.AbstractEventLoop] = []
    monkeypatch.setattr(owner_module, "DUTY_SECONDS", 0.02)
    monkeypatch.setattr(fastpath, "_publish", published)
    monkeypatch.setattr(fastpath.program, "stage", takes_long)
    monkeypatch.setattr(fastpath, "_keep_attached", lambda now: None)
    followed.page.staged = 2
    asyncio.run(run())
    assert stopped == [True]


def test_a_restart_of_the_owner_begins_with_what_is_active(followed: Followed) -> None:
    followed.page.active = 2
    followed.workers(2)
    followed.follow()
    assert followed.serial() == 101


def test_what_is_attached_is_noted_until_the_end(followed: Followed, tmp_path: Path) -> None:
    note = tmp_path / "fastpath.json"
    note.write_text("[7, 8]")
    config = FastPathConfig(interfaces=("lo",))
    fastpath = FastPath(
        config, addresses=(), port=53, responses=SETTINGS, page=followed.page, open_table=lambda _: followed.tables[1],
        sources_key=KEY,
        note=note,
    )  # fmt: skip
    assert fastpath._left_behind == {7, 8}
    fastpath._take_note()
    assert note.read_text() == "[7, 8]"
    fastpath.close()
    assert not note.exists()


def hooks(mode: str, **facts: object) -> list[str]:
    config = FastPathConfig(mode=mode, interfaces=("x",))  # type: ignore[arg-type]
    fastpath = FastPath(
        config,
        addresses=(),
        port=53,
        responses=SETTINGS,
        page=Page.create(_scratch / "page"),
        open_table=lambda _: None,
        sources_key=KEY,
    )  # type: ignore[arg-type]
    kernel = Interface(5, 1500, bytes(6), virtual=False, loopback=False)
    described = {"name": "x", "kernel": kernel, "kind": "", "driver": "ice", "is_loopback": False} | facts
    found: list[str] = list(fastpath._hooks(FoundInterface(**described), []))  # type: ignore[arg-type]
    return found


_scratch = Path()


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path) -> None:
    globals()["_scratch"] = tmp_path


def test_the_order_of_hooks() -> None:
    assert hooks("auto") == ["xdp", "tcx", "clsact"]
    assert hooks("auto", is_loopback=True) == hooks("auto", kind="veth") == ["tcx", "clsact"]
    assert hooks("xdp", kind="veth") == ["xdp"]
    assert hooks("tc") == ["tcx", "clsact"]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (FastPathConfig(mode="off", interfaces=("lo",)), "mode = off"),
        (FastPathConfig(), "no interfaces are configured"),
    ],
)
def test_off_is_off_and_says_why(tmp_path: Path, config: FastPathConfig, reason: str) -> None:
    fastpath = FastPath(
        config, addresses=("127.0.0.1",), port=53, responses=SETTINGS, page=Page.create(tmp_path / "page"),
        open_table=lambda _: pytest.fail("nothing is to be opened"), sources_key=KEY,
    )  # fmt: skip
    asyncio.run(fastpath.run(asyncio.Event()))
    assert reason in fastpath.status()["unavailable"]


def test_without_a_built_program_the_server_runs_without_it_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_built() -> bytes:
        raise FastPathUnavailable("the BPF program is not built (make bpf, which needs clang and libbpf-dev)")

    monkeypatch.setattr("rootsrv.fastpath.program.built_object", not_built)
    fastpath = FastPath(
        FastPathConfig(interfaces=("lo",)), addresses=("127.0.0.1",), port=53, responses=SETTINGS,
        page=Page.create(tmp_path / "page"), open_table=lambda _: pytest.fail("nothing is to be opened"),
        sources_key=KEY,
    )  # fmt: skip

    asyncio.run(fastpath._do_duties(0.0))
    asyncio.run(fastpath.follow())

    assert "make bpf" in fastpath.status()["unavailable"]


def test_forty_addresses_more_do_not_take_the_program_off(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What an interface of the host is given at run time is refused as a sender, and nobody is alarmed."""
    addresses = ["192.0.2.53", *(f"10.9.8.{number}" for number in range(40))]
    monkeypatch.setattr(owner_module, "own_addresses", lambda: addresses)
    followed.fastpath._config = FastPathConfig(interfaces=())
    for now in (1.0, 20.0, 40.0):
        followed.fastpath._keep_attached(now)
    assert followed.fastpath.program is not None
    assert len(followed.fastpath.program._own_addresses) == 41
    assert not caplog.records


def test_a_table_that_fills_the_kernels_room_is_told_once(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    octets = len(followed.tables[1].octets)
    monkeypatch.setattr(staging, "TABLE_ROOM", octets)
    for generation in (1, 2):
        followed.page.staged = generation
        followed.follow()
    assert caplog.text.count("fast path table nearly full") == 1
    assert followed.fastpath.status()["table_octets"] == len(followed.tables[2].octets)
