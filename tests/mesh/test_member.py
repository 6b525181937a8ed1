"""When a member goes into service: it obeys within its own bounds, and goes alone otherwise."""

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.mesh.member import Action, Known, Now, Ready, Ruling, admitted, decide
from rootsrv.mesh.orders import Decision, OperatorVerdict, SetTime, Stage, Subject
from rootsrv.mesh.roster import Timing

ZONE = Subject(".", 2026112101, "ab" * 48)
OTHER = replace(ZONE, digest="cd" * 48)
WALL, BOOT = 1_800_000_000.0, 5_000.0  # WALL is a multiple of 60
TIMING = Timing()
READY = Ready(ZONE, BOOT)
LOCAL = 660.0  # lead + wait, which is a multiple of align


def now(after: float = 0.0, *, synchronised: bool = True, step: float = 0.0) -> Now:
    return Now(WALL + after + step, BOOT + after, synchronised)


def order(stage: Stage, after: float, seq: int = 1, subject: Subject = ZONE) -> SetTime:
    return SetTime(subject, stage, WALL + after, "m0", WALL - 9, seq)


def verdict(decision: Decision, sent: float = 0.0, at: float = 0.0, subject: Subject = ZONE) -> OperatorVerdict:
    return OperatorVerdict(subject, decision, "alice", WALL + sent, "because", WALL + at)


def goes_after(answer: Ruling) -> float:
    """Seconds from readiness to its T."""
    assert answer.action is Action.GO
    return answer.at - BOOT


def test_without_an_order_it_goes_at_the_next_multiple_after_readiness_and_lead_and_wait() -> None:
    assert goes_after(decide(READY, Known(), now())) == LOCAL
    assert goes_after(decide(replace(READY, since=BOOT + 1), Known(), now(1))) == LOCAL + 60


def test_members_that_were_ready_at_different_times_go_alone_at_one_t() -> None:
    ts = {round(decide(Ready(ZONE, BOOT + late), Known(), now(late)).at, 3) for late in (0.5, 7, 23, 59.9)}
    assert ts == {BOOT + LOCAL + 60}


def test_an_order_for_all_within_bounds_is_obeyed() -> None:
    for after in (-30.0, 5.0, TIMING.max_delay):  # in the past: it was late, and goes now
        assert goes_after(decide(READY, Known(orders=(order(Stage.ALL, after),)), now())) == after


def test_an_order_beyond_max_delay_or_for_another_zone_of_that_serial_is_not_obeyed() -> None:
    for wrong in (order(Stage.ALL, TIMING.max_delay + 1), order(Stage.ALL, 60, subject=OTHER)):
        assert goes_after(decide(READY, Known(orders=(wrong,)), now())) == LOCAL


def test_an_order_for_canaries_is_for_canaries() -> None:
    orders = (order(Stage.CANARY, 60), order(Stage.ALL, 240, 2))

    assert goes_after(decide(READY, Known(orders=orders[:1]), now())) == 60 + LOCAL
    assert goes_after(decide(READY, Known(orders=orders[:1], canary=True), now())) == 60
    assert goes_after(decide(READY, Known(orders=orders, canary=True), now())) == 60
    assert goes_after(decide(READY, Known(orders=orders), now())) == 240


SINCES = (0.0, 7.0, 90.0, 400.0, 719.0)


def at_one_t(*orders: SetTime) -> float:
    """When all go, whenever each was ready; seconds after the first one was."""
    (one,) = {decide(Ready(ZONE, BOOT + since), Known(orders=orders), now(720)).at - BOOT for since in SINCES}
    return one


def test_from_an_order_for_canaries_on_all_count_from_its_t_whenever_they_were_ready() -> None:
    canaries = order(Stage.CANARY, 120)

    assert at_one_t(canaries) == 120 + LOCAL  # the leader died
    assert at_one_t(canaries, order(Stage.ALL, 120 + TIMING.max_delay, 2)) == 120 + TIMING.max_delay
    assert at_one_t(canaries, order(Stage.ALL, 121 + TIMING.max_delay, 2)) == 120 + LOCAL


def test_who_has_not_heard_of_the_order_for_canaries_learns_from_the_one_for_all_what_to_count_from() -> None:
    order_for_all = replace(order(Stage.ALL, 700), canaries_at=WALL + 120)

    assert at_one_t(order_for_all) == 700
    assert goes_after(decide(READY, Known(orders=(order(Stage.ALL, 700),)), now())) == LOCAL


def test_who_is_ready_about_when_it_was_offered_counts_from_the_offer() -> None:
    sinces = (-TIMING.slack, -30.0, 0.0, 7.0, 90.0, TIMING.slack)
    (alone,) = {decide(Ready(ZONE, BOOT + s), Known(offers={ZONE: WALL}), now(300)).at - BOOT for s in sinces}
    assert alone == LOCAL
    orders = (order(Stage.CANARY, 590), order(Stage.ALL, 1150, 2))
    known = Known(offers={ZONE: WALL}, orders=orders)
    assert {decide(Ready(ZONE, BOOT + s), known, now(300)).at - BOOT for s in sinces} == {1150}

    for apart in (-TIMING.slack - 1, TIMING.slack + 1):
        late = Ready(ZONE, BOOT + apart)
        assert decide(late, Known(offers={ZONE: WALL}), now(600)) == decide(late, Known(), now(600))
    assert goes_after(decide(READY, Known(offers={OTHER: WALL + 90}), now(100))) == LOCAL


def test_an_order_for_canaries_that_is_out_of_bounds_moves_nobody() -> None:
    beyond = order(Stage.CANARY, TIMING.max_delay + 1)
    assert goes_after(decide(READY, Known(orders=(beyond, order(Stage.ALL, 700, 2))), now())) == LOCAL


def test_a_void_takes_the_order_back_and_lapses_counted_from_the_first_readiness() -> None:
    orders = (order(Stage.CANARY, 60), order(Stage.VOID, 0, 2))
    lapses = TIMING.void + LOCAL

    for canary in (False, True):
        assert goes_after(decide(READY, Known(orders=orders, canary=canary), now(100))) == lapses
    again = (*orders, order(Stage.VOID, 0, 3), order(Stage.VOID, 0, 4))
    assert goes_after(decide(READY, Known(orders=again), now(2000))) == lapses
    assert lapses < TIMING.stale_soft


def test_an_order_for_all_is_not_taken_back_shortly_before_its_t() -> None:
    orders = (order(Stage.ALL, 100),)
    void = order(Stage.VOID, 0, 2)

    assert admitted(orders, void, now(94)) == (*orders, void)
    assert admitted(orders, void, now(95.1)) == orders


def test_a_hold_of_an_operator_ends_after_a_day_and_an_approval_ends_it_before() -> None:
    held = Known(verdicts=(verdict(Decision.HOLD),), orders=(order(Stage.ALL, 60),))

    assert decide(READY, held, now(10)).action is Action.WAIT
    assert decide(READY, held, now(86_399)).action is Action.WAIT
    assert goes_after(decide(READY, held, now(86_401))) == 60
    approved = replace(held, verdicts=(*held.verdicts, verdict(Decision.APPROVE, sent=5)))
    assert goes_after(decide(READY, approved, now(10))) == 60


def test_too_old_beats_every_hold_and_void() -> None:
    known = Known(
        verdicts=(verdict(Decision.HOLD),),
        orders=(order(Stage.ALL, 60), order(Stage.VOID, 0, 2)),
        too_old_since=BOOT + 1000,
    )
    assert goes_after(decide(READY, known, now(1000))) == LOCAL


def test_two_canaries_that_failed_hold_it_and_then_members_go_in_waves() -> None:
    failed = Known(orders=(order(Stage.ALL, 60),), canaries_failed=2)
    assert decide(READY, failed, now(10)).action is Action.WAIT
    assert goes_after(decide(READY, replace(failed, canaries_failed=1), now(10))) == 60

    late = [replace(failed, too_old_since=BOOT + 1000, wave=wave) for wave in range(3)]
    turns = [goes_after(decide(READY, each, now(1000))) for each in late]
    assert turns == [1020, 1200, 1380]
    approved = replace(failed, verdicts=(verdict(Decision.APPROVE),))
    assert goes_after(decide(READY, approved, now(10))) == 60


def test_a_rejected_zone_never_goes() -> None:
    known = Known(verdicts=(verdict(Decision.REJECT),), orders=(order(Stage.ALL, 60),), too_old_since=BOOT)
    assert decide(READY, known, now(10)).action is Action.NEVER


def test_an_emergency_is_at_its_t_and_needs_the_very_zone() -> None:
    known = Known(verdicts=(verdict(Decision.EMERGENCY, at=5),))
    assert goes_after(decide(READY, known, now())) == 5
    assert goes_after(decide(Ready(OTHER, BOOT), known, now())) == LOCAL


def test_without_a_synchronised_clock_it_counts_from_readiness_whatever_the_wall_clock_says() -> None:
    known = Known(orders=(order(Stage.ALL, 60),), canary=True)
    for step in (0.0, -3600.0, 3600.0, 1e9):
        assert goes_after(decide(READY, known, now(10, synchronised=False, step=step))) == LOCAL


subjects = st.sampled_from([ZONE, OTHER, replace(ZONE, serial=ZONE.serial + 1)])
ORDERS = st.lists(
    st.builds(
        SetTime,
        subjects,
        st.sampled_from(Stage),
        st.floats(WALL - 1e5, WALL + 1e5),
        st.just("m0"),
        st.just(0.0),
        st.integers(0, 9),
        st.just(""),
        st.one_of(st.none(), st.floats(WALL - 1e5, WALL + 1e5)),
    ),
    max_size=6,
).map(tuple)


@settings(max_examples=100)
@given(
    ORDERS,
    st.dictionaries(subjects, st.floats(WALL - 1e5, WALL + 1e5)),
    st.booleans(),
    st.booleans(),
    st.floats(0, 5000),
    st.floats(-1e6, 1e6),
)
def test_whatever_a_stolen_leaders_key_signs_nobody_is_late_enough_to_be_stale(
    orders: tuple[SetTime, ...],
    offers: dict[Subject, float],
    canary: bool,
    synchronised: bool,
    after: float,
    step: float,
) -> None:
    known = Known(orders=orders, offers=offers, canary=canary)
    answer = decide(READY, known, now(after, synchronised=synchronised, step=0.0 if synchronised else step))

    assert answer.action is Action.GO
    assert answer.at - BOOT <= TIMING.void + TIMING.lead + TIMING.wait + TIMING.align < TIMING.stale_soft
    if not any(each.stage is Stage.VOID and each.subject == ZONE for each in orders):
        # Ten minutes at the most, for the canaries, and from then on never later than it would go alone.
        assert answer.at - BOOT <= TIMING.slack + TIMING.max_delay + TIMING.lead + TIMING.wait + TIMING.align
    assert not math.isnan(answer.at)


def test_an_order_for_canaries_by_an_operator_lets_them_go_and_keeps_the_others_back_until_an_approval() -> None:
    canaries = verdict(Decision.CANARY, sent=0, at=5)
    orders = (order(Stage.ALL, 60),)
    assert goes_after(decide(READY, Known(orders=orders, verdicts=(canaries,), canary=True), now())) == 5
    waits = decide(READY, Known(orders=orders, verdicts=(canaries,)), now())
    assert (waits.action, waits.why) == (Action.WAIT, "held by alice")
    approved = (canaries, verdict(Decision.APPROVE, sent=9))
    assert goes_after(decide(READY, Known(orders=orders, verdicts=approved), now(9))) == 60
    rejected = (canaries, verdict(Decision.REJECT, sent=9))
    assert decide(READY, Known(verdicts=rejected, canary=True), now(9)).action is Action.NEVER
    later = decide(READY, Known(orders=orders, verdicts=(canaries,)), now(TIMING.hold))
    assert later.action is Action.GO
