"""The distribution host: canaries first, then all, at set times that members' bounds allow."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.mesh.host import Alarm, BoardView, Distribution, Stand, WriteOffer, WriteOrder
from rootsrv.mesh.member import Action, Known, Now, Ready, admitted, decide
from rootsrv.mesh.orders import SetTime, Stage, Subject
from rootsrv.mesh.quorum import Done
from tests.mesh.mesh_of import mesh_of

START = 1_800_000_000.0
ZONE = Subject(".", 2026112101, "ab")
ROSTER = mesh_of(8).roster
EVERYBODY = frozenset(each.name for each in ROSTER.member)


def seen(ready: int = 0, done: dict[str, Done] | None = None, present: frozenset[str] = EVERYBODY) -> BoardView:
    return BoardView(ready={f"m{n}": ZONE for n in range(ready)}, done=done or {}, present=present)


def switched(*names: str, ok: bool = True) -> dict[str, Done]:
    return {name: Done(ZONE, ok) for name in names}


def offered(at: float = START) -> Distribution:
    host = Distribution(".")
    host.received(ZONE.serial)
    host.verified(ZONE)
    assert host.advance(seen(), ROSTER, at) == [WriteOffer(ZONE)]
    return host


def test_a_zone_goes_to_the_canaries_soaks_and_goes_to_all() -> None:
    host = offered()
    assert host.advance(seen(7), ROSTER, START + 1) == []
    (canary,) = host.advance(seen(8), ROSTER, START + 2)
    assert isinstance(canary, WriteOrder)
    assert (canary.stage, canary.at, host.stand) == (Stage.CANARY, START + 60, Stand.CANARY)

    done = switched("m6", "m7")
    assert host.advance(seen(8, done), ROSTER, canary.at + 119) == []
    (order,) = host.advance(seen(8, done), ROSTER, canary.at + 120)
    assert isinstance(order, WriteOrder)
    assert (order.stage, order.at) == (Stage.ALL, START + 240)
    assert order.at - START <= ROSTER.timing.max_delay

    assert host.advance(seen(8, switched(*EVERYBODY)), ROSTER, order.at + 1) == []
    assert host.stand is Stand.SETTLED


def test_after_a_minute_half_of_the_roster_is_enough_and_less_is_an_alarm() -> None:
    host = offered()
    assert host.advance(seen(4), ROSTER, START + 59) == []
    assert isinstance(host.advance(seen(3), ROSTER, START + 60)[0], Alarm)
    assert host.advance(seen(3), ROSTER, START + 61) == []  # said once
    assert isinstance(host.advance(seen(4), ROSTER, START + 62)[0], WriteOrder)


def test_of_those_present_it_is_the_roster_that_counts_not_who_is_there() -> None:
    host = offered()
    few = frozenset({"m0", "m1"})
    assert isinstance(host.advance(seen(2, present=few), ROSTER, START + 3600)[0], Alarm)


def canary_stage() -> tuple[Distribution, float]:
    host = offered()
    (order,) = host.advance(seen(8), ROSTER, START + 2)
    assert isinstance(order, WriteOrder)
    return host, order.at


def test_two_canaries_that_failed_void_it_once() -> None:
    host, at = canary_stage()
    effects = host.advance(seen(8, switched("m6", "m7", ok=False)), ROSTER, at + 1)

    assert [type(each) for each in effects] == [WriteOrder, Alarm]
    assert isinstance(effects[0], WriteOrder)
    assert (effects[0].stage, host.stand) == (Stage.VOID, Stand.VOID)
    assert host.advance(seen(8, switched("m6", "m7", ok=False)), ROSTER, at + 9999) == []


def test_a_canary_that_fails_always_does_not_count_and_the_other_one_decides() -> None:
    host, at = canary_stage()
    done = switched("m6", ok=False) | switched("m7")
    (order,) = host.advance(seen(8, done), ROSTER, at + 121)
    assert isinstance(order, WriteOrder)
    assert order.stage is Stage.ALL


def test_another_leader_goes_on_from_what_is_on_the_board() -> None:
    for stage, stand in ((Stage.CANARY, Stand.CANARY), (Stage.ALL, Stand.ORDERED), (Stage.VOID, Stand.VOID)):
        host = Distribution(".")
        host.verified(ZONE)
        host.adopt(START, SetTime(ZONE, stage, START + 60, "m1", START, 1))
        assert host.stand is stand
        assert not any(isinstance(each, WriteOrder) for each in host.advance(seen(8), ROSTER, START + 30))


def test_an_order_that_nobody_would_obey_is_not_given() -> None:
    host, at = canary_stage()
    late = at + ROSTER.timing.max_delay
    (alarm,) = host.advance(seen(8, switched("m6")), ROSTER, late)

    assert alarm == Alarm(f"serial {ZONE.serial}: too late for an order, members go by the local rule")
    alone = decide(
        Ready(ZONE, START), Known(orders=(SetTime(ZONE, Stage.CANARY, at, "m0", START, 1),)), Now(late, late, True)
    )
    assert host.advance(seen(8, switched(*EVERYBODY)), ROSTER, alone.at + 1) == []
    assert host.stand is Stand.SETTLED


def test_a_newer_serial_ends_what_is_under_way_and_an_older_one_nothing() -> None:
    host, _ = canary_stage()
    host.verified(Subject(".", ZONE.serial - 1, "cd"))
    assert host.subject == ZONE
    host.verified(Subject(".", ZONE.serial + 1, "cd"))
    assert (host.stand, host.at) == (Stand.VERIFIED, math.inf)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0.0, 90.0), min_size=8, max_size=8),
    st.sets(st.integers(0, 7), max_size=3),
    st.one_of(st.none(), st.floats(0, 500)),
    st.sets(st.integers(0, 7), max_size=8),
)
def test_whatever_fails_all_members_go_in_order_and_those_who_hear_the_order_at_one_t(
    ready_after: list[float], failing: set[int], leader_dies: float | None, cut_off: set[int]
) -> None:
    """Eight members, the real rule and the real machine; members that fail, a leader that dies, members cut off."""
    host = offered()
    orders: tuple[SetTime, ...] = ()
    done: dict[str, Done] = {}
    went: dict[int, float] = {}
    since = {n: Ready(ZONE, START + late) for n, late in enumerate(ready_after)}
    for second in range(0, 1200, 5):
        time = START + second
        now = Now(time, time, True)
        ready = {f"m{n}": ZONE for n, each in since.items() if each.since <= time and n not in cut_off}
        if leader_dies is None or second < leader_dies:
            told = BoardView(ready=ready, done=done, present=frozenset(ready))
            for effect in host.advance(told, ROSTER, time):
                if isinstance(effect, WriteOrder):
                    new = SetTime(ZONE, effect.stage, effect.at, "m0", START, len(orders))
                    orders = admitted(orders, new, now)
        for n, each in since.items():
            if n in went or each.since > time:
                continue
            known = Known(
                orders=() if n in cut_off else orders,
                offers={} if n in cut_off else {ZONE: START},
                canary=n >= 6,
                canaries_failed=sum(f"m{c}" in done and not done[f"m{c}"].ok for c in (6, 7)),
            )
            answer = decide(each, known, now)
            if answer.action is Action.GO and answer.at <= time:
                went[n] = time
                if n not in cut_off:
                    done[f"m{n}"] = Done(ZONE, n not in failing)
    if {6, 7} <= failing - cut_off:
        return  # held: nobody else has to go
    assert set(went) == set(range(8))
    if leader_dies is None and not cut_off:
        assert min(went[6], went[7]) <= min(went[n] for n in range(6))
    # There is one T, whenever a member was ready, and if the leader dies as well.
    assert len({went[n] for n in range(6) if n not in cut_off}) <= 1
    # Not at a multiple of align goes only who became ready after its T.
    assert all(went[n] % 60 == 0 or went[n] < since[n].since + 5 for n in went)
