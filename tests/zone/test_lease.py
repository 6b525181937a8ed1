"""A lease ends when it should, whatever the wall clock does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.process import clocks
from rootsrv.zone.lease import MAX_STEP_SECONDS, ClockState, Lease, Reading, TrustedClock

NOON = 1_758_369_600.0  # 2025-09-20T12:00:00Z
DAY = 86_400.0
HOUR, YEAR = 3_600.0, 365 * DAY


def lease(*, expire: float = 7 * DAY, signatures: float | None = 13 * DAY, confirmed_boottime: float = 0.0) -> Lease:
    return Lease(2025091902, NOON, confirmed_boottime, expire, None if signatures is None else NOON + signatures)


def synchronised_clock() -> TrustedClock:
    return TrustedClock(Reading(NOON, 0.0, True))


def test_ends_at_the_earliest_of_soa_expire_and_signatures() -> None:
    clock = synchronised_clock()
    assert lease().deadline(clock, 0) == 7 * DAY
    assert lease(signatures=3 * DAY).deadline(clock, 0) == 3 * DAY
    assert lease(signatures=None).deadline(clock, 0) == 7 * DAY


def test_a_confirmed_refresh_renews_it_and_a_shorter_expire_option_does_not_shorten_it() -> None:
    clock = synchronised_clock()
    clock.observe(Reading(NOON + 2 * DAY, 2 * DAY, True))
    assert lease().renewed(clock, 2 * DAY, 7 * DAY).deadline(clock, 2 * DAY) == 9 * DAY
    assert lease().renewed(clock, 2 * DAY, 1 * DAY).deadline(clock, 2 * DAY) == 7 * DAY


@pytest.mark.parametrize("step", [HOUR, -HOUR, YEAR, -YEAR])
@pytest.mark.parametrize("synchronised", [True, False])
def test_the_clock_stepped_an_hour_and_a_year_both_ways_moves_no_deadline(step: float, synchronised: bool) -> None:
    clock = synchronised_clock()
    held = lease(signatures=3 * DAY)
    before = held.deadline(clock, 10)

    clock.observe(Reading(NOON + 10 + step, 10, synchronised))

    assert clock.state is (ClockState.STEPPED if synchronised else ClockState.FREE_RUNNING)
    assert clock.distance == pytest.approx(step)
    assert held.deadline(clock, 11) == pytest.approx(before)


def test_all_deadlines_follow_once_the_clock_is_synchronised_again() -> None:
    clock = synchronised_clock()
    clock.observe(Reading(NOON + 10, 10, False))
    clock.observe(Reading(NOON + 60 + 100, 60, True))
    assert clock.state is ClockState.SYNCHRONISED
    assert lease(signatures=3 * DAY).deadline(clock, 60) == 3 * DAY - 100


def test_without_synchronisation_at_start_it_goes_on_from_the_later_of_clock_and_records() -> None:
    clock = TrustedClock(Reading(0.0, 5.0, False), not_before=NOON)
    assert clock.state is ClockState.UNKNOWN
    assert clock.wall(5.0) == NOON
    clock.settle()
    assert clock.state is ClockState.FREE_RUNNING


@pytest.mark.parametrize("settled", [False, True], ids=["while it is waited for", "later"])
def test_the_first_synchronisation_is_believed_whenever_it_comes_unless_it_is_before_the_records(settled: bool) -> None:
    clock = TrustedClock(Reading(0.0, 5.0, False), not_before=NOON)
    if settled:
        clock.settle()
    clock.observe(Reading(NOON - DAY, 400.0, True))
    assert (clock.state, clock.wall(400.0)) == (ClockState.STEPPED, NOON + 395.0)
    clock.observe(Reading(NOON + 10 * DAY, 500.0, True))
    assert (clock.state, clock.wall(500.0)) == (ClockState.SYNCHRONISED, NOON + 10 * DAY)
    clock.observe(Reading(NOON + YEAR, 501.0, True))  # the second is not the first
    assert (clock.state, clock.wall(501.0)) == (ClockState.STEPPED, NOON + 10 * DAY + 1)


def test_who_goes_on_for_one_that_nobody_has_ended_believes_no_step_either() -> None:
    before = synchronised_clock()
    before.observe(Reading(NOON + 60 + YEAR, 60, True))
    for step, synchronised, state in [
        (YEAR, True, ClockState.STEPPED),
        (-YEAR, True, ClockState.STEPPED),
        (YEAR, False, ClockState.FREE_RUNNING),
        (1, True, ClockState.SYNCHRONISED),
    ]:
        clock = TrustedClock(Reading(NOON + 61 + step, 61, synchronised), NOON, before.offset)
        assert clock.state is state
        assert clock.wall(61) == pytest.approx(NOON + 61, abs=1)
        assert lease(signatures=3 * DAY).deadline(clock, 61) == pytest.approx(3 * DAY, abs=1)
        clock.observe(Reading(NOON + 70, 70, True))
        assert clock.state is ClockState.SYNCHRONISED


def test_a_guess_is_nothing_to_go_on_with() -> None:
    assert TrustedClock(Reading(NOON, 0.0, False)).offset is None


def test_a_lease_of_another_boot_ends_by_the_time_that_turns_out_to_be() -> None:
    clock = TrustedClock(Reading(0.0, 20.0, False), not_before=NOON + DAY)
    record = lease().to_record()
    held = Lease.from_record(record, same_boot=False, last_seen_wall=NOON + DAY, clock=clock, boottime=20.0)
    assert held.deadline(clock, 20.0) == 20.0 + 6 * DAY
    clock.settle()
    again = Lease.from_record(  # restarted on this boot
        held.to_record(), same_boot=True, last_seen_wall=NOON + DAY, clock=clock, boottime=50.0
    )
    assert again == held
    clock.observe(Reading(NOON + 5 * DAY, 120.0, True))
    assert held.deadline(clock, 120.0) == 120.0 + 2 * DAY
    clock.observe(Reading(NOON + 5 * DAY + YEAR, 121.0, True))
    assert held.deadline(clock, 121.0) == 120.0 + 2 * DAY
    renewed = held.renewed(clock, 130.0, 7 * DAY)
    assert renewed.deadline(clock, 130.0) == 130.0 + 7 * DAY
    assert not renewed.by_wall


def test_a_restart_on_the_same_boot_changes_nothing_and_a_reboot_counts_the_time_that_was_off() -> None:
    record = lease(confirmed_boottime=1000.0).to_record()
    clock = TrustedClock(Reading(NOON + DAY, 1000.0 + DAY, True))
    same = Lease.from_record(record, same_boot=True, last_seen_wall=NOON, clock=clock, boottime=1000.0 + DAY)
    assert same.deadline(clock, 1000.0 + DAY) == 1000.0 + 7 * DAY

    clock = TrustedClock(Reading(NOON + DAY, 20.0, True))
    later = Lease.from_record(record, same_boot=False, last_seen_wall=NOON, clock=clock, boottime=20.0)
    assert later.deadline(clock, 20.0) == 20.0 + 6 * DAY


def test_a_reboot_with_the_clock_in_the_past_does_not_lengthen_it() -> None:
    clock = TrustedClock(Reading(NOON - YEAR, 20.0, False))
    later = Lease.from_record(
        lease().to_record(), same_boot=False, last_seen_wall=NOON + 2 * DAY, clock=clock, boottime=20.0
    )
    assert later.deadline(clock, 20.0) == 20.0 + 5 * DAY


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_clock_refresh_or_restart_serves_past_expiry_nor_shortens_a_lease(data: st.DataObject) -> None:
    """True time is NOON + *true*; the wall clock is wrong whenever and by as much as it likes."""
    boot_started = 0.0  # true time of the boot, relative to NOON
    true = 0.0
    clock = synchronised_clock()
    held = lease(expire=7 * DAY, signatures=10 * DAY)
    confirmed = 0.0  # in true time
    last_seen = NOON
    for _ in range(data.draw(st.integers(1, 40))):
        true += data.draw(st.floats(0.1, DAY))
        boottime = true - boot_started
        match data.draw(st.sampled_from(["good", "unsynchronised", "far step", "confirm", "restart", "reboot"])):
            case "good":
                clock.observe(Reading(NOON + true, boottime, True))
            case "unsynchronised":
                before = held.deadline(clock, boottime)
                clock.observe(Reading(data.draw(st.floats(0, 4e9)), boottime, False))
                assert held.deadline(clock, boottime) == pytest.approx(before, abs=1e-3)
            case "far step" if clock.state is not ClockState.UNKNOWN:
                step = data.draw(st.sampled_from([HOUR, -HOUR, YEAR, -YEAR, MAX_STEP_SECONDS + 1]))
                before = held.deadline(clock, boottime)
                clock.observe(Reading(NOON + true + step, boottime, True))
                assert held.deadline(clock, boottime) == pytest.approx(before, abs=1e-3)
            case "confirm":
                before = held.deadline(clock, boottime)
                held = held.renewed(clock, boottime, 7 * DAY)
                confirmed = true
                last_seen = clock.wall(boottime)
                assert held.deadline(clock, boottime) >= before - 1e-3
            case "restart":
                before = held.deadline(clock, boottime)
                clock = TrustedClock(Reading(NOON + true, boottime, True))
                held = Lease.from_record(
                    held.to_record(), same_boot=True, last_seen_wall=last_seen, clock=clock, boottime=boottime
                )
                assert held.deadline(clock, boottime) == pytest.approx(before, abs=1e-3)
            case "reboot":
                before_true = boot_started + held.deadline(clock, boottime)
                boot_started = true
                synchronised = data.draw(st.booleans())
                wall = NOON + true if synchronised else data.draw(st.floats(0, NOON + true))
                last_seen = NOON + true  # it is written down regularly
                clock = TrustedClock(Reading(wall, 0.0, synchronised), not_before=last_seen)
                held = Lease.from_record(
                    held.to_record(), same_boot=False, last_seen_wall=last_seen, clock=clock, boottime=0.0
                )
                assert boot_started + held.deadline(clock, 0.0) <= before_true + 1e-3
        deadline_true = boot_started + held.deadline(clock, true - boot_started)
        assert deadline_true <= confirmed + 7 * DAY + 1e-3
        assert deadline_true <= 10 * DAY + 1e-3


def test_what_the_operator_has_believed_is_not_called_synchronised_and_is_kept_time_by() -> None:
    clock = TrustedClock(Reading(NOON, 0.0, True, by_kernel=False))
    assert (str(clock.state), clock.synchronised) == ("believed", True)
    clock.observe(Reading(NOON + 70, 60, True, by_kernel=False))
    assert clock.wall(60) == NOON + 70
    clock.observe(Reading(NOON + DAY, 61, True, by_kernel=False))
    assert (clock.state, clock.synchronised) == (ClockState.STEPPED, False)
    clock.observe(Reading(NOON + 62, 62, True))
    clock.observe(Reading(NOON + 63, 63, False))
    assert clock.state is ClockState.FREE_RUNNING


@pytest.mark.parametrize("source", ["trusted", "kernel"])
def test_only_a_clock_that_the_kernel_vouches_for_is_read_as_such(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "kernel_says_synchronised", lambda: False)
    reading = clocks.clocks(source)()
    assert (reading.synchronised, reading.by_kernel) == ((True, False) if source == "trusted" else (False, True))
