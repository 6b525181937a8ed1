"""Who has been idle longest."""

import random

from hypothesis import given
from hypothesis import strategies as st

from rootsrv.server.idle import LongestIdle


class Member:
    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at


def test_nobody_is_idle_where_nobody_is() -> None:
    idle: LongestIdle[Member] = LongestIdle()
    idle.discard(Member(1.0))
    assert idle.first() is None
    assert len(idle) == 0


def test_of_equals_the_one_here_longest_is_first() -> None:
    idle: LongestIdle[Member] = LongestIdle()
    members = [Member(at) for at in (2.0, 1.0, 1.0, 3.0)]
    for each in members:
        idle.add(each)
    assert idle.first() is members[1]
    assert idle.first(before=1.0) is None
    idle.discard(members[1])
    assert idle.first(before=1.5) is members[2]


@given(st.lists(st.integers(0, 5), max_size=200), st.integers(0, 1 << 32))
def test_the_first_is_the_one_idle_longest_whoever_comes_asks_and_goes(steps: list[int], seed: int) -> None:
    choose = random.Random(seed)
    idle: LongestIdle[Member] = LongestIdle()
    here: list[Member] = []
    now = 1.0
    for step in steps:
        now += choose.choice((0.0, 1.0))
        if step <= 1:
            here.append(Member(now))
            idle.add(here[-1])
        elif step <= 3 and here:
            choose.choice(here).asked_at = now
        elif step == 4 and here:
            idle.discard(here.pop(choose.randrange(len(here))))
        elif step == 5:
            before = now - choose.randrange(4)
            oldest = min((each.asked_at for each in here), default=float("inf"))
            found = idle.first(before)
            assert (found is not None) == (oldest < before)
            assert found is None or (found.asked_at == oldest and found in here)
        assert len(idle) == len(here)
    while here:
        found = idle.first()
        assert found is not None
        assert found.asked_at == min(each.asked_at for each in here)
        here.remove(found)
        idle.discard(found)
    assert idle.first() is None


def test_an_order_is_made_once_for_as_many_events_as_there_are_members() -> None:
    class Counting(Member):
        looked_at = 0

        def __getattribute__(self, name: str) -> object:
            if name == "asked_at":
                Counting.looked_at += 1
            return super().__getattribute__(name)

    idle: LongestIdle[Member] = LongestIdle()
    members = [Counting(float(number)) for number in range(1000)]
    for each in members:
        idle.add(each)
    for number in range(5000):
        now = 1000.0 + number
        first = idle.first()
        assert first is members[number % 1000]
        first.asked_at = now
    assert Counting.looked_at < 5 * 5000
