"""GCRA over prefixes: whoever keeps to the rate is never limited, unless cells collide in both rows."""

import ipaddress
import random
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.admission.limits import (
    CELLS,
    CONNECTIONS,
    HANDSHAKES,
    OCCUPANCY_LIMIT,
    QUERIES,
    Limiter,
    LimitSettings,
    Occupancy,
    cells_in_memory,
    cost_of,
    make_shared_cells,
    map_cells,
)
from rootsrv.admission.places import LEVELS, ROW_CELLS, hashes_of, places_of, places_of_source, places_of_sources
from rootsrv.config.limits import LimitsConfig

SECOND = 10**9
KEY = bytes(range(16))
CONFIG = LimitsConfig(mode="on", rate=100, burst_seconds=1.0, ipv4_multipliers=(1, 4, 16, 64), connections=10)


def limiter(config: LimitsConfig = CONFIG) -> Limiter:
    return Limiter(cells_in_memory(), LimitSettings.of(config, KEY))


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


@pytest.mark.parametrize("address", ["198.51.100.1", "2001:db8::1"])
def test_a_source_gets_its_burst_at_once_and_then_its_rate(address: str) -> None:
    found = limiter()
    now = 1000 * SECOND

    taken = [found.is_over(packed(address), now) for _ in range(150)]
    assert taken == [False] * 100 + [True] * 50
    for _ in range(200):
        now += SECOND // 100
        assert not found.is_over(packed(address), now)
        assert found.is_over(packed(address), now), "one more than the rate, and it was not charged for that"


def test_what_is_over_is_not_charged_to_the_neighbours() -> None:
    found = limiter()
    now = 1000 * SECOND
    for _ in range(10_000):
        found.is_over(packed("198.51.100.1"), now)

    assert not found.is_over(packed("198.51.100.2"), now), "same /24"
    others = [found.is_over(packed(f"198.51.100.{number}"), now) for number in range(2, 200) for _ in range(3)]
    assert others.count(False) == 4 * 100 - 100 - 1, "all of a /24 together have four times the rate of one"


@pytest.mark.parametrize(("base", "hosts", "taken"), [
    ("198.51.100.0", 2**8, 400), ("198.51.96.0", 2**12, 1600), ("198.51.64.0", 2**14, 6400),
])  # fmt: skip
def test_prefixes_of_every_length_have_their_multiple(base: str, hosts: int, taken: int) -> None:
    found = limiter()
    rng = random.Random(hosts)
    sources = [packed(base)[:2] + struct.pack("!H", int.from_bytes(packed(base)[2:], "big") + n) for n in range(hosts)]

    over = [found.is_over(rng.choice(sources), SECOND) for _ in range(4 * taken)]

    assert over.count(False) == taken


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_without_a_collision_in_one_row_no_key_within_its_rate_is_ever_limited(data: st.DataObject) -> None:
    """A key that keeps to its rate, among others that do as they like, is limited only by one of its own prefixes.

    Collisions are made likely by few cells: those of this key are kept from the others in one row, never in both.
    """
    seed = data.draw(st.integers(0, 2**32))
    row = data.draw(st.integers(0, 1))
    rng = random.Random(seed)
    found = limiter()
    source = packed("192.0.2.1")
    own = set(places_of_source(source, QUERIES, KEY))
    kept = set(places_of_source(source, QUERIES, KEY)[row::2])
    now = 1000 * SECOND
    for _ in range(400):
        now += rng.randrange(SECOND // 50, SECOND // 20)  # at most half its rate
        for _ in range(20):
            # Somebody else charges whatever cells there are, except this key's own in one row.
            for place in rng.sample(sorted(own - kept), k=2):
                found._cells[place] = max(found._cells[place], now + rng.randrange(2 * SECOND))
        assert not found.is_over(source, now)


def test_collisions_are_as_rare_as_stated() -> None:
    # 10,000 heavy keys of each length: an innocent meets one in both rows with (10,000 × 4 / 2^20)² = 0.15 % at most.
    rng = random.Random(3)
    heavy: list[set[int]] = [set(), set()]
    for _ in range(40_000):
        for row, place in enumerate(places_of(rng.getrandbits(64))):
            heavy[row].add(place)
    hit = 0
    for _ in range(50_000):
        first, second = places_of(rng.getrandbits(64))
        hit += first in heavy[0] and second in heavy[1]
    assert hit / 50_000 < 0.0025


def test_whatever_a_worker_writes_is_over_after_a_burst() -> None:
    found = limiter()
    source, now = packed("198.51.100.1"), 1000 * SECOND
    for place in places_of_source(source, QUERIES, KEY):
        found._cells[place] = 2**64 - 1

    assert found.is_over(source, now)
    assert not found.is_over(source, now + SECOND + 1)


def test_costs_by_kind() -> None:
    header = bytes(12)
    nxdomain = b"\0\0\x84\x03" + bytes(300)
    assert cost_of(header + b"\3com\0\0\1\0\1", bytes(300)) == 1
    assert cost_of(header + b"\3com\0\0\1\0\1", nxdomain) == 2
    assert cost_of(header + b"\0\0\x30\0\1", bytes(300)) == 4
    assert cost_of(header + b"\3com\0\0\1\0\1", bytes(1100)) == 4


def test_kinds_of_charge_do_not_meet() -> None:
    found = limiter()
    source, now = packed("198.51.100.1"), 1000 * SECOND
    assert [found.is_over(source, now, kind=CONNECTIONS) for _ in range(20)].count(False) == 10
    assert not found.is_over(source, now)
    assert not found.is_over_for_handshake(source, now, 400)
    spent = sum(400 for _ in range(1000) if not found.is_over_for_handshake(source, now, 400))
    assert 40_000 < spent <= 50_000, "50 ms of processor time a second, in units of 64 µs"
    assert len({each for kind in (QUERIES, CONNECTIONS, HANDSHAKES) for each in hashes_of(source, kind, KEY)}) == 12


@pytest.mark.parametrize("source", ["198.51.100.1", "2001:db8::1"])
@pytest.mark.parametrize(("milliseconds", "burst_seconds"), [(1, 0.05), (1, 2.0), (10, 0.5)])
def test_a_handshake_that_takes_longer_than_a_burst_is_taken_from_who_has_asked_for_no_other(
    source: str, milliseconds: int, burst_seconds: float
) -> None:
    config = LimitsConfig(mode="on", handshake_milliseconds=milliseconds, burst_seconds=burst_seconds)
    found, now = Limiter(cells_in_memory(), LimitSettings.of(config, KEY)), 1000 * SECOND
    assert not found.is_over_for_handshake(packed(source), now, 6000), "an RSA key of 4,096 bits takes so long"
    assert found.is_over_for_handshake(packed(source), now + 1, 6000)
    assert not found.is_over_for_handshake(packed(source), now + int(burst_seconds * SECOND), 6000)


def test_cells_are_shared_by_a_descriptor() -> None:
    descriptor = make_shared_cells()
    one, other = map_cells(descriptor), map_cells(descriptor)
    one[CELLS - 1] = 7
    assert other[CELLS - 1] == 7


def test_places_are_in_their_rows() -> None:
    rng = random.Random(1)
    for _ in range(1000):
        first, second = places_of(rng.getrandbits(64))
        assert 0 <= first < ROW_CELLS <= second < CELLS
    assert all(len(levels) == 4 for levels in LEVELS.values())


def test_settings_go_to_a_worker_as_json() -> None:
    made = LimitSettings.of(CONFIG, KEY)
    assert LimitSettings.from_document(made.to_document()) == made


@pytest.fixture
def everything() -> Callable[[range, int], list[int]]:
    """Looks at evenly spread cells: no luck."""
    return lambda population, k: list(population[:: len(population) // k])[:k]


def test_too_many_cells_over_their_limit_fall_back_to_dry_run_and_come_back(
    everything: Callable[[range, int], list[int]],
) -> None:
    cells = cells_in_memory()
    occupancy = Occupancy(cells, everything)  # type: ignore[arg-type]
    made = LimitSettings.of(CONFIG, KEY)
    now = 1000 * SECOND
    assert not occupancy.look(now, made)
    step = CELLS // 8192
    for number in range(round(8192 * OCCUPANCY_LIMIT) + 1):
        cells[number * step] = now + made.burst_ns
    assert occupancy.look(now, made)
    assert occupancy.falls_back
    assert LimitSettings.of(CONFIG, KEY, falls_back=True).mode == "dry-run"
    assert not occupancy.look(now, made), "nothing new"
    assert occupancy.look(now + 2 * made.burst_ns, made)
    assert not occupancy.falls_back


def test_a_million_sources_over_their_limit_have_limits_fall_back_and_nobody_is_over_after_a_burst() -> None:
    """As bench/README.md has it: 61.5 % of the cells are over, and of innocents 37 % are hit per prefix length."""
    rng = random.Random(1_000_000)
    found, now = limiter(), 1000 * SECOND
    cells, full = found._cells, now + found.settings.burst_ns
    for _ in range(1000):
        octets = rng.randbytes(4000)
        for _, places in places_of_sources([octets[at : at + 4] for at in range(0, 4000, 4)], QUERIES, KEY):
            cells[places[0]] = cells[places[1]] = full
    occupancy = Occupancy(cells, lambda population, k: rng.choices(population, k=k))
    assert occupancy.look(now, found.settings)
    assert occupancy.falls_back
    assert abs(occupancy.share - 0.615) < 0.03
    innocents = [rng.randbytes(4) for _ in range(3000)]
    over = [found.is_over(each, now) for each in innocents]
    assert abs(over.count(True) / len(over) - (1 - (1 - 0.37) ** 4)) < 0.04
    assert LimitSettings.of(CONFIG, KEY, falls_back=True).mode == "dry-run", "so none of them is limited"

    now += found.settings.burst_ns
    assert occupancy.look(now, found.settings)
    assert not occupancy.falls_back
    assert not any(found.is_over(each, now) for each in innocents)


@pytest.mark.parametrize("units", [1, 2, 4], ids=["referrals", "names that do not exist", "large answers"])
def test_who_floods_counts_as_over_the_limit_whatever_its_queries_cost(units: int) -> None:
    """Of a source that asks for what costs more than a unit the cell is seldom within one unit of the limit."""
    flooding, rng = limiter(), random.Random(units)
    sources = [rng.randbytes(4) for _ in range(50)]
    cells = [place for each in sources for place in places_of(hashes_of(each, QUERIES, KEY)[0])]
    occupancy = Occupancy(flooding._cells, lambda population, k: cells)
    now, shares = 1000 * SECOND, []
    for _ in range(400):
        now += SECOND // 200 + rng.randrange(SECOND // 500)
        for each in sources:
            while not flooding.is_over(each, now, units):
                pass
        occupancy.look(now + rng.randrange(SECOND // 500), flooding.settings)
        shares.append(occupancy.share * 8192 / len(cells))
    assert sum(shares) / len(shares) > 0.9


def test_cells_that_nobody_can_have_earned_are_set_back_though_no_query_meets_them(
    everything: Callable[[range, int], list[int]],
) -> None:
    """A worker that was taken over has written them all: limits come back by themselves."""
    cells = cells_in_memory(bytearray(b"\xff" * (8 * CELLS)))
    occupancy = Occupancy(cells, everything)  # type: ignore[arg-type]
    made = LimitSettings.of(CONFIG, KEY)
    now = 1000 * SECOND
    changes = []
    for _ in range(25):
        changes += [occupancy.falls_back] if occupancy.look(now, made) else []
        now += SECOND
    assert changes == [True, False]
    assert max(cells) < now + made.burst_ns


@pytest.mark.parametrize("address", ["198.51.100.77", "2001:db8:1234:5678::1"])
def test_two_addresses_share_the_hashes_of_just_those_prefixes_that_they_share(address: str) -> None:
    own = int(ipaddress.ip_address(address))
    octets = len(packed(address))
    hashes = hashes_of(packed(address), QUERIES, KEY)
    assert len(set(hashes)) == 4
    for bit in range(8 * octets):
        other = hashes_of((own ^ 1 << bit).to_bytes(octets, "big"), QUERIES, KEY)
        shared = [mine == theirs for mine, theirs in zip(hashes, other, strict=True)]
        assert shared == [8 * octets - bit > size for size in LEVELS[octets]]
    assert hashes_of(packed(address), QUERIES, KEY[::-1]) != hashes


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_batch_of_sources_has_the_cells_that_each_has_alone(data: st.DataObject) -> None:
    address = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
    family = data.draw(
        st.sampled_from([st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16), address])
    )
    sources = data.draw(st.lists(family, max_size=150))
    sources += sources[:3]
    kind = data.draw(st.sampled_from([QUERIES, CONNECTIONS, HANDSHAKES]))
    key = data.draw(st.binary(min_size=16, max_size=16))

    found = list(places_of_sources(sources, kind, key))

    assert dict(found) == {each[:8]: places_of_source(each, kind, key) for each in sources}
    assert len(found) == len({each[:8] for each in sources})
    for each, places in found:
        assert places == tuple(place for hashed in hashes_of(each, kind, key) for place in places_of(hashed))


def test_who_is_expected_is_judged_as_who_is_not() -> None:
    """Of 20,000 sources in batches, some of which come again: more than are remembered."""
    rng = random.Random(18)
    alone, together = limiter(), limiter()
    often = [rng.randbytes(4) for _ in range(10)]
    now, over = 1000 * SECOND, 0
    for _ in range(400):
        now += rng.randrange(SECOND // 50)
        batch = [rng.choice(often) if rng.random() < 0.4 else rng.randbytes(4) for _ in range(rng.randrange(1, 80))]
        together.expect(batch)
        for each in batch:
            units = rng.choice([1, 2, 4])
            found = alone.is_over(each, now, units)
            assert together.is_over(each, now, units) is found
            over += found
    assert over > 1000
    assert alone._cells == together._cells


def test_cells_of_neighbours_are_as_far_apart_as_those_of_strangers() -> None:
    """Each level follows from the one around it: 65,536 addresses of one /16, and as many /64 of one /48."""
    for sources in (
        [b"\xc6\x33" + number.to_bytes(2, "big") for number in range(65_536)],
        [packed("2001:db8:7::")[:6] + number.to_bytes(2, "big") + bytes(8) for number in range(65_536)],
    ):
        for row in (0, 1):
            places = {places_of(hashes_of(each, QUERIES, KEY)[0])[row] for each in sources}
            # Of n thrown into m cells at random n²/2m are expected to fall into one that is taken: 2,048; σ is 45.
            assert abs(65_536 - len(places) - 2_006) < 250
        assert len({hashes_of(each, QUERIES, KEY)[0] for each in sources}) == 65_536
