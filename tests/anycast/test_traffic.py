"""When a drain may end."""

from rootsrv.anycast.traffic import Traffic


def draining(rates: list[int]) -> list[bool]:
    """One second of each rate; 100 a second before; what `has_fallen` says after each."""
    traffic, now, replies = Traffic(), 1000.0, 0
    for _ in range(12):
        now, replies = now + 1, replies + 100
        traffic.sample(now, replies)
    traffic.begin_drain(now)
    said = []
    for rate in rates:
        now, replies = now + 1, replies + rate
        traffic.sample(now, replies)
        said.append(traffic.has_fallen(now, fraction=0.05, patience_seconds=60))
    return said


def test_waits_until_the_rate_is_down_to_the_fraction() -> None:
    assert draining([100, 60, 30, 8, 5, 4, 3]) == [False, False, False, False, False, True, True]


def test_does_not_end_before_neighbours_had_time_to_follow() -> None:
    assert draining([0, 0, 0, 0]) == [False, False, False, True]


def test_ends_when_patience_does() -> None:
    assert draining([100] * 61).index(True) == 59


def test_a_site_without_traffic_drains_at_once_when_settled() -> None:
    traffic = Traffic()
    traffic.sample(0.0, 0)
    traffic.begin_drain(0.0)
    for now in (1.0, 2.0, 3.0, 4.0):
        traffic.sample(now, 0)

    assert traffic.has_fallen(4.0, 0.05, 60)
    assert not Traffic().has_fallen(4.0, 0.05, 60)
