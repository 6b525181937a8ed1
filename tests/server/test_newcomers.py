"""Which connection without a completed query goes first."""

import ipaddress
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootsrv.server.newcomers import Newcomers, Ranking


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def victims(sources: list[str], count: int) -> list[int]:
    """Of connections from *sources*, one after the other, the numbers of the first *count* that go."""
    newcomers: Newcomers[int] = Newcomers()
    for number, source in enumerate(sources):
        newcomers.add(number, packed(source), float(number))
    gone = []
    for _ in range(count):
        gone.append(newcomers.victim())
        newcomers.discard(gone[-1], packed(sources[gone[-1]]))
    return gone


@pytest.mark.parametrize(
    ("sources", "gone"),
    [
        (["192.0.2.1", "198.51.100.1", "198.51.100.2"], [1]),
        (["192.0.2.1", "198.51.100.1", "203.0.113.1"], [0, 1, 2]),
        (["192.0.2.1", "192.0.3.1", "192.0.2.255"], [0, 1, 2]),
        (["2001:db8::1", "2001:db9:1::1", "2001:db9:2::1"], [1, 0, 2]),
        (["2001:db8:1::1", "2001:db8:2::1", "2001:db8:2:100::1"], [1, 0, 2]),
        (["2001:db8:1::1", "2001:db8:1:100::1", "2001:db8:1:1ff::1"], [1, 0, 2]),
        (["2001:db8::1", "192.0.2.1", "192.0.2.2"], [1, 0, 2]),
    ],
    ids=[
        "of the fullest /24 the oldest", "of equals the oldest", "a /24 ends at its last octet",
        "of the fullest /32 the oldest", "in a /32 the fullest /48", "in a /48 the fullest /56", "one ranking for both",
    ],
)  # fmt: skip
def test_the_victim_is_the_oldest_of_the_fullest_prefix(sources: list[str], gone: list[int]) -> None:
    assert victims(sources, len(gone)) == gone


def test_nobody_is_no_victim() -> None:
    newcomers: Newcomers[int] = Newcomers()
    newcomers.discard(1, packed("192.0.2.1"))
    with pytest.raises(KeyError):
        newcomers.victim()


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=1).map(lambda octet: bytes((octet[0] & 7,))))))
def test_a_ranking_knows_the_key_added_most_often(steps: list[tuple[bool, bytes]]) -> None:
    ranking, counts = Ranking(), Counter[bytes]()
    for adds, key in steps:
        if adds:
            ranking.add(key)
            counts[key] += 1
        elif counts[key]:
            counts[key] -= 1
            assert ranking.remove(key) == (counts[key] == 0)
        if most := max(counts.values(), default=0):
            assert counts[ranking.fullest()] == most


def _fullest(sources: list[bytes], octets: int) -> set[bytes]:
    counts = Counter(source[:octets] for source in sources)
    return {prefix for prefix, count in counts.items() if count == max(counts.values())}


_v4 = st.tuples(st.integers(0, 3), st.integers(0, 2)).map(lambda t: bytes((10, 0, t[0], t[1])))
_v6 = st.tuples(*[st.integers(0, 1)] * 4).map(
    lambda t: bytes((32, 1, 0, t[0], 0, t[1], t[2], 0, 0)) + bytes(6) + bytes(t[3:])
)


@given(st.lists(st.one_of(_v4, _v6), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_every_victim_is_where_most_are_and_nothing_is_left_in_the_end(sources: list[bytes], random) -> None:  # type: ignore[no-untyped-def]
    newcomers: Newcomers[int] = Newcomers()
    here: dict[int, bytes] = {}
    for number, source in enumerate(sources):
        newcomers.add(number, source, float(number))
        here[number] = source
        if random.random() < 0.3:
            left = random.choice(list(here))
            newcomers.discard(left, here.pop(left))
    while here:
        victim = newcomers.victim()
        left = list(here.values())
        tops = Counter(source[: 3 if len(source) == 4 else 4] for source in left)
        source = here[victim]
        assert tops[source[: 3 if len(source) == 4 else 4]] == max(tops.values())
        longest = 3
        if len(source) == 16:
            for above, below in ((4, 6), (6, 7)):
                inside = [each for each in left if len(each) == 16 and each[:above] == source[:above]]
                assert source[:below] in _fullest(inside, below)
            longest = 7
        same = [n for n, each in here.items() if len(each) == len(source) and each[:longest] == source[:longest]]
        assert victim == min(same)
        newcomers.discard(victim, here.pop(victim))
    assert len(newcomers) == 0
    assert list(newcomers._rankings) == [b""]
    assert not newcomers._members
