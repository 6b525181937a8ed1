"""What takes a root tens of milliseconds is done beside the event loop of maintain: in a thread, or in a child."""

import asyncio
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from rootsrv.control.protocol import Caller, Order, Reply
from rootsrv.distribution import offered
from rootsrv.distribution.offered import OfferedZone, OfferState
from rootsrv.process import aside as aside_module
from rootsrv.process import child
from rootsrv.process.aside import aside
from rootsrv.process.child import in_child
from rootsrv.secondary import control, primary, stored
from rootsrv.secondary.control import VersionOrder, ZoneControl
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.zone import presentation
from rootsrv.zone.transfer import Inbound, difference
from tests.secondary.unattended import Clock, deliver, take_all, unattended
from tests.secondary.versions import FIRST, version

KEEP_TWO = "align_seconds = 0\nkeep_versions = 2"


class Where:
    """In which threads something was called."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def __call__(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            self.threads.add(threading.get_ident())
            return work(*arguments, **named)

        return noted

    def was_beside_the_loop(self) -> bool:
        """It was called, and not in this thread, which runs the loop."""
        return bool(self.threads) and threading.get_ident() not in self.threads


@pytest.fixture
def where(monkeypatch: pytest.MonkeyPatch) -> Where:
    """Of what reads, writes or digests a whole zone."""
    made = Where()
    for module, name in (
        (presentation, "to_text"), (presentation, "from_text"), (stored.presentation, "from_text"),
        (control, "subject_of"), (offered, "difference"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, made(getattr(module, name)))
    return made


def serving(maintainer: Maintainer, clock: Clock) -> None:
    """FIRST + 1 is in service, FIRST is kept, FIRST + 2 is held."""
    asyncio.run(maintainer.resume())
    for contents in (version(FIRST), version(FIRST + 1), version(FIRST + 2, tlds=5)):
        clock.boottime += 10
        deliver(maintainer.zones.root, contents, clock)
        take_all(maintainer)
    assert list(maintainer.zones.root.life.held) == [FIRST + 2]


@pytest.mark.parametrize("serial", [None, FIRST])
@pytest.mark.parametrize("command", ["zone-export", "mesh-digest"])
def test_an_order_about_a_whole_zone(tmp_path: Path, where: Where, command: str, serial: int | None) -> None:
    clock = Clock()
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        serving(maintainer, clock)
        where.threads.clear()
        commands = ZoneControl(maintainer, lambda: None, lambda: (True, "")).commands()  # type: ignore[arg-type,return-value]
        answer = asyncio.run(commands[command].run(Order(VersionOrder(serial=serial), Caller(0, 1))))
        assert where.was_beside_the_loop()
        if command == "zone-export":
            assert isinstance(answer, Reply)
            assert answer.document["serial"] == (serial or FIRST + 1)
            assert presentation.from_text(answer.octets, b"\0").serial == answer.document["serial"]


def test_a_held_zone_that_is_approved_is_read(tmp_path: Path, where: Where) -> None:
    clock = Clock()
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        serving(maintainer, clock)
        where.threads.clear()
        asyncio.run(maintainer.approve(maintainer.zones.root, FIRST + 2))
        assert where.was_beside_the_loop()
        assert [each.serial for each in maintainer.zones.root.life.queue] == [FIRST + 2]


def test_what_was_in_service_is_read_at_the_start(tmp_path: Path, where: Where) -> None:
    clock = Clock()
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        serving(maintainer, clock)
    where.threads.clear()
    with unattended(tmp_path, clock, KEEP_TWO) as maintainer:
        asyncio.run(maintainer.resume())
        assert where.was_beside_the_loop()
        assert maintainer.zones.root.life.serving is not None


def test_the_difference_of_two_versions(where: Where) -> None:
    older, newer = version(FIRST), version(FIRST + 1)

    async def give_out() -> None:
        zone = OfferedZone(b"\0")
        for contents in (older, newer):
            zone.put(contents, OfferState.IN_SERVICE, lambda: 1e6)
        await zone.since(FIRST)
        assert zone._differences[0].removed == difference(older, newer)[0]

    asyncio.run(give_out())
    assert where.was_beside_the_loop()


class Alone:
    """Nothing is inherited."""

    def leave_in_child(self) -> None:
        """See Inherited."""


@pytest.mark.parametrize(("octets", "is_much"), [(10, False), (1_000_000, True)])
def test_a_large_result_of_a_child_becomes_objects(monkeypatch: pytest.MonkeyPatch, octets: int, is_much: bool) -> None:
    where = Where()

    class Pickle:
        dumps = staticmethod(pickle.dumps)
        loads = staticmethod(where(pickle.loads))

    monkeypatch.setattr(child, "pickle", Pickle)
    assert asyncio.run(in_child(lambda: bytes(octets), Alone())) == bytes(octets)
    assert where.was_beside_the_loop() == is_much


def test_no_garbage_is_collected_meanwhile_and_it_is_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    is_on = [True]

    class Collector:
        isenabled = staticmethod(lambda: is_on[0])

        @staticmethod
        def enable() -> None:
            is_on[0] = True

        @staticmethod
        def disable() -> None:
            is_on[0] = False

    monkeypatch.setattr(aside_module, "gc", Collector)
    both = threading.Barrier(2, timeout=30)

    def work() -> bool:
        both.wait()
        return is_on[0]

    async def two() -> list[bool]:
        return list(await asyncio.gather(aside(work), aside(work)))

    assert asyncio.run(two()) == [False, False]
    assert is_on[0]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside(lambda: 1 // 0))
    assert is_on[0]
    is_on[0] = False  # as at the start of a role, which switches it on later
    asyncio.run(aside(lambda: None))
    assert not is_on[0]


class Noting:
    """An inbound transfer that notes where it is fed."""

    def __init__(self) -> None:
        self.fed: list[threading.Thread] = []

    def receive_message(self, octets: bytes, now: float) -> None:
        self.fed.append(threading.current_thread())


def test_a_large_message_of_a_transfer_is_taken_in_beside_the_loop_and_a_small_one_in_it() -> None:
    inbound = Noting()

    async def whole() -> None:
        for octets in (100, 60_000, 100):
            await primary._taken(cast(Inbound, inbound), bytes(octets))

    asyncio.run(whole())
    assert [each is threading.main_thread() for each in inbound.fed] == [True, False, True]
