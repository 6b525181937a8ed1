"""One zone's life: what is in service never goes back, and is answered from no longer than it may be."""

import random
from dataclasses import replace

import pytest

from rootsrv.demo import generate
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.delivery import Delivery, Origin
from rootsrv.zone.lease import Reading, TrustedClock
from rootsrv.zone.life import Distrusted, Held, Idle, InService, Judged, Over, Running, Scheduled, Unserved, ZoneLife

NOW = 1_000.0
WALL = 1_800_000_000.0


@pytest.fixture(scope="module")
def versions() -> dict[int, ZoneContents]:
    """Small zones by serial."""
    return {serial: generate.hosts_contents(serial=serial) for serial in range(1, 9)}


def life(**settings: float) -> ZoneLife:
    return ZoneLife(TrustedClock(Reading(WALL, NOW, True)), **settings)


def delivered(contents: ZoneContents, expire: int = 3600, at: float = NOW) -> Delivery:
    return Delivery(contents, Origin("one", "axfr", WALL, at, "one"), expire, authenticated=True)


def serve(zone: ZoneLife, contents: ZoneContents, expire: int = 3600, now: float = NOW) -> None:
    zone.take(delivered(contents, expire, now))
    zone.accept(delivered(contents, expire, now), None, ())
    zone.activated(now)


def test_a_delivery_becomes_what_is_in_service(versions: dict[int, ZoneContents]) -> None:
    zone = life()
    delivery = delivered(versions[1])
    assert (zone.coming, zone.service, zone.deadline(NOW)) == (Idle(), Unserved(), None)

    zone.queue_up(delivery, 2)
    assert zone.is_under_way(1)
    zone.take(zone.queue.pop())
    assert zone.coming == Judged(delivery)
    assert zone.is_under_way(1)
    version = zone.accept(delivery, None, ("odd",))
    assert zone.coming == Scheduled(version)
    assert zone.newest is version
    assert zone.serving is None
    zone.activated(NOW + 5)

    assert (zone.coming, zone.service, zone.floor) == (Idle(), InService(version, NOW + 5), 1)
    assert zone.deadline(NOW + 5) == NOW + 3600
    assert not zone.is_under_way(1)


@pytest.mark.parametrize("scheduled", [False, True], ids=["judged", "scheduled"])
def test_what_does_not_get_there_leaves_what_is_in_service(versions: dict[int, ZoneContents], scheduled: bool) -> None:
    zone = life()
    serve(zone, versions[1])
    before = zone.service
    zone.take(delivered(versions[2]))
    if scheduled:
        zone.accept(delivered(versions[2]), None, ())
    zone.let_go()
    assert (zone.coming, zone.service, zone.floor) == (Idle(), before, 1)


def test_what_answered_nobody_leaves_no_trace(versions: dict[int, ZoneContents]) -> None:
    zone = life()
    serve(zone, versions[1])
    zone.distrust("its anchors have gone")
    zone.hold(Held(2, ("small",), "one", WALL, ""))
    zone.hold(Held(4, ("small",), "one", WALL, ""))
    service = zone.service
    zone.accept(delivered(versions[3]), None, ())
    before = zone.activated(NOW + 1)
    assert (zone.floor, list(zone.held), zone.distrusted) == (3, [4], "")
    zone.stayed(before)
    assert (zone.service, list(zone.held), zone.floor) == (service, [2, 4], 1)
    assert zone.deadline(NOW + 1) == 0.0  # it is as distrusted as it was


def test_what_is_distrusted_has_no_time_left_until_it_is_trusted_or_replaced(
    versions: dict[int, ZoneContents],
) -> None:
    zone = life()
    serve(zone, versions[1])
    zone.judged_again("the anchors cannot be read")
    zone.distrust("it does not verify")
    assert isinstance(zone.service, Distrusted)
    assert (zone.distrusted, zone.unjudged) == ("it does not verify", "the anchors cannot be read")
    assert zone.is_over(NOW)
    zone.trust()
    assert zone.deadline(NOW) == NOW + 3600
    zone.distrust("it does not verify")
    serve(zone, versions[2])
    assert (zone.distrusted, zone.unjudged, zone.is_over(NOW)) == ("", "", False)


def test_the_end_of_a_lease_is_told_once_and_asked_about_every_retry(versions: dict[int, ZoneContents]) -> None:
    zone = life()
    serve(zone, versions[1], expire=100)
    assert zone.watch(NOW + 99, 10) == type(zone.watch(NOW + 99, 10))()
    first = zone.watch(NOW + 100, 10)
    assert (first.over, first.ask, zone.lease_state) == ("no primary has confirmed it in time", True, Over(NOW + 110))
    told = [zone.watch(NOW + 100 + seconds, 10) for seconds in range(1, 21)]
    assert [at for at, each in enumerate(told, 1) if each.ask] == [10, 20]
    assert not any(each.over for each in told)
    assert zone.confirm(None, NOW + 121)
    assert zone.watch(NOW + 121, 10).renewed
    assert zone.lease_state == Running()
    assert not zone.watch(NOW + 122, 10).renewed


def test_why_a_lease_is_over(versions: dict[int, ZoneContents]) -> None:
    zone = life()
    zone.accept(delivered(versions[1]), WALL + 50, ())
    zone.activated(NOW)
    assert zone.watch(NOW + 50, 10).over == "its signatures have ended"
    other = life()
    serve(other, versions[1])
    other.distrust("it does not verify")
    assert other.watch(NOW, 10).over == "it does not verify"


@pytest.mark.parametrize(
    ("left", "new", "refresh", "fault"),
    [
        (3600, 0, 1800, "is over"),
        (3600, 1000, 1800, "would end in 1000 s"),
        (900, 1000, 1800, ""),  # better than what is left
        (3600, 1800, 1800, ""),  # one refresh is enough
    ],
)
def test_a_lease_that_is_worse_takes_nothing_over(
    versions: dict[int, ZoneContents], left: int, new: int, refresh: int, fault: str
) -> None:
    zone = life()
    serve(zone, versions[1], expire=left)
    said = zone.lease_fault(delivered(versions[2], expire=new), NOW, refresh)
    assert fault in said
    assert bool(said) is bool(fault)
    assert zone.lease_fault(delivered(versions[1], expire=new), NOW, refresh) == ""  # the same again


def test_the_operators_limit_bounds_every_lease(versions: dict[int, ZoneContents]) -> None:
    zone = life(max_serve_seconds=60)
    serve(zone, versions[1])
    assert zone.deadline(NOW) == NOW + 60
    zone.confirm(None, NOW + 30)
    assert zone.deadline(NOW + 30) == NOW + 90


def test_only_the_newest_deliveries_wait_each_serial_once(versions: dict[int, ZoneContents]) -> None:
    zone = life()
    for serial in (3, 1, 4, 2, 4):
        zone.queue_up(delivered(versions[serial]), 3)
    assert [each.serial for each in zone.queue] == [4, 3, 2]


def test_a_newer_serial_is_known_from_when_it_is_first_heard_of(versions: dict[int, ZoneContents]) -> None:
    zone = life()
    serve(zone, versions[1])
    zone.note_known(1, NOW)
    assert zone.known_since is None
    zone.note_known(2, NOW + 5)
    zone.note_known(3, NOW + 9)
    assert zone.known_since == NOW + 5
    serve(zone, versions[3], now=NOW + 20)
    zone.note_known(3, NOW + 20)
    assert zone.known_since is None
    zone.hold(Held(5, (), "one", WALL, ""))
    assert zone.known(3) == 5


def test_whatever_happens_the_floor_never_sinks(versions: dict[int, ZoneContents]) -> None:
    """Invariant: but for `stayed`, which undoes one `activated`, the floor is the newest serial ever in service."""
    choose = random.Random(13)
    for _ in range(300):
        zone, now, floor = life(), NOW, None
        for _ in range(30):
            now += choose.choice([0.0, 1.0, 500.0, 4000.0])
            delivery = delivered(versions[choose.randint(1, 8)], choose.choice([0, 60, 3600]), now)
            may = zone.floor is None or serial_is_newer(delivery.serial, zone.floor)
            match choose.randint(0, 7):
                case 0 | 1 if may and not zone.lease_fault(delivery, now, None):
                    zone.take(delivery)
                    zone.accept(delivery, None, ())
                    zone.activated(now)
                    floor = delivery.serial
                case 2 if may:
                    before_service = zone.service
                    zone.accept(delivery, None, ())
                    zone.stayed(zone.activated(now))
                    assert zone.service == before_service
                case 3:
                    zone.take(delivery)
                    zone.let_go()
                case 4 if zone.serving is not None:
                    zone.distrust("x")
                case 5 if zone.serving is not None:
                    zone.trust()
                case 6:
                    zone.watch(now, 60)
                case 7 if zone.newest is not None:
                    zone.confirm(choose.choice([None, 60]), now)
            assert zone.floor == floor
            assert zone.coming == Idle()
            deadline = zone.deadline(now)
            assert (deadline is None) is (zone.serving is None)
            assert deadline is None or zone.is_over(now) is (deadline <= now)
            assert not (zone.distrusted and not zone.is_over(now))


def test_what_was_in_service_before_a_restart_and_cannot_be_read_still_stands_in_the_way(
    versions: dict[int, ZoneContents],
) -> None:
    zone = life()
    zone.recall_floor(5)
    assert (zone.floor, zone.serving) == (5, None)
    serve(zone, versions[6])
    assert zone.floor == 6
    again = life()
    version = zone.serving
    assert version is not None
    again.recall(version, NOW)
    assert (again.floor, again.service) == (6, InService(version, NOW))


def test_what_is_in_service_can_be_judged_once_more_as_it_was_confirmed_last(
    versions: dict[int, ZoneContents],
) -> None:
    zone = life()
    serve(zone, versions[1], expire=100)
    zone.confirm(200, NOW + 50)
    assert zone.serving is not None
    again = zone.serving.again()
    assert again.origin == replace(
        zone.serving.delivery.origin, received_at=WALL + 50, confirmed_boottime=NOW + 50, primary=""
    )
    assert (again.expire_seconds, again.approved, again.kept, again.authenticated) == (200, True, True, True)


def test_when_a_serial_was_heard_of_first_stays_with_it(versions: dict[int, ZoneContents]) -> None:
    zone = life()
    serve(zone, versions[1])
    assert zone.service == InService(zone.serving, NOW, None)  # type: ignore[arg-type]
    zone.note_known(2, NOW + 1)
    zone.note_known(3, NOW + 4)
    zone.receive(3, NOW + 6)
    serve(zone, versions[3], now=NOW + 9)
    assert zone.service == InService(zone.serving, NOW + 9, WALL + 4)  # type: ignore[arg-type]
    zone.distrust("x")
    zone.trust()
    assert zone.service == InService(zone.serving, NOW + 9, WALL + 4)  # type: ignore[arg-type]
    for serial in range(100, 200):
        zone.hear_of(serial, WALL)
    assert len(zone.heard_of) == 16


def test_since_when_it_is_in_service_outlives_a_restart(versions: dict[int, ZoneContents]) -> None:
    zone = life()
    serve(zone, versions[1])
    assert zone.serving is not None
    again = life()
    again.recall(zone.serving, NOW, WALL - 500, WALL - 510)
    assert again.service == InService(zone.serving, NOW - 500, WALL - 510)
    again.recall(zone.serving, NOW, WALL + 500, None)  # a clock that went back
    assert again.service == InService(zone.serving, NOW, None)
