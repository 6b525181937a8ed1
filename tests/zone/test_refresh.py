"""Refresh decides what to ask whom, and nothing that a primary says makes it go back or forget the others."""

import contextlib
import random
from collections.abc import Callable, Iterator

import pytest

from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.refresh import AskSerial, Fetch, Refresh, Timers

TIMERS = Timers(refresh=1800, retry=900)
SERIAL = 2025091101


def zone_in_service(*primaries: str, now: float = 0.0) -> Refresh:
    refresh = Refresh(primaries, TIMERS, now, SERIAL)
    refresh.next_refresh = now + TIMERS.refresh
    return refresh


def test_asks_every_primary_when_the_refresh_is_due() -> None:
    refresh = zone_in_service("a", "b")

    assert refresh.decide(1799) == []
    assert refresh.wakeup == 1800
    assert refresh.decide(1800) == [AskSerial("a"), AskSerial("b")]
    assert refresh.decide(1801) == []


def test_a_notify_asks_that_primary_at_once() -> None:
    refresh = zone_in_service("a", "b")

    refresh.notified("b", SERIAL + 1, 10)

    assert refresh.decide(10) == [AskSerial("b")]


def test_a_notify_of_what_we_have_asks_nobody() -> None:
    refresh = zone_in_service("a")

    refresh.notified("a", SERIAL, 10)
    refresh.notified("a", SERIAL - 1, 10)

    assert refresh.decide(10) == []


def test_a_notify_of_what_we_have_asks_while_it_must_not_be_answered_from_back_off_or_not() -> None:
    for serial in (SERIAL, None):
        refresh = zone_in_service("a")
        refresh.failed("a", "timed out", 9)

        refresh.notified("a", serial, 10)
        assert refresh.decide(10) == []
        refresh.notified("a", SERIAL - 1, 10, expired=True)
        assert refresh.decide(10) == []
        refresh.notified("a", serial, 10, expired=True)

        assert refresh.decide(10) == [AskSerial("a")]


def flooded(serial: int | None, seconds: int = 60) -> tuple[int, Refresh]:
    """How often the SOA is asked for while a NOTIFY comes every millisecond, and an answer after ten."""
    refresh = zone_in_service("a", "b")
    asked = 0
    answer_at = 0.0
    for millisecond in range(1000 * seconds):
        now = 10 + millisecond / 1000
        refresh.notified("a", serial, now)
        if refresh.primaries["a"].asking and now >= answer_at:
            refresh.answered("a", SERIAL, now)
        for action in refresh.decide(now):
            assert action == AskSerial("a")
            asked, answer_at = asked + 1, now + 0.01
    return asked, refresh


def test_a_flood_of_notifies_that_prove_nothing_asks_seldom_and_moves_nothing() -> None:
    asked, refresh = flooded(None)

    assert Refresh.NOTIFY_BURST <= asked <= Refresh.NOTIFY_BURST + 60 / Refresh.NOTIFY_SECONDS
    assert refresh.known == SERIAL
    assert refresh.primaries["a"].notified_at is not None


def test_a_signed_notify_that_is_replayed_asks_seldom() -> None:
    refresh = zone_in_service("a")
    asked = 0
    for step in range(6000):
        refresh.notified("a", SERIAL + 1, 10 + step / 100)
        for action in refresh.decide(10 + step / 100):
            asked += action == AskSerial("a")
            refresh.failed("a", "timed out", 10 + step / 100)  # it is a serial that it never delivers
    assert asked <= 1 + Refresh.NOTIFY_BURST + 60 / Refresh.NOTIFY_SECONDS + len(Refresh.AGAIN_SECONDS)


def times_asked(refresh: Refresh, until: float, then: Callable[[float], None]) -> list[float]:
    """When the SOA is asked for; *then*: how that ends."""
    times = []
    while (now := refresh.wakeup) < until:
        for action in refresh.decide(now):
            assert action == AskSerial("a")
            times.append(now)
            then(now)
    return times


@pytest.mark.parametrize("ending", ["older", "older transferred", "failed", "transfer failed"])
def test_whoever_is_behind_its_own_notify_or_fails_is_asked_again_soon_and_then_seldom(ending: str) -> None:
    refresh = zone_in_service("a")

    def then(now: float) -> None:
        match ending:
            case "older":
                assert refresh.answered("a", SERIAL, now)
            case "older transferred":
                refresh.delivered("a", SERIAL - 1, now)
            case "failed":
                refresh.failed("a", "connection reset", now)
            case _:
                refresh.answered("a", SERIAL + 1, now)
                assert refresh.decide(now) == [Fetch("a", SERIAL + 1)]
                refresh.failed("a", "connection reset", now)

    refresh.notified("a", SERIAL + 1, 0)
    assert refresh.decide(0) == [AskSerial("a")]
    then(0)
    times = times_asked(refresh, 1000, then)

    waits = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert waits[:7] == list(Refresh.AGAIN_SECONDS)
    assert len(times) <= 7 + 4
    assert times[7] - times[6] >= 10
    assert times[-1] - times[-2] >= 400


@pytest.mark.parametrize("signed", [False, True])
def test_a_notify_that_names_nothing_and_comes_before_the_zone_is_asked_about_twice_more(signed: bool) -> None:
    refresh = zone_in_service("a")
    if signed:  # what it named before is known, and promises nothing any more
        refresh.notified("a", SERIAL + 1, 5)
        refresh.decide(5)
        refresh.answered("a", SERIAL + 1, 5)
        refresh.decide(5)
        refresh.delivered("a", SERIAL + 1, 5)
        refresh.accepted(SERIAL + 1, TIMERS, 5)
    ours = refresh.serial
    assert ours is not None

    def have_ours(now: float) -> None:
        refresh.answered("a", ours, now)

    refresh.notified("a", None, 10)
    assert refresh.decide(10) == [AskSerial("a")]
    refresh.answered("a", ours, 10)

    assert times_asked(refresh, 1000, have_ours) == [11, 15]

    refresh.notified("a", None, 1000)
    assert refresh.decide(1000) == [AskSerial("a")]
    refresh.answered("a", ours + 1, 1000)
    assert refresh.decide(1000) == [Fetch("a", ours + 1)]
    refresh.delivered("a", ours + 1, 1000)
    refresh.accepted(ours + 1, TIMERS, 1000)
    assert refresh.wakeup == 1000 + TIMERS.refresh


def test_a_connection_that_was_reset_after_a_notify_that_promises_nothing_is_tried_again_once_soon() -> None:
    refresh = zone_in_service("a")
    refresh.notified("a", None, 10)
    assert refresh.decide(10) == [AskSerial("a")]
    times = []
    refresh.failed("a", "connection reset", 10)
    while (now := refresh.wakeup) < 200:
        refresh.notified("a", None, now - 0.01)  # whoever repeats it gains nothing
        for _ in refresh.decide(now):
            times.append(now)
            refresh.failed("a", "connection reset", now)

    assert times == [11, 31, 71, 151]


def test_who_sent_no_notify_is_not_asked_again() -> None:
    refresh = zone_in_service("a")
    refresh.demand(0)
    assert refresh.decide(0) == [AskSerial("a")]
    refresh.answered("a", SERIAL, 0)
    assert refresh.wakeup == TIMERS.refresh


def test_replays_of_notifies_that_are_not_kept_ask_no_more_often() -> None:
    refresh = zone_in_service("a")
    asked = 0
    for step in range(6000):
        refresh.notified("a", SERIAL + 1 + step % 2, 10 + step / 100)
        for action in refresh.decide(10 + step / 100):
            asked += action == AskSerial("a")
            refresh.answered("a", SERIAL, 10 + step / 100)
    assert asked <= 2 + Refresh.NOTIFY_BURST + 60 / Refresh.NOTIFY_SECONDS + len(Refresh.AGAIN_SECONDS)


def test_a_promise_ends_with_what_was_promised_wherever_it_came_from() -> None:
    kept = zone_in_service("a")
    kept.notified("a", SERIAL + 1, 0)
    kept.decide(0)
    kept.answered("a", SERIAL + 2, 0)
    kept.decide(0)
    kept.delivered("a", SERIAL + 2, 0)
    kept.accepted(SERIAL + 2, TIMERS, 0)
    assert kept.wakeup == TIMERS.refresh

    elsewhere = zone_in_service("a", "b")
    elsewhere.notified("a", SERIAL + 1, 0)
    elsewhere.decide(0)
    elsewhere.answered("a", SERIAL, 0)
    elsewhere.accepted(SERIAL + 1, TIMERS, 0.1)
    assert elsewhere.decide(elsewhere.wakeup) == [AskSerial("a")]
    elsewhere.answered("a", SERIAL, 0.3)
    assert elsewhere.wakeup == 0.1 + TIMERS.refresh

    # What was promised then is past: a hint counts again.
    elsewhere.notified("a", None, 10)
    assert elsewhere.decide(10) == [AskSerial("a")]
    elsewhere.answered("a", SERIAL + 1, 10)
    assert elsewhere.wakeup == 11


def test_the_last_notify_of_a_burst_is_not_lost() -> None:
    refresh = zone_in_service("a")
    for step in range(Refresh.NOTIFY_BURST + 1):
        refresh.notified("a", None, 10 + step / 100)
        refresh.decide(10 + step / 100)
        if refresh.primaries["a"].asking:
            refresh.answered("a", SERIAL, 10 + step / 100)

    assert refresh.decide(11) == []
    assert 10 < refresh.wakeup <= 10 + Refresh.NOTIFY_SECONDS + 0.1
    assert refresh.decide(refresh.wakeup) == [AskSerial("a")]


def test_a_flood_of_notifies_keeps_nobody_from_fetching() -> None:
    refresh = zone_in_service("a")
    fetched = False
    for step in range(1000):
        now = 10 + step / 100
        refresh.notified("a", None, now)
        for action in refresh.decide(now):
            if action == AskSerial("a"):
                refresh.answered("a", SERIAL + 1, now)
            else:
                fetched = True
    assert fetched


def test_a_notify_while_the_soa_is_asked_for_asks_again() -> None:
    refresh = zone_in_service("a")
    refresh.notified("a", None, 10)
    assert refresh.decide(10) == [AskSerial("a")]
    refresh.notified("a", None, 10.1)
    assert refresh.decide(10.1) == []

    refresh.answered("a", SERIAL, 10.2)

    assert refresh.decide(10.2) == [AskSerial("a")]


def test_fetches_the_newest_serial_that_is_offered_and_the_same_one_elsewhere_only_after_the_hedge() -> None:
    refresh = zone_in_service("a", "b", "c")
    refresh.demand(0)
    refresh.decide(0)
    assert not refresh.answered("a", SERIAL + 1, 1)
    assert not refresh.answered("b", SERIAL + 1, 1)

    assert refresh.decide(1) == [Fetch("a", SERIAL + 1)]
    assert refresh.decide(2) == []
    refresh.answered("c", SERIAL + 2, 2)
    assert refresh.decide(2) == [Fetch("c", SERIAL + 2)]
    assert refresh.decide(2.9) == []
    refresh.failed("c", "stalled", 3.5)
    assert refresh.decide(3.5) == [Fetch("b", SERIAL + 1)]


def test_a_primary_that_stalls_does_not_hold_up_another() -> None:
    refresh = zone_in_service("a", "b")
    refresh.demand(0)
    refresh.decide(0)
    refresh.answered("a", SERIAL + 1, 0)
    assert refresh.decide(0) == [Fetch("a", SERIAL + 1)]
    refresh.answered("b", SERIAL + 1, 0)

    assert refresh.wakeup == Refresh.HEDGE_SECONDS
    assert refresh.decide(refresh.wakeup) == [Fetch("b", SERIAL + 1)]


def test_the_same_serial_is_tried_at_another_primary_when_it_did_not_verify() -> None:
    refresh = zone_in_service("a", "b")
    refresh.demand(0)
    refresh.decide(0)
    refresh.answered("a", SERIAL + 1, 0)
    refresh.answered("b", SERIAL + 1, 0)
    refresh.decide(0)
    refresh.delivered("a", SERIAL + 1, 1)
    assert refresh.decide(1) == []

    refresh.rejected("a", SERIAL + 1, "ZONEMD", 2)

    assert refresh.decide(2) == [Fetch("b", SERIAL + 1)]


def test_back_off_doubles_and_only_a_notify_of_another_serial_ends_it_early() -> None:
    refresh = zone_in_service("a")
    refresh.demand(0)
    now = 0.0
    waits = []
    for _ in range(9):
        assert refresh.decide(now) == [AskSerial("a")]
        refresh.failed("a", "timed out", now)
        waits.append(refresh.primaries["a"].not_before - now)
        assert refresh.decide(now + waits[-1] - 0.1) == []
        now += waits[-1]
    assert waits == [10, 20, 40, 80, 160, 320, 640, 900, 900]

    refresh.answered("a", SERIAL + 1, now)
    refresh.decide(now)
    refresh.delivered("a", SERIAL + 1, now)
    refresh.rejected("a", SERIAL + 1, "RRSIG", now)
    refresh.notified("a", SERIAL + 1, now)
    assert refresh.decide(now) == []
    refresh.notified("a", SERIAL + 2, now)
    assert refresh.decide(now) == [AskSerial("a")]


def test_an_older_serial_is_neither_fetched_nor_a_confirmation() -> None:
    refresh = zone_in_service("a")
    refresh.demand(0)
    refresh.decide(0)

    assert not refresh.answered("a", SERIAL - 1, 0)
    assert refresh.decide(0) == []
    refresh.demand(1)
    refresh.decide(1)
    assert refresh.answered("a", SERIAL, 1)


def test_a_serial_is_known_when_two_primaries_name_it_or_the_only_one() -> None:
    refresh = zone_in_service("a", "b", "c")
    refresh.notified("a", SERIAL + 5, 0)
    assert refresh.known == SERIAL
    refresh.notified("b", SERIAL + 5, 0)
    assert refresh.known == SERIAL + 5

    alone = zone_in_service("a")
    alone.notified("a", SERIAL + 1, 0)
    assert alone.known == SERIAL + 1


def test_what_the_operator_dropped_is_not_fetched_again_but_what_comes_after_it_is() -> None:
    refresh = zone_in_service("a")
    refresh.dropped(SERIAL + 1)
    refresh.notified("a", SERIAL + 1, 0)
    assert refresh.decide(0) == []
    refresh.notified("a", SERIAL + 2, 0)
    assert refresh.decide(0) == [AskSerial("a")]


HONEST, LIAR, SILENT = "honest", "liar", "silent"


@pytest.mark.parametrize("first", range(0, 3000, 500))
def test_serials_never_go_back_and_an_honest_primary_is_always_heard_in_time(first: int) -> None:
    for seed in range(first, first + 500):
        with told(f"seed {seed}"):
            live_through(random.Random(seed))


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as fault:
        fault.add_note(what)
        raise


def live_through(chance: random.Random) -> None:
    """Three primaries: one publishes, one says and sends anything, one never ends what it began."""
    now = 0.0
    published = serial = SERIAL
    refresh = Refresh([HONEST, LIAR, SILENT], TIMERS, now, serial)
    hanging: list[tuple[float, str]] = []

    def lie() -> int:
        """Any serial: far, near, or just not newer (RFC 1982 §3.2)."""
        near = chance.choice((serial, published, 0, 2**31))
        return chance.choice(
            (chance.randrange(2**32), (near + chance.randint(-2, 2)) % 2**32, (serial + 2**31) % 2**32)
        )

    for _ in range(chance.randint(5, 60)):
        match chance.choice(("pass", "publish", "notify", "lying notify", "demand")):
            case "publish":
                published = (published + chance.randint(1, 1000)) % 2**32
            case "notify":
                refresh.notified(HONEST, chance.choice((None, published)), now)
            case "lying notify":
                refresh.notified(LIAR, chance.choice((None, lie())), now)
            case "demand":
                refresh.demand(now)
            case _:
                now += chance.choice((0.1, chance.uniform(0.1, 60), chance.uniform(0.1, 4000)))
        for _ in range(20):
            for began, primary in [each for each in hanging if now >= each[0] + 30]:
                hanging.remove((began, primary))
                refresh.failed(primary, "timed out", now)
            actions = refresh.decide(now)
            if not actions:
                break
            for action in actions:
                if isinstance(action, Fetch):
                    assert serial_is_newer(action.serial, serial)
                if action.primary == SILENT:
                    hanging.append((now, SILENT))
                elif action.primary == HONEST:
                    if isinstance(action, AskSerial):
                        assert refresh.answered(HONEST, published, now) == (published == refresh.serial)
                    else:
                        refresh.delivered(HONEST, published, now)
                        if serial_is_newer(published, serial):
                            refresh.accepted(published, TIMERS, now)
                elif chance.random() < 0.5:
                    refresh.failed(LIAR, "reset", now)
                elif isinstance(action, AskSerial):
                    refresh.answered(LIAR, lie(), now)
                else:
                    sent = lie()
                    refresh.delivered(LIAR, sent, now)
                    refresh.rejected(LIAR, sent, "does not verify", now)
                assert refresh.serial == serial or serial_is_newer(refresh.serial or 0, serial)
                serial = refresh.serial or 0
    # However it went: once the timers have run the honest primary's zone is here.
    for _ in range(200):
        now = max(now, refresh.wakeup)
        for began, primary in [each for each in hanging if now >= each[0] + 30]:
            hanging.remove((began, primary))
            refresh.failed(primary, "timed out", now)
        for action in refresh.decide(now):
            if action.primary != HONEST:
                hanging.append((now, action.primary))
            elif isinstance(action, AskSerial):
                refresh.answered(HONEST, published, now)
            else:
                refresh.delivered(HONEST, published, now)
                if serial_is_newer(published, refresh.serial or 0):
                    refresh.accepted(published, TIMERS, now)
        if refresh.serial == published:
            break
    assert refresh.serial == published
