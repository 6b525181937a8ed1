"""The state machine of health/state: its drawing, its hold-down, its promise."""

import math

from hypothesis import given
from hypothesis import strategies as st

from rootsrv.health.evidence import (
    Cause,
    EvidencePolicy,
    Instance,
    Judgement,
    Load,
    Probe,
    ProbeOutcome,
    ProbeTransport,
    Round,
    RoundVerdict,
    judge,
)
from rootsrv.health.state import Announcement, Flaps, Health, State, Steadiness, Wish

PASS = Judgement(RoundVerdict.PASS)
STALE = Judgement(RoundVerdict.PASS, degrade=("a newer serial has been known and not served for 4000 s",))
SILENT = Judgement(RoundVerdict.FAIL, ("UDP 192.0.2.53: no answer to . SOA",), Cause.NO_ANSWER)
WRONG = Judgement(RoundVerdict.CEASE, ("UDP 192.0.2.53: wrong data to . SOA",), Cause.WRONG_DATA)
LOADED = Judgement(RoundVerdict.UNSURE, ("overload",))


class Site:
    """A Health that is observed once a second."""

    def __init__(self, **limits: float) -> None:
        self.now = 1000.0
        self.health = Health(Steadiness(**limits), self.now)  # type: ignore[arg-type]
        self.announcements = [self.health.announcement]

    def see(self, *judgements: Judgement, wish: Wish = Wish.SERVE, drained: bool = False) -> list[State]:
        states = []
        for judgement in judgements:
            self.now += 1
            self.health.observe(judgement, self.now, wish=wish, wish_reason="maintenance", drained=drained)
            states.append(self.health.state)
            if self.health.announcement is not self.announcements[-1]:
                self.announcements.append(self.health.announcement)
        return states


def site_that_is_up(**limits: float) -> Site:
    site = Site(**limits)
    site.see(PASS, PASS, PASS)
    assert site.health.state is State.UP
    return site


def test_starts_withdrawn_and_rises_with_the_third_pass() -> None:
    site = Site()

    assert site.see(PASS, PASS, PASS) == [State.RISING, State.RISING, State.UP]
    assert site.announcements == [Announcement.WITHDRAWN, Announcement.UP]


def test_a_failure_while_rising_starts_again() -> None:
    site = Site()

    assert site.see(PASS, PASS, SILENT, PASS, PASS, PASS)[2:] == [State.DOWN, State.RISING, State.RISING, State.UP]


def test_withdraws_on_the_second_failure_in_a_row() -> None:
    site = site_that_is_up(fall=2)

    assert site.see(SILENT, PASS, SILENT, SILENT) == [State.FALLING, State.UP, State.FALLING, State.DOWN]
    assert site.health.reason == "UDP 192.0.2.53: no answer to . SOA"


def test_wrong_data_withdraws_at_once() -> None:
    site = site_that_is_up()

    assert site.see(WRONG) == [State.DOWN]
    assert site.health.promise(site.now) == 0


def test_stale_data_degrades_and_fresh_data_restores() -> None:
    site = site_that_is_up()

    assert site.see(STALE, SILENT, STALE, PASS) == [State.DEGRADED, State.FALLING, State.DEGRADED, State.UP]
    assert site.announcements[1:] == [Announcement.UP, Announcement.DEGRADED, Announcement.UP]


def test_a_stale_site_rises_to_degraded() -> None:
    site = Site()

    assert site.see(STALE, STALE, STALE)[-1] is State.DEGRADED


def test_load_moves_nothing() -> None:
    up, down, falling = site_that_is_up(), Site(), site_that_is_up()
    falling.see(SILENT)

    assert set(up.see(*[LOADED] * 100)) == {State.UP}
    assert set(down.see(*[LOADED] * 100)) == {State.DOWN}
    assert set(falling.see(*[LOADED] * 100)) == {State.FALLING}


def test_what_cannot_be_seen_for_load_counts_neither_way() -> None:
    """Failures in a row, and passes, go on where they were."""
    falling, rising = site_that_is_up(fall=2), Site()

    assert falling.see(SILENT, LOADED, SILENT) == [State.FALLING, State.FALLING, State.DOWN]
    assert rising.see(PASS, PASS, LOADED, PASS)[-1] is State.UP


def test_a_new_one_has_failed_at_nothing_yet() -> None:
    site = Site(fall=2)
    assert (site.health.since, site.health.reason) == (site.now, "starting")
    assert site.health.cause is Cause.HEALTHY
    assert site.health.promise(site.now) == 0.0

    site.see(PASS)
    assert (site.health.state, site.health.reason) == (State.RISING, "passing")
    fresh = Health(Steadiness(fall=2, rise=1), 1000.0)
    fresh.observe(PASS, 1001.0)
    fresh.observe(SILENT, 1002.0)
    assert fresh.state is State.FALLING


def test_a_change_says_why() -> None:
    health = Health(Steadiness(rise=1), 1000.0)

    health.observe(PASS, 1001.0)
    change = health.observe(WRONG, 1002.0)

    assert change is not None
    assert (change.old, change.new, change.reason) == (State.UP, State.DOWN, "UDP 192.0.2.53: wrong data to . SOA")


def test_a_drain_goes_on_until_it_is_said_to_be_over() -> None:
    health = Health(Steadiness(rise=1), 1000.0)
    health.observe(PASS, 1001.0)

    health.observe(PASS, 1002.0, wish=Wish.DRAIN)

    assert (health.announcement, health.reason) == (Announcement.DRAINING, "")


def test_a_lease_of_less_than_a_second_is_promised_for_that_long() -> None:
    health = Health(Steadiness(rise=1), 1000.0)

    health.observe(Judgement(RoundVerdict.PASS, lease_seconds=0.25), 1001.0)

    assert health.promise(1001.0) == 0.25


def test_after_a_restart_the_time_announced_counts_from_the_new_announcement() -> None:
    health = Health(Steadiness(rise=1), 1000.0, Flaps(1, 0.0, announced_since=10.0))

    health.observe(PASS, 1001.0)

    assert (health.announcement, health.flaps.announced_since) == (Announcement.UP, 1001.0)


def test_who_has_to_be_announced_is_so_from_now_on() -> None:
    health = Health(Steadiness(rise=9), 1000.0, Flaps(1, 0.0, announced_since=10.0))

    health.observe(SILENT, 1001.0, must_announce=True)

    assert (health.announcement, health.flaps.announced_since) == (Announcement.UP, 1001.0)


def test_who_is_announced_without_a_round_that_counts_has_failed_at_nothing_either() -> None:
    health = Health(Steadiness(fall=2), 1000.0)
    health.observe(LOADED, 1001.0, must_announce=True)

    health.observe(SILENT, 1002.0)

    assert (health.state, health.announcement) == (State.FALLING, Announcement.UP)


def test_a_drain_that_is_taken_back_before_it_ended_interrupts_nothing() -> None:
    health = Health(Steadiness(rise=1), 1000.0)
    health.observe(PASS, 1001.0)
    health.observe(PASS, 1002.0, wish=Wish.DRAIN)

    health.observe(PASS, 1003.0)

    assert (health.announcement, health.flaps.announced_since) == (Announcement.UP, 1001.0)


def test_the_hold_down_runs_from_the_last_failure() -> None:
    site = site_that_is_up(hold_down_seconds=10)
    site.see(WRONG)

    assert site.see(*[PASS] * 9)[-1] is State.RISING
    assert site.see(PASS) == [State.UP]


def test_the_hold_down_doubles_with_each_withdrawal_up_to_its_maximum() -> None:
    site = site_that_is_up(hold_down_seconds=10, hold_down_max_seconds=60)
    waits = []
    for _ in range(5):
        site.see(WRONG)
        waits.append(site.health.hold_down_left(site.now))
        while site.see(PASS) != [State.UP]:
            pass

    assert waits == [10, 20, 40, 60, 60]


def test_the_hold_down_starts_again_after_a_long_quiet_time() -> None:
    site = site_that_is_up(hold_down_seconds=10, flap_memory_seconds=600)
    for _ in range(3):
        site.see(WRONG)
        while site.see(PASS) != [State.UP]:
            pass
    site.see(*[PASS] * 600)
    site.see(WRONG)

    assert site.health.hold_down_left(site.now) == 10


def test_a_restart_keeps_the_hold_down() -> None:
    restarted = Health(Steadiness(hold_down_seconds=10), 1000.0, Flaps(withdrawals=3, quiet_since=995.0))

    assert restarted.hold_down_left(1000.0) == 35


def test_a_fault_every_two_seconds_for_two_minutes_changes_the_route_at_most_three_times() -> None:
    for pattern in ([WRONG, PASS], [SILENT, SILENT, PASS, PASS], [WRONG] + [PASS] * 4, [SILENT, PASS]):
        site = site_that_is_up()
        site.see(*(pattern * 120)[:120])

        assert len(site.announcements) - 2 <= 3


def test_changes_of_the_announcement_are_counted_by_what_it_became_and_why() -> None:
    site = site_that_is_up(hold_down_seconds=0)
    site.see(STALE, SILENT, STALE, PASS, LOADED)
    site.see(SILENT, SILENT, PASS, PASS, PASS)
    site.see(PASS, PASS, wish=Wish.DRAIN)
    site.see(PASS, wish=Wish.DRAIN, drained=True)
    site.see(PASS, PASS, PASS, PASS, WRONG, STALE, STALE, STALE)

    assert {(route.value, cause.value): n for (route, cause), n in site.health.changes.items() if n} == {
        ("up", "healthy"): 4,  # the start, fresh again, answering again, undrained
        ("degraded", "stale"): 2,
        ("draining", "operator"): 1,
        ("withdrawn", "operator"): 1,
        ("withdrawn", "no_answer"): 1,
        ("withdrawn", "wrong_data"): 1,
    }


def test_a_drain_announces_graceful_shutdown_until_traffic_has_fallen() -> None:
    site = site_that_is_up()
    site.see(PASS, PASS, wish=Wish.DRAIN)
    site.see(PASS, wish=Wish.DRAIN, drained=True)
    site.see(PASS, wish=Wish.DRAIN)

    assert site.announcements[2:] == [Announcement.DRAINING, Announcement.WITHDRAWN]
    assert (site.health.state, site.health.reason) == (State.DRAINED, "maintenance")


def test_undrain_in_time_takes_the_drain_back_and_later_rises_anew() -> None:
    early, late = site_that_is_up(), site_that_is_up()
    early.see(PASS, wish=Wish.DRAIN)
    late.see(PASS, wish=Wish.DRAIN, drained=True)

    late.see(PASS, wish=Wish.DRAIN)

    assert early.see(PASS) == [State.UP]
    assert late.see(PASS, PASS, PASS, PASS) == [State.DOWN, State.RISING, State.RISING, State.UP]


def test_withdraw_now_withdraws_now_and_stays() -> None:
    site = site_that_is_up()
    site.see(PASS, wish=Wish.WITHDRAW)
    site.see(*[PASS] * 20, wish=Wish.WITHDRAW)

    assert site.announcements[2:] == [Announcement.WITHDRAWN]


def test_a_service_that_dies_while_it_drains_is_withdrawn() -> None:
    site = site_that_is_up()
    site.see(PASS, SILENT, SILENT, PASS, wish=Wish.DRAIN)

    assert site.announcements[2:] == [Announcement.DRAINING, Announcement.WITHDRAWN]


def test_a_drained_site_that_starts_is_never_announced() -> None:
    site = Site()
    site.see(*[PASS] * 10, wish=Wish.DRAIN)

    assert site.announcements == [Announcement.WITHDRAWN]


def test_the_promise_lapses_when_nobody_observes() -> None:
    site = site_that_is_up(lease_seconds=3)

    assert [site.health.promise(site.now + seconds) for seconds in (0, 1, 3, 60)] == [3, 2, 0, 0]


def test_the_promise_ends_with_the_lease_of_the_zone() -> None:
    site = site_that_is_up(lease_seconds=3)
    site.see(Judgement(RoundVerdict.PASS, lease_seconds=1.25))

    assert site.health.promise(site.now) == 1.25


def test_the_reason_is_what_speaks_against_it_and_else_that_it_passes() -> None:
    site = site_that_is_up()
    assert site.health.reason == "passing"
    site.see(STALE)
    assert site.health.reason == "a newer serial has been known and not served for 4000 s"
    site.see(PASS)
    assert site.health.reason == "passing"
    site.see(PASS, wish=Wish.DRAIN)
    assert site.health.reason == "maintenance"
    site.see(PASS)
    assert (site.health.reason, site.health.cause) == ("passing", Cause.HEALTHY)


def test_an_undrained_site_rises_from_the_beginning_and_says_why() -> None:
    site = site_that_is_up()
    site.see(PASS, wish=Wish.WITHDRAW)
    site.see(PASS)
    assert (site.health.state, site.health.reason) == (State.DOWN, "undrained")
    assert site.see(PASS, PASS, PASS) == [State.RISING, State.RISING, State.UP]

    failing = site_that_is_up()
    failing.see(PASS, wish=Wish.WITHDRAW)
    failing.see(SILENT)
    assert (failing.health.state, failing.health.reason) == (State.DOWN, SILENT.reason)
    assert failing.health.flaps.withdrawals == 0  # it was the operator's


def test_a_drain_that_is_taken_back_when_the_service_has_died_is_a_withdrawal_for_that() -> None:
    site = site_that_is_up(fall=2)
    site.see(PASS, SILENT, wish=Wish.DRAIN)
    assert site.health.announcement is Announcement.DRAINING

    site.see(SILENT)

    assert (site.health.state, site.health.announcement) == (State.DOWN, Announcement.WITHDRAWN)
    assert (site.health.reason, site.health.cause) == (SILENT.reason, Cause.NO_ANSWER)
    assert site.health.flaps == Flaps(withdrawals=1, quiet_since=site.now, announced_since=None)


def test_whatever_ends_while_it_drains_it_is_drained() -> None:
    for judgements, drained, route in (
        ((PASS,), False, Announcement.DRAINING),
        ((PASS,), True, Announcement.WITHDRAWN),
        ((WRONG,), False, Announcement.WITHDRAWN),
    ):
        site = site_that_is_up()
        assert site.see(*judgements, wish=Wish.DRAIN, drained=drained)[-1] is State.DRAINED
        assert site.health.announcement is route
        assert site.see(PASS, wish=Wish.DRAIN) == [State.DRAINED]


def test_the_quiet_time_is_over_when_it_is_as_long_as_what_is_remembered() -> None:
    for quiet, withdrawals in ((599.0, 2), (600.0, 1)):
        flaps = Flaps(withdrawals=1, quiet_since=0.0)
        health = Health(Steadiness(rise=1, hold_down_seconds=10, flap_memory_seconds=600), 1000.0, flaps)
        health.observe(PASS, 1000.0)
        assert health.flaps.announced_since == 1000.0
        health.observe(WRONG, 1000.0 + quiet)
        assert health.flaps == Flaps(withdrawals=withdrawals, quiet_since=1000.0 + quiet, announced_since=None)


def test_a_lost_token_announces_at_once_whatever_the_hold_down_says() -> None:
    site = site_that_is_up()
    site.see(WRONG)
    change = site.health.observe(STALE, site.now + 1, must_announce=True)

    assert change is not None
    assert (change.old, change.new) == (State.DOWN, State.DEGRADED)
    assert (change.before, change.announcement) == (Announcement.WITHDRAWN, Announcement.DEGRADED)
    assert site.health.flaps.announced_since == site.now + 1
    assert site.health.since == site.now + 1


def test_what_would_come_next_is_told_in_every_state() -> None:
    site = Site(rise=3, fall=2, hold_down_seconds=10)
    told = lambda: site.health.outlook(site.now)  # noqa: E731

    assert told() == "announced after 3 passes in a row"
    site.see(PASS)
    assert told() == "announced after 2 more passes"
    site.see(PASS, PASS)
    stays = "withdrawn after 2 failures in a row, or at once for wrong or expired data"
    assert told() == stays
    site.see(STALE)
    assert told() == stays
    site.see(SILENT)
    assert told() == "withdrawn after 1 more failures, back with the next pass"
    site.see(SILENT)
    assert told() == "announced after 3 passes in a row and 10 s without failure"
    site.see(*[PASS] * 4)
    assert told() == "announced after 0 more passes and 6 s without failure"
    site.see(*[PASS] * 6)
    site.see(PASS, wish=Wish.DRAIN)
    assert told() == "withdrawn when traffic has fallen; `rootsrv undrain` takes it back"
    site.see(PASS, wish=Wish.DRAIN, drained=True)
    assert told() == "stays withdrawn until `rootsrv undrain`"


OUTCOMES = st.sampled_from(ProbeOutcome)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[float, Round, Instance, Wish, bool]:
    probes = tuple(
        Probe("192.0.2.53", transport, str(number), draw(OUTCOMES))
        for transport in ProbeTransport
        for number in range(2)
    )
    load = {transport: Load(draw(st.integers(0, 9)), draw(st.booleans())) for transport in ProbeTransport}
    instance = Instance(
        generation=draw(st.integers(0, 2)),
        lease_seconds=draw(st.floats(-10, 10)),
        switchover_failed=draw(st.booleans()) and draw(st.booleans()),
        behind_seconds=draw(st.sampled_from([0.0, 4000.0, 172_800.0])),
        workers_alive=draw(st.integers(0, 1)),
    )
    return draw(st.floats(0.1, 30)), Round(probes, load), instance, draw(st.sampled_from(Wish)), draw(st.booleans())


@given(st.lists(rounds(), max_size=40))
def test_no_sequence_announces_past_the_lease_or_what_must_not_be_answered(
    sequence: list[tuple[float, Round, Instance, Wish, bool]],
) -> None:
    now = 0.0
    health = Health(Steadiness(rise=1, hold_down_seconds=1), now)
    changes = 0
    for wait, round_, instance, wish, drained in sequence:
        now += wait
        before = health.announcement
        health.observe(judge(round_, instance, EvidencePolicy()), now, wish=wish, drained=drained)
        announced = health.announcement is not Announcement.WITHDRAWN
        changes += health.announcement is not before
        assert sum(health.changes.values()) == changes
        promise = health.promise(now)

        assert (promise > 0) <= announced
        assert promise <= max(0.0, min(3.0, instance.lease_seconds)) + math.ulp(now)
        assert health.promise(now + 3.0) == 0
        must_not = (
            instance.lease_seconds <= 0
            or not instance.generation
            or instance.switchover_failed
            or instance.behind_seconds >= 172_800
            or any(probe.outcome is ProbeOutcome.WRONG for probe in round_.probes)
            or wish is Wish.WITHDRAW
        )
        assert not (announced and must_not)


@st.composite
def loaded_rounds(draw: st.DrawFn) -> tuple[float, Round]:
    """Any mixture of answered and lost probes while the workers answer others."""
    outcome = st.sampled_from([ProbeOutcome.RIGHT, ProbeOutcome.SILENT])
    probes = tuple(
        Probe("192.0.2.53", transport, str(number), draw(outcome))
        for transport in ProbeTransport
        for number in range(3)
    )
    load = {transport: Load(3 + draw(st.integers(1, 10**9))) for transport in ProbeTransport}
    return draw(st.floats(0.1, 30)), Round(probes, load)


@given(st.lists(loaded_rounds(), max_size=60))
def test_no_sequence_of_loaded_rounds_withdraws(sequence: list[tuple[float, Round]]) -> None:
    site = site_that_is_up()
    instance = Instance(generation=1, lease_seconds=1e6)
    for wait, round_ in sequence:
        site.now += wait
        site.see(judge(round_, instance, EvidencePolicy()))

    assert site.announcements == [Announcement.WITHDRAWN, Announcement.UP]
