"""The floor: never more than k are withdrawn for a cause that can wait."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.mesh.floor import Slot, Token, slots_to_try


def test_a_token_counts_a_lifetime_after_it_was_taken_and_for_less_than_one_after_each_keepalive() -> None:
    token, mine = Token("all"), Slot(41, 7)
    token.taken(0, mine, asked_at=100.0, answered_at=100.5, lifetime=6.0)
    assert not token.counts(104.9)

    assert token.kept(mine, sent_at=103.0, ttl=6.0)
    assert (token.counts(106.4), token.counts(106.5), token.counts(107.9), token.counts(108.0)) == (
        False, True, True, False
    )  # fmt: skip


@pytest.mark.parametrize("found", [None, Slot(42, 7), Slot(41, 8)])
def test_a_slot_that_is_gone_or_anothers_ends_the_token_whatever_the_lease_says(found: Slot | None) -> None:
    token = Token("all")
    token.taken(0, Slot(41, 7), 100.0, 100.0, 6.0)
    assert token.kept(Slot(41, 7), 104.0, 6.0)
    assert token.counts(106.0)

    assert not token.kept(found, 106.0, 6.0)
    assert not token.counts(106.0)


def test_members_begin_at_different_slots() -> None:
    members = [f"m{n}" for n in range(8)]
    assert slots_to_try(3, {1}, "m0", members) == [0, 2]
    assert slots_to_try(3, {1}, "m1", members) == [2, 0]
    assert slots_to_try(1, {0}, "m1", members) == []


class Engine:
    """Slots and leases as etcd has them: a lease outlives a deleted key, and ends at or after its time."""

    def __init__(self, k: int) -> None:
        self.slots: dict[int, Slot] = {}
        self.k = k
        self.revision = 0
        self.leases: dict[int, float] = {}

    def expire(self, now: float) -> None:
        over = {lease for lease, until in self.leases.items() if until <= now}
        self.slots = {slot: each for slot, each in self.slots.items() if each.lease not in over}
        self.leases = {lease: until for lease, until in self.leases.items() if lease not in over}

    def take(self, slot: int, now: float, ttl: float) -> Slot | None:
        if slot in self.slots:
            return None
        self.revision += 1
        self.slots[slot] = Slot(self.revision, self.revision)
        self.leases[self.revision] = now + ttl
        return self.slots[slot]


TTL = 6.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(0, 2**32))
def test_never_more_than_k_are_withdrawn_for_a_cause_that_can_wait(k: int, seed: int) -> None:
    """Members that fail, heal or are cut off, late keepalives, keys that are deleted under their holders."""
    rng = random.Random(seed)
    engine, names = Engine(k), [f"m{n}" for n in range(8)]
    tokens = {name: Token("all") for name in names}
    cut_off: set[str] = set()
    wants: set[str] = set()
    for tick in range(240):
        now = tick / 4
        engine.expire(now)
        if rng.random() < 0.2:
            wants ^= {rng.choice(names)}
        if rng.random() < 0.1:
            cut_off ^= {rng.choice(names)}
        if engine.slots and rng.random() < 0.05:
            del engine.slots[rng.choice(list(engine.slots))]
        for name in rng.sample(names, len(names)):
            token = tokens[name]
            if name in cut_off:
                continue
            late = rng.choice([0.0, 0.25, 0.5])
            if token.slot is None and name in wants:
                for slot in slots_to_try(k, engine.slots, name, names):
                    if (found := engine.take(slot, now, TTL)) is not None:
                        token.taken(slot, found, now - late, now, TTL)
                        break
            elif token.slot is not None and tick % 4 == 0:  # a keepalive a second
                alive = token.lease in engine.leases
                if alive:
                    engine.leases[token.lease] = now + TTL
                token.kept(engine.slots.get(token.slot), now - late, TTL if alive else 0.0)
                if token.slot is not None and name not in wants:
                    engine.slots.pop(token.slot, None)
                    token.lost()
        withdrawn = [name for name in names if name in wants and tokens[name].counts(now)]
        assert len(withdrawn) <= k, (now, withdrawn)


def test_whoever_keeps_a_token_gets_his_turn() -> None:
    engine, token = Engine(1), Token("all")
    found = engine.take(0, 0.0, TTL)
    assert found is not None
    token.taken(0, found, 0.0, 0.1, TTL)
    for second in range(1, 20):
        assert token.kept(engine.slots.get(0), float(second), TTL)
        assert token.counts(float(second)) == (second >= TTL + 0.1)
