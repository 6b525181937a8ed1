"""A version is made ready once and sent to many; the smaller of difference and whole zone; nothing after its time."""

import asyncio
import functools
import itertools
import struct
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from rootsrv.demo import generate
from rootsrv.distribution import offered as module
from rootsrv.distribution.offered import OfferedZone, OfferState, ReadyTransfer
from rootsrv.distribution.requests import transfer
from rootsrv.wire.message import AXFR, IXFR
from rootsrv.wire.tsig import Key, Signer
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import Inbound, TsigStream, difference
from rootsrv.zone.transfer_out import Difference, ResponseOpt

ROOT = b"\0"
KEY = Key.make(b"\3key\0", "hmac-sha256", b"0123456789abcdef")


@functools.cache
def versions() -> list[ZoneContents]:
    return [generate.root_contents(serial=serial, tlds=200, seed=1) for serial in range(1, 12)]


@functools.cache
def others() -> list[ZoneContents]:
    """Of seeds of their own: the difference is larger than the zone."""
    return [generate.root_contents(serial=serial, tlds=200, seed=serial) for serial in range(1, 4)]


def forever() -> float:
    return 1000.0


def read(ready: ReadyTransfer, base: ZoneContents | None = None, *, key: Key | None = None) -> ZoneContents:
    """What a secondary makes of it."""
    qtype = AXFR if base is None else IXFR
    tsig = TsigStream(key, b"m" * 32) if key else None
    inbound = Inbound(ROOT, qtype, 7, base=base, tsig=tsig)
    signer = Signer(key, b"m" * 32) if key else None
    for parts in transfer(ready, 7, ROOT + struct.pack("!HH", qtype, 1), ResponseOpt(1234), signer):
        inbound.receive_message(b"".join(parts), time.time())
    inbound.receive_eof()
    assert inbound.expire_seconds == 1234
    contents = inbound.result()
    assert contents is not None
    return contents


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_the_whole_zone_arrives(key: Key | None) -> None:
    async def work() -> None:
        zone = OfferedZone(ROOT)
        zone.put(versions()[0], OfferState.IN_SERVICE, forever)
        assert read(await zone.whole(), key=key).rrsets == versions()[0].rrsets

    run(work())


def test_a_version_is_made_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    honest = module.ready_messages

    def counted(*arguments: object, **more: object) -> object:
        made.append(arguments)
        return honest(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "ready_messages", counted)

    async def work() -> None:
        zone = OfferedZone(ROOT)
        zone.put(versions()[0], OfferState.IN_SERVICE, forever)
        zone.put(versions()[1], OfferState.IN_SERVICE, forever)
        got = await asyncio.gather(*(zone.whole() for _ in range(20)), *(zone.since(1) for _ in range(20)))
        assert len({id(each) for each in got}) == 2
        assert [each.base for each in got] == [None] * 20 + [1] * 20

    run(work())
    assert len(made) == 2  # the whole zone, the difference


def test_one_that_is_cancelled_takes_nothing_from_the_others() -> None:
    async def work() -> None:
        zone = OfferedZone(ROOT)
        zone.put(versions()[0], OfferState.IN_SERVICE, forever)
        first, second = asyncio.create_task(zone.whole()), asyncio.create_task(zone.whole())
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).serial == 1

    run(work())


def test_differences_lead_from_every_version_that_is_remembered() -> None:
    async def work() -> None:
        zone = OfferedZone(ROOT)
        for each in versions():  # put one after the other, before any difference could be made
            zone.put(each, OfferState.IN_SERVICE, forever)
        newest = versions()[-1]
        for older in versions()[-1 - module.MAX_DIFFERENCES : -1]:
            ready = await zone.since(older.serial)
            assert ready.base == older.serial
            assert read(ready, older).rrsets == newest.rrsets
        assert (await zone.since(versions()[0].serial)).base is None
        assert (await zone.since(4711)).base is None

    run(work())


def test_a_difference_that_is_larger_than_the_zone_is_not_sent() -> None:
    """As with consecutive genuine roots: every signature changes."""

    async def work() -> None:
        zone = OfferedZone(ROOT)
        for each in others():
            zone.put(each, OfferState.IN_SERVICE, forever)
        ready = await zone.since(2)
        assert ready.base is None
        assert read(ready, others()[1]).rrsets == others()[2].rrsets

    run(work())


class Kept:
    """Versions that are kept somewhere, and how often they were read."""

    def __init__(self, versions: Sequence[ZoneContents], *, damaged: bool = False) -> None:
        self.versions = {each.serial: each for each in versions}
        self.damaged = damaged
        self.read = 0

    def serials(self) -> Sequence[int]:
        return list(self.versions)

    async def differences(self, serials: Sequence[int], contents: ZoneContents) -> Sequence[Difference]:
        self.read += 1
        await asyncio.sleep(0)
        if self.damaged:
            raise OSError("its digest is wrong")
        chain = [*(self.versions[each] for each in serials), contents]
        pairs = itertools.pairwise(chain)
        return [Difference(one.serial, two.serial, *difference(one, two)) for one, two in pairs]


def test_after_a_restart_a_difference_is_made_from_what_is_kept_once_for_all_who_ask() -> None:
    async def work() -> None:
        kept = Kept(versions()[:4])
        zone = OfferedZone(ROOT, kept)
        zone.put(versions()[3], OfferState.IN_SERVICE, forever)
        got = await asyncio.gather(*(zone.since(2) for _ in range(30)))
        assert (len({id(each) for each in got}), kept.read) == (1, 1)
        assert read(got[0], versions()[1]).rrsets == versions()[3].rrsets

    run(work())


def test_a_kept_version_that_is_damaged_costs_only_the_difference() -> None:
    async def work() -> None:
        told: list[Exception] = []
        zone = OfferedZone(ROOT, Kept(versions()[:4], damaged=True), told.append)
        zone.put(versions()[3], OfferState.IN_SERVICE, forever)
        assert (await zone.since(2)).base is None
        assert [str(each) for each in told] == ["its digest is wrong"]

    run(work())


def test_what_its_time_says_is_what_expire_says_and_the_end() -> None:
    async def work() -> None:
        left = 7.9
        zone = OfferedZone(ROOT)
        assert zone.offer is None
        zone.put(versions()[0], OfferState.HELD, lambda: left)
        assert zone.offer is not None
        assert (zone.offer.state, zone.expire_seconds) == (OfferState.HELD, 7)
        left = 0.0
        assert zone.offer is None
        zone.put(versions()[0], OfferState.DISTRIBUTE_ONLY, forever)
        assert zone.offer is not None
        zone.withdraw()
        assert zone.offer is None

    run(work())


def test_who_asks_while_the_zone_is_withdrawn_gets_all_that_was_asked_for() -> None:
    older, newer = versions()[:2]

    async def work(steps: int) -> bool:
        zone = OfferedZone(ROOT)
        zone.put(older, OfferState.IN_SERVICE, forever)
        zone.put(newer, OfferState.IN_SERVICE, forever)
        assert (await zone.since(older.serial)).base == older.serial  # all is ready, but for this difference
        zone._made.pop(older.serial)
        asking = asyncio.create_task(zone.since(older.serial))
        for _ in range(steps):
            await asyncio.sleep(0)
        was_early = not asking.done()
        zone.withdraw()
        ready = await asking
        assert read(ready, older if ready.base is not None else None).rrsets == newer.rrsets
        return was_early

    assert [asyncio.run(work(steps)) for steps in range(1, 6)].count(True) >= 3


def test_who_began_with_one_version_gets_all_of_it() -> None:
    async def work() -> None:
        zone = OfferedZone(ROOT)
        zone.put(versions()[0], OfferState.IN_SERVICE, forever)
        before = await zone.whole()
        zone.put(others()[1], OfferState.IN_SERVICE, forever)
        assert read(before).rrsets == versions()[0].rrsets
        assert read(await zone.whole()).rrsets == others()[1].rrsets

    run(work())
